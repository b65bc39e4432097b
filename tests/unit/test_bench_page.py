"""The benchmark of the page: its figures, and when a goal counts as met."""

from __future__ import annotations

from dataclasses import replace

from tests.benchmarks import hub_page, hub_page_big
from tests.benchmarks.hub_page import Looked

GOOD = Looked(pixel_s=[0.4] * 20, weight=149_000, wire=40_000, requests=4, idle_bytes=6)


def test_every_goal_of_the_page_is_a_figure() -> None:
    """Point to pixel, weight, requests and idle traffic, each beside its goal."""
    found = hub_page.figures(GOOD)
    assert len(found) == 8
    assert all(figure.met for figure in found)


def test_a_big_run_of_each_size_has_its_own_goal() -> None:
    """Twenty metrics are to be there within a second, fifty within one and a half."""
    first_s = {20: [1.2, 0.9, 0.95], 50: [1.7, 1.6, 1.1]}
    looked = hub_page_big.Looked(first_s=first_s, focus_s=[0.01] * 20, tasks_s=[0.1, 0.15, 0.2])
    found = hub_page_big.figures(hub_page_big.Effort(), looked)
    assert "100 sites x 1000 rounds x 50 metrics" in found[1].name
    assert [figure.met for figure in found] == [True, False, True, True]


def test_a_goal_that_is_missed_is_said() -> None:
    """One slow point in ten, one foreign request, one request while idle: each is a NO."""
    slow = replace(GOOD, pixel_s=[0.4] * 18 + [2.5] * 2, foreign=1, idle_requests=1, weight=150_001)
    missed = [figure.name for figure in hub_page.figures(slow) if not figure.met]
    assert missed == [hub_page.PIXEL_P95, hub_page.WEIGHT, hub_page.FOREIGN, hub_page.IDLE_REQUESTS]
