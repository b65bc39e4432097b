"""What we use of flwr's private parts does what we rely on: the first tests to fail when flwr moves something."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from flip_fl.flower import private

SERVER = {"run_id": 7, "node_id": private.SERVER_NODE_ID, "task_id": 1}


def _message() -> Message:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.array(3, dtype=np.int64)}
    content = RecordDict(
        {
            "arrays": ArrayRecord(numpy_ndarrays=list(arrays.values()), keep_input=True),
            "metrics": MetricRecord({"num-examples": 4, "loss": [math.nan, 0.5]}),
            "config": ConfigRecord({"server-round": 3, "ids": [b"\x00\xff", b""], "name": "Ünï", "on": True}),
        }
    )
    with private.acting_as(**SERVER):
        message = Message(content, 2**63 + 5, "train.stage", group_id="3")
    private.number_message(message)
    return message


def test_a_message_comes_back_from_its_bytes_as_it_was() -> None:
    """The local sites' pipes carry every kind of record, and the metadata that attributes a reply."""
    sent = _message()
    got = private.message_from_bytes(private.message_to_bytes(sent))
    assert got.metadata == sent.metadata
    assert list(got.content) == list(sent.content)
    before, after = sent.content.array_records["arrays"], got.content.array_records["arrays"]
    assert [(k, a.dtype, a.shape, a.data) for k, a in before.items()] == [
        (k, a.dtype, a.shape, a.data) for k, a in after.items()
    ]
    assert str(got.content["metrics"]) == str(sent.content["metrics"])
    assert dict(got.content.config_records["config"]) == dict(sent.content.config_records["config"])


def test_an_error_reply_comes_back_from_its_bytes_as_it_was() -> None:
    """A failed client is attributed and explained by the error reply alone."""
    sent = Message(Error(1000, "why"), reply_to=_message())
    got = private.message_from_bytes(private.message_to_bytes(sent))
    assert got.error == sent.error
    assert got.metadata.reply_to_message_id == sent.metadata.reply_to_message_id != ""
    assert not got.has_content()


WHOLE = private.message_to_bytes(_message())


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 40, b"not a message", WHOLE[:-1], WHOLE + b"x", WHOLE[:20], bytes(8)],
    ids=["nothing", "ones", "text", "one byte less", "one byte more", "its beginning", "zeros"],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    """What a broken worker writes must not become a message, nor an exception that nobody expects."""
    with pytest.raises(ValueError, match="not a message"):
        private.message_from_bytes(data)


def test_a_message_with_a_large_array_is_not_copied_through_protobuf() -> None:
    """A model of some gigabytes must pass: protobuf alone holds two, and takes seconds for a tenth of that."""
    size = 30_000_000
    with private.acting_as(**SERVER):
        message = Message(RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(size, np.uint8))})}), 5, "train")
    tracemalloc.start()
    data = private.message_to_bytes(message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size < len(data) < size + 1_000
    assert peak < 1.1 * size
    assert private.message_from_bytes(data).content.array_records["arrays"]["w"].numpy().shape == (size,)


def test_what_a_site_needs_of_a_message_to_fail_it_is_kept_without_the_model() -> None:
    """A message that its site will never answer is answered from this; the model itself may be gigabytes."""
    sent = _message()
    kept = private.envelope(sent)
    assert list(kept.content) == ["config"]
    private.number_message(sent)
    assert kept.metadata.message_id != sent.metadata.message_id, "an id given later is of a later message"


def test_a_message_is_made_in_the_name_of_whom_it_acts_for_and_the_identity_is_put_back() -> None:
    """Sites that run in the server's process must not answer, nor go on, in another's name."""
    private.be_task(**SERVER)
    with private.acting_as(run_id=7, node_id=99, task_id=2):
        assert Message(RecordDict(), 1, "query").metadata.src_node_id == 99
    assert Message(RecordDict(), 1, "query").metadata.src_node_id == private.SERVER_NODE_ID
    assert (TaskIdentity.run_id, TaskIdentity.task_id) == (7, 1)


def test_a_message_sent_twice_has_two_ids() -> None:
    """Replies are attributed by the id they answer, also when a strategy sends one object again."""
    message = _message()
    first = message.metadata.message_id
    assert private.number_message(message) == message.metadata.message_id != first
    assert len(first) == 64


def test_ids_are_never_the_servers_and_a_run_says_what_kind_it_is() -> None:
    """A node with the server's id would answer to itself; the run's kind tells a deployment from a simulation."""
    assert {private.new_id() for _ in range(50)}.isdisjoint({0, private.SERVER_NODE_ID})
    run = private.new_run(7, "flip-local", {"a": 1})
    assert (run.run_id, run.primary_task_type, run.override_config) == (7, "flip-local", {"a": 1})
    node = private.node_info(2**64 - 1, "Trust_1")
    assert (node.node_id, node.name, node.status) == (2**64 - 1, "Trust_1", "online")
