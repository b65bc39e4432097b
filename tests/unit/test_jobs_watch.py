"""The watchdog's decisions, and how it reads what ``flwr ls`` answers."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from flip_fl.jobs.decide import (
    LOSS_PREFIX,
    NOTICED_BY,
    Action,
    Deliver,
    EngineRun,
    EngineState,
    Finish,
    HubState,
    Limits,
    OutboxState,
    Refuse,
    Situation,
    Wait,
    Write,
    decide,
)
from flip_fl.jobs.flower_answers import details_words, read_answer
from flip_fl.values import TERMINAL_STATUSES, ModelStatus

LIMITS = Limits(grace_s=20, unreachable_after_s=300, outbox_s=60)
NAMES: Any = SimpleNamespace(engine="Flower", server="the SuperLink", connection="net")
RUNNING = HubState(ModelStatus.RUNNING)
LOST = HubState(ModelStatus.ERROR, loss=True)
LIVE_STATES = (ModelStatus.PENDING, ModelStatus.INITIATED, ModelStatus.PREPARED, ModelStatus.RUNNING)
PATIENT = "943-476-5919"


def engine(state: EngineState, details: str = "") -> EngineRun:
    return EngineRun(state, details)


def judged(state: EngineState, hub: HubState | None = RUNNING, **facts: Any) -> Action:
    """The decision about a run that the engine has told of before, its outbox looked at and clear."""
    details = facts.pop("details", "")
    seen = Situation(engine(state, details), hub, **{"outbox": OutboxState.CLEAR, **facts})
    return decide(seen, LIMITS, NAMES)


@pytest.mark.parametrize("state", [EngineState.WAITING, EngineState.RUNNING])
@pytest.mark.parametrize("status", LIVE_STATES)
def test_a_run_that_goes_on_is_waited_for_however_long(state: EngineState, status: ModelStatus) -> None:
    """A long round is no failure: only the engine's end or its silence counts."""
    assert judged(state, HubState(status), engine_s=1e6) == Wait("the end of the run at Flower")


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        (EngineState.FAILED, ModelStatus.ERROR, "Flower says that the run failed (its word)"),
        (EngineState.COMPLETED, ModelStatus.ERROR, "complete, but the run has not told how it ended"),
        (EngineState.UNKNOWN, ModelStatus.ERROR, "the SuperLink was started anew and no longer knows the run"),
        (EngineState.STOPPED, ModelStatus.STOPPED, "stopped at Flower"),
    ],
)
def test_an_end_that_the_hub_has_not_heard_of_is_written_after_the_grace(
    state: EngineState, status: ModelStatus, words: str
) -> None:
    """A killed server process cannot report itself; a run that says complete but brought no results is no success."""
    assert isinstance(judged(state, engine_s=19.9, details="its word"), Wait)
    end = judged(state, engine_s=20.0, details="its word")
    assert isinstance(end, Write)
    assert end.status is status
    assert words in end.reason
    assert end.reason.endswith(NOTICED_BY)
    assert end.reason.startswith(LOSS_PREFIX) == (status is ModelStatus.ERROR)


@pytest.mark.parametrize("state", [EngineState.UNREACHABLE, EngineState.REFUSED])
def test_an_engine_without_an_answer_is_an_error_only_after_its_time(state: EngineState) -> None:
    """A SuperLink that is away for a moment, for an upgrade say, must not end a run."""
    assert judged(state, engine_s=299.0) == Wait("an answer of the SuperLink")
    end = judged(state, engine_s=300.0, details="flwr ls took more than 30 s")
    assert end == Write(
        ModelStatus.ERROR,
        f"{LOSS_PREFIX}: the SuperLink gave no answer for 300 s (flwr ls took more than 30 s); {NOTICED_BY}",
    )


@pytest.mark.parametrize("state", [EngineState.FAILED, EngineState.STOPPED, EngineState.UNREACHABLE])
def test_what_the_run_has_left_in_its_outbox_comes_first(state: EngineState) -> None:
    """The run's own word is worth more than what is seen from outside; but it is not waited for without an end."""
    since = LIMITS.unreachable_after_s
    assert judged(state, engine_s=since, outbox=None) == Deliver()
    for outbox in (OutboxState.LIVE, OutboxState.LEFT):
        late = LIMITS.outbox_s + (since if state is EngineState.UNREACHABLE else LIMITS.grace_s)
        assert isinstance(judged(state, engine_s=late - 0.1, outbox=outbox), Wait)
        assert isinstance(judged(state, engine_s=late, outbox=outbox), Write)


@pytest.mark.parametrize("state", list(EngineState))
def test_nothing_is_decided_while_the_hub_gives_no_answer(state: EngineState) -> None:
    """What the hub knows is not known then: it may have the run's results."""
    assert judged(state, None, engine_s=1e6) == Wait("an answer of the hub")


@pytest.mark.parametrize(
    ("state", "status"),
    list(itertools.product([*EngineState, None], sorted(TERMINAL_STATUSES))),
)
def test_an_end_that_the_run_has_told_itself_is_never_overwritten(
    state: EngineState | None, status: ModelStatus
) -> None:
    """Whatever the engine says of a process that had already told its end, the hub keeps the run's word."""
    told = None if state is None else engine(state)
    action = decide(Situation(told, HubState(status), engine_s=1e6, hub_s=1e6, known=False), LIMITS, NAMES)
    assert isinstance(action, Finish)
    assert (action.note is not None) == (state is EngineState.STOPPED and status is ModelStatus.ERROR)


