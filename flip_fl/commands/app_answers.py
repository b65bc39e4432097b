"""What ``flip-fl check`` and ``flip-fl new`` answer under ``--json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal


@dataclass(frozen=True)
class AppRuns:
    """Whether an app runs on an engine, and as what; else why not. ``installed``: the engine is, here."""

    engine: str
    runs: bool
    how: str
    installed: bool


@dataclass(frozen=True)
class AppFinding:
    """What stops an app (``fail``, with the code of its error) or should be known (``warn``)."""

    state: Literal["warn", "fail"]
    what: str
    code: str | None = None
    where: str | None = None
    why: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class AppChange:
    """A line of an executor-style app, and what stands in its place in a neutral one."""

    file: str
    line: int
    old: str
    new: str


@dataclass(frozen=True)
class AppLeaves:
    """What leaves a trust when the app runs, in words.

    ``declared`` are the only names that metrics may have; null: any plain name. ``named`` are those that the source
    names, ``computed`` says that there may be more. ``arrays`` and ``size_bytes`` are of the model's travelling part;
    null where it was not built, or where none travels back.
    """

    weights: str
    metrics: str
    failures: str
    files: str
    declared: list[str] | None
    named: list[str]
    computed: bool
    arrays: int | None
    size_bytes: int | None


@dataclass(frozen=True)
class CheckAnswer:
    """``flip-fl check``. ``files`` are those of the app that travel to the sites."""

    SCHEMA: ClassVar[str] = "flip-fl.check/1"
    app: Path
    form: str
    evidence: str
    job_type: str | None
    runs: list[AppRuns]
    leaves: AppLeaves
    files: list[str]
    findings: list[AppFinding]
    changes: list[AppChange]


@dataclass(frozen=True)
class AppMade:
    """``flip-fl new``. ``files`` are relative to ``app``; ``run`` is the command that runs it."""

    SCHEMA: ClassVar[str] = "flip-fl.new/1"
    app: Path
    job_type: str
    imaging: bool
    files: list[str]
    run: str
