"""A model's metrics once more, packed: some ten thousand rows in one, sorted by plot and series.

The rows of one plot lie far apart in ``fl_metrics``, and each passes through Python by itself; a block is read in one
piece. Blocks are written by ``tallies`` and are never changed: they hold the rows up to ``Model.counted_to``.

A body is the length of a JSON text (four bytes), that text, and arrays behind one another, all little-endian: of each
series its plot, its site and its number of points (int32), then of each point, series by series and as they were
stored, id (int64), x value, value (float64) and round (int32). The text names ``plots`` as [label, axis], ``sites`` as
[trust, slot or null], and how many ``series`` and ``points`` there are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from flip_fl.dashboard.sampling import Integers, Numbers
from flip_fl.hub.curves import PlotKey

Site = tuple[UUID, str | None]
_SERIES_KINDS = ("<i4", "<i4", "<i4")
_POINT_KINDS = ("<i8", "<f8", "<f8", "<i4")


@dataclass(frozen=True)
class Part:
    """Points of one plot: ``series`` are positions in ``sites``; all arrays of the same length."""

    sites: Sequence[Site]
    series: Integers
    ids: Integers
    x: Numbers
    y: Numbers
    rounds: Integers

    def __len__(self) -> int:
        return len(self.ids)

    def after(self, row: int) -> Part:
        """What was stored after that row."""
        if not len(self) or self.ids.min() > row:
            return self
        kept = np.flatnonzero(self.ids > row)
        return Part(self.sites, self.series[kept], self.ids[kept], self.x[kept], self.y[kept], self.rounds[kept])


@dataclass(frozen=True)
class Packed:
    """The body of a block, and which rows and rounds are in it."""

    body: bytes
    first_id: int
    last_id: int
    first_round: int
    last_round: int


def pack(rows: Sequence[Sequence[Any]]) -> Packed:
    """A block of rows (label, axis, trust as text, slot, id, x value, value, round), in the order of their ids."""
    labels, axes, trusts, slots, *numbers = zip(*rows, strict=True)
    plots, plot_of = _numbered(zip(labels, axes, strict=True))
    sites, site_of = _numbered(zip(trusts, slots, strict=True))
    order = np.lexsort((site_of, plot_of))
    key = plot_of[order] * len(sites) + site_of[order]
    series, counts = np.unique(key, return_counts=True)
    facts = {
        "plots": [list(plot) for plot in plots],
        "sites": [[UUID(trust).hex, slot] for trust, slot in sites],
        "series": len(series),
        "points": len(rows),
    }
    head = json.dumps(facts, separators=(",", ":")).encode()
    of_series = (series // len(sites), series % len(sites), counts)
    arrays = [np.asarray(column, dtype=kind) for column, kind in zip(of_series, _SERIES_KINDS, strict=True)]
    points = [np.array(column, dtype=kind) for column, kind in zip(numbers, _POINT_KINDS, strict=True)]
    arrays += [column[order] for column in points]
    ids, rounds = points[0], points[-1]
    body = b"".join([len(head).to_bytes(4, "little"), head, *(array.tobytes() for array in arrays)])
    return Packed(body, int(ids[0]), int(ids[-1]), int(rounds.min()), int(rounds.max()))


def unpack(body: bytes, plots: Sequence[PlotKey]) -> dict[PlotKey, Part]:
    """The points of those of ``plots`` of which the block has any."""
    size = int.from_bytes(body[:4], "little")
    facts = json.loads(body[4 : 4 + size])
    known = {PlotKey(*plot): number for number, plot in enumerate(facts["plots"])}
    wanted = [(plot, known[plot]) for plot in plots if plot in known]
    if not wanted:
        return {}
    offset = 4 + size
    columns: list[NDArray[Any]] = []
    for kinds, length in ((_SERIES_KINDS, facts["series"]), (_POINT_KINDS, facts["points"])):
        for kind in kinds:
            columns.append(np.frombuffer(body, dtype=kind, count=length, offset=offset))
            offset += columns[-1].nbytes
    plot_of, site_of, counts, *points = columns
    ends = np.cumsum(counts, dtype=np.int64)
    sites = [(_uuid(trust), slot) for trust, slot in facts["sites"]]
    found = {}
    for plot, number in wanted:
        first, last = np.searchsorted(plot_of, [number, number + 1])
        rows = slice(int(ends[first - 1]) if first else 0, int(ends[last - 1]))
        series = np.repeat(site_of[first:last], counts[first:last])
        found[plot] = Part(sites, series, *(column[rows] for column in points))
    return found


# Every block of a run names the same trusts.
@lru_cache(maxsize=4096)
def _uuid(text: str) -> UUID:
    return UUID(text)


def _numbered(keys: Any) -> tuple[list[Any], Integers]:
    numbers: dict[Any, int] = {}
    positions = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    return list(numbers), positions
