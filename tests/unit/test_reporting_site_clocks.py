"""How far a site's clock is from its server's, as far as its answers prove it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flip_fl.reporting.site_clocks import Ahead, SiteClocks
from flip_fl.wire import SiteFacts

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


def _said(ahead: float, *, worked: float = 10.0, way: float = 1.0) -> tuple[SiteFacts, float, datetime]:
    """What a site says whose clock is ``ahead``, asked at NOW; how long its answer took, and when it came."""
    began = NOW + timedelta(seconds=way + ahead)
    took = 2 * way + worked
    return SiteFacts(began=began, ended=began + timedelta(seconds=worked)), took, NOW + timedelta(seconds=took)


def test_a_clock_is_bounded_from_both_sides() -> None:
    """However long the way: it did not begin before it was asked, nor end after its answer came."""
    for ahead in (-3600.0, -45.0, 0.0, 45.0, 3600.0):
        known = SiteClocks().heard("Trust_1", *_said(ahead, way=7.0))
        assert known.least is not None
        assert known.most is not None
        assert known.least <= ahead <= known.most
        assert known.off == (known.least if ahead > 0 else known.most if ahead < 0 else 0.0)


def test_a_slow_way_accuses_nobody() -> None:
    """An upload of ten minutes leaves a clock between bounds that hold 0: nothing is told, nothing put right."""
    clocks = SiteClocks()
    assert clocks.heard("Trust_1", *_said(0.0, way=600.0)).off == 0.0
    items = [{"at": "2026-01-02T03:04:05Z"}]
    assert clocks.on_server_time("Trust_1", items) is items


def test_times_of_a_clock_that_is_off_are_put_on_the_servers() -> None:
    """A report of a site an hour behind stands where it happened; what has no time that can be read is left."""
    clocks = SiteClocks()
    clocks.heard("Trust_1", *_said(-3600.0, way=0.0))
    odd = [{"at": "soon"}, {"at": 7}, "nothing", {"at": "0001-01-01T00:00:00+00:00"}]
    moved = clocks.on_server_time("Trust_1", [{"at": "2026-11-22T12:00:05Z", "label": "loss"}, *odd])
    assert moved[0] == {"at": "2026-11-22T13:00:05+00:00", "label": "loss"}
    assert moved[1:4] == odd[:3]
    assert clocks.on_server_time("Trust_2", odd) is odd


def test_a_live_report_from_the_future_is_put_right_before_any_result() -> None:
    """Live reports come first: one that is stamped an hour from now is stored as of now; a result says it better."""
    clocks = SiteClocks()
    assert clocks.on_server_time("Trust_1", [{"at": "2026-11-22T12:59:00Z"}], NOW) == [{"at": "2026-11-22T12:59:00Z"}]
    items = [{"at": "2026-11-22T13:59:58Z"}, {"at": "2026-11-22T14:00:00Z"}]
    moved = clocks.on_server_time("Trust_1", items, NOW)
    assert [each["at"] for each in moved] == ["2026-11-22T12:59:58+00:00", "2026-11-22T13:00:00+00:00"]
    clocks.heard("Trust_1", *_said(0.0))
    assert clocks.on_server_time("Trust_1", items, NOW) is items


def test_a_clock_that_was_set_right_is_right() -> None:
    """What an earlier answer proved does not outlive a correction."""
    clocks = SiteClocks()
    assert clocks.heard("Trust_1", *_said(120.0)).off > 30
    assert clocks.heard("Trust_1", *_said(0.0)).off == 0.0


@pytest.mark.parametrize(
    "raw",
    [None, "text", {"ended": "never"}, {"began": "2026-01-02T03:04:05"}, {"seconds": -1}, {"labels": {"": 1}}, [3]],
)
def test_what_is_no_fact_is_none(raw: object) -> None:
    """Whatever a site sends there: nothing is raised, nothing believed."""
    facts = SiteFacts.read(raw)
    assert facts is None
    assert SiteClocks().heard("Trust_1", facts, 3.0) == Ahead()
