"""What a run behind our grid does with each reply, with each that does not come, and with each that should not."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Strategy

from flip_fl.app.failures import Failure
from flip_fl.flower.arrivals import TOGETHER_S
from flip_fl.flower.attribution import of_error
from flip_fl.flower.grid import FlipGrid, Patience, Phase, Quorum, RoundFailed, RunStopped
from flip_fl.flower.phase import judge
from flip_fl.flower.protocol import (
    ABORTED,
    FAILED,
    LOST,
    QUERY_SLOT,
    QUERY_STAY,
    REJECTED,
    TOO_LARGE,
    SiteReport,
    TaskNote,
    error_reason,
    get_report,
    get_task,
    stamp_slot,
)
from flip_fl.flower.strategy import ObservedStrategy
from flip_fl.reporting import sites_awaited
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.records import Record
from flip_fl.reporting.session import open_reporting
from flip_fl.reporting.store import Store
from flip_fl.values import ModelStatus, Task
from tests.support.flower import direct_grid, initial
from tests.support.flower_link import (
    QUICK,
    Answer,
    Bench,
    Delivery,
    ScriptedLink,
    error,
    good,
    late,
    model,
    never,
    overtaken,
)
from tests.support.reporting import MODEL, settings, wait_until
from tests.support.reporting import QUICK as QUICK_PACE
from tests.support.scripted_hub import scripted_hub

SLOTS = ["Trust_1", "Trust_2"]
TOLERANT = Quorum(min_clients=1, ignore_result_error=True)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)


def bench(folder: Path, *, slots: Sequence[str] = SLOTS, names: Sequence[str] = (), **more: Any) -> Bench:
    """A grid over a scripted link whose sites ``names`` (default: the slots) all answer well unless told otherwise."""
    answers = more.pop("answers", {})
    link = ScriptedLink(names or slots, good, task_type=more.pop("task_type", "flwr-serverapp"), **answers)
    return Bench(link, folder, slots, **more)


def observed(strategy: Strategy, found: Bench) -> ObservedStrategy:
    """``strategy`` as a run wraps it: the dtypes that were sent come back from the aggregation."""

    class Watcher:
        def train_begins(self, number: int) -> None:
            found.grid.expect(Task.TRAIN, number)

        def returned(self, number: int, arrays: ArrayRecord) -> None:
            assert arrays

        def validation_begins(self, number: int) -> None:
            found.grid.expect(Task.VALIDATE, number)

        def aggregated(self, number: int, arrays: ArrayRecord | None) -> None:
            assert arrays is not None

        def scored(self, number: int, arrays: ArrayRecord) -> None:
            assert arrays

    return ObservedStrategy(strategy, Watcher())


def summary(found: Bench) -> list[tuple[Any, ...]]:
    return [(item["event_type"], item["client"], item["global_round"]) for item in found.told("event")]


# -- an ordinary phase --------------------------------------------------------------------------------------------


def test_replies_come_in_slot_order_and_are_told_as_they_arrive(tmp_path: Path) -> None:
    """The order of arrival must not change the model, nor may the story wait for the slowest site."""
    slots = ["Trust_1", "Trust_2", "Trust_10"]
    found = bench(tmp_path, slots=slots, answers={"Trust_1": late(0.4), "Trust_2": late(0.2)})
    assert found.grid.await_sites() == slots
    found.grid.expect(Task.TRAIN, 3)
    replies = found.ask()
    assert [reply.content["flip.site"]["slot"] for reply in replies] == slots
    phase = found.grid.phase
    assert phase is not None
    assert (phase.task, phase.round, phase.asked, list(phase.replies), dict(phase.failures)) == (
        Task.TRAIN,
        3,
        tuple(slots),
        slots,
        {},
    )
    events = found.told("event")
    assert [event["client"] for event in events] == ["Trust_10", "Trust_2", "Trust_1"]
    assert {event["details"]["size_bytes"] for event in events} == {2 * 3 * 4 + 8 + 8}
    seconds = [event["details"]["seconds"] for event in events]
    assert seconds == sorted(seconds)
    assert seconds[-1] >= 0.4
    assert [(item["client"], item["label"], item["global_round"]) for item in found.told("metric")] == [
        (slot, "loss", 3) for slot in reversed(slots)
    ]


def test_what_a_site_says_of_its_work_and_its_clock_is_told(tmp_path: Path) -> None:
    """Seconds of its work beside those of the whole way, its labels, and a clock that is off, with its times put right;
    one that says nothing, or nonsense, is an ordinary site."""

    def says(facts: object) -> Answer:
        def answer(name: str, message: Message) -> Message:
            reply = good(name, message)
            site = reply.content["flip.site"]
            assert isinstance(site, ConfigRecord)
            site["facts"] = json.dumps(facts)
            return reply

        return answer

    then = datetime.now(UTC) - timedelta(hours=1)
    sound = {"seconds": 0.25, "labels": {"benign": 120, "malignant": "withheld"}}
    behind = {**sound, "began": then.isoformat(), "ended": then.isoformat()}
    slots = ["Trust_1", "Trust_2", "Trust_3"]
    found = bench(tmp_path, slots=slots, answers={"Trust_1": says(behind), "Trust_2": says({"seconds": "long"})})
    found.grid.await_sites()
    found.grid.expect(Task.TRAIN, 1)
    found.ask()
    told = {event["client"]: event["details"] for event in found.told("event")}
    assert told["Trust_1"]["computed"] == 0.25
    assert told["Trust_1"]["labels"] == {"benign": 120, "malignant": "withheld"}
    least, most = told["Trust_1"]["clock"]
    assert least <= most < -3500
    assert [set(told[slot]) for slot in slots[1:]] == [{"seconds", "size_bytes"}] * 2
    # Sent as of January: an hour later by the server's clock.
    times = {item["client"]: item["at"] for item in found.told("metric")}
    moved, as_sent = (datetime.fromisoformat(times[slot]) for slot in slots[:2])
    assert 3500 < (moved - as_sent).total_seconds() < 3601


def test_sites_are_told_who_they_are_and_keep_the_strategys_records(tmp_path: Path) -> None:
    """The note of slot and round rides beside what the strategy sends, which stays the strategy's own."""
    found = bench(tmp_path)
    content = RecordDict({"arrays": model(), "config": ConfigRecord({"lr": 0.1})})
    messages = [Message(content, node_id, MessageType.TRAIN) for node_id in found.grid.get_node_ids()]
    found.grid.expect(Task.TRAIN, 2)
    found.grid.send_and_receive(messages)
    assert [get_task(sent.content) for sent in found.link.pushed] == [TaskNote(slot, 2, 3) for slot in SLOTS]
    assert (list(content), dict(content["config"])) == (["arrays", "config"], {"lr": 0.1})
    assert all(sent.content["arrays"] is content["arrays"] for sent in found.link.pushed)


