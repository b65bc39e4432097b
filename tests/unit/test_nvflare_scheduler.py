"""What is told of an attempt to place a job that failed."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from flip_fl.nvflare.scheduler import Attempt

ATTEMPT = Attempt(UUID(int=1), number=2, of=10, final=False, reason="too few", requested={"num_of_gpus": 1})


def test_each_site_that_is_short_has_an_event_of_its_own() -> None:
    """The hub shows who is short of what, and of which attempt."""
    short = {"Trust_1": {"num_of_gpus": 4}, "Trust_3": {}}
    facts = {"attempt": 2, "max_attempts": 10, "final": False}
    assert list(replace(ATTEMPT, short=short).events()) == [
        ("Trust_1", {**facts, "requested": {"num_of_gpus": 4}}),
        ("Trust_3", {**facts, "requested": {}}),
    ]


def test_an_attempt_that_nobody_answered_is_told_without_a_site() -> None:
    """Sites that are away would otherwise leave no trace of the attempt."""
    ((slot, details),) = replace(ATTEMPT, final=True).events()
    assert slot is None
    assert details == {"attempt": 2, "max_attempts": 10, "final": True, "requested": {"num_of_gpus": 1}}
