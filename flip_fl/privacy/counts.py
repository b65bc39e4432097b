"""Which counts of patients or examples an FL server may tell a hub, so that small ones stay unknown.

A count below the threshold is told as ``withheld``, 0 like 9. That alone is not enough: what is told beside it must not
give it away. So a sum, or a share of it, is only of counts that are told: with a share of all examples one withheld
count would be what is left, and several would be known by their sum. And a mean that is told is weighted by counts only
where all of them are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flip_fl.privacy.egress import sane_name
from flip_fl.privacy.labels import withheld_below
from flip_fl.values import MIN_COUNT, WITHHELD

Told = int | str


@dataclass(frozen=True)
class CountPolicy:
    """Counts below ``threshold`` are withheld; where they are not ``told`` at all, every one is left out."""

    threshold: int = MIN_COUNT
    told: bool = True

    def counts(self, counts: Mapping[str, int]) -> dict[str, Told]:
        """What may be told of each site's count: the count, or ``WITHHELD``; nothing where counts are not told."""
        if not self.told:
            return {}
        return {slot: count if count >= self.threshold else WITHHELD for slot, count in counts.items()}

    def labels(self, counts: Mapping[str, Told]) -> dict[str, Told]:
        """What may be told of how often each label is at a site; nothing where one has a name that is none."""
        if not self.told or not all(sane_name(label) for label in counts):
            return {}
        return withheld_below(counts, self.threshold)


def all_told(told: Mapping[str, Told], slots: Iterable[str]) -> bool:
    """Whether each of ``slots`` has a count that is told."""
    return all(isinstance(told.get(slot), int) for slot in slots)