def test_a_message_lives_as_long_as_its_phase(tmp_path: Path) -> None:
    """Flower throws a reply away after 12 hours; a phase may last 24."""
    found = bench(tmp_path, patience=Patience(start_timeout_s=1, phase_timeout_s=86_400, poll_s=0.01))
    found.ask()
    assert all(sent.metadata.ttl > 86_400 for sent in found.link.pushed)


def test_validation_tells_metrics_but_no_model(tmp_path: Path) -> None:
    """Only training returns weights; the round on the page counts those."""
    found = bench(tmp_path)
    found.ask(MessageType.EVALUATE, 2)
    assert found.grid.phase is not None
    assert (found.grid.phase.task, found.grid.phase.round) == (Task.VALIDATE, 2)
    assert found.told("event") == []
    assert len(found.told("metric")) == 2


def test_a_phase_in_which_nobody_is_asked_is_none(tmp_path: Path) -> None:
    """``fraction_evaluate=0`` is the strategy's decision, and no failure."""
    found = bench(tmp_path)
    found.grid.expect(Task.VALIDATE, 1)
    assert found.grid.send_and_receive([]) == []
    assert found.grid.phase == Phase(Task.VALIDATE, 1)


def test_a_round_that_trains_nobody_ends_the_run(tmp_path: Path) -> None:
    """With ``fraction_train=0`` a run once stored the untrained model as its result."""
    found = bench(tmp_path, quorum=TOLERANT)
    strategy = FedAvg(fraction_train=0.0, min_train_nodes=0)
    with pytest.raises(RoundFailed, match=r"^the strategy asked nobody in train, round 1: check its fraction_train$"):
        observed(strategy, found).start(found.grid, model(), num_rounds=2)


def test_a_strategy_that_samples_must_be_allowed_to(tmp_path: Path) -> None:
    """Half the sites are enough where the job says so, and only there."""
    sample = {"fraction_train": 0.5, "min_train_nodes": 1, "fraction_evaluate": 0.0, "min_evaluate_nodes": 0}
    found = bench(tmp_path)
    with pytest.raises(RoundFailed, match=r"^1 of the 2 sites that the job needs returned; the strategy asked Trust"):
        observed(FedAvg(**sample), found).start(found.grid, model(), num_rounds=1)
    found = bench(tmp_path / "allowed", quorum=Quorum(min_clients=1))
    assert observed(FedAvg(**sample), found).start(found.grid, model(), num_rounds=1).arrays


def test_flowers_own_strategy_runs_over_apps_that_are_not_ours(tmp_path: Path) -> None:
    """Wrapping alone brings the metrics of any ClientApp to the hub, with the site and round of the server's word."""
    found = Bench(direct_grid(2), tmp_path, SLOTS)
    each = {"min_train_nodes": 2, "min_evaluate_nodes": 2, "min_available_nodes": 2}
    observed(FedAvg(**each), found).start(found.grid, initial(), num_rounds=2)
    assert [(item["client"], item["label"], item["global_round"], item["task"]) for item in found.told("metric")] == [
        (slot, label, number, task)
        for number in (1, 2)
        for label, task in (("train_loss", "train"), ("loss", "validate"))
        for slot in SLOTS
    ]
    assert len(found.told("event")) == 4
    assert found.failures == []


def test_metrics_that_differ_between_sites_do_not_end_the_run(tmp_path: Path) -> None:
    """Flower refuses to aggregate replies with different keys; the site's own reports and the phase keep them all."""
    odd = {"Trust_2": lambda name, message: good(name, message, f1=0.9)}
    found = bench(tmp_path, answers=odd)
    each = {"min_train_nodes": 2, "min_evaluate_nodes": 2, "min_available_nodes": 2}
    result = observed(FedAvg(**each), found).start(found.grid, model(), num_rounds=2)
    assert sorted(result.train_metrics_clientapp[2]) == ["loss"]
    assert found.grid.phase is not None
    assert sorted(found.grid.phase.replies["Trust_2"].content["metrics"]) == ["f1", "loss", "num-examples"]
    notes = [row["log"] for row in found.told("log") if row["success"]]
    assert notes == ["left out of the aggregate from train, round 1, because the sites differ in them: 'f1' (Trust_1)"]


def test_a_validation_without_examples_gives_the_strategy_nothing_to_divide_by(tmp_path: Path) -> None:
    """Flower divides by the sum of the weights; no examples anywhere is no score, not a dead run."""
    empty = {slot: lambda name, message: good(name, message, **{"num-examples": 0}) for slot in SLOTS}
    found = bench(tmp_path, answers=empty)
    assert found.ask(MessageType.EVALUATE) == []
    assert found.grid.phase is not None
    assert list(found.grid.phase.replies) == SLOTS


# -- replies that are none ----------------------------------------------------------------------------------------


