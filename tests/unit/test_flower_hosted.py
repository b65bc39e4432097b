"""What a server and a ServerApp's process say to each other: values without pickle, questions in questions."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Result
from hypothesis import given, settings
from hypothesis import strategies as some

from flip_fl.flower.hosted_peer import Peer, PeerGone, PeerRefused
from flip_fl.flower.hosted_values import value_from_bytes, value_to_bytes
from flip_fl.flower.private import acting_as, name_message

PLAIN = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text() | some.binary(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text() | some.integers(), inner) | some.tuples(inner),
    max_leaves=12,
)


@given(PLAIN)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    """Keys that are numbers, tuples and bytes included, which JSON alone would change."""
    assert value_from_bytes(value_to_bytes(value)) == value


@given(some.binary(max_size=200), some.integers(0, 200), some.integers(0, 255))
@settings(max_examples=300)
def test_garbage_is_refused_and_never_run(noise: bytes, place: int, byte: int) -> None:
    """An app's process may send anything: it is a value, or a ValueError, and nothing else."""
    good = bytearray(value_to_bytes({"a": [1, b"xy"], "r": ArrayRecord([np.ones(2)])}))
    good[place % len(good)] = byte
    for data in (noise, bytes(good), bytes(good[:place])):
        with contextlib.suppress(ValueError):
            value_from_bytes(data)


def test_records_results_and_messages_come_back_as_they_were() -> None:
    """To the bit, with their ids; the one model in many messages is sent once."""
    model = ArrayRecord([np.arange(50_000, dtype=np.float32), np.array([7], dtype=np.int64)])
    content = RecordDict({"arrays": model, "config": ConfigRecord({"server-round": 3, "b": b"x", "s": ["a"]})})
    with acting_as(run_id=1, node_id=2, task_id=3):
        messages = [Message(content, 10 + number, "train") for number in range(20)]
    name_message(messages[0], "f" * 64)
    data = value_to_bytes(messages)
    assert len(data) < 1.2 * 200_000
    back = value_from_bytes(data)
    assert [each.metadata.dst_node_id for each in back] == list(range(10, 30))
    assert back[0].metadata.message_id == "f" * 64
    for each in back:
        assert each.content["config"] == content["config"]
        for was, now in zip(model.values(), each.content["arrays"].values(), strict=True):
            assert (was.dtype, was.shape, was.data) == (now.dtype, now.shape, now.data)
    result = Result(model, {1: MetricRecord({"loss": 0.1, "many": [1.0, 2.0]})}, {}, {0: MetricRecord({"n": 3})})
    again = value_from_bytes(value_to_bytes(result))
    assert (again.train_metrics_clientapp, again.evaluate_metrics_serverapp) == (
        result.train_metrics_clientapp,
        result.evaluate_metrics_serverapp,
    )
    state = {"m": np.arange(6.0).reshape(2, 3), "t": np.float32(0.5)}
    back = value_from_bytes(value_to_bytes(state))
    assert back["m"].tolist() == state["m"].tolist()
    assert type(back["t"]) is np.float32


@pytest.mark.parametrize("value", [object(), {1, 2}, [np.array([object()])], 1j])
def test_what_has_no_form_is_refused_where_it_is_said(value: object) -> None:
    """Not later, by somebody who cannot know what it was."""
    with pytest.raises(ValueError, match="has no form in which it could be sent"):
        value_to_bytes(value)


Talk = Callable[[dict[str, Callable[..., Any]], Callable[[Peer], Any]], Peer]


@pytest.fixture
def talk() -> Iterator[Talk]:
    """A peer whose other end does, in a thread, what a test says."""
    ends: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(handlers: dict[str, Callable[..., Any]], other: Callable[[Peer], Any]) -> Peer:
        here, there = socket.socketpair()
        ends.extend((here, there))

        def work() -> None:
            peer = Peer(there, {"double": lambda x: 2 * x, "ask back": lambda: peer.call("name") + "!"}, str)
            other(peer)
            there.close()

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return Peer(here, handlers, lambda error: f"{type(error).__name__}: {error}")

    yield start
    for end in ends:
        end.close()
    for thread in threads:
        thread.join(60)


def test_a_question_may_be_asked_while_another_one_is_answered(talk: Talk) -> None:
    """The server asks a strategy, which asks for the nodes, before it answers."""

    def other(peer: Peer) -> None:
        peer.over([peer.call("start", 3), "done"])

    def start(number: int) -> list[Any]:
        return [here.call("double", number), here.call("ask back")]

    here = talk({"start": start, "name": lambda: "server"}, other)
    assert here.serve() == [[6, "server!"], "done"]


def test_what_one_end_raises_is_told_in_its_words(talk: Talk) -> None:
    """And the conversation goes on: nobody waits for an answer that will not come."""
    refusals: list[Any] = []

    def other(peer: Peer) -> None:
        for name in ("fails", "unheard of", "gives what cannot be sent"):
            with pytest.raises(PeerRefused) as refused:
                peer.call(name)
            refusals.append(refused.value.why)
        peer.over("went on")

    here = talk({"fails": lambda: 1 / 0, "gives what cannot be sent": object}, other)
    assert here.serve() == "went on"
    assert [each.partition(":")[0] for each in refusals] == ["ZeroDivisionError", "LookupError", "ValueError"]


@pytest.mark.parametrize("other", [lambda peer: None, lambda peer: peer._send(b"12345678rubbish")])
def test_an_end_that_goes_or_talks_rubbish_is_an_error(talk: Talk, other: Callable[[Peer], Any]) -> None:
    """A process that dies, or is no ServerApp of ours, does not hang the run."""
    with pytest.raises(PeerGone):
        talk({}, other).serve()


def test_another_thread_may_not_ask(talk: Talk) -> None:
    """Two questions at once would get each other's answers."""
    problems: list[str] = []

    def other(peer: Peer) -> None:
        def ask() -> None:
            try:
                peer.call("name")
            except RuntimeError as error:
                problems.append(str(error))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        peer.over(None)

    talk({"name": lambda: "server"}, other).serve()
    assert problems == ["the grid can only be used by the thread in which the ServerApp's main function runs"]
