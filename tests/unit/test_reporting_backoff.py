"""Waiting between attempts."""

from __future__ import annotations

import pytest

from flip_fl.reporting.backoff import MAX_WAIT_S, MIN_WAIT_S, Backoff, retry_after


def test_waits_are_drawn_up_to_a_doubling_ceiling_of_30_seconds() -> None:
    """Many senders that lose one hub must not come back in step, nor ever wait longer than promised."""
    ceilings: list[float] = []

    def draw(low: float, high: float) -> float:
        ceilings.append(high)
        return high

    backoff = Backoff(draw)
    waits = [backoff.failed() for _ in range(8)]
    assert ceilings == [1, 2, 4, 8, 16, 30, 30, 30]
    assert waits == ceilings
    assert Backoff(lambda low, high: low).failed() == MIN_WAIT_S


def test_no_two_senders_wait_alike() -> None:
    """Without jitter a hundred FL servers would come back in the same second, and the hub would go down again."""
    waits = [[backoff.failed() for _ in range(8)] for backoff in (Backoff(), Backoff())]
    assert waits[0] != waits[1]
    assert all(MIN_WAIT_S <= wait <= MAX_WAIT_S for wait in waits[0] + waits[1])
    # Full jitter: half of the first waits are in the lower half of their second.
    assert 50 < sum(Backoff().failed() < 0.5 for _ in range(200)) < 150


def test_a_success_starts_the_waits_anew() -> None:
    """One hiccup an hour must not grow into half a minute of silence."""
    backoff = Backoff(lambda low, high: high)
    backoff.failed()
    backoff.failed()
    backoff.succeeded()
    assert backoff.failed() == 1


def test_retry_after_is_a_lower_bound_and_itself_bounded() -> None:
    """The hub's wish is honoured, but no hub may silence a run for an hour."""
    assert Backoff(lambda low, high: 0).failed(7) == 7
    assert Backoff(lambda low, high: 0).failed(3600) == 60


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "12"}, 12),
        ({"Retry-After": "86400"}, 60),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:20 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 20),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:20 GMT", "Date": "Wed, 21 Oct 2015 07:29:00 GMT"}, 0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:20 GMT"}, 0),
    ],
)
def test_retry_after_in_both_forms_whatever_the_clocks_say(headers: dict[str, str], seconds: float | None) -> None:
    """A date is read against the answer's own clock, so that a wrong clock cannot stretch or cut the wait."""
    assert retry_after(headers) == seconds
