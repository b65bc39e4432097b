"""What may leave a trust as a metric: finite numbers, names of a sane form and length, a bounded count.

The rules stand where items are built, before any copy of them leaves. A refusal says what was refused and why, but
never repeats a text that could be a patient's value.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_LABEL_CHARS = 64
# Axes that METRICS need not declare; any other one as "loss@sample".
USUAL_AXES = frozenset({"round", "global_round", "epoch", "step", "iteration", "batch"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_ .:/%()+-]*")
# Dates, accession and hospital numbers have as many digits, in a row or in groups; a class's or a layer's number fewer.
_MAX_DIGITS_IN_A_ROW = 4
_MAX_DIGITS = 7


# What the house itself reports under, so that no job can forge it.
EPSILON_METRIC = "privacy_epsilon"
HOUSE_NAMES = frozenset({EPSILON_METRIC})


class Rate:
    """At most ``per_minute`` metrics in any 60 s, over all tasks of a job."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._passed: deque[float] = deque(maxlen=per_minute)
        self._clock = clock

    def take(self) -> bool:
        """Whether one more may pass now; it is then counted."""
        now = self._clock()
        if len(self._passed) == self._passed.maxlen and self._passed[0] > now - 60:
            return False
        self._passed.append(now)
        return True


@dataclass(frozen=True)
class EgressPolicy:
    """The limits of one task at one site. ``declared``: the only names allowed (``METRICS``), or None for any.

    ``digits``: how many significant digits of a number leave (None: all). ``rate`` counts over tasks (None: any).
    """

    max_metrics: int = 10_000
    max_names: int = 256
    max_refusals: int = 50
    declared: frozenset[str] | None = None
    digits: int | None = None
    rate: Rate | None = None


@dataclass
class Egress:
    """Judges the metrics of one task (``where`` is, say, ``round 3 (train)``) and counts what it refused."""

    where: str
    policy: EgressPolicy = field(default_factory=EgressPolicy)
    _names: set[str] = field(default_factory=set)
    _passed: int = 0
    _refused: Counter[str] = field(default_factory=Counter)

    def number(self, label: Any, value: Any, x_value: Any = None, x_label: Any = None, *, house: bool = False) -> bool:
        """Whether this metric may leave; False is counted with its reason. Never raises.

        One of the ``house``'s own need not be declared; every other rule is for it, too.
        """
        reason = self._judge(label, value, x_value, x_label, house)
        if reason is not None:
            self.refuse(reason)
            return False
        self._names.add(label)
        self._passed += 1
        return True

    def refuse(self, reason: str) -> None:
        """Count something that may not leave."""
        self._refused[reason] += 1

    def rounded(self, number: float) -> float:
        """``number`` with as many digits as may leave."""
        digits = self.policy.digits
        return number if digits is None else float(f"{number:.{digits - 1}e}")

    def name_problem(self, label: Any, *, house: bool = False) -> str | None:
        """Why nothing may leave under this name; None where something may."""
        if not sane_name(label):
            return f"a metric of {self.where} has a name that may not leave the trust: not stored"
        if house:
            return None
        if label in HOUSE_NAMES:
            return f"a metric of {self.where} has a name that the house reports under: not stored"
        if not self._is_declared(label):
            return f"a metric of {self.where} has a name that METRICS does not declare: not stored"
        return None

    def declares(self, name: str, member: str) -> bool:
        """Whether METRICS, where it bounds names, has ``name@member``."""
        return self.policy.declared is None or f"{name}@{member}" in self.policy.declared

    def refusals(self) -> list[str]:
        """One sentence a kind of refusal, with how often; at most ``max_refusals`` and one that counts the rest."""
        kinds = list(self._refused.items())
        shown, rest = kinds[: self.policy.max_refusals], kinds[self.policy.max_refusals :]
        lines = [reason if count == 1 else f"{reason} ({count} times)" for reason, count in shown]
        if rest:
            lines.append(f"{sum(count for _, count in rest)} more metrics of {self.where} were not stored")
        return lines

    def _judge(self, label: Any, value: Any, x_value: Any, x_label: Any, house: bool) -> str | None:
        problem = self.name_problem(label, house=house)
        if problem is not None:
            return problem
        if x_label is not None and not sane_name(x_label):
            return f"metric '{label}' of {self.where} has an x_label that may not leave the trust: not stored"
        if x_label is not None and not self._is_declared_axis(x_label):
            return f"metric '{label}' of {self.where} has an x_label that METRICS does not declare: not stored"
        for name, given in (("", value), ("x_value ", x_value)):
            if name and given is None:
                continue
            number = as_number(given)
            if number is None:
                return f"metric '{label}' of {self.where} has a {name or 'value '}that is no number: not stored"
            if not math.isfinite(number):
                return (
                    f"metric '{label}' of {self.where} {'has an x_value that ' if name else ''}is {number}: not stored"
                )
        if label not in self._names and len(self._names) >= self.policy.max_names:
            return f"{self.where} has more than {self.policy.max_names} names of metrics: the others are not stored"
        if self._passed >= self.policy.max_metrics:
            return f"{self.where} has more than {self.policy.max_metrics} metrics: the others are not stored"
        if self.policy.rate is not None and not self.policy.rate.take():
            return f"{self.where} reports more metrics a minute than this site lets leave: the others are not stored"
        return None

    def _is_declared(self, label: str) -> bool:
        declared = self.policy.declared
        if declared is None:
            return True
        names = {name.partition("@")[0] for name in declared}
        return label in names or label.removeprefix("train_") in names

    def _is_declared_axis(self, x_label: str) -> bool:
        declared = self.policy.declared
        if declared is None or x_label in USUAL_AXES:
            return True
        return any(name.partition("@")[2] == x_label for name in declared)


def sane_name(name: Any) -> bool:
    """Whether ``name`` looks like a metric's name and not like data: 1..64 plain characters, few digits."""
    if not isinstance(name, str) or len(name) > MAX_LABEL_CHARS or _NAME.fullmatch(name) is None:
        return False
    digits = re.findall(r"\d+", name)
    return max(map(len, digits), default=0) <= _MAX_DIGITS_IN_A_ROW and sum(map(len, digits)) <= _MAX_DIGITS


def as_number(value: Any) -> float | None:
    """``value`` as a float: Python, numpy and zero-dimensional torch numbers; None for everything else."""
    if isinstance(value, str | bytes | bytearray):
        return None
    try:
        return float(value)
    except Exception:
        # Whatever a foreign object raises here, its text may hold data: the caller names only the metric.
        return None
