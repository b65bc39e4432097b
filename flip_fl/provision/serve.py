"""What a Flower kit's start.sh runs: the server's SuperLink behind its gate, or a site's SuperNode, until stopped.

``python -m flip_fl.provision.serve KIT [--stop | --status]``. Everything it writes is in the kit's ``state/``.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.provision.extras import LOCAL
from flip_fl.provision.kit import NODES, Kit, KitRole, load_certificate, read_kit
from flip_fl.provision.nodes import NODES_FILE, Nodes
from flip_fl.provision.site_policy import policy_of
from flip_fl.simulate.flower_keys import TlsFiles
from flip_fl.simulate.flower_link import HOST, Home, SuperLink, program, start_listening, start_superlink
from flip_fl.simulate.processes import Child

STATE = "state"
LOCK = "serve.lock"
SETTINGS = "FLIP_SETTINGS_DIR"
EVERY_S = 3.0
STOP_TIMEOUT_S = 40.0
STOPPED, RUNNING_ALREADY = 0, 1


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0 when it was stopped, 1 when a part of it ended by itself or it could not start."""
    parser = argparse.ArgumentParser(prog="flip_fl.provision.serve")
    parser.add_argument("kit", type=Path)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--stop", action="store_true")
    what.add_argument("--status", action="store_true")
    chosen = parser.parse_args(words)
    try:
        kit = read_kit(chosen.kit.resolve())
        if kit.record is None or kit.record.engine != "flower":
            raise FlipError(
                "E0610", path=chosen.kit, problem="it is a kit for NVFLARE", suggestion="run its startup/start.sh"
            )
        if chosen.stop:
            return _stop(kit)
        if chosen.status:
            return _status(kit)
        if kit.role is KitRole.SITE:
            policy_of(kit)
        with _alone(kit):
            return _serve(kit)
    except FlipError as error:
        _tell(error.text())
        return 1


def _serve(kit: Kit) -> int:
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    settings = {SETTINGS: str(kit.folder / LOCAL), "FLIP_STATE_DIR": str(kit.folder / STATE)}
    home = Home.make(kit.folder / STATE / "flwr", **settings)
    with contextlib.ExitStack() as parts:
        parts.callback(home.end_all)
        child = _superlink(kit, home, parts, over) if kit.role is KitRole.SERVER else _supernode(kit, home)
        parts.callback(child.stop)
        while not over.wait(0.2):
            if not child.running:
                _tell(f"{child.name} has ended; see {child.log}")
                return 1
    return STOPPED


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
    nodes = Nodes(kit.folder / NODES, load_certificate(startup / kit.root_file.name), state, _tell)
    registry = _Flwr(home)
    nodes.agree(registry)
    parts.enter_context(_gate(kit, link))

    def keep() -> None:
        while not over.wait(EVERY_S):
            try:
                nodes.agree(registry)
            except FlipError as error:
                _tell(f"nodes: {error.what}")

    threading.Thread(target=keep, name="nodes", daemon=True).start()
    _tell(f"the SuperLink answers sites at port {kit.record.port}")
    return link.child


def _supernode(kit: Kit, home: Home) -> Child:
    assert kit.record is not None

    def command(port: int) -> list[str]:
        words = [program("flower-supernode"), "--superlink", f"{kit.host}:{kit.record.port if kit.record else 0}"]
        words += ["--root-certificates", str(kit.root_file), "--auth-supernode-private-key", str(kit.key_file)]
        return [*words, "--host", HOST, "--port", str(port), "--node-config", f'slot="{kit.name}"']

    child, _ = start_listening(
        "the SuperNode", command, kit.folder / STATE / "supernode.log", home=home, cwd=kit.folder
    )
    _tell(f"the SuperNode of {kit.name} connects to {kit.host}:{kit.record.port}")
    return child


@contextlib.contextmanager
def _gate(kit: Kit, link: SuperLink) -> Iterator[None]:
    import uvicorn

    from flip_fl.provision.gate import create_gate

    assert kit.record is not None
    config = uvicorn.Config(
        create_gate(f"https://{HOST}:{link.port}", kit.root_file),
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


@contextlib.contextmanager
def _alone(kit: Kit) -> Iterator[None]:
    """This kit's lock, with this process's id in it. Raises ``FlipError`` E0615 when somebody has it."""
    state = kit.folder / STATE
    state.mkdir(mode=0o700, exist_ok=True)
    with (state / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FlipError("E0615", kit=kit.name, folder=kit.folder) from None
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "since": time.time()}, file)
        file.flush()
        yield


def _running(kit: Kit) -> int | None:
    """The process that runs this kit; None when none does."""
    try:
        with (kit.folder / STATE / LOCK).open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(json.load(file)["pid"])
    except (FileNotFoundError, ValueError):
        pass
    return None


def _status(kit: Kit) -> int:
    pid = _running(kit)
    _tell(f"{kit.name} runs (process {pid})" if pid is not None else f"{kit.name} does not run")
    return 1 if pid is None else 0


def _stop(kit: Kit) -> int:
    pid = _running(kit)
    if pid is None:
        _tell(f"{kit.name} does not run")
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _running(kit) is not None:
        if time.monotonic() > deadline:
            _tell(f"{kit.name} still runs (process {pid}) {STOP_TIMEOUT_S:.0f} s after it was told to stop")
            return 1
        time.sleep(0.1)
    _tell(f"{kit.name} is stopped")
    return 0


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