def test_a_site_that_claims_to_be_another_is_refused_and_stored_under_no_name(tmp_path: Path) -> None:
    """Once a client could write another hospital's curve by naming it in its reply."""
    liar = {"Trust_2": lambda name, message: good(name, message, claim="Trust_1")}
    found = bench(tmp_path, answers=liar)
    with pytest.raises(RoundFailed, match="Trust_2 in train, round 1: Trust_2 claims to be Trust_1: refused"):
        found.ask()
    assert found.failures == [("Trust_2", "Trust_2 claims to be Trust_1: refused")]
    assert [item["client"] for item in found.told("metric")] == ["Trust_1"]
    assert [event["client"] for event in found.told("event")] == ["Trust_1"]


@pytest.mark.parametrize("key", ["site", "client_name"])
def test_the_claim_of_an_app_that_is_not_ours_is_compared_too(tmp_path: Path, key: str) -> None:
    """Other FLIP apps say in ``config`` who they are; an echo of what the strategy put there is no claim."""

    def foreign(name: str, message: Message, **said: Any) -> Message:
        content = RecordDict({"arrays": model(1.0), "metrics": MetricRecord({"num-examples": 10, "loss": 0.5})})
        content["config"] = ConfigRecord({**message.content.config_records["config"], **said})
        return Message(content, reply_to=message)

    liar = {
        "Trust_1": lambda name, message: foreign(name, message, **{key: "Trust_1"}),
        "Trust_2": lambda name, message: foreign(name, message, **{key: "Trust_1"}),
        "Trust_3": lambda name, message: foreign(name, message, **{key: 3}),
    }
    found = bench(tmp_path, slots=[*SLOTS, "Trust_3"], answers=liar, quorum=TOLERANT)
    assert [reply.content["flip.site"]["slot"] for reply in found.ask()] == ["Trust_1", "Trust_3"]
    assert found.failures == [("Trust_2", "Trust_2 claims to be Trust_1: refused")]
    assert [item["client"] for item in found.told("metric")] == ["Trust_1", "Trust_3"]


@pytest.mark.parametrize("name", ["flip.site", "flip.series", "flip.943 476 5919"])
@pytest.mark.parametrize("kind", ["arrays", "metrics"])
def test_a_record_in_the_place_of_ours_costs_one_reply(tmp_path: Path, name: str, kind: str) -> None:
    """Our own record took the place of the model, after the check, and the strategy raised: the run was over."""

    def misplaced(site: str, message: Message) -> Message:
        content = RecordDict({"arrays": model(1.0), "metrics": MetricRecord({"num-examples": 10, "loss": 0.5})})
        content[name] = content.pop(kind)
        return Message(content, reply_to=message)

    found = bench(tmp_path, answers={"Trust_2": misplaced}, quorum=TOLERANT)
    result = observed(FedAvg(min_train_nodes=1, fraction_evaluate=0, min_evaluate_nodes=0), found).start(
        found.grid, model(), num_rounds=1
    )
    assert result.arrays
    said = "one named 'flip.…'" if "943" in name else f"'{name}'"
    assert found.failures == [("Trust_2", f"the result of Trust_2 is rejected: its record {said} is no ConfigRecord")]
    assert [item["client"] for item in found.told("metric")] == ["Trust_1"]
    found.link.answers["Trust_2"] = overtaken(misplaced)
    found.ask(timeout=0.03)
    found.link.answers["Trust_1"] = found.link.answers["Trust_2"] = late(0.15)
    found.ask(number=2)
    assert [text for _, text in found.failures].count(found.failures[0][1]) == 2


def test_forged_sizes_of_a_late_reply_are_not_believed(tmp_path: Path) -> None:
    """Nobody checks a late model; its size at the hub is what came."""

    def huge(name: str, message: Message) -> Message:
        reply = good(name, message)
        for array in reply.content["arrays"].values():
            array.shape, array.dtype = (2**31 - 1,) * 300, "(2,-1)f4"
        return reply

    found = bench(tmp_path, answers={"Trust_2": overtaken(huge)}, quorum=TOLERANT)
    found.ask(timeout=0.03)
    found.link.answers["Trust_2"] = late(0.15)
    found.ask(number=2)
    late_one = [event for event in found.told("event") if (event["client"], event["global_round"]) == ("Trust_2", 1)]
    assert [event["details"]["size_bytes"] for event in late_one] == [2 * 3 * 4 + 8 + 8]


def test_names_of_metrics_that_look_like_data_stay_away_from_the_hub(tmp_path: Path) -> None:
    """A foreign app's name is free text: it is neither stored nor shown, and it is said that there was one."""

    def leaks(name: str, message: Message) -> Message:
        metrics = MetricRecord({"num-examples": 10, "loss": 0.5, SECRET: 1.0, f"loss@{SECRET}": 1.0})
        return Message(RecordDict({"arrays": model(1.0), "metrics": metrics}), reply_to=message)

    found = bench(tmp_path, answers={"Trust_2": leaks})
    assert sorted(found.ask()[1].content["metrics"]) == ["loss", "num-examples"]
    assert {item["label"] for item in found.told("metric")} == {"loss"}
    assert [row["log"] for row in found.told("log")] == [
        "2 metrics of this reply have names that may not leave the trust: not stored",
        "left out of the aggregate from train, round 1, because the sites differ in them: 2 whose names cannot be"
        " shown",
    ]


