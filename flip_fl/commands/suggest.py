"""What somebody may have meant: the nearest known words, by edit distance."""

from __future__ import annotations

from collections.abc import Iterable

from flip_fl.values import natural_key

MAX_DISTANCE = 2
MAX_SUGGESTIONS = 3


def edit_distance(one: str, other: str, bound: int = MAX_DISTANCE) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours between two words; ``bound + 1`` when it is more."""
    if abs(len(one) - len(other)) > bound:
        return bound + 1
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > bound:
            return bound + 1
        before, last = last, row
    return min(last[-1], bound + 1)


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The nearest of ``known``: at most three, all equally near, within distance 2 and never of other letters alone."""
    ranked = []
    for candidate in set(known):
        distance = edit_distance(word.casefold(), candidate.casefold())
        if distance <= MAX_DISTANCE and distance < max(len(word), len(candidate)):
            ranked.append((distance, natural_key(candidate), candidate))
    ranked.sort()
    return [candidate for distance, _, candidate in ranked if distance == ranked[0][0]][:MAX_SUGGESTIONS]


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """``did you mean Trust_3?``, ``did you mean a or b?``, or None when nothing is near."""
    found = nearest(word, known)
    return f"did you mean {' or '.join(found)}?" if found else None
