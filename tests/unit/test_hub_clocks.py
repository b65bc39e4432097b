"""What is told of senders' clocks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from flip_fl.dashboard.story import Skew
from flip_fl.hub.clocks import Clocks
from flip_fl.hub.feed import LogRow

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


def _row(wait: float, slot: str | None = None, event: str | None = None) -> LogRow:
    return LogRow(1, NOW - timedelta(seconds=wait), NOW, success=True, text="", slot=slot, event_type=event)


def test_a_report_from_the_future_proves_a_clock_ahead() -> None:
    """One is enough, 30 s are not told, and the largest lead counts."""
    assert Clocks([_row(-29.0)]).skews() == []
    assert Clocks([_row(1.0), _row(-31.0), _row(-95.0)]).skews() == [Skew(slot=None, seconds=95.0)]


def test_lateness_alone_proves_little() -> None:
    """A clock may be behind only when all of several newest reports came late, by the least of their delays."""
    assert Clocks([_row(80.0)] * 4).skews() == []
    assert Clocks([_row(80.0)] * 4 + [_row(50.0)]).skews() == [Skew(slot=None, seconds=-50.0)]
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


def test_the_server_says_how_far_a_site_s_clock_is_from_its_own() -> None:
    """What a site reports comes by way of the FL server, at its times: it alone has seen the site's clock."""

    def told(slot: str, ahead: object) -> LogRow:
        return replace(_row(0.1, slot, "CLOCK_DIFFERS"), details={"ahead_s": ahead})

    assert Clocks([told("Trust_2", 3600.5), told("Trust_1", -90)]).skews() == [
        Skew(slot="Trust_1", seconds=-90.0),
        Skew(slot="Trust_2", seconds=3600.5),
    ]
    # The server's own error is part of it, and a site that is right beside a server that is wrong is not blamed.
    server = [_row(-95.0)]
    assert Clocks([*server, told("Trust_1", -95.0)]).skews() == [Skew(slot=None, seconds=95.0)]
    assert Clocks([*server, told("Trust_1", 40.0)]).skews()[1:] == [Skew(slot="Trust_1", seconds=135.0)]
    assert Clocks([told("Trust_1", "soon"), told("Trust_2", float("nan"))]).skews() == []
