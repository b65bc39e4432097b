"""Runs the installed ``flip-fl`` as a person would: a process of its own, a clean environment, a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import typer

from flip_fl.cli import build

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
    """Run ``flip-fl`` with ``words`` in ``cwd``, without a terminal and with closed stdin."""
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
