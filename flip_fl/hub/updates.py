"""How the sites' updates of a round differ, read from the event that tells it. What is no sound fact is left out."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from flip_fl.dashboard.story import SiteUpdate
from flip_fl.hub.words import whole
from flip_fl.values import WITHHELD

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


def _number(value: object, least: float, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if least <= value <= most and math.isfinite(value) else None
