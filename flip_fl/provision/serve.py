"""What a kit's start.sh runs until it is stopped, on either engine.

``python -m flip_fl.provision.serve KIT [--background | --stop | --status]``. Flower: the server's SuperLink behind its
gate, or a site's SuperNode; everything that they write is in the kit's ``state/``. NVFLARE: see ``serve_nvflare``.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl.errors import FlipError
from flip_fl.jobs.lost_runs import STARTED_ANEW, STOPPED_IN_RUN, end_lost_runs
from flip_fl.provision.connection import connection_words
from flip_fl.provision.extras import LOCAL
from flip_fl.provision.kit import NODES, Kit, KitRole, load_certificate, read_kit
from flip_fl.provision.kit_process import STATE, alone, start_behind, status, stop, tell, while_running
from flip_fl.provision.local_settings import check_settings
from flip_fl.provision.nodes import NODES_FILE, Nodes, slots_by_key
from flip_fl.provision.serve_nvflare import LOG, run_nvflare
from flip_fl.provision.serve_site import SUPERNODE_LOG, run_site
from flip_fl.provision.site_policy import policy_of
from flip_fl.provision.verify import check_begun
from flip_fl.reporting.session import OUTBOX_FOLDER
from flip_fl.reporting.site_news import SiteNews
from flip_fl.settings import ServerSettings, load_server
from flip_fl.simulate.flower_keys import TlsFiles
from flip_fl.simulate.flower_link import HOST, Home, SuperLink, start_superlink
from flip_fl.simulate.processes import Child

if TYPE_CHECKING:
    from flip_fl.provision.gate_watch import GateWatch

SETTINGS = "FLIP_SETTINGS_DIR"
EVERY_S = 3.0


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0 when it was stopped, 1 when a part of it ended by itself, else that of what refused the start.

    2 is for what must be mended in the kit first (its settings, its policy): a service is not started again then.
    """
    parser = argparse.ArgumentParser(prog="flip_fl.provision.serve")
    parser.add_argument("kit", type=Path)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--stop", action="store_true")
    what.add_argument("--status", action="store_true")
    what.add_argument("--background", action="store_true")
    chosen = parser.parse_args(words)
    try:
        kit = read_kit(chosen.kit.resolve())
        if kit.record is None:
            raise FlipError("E0610", path=chosen.kit, problem="it has no kit.json", suggestion="give the kit's folder")
        if chosen.stop:
            return stop(kit)
        if chosen.status:
            return status(kit, partial(_connection, kit))
        if kit.role is KitRole.SITE:
            policy_of(kit)
            check_settings(kit)
        check_begun(kit)
        if chosen.background:
            return start_behind(kit)
        with alone(kit):
            return _serve(kit)
    except FlipError as error:
        tell(error.text())
        return int(error.exit_code)


def _connection(kit: Kit) -> str | None:
    """What is known of a site's connection; of a server there is none to tell."""
    if kit.role is not KitRole.SITE or kit.record is None:
        return None
    return connection_words(kit, LOG if kit.record.engine == "nvflare" else f"{STATE}/{SUPERNODE_LOG}")


def _serve(kit: Kit) -> int:
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    if kit.record is not None and kit.record.engine == "nvflare":
        return run_nvflare(kit, over)
    settings = {SETTINGS: str(kit.folder / LOCAL), "FLIP_STATE_DIR": str(kit.folder / STATE)}
    home = Home.make(kit.folder / STATE / "flwr", **settings)
    # What is left of one that was killed has its key and its database.
    home.end_left_behind()
    if kit.role is KitRole.SITE:
        with contextlib.ExitStack() as parts:
            parts.callback(home.end_all)
            return run_site(kit, home, over)
    reports = _server_settings(kit)
    if reports is not None:
        threading.Thread(target=_end_lost, args=(kit, reports, STARTED_ANEW), daemon=True).start()
    try:
        with contextlib.ExitStack() as parts:
            parts.callback(home.end_all)
            return while_running(_superlink(kit, home, parts, over), over)
    finally:
        if reports is not None:
            _end_lost(kit, reports, STOPPED_IN_RUN)


def _superlink(kit: Kit, home: Home, parts: contextlib.ExitStack, over: threading.Event) -> Child:
    assert kit.record is not None
    startup, state = kit.root_file.parent, kit.folder / STATE
    tls = TlsFiles(kit.root_file, kit.certificate_file, kit.key_file)
    database = state / "superlink.db"
    if not database.exists():
        # What an earlier one knew is gone with it.
        (state / NODES_FILE).unlink(missing_ok=True)
    options = ["--enable-supernode-auth", "--database", str(database)]
    link = start_superlink(home, state / "superlink.log", options, tls=tls, cwd=state)
    nodes = Nodes(kit.folder / NODES, load_certificate(startup / kit.root_file.name), state, tell)
    registry = _Flwr(home)
    nodes.agree(registry)
    parts.enter_context(_gate(kit, link, nodes))

    def keep() -> None:
        while not over.wait(EVERY_S):
            try:
                nodes.agree(registry)
            except FlipError as error:
                tell(f"nodes: {error.what}")

    threading.Thread(target=keep, name="nodes", daemon=True).start()
    tell(f"the SuperLink answers sites at port {kit.record.port}")
    return link.child


@contextlib.contextmanager
def _gate(kit: Kit, link: SuperLink, nodes: Nodes) -> Iterator[None]:
    import uvicorn

    from flip_fl.provision.gate import create_gate

    assert kit.record is not None
    config = uvicorn.Config(
        create_gate(f"https://{HOST}:{link.port}", kit.root_file, _watch(kit, nodes)),
        host="0.0.0.0",  # sites are elsewhere
        port=kit.record.port,
        ssl_certfile=str(kit.certificate_file),
        ssl_keyfile=str(kit.key_file),
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="gate", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise FlipError(
                "E0506", problem="the gate cannot listen", reason=f"port {kit.record.port}", log="its output"
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)


def _watch(kit: Kit, nodes: Nodes) -> GateWatch:
    from flip_fl.provision.gate_watch import GateWatch

    state, settings = kit.folder / STATE, _server_settings(kit)
    runs = None if settings is None else (settings.state_dir or state) / OUTBOX_FOLDER
    return GateWatch(lambda: slots_by_key(state), SiteNews(state, runs), lambda: nodes.expired)


def _server_settings(kit: Kit) -> ServerSettings | None:
    """None in development, and for settings with a mistake: each run says what it is."""
    try:
        return load_server(kit.folder / LOCAL / f"{kit.name}.env")
    except FlipError:
        return None


def _end_lost(kit: Kit, settings: ServerSettings, reason: str) -> None:
    """Nothing of an earlier server's, or of this one's when it has stopped, runs any more: nobody is waited for."""
    end_lost_runs(settings.state_dir or kit.folder / STATE, settings, reason, patience_s=0.0, stop=threading.Event())


class _Flwr:
    """The SuperLink's list by Flower's own commands."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def register(self, name: str, public_key: Path) -> str | None:
        try:
            return str(self._home.flwr("supernode", "register", str(public_key), "--name", name)["node-id"])
        except FlipError as error:
            if "already in use" in str(error.facts.get("reason")):
                return None
            raise

    def nodes(self) -> set[str]:
        listed = self._home.flwr("supernode", "list")["nodes"]
        assert isinstance(listed, list)
        return {str(node["node-id"]) for node in listed if node["status"] not in ("unregistered", "deleted")}

    def unregister(self, node_id: str) -> None:
        self._home.flwr("supernode", "unregister", node_id)


if __name__ == "__main__":
    sys.exit(main())
