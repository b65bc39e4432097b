"""Rounds of secure aggregation at our grid: the model, what the server has received, and sites that fall out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flip_fl.aggregate.fixed_point import encoded, length_of, step_of
from flip_fl.aggregate.optimizers import ServerOptimizer, read_optimizer
from flip_fl.flower.average import SlotOrderFedAvg
from flip_fl.flower.grid import RoundFailed
from flip_fl.flower.phase import Quorum, RunStopped
from flip_fl.flower.protocol import QUERY_KEYS, QUERY_SEAL, QUERY_TELL, SECURE_RECORD, mark_difference
from flip_fl.flower.secure_average import SecureAverage
from flip_fl.flower.secure_site import MASKED
from tests.support.flower import initial, numpy_client
from tests.support.flower_link import Answer, ScriptedLink, never, overtaken
from tests.support.secure import (
    GO_ON,
    REACH,
    STEPS,
    Patience,
    Sites,
    config_of,
    plain_run,
    run_rounds,
    secure_client,
    secure_run,
    slots_of,
)

Arrays = dict[str, np.ndarray[Any, Any]]


def dies(name: str, message: Message) -> Message:
    """The node is gone: what a SuperLink says of it."""
    return Message(Error(5, "Node Unavailable"), reply_to=message)


def assert_same(found: Arrays, expected: Arrays, rounds: int = 1) -> None:
    """Equal within the stated bound: half a step for each round, and what the dtype rounds off."""
    assert {name: array.dtype for name, array in found.items()} == {n: a.dtype for n, a in expected.items()}
    for name, array in expected.items():
        bound = rounds * (step_of(REACH) / 2 + np.finfo(np.float32).eps * 4)
        np.testing.assert_allclose(found[name], array, rtol=0, atol=bound if array.dtype.kind == "f" else 0)


class TestTheModel:
    def test_is_that_of_the_plain_run(self, tmp_path: Path) -> None:
        """Three rounds at three sites: matrix, 0-d float and counter are the plain run's, in their dtypes."""
        secure = secure_run(tmp_path / "a", Sites(secure_client(config_of())), 3, rounds=3)
        assert_same(secure.arrays, plain_run(tmp_path / "b", 3, rounds=3).arrays, rounds=3)
        assert secure.failures == []

    def test_is_that_of_a_server_optimiser_on_the_mean(self, tmp_path: Path) -> None:
        """fed_opt needs the mean and nothing else of the sites: it gives the same model."""

        def optimiser() -> ServerOptimizer:
            return ServerOptimizer(read_optimizer({"name": "sgd", "lr": 0.5, "momentum": 0.9}))

        strategy = SecureAverage(REACH, optimiser())
        secure = secure_run(tmp_path / "a", Sites(secure_client(config_of())), 3, strategy=strategy)
        plain = plain_run(tmp_path / "b", 3, strategy=SlotOrderFedAvg(None, optimiser()))
        assert_same(secure.arrays, plain.arrays, rounds=2)

    def test_may_have_some_megabytes(self, tmp_path: Path) -> None:
        """A model of 6 MB is masked and unmasked in pieces, and is the mean."""
        array = np.linspace(-3, 3, 1_500_000, dtype=np.float32)
        model = ArrayRecord({"weight": Array(array)})
        secure = secure_run(tmp_path / "a", Sites(secure_client(config_of())), 3, rounds=1, model=model)
        assert_same(secure.arrays, plain_run(tmp_path / "b", 3, rounds=1, model=model).arrays)


def test_the_server_receives_masked_numbers_only(tmp_path: Path) -> None:
    """Of a site's update nothing but noise comes: one vector, none of whose numbers are those that it hides."""
    sites = Sites(secure_client(config_of()))
    secure_run(tmp_path / "a", sites, 3, rounds=1)
    plain = Sites(numpy_client())
    trained_plain = run_plain_capture(plain, tmp_path / "b")
    trained = [(name, reply) for name, reply in sites.received if MASKED in _arrays(reply)]
    assert [name for name, _ in trained] == slots_of(3)
    before = {name: array.numpy() for name, array in initial().items()}
    for name, reply in trained:
        (record,) = reply.content.array_records.values()
        assert list(record) == [MASKED]
        vector = record[MASKED].numpy()
        assert (vector.dtype, vector.shape) == (np.uint64, (length_of(before),))
        (metrics,) = reply.content.metric_records.values()
        hidden = encoded(before, trained_plain[name], int(str(metrics["num-examples"])), REACH)
        assert not (vector == hidden).any()
        sent = b"".join(array.data for array in record.values())
        assert all(array.tobytes() not in sent for array in trained_plain[name].values())
    # What else comes are keys, encrypted shares, and shares of which no three are of the same seed.
    others = [reply for _, reply in sites.received if MASKED not in _arrays(reply)]
    assert all(not reply.content.array_records for reply in others)


