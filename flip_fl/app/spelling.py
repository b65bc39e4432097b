"""Finding the word that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable

MAX_SUGGESTIONS = 3


def edit_distance(left: str, right: str, limit: int = 2) -> int:
    """How many single-character edits lead from ``left`` to ``right``; ``limit + 1`` when it is more than ``limit``."""
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    previous = list(range(len(right) + 1))
    for row, a in enumerate(left, start=1):
        current = [row]
        for column, b in enumerate(right, start=1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (a != b)))
        if min(current) > limit:
            return limit + 1
        previous = current
    return min(previous[-1], limit + 1)


def nearest(word: str, known: Iterable[str], limit: int = 2) -> list[str]:
    """The known words within ``limit`` edits of ``word`` (case apart), the nearest first, at most three."""
    scored = [(edit_distance(word.lower(), other.lower(), limit), other) for other in known]
    return [other for distance, other in sorted(scored) if distance <= limit][:MAX_SUGGESTIONS]
