"""What may leave a trust beside single numbers: lists and dictionaries of finite numbers, such as a ROC curve.

The same rules stand where a result is built and where the server receives it. A reason never repeats a text of the app.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from flip_fl.privacy.egress import Egress, as_number, sane_name

MAX_NUMBERS = 10_000
MAX_DEPTH = 4
_MAX_CONTAINERS = 10_000
_TOO_MANY = f"takes the task beyond {MAX_NUMBERS} numbers"

Plain = int | float | list[Any] | dict[str, Any]


class NotPlain(ValueError):
    """The value may not leave; the text says why, and fits behind "it"."""


class Allowance:
    """How much one task may still send beside its metrics: ``MAX_NUMBERS`` numbers, ``MAX_DEPTH`` levels deep.

    ``rounded`` says what of a number may leave.
    """

    def __init__(self, rounded: Callable[[float], float] = float) -> None:
        self._rounded = rounded
        self._numbers = 0
        self._containers = 0

    def plain(self, value: Any) -> Plain:
        """``value`` as lists, dictionaries and numbers that JSON has, counted.

        Takes arrays and tensors, too. Raises ``NotPlain`` for anything else than finite numbers, keys that are no sane
        names, and what is too much or too deep; a value that is refused counts nothing.
        """
        before = (self._numbers, self._containers)
        try:
            return self._plain(value, MAX_DEPTH)
        except NotPlain:
            self._numbers, self._containers = before
            raise

    def _plain(self, value: Any, depth: int) -> Plain:
        parts = _parts(value)
        if parts is None:
            return self._number(value)
        if not depth:
            raise NotPlain(f"is nested deeper than {MAX_DEPTH} levels")
        self._containers += 1
        if self._containers > _MAX_CONTAINERS:
            raise NotPlain(f"has more than {_MAX_CONTAINERS} lists and dictionaries")
        if isinstance(parts, dict):
            if not all(sane_name(key) for key in parts):
                raise NotPlain("has a key that may not leave the trust")
            return {key: self._plain(each, depth - 1) for key, each in parts.items()}
        return [self._plain(each, depth - 1) for each in parts]

    def _number(self, value: Any) -> int | float:
        number = as_number(value)
        if number is None:
            raise NotPlain("has a value that is no number")
        if not math.isfinite(number):
            raise NotPlain("has a value that is not finite")
        self._numbers += 1
        if self._numbers > MAX_NUMBERS:
            raise NotPlain(_TOO_MANY)
        # Counts stay whole: a table of how often is read as one.
        whole = isinstance(value, int) and not isinstance(value, bool)
        return int(self._rounded(number)) if whole and int(number) == value else self._rounded(number)


class Supplements:
    """The supplementary values of one task, each let out or refused; what is refused counts among ``egress``'s."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        # The policy is known only when the task starts.
        self._allowance = Allowance(egress.rounded)

    def take(self, label: Any, value: Any) -> Plain | None:
        """What of ``value`` may leave; None where it may not. Never raises."""
        reason = self._egress.name_problem(label)
        if reason is None:
            try:
                return self._allowance.plain(value)
            except NotPlain as problem:
                reason = f"'{label}' of {self._egress.where} {problem}: not stored"
            except Exception:
                # Whatever a foreign object raises here, its text may hold data.
                reason = f"'{label}' of {self._egress.where} cannot be read: not stored"
        self._egress.refuse(reason)
        return None


def is_supplementary(value: Any) -> bool:
    """Whether ``value`` holds several values, so that it cannot be a metric."""
    return isinstance(value, Mapping | list | tuple) or _is_array(value)


def _parts(value: Any) -> list[Any] | dict[Any, Any] | None:
    """What ``value`` consists of; None where it is one value."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return list(value)
    if not _is_array(value):
        return None
    # An array of more numbers than may leave is not even copied.
    if math.prod(value.shape) > MAX_NUMBERS:
        raise NotPlain(_TOO_MANY)
    found = value.tolist()
    return found if isinstance(found, list) else None


def _is_array(value: Any) -> bool:
    """An array or a tensor with an axis, wherever it lies."""
    return bool(getattr(value, "ndim", 0)) and hasattr(value, "shape") and callable(getattr(value, "tolist", None))
