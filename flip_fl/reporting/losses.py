"""Why something that was to be reported did not reach the hub. Every loss is counted under one of these."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class LossReason(StrEnum):
    """The reasons, as they stand in the outbox file and in ``flip-fl doctor --json``."""

    FULL = "full"
    INVALID = "invalid"
    NOT_FINITE = "not_finite"
    REFUSED = "refused"
    TOO_LARGE = "too_large"
    NO_FORM = "no_form"
    AMBIGUOUS = "ambiguous"
    CORRUPT_FILE = "corrupt_file"
    MISSING = "missing"


_WORDS: Mapping[str, str] = {
    LossReason.FULL: "dropped because the outbox was full",
    LossReason.INVALID: "not reported because they were not valid reports",
    LossReason.NOT_FINITE: "repeated values that were not finite and were not stored",
    LossReason.REFUSED: "refused by the hub and set aside",
    LossReason.TOO_LARGE: "set aside because the hub called them too large",
    LossReason.NO_FORM: "set aside because this hub has no form for them",
    LossReason.AMBIGUOUS: "not sent again after an answer was lost, because this hub would store them twice",
    LossReason.CORRUPT_FILE: "outbox file(s) that could not be read and were set aside with all they held",
    LossReason.MISSING: "made at a site and never received",
}


def describe(losses: Mapping[str, int]) -> str:
    """One sentence for people: ``37 dropped because the outbox was full; 2 refused by the hub and set aside``."""
    # A newer flip_fl may have counted under a reason that this one does not know.
    parts = [f"{count} {_WORDS.get(reason, f'lost ({reason})')}" for reason, count in sorted(losses.items()) if count]
    return "; ".join(parts) if parts else "nothing was lost"
