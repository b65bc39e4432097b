"""What an app that asks for secure aggregation cannot have beside it, and on which engine it can have it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from flip_fl.app.config import AppConfig
from flip_fl.app.forms import Form, FormKind
from flip_fl.errors import FlipError
from flip_fl.values import JobType

KEY = "SECURE_AGGREGATION"
RANGE_KEY = "SECURE_AGGREGATION_RANGE"
ENGINE = "flower"
# Of two sites each would learn the other's update: the mean less its own.
MIN_SITES = 3
JOB_TYPES = (JobType.STANDARD, JobType.FED_OPT)
_LEAVE_OUT = {
    "AGGREGATION_WEIGHTS": "a site masks its update with the weight in it, and that is its num_examples",
    "CROSS_SITE_VALIDATION": "every site would score every single site's model, which nobody has",
}


def threshold(sites: int) -> int:
    """How many of ``sites`` must be there to the end of a round: more than half of them, and three at least."""
    return max(MIN_SITES, sites // 2 + 1)


def engine_problem(config: AppConfig, engine: str) -> FlipError | None:
    """E0221 where the app asks for secure aggregation on an engine that has none for it."""
    if not config.secure_aggregation or engine == ENGINE:
        return None
    return FlipError("E0221", where=config.place(KEY), engine=engine, other=ENGINE)


def check_engine(config: AppConfig, engine: str) -> None:
    """Raises ``FlipError`` E0221 for an app that asks for secure aggregation on an engine that has none for it."""
    problem = engine_problem(config, engine)
    if problem is not None:
        raise problem


def secure_problems(form: Form, config: AppConfig) -> Iterator[FlipError]:
    """E0303 for what secure aggregation cannot work with."""
    if not config.secure_aggregation:
        if RANGE_KEY in config.raw:
            why = f"without {KEY} nothing has a range"
            yield _refused(config, RANGE_KEY, why, "absent", f"add {KEY}: true, or leave {RANGE_KEY} out")
        return
    if form.kind is not FormKind.NEUTRAL:
        why = f"{form.evidence}: secure aggregation is for neutral apps, whose update flip_fl itself masks and averages"
        yield _refused(config, KEY, why, "absent for this app", f"leave {KEY} out")
    if config.job_type not in JOB_TYPES:
        known = ", ".join(job.value for job in JOB_TYPES)
        why = f"a job of type {config.job_type.value} cannot have it"
        yield _refused(config, KEY, why, f"absent, or in a job of type {known}", f"leave {KEY} out")
    for key, why in _LEAVE_OUT.items():
        if config.raw.get(key):
            yield _refused(config, key, why, f"absent where {KEY} is true", f"leave {key} or {KEY} out")
    if config.min_clients is not None and config.min_clients < MIN_SITES:
        why = f"the mean of fewer than {MIN_SITES} sites tells each of them the others' part"
        expected = f"at least {MIN_SITES} where {KEY} is true"
        yield _refused(config, "MIN_CLIENTS", why, expected, f"set {MIN_SITES}, or leave {KEY} out")


def secure_site_problems(config: AppConfig, slots: Sequence[str]) -> Iterator[FlipError]:
    """E0515 for a run at too few sites."""
    if config.secure_aggregation and len(slots) < MIN_SITES:
        yield FlipError("E0515", where=config.place(KEY), chosen=len(slots), slots=", ".join(slots), least=MIN_SITES)


def _refused(config: AppConfig, key: str, why: str, expected: str, fix: str) -> FlipError:
    value = json.dumps(config.raw[key])
    return FlipError("E0303", where=config.place(key), why=why, key=key, value=value, expected=expected, fix=fix)
