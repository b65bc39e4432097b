"""A SuperLink on this machine as our own child, and Flower's own commands against it; nothing needs a network."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError
from flip_fl.jobs.flower import CONNECTION as CONNECTION
from flip_fl.simulate.flower_keys import TlsFiles
from flip_fl.simulate.processes import Child, descendants, free_ports, kill_all, start, wait_until

HOST = "127.0.0.1"
OFFLINE: Mapping[str, str] = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
}
START_TIMEOUT_S = 90.0
COMMAND_TIMEOUT_S = 60.0
ATTEMPTS = 3


@dataclass(frozen=True)
class Home:
    """A FLWR_HOME of one's own: what Flower's programs read and write, and the environment that points them to it."""

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def make(cls, folder: Path, **added: str) -> Home:
        """Make ``folder``; ``added`` joins the environment of everything that is started with it."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Settings of somebody's own Flower or Ray would lead elsewhere, to a running cluster for example.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "RAY_"))}
        # Flower's programs start one another by name.
        path = os.pathsep.join([str(Path(sys.executable).parent), clean.get("PATH", os.defpath)])
        own = {"FLWR_HOME": str(folder), "PATH": path, "PYTHONUNBUFFERED": "1"}
        return cls(folder, scrubbed(clean, **{**OFFLINE, **own, **added}))

    def within(self, name: str, **added: str) -> Home:
        """A home inside this one, for a program that must not share what it unpacks; this one's ``end_all`` ends it."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Home(folder, {**self.environment, **added, "FLWR_HOME": str(folder)})

    def connect(self, port: int, tls: TlsFiles | None) -> None:
        """Make the SuperLink at ``port`` the one that Flower's commands speak to."""
        trust = f"root-certificates = {json.dumps(str(tls.ca))}" if tls else "insecure = true"
        lines = ["[superlink]", f'default = "{CONNECTION}"', "", f"[superlink.{CONNECTION}]"]
        lines += [f'address = "{HOST}:{port}"', trust, ""]
        (self.folder / "config.toml").write_text("\n".join(lines), encoding="utf-8")

    def flwr(self, *words: str) -> dict[str, object]:
        """Run a ``flwr`` command that speaks JSON. Raises ``FlipError`` E0506 when it fails or gives no answer."""
        command = [program("flwr"), *words, "--format", "json"]
        try:
            done = subprocess.run(
                command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
            answer = json.loads(done.stdout[done.stdout.index("{") :])
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise self._failed(words, type(error).__name__) from None
        if done.returncode != 0 or not isinstance(answer, dict) or answer.get("success") is False:
            told = answer.get("error-message") if isinstance(answer, dict) else None
            raise self._failed(words, str(told or f"exit code {done.returncode}"))
        return answer

    def processes(self) -> list[psutil.Process]:
        """Every process that was started with this home or one within, also one that has left its parent."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                home = process.environ().get("FLWR_HOME")
                if home and process.pid != os.getpid() and Path(home).is_relative_to(self.folder):
                    found.append(process)
        return found

    def end_all(self) -> None:
        """Kill what was started with this home and is still there; daemons leave their parents."""
        kill_all(self.processes())

    def end_left_behind(self) -> None:
        """Kill Flower's programs that were started with this home, by somebody who was killed, and what they started.

        Not all of ``processes``: a person's own editor may have this home in its environment, too.
        """
        roots = [each for each in self.processes() if _is_flowers(each)]
        kill_all([*roots, *(child for root in roots for child in descendants(root.pid))])

    def _failed(self, words: Sequence[str], reason: str) -> FlipError:
        return FlipError("E0506", problem=f"flwr {words[0]} failed", reason=reason, log=self.folder)


@dataclass(frozen=True)
class SuperLink:
    """A SuperLink that answers on 127.0.0.1."""

    child: Child
    port: int


def start_superlink(home: Home, log: Path, options: Sequence[str], *, tls: TlsFiles | None, cwd: Path) -> SuperLink:
    """Start a SuperLink on a free port and make it the one of ``home``; ``cwd`` is where its ServerApps run.

    Raises ``FlipError`` E0506 when it does not start.
    """
    secured = ["--insecure"]
    if tls is not None:
        secured = ["--ssl-ca-certfile", str(tls.ca), "--ssl-certfile", str(tls.certificate)]
        secured += ["--ssl-keyfile", str(tls.key)]

    def command(port: int) -> list[str]:
        listening = ["--host", HOST, "--port", str(port), "--disable-runtime-dependency-installation"]
        return [program("flower-superlink"), *secured, *listening, *options]

    child, port = start_listening("the SuperLink", command, log, home=home, cwd=cwd)
    home.connect(port, tls)
    return SuperLink(child, port)


def start_listening(
    name: str, command: Callable[[int], Sequence[str]], log: Path, *, home: Home, cwd: Path
) -> tuple[Child, int]:
    """Start ``command(port)`` with a free port and wait until it listens there; another port when that was taken.

    Raises ``FlipError`` E0506 when it does not start.
    """
    for attempt in range(ATTEMPTS):
        (port,) = free_ports(1)
        child = start(name, command(port), log, cwd=cwd, env=home.environment)
        try:
            wait_until(child, partial(listens, port), START_TIMEOUT_S)
        except FlipError:
            child.stop()
            if attempt + 1 == ATTEMPTS:
                raise
        except BaseException:
            child.stop()
            raise
        else:
            return child, port
    raise AssertionError("unreachable: the last attempt returns or raises")


def listens(port: int) -> bool:
    """Whether somebody listens at ``port`` of 127.0.0.1."""
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((HOST, port)) == 0


def _is_flowers(process: psutil.Process) -> bool:
    """Whether it is one of Flower's long-lived programs: a script that Python runs."""
    with contextlib.suppress(psutil.Error):
        return any(Path(word).name.startswith(("flower-", "flwr-")) for word in process.cmdline()[:3])
    return False


def program(name: str) -> str:
    """The path of one of Flower's programs, beside this Python."""
    return str(Path(sys.executable).parent / name)
