"""How the sites' updates of a round differ, read from the event that tells it. What is no sound fact is left out."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, Literal

from flip_fl.dashboard.story import SiteUpdate
from flip_fl.hub.words import whole
from flip_fl.values import MAX_LABELS, WITHHELD

PLAIN = "plain"


def site_updates(details: Mapping[str, Any]) -> dict[str, SiteUpdate]:
    """Slot → what an ``UPDATES_COMPARED`` event says of it."""
    sites = details.get("sites")
    if not isinstance(sites, Mapping):
        return {}
    return {slot: _read(slot, facts) for slot, facts in sites.items() if isinstance(facts, Mapping)}


def _read(slot: str, facts: Mapping[str, Any]) -> SiteUpdate:
    examples = facts.get("examples")
    return SiteUpdate(
        slot=slot,
        norm=_number(facts.get("norm"), 0, sys.float_info.max),
        cosine=_number(facts.get("cosine"), -1, 1),
        examples="withheld" if examples == WITHHELD else whole(examples),
    )


def label_counts(said: object) -> dict[str, int | Literal["withheld"]]:
    """How often each label is among a site's examples, as the event of its result says it; none where that is unsound.

    One count that cannot be read takes the others along: nobody is to take a part for the whole.
    """
    if not isinstance(said, Mapping) or len(said) > MAX_LABELS:
        return {}
    found: dict[str, int | Literal["withheld"]] = {}
    for label, value in said.items():
        count = whole(value)
        if value != WITHHELD and count is None:
            return {}
        found[label] = "withheld" if count is None else count
    return found


def _number(value: object, least: float, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if least <= value <= most and math.isfinite(value) else None
