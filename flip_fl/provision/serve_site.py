"""A site's part of a Flower federation: its SuperNode, started again where that helps, and why it does not get in."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.provision.clock import difference
from flip_fl.provision.connection import SuperNodeLog, followed
from flip_fl.provision.gate import HEALTH
from flip_fl.provision.kit import Kit
from flip_fl.provision.kit_process import STATE, STOPPED, tell, while_running
from flip_fl.provision.verify import FLOWER_AHEAD_S, FLOWER_BEHIND_S
from flip_fl.simulate.flower_link import HOST, Home, program, start_listening
from flip_fl.simulate.processes import Child

SUPERNODE_LOG = "supernode.log"
# What Flower's error says of a key that another node is connected with, and of one that it does not know.
NOT_ACTIVATED = b"[code: 2004]"
# A SuperLink counts a node out 60 s after its last heartbeat.
IN_USE_S = 90.0
EVERY_S = 3.0
ASK_S = 10.0


def run_site(kit: Kit, home: Home, over: threading.Event) -> int:
    """Run the SuperNode. Raises ``FlipError`` E0619 while another one has the slot.

    The one that the SuperLink holds to be there may be this site's own that was killed: it is known to be gone when it
    has missed its heartbeats, and until then this one is started again and again.
    """
    log = kit.folder / STATE / SUPERNODE_LOG
    with followed(kit, log, SuperNodeLog(time.time())):
        return _run(kit, home, over, log)


def _run(kit: Kit, home: Home, over: threading.Event, log: Path) -> int:
    since = None
    while True:
        begun = log.stat().st_size if log.exists() else 0
        try:
            code = while_running(_supernode(kit, home), over)
        except FlipError:
            _check_clock(kit)
            if not _in_use(log, begun):
                raise
            code = 1
        if code == STOPPED:
            return code
        _check_clock(kit)
        if not _in_use(log, begun):
            return code
        if since is None:
            since = time.monotonic()
            tell(f"the SuperLink holds {kit.name} to be connected already; it is tried for {IN_USE_S:.0f} s")
        elif time.monotonic() - since > IN_USE_S:
            raise FlipError("E0619", slot=kit.name, host=kit.host, folder=kit.folder)
        if over.wait(EVERY_S):
            return STOPPED


def _in_use(log: Path, begun: int) -> bool:
    """Whether what the SuperNode has written since ``begun`` is that its key could not be activated."""
    return NOT_ACTIVATED in _written(log, begun)


def _check_clock(kit: Kit) -> None:
    """Raises ``FlipError`` E0614 where a SuperLink refuses whatever is said by this clock.

    The SuperNode ends then without a word of the reason (1.41).
    """
    ahead_s = _ahead(kit)
    if ahead_s is not None and (ahead_s > FLOWER_AHEAD_S or ahead_s < -FLOWER_BEHIND_S):
        raise FlipError("E0614", difference=difference(ahead_s), reference=f"the server at {kit.host}")


def _ahead(kit: Kit) -> float | None:
    """How far this clock is ahead of the server's; None when it does not say."""
    port = kit.record.port if kit.record is not None else 0
    trusted = ssl.create_default_context(cafile=str(kit.root_file))
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection = http.client.HTTPSConnection(str(kit.host), port, timeout=ASK_S, context=trusted)
        try:
            connection.request("GET", HEALTH)
            date = connection.getresponse().headers.get("Date", "")
            return time.time() - parsedate_to_datetime(date).timestamp()
        finally:
            connection.close()
    return None


def _written(log: Path, begun: int) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(begun)
            return file.read()
    except FileNotFoundError:
        return b""


def _supernode(kit: Kit, home: Home) -> Child:
    assert kit.record is not None

    def command(port: int) -> list[str]:
        words = [program("flower-supernode"), "--superlink", f"{kit.host}:{kit.record.port if kit.record else 0}"]
        words += ["--root-certificates", str(kit.root_file), "--auth-supernode-private-key", str(kit.key_file)]
        return [*words, "--host", HOST, "--port", str(port), "--node-config", f'slot="{kit.name}"']

    child, _ = start_listening("the SuperNode", command, kit.folder / STATE / SUPERNODE_LOG, home=home, cwd=kit.folder)
    tell(f"the SuperNode of {kit.name} connects to {kit.host}:{kit.record.port}")
    return child
