"""A site's filters on what a task would send: in the policy's order, and nothing leaves where one of them cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flip_fl.privacy.clipping import clip
from flip_fl.privacy.percentile import sparsify
from flip_fl.privacy.policy import FilterSet
from flip_fl.privacy.updates import Update


def filtered(
    filters: FilterSet, received: Mapping[str, Any], sent: Mapping[str, Any], *, difference: bool
) -> dict[str, Any]:
    """``sent`` with its update clipped, sparsified and noised as ``filters`` say, in place where that can be.

    ``sent`` is the whole model that came of ``received``, and is whole again; with ``difference`` it is what changed.
    Raises ``NotFiltered`` for what cannot be bounded: the arrays are then of no use.
    """
    update = Update(received, dict(sent), difference=difference)
    if filters.clipping is not None:
        clip(update, filters.clipping.norm)
    if filters.percentile is not None:
        sparsify(update, filters.percentile.percentile, filters.percentile.gamma)
    if filters.gaussian is not None:
        filters.gaussian.mechanism.apply(update)
    return update.write()