def run_plain_capture(sites: Sites, folder: Path) -> dict[str, Arrays]:
    """What the sites send without secure aggregation."""
    run_rounds(SlotOrderFedAvg(), ScriptedLink(slots_of(3), sites), folder, 3, 1, secure=False)
    return {name: found for name, reply in sites.received if (found := _arrays(reply))}


def _arrays(reply: Message) -> Arrays:
    records = list(reply.content.array_records.values())
    return {name: array.numpy() for name, array in records[0].items()} if records else {}


@pytest.mark.parametrize("fault", [dies, never])
@pytest.mark.parametrize("step", STEPS)
class TestASiteThatFallsOut:
    def test_is_left_behind_by_the_others(self, step: str, fault: Answer, tmp_path: Path) -> None:
        """Four of five go on, and the model is their mean; who falls out after it has sent is still part of it."""
        sites = Sites(secure_client(config_of()), {("Trust_5", step): fault})
        secure = secure_run(tmp_path / "a", sites, 5, rounds=1, quorum=GO_ON)
        assert_same(secure.arrays, plain_run(tmp_path / "b", 5 if step == QUERY_TELL else 4, rounds=1).arrays)
        ((slot, text),) = secure.failures
        assert (slot, "round 1" in text) == ("Trust_5", True)

    def test_ends_a_run_that_needs_it(self, step: str, fault: Answer, tmp_path: Path) -> None:
        """Where a failed site is an error it is one in each step, with the site's name."""
        sites = Sites(secure_client(config_of()), {("Trust_2", step): fault})
        with pytest.raises(RoundFailed, match=r"Trust_2 in .*, round 1: "):
            secure_run(tmp_path, sites, 4, rounds=1)

    def test_ends_a_run_of_three(self, step: str, fault: Answer, tmp_path: Path) -> None:
        """Whatever the job lets pass, the mean of two is not made; the reason names the site."""
        sites = Sites(secure_client(config_of()), {("Trust_2", step): fault})
        with pytest.raises(RoundFailed, match="Trust_2") as failed:
            secure_run(tmp_path, sites, 3, rounds=1, quorum=Quorum(1, ignore_result_error=True))
        assert "3" in str(failed.value)


def test_a_late_update_opens_nothing_and_stops_nothing(tmp_path: Path) -> None:
    """A site that is given up in one round takes part in the next, with new keys."""
    sites = Sites(secure_client(config_of()))
    first = overtaken(sites.honest)
    asked: list[str] = []

    def slow(name: str, message: Message) -> Any:
        asked.append(name)
        return first(name, message) if len(asked) == 1 else sites.honest(name, message)

    sites.faults = {("Trust_4", "train"): slow}
    secure = secure_run(tmp_path, sites, 4, rounds=2, quorum=GO_ON)
    told = [(slot, text.partition(": ")[2]) for slot, text in secure.failures]
    assert [slot for slot, _ in told] == ["Trust_4", "Trust_4"]
    assert told[0][1].startswith("no reply")
    assert told[1][1].endswith("too late: dropped")
    assert len(asked) == 2


