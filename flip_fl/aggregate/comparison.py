"""What an FL server tells its hub of how the sites' updates of a round differ, and of the examples behind them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from flip_fl.aggregate.heterogeneity import Model, spread
from flip_fl.privacy.counts import CountPolicy, all_told
from flip_fl.values import natural_key
from flip_fl.wire import MAX_DETAILS_BYTES

logger = logging.getLogger("flip_fl.aggregate")

# For what the event carries beside the sites.
_MARGIN_BYTES = 700
_DIGITS = 4


def comparison(
    sent: Model,
    returned: Mapping[str, Model],
    counts: Mapping[str, int],
    policy: CountPolicy,
    weights: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """The details of a round's ``UPDATES_COMPARED`` events: mostly one, more where the sites do not fit into it.

    ``{"mean": "weighted", "sites": {slot: {"norm", "cosine", "examples"}}}``; see ``Spread`` and ``CountPolicy``. A
    site's share is for the page to work out, from the counts that are told: so no share can tell of another one.
    ``returned`` (slot → arrays) are the whole models that sites made of ``sent``, ``counts`` the examples behind them,
    as far as they are known. ``weights`` are those of the average where these are not the counts.

    From norms and cosines to a mean that is weighted by counts, the counts themselves can be worked out: with two
    sites they are two equations for the ratio of the counts and the angle between the updates. So where a count is not
    told, the mean is ``plain``: all sites alike. Never raises: no run ends because of what is told of it.
    """
    try:
        return _comparison(sent, returned, counts, policy, weights)
    except Exception as error:
        logger.warning("the sites' updates could not be compared (%s)", type(error).__name__)
        return []


def _comparison(
    sent: Model,
    returned: Mapping[str, Model],
    counts: Mapping[str, int],
    policy: CountPolicy,
    weights: Mapping[str, float] | None,
) -> list[dict[str, Any]]:
    told = policy.counts({slot: counts[slot] for slot in returned if slot in counts})
    if weights is None and all_told(told, returned):
        weights = counts
    found = spread(sent, returned, weights)
    sites: dict[str, dict[str, Any]] = {}
    for slot in sorted(returned, key=natural_key):
        facts = {
            "norm": _short(found[slot].norm),
            "cosine": _short(found[slot].cosine),
            "examples": told.get(slot),
        }
        sites[slot] = {name: value for name, value in facts.items() if value is not None}
    mean = "plain" if weights is None else "weighted"
    return [{"mean": mean, "sites": part} for part in _parts(sites)]


def _parts(sites: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``sites`` in as few parts as an event's details can hold."""
    parts: list[dict[str, Any]] = []
    room = 0
    for slot, facts in sites.items():
        size = len(json.dumps({slot: facts}))
        if not parts or size > room:
            parts.append({})
            room = MAX_DETAILS_BYTES - _MARGIN_BYTES
        parts[-1][slot] = facts
        room -= size
    return parts


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