def test_each_way_of_failing_is_told_in_its_own_words(tmp_path: Path) -> None:
    """One site raises, one is lost, one answers nonsense, one nothing at all; the others' work is kept."""
    failure = Failure("Trust_2", "train", 1, "ValueError", "Traceback (most recent call last):\nValueError: <value>")
    poisoned = model(float("inf"))

    def poison(name: str, message: Message) -> Message:
        reply = good(name, message)
        reply.content["arrays"] = poisoned
        return reply

    slots = [f"Trust_{number}" for number in range(1, 7)]
    answers = {
        "Trust_2": error(FAILED, error_reason("Trust_2", failure=failure)),
        "Trust_3": error(5, "Node Unavailable - The destination node is currently unavailable."),
        "Trust_4": poison,
        "Trust_5": never,
    }
    found = bench(tmp_path, slots=slots, answers=answers, quorum=TOLERANT)
    found.link.refuses = {"Trust_6"}
    replies = found.ask(timeout=0.2)
    assert [reply.content["flip.site"]["slot"] for reply in replies] == ["Trust_1"]
    told = dict(found.failures)
    assert told == {
        "Trust_2": "In train, round 1:\nTraceback (most recent call last):\nValueError: <value>",
        "Trust_3": "Trust_3 in train, round 1: the node is not connected any more (its SuperNode has ended, is offline"
        " or was unregistered)",
        "Trust_4": "the result of Trust_4 is rejected: 'weight' holds NaN or infinity",
        "Trust_5": "Trust_5 in train, round 1: no reply within 0.2 s",
        "Trust_6": "Trust_6 in train, round 1: the SuperLink did not take the message",
    }
    assert found.grid.phase is not None
    assert dict(found.grid.phase.failures) == {
        "Trust_2": "ValueError: <value>",
        "Trust_3": "the node is not connected any more (its SuperNode has ended, is offline or was unregistered)",
        "Trust_4": "result rejected: 'weight' holds NaN or infinity",
        "Trust_5": "no reply (waited at most 0.2 s)",
        "Trust_6": "the SuperLink did not take the message",
    }
    assert [item["client"] for item in found.told("metric")] == ["Trust_1", "Trust_4"]


def test_a_late_reply_is_told_and_dropped_in_the_phase_that_sees_it(tmp_path: Path) -> None:
    """A straggler's old model must not be averaged into a later round, nor its work vanish without a word."""
    slow = {"Trust_2": overtaken()}
    found = bench(tmp_path, answers=slow, quorum=TOLERANT)
    assert len(found.ask(timeout=0.05)) == 1
    found.link.answers["Trust_2"] = late(0.15)
    replies = found.ask(number=2)
    assert [reply.content["flip.site"]["slot"] for reply in replies] == SLOTS
    # how many seconds after says how busy the machine is
    assert [re.sub(r"after \d+ s", "after 0 s", text) for _, text in found.failures] == [
        "Trust_2 in train, round 1: no reply within 0.05 s",
        "Trust_2 in train, round 1: replied after 0 s, too late: dropped",
    ]
    assert [(item["client"], item["global_round"]) for item in found.told("metric")] == [
        ("Trust_1", 1),
        ("Trust_1", 2),
        ("Trust_2", 1),
        ("Trust_2", 2),
    ]
    assert ("CLIENT_RESULT_RECEIVED", "Trust_2", 1) in summary(found)
    assert found.grid.phase is not None
    assert dict(found.grid.phase.failures) == {}


def test_a_given_up_message_that_the_link_gives_up_too_is_no_second_failure(tmp_path: Path) -> None:
    """The node was told missing already; "node unavailable" a minute later is the same fact."""
    found = bench(tmp_path, answers={"Trust_2": overtaken(error(5))}, quorum=TOLERANT)
    found.ask(timeout=0.03)
    found.link.answers["Trust_2"] = late(0.2)
    found.ask(number=2)
    assert len(found.failures) == 1


def test_a_server_that_was_held_up_still_takes_what_came_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine may stop for seconds just after the server has looked: the last look comes after the phase's end."""
    found = bench(tmp_path, answers={"Trust_2": late(0.1)})
    pull, looked = found.link.pull_messages, []

    def held_up(message_ids: Iterable[str]) -> list[Message]:
        replies = pull(message_ids)
        if not looked:
            time.sleep(0.6)
        looked.append(len(replies))
        return replies

    monkeypatch.setattr(found.link, "pull_messages", held_up)
    assert len(found.ask(timeout=0.5)) == 2
    assert looked == [1, 1]
    assert found.failures == []


def test_doubled_and_foreign_replies_change_nothing(tmp_path: Path) -> None:
    """A reply counts once, for the message that it answers, whatever else the link delivers."""

    def twice(name: str, message: Message) -> list[Delivery]:
        other = Message(RecordDict({"metrics": MetricRecord({"num-examples": 10**9})}), 7, MessageType.TRAIN)
        foreign = Message(RecordDict(), reply_to=other)
        return [
            Delivery(good(name, message), stray=True),
            Delivery(good(name, message, loss=99.0), stray=True),
            Delivery(foreign, stray=True),
        ]

    found = bench(tmp_path, answers={"Trust_1": twice, "Trust_2": late(0.05)})
    replies = found.ask()
    assert [reply.content["metrics"]["loss"] for reply in replies] == [1.0, 0.5]
    assert found.failures == [(None, "a reply that answers none of this run's messages was dropped")]
    assert len(found.told("event")) == 2


