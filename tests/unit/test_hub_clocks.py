"""What is told of senders' clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flip_fl.dashboard.story import Skew
from flip_fl.hub.clocks import Clocks
from flip_fl.hub.feed import LogRow

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


def _row(wait: float, slot: str | None = None, event: str | None = None, clock: object = None) -> LogRow:
    at, details = NOW - timedelta(seconds=wait), {} if clock is None else {"clock": clock}
    return LogRow(1, at, NOW, success=True, text="", slot=slot, event_type=event, details=details)


def _result(slot: str, clock: object, wait: float = 0.1) -> LogRow:
    return _row(wait, slot, "CLIENT_RESULT_RECEIVED", clock)


def test_a_report_from_the_future_proves_a_clock_ahead() -> None:
    """One is enough, 30 s are not told, and the largest lead counts."""
    assert Clocks([_row(-29.0)]).skews() == []
    assert Clocks([_row(1.0), _row(-31.0), _row(-95.0)]).skews() == [Skew(slot=None, seconds=95.0)]


def test_lateness_alone_proves_little() -> None:
    """A clock may be behind only when all of several newest reports came late, by the least of their delays."""
    assert Clocks([_row(80.0)] * 4).skews() == []
    assert Clocks([_row(80.0)] * 4 + [_row(50.0)]).skews() == [Skew(slot=None, seconds=-50.0, proven=False)]
    assert Clocks([_row(80.0)] * 9 + [_row(0.2)]).skews() == []


def test_a_clock_set_right_is_forgiven() -> None:
    """What was told long ago says nothing of a clock now."""
    assert Clocks([_row(-95.0), *[_row(0.1)] * 50]).skews() == []


def test_sites_have_clocks_of_their_own() -> None:
    """A typed event is stamped by the server; a site is named unless its clock is just the server's; natural order."""
    rows = [_row(0.1, "Trust_2", "CLIENT_RESULT_RECEIVED"), _row(-40.0, "Trust_10"), _row(-50.0, "Trust_2")]
    assert [skew.slot for skew in Clocks(rows).skews()] == ["Trust_2", "Trust_10"]
    server = [_row(-95.0, "Trust_2", "CLIENT_RESULT_RECEIVED"), _row(-94.0, "Trust_3"), _row(-300.0, "Trust_4")]
    assert [skew.slot for skew in Clocks(server).skews()] == [None, "Trust_4"]


def test_what_the_server_has_measured_of_a_sites_clock_is_told_both_ways() -> None:
    """Ahead or behind by more than 30 s for certain, however long its answers took; what is certain wins over rows."""
    rows = [_result("Trust_10", [94.0, 99.5]), _result("Trust_2", [-300.0, -62.0]), _result("Trust_3", [-12.0, 29.0])]
    assert Clocks(rows).skews() == [Skew(slot="Trust_2", seconds=-62.0), Skew(slot="Trust_10", seconds=94.0)]
    assert Clocks([_row(-95.0, "Trust_3"), *rows[2:]]).skews() == []
    assert Clocks([rows[0], _result("Trust_10", [-0.4, 3.0])]).skews() == []


def test_a_sites_clock_is_told_against_the_hubs_not_its_servers() -> None:
    """A server that is 60 s ahead measures a site at the hub's time as 60 s behind: the site is not blamed."""
    server = [_row(-60.0)]
    assert Clocks([*server, _result("Trust_1", [-70.0, -60.0], -60.0)]).skews() == [Skew(slot=None, seconds=60.0)]
    far = Clocks([*server, _result("Trust_2", [90.0, None], -60.0)]).skews()
    assert far[1:] == [Skew(slot="Trust_2", seconds=150.0)]


@pytest.mark.parametrize(
    "said", ["95", [95], [1, "x", 2], [95.0, 3.0], {"least": 95}, [True, None], [float("nan"), None]]
)
def test_bounds_that_are_none_tell_nothing(said: object) -> None:
    """Whatever stands in an event's details, a clock that is not known to be off is not told as off."""
    assert Clocks([_result("Trust_1", said)]).skews() == []