class TestWhatASiteSendsIsChecked:
    @pytest.mark.parametrize("step", [QUERY_KEYS, QUERY_SEAL, QUERY_TELL])
    @pytest.mark.parametrize("said", [None, "{}", "no json", '{"shares": {}}', '{"seeds": {}, "keys": {}}'])
    def test_what_it_says_of_keys_and_shares(self, step: str, said: str | None, tmp_path: Path) -> None:
        """Anything but the step's own form is a failure of that site, at once, and its content is not shown."""

        def wrong(name: str, message: Message) -> Message:
            content = RecordDict({} if said is None else {SECURE_RECORD: ConfigRecord({"json": said})})
            return Message(content, reply_to=message)

        sites = Sites(secure_client(config_of()), {("Trust_2", step): wrong})
        with pytest.raises(RoundFailed, match=r"Trust_2 in .*secure aggregation, round 1: result rejected: its? "):
            secure_run(tmp_path, sites, 4, rounds=1)

    def test_an_update_that_is_not_masked(self, tmp_path: Path) -> None:
        """A site that sends the plain model is refused: the job has promised that it is not used."""
        plain = numpy_client()

        def answer(name: str, message: Message) -> Message:
            other = Sites(plain)
            return other.honest(name, message)

        sites = Sites(secure_client(config_of()), {("Trust_2", "train"): answer})
        with pytest.raises(RoundFailed, match="Trust_2 in train, round 1: result rejected: its update is not masked"):
            secure_run(tmp_path, sites, 3, rounds=1)

    @pytest.mark.parametrize("change", [lambda v: v[:-1], lambda v: v.astype(np.float64), lambda v: v.reshape(1, -1)])
    def test_a_masked_update_of_another_form(self, change: Callable[[Any], Any], tmp_path: Path) -> None:
        """A vector that is not the model's cannot be added up: its site is named."""
        sites = Sites(secure_client(config_of()))

        def answer(name: str, message: Message) -> Message:
            reply = sites.honest(name, message)
            reply.content["arrays"] = ArrayRecord({MASKED: Array(np.ascontiguousarray(change(_arrays(reply)[MASKED])))})
            return reply

        sites.faults = {("Trust_2", "train"): answer}
        with pytest.raises(RoundFailed, match="Trust_2 in train, round 1: result rejected: its masked update"):
            secure_run(tmp_path, sites, 3, rounds=1)

    def test_a_masked_update_that_says_it_is_a_difference(self, tmp_path: Path) -> None:
        """What only plain updates say of themselves is refused, before anything is added to the model with it."""
        sites = Sites(secure_client(config_of()))

        def answer(name: str, message: Message) -> Message:
            reply = sites.honest(name, message)
            mark_difference(reply.content)
            return reply

        sites.faults = {("Trust_2", "train"): answer}
        with pytest.raises(RoundFailed, match="Trust_2 in train, round 1: result rejected: its update is a plain"):
            secure_run(tmp_path, sites, 3, rounds=1)

    def test_a_number_of_examples_that_is_not_the_masked_one(self, tmp_path: Path) -> None:
        """A sum whose weights are not those that were told is no model: the run ends, and nothing wrong is kept."""
        sites = Sites(secure_client(config_of()))

        def answer(name: str, message: Message) -> Message:
            reply = sites.honest(name, message)
            reply.content["metrics"] = MetricRecord({"num-examples": 21})
            return reply

        sites.faults = {("Trust_2", "train"): answer}
        with pytest.raises(RoundFailed, match="the sum of round 1 cannot be unmasked: the weights in the sum"):
            secure_run(tmp_path, sites, 3, rounds=1)


class TestWhatCannotBeMasked:
    @pytest.mark.parametrize(
        ("update", "examples", "words"),
        [
            (np.float32(65), 5, r"changed numbers by more than 64 \(SECURE_AGGREGATION_RANGE\) in 'weight'"),
            (np.float32("nan"), 5, "'weight' holds NaN or infinity"),
            (np.float32("inf"), 5, "'weight' holds NaN or infinity"),
            (np.float32(1), 0, "num_examples is 0; it must be from 1"),
            (np.float32(1), 10**8, r"num_examples is 100000000; at 3 sites it must be at most 44739242"),
            (np.float64(1), 5, "'weight' is float64, the model's is float32"),
        ],
    )
    def test_does_not_leave_the_site(self, update: Any, examples: int, words: str, tmp_path: Path) -> None:
        """Out of range, not finite, of no examples: nothing is clipped in silence, and the run ends with the reason."""
        sites = Sites(_trains(update, examples))
        with pytest.raises(RoundFailed, match=rf"Trust_1 in train, round 1: .*{words}"):
            secure_run(tmp_path, sites, 3, rounds=1)
        assert not [reply for _, reply in sites.received if reply.has_content() and MASKED in _arrays(reply)]


