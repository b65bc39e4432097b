"""What callers hand to a client, as the wire can carry it."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

from flip_fl.errors import printable
from flip_fl.values import ModelStatus


@dataclass(frozen=True)
class Measurement:
    """One number a site measured; ``problem`` says in words why it cannot be stored, if it cannot."""

    client: str
    label: str
    result: float
    global_round: int
    x_value: float | None
    x_label: str | None
    problem: str | None


def read_measurement(
    client: object, label: object, value: object, global_round: object, x_value: object, x_label: object
) -> Measurement:
    """A measurement from whatever converts to numbers: numpy scalars, 0-d tensors, integers.

    Raises ``TypeError`` or ``ValueError``, in words that hold none of the values.
    """
    if not isinstance(client, str) or not isinstance(label, str) or not isinstance(x_label, str | None):
        raise TypeError("client_name, label and x_label must be text")
    number = _number("value", value)
    x_number = None if x_value is None else _number("x_value", x_value)
    round_number = _whole(global_round)
    problem = None
    if not math.isfinite(number):
        problem = f"metric '{printable(label)}' of round {round_number} is {number}: not stored"
    elif x_number is not None and not math.isfinite(x_number):
        problem = f"metric '{printable(label)}' of round {round_number} stands at x = {x_number}: not stored"
    return Measurement(client, label, number, round_number, x_number, x_label, problem)


def read_status(status: object) -> ModelStatus:
    """A status from a member or its spelling. Raises ``ValueError`` listing the known ones."""
    try:
        return ModelStatus(str(status))
    except ValueError:
        known = ", ".join(member.value for member in ModelStatus)
        raise ValueError(f"Invalid model status: {printable(status)}; known: {known}") from None


def _number(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except Exception as error:
        # A tensor of several values raises an error of its library's own; none of them may stop a run.
        raise TypeError(f"{name} is no number ({type(value).__name__}: {type(error).__name__})") from None


def _whole(value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = _number("round", value)
        if not number.is_integer():
            raise ValueError("round is no whole number") from None
        return int(number)
