"""What people read for each state."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from flip_fl.dashboard import words
from flip_fl.dashboard.story import CellState, Failure, Story
from flip_fl.values import ModelStatus
from tests.support import dashboard


@pytest.mark.parametrize(
    ("status", "facts", "text"),
    [
        (ModelStatus.PENDING, {}, "Draft"),
        (ModelStatus.INITIATED, {}, "Queued"),
        (ModelStatus.INITIATED, {"queue_position": 3, "queue_length": 5}, "Queued, 3rd of 5"),
        (ModelStatus.PREPARED, {}, "Preparing"),
        (ModelStatus.PREPARED, {"slowest": "Trust_2 loading data"}, "Preparing - Trust_2 loading data"),
        (ModelStatus.RUNNING, {}, "Training"),
        (ModelStatus.RUNNING, {"round_number": 4, "total_rounds": 20}, "Training, round 4 of 20"),
        (
            ModelStatus.RUNNING,
            {"round_number": 4, "total_rounds": 8, "stage": "dm"},
            "Training, round 4 of 8 (dm)",
        ),
        (ModelStatus.ERROR, {"round_number": 4, "stage": "dm", "cause": "x"}, "Failed in round 4 (dm) - x"),
        (ModelStatus.RUNNING, {"evaluating": (3, 5)}, "Evaluating, 3 of 5 sites"),
        (ModelStatus.RESULTS_UPLOADED, {"round_number": 4}, "Finished - results ready"),
        (ModelStatus.RESULTS_UPLOAD_FAILED, {}, "Finished - results not uploaded"),
        (ModelStatus.STOPPED, {"by": "A. Smith", "round_number": 7}, "Stopped by A. Smith in round 7"),
        (ModelStatus.STOPPED, {}, "Stopped"),
        (
            ModelStatus.ERROR,
            {"round_number": 7, "cause": "Trust_3: CUDA out of memory"},
            "Failed in round 7 - Trust_3: CUDA out of memory",
        ),
        (ModelStatus.ERROR, {"cause": "the quorum never came"}, "Failed - the quorum never came"),
        (ModelStatus.ERROR, {"by": "FL server"}, "Failed"),
    ],
)
def test_each_state_reads_as_the_table_says(status: ModelStatus, facts: dict[str, object], text: str) -> None:
    """The command line and the page say a state in the words that were agreed."""
    assert words.state_words(status, **facts).text == text  # type: ignore[arg-type]


def test_every_status_and_every_cell_state_has_words() -> None:
    """A new status or cell state cannot reach people as a machine word."""
    assert set(words.STATES) == set(ModelStatus)
    states = set(CellState.__args__)  # type: ignore[attr-defined]
    assert set(words.CELLS) == set(words.CELL_WORDS) == states
    for status in ModelStatus:
        assert not re.search("[A-Z_]{3}", words.state_words(status).text)
        assert not re.search("[A-Z_]{3}", words.status_word(status))


def test_a_stopped_run_never_reads_as_a_failure() -> None:
    """Stopping is a decision: neither its words nor its tone call it a failure."""
    state = words.state_words(ModelStatus.STOPPED, by="A. Smith", round_number=3)
    assert state.tone == "quiet"
    assert "fail" not in state.text.lower()


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (13, "13th"), (22, "22nd")]
)
def test_ordinals(number: int, text: str) -> None:
    """A place in the queue reads as English."""
    assert words.ordinal(number) == text


def _failed_with(*failures: tuple[str, list[str], int | None], sites: int = 3) -> Story:
    base = dashboard.failed()
    return base.model_copy(
        update={
            "sites": dashboard.sites(sites),
            "failures": [
                Failure(at=dashboard.at(9), headline=headline, detail="", slots=slots, round=number)
                for headline, slots, number in failures
            ],
        }
    )


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([("E: a", ["Trust_3"], 4)], "Trust_3: E: a"),
        ([("E: a", ["Trust_1", "Trust_2"], 4)], "Trust_1 and Trust_2: E: a"),
        ([("E: a", ["Trust_1", "Trust_2", "Trust_3"], 4)], "all 3 sites: E: a"),
        ([("E: early", ["Trust_1", "Trust_2"], 1), ("E: late", ["Trust_3"], 4)], "Trust_3: E: late"),
        ([("E: one", ["Trust_3"], 4), ("E: two", ["Trust_1", "Trust_2"], 4)], "Trust_1 and Trust_2: E: two"),
        ([("E: server", [], None)], "E: server"),
        ([], "round 4: 0 of 7 sites returned a result, 5 are needed"),
    ],
)
def test_the_headline_names_the_cause_that_ended_the_run(
    failures: list[tuple[str, list[str], int | None]], expected: str
) -> None:
    """The newest failure that most sites share is the headline; without one it is the run's own reason."""
    assert _failed_with(*failures).headline.text == f"Failed in round 4 - {expected}"


def test_a_stop_names_the_person_and_not_the_late_callback() -> None:
    """A status that came after the stop was ignored, so the headline ignores it, too."""
    assert dashboard.stopped().headline.text == "Stopped by A. Smith in round 3"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86400, "1 d"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    """How long a server was not heard of is read at a glance."""
    assert words.span(timedelta(seconds=seconds)) == text


def test_a_silent_server_is_said_beside_the_state_and_never_instead_of_it() -> None:
    """A run is not called failed because nothing is heard of it: state first, then since when, then what comes next."""
    story = dashboard.running()
    head = story.headline
    assert (head.word, head.detail, head.tone) == ("Training", "round 2 of 5", "warn")
    assert head.hint == (
        "No news from the FL server since 13:03 UTC (5 min); unless it reports, the run ends as failed at 14:03 UTC"
    )
    assert head.text == f"Training, round 2 of 5 - {head.hint[0].lower()}{head.hint[1:]}"
    assert story.model_copy(update={"unreachable": None}).headline.text == "Training, round 2 of 5"
    later = words.silence(dashboard.at(18), dashboard.at(18) + timedelta(days=1))
    assert later == "No news from the FL server since 2026-11-22 13:03 UTC (1 d)"