@pytest.mark.parametrize("state", [EngineState.WAITING, EngineState.RUNNING])
@pytest.mark.parametrize("status", sorted(TERMINAL_STATUSES))
def test_an_end_is_looked_at_again_while_the_engine_runs_the_job(state: EngineState, status: ModelStatus) -> None:
    """Of a model that was submitted again the hub may still tell the earlier run's end."""
    assert isinstance(judged(state, HubState(status), hub_s=59.0), Wait)
    assert judged(state, HubState(status), hub_s=60.0) == Finish()


def test_a_stop_puts_right_the_error_of_a_lost_engine() -> None:
    """A bare `flwr stop` while nobody could report is no failure; the hub allows ERROR to become STOPPED."""
    assert judged(EngineState.STOPPED, LOST) == Write(ModelStatus.STOPPED, f"stopped at Flower; {NOTICED_BY}")
    assert isinstance(judged(EngineState.RUNNING, LOST, hub_s=1.0), Wait)
    assert judged(EngineState.RUNNING, LOST, hub_s=60.0) == Finish()
    for state in (EngineState.FAILED, EngineState.COMPLETED, EngineState.UNREACHABLE, EngineState.UNKNOWN):
        assert judged(state, LOST) == Finish()


@pytest.mark.parametrize("state", [EngineState.UNKNOWN, EngineState.REFUSED])
def test_a_run_that_the_engine_never_knew_is_refused_and_nothing_is_written(state: EngineState) -> None:
    """A mistyped run id or connection must not end a healthy model at the hub."""
    action = judged(state, known=False, engine_s=1e6, details="why")
    assert action == Refuse(unknown=state is EngineState.UNKNOWN, problem="why")


def test_every_situation_has_a_decision() -> None:
    """A pair that nobody thought of must not end the watchdog with an exception."""
    hubs = [None, LOST, *(HubState(status) for status in ModelStatus)]
    engines = [None, *(engine(state) for state in EngineState)]
    outboxes = [None, *OutboxState]
    for hub, told, outbox, seconds, known in itertools.product(
        hubs, engines, outboxes, (0.0, 30.0, 1e6), (True, False)
    ):
        seen = Situation(told, hub, outbox, engine_s=seconds, hub_s=seconds, known=known)
        first = decide(seen, LIMITS, NAMES)
        assert first == decide(replace(seen), LIMITS, NAMES)
        if isinstance(first, Write):
            assert hub is not None
            assert not hub.status.is_terminal or hub.loss


# -- what flwr answers ----------------------------------------------------------------------------------------------


def answer(status: str, details: str = "N/A", run: str = "924423456157469081") -> str:
    """The answer of flwr 1.41 about one run, shortened to the fields that are read and some that are not."""
    row = {"run-id": run, "fab-id": "flip/flipapp", "status": status, "status-details": details, "elapsed": 1.27}
    return json.dumps({"success": True, "runs": [row]}, indent=2)


def refused(message: str) -> str:
    return json.dumps({"success": False, "error-message": message}, indent=2)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (answer("pending"), EngineState.WAITING),
        (answer("starting"), EngineState.WAITING),
        (answer("running"), EngineState.RUNNING),
        (answer("finished:completed"), EngineState.COMPLETED),
        (answer("finished:failed"), EngineState.FAILED),
        (answer("finished:stopped"), EngineState.STOPPED),
        ("🎉 a newer version of flwr\n" + answer("running"), EngineState.RUNNING),
        (answer("finished:vanished"), EngineState.REFUSED),
        (answer("running", run="1"), EngineState.UNKNOWN),
        ('{"success": true, "runs": []}', EngineState.UNKNOWN),
        (
            refused("Using SuperLink: net (127.0.0.1:1)\n Displaying run ID 5...\n\n[code: 16] Run ID not found."),
            EngineState.UNKNOWN,
        ),
        (
            refused("Using SuperLink: net\n\nConnection to the SuperLink is unavailable. Please check your network"),
            EngineState.UNREACHABLE,
        ),
        (refused("SuperLink connection 'nosuch' not found in the Flower configuration file"), EngineState.REFUSED),
        ("Traceback (most recent call last):", EngineState.REFUSED),
        ("", EngineState.REFUSED),
        ("{", EngineState.REFUSED),
        ("[]", EngineState.REFUSED),
        ('{"success": true}', EngineState.UNKNOWN),
        ('{"success": true, "runs": [null, 5]}', EngineState.UNKNOWN),
    ],
)
def test_every_answer_of_flwr_is_one_state(text: str, state: EngineState) -> None:
    """flwr exits 0 whatever happened: the document alone says whether it was an answer, and none may raise."""
    assert read_answer(text, "924423456157469081").state is state


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ("N/A", ""),
        ("", ""),
        (
            "No heartbeat received from the task",
            "the ServerApp's process was lost: no heartbeat received from the task",
        ),
        (
            "ServerApp failed with exception: invalid literal for int() with base 10: 'Jane Doe'",
            "ServerApp failed with exception: invalid literal for int() with base 10: <value>",
        ),
        (
            f"ServerApp failed with exception: no scan for {PATIENT}",
            "ServerApp failed with exception: <message withheld: 24 characters>",
        ),
        (f"patient {PATIENT}", "<message withheld: 20 characters>"),
    ],
)
def test_status_details_reach_the_hub_without_a_value(details: str, words: str) -> None:
    """The details are an exception's whole text, written by an app: only known words of it may leave."""
    assert details_words(details) == words
