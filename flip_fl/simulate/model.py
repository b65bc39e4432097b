"""What goes into a simulated run, what it tells while it runs, and what comes out: plain facts, no behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from flip_fl.errors import FlipError
from flip_fl.values import ModelStatus

# An engine's ways to run on one machine, the first one first; NVFLARE has its simulator and nothing to choose.
RUNTIMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"nvflare": (), "flower": ("in-process", "ray", "deployment")}
)
ENGINES = tuple(RUNTIMES)
# What a simulated trust may keep its cohort in, the first one by default.
DATABASES = ("sqlite", "postgresql")

if TYPE_CHECKING:
    from flip_fl.dashboard.story import Story
    from flip_fl.simulate.faults import HubFault


def check_names(
    engine: str, runtime: str = "", near: Callable[[str, Sequence[str]], str | None] = lambda _, __: None
) -> None:
    """Raises ``FlipError`` E0510 for a name that is no engine, E0514 for a runtime that the engine has not.

    ``near`` says which of the known names may have been meant (None: it cannot say).
    """
    if engine not in ENGINES:
        suggestion = near(engine, ENGINES) or f"--engine {ENGINES[0]}"
        raise FlipError("E0510", engine=engine, engines=", ".join(ENGINES), suggestion=suggestion)
    known = RUNTIMES[engine]
    if runtime and runtime not in known:
        other = f"--runtime {known[0]}" if known else "leave --runtime out"
        raise FlipError(
            "E0514",
            runtime=runtime,
            engine=engine,
            runtimes=", ".join(known) or "none to choose from",
            suggestion=near(runtime, known) or other,
        )


@dataclass(frozen=True)
class RunOptions:
    """What a person asked for. ``sites`` kit slots exist (``Trust_1`` … ``Trust_<sites>``) and ``slots`` of them take
    part (empty: all); ``rounds`` overrides the app's GLOBAL_ROUNDS; ``data`` and ``images`` are a CSV and a folder;
    ``out`` is the run's folder (None: ``runs/<app>-<time>``); ``runtime`` is one of the engine's (empty: the first);
    ``hub_fault`` is what is wrong with the hub, as the FL server sees it, until the engine has ended. ``production``:
    the sites ask a trust's services, each with its cohort in a ``trust_database``, instead of reading files. ``shares``
    says how the patients are divided (empty: equally), a positive number for each slot that takes part.
    ``site_policy`` is the policy file of every site. ``privacy_curve``: the run again for each of these ε, with updates
    clipped to ``clipping_norm`` (None: as long as they usually are)."""

    app: Path
    engine: str
    sites: int
    slots: tuple[str, ...] = ()
    rounds: int | None = None
    data: Path | None = None
    images: Path | None = None
    out: Path | None = None
    baselines: bool = False
    runtime: str = ""
    hub_fault: HubFault | None = None
    production: bool = False
    trust_database: str = "sqlite"
    shares: tuple[float, ...] = ()
    site_policy: Path | None = None
    privacy_curve: tuple[float, ...] = ()
    clipping_norm: float | None = None


@dataclass(frozen=True)
class Progress:
    """One piece of news. ``stage`` is a short word ("hub", "prepare", "train", "validate", "baselines", "upload", …);
    ``returned`` of ``expected`` sites are in, ``awaited`` names those that are not; ``text`` is for people."""

    stage: str
    round: int | None = None
    total: int | None = None
    returned: int | None = None
    expected: int | None = None
    awaited: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. ``results`` is the bundle's address, None when nothing was stored; ``exit_code`` is what the
    shell sees (0 done, 1 failed, 6 stopped)."""

    status: ModelStatus
    reason: str | None
    exit_code: int
    folder: Path
    report: Path
    results: str | None
    story: Story
