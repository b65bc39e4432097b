"""What the hub says of input that it cannot read: where and why, never the input itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flip_fl.services import refusals

# Pydantic's own words for these quote what was sent.
_OWN_WORDS = {"union_tag_invalid": "kind must be status, metric, metrics, log or event"}


def public_errors(errors: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The errors as ``services.refusals`` shows them, in the hub's words."""
    return refusals.public_errors(errors, _OWN_WORDS)


def first_error(errors: Iterable[Mapping[str, Any]]) -> str:
    """The first error as one line: ``global_round: Field required``."""
    error = public_errors(errors)[0]
    # The first part of a batch item's place is its kind, which the sender knows.
    place = ".".join(str(part) for part in error["loc"][1:])
    return f"{place}: {error['msg']}" if place else str(error["msg"])
