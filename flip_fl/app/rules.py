"""What each platform key of ``config.json`` may be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flip_fl.aggregate.optimizers import read_optimizer
from flip_fl.app.spelling import nearest
from flip_fl.privacy.egress import sane_name
from flip_fl.values import JobType

MAX_ROUNDS = 1000
MAX_SITES = 10_000
MAX_SEED = 2**32 - 1
MAX_QUERY_CHARS = 10_240
AGGREGATORS = ("InTimeAccumulateWeightedAggregator", "AccumulateWeightedAggregator")
# Part of metrics' names, of a file's keys and of what the hub shows.
_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]{0,31}")
_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,254}")


@dataclass(frozen=True)
class Bad:
    """Why a value is refused: what is expected instead, how to mend it, and where below the key it stands."""

    expected: str
    fix: str
    path: tuple[str, ...] = ()


Rule = Callable[[Any], Bad | None]


def whole(low: int, high: int) -> Rule:
    """A whole number from ``low`` to ``high``; neither true, nor "10", nor 10.0."""

    def check(value: Any) -> Bad | None:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return None
        return Bad(f"a whole number from {low} to {high}", f"set {low}..{high}, without quotes")

    return check


def number(low: float, high: float = math.inf, *, above: bool = False) -> Rule:
    """A finite number from ``low`` (``above``: more than it) to ``high``."""
    words = f"{'more than' if above else 'at least'} {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
    if above and not math.isinf(high):
        words = f"more than {low:g} and at most {high:g}"

    def check(value: Any) -> Bad | None:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            enough = value > low if above else value >= low
            if enough and value <= high:
                return None
        return Bad(f"a number {words}", f"set a number {words}, without quotes")

    return check


def flag(value: Any) -> Bad | None:
    return None if isinstance(value, bool) else Bad("true or false", "write true or false, without quotes")


def text(value: Any) -> Bad | None:
    good = isinstance(value, str) and value.strip() != ""
    return None if good else Bad("a text that is not empty", "write it in quotes, or leave the key out")


def one_of(*known: str) -> Rule:
    def check(value: Any) -> Bad | None:
        if value in known:
            return None
        near = nearest(value, known) if isinstance(value, str) else []
        fix = f'did you mean "{near[0]}"?' if near else f'set "{known[0]}"'
        return Bad(f"one of {', '.join(known)}", fix)

    return check


def job_type(value: Any) -> Bad | None:
    try:
        JobType(value)
    except ValueError:
        return one_of(*(job.value for job in JobType))(value)
    return None


def pattern(value: Any) -> Bad | None:
    if isinstance(value, str) and value:
        try:
            re.compile(value)
        except re.error as error:
            return Bad("a regular expression", f"mend it: {error.msg} at position {error.pos}")
        return None
    return Bad("a regular expression in quotes", "write the parameters' names as a regular expression in quotes")


def plain_file(value: Any) -> Bad | None:
    """A file's name without a folder: nothing here may lead to another project's checkpoint."""
    if isinstance(value, str) and _PLAIN_FILE.fullmatch(value) and ".." not in value:
        return None
    return Bad("a plain file name without folders", "write the name alone, such as model.pt")


def weights(value: Any) -> Bad | None:
    if not isinstance(value, dict):
        return Bad("an object of slots and numbers", 'write {"Trust_1": 1.0, "Trust_2": 0.5}')
    for slot, weight in value.items():
        bad = number(0)(weight)
        if bad:
            return Bad(bad.expected, bad.fix, (slot,))
    if value and sum(value.values()) <= 0:
        return Bad("weights of which at least one is more than 0", "give at least one slot a weight")
    return None


def models(value: Any) -> Bad | None:
    if not isinstance(value, dict):
        return Bad("an object of named models", 'write {"baseline": {"checkpoint": "baseline.pt"}}')
    for name, entry in value.items():
        if not _MODEL_NAME.fullmatch(name) or not sane_name(name):
            return Bad(
                "called by a short plain name (a letter, then letters, digits and _.+-)", "rename the model", (name,)
            )
        if not isinstance(entry, dict) or "checkpoint" not in entry:
            expected = "an object with checkpoint, and path where one is needed"
            return Bad(expected, '{"checkpoint": "baseline.pt"}', (name,))
        bad = plain_file(entry["checkpoint"])
        if bad:
            return Bad(bad.expected, bad.fix, (name, "checkpoint"))
        if "path" in entry:
            bad = text(entry["path"])
            if bad:
                return Bad(bad.expected, bad.fix, (name, "path"))
    return None


def optimizer(value: Any) -> Bad | None:
    if not isinstance(value, str | dict) or not value:
        return Bad("an optimiser's name, or an object with its name and numbers", 'write "adam"')
    try:
        read_optimizer(value)
    except ValueError as error:
        return Bad(f"a server optimiser ({error})", 'write "adam", or {"name": "sgd", "lr": 1.0, "momentum": 0.9}')
    return None


def names(value: Any) -> Bad | None:
    good = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
    return None if good else Bad("a list of metrics' names", 'write ["loss", "auc"]')


def model_id(value: Any) -> Bad | None:
    try:
        UUID(value)
    except (ValueError, TypeError, AttributeError):
        return Bad("a UUID", "write the model's id as the hub shows it, or leave the key out")
    return None


def query(value: Any) -> Bad | None:
    if isinstance(value, str) and len(value) <= MAX_QUERY_CHARS:
        return None
    return Bad(f"a text of at most {MAX_QUERY_CHARS} characters", "shorten it")


_rounds = whole(1, MAX_ROUNDS)

PLATFORM_KEYS: Mapping[str, Rule] = {
    "job_type": job_type,
    "GLOBAL_ROUNDS": _rounds,
    "LOCAL_ROUNDS": _rounds,
    "GLOBAL_ROUNDS_AE": _rounds,
    "GLOBAL_ROUNDS_DM": _rounds,
    "LOCAL_ROUNDS_AE": _rounds,
    "LOCAL_ROUNDS_DM": _rounds,
    "LEARNING_RATE": number(0, above=True),
    "IGNORE_RESULT_ERROR": flag,
    "AGGREGATOR": one_of(*AGGREGATORS),
    "AGGREGATION_WEIGHTS": weights,
    "AGGREGATE_ONLY_REGEX": pattern,
    "BEST_MODEL_METRIC": text,
    "BEST_MODEL_METRIC_MINIMIZE": flag,
    "SERVER_CHECKPOINT": plain_file,
    "models": models,
    "MIN_CLIENTS": whole(1, MAX_SITES),
    "MAX_SKIPPED": number(0, 1),
    "FEDPROX_MU": number(0),
    "FEDBN": flag,
    "PARAMS_TYPE": one_of("FULL", "DIFF"),
    "CROSS_SITE_VALIDATION": flag,
    "SECURE_AGGREGATION": flag,
    "SECURE_AGGREGATION_RANGE": number(0, 1e12, above=True),
    "SERVER_OPTIMIZER": optimizer,
    "SEED": whole(0, MAX_SEED),
    "IMAGING": flag,
    "QUERY": query,
    "METRICS": names,
    "FLIP_MODEL_ID": model_id,
}
