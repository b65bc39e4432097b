"""Packed metrics: whatever was measured comes back as it was, for any plot and from any row on."""

from __future__ import annotations

from uuid import UUID

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flip_fl.hub.blocks import pack, unpack
from flip_fl.hub.curves import PlotKey

_TRUSTS = [UUID(int=n) for n in range(3)]
_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_ROW = st.tuples(
    st.sampled_from(["loss", 'Ä"\\\n☃', ""]),
    st.sampled_from(["Global Rounds", "Step"]),
    st.sampled_from(_TRUSTS),
    st.sampled_from(["Trust_1", "Trust_10", None]),
    _NUMBERS,
    _NUMBERS,
    st.integers(0, 2**31 - 1),
)


@given(st.lists(_ROW, min_size=1, max_size=40), st.integers(0, 45))
def test_a_block_gives_back_each_plot_as_it_was_stored(rows: list[tuple[object, ...]], after: int) -> None:
    """Every number to its last bit, under its trust and slot, in the order in which a site measured it."""
    numbered = [(*row[:4], number, *row[4:]) for number, row in enumerate(rows, start=1)]
    packed = pack([(*row[:2], str(row[2]), *row[3:]) for row in numbered])
    assert (packed.first_id, packed.last_id) == (1, len(rows))
    plots = [PlotKey(label, axis) for label in ("loss", 'Ä"\\\n☃', "", "none") for axis in ("Global Rounds", "Step")]
    found = unpack(packed.body, plots)
    for plot in plots:
        mine = [row for row in numbered if row[:2] == (plot.label, plot.x_label)]
        assert (plot in found) == bool(mine)
        if not mine:
            continue
        part = found[plot].after(after)
        told = [
            (*part.sites[site], int(number), x, y, int(round_number))
            for site, number, x, y, round_number in zip(
                part.series, part.ids, part.x.tolist(), part.y.tolist(), part.rounds, strict=True
            )
        ]
        assert sorted(told, key=lambda row: row[2]) == [row[2:] for row in mine if row[4] > after]
        for site in set(part.series.tolist()):
            assert np.all(np.diff(part.ids[part.series == site]) > 0)
