"""Runs ``flip-fl`` as a person would: a process of its own, a clean environment, a folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import typer

from flip_fl.cli import build
from tests.support import forked_cli, warm

SCRIPT = Path(sys.executable).with_name("flip-fl")


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str

    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document = json.loads(self.stdout)
        assert isinstance(document, dict)
        return document


def environment(**extra: str) -> dict[str, str]:
    """An environment without any setting of FLIP, plus ``extra``."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, **extra}


def flip_fl(*words: str, cwd: Path, env: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> Finished:
    """Run ``flip-fl`` with ``words`` in ``cwd``, without a terminal and with closed stdin.

    It is a process of its own with just this environment, forked where everything is loaded already: a command needs
    a second for its imports and hundredths for its work. ``installed`` begins at the shell.
    """
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        contextlib.closing(
            warm.server.fork(
                forked_cli.__name__,
                [0, 1, *words],
                env=environment(**(env or {})),
                cwd=cwd,
                descriptors=[out.fileno(), err.fileno()],
            )
        ) as child,
    ):
        if not child.wait(timeout_s):
            raise subprocess.TimeoutExpired(words, timeout_s)
        assert child.started, child.problem
        out.seek(0)
        err.seek(0)
        return Finished(child.returncode, out.read().decode(), err.read().decode())


def installed(*words: str, cwd: Path, env: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> Finished:
    """The same by the installed script, in an interpreter that has loaded nothing: as a person runs it."""
    done = subprocess.run(
        [str(SCRIPT), *words],
        cwd=cwd,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and group with its whole name, ``flip-fl`` itself first."""
    yield from _below("flip-fl", typer.main.get_command(build()))


def _below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from _below(f"{path} {name}", sub)


@dataclass(frozen=True)
class ServedHub:
    """A hub that ``flip-fl hub serve`` serves: its folder's parent, its address, its key and a viewer's token."""

    root: Path
    port: int
    key: str
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def server_env(self, **changes: str) -> dict[str, str]:
        """The settings of an FL server that uses this hub, with ``changes``."""
        settings = {
            "LOCAL_DEV": "false",
            "FLIP_ROLE": "server",
            "FLIP_API_INTERNAL_URL": self.url,
            "INTERNAL_SERVICE_KEY": self.key,
            "FLIP_HUB_TOKEN": self.token,
            "UPLOADED_FEDERATED_DATA_BUCKET": "s3://results",
        }
        return settings | changes


@contextmanager
def served_hub(root: Path) -> Iterator[ServedHub]:
    """A hub in ``root/hub`` with two slots, served by the command line until the context ends."""
    made = flip_fl("hub", "init", "--slots", "2", "--json", cwd=root).document()
    reader = flip_fl("hub", "token", "add", "a reader", "--json", cwd=root).document()
    child = subprocess.Popen(
        [str(SCRIPT), "hub", "serve", "--port", "0"],
        cwd=root,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr is not None
        told = child.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/api$", told)
        assert found, told
        yield ServedHub(root, int(found.group(1)), made["data"]["service_key"], reader["data"]["token"])
    finally:
        child.terminate()
        _, rest = child.communicate(timeout=120)
    assert child.returncode == 0, rest
