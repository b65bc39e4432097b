"""A model's update as filters see it: flat arrays of what was received and what would leave, in small chunks.

Everything happens in place and in the cache: beside the arrays that are there anyway only some chunks are held, for
each thread two. numpy does not hold the interpreter's lock meanwhile, so that every core works.

The noise comes from SFC64, seeded with 128 bits of the operating system for each update. That is a good generator for
statistics and no cryptographic one, and numbers in floating point are no real ones: see docs/privacy.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
# One chunk of each thread in float32, with its noise, fits into a core's second cache.
CHUNK = 1 << 17
MAX_THREADS = 8
# Sums of squares are made in float32, a chunk in pieces: rounding must never let more than a norm pass.
_PIECE = 1 << 12
_ROUNDING = 1 + 1e-5

Operation = Callable[[Array, np.random.Generator], None]
_KINDS = {False: np.float32, True: np.float64}


class NotFiltered(ValueError):
    """The update cannot be bounded; the text says what is wrong, and fits behind ``it``'s name."""


@dataclass(frozen=True)
class _Pair:
    before: Array | None
    after: Array
    wide: bool


class Update:
    """The difference of ``after`` to ``before``, by name; with ``difference`` ``after`` is that difference already.

    ``after`` is changed in place by ``write``, and must not share memory with ``before``. Floating-point arrays are the
    update, those without an axis too (half precision is computed in float32); whole numbers and booleans become what
    they were before, or no difference. Raises ``NotFiltered`` for other names or shapes, and for any other kind.
    """

    def __init__(self, before: Mapping[str, Any], after: dict[str, Any], *, difference: bool = False) -> None:
        self._after = after
        self._operations: list[Operation] = []
        self._seeds = np.random.SeedSequence()
        pairs = list(_pairs(before, after, difference=difference))
        self._pieces = [
            (pair, start, min(start + CHUNK, pair.after.size))
            for pair in pairs
            for start in range(0, pair.after.size, CHUNK)
        ]
        self._threads = max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)), len(self._pieces)))

    def then(self, operation: Operation) -> None:
        """Let ``operation`` change every chunk, after those that are there already."""
        self._operations.append(operation)

    def total(self, measure: Callable[[Array], Any], zero: Any = 0.0) -> Any:
        """The sum, begun with ``zero``, of what ``measure`` gives for each chunk as the operations so far make it."""
        return self._each(lambda chunk, pair, start, stop: measure(chunk), zero)

    def sample(self, step: int) -> Array:
        """Every ``step``-th number of each chunk as the operations so far make it, in no order."""
        found: list[Array] = self._each(lambda chunk, pair, start, stop: [chunk.copy()], [], step)
        return np.concatenate(found) if found else np.empty(0, np.float32)

    def norm(self) -> float:
        """The L2 norm of the whole update, never less than it is. Raises ``NotFiltered`` where it is not finite."""
        squares = float(self.total(_squares))
        if not math.isfinite(squares):
            raise NotFiltered("the update holds NaN or infinity: it cannot be clipped")
        return math.sqrt(squares) * _ROUNDING

    def write(self) -> dict[str, Any]:
        """Put what the operations make of the update into ``after``, and return it."""
        self._each(_store, 0)
        return self._after

    def _each(self, work: Callable[[Array, _Pair, int, int], Any], zero: Any, step: int = 1) -> Any:
        generators = [np.random.Generator(np.random.SFC64(seed)) for seed in self._seeds.spawn(self._threads)]

        def run(thread: int) -> Any:
            # Each thread sums up for itself: what one chunk gives may be as large as the chunk.
            found, buffers = copy(zero), {wide: np.empty(CHUNK, kind) for wide, kind in _KINDS.items()}
            for pair, start, stop in self._pieces[thread :: self._threads]:
                chunk = buffers[pair.wide][: -((start - stop) // step)]
                if pair.before is None:
                    chunk[:] = pair.after[start:stop:step]
                else:
                    before, after = pair.before[start:stop:step], pair.after[start:stop:step]
                    np.subtract(after, before, out=chunk, dtype=chunk.dtype, casting="same_kind")
                for operation in self._operations:
                    operation(chunk, generators[thread])
                found += work(chunk, pair, start, stop)
            return found

        # numpy's warnings are each thread's own; what is not finite is found by the filters' first look.
        def quiet(thread: int) -> Any:
            with np.errstate(over="ignore", invalid="ignore"):
                return run(thread)

        if self._threads == 1:
            return quiet(0)
        with ThreadPoolExecutor(self._threads, "flip-filter") as pool:
            parts = list(pool.map(quiet, range(self._threads)))
        return sum(parts[1:], parts[0])


def _store(chunk: Array, pair: _Pair, start: int, stop: int) -> int:
    target = pair.after[start:stop]
    if pair.before is None:
        target[:] = chunk
    else:
        np.add(pair.before[start:stop], chunk, out=target, dtype=chunk.dtype, casting="same_kind")
    return 0


def _squares(chunk: Array) -> float:
    whole = chunk.size - chunk.size % _PIECE
    rows = chunk[:whole].reshape(-1, _PIECE)
    rest = chunk[whole:].astype(np.float64)
    return math.fsum(np.einsum("ij,ij->i", rows, rows).tolist()) + float(np.dot(rest, rest))


def _shared(made: Array, given: Array) -> bool:
    return np.may_share_memory(made, given)


def _pairs(before: Mapping[str, Any], after: dict[str, Any], *, difference: bool) -> Iterable[_Pair]:
    if before.keys() != after.keys():
        raise NotFiltered("the trained arrays have other names than those that were sent")
    for name, value in after.items():
        given, made = np.asarray(before[name]), np.asarray(value)
        if made.shape != given.shape:
            raise NotFiltered(f"'{name}' has another shape than it was sent with")
        kind = made.dtype.kind
        if kind in "iub" and given.dtype.kind in "iub":
            after[name] = np.zeros_like(made) if difference else given.astype(made.dtype)
            continue
        if kind != "f" or given.dtype.kind != "f":
            raise NotFiltered(f"'{name}' holds neither real nor whole numbers, or other ones than were sent")
        if not (made.flags.c_contiguous and made.flags.writeable and made.flags.aligned) or _shared(made, given):
            made = np.array(made, order="C")
        after[name] = made
        flat = None if difference else np.ascontiguousarray(given).reshape(-1)
        wide = made.dtype.itemsize > 4 or (flat is not None and flat.dtype.itemsize > 4)
        yield _Pair(flat, made.reshape(-1), wide)