def test_a_nodes_own_id_in_a_reply_counts_for_nothing(tmp_path: Path) -> None:
    """Errors that the SuperLink makes for a dead node come from node 1: the message that is answered says whose."""

    def by_link(name: str, message: Message) -> Message:
        reply = Message(Error(5, "x"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = 1
        return reply

    found = bench(tmp_path, answers={"Trust_2": by_link}, quorum=TOLERANT)
    found.ask()
    assert [slot for slot, _ in found.failures] == ["Trust_2"]


def test_reports_in_another_name_are_refused_and_counted(tmp_path: Path) -> None:
    """A site reports for itself only, also when its reply is a failure."""
    mixed = [
        {"kind": "log", "client": "Trust_1", "log": "mine", "at": "2026-01-02T03:04:05Z"},
        {"kind": "log", "client": "Trust_2", "log": "yours", "at": "2026-01-02T03:04:05Z"},
    ]
    reason = error_reason("Trust_1", aborted=True, items=mixed)
    found = bench(tmp_path, answers={"Trust_1": error(ABORTED, reason)}, quorum=TOLERANT)
    found.ask()
    assert [row["log"] for row in found.told("log") if row["success"]] == ["mine"]
    assert found.failures == [
        ("Trust_1", "reporting: 1 reports of Trust_1 were refused: they name another client than Trust_1"),
        ("Trust_1", "Trust_1 in train, round 1: the task was aborted at the site"),
    ]


def test_reports_that_a_reply_lacks_are_told_and_counted(tmp_path: Path) -> None:
    """A site says how many reports its task made: what never came is a row and a loss, beside the failure itself."""
    reason = error_reason("Trust_1", aborted=True, made=12)
    found = bench(tmp_path, answers={"Trust_1": error(ABORTED, reason)}, quorum=TOLERANT)
    found.ask()
    assert found.failures == [
        ("Trust_1", "reporting: 12 of Trust_1's reports of train, round 1 never came"),
        ("Trust_1", "Trust_1 in train, round 1: the task was aborted at the site"),
    ]
    (path,) = tmp_path.rglob("*.sqlite")
    assert Outbox.stats(path).losses == {"missing": 12}


SECRET = "Jane Doe, 943 476 5919"


@pytest.mark.parametrize("code", [*range(9), 42, FAILED, REJECTED, ABORTED, TOO_LARGE, LOST])
def test_what_others_wrote_into_an_error_is_not_repeated(code: int) -> None:
    """Flower's own reason quotes the exception's message, which may hold a patient's row; any app can use our codes."""
    told = of_error(Error(code, SECRET), SiteReport(), slot="Trust_1", task=Task.TRAIN, number=2)
    assert SECRET not in told.text + told.why
    assert told.text == f"Trust_1 in train, round 2: {told.why}"
    assert len(told.why) > 10


def test_of_an_exception_that_flower_reports_the_type_is_told() -> None:
    """Without our mod the type is all that may be said, and it says where to look."""
    reason = f"<class 'app.errors.ShapeError'>:<'{SECRET}'>"
    told = of_error(Error(2, reason), SiteReport(), slot="Trust_1", task=Task.VALIDATE, number=1)
    assert told.why == "ShapeError in the ClientApp; the SuperNode's log has the traceback"
    assert told.text.startswith("Trust_1 in validate, round 1: ShapeError")


# -- whether the run goes on --------------------------------------------------------------------------------------


def phase(usable: Sequence[str], **failures: str) -> Phase:
    asked = tuple(sorted([*usable, *failures]))
    message: Any = None
    return Phase(Task.TRAIN, 2, asked, dict.fromkeys(usable, message), failures)


def test_a_failed_site_ends_the_run_unless_the_job_says_otherwise() -> None:
    """The wording is the same on every engine."""
    with pytest.raises(RoundFailed, match=r"^Trust_2 in train, round 2: boom$"):
        judge(phase(["Trust_1"], Trust_2="boom"), Quorum(min_clients=1), 2)
    note = judge(phase(["Trust_1"], Trust_2="boom"), TOLERANT, 2)
    assert note == "Trust_2 in train, round 2: boom"
    assert judge(phase(SLOTS), Quorum(), 2) is None


def test_below_the_quorum_no_round_is_completed() -> None:
    """A run in which most sites failed once ended as completed, also when the strategy asked too few."""
    with pytest.raises(RoundFailed, match=r"^1 of the 2 sites that the job needs returned; Trust_2 in train"):
        judge(phase(["Trust_1"], Trust_2="boom"), Quorum(2, True), 2)
    with pytest.raises(RoundFailed, match=r"^1 of the 2 sites that the job needs returned; Trust_2 in train"):
        judge(phase(["Trust_1"], Trust_2="boom"), Quorum(0, True), 2)
    with pytest.raises(RoundFailed, match=r"2 of the 3 sites.*; the strategy asked Trust_1, Trust_2 in train, round 2"):
        judge(phase(SLOTS), Quorum(min_clients=3), 2)
    with pytest.raises(RoundFailed, match=r"2 of the 3 sites.*; the strategy asked Trust_1, Trust_2 in train, round 2"):
        judge(phase(SLOTS), Quorum(), 3)
    with pytest.raises(RoundFailed, match=r"^Trust_1 in train, round 2: a; Trust_2 in train, round 2: b$"):
        judge(phase([], Trust_1="a", Trust_2="b"), TOLERANT, 2)


# -- who is there -------------------------------------------------------------------------------------------------


def test_a_run_waits_for_its_sites_with_an_end_and_names_who_is_missing(tmp_path: Path) -> None:
    """A missing node once hung a run for ever; the reason names it, who is there, and who does not count."""
    found = bench(tmp_path, slots=[*SLOTS, "Trust_3"], names=["Trust_1", "", "Trust_3", "Trust_3", "Trust_9"])
    started = time.monotonic()
    with pytest.raises(RoundFailed) as raised:
        found.grid.await_sites()
    assert time.monotonic() - started < 30
    assert str(raised.value) == (
        "Trust_2, Trust_3 not connected after 0.3 s; 3 of the job's sites needed, connected: Trust_1; not used: a node"
        " without a registered name, 2 nodes that are both Trust_3, Trust_9, which is not one of the job's sites"
    )
    rows = [(row["success"], row["log"].partition(" (")[0]) for row in found.told("log")]
    assert sorted(rows) == [
        (False, "connected and not used: 2 nodes that are both Trust_3; nobody can tell which is the site's"),
        (False, "connected and not used: a node without a registered name"),
        (True, "connected and not used: Trust_9, which is not one of the job's sites"),
    ]


def test_a_wait_for_sites_is_told_with_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is there, who is not, how many are needed, until when: once for each change of who is there, and no word of
    sites that come at once."""
    monkeypatch.setattr(sites_awaited, "WORTH_TELLING_S", 0.1)
    patience = replace(QUICK, start_timeout_s=0.6)
    found = bench(tmp_path, names=["Trust_1"], quorum=Quorum(min_clients=1), patience=patience)
    assert found.grid.await_sites() == ["Trust_1"]
    (event,) = found.told("event")
    details = event["details"]
    assert event["event_type"] == "SITES_AWAITED"
    assert (details["there"], details["awaited"], details["needs"]) == (["Trust_1"], ["Trust_2"], 1)
    assert abs(datetime.fromisoformat(details["until"]) - datetime.now(UTC)) < timedelta(seconds=60)
    quick = bench(tmp_path / "quick")
    assert quick.grid.await_sites() == SLOTS
    assert quick.told("event") == []


def test_enough_sites_start_without_the_missing_ones_and_only_they_are_asked(tmp_path: Path) -> None:
    """With ``min_clients`` a run need not wait for everybody for ever; nobody else's node is sampled."""
    found = bench(tmp_path, names=["Trust_2", "Trust_7"], quorum=Quorum(min_clients=1))
    assert found.grid.await_sites() == ["Trust_2"]
    assert [str(node.name) for node in found.grid.get_nodes()] == ["Trust_2"]
    found.ask()
    assert [get_task(sent.content).slot for sent in found.link.pushed] == ["Trust_2"]
    found.link.connect("Trust_1")
    assert [str(node.name) for node in found.grid.get_nodes()] == SLOTS


def test_a_job_that_needs_more_sites_than_it_has_does_not_wait(tmp_path: Path) -> None:
    """No amount of waiting makes two slots three."""
    found = bench(tmp_path, quorum=Quorum(min_clients=3))
    with pytest.raises(RoundFailed, match=r"^the job needs 3 sites and has 2: Trust_1, Trust_2$"):
        found.grid.await_sites()


def test_without_a_list_the_sites_of_the_start_are_the_runs_sites(tmp_path: Path) -> None:
    """Who registers later, under whatever name, does not join a run that has started."""
    found = bench(tmp_path, slots=[], names=["Trust_2", "Trust_1", ""], quorum=Quorum(min_clients=2))
    assert found.grid.await_sites() == SLOTS
    found.link.connect("Trust_3")
    assert [str(node.name) for node in found.grid.get_nodes()] == SLOTS


def test_a_deployment_without_a_list_needs_a_number(tmp_path: Path) -> None:
    """Whoever connected first once trained alone, and the run was a success."""
    found = bench(tmp_path, slots=[], names=["Trust_2"])
    for wait in (found.grid.await_sites, found.grid.get_nodes):
        with pytest.raises(RoundFailed, match=r'flip-slots = "Trust_1,Trust_2", or say with flip-min-clients how many'):
            wait()
    found = bench(tmp_path / "counted", slots=[], names=["Trust_2"], quorum=Quorum(min_clients=2))
    with pytest.raises(RoundFailed, match=r"^too few sites connected after 0.3 s; 2 of the job's sites needed"):
        found.grid.await_sites()


def test_a_local_or_simulated_job_without_a_list_has_all_nodes_there_are(tmp_path: Path) -> None:
    """They know their sites: one that cannot be used is missing, not dispensable."""
    found = Bench(direct_grid(2), tmp_path / "local")
    assert found.grid.await_sites() == SLOTS
    found = simulated(tmp_path / "sound", "Trust_2", "Trust_1", slots=[])
    assert found.grid.await_sites() == SLOTS
    found = simulated(tmp_path / "doubled", "Trust_1", "Trust_2", "Trust_2", slots=[])
    with pytest.raises(RoundFailed, match=r"^too few sites connected.*3 of the job's sites needed, connected: Trust_1"):
        found.grid.await_sites()


def test_a_site_that_comes_back_under_a_new_node_id_is_used(tmp_path: Path) -> None:
    """A re-issued key is a new node; the slot is the same. A second node beside the first is used by nobody."""
    found = bench(tmp_path, quorum=Quorum(min_clients=1, ignore_result_error=True))
    found.ask()
    found.link.disconnect("Trust_2")
    again = found.link.connect("Trust_2")
    assert again in found.grid.get_node_ids()
    found.ask(number=2)
    assert summary(found)[-1] == ("CLIENT_RESULT_RECEIVED", "Trust_2", 2)
    found.link.connect("Trust_2")
    assert [str(node.name) for node in found.grid.get_nodes()] == ["Trust_1"]


def test_a_site_that_is_gone_between_rounds_is_waited_for(tmp_path: Path) -> None:
    """A SuperNode that restarts must not end the run; one that stays away ends it with its name."""
    found = bench(tmp_path)
    found.ask()
    found.link.disconnect("Trust_2")
    with pytest.raises(RoundFailed, match=r"^Trust_2 not connected after 0.3 s; 2 of the job's sites needed"):
        found.ask(number=2)


def test_a_strategy_that_waits_for_more_nodes_than_there_are_is_ended(tmp_path: Path) -> None:
    """Flower's ``sample_nodes`` asks once a second, without an end and without a word to anybody."""
    found = bench(tmp_path)
    strategy = FedAvg(min_available_nodes=3, min_train_nodes=2, min_evaluate_nodes=2)
    with pytest.raises(RoundFailed, match=r"more sites than the 2 that are connected \(Trust_1, Trust_2\)"):
        strategy.start(found.grid, model(), num_rounds=1)
    # A wait that was over does not count for the next one.
    found.grid.expect(Task.TRAIN, 1)
    assert len(found.ask()) == 2


def test_a_message_to_anybody_else_is_not_sent(tmp_path: Path) -> None:
    """A strategy with node ids of its own cannot reach a node that is no participant."""
    found = bench(tmp_path, names=[*SLOTS, "Trust_9"])
    found.grid.get_nodes()
    stranger = found.link.get_node_ids()[-1]
    for send in (found.grid.send_and_receive, found.grid.push_messages):
        with pytest.raises(RoundFailed, match="not one of the job's sites"):
            send([Message(RecordDict({"arrays": model()}), stranger, MessageType.TRAIN)])
    assert found.link.pushed == []


# -- Flower's simulation ------------------------------------------------------------------------------------------


def says(slot: str | None) -> Any:
    """A simulated client: tells its slot when asked, and answers well."""

    def answers(name: str, message: Message) -> Message:
        if message.metadata.message_type == QUERY_SLOT:
            if slot is None:
                return Message(Error(2, "<class 'ValueError'>:<'no function registered'>"), reply_to=message)
            content = RecordDict()
            stamp_slot(content, slot)
            return Message(content, reply_to=message)
        return good(get_task(message.content).slot, message)

    return answers


def simulated(folder: Path, *claims: str | None, **more: Any) -> Bench:
    found = bench(folder, names=[""] * len(claims), task_type="flwr-simulation", **more)
    clients = iter([says(claim) for claim in claims])
    by_node = {node.node_id: next(clients) for node in found.link.nodes}
    found.link._default = lambda name, message: by_node[message.metadata.dst_node_id](name, message)
    return found


def test_simulated_sites_are_asked_once_who_they_are(tmp_path: Path) -> None:
    """Only a client knows its partition there; two that say the same, or somebody else's name, are not used."""
    found = simulated(tmp_path, "Trust_2", "Trust_1", "Trust_3", "Trust_3", "Trust_9", slots=[*SLOTS, "Trust_3"])
    with pytest.raises(RoundFailed, match=r"^Trust_3 not connected after 0.3 s.*both Trust_3, Trust_9, which"):
        found.grid.await_sites()
    assert len(found.link.pushed) == 5


def test_a_simulated_round_is_attributed_by_what_the_clients_said(tmp_path: Path) -> None:
    """The partition's slot is the site's name in the story, whichever node id it got."""
    found = simulated(tmp_path, "Trust_2", "Trust_1")
    assert found.grid.await_sites() == SLOTS
    found.ask()
    assert sorted(event["client"] for event in found.told("event")) == SLOTS
    asked = {get_task(sent.content).slot: sent.metadata.dst_node_id for sent in found.link.pushed[2:]}
    assert asked == dict(zip(reversed(SLOTS), found.link.get_node_ids(), strict=True))


def test_simulated_apps_that_are_not_ours_get_the_slots_in_order(tmp_path: Path) -> None:
    """Wrapping any strategy must work in the simulation of an app that never heard of slots."""
    found = simulated(tmp_path, None, None)
    assert found.grid.await_sites() == SLOTS
    assert len(found.ask()) == 2


# -- stopping and waiting -----------------------------------------------------------------------------------------


def test_a_stop_at_the_hub_ends_the_wait_within_a_second(tmp_path: Path) -> None:
    """Somebody who presses stop must not wait for the slowest site; the end is STOPPED, not a failure."""
    with scripted_hub() as hub:
        reporting = open_reporting(settings(hub.url), MODEL, tmp_path, pace=QUICK_PACE)
        link = ScriptedLink(SLOTS, never)
        grid = FlipGrid(link, reporting, slots=SLOTS, patience=Patience(poll_s=30))
        messages = [Message(RecordDict({"arrays": model()}), node, MessageType.TRAIN) for node in grid.get_node_ids()]
        reporting.lifecycle.initiated()
        hub.stop_model = True
        reporting.reporter.log("the next answer says stop")
        wait_until(lambda: hub.stored != [])
        started = time.monotonic()
        with pytest.raises(RunStopped, match="stopped at the hub"):
            grid.send_and_receive(messages)
        assert time.monotonic() - started < 20  # not for as long as between two looks at the sites
        assert reporting.lifecycle.cause is ModelStatus.STOPPED
        for wait in (grid.get_node_ids, grid.await_sites):
            with pytest.raises(RunStopped):
                wait()
        reporting.close()


def test_sites_that_hear_of_the_stop_first_do_not_make_it_a_failure(tmp_path: Path) -> None:
    """Somebody stops the run, the sites end their tasks before the hub could tell the server: STOPPED all the same."""
    with scripted_hub() as hub:
        reporting = open_reporting(settings(hub.url), MODEL, tmp_path, pace=QUICK_PACE)
        aborted = error(ABORTED, error_reason("", aborted=True))
        grid = FlipGrid(ScriptedLink(SLOTS, aborted), reporting, slots=SLOTS, patience=Patience(poll_s=0.05))
        messages = [Message(RecordDict({"arrays": model()}), node, MessageType.TRAIN) for node in grid.get_node_ids()]
        reporting.lifecycle.initiated()
        hub.stop_model = True
        with pytest.raises(RunStopped, match="stopped at the hub"):
            grid.send_and_receive(messages)
        assert reporting.lifecycle.cause is ModelStatus.STOPPED
        reporting.close()


def test_waiting_for_a_site_costs_no_processor(tmp_path: Path) -> None:
    """A round may last hours: the server looks now and then, and answers of other sites are told at once."""
    found = bench(tmp_path, answers={"Trust_2": late(0.4)}, patience=Patience(1, 5, poll_s=0.1))
    used, begun = time.process_time(), time.monotonic()
    found.ask()
    assert found.link.pulls <= 8
    assert time.process_time() - used < (time.monotonic() - begun) / 2


def test_sites_that_wait_for_others_hear_that_the_run_goes_on(tmp_path: Path) -> None:
    """Who has trained and waits for a slow site is told to keep its images, again and again; the slow one is let
    alone, what is answered is taken from the link, and nothing of it is told or counted.
    """
    patience = Patience(1, 5, poll_s=0.02, stay_every_s=0.1)
    found = bench(tmp_path, answers={"Trust_2": late(1.5)}, patience=patience)
    assert len(found.ask()) == 2
    asked = [message for message in found.link.pushed if message.metadata.message_type == QUERY_STAY]
    assert len(asked) >= 2
    (first,) = [node.node_id for node in found.link.nodes if node.name == "Trust_1"]
    assert {message.metadata.dst_node_id for message in asked} == {first}
    assert found.link.left <= 1
    assert len(found.told("metric")) == 2


def test_a_link_that_refuses_such_a_word_costs_nothing(tmp_path: Path) -> None:
    """The word is a kindness: a round does not end because it could not be said."""

    class Deaf(ScriptedLink):
        def push_messages(self, messages: Any) -> list[Any]:
            messages = list(messages)
            if any(message.metadata.message_type == QUERY_STAY for message in messages):
                raise ConnectionError
            return super().push_messages(messages)

    link = Deaf(SLOTS, good, Trust_2=late(0.3))
    found = Bench(link, tmp_path, SLOTS, patience=Patience(1, 5, poll_s=0.02, stay_every_s=0.05))
    assert len(found.ask()) == 2


def test_a_signal_ends_a_wait_untouched(tmp_path: Path) -> None:
    """Flower stops a ServerApp with SystemExit in the main thread: it must reach whoever reports the end."""

    class Interrupted(ScriptedLink):
        def pull_messages(self, message_ids: Any) -> list[Message]:
            super().pull_messages(message_ids)
            raise SystemExit(0)

    found = Bench(Interrupted(SLOTS, good), tmp_path, SLOTS)
    with pytest.raises(SystemExit):
        found.ask()


def test_queries_of_a_strategy_are_passed_on_as_they_are(tmp_path: Path) -> None:
    """A query is no phase of a round: errors included, its replies are the strategy's own business."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Any) -> Message:
        if context.node_config["number"] == 2:
            raise ValueError("not me")
        return Message(RecordDict({"answer": MetricRecord({"n": 7})}), reply_to=message)

    found = Bench(direct_grid(2, app), tmp_path, SLOTS)
    messages = [Message(RecordDict(), node_id, MessageType.QUERY) for node_id in found.grid.get_node_ids()]
    replies = found.grid.send_and_receive(messages)
    assert [reply.has_error() for reply in replies] == [False, True]
    assert found.grid.phase is None
    assert found.told("log") == []
    assert len(list(found.grid.push_messages(messages))) == 2
    assert found.grid.pull_messages([messages[0].metadata.message_id])[0].has_content()


def test_a_check_that_raises_costs_the_run_and_no_report(tmp_path: Path) -> None:
    """What ends a run is the user's own function; what the sites measured in that round is what explains it."""

    def check(sent: Message, reply: Message, task: Task) -> str | None:
        if get_report(reply).claim in SLOTS[:2]:
            raise LookupError(str(get_report(reply).claim))
        return None

    found = Bench(ScriptedLink(SLOTS, good), tmp_path, SLOTS, more={"check": check})
    with pytest.raises(LookupError, match=SLOTS[0]):
        found.ask(number=1)
    assert [row["client"] for row in found.told("metric")] == list(SLOTS)


def test_a_stop_does_not_wait_for_what_is_still_to_be_judged(tmp_path: Path) -> None:
    """Flower kills a stopped ServerApp after five seconds. What the sites have measured is told all the same."""
    judged: list[str | None] = []

    def check(sent: Message, reply: Message, task: Task) -> str | None:
        judged.append(get_report(reply).claim)
        raise SystemExit

    found = Bench(ScriptedLink(SLOTS, good), tmp_path, SLOTS, more={"check": check})
    with pytest.raises(SystemExit):
        found.ask(number=1)
    assert judged == [SLOTS[0]]
    assert [row["client"] for row in found.told("metric")] == list(SLOTS)


@pytest.mark.parametrize("ending", [SystemExit(), RunStopped("a stop")], ids=["engine", "hub"])
def test_a_stop_is_not_made_a_failure_by_what_is_still_to_be_judged(tmp_path: Path, ending: BaseException) -> None:
    """What a check would raise of a reply that came in the last moment is not how the run ended."""

    def check(sent: Message, reply: Message, task: Task) -> str | None:
        raise LookupError("not how it ended")

    class Stopped(ScriptedLink):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            if self.pulls == 1:
                raise ending
            return super().pull_messages(message_ids)

    link = Stopped(SLOTS, never, **{SLOTS[0]: good})
    found = Bench(link, tmp_path, SLOTS, more={"check": check})
    with pytest.raises(type(ending)):
        found.ask(number=1)
    assert [row["client"] for row in found.told("metric")] == [SLOTS[0]]


def test_a_reply_is_judged_before_a_long_wait_for_the_next(tmp_path: Path) -> None:
    """A model of gigabytes comes for minutes: what came before it is told first, and not lost with the process."""
    slots = SLOTS[:2]

    class Slow(ScriptedLink):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            if self.pulls < 2:
                time.sleep(2 * TOGETHER_S)
                seen.append(len(found.told("metric")))
            return super().pull_messages(list(message_ids)[:1])

    seen: list[int] = []
    found = Bench(Slow(slots, good), tmp_path, slots)
    assert len(found.ask(number=1)) == 2
    assert seen == [0, 1]


def test_a_hundred_sites_that_answer_at_once_are_few_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one for each metric, nor one for each site: a round would take seconds. `make bench` has the figure."""
    slots = [f"Trust_{number}" for number in range(1, 101)]
    found = Bench(ScriptedLink(slots, good), tmp_path, slots, patience=QUICK)
    kept: list[int] = []
    append = Store.append

    def counted(store: Store, records: Sequence[Record]) -> int:
        kept.append(sum(record.reports for record in records))
        return append(store, records)

    monkeypatch.setattr(Store, "append", counted)
    assert len(found.ask(number=1)) == 100
    assert sum(kept) >= 100
    assert len(kept) <= 10
    assert len(found.told("metric")) == 100
