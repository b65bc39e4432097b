"""The benchmark of the page: its figures, and when a goal counts as met."""

from __future__ import annotations

from dataclasses import replace

from tests.benchmarks import hub_page
from tests.benchmarks.hub_page import Effort, Looked

GOOD = Looked(
    pixel_s=[0.4] * 20, weight=149_000, wire=40_000, requests=4, idle_bytes=6, first_s=1.0, focus_s=[0.01] * 20
)


def test_every_goal_of_the_page_is_a_figure() -> None:
    """Point to pixel, weight, requests, idle traffic and the big run, each beside its goal."""
    found = hub_page.figures(Effort(), GOOD)
    assert len(found) == 11
    assert all(figure.met for figure in found)
    assert "100 sites x 1000 rounds x 50 metrics" in found[8].name


def test_a_goal_that_is_missed_is_said() -> None:
    """One slow point in ten, one foreign request, one request while idle: each is a NO."""
    slow = replace(GOOD, pixel_s=[0.4] * 18 + [2.5] * 2, foreign=1, idle_requests=1, weight=150_001)
    missed = [figure.name for figure in hub_page.figures(Effort(), slow) if not figure.met]
    assert missed == [hub_page.PIXEL_P95, hub_page.WEIGHT, hub_page.FOREIGN, hub_page.IDLE_REQUESTS]