def _trains(update: Any, examples: int) -> ClientApp:
    """Sites whose training gives ``update`` as weights."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Any) -> Message:
        (sent,) = message.content.array_records.values()
        arrays = {name: array.numpy().copy() for name, array in sent.items()}
        arrays["weight"] = np.full(arrays["weight"].shape, update, dtype=np.asarray(update).dtype)
        record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        metrics = MetricRecord({"num-examples": examples})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)

    return secure_client(config_of(), app)


def test_a_server_that_leaves_the_steps_out_gets_nothing(tmp_path: Path) -> None:
    """A site whose app says SECURE_AGGREGATION sends no plain model, whatever the server asks."""
    sites = Sites(secure_client(config_of()))
    with pytest.raises(RoundFailed, match="the update is not sent: the server asks for it without the others' keys"):
        run_rounds(SlotOrderFedAvg(), ScriptedLink(slots_of(3), sites), tmp_path, 3, 1, secure=False)
    assert not [reply for _, reply in sites.received if reply.has_content()]


def test_a_site_whose_app_does_not_ask_for_it_refuses(tmp_path: Path) -> None:
    """Server and sites agree on what is run, or nothing is."""
    with pytest.raises(RoundFailed, match="the server begins secure aggregation, the app does not"):
        secure_run(tmp_path, Sites(secure_client(config_of(secure=False))), 3, rounds=1)


def test_a_site_that_was_started_anew_says_so(tmp_path: Path) -> None:
    """Secrets that went with a process are not made up: the site fails, with that reason."""
    sites = Sites(secure_client(config_of()))

    def forgetful(name: str, message: Message) -> Message:
        sites.contexts.pop(name)
        return sites.honest(name, message)

    sites.faults = {("Trust_3", "train"): forgetful}
    with pytest.raises(RoundFailed, match=r"Trust_3 in train, round 1: .*no keys of the round"):
        secure_run(tmp_path, sites, 3, rounds=1)


def test_a_run_that_begins_again_has_new_keys(tmp_path: Path) -> None:
    """A server that was lost in the middle of a round begins it anew: what sites remember of before is in no way."""
    sites = Sites(secure_client(config_of()), {("Trust_1", QUERY_TELL): dies})
    with pytest.raises(RoundFailed):
        secure_run(tmp_path / "a", sites, 3, rounds=1)
    before = len(sites.received)
    sites.faults = {}
    secure = secure_run(tmp_path / "b", sites, 3, rounds=1)
    assert_same(secure.arrays, plain_run(tmp_path / "c", 3, rounds=1).arrays)
    vectors = [
        _arrays(reply)[MASKED] for _, reply in sites.received if reply.has_content() and MASKED in _arrays(reply)
    ]
    assert (len(vectors), before < len(sites.received)) == (6, True)
    assert not (vectors[0] == vectors[3]).any()


@pytest.mark.parametrize("step", STEPS)
def test_a_stop_at_the_hub_is_obeyed_in_every_step(step: str, tmp_path: Path) -> None:
    """A run that waits for keys or shares is stopped as one that waits for training is."""
    sites = Sites(secure_client(config_of()))
    stopped: list[Any] = []

    def answer(name: str, message: Message) -> None:
        stopped[0].stop_requested = True

    sites.faults = {("Trust_1", step): answer}
    patience = Patience(start_timeout_s=2, phase_timeout_s=60, poll_s=0.01)
    with pytest.raises(RunStopped):
        secure_run(tmp_path, sites, 3, rounds=1, prepare=stopped.append, patience=patience)


def test_a_question_that_the_superlink_does_not_take_is_not_waited_for(tmp_path: Path) -> None:
    """A site that nobody can reach falls out at once, and not after a phase's time."""
    link = ScriptedLink(slots_of(4), Sites(secure_client(config_of())))
    link.refuses = {"Trust_4"}
    patience = Patience(start_timeout_s=2, phase_timeout_s=300, poll_s=0.01)
    ran = run_rounds(SecureAverage(REACH), link, tmp_path, 4, 1, quorum=GO_ON, patience=patience)
    assert ran.failures[0] == (
        "Trust_4",
        "Trust_4 in train, round 1: the SuperLink did not take the message",
    )


def test_a_site_that_is_back_before_anybody_asked_is_not_waited_for(tmp_path: Path) -> None:
    """A SuperNode that was started anew has lost what it was asked: the reason says so, long before a phase's time."""
    link = ScriptedLink(slots_of(4), sites := Sites(secure_client(config_of())))
    for node in link.nodes:
        node.last_activated_at = "2026-01-01T00:00:00Z"

    def restarts(name: str, message: Message) -> None:
        link.nodes[3].last_activated_at = "2026-01-01T00:01:00Z"

    sites.faults = {("Trust_4", QUERY_SEAL): restarts}
    patience = Patience(start_timeout_s=2, phase_timeout_s=300, poll_s=0.01)
    words = "Trust_4 in the shares of secure aggregation, round 1: the site was started anew in the middle of its task"
    with pytest.raises(RoundFailed, match=words):
        run_rounds(SecureAverage(REACH), link, tmp_path, 4, 1, patience=patience)
