"""Replies that would stop a run, or poison its model, are rejected by name; and what the others have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict

from flip_fl.aggregate.average import MAX_EXAMPLES
from flip_fl.flower.align import align
from flip_fl.flower.npy import NpyError, layout_of, view
from flip_fl.flower.private import SERVER_NODE_ID, be_task, number_message
from flip_fl.flower.quarantine import Quarantine, array_bytes
from flip_fl.values import Task
from tests.support.flower_link import model


@pytest.fixture
def sent() -> Message:
    """A train message with the small model."""
    be_task(run_id=1, node_id=SERVER_NODE_ID, task_id=1)
    message = Message(RecordDict({"arrays": model()}), 7, MessageType.TRAIN)
    number_message(message)
    return message


def reply(sent: Message, arrays: ArrayRecord | None = None, **metrics: Any) -> Message:
    content = RecordDict({"metrics": MetricRecord({"num-examples": 10, "loss": 0.5, **metrics})})
    content["arrays"] = model(1.0) if arrays is None else arrays
    return Message(content, reply_to=sent)


def changed(**arrays: Any) -> ArrayRecord:
    """The sound model with some arrays replaced; None removes one."""
    record = model(1.0)
    for name, array in arrays.items():
        if array is None:
            del record[name]
        else:
            record[name] = array if isinstance(array, Array) else Array(array)
    return record


def check_reply(sent: Message, answer: Message, task: Task) -> str | None:
    return Quarantine()(sent, answer, task)


def raw(data: bytes, stype: str = "numpy.ndarray") -> Array:
    return Array(dtype="float32", shape=(2, 3), stype=stype, data=data)


WEIGHT = model()["weight"].data


def version_nine(data: bytes) -> bytes:
    """The same array under a version of the format that numpy refuses to load."""
    return data[:6] + b"\x09\x00" + data[8:10] + b"\x00\x00" + data[10:]


def lying(**facts: Any) -> Array:
    """A sound weight whose facts beside the bytes are ``facts``."""
    array = model(1.0)["weight"]
    array.__dict__.update(facts)
    return array


def test_a_sound_reply_passes_whatever_its_memory_layout(sent: Message) -> None:
    """A transposed array is the same parameter; 0-d arrays and whole-number buffers are parameters, too."""
    assert check_reply(sent, reply(sent), Task.TRAIN) is None
    fortran = np.asfortranarray(np.ones((2, 3), dtype=np.float32))
    assert check_reply(sent, reply(sent, changed(weight=fortran)), Task.TRAIN) is None
    assert array_bytes(reply(sent)) == 2 * 3 * 4 + 8 + 8


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (changed(weight=None), "1 parameters are missing, the first is 'weight'"),
        (changed(extra=np.ones(2)), "1 parameters are not the model's, the first is 'extra'"),
        (changed(weight=np.ones((3, 2), dtype=np.float32)), "'weight' has the shape (3, 2), the model's is (2, 3)"),
        (changed(weight=np.ones((2, 3))), "'weight' is float64, the model's is float32"),
        (changed(weight=np.full((2, 3), np.nan, dtype=np.float32)), "'weight' holds NaN or infinity"),
        (changed(scale=np.array(np.inf)), "'scale' holds NaN or infinity"),
        (changed(weight=raw(b"garbage")), "'weight' cannot be read as an array"),
        (changed(weight=raw(WEIGHT[:-1])), "'weight' is cut off, or longer than it says"),
        (changed(weight=raw(WEIGHT + b"more")), "'weight' is cut off, or longer than it says"),
        (changed(weight=raw(WEIGHT, "torch")), "'weight' is not a numpy array"),
        (changed(weight=raw(WEIGHT.replace(b"'<f4'", b"'|O' "))), "'weight' does not hold plain numbers"),
        (changed(weight=raw(WEIGHT.replace(b"(2, 3)", b"(-2,3)"))), "'weight' does not hold plain numbers"),
        (
            changed(weight=raw(version_nine(WEIGHT))),
            "'weight' is written in version 9.0 of the npy format, which there is not",
        ),
        (changed(weight=lying(dtype="float64")), "'weight' has another dtype or shape than it says"),
        (changed(weight=lying(dtype="(2,-1)f4")), "'weight' has another dtype or shape than it says"),
        (changed(weight=lying(shape=(3, 2))), "'weight' has another dtype or shape than it says"),
        (changed(weight=lying(shape=(2**31 - 1,) * 300)), "'weight' has another dtype or shape than it says"),
        (
            changed(**{"943 476 5919 A. Smith": np.ones(1)}),
            "1 parameters have names that cannot be shown, and are not the model's",
        ),
    ],
)
def test_a_model_unlike_the_one_that_was_sent_is_rejected_by_parameter(
    sent: Message, arrays: ArrayRecord, reason: str
) -> None:
    """Each of these once raised in the aggregation and ended the run, or averaged NaN into everybody's model."""
    assert check_reply(sent, reply(sent, arrays), Task.TRAIN) == reason


@pytest.mark.parametrize(
    ("task", "metrics", "reason"),
    [
        (Task.TRAIN, {"num-examples": 0}, f"num_examples is 0; it must be from 1 to {MAX_EXAMPLES}"),
        (Task.TRAIN, {"num-examples": 10**15}, f"num_examples is {10**15}; it must be from 1 to {MAX_EXAMPLES}"),
        (Task.TRAIN, {"num-examples": 2.5}, "num_examples is a float, not a whole number"),
        (Task.TRAIN, {"num-examples": [3]}, "num_examples is a list, not a whole number"),
        (Task.TRAIN, {"a": [1, 2], "b": [1]}, "its lists of metrics differ in length: 'b' has 1, 'a' has 2"),
        (Task.VALIDATE, {"num-examples": -1}, f"num-examples is -1; it must be from 0 to {MAX_EXAMPLES}"),
        (Task.VALIDATE, {"num-examples": 0.5}, "num-examples is a float, not a whole number"),
        (Task.VALIDATE, {"num-examples": 0}, None),
        (Task.TRAIN, {"loss": float("nan")}, None),
        (Task.TRAIN, {"a": [1, 2], "b": [3.5, 4.5]}, None),
    ],
)
def test_metrics_that_cannot_be_averaged_are_rejected(
    sent: Message, task: Task, metrics: dict[str, Any], reason: str | None
) -> None:
    """A weight of zero divides by zero and an absurd one takes the model over; a NaN metric is only a bad metric."""
    assert check_reply(sent, reply(sent, **metrics), task) == reason


def test_names_of_ragged_metrics_are_shown_only_where_they_are_names(sent: Message) -> None:
    """A metric's name is a client's own text: it must not carry a row of data to the hub."""
    metrics: dict[str, Any] = {"943 476 5919 A. Smith": [1.0], "curve": [1.0, 2.0]}
    assert check_reply(sent, reply(sent, **metrics), Task.TRAIN) == (
        "its lists of metrics differ in length: one whose name cannot be shown has 1, 'curve' has 2"
    )


@pytest.mark.parametrize("facts", [{"dtype": "(2,-1)f4"}, {"dtype": "no dtype"}, {"shape": (2**31 - 1,) * 300}])
def test_a_size_is_counted_from_what_came(sent: Message, facts: dict[str, Any]) -> None:
    """A late reply is not checked; what an array says of itself must neither raise there nor be shown as its size."""
    assert array_bytes(reply(sent, changed(weight=lying(**facts)))) == 2 * 3 * 4 + 8 + 8


@pytest.mark.parametrize(
    ("data", "size"),
    [(b"", 0), (b"\x93NUMPY", 0), (b"\x93NUMPY\x01\x00\xff\xff", 0), (b"abc", 3), (version_nine(WEIGHT), 24)],
)
def test_the_size_of_an_unreadable_array_is_no_more_than_what_came(sent: Message, data: bytes, size: int) -> None:
    """Cut off headers, no headers, headers of unknown versions."""
    assert array_bytes(reply(sent, ArrayRecord({"weight": raw(data)}))) == size


@pytest.mark.parametrize("shape", [(0, 10**18, 10**18), (1,) * 90])
def test_a_shape_that_numpy_cannot_have_is_no_array(shape: tuple[int, ...]) -> None:
    """No elements at all, and still too big; or more dimensions than there are."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(4 * np.prod(shape, dtype=int))
    with pytest.raises(NpyError, match="has a shape that numpy cannot have"):
        view(Array(dtype="float32", shape=shape, stype="numpy.ndarray", data=data))


def _without(name: str) -> Callable[[RecordDict], None]:
    return lambda content: content.__delitem__(name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without("metrics"), "it has 0 MetricRecords, not one"),
        (_without("arrays"), "it has 0 ArrayRecords, not one"),
        (lambda content: content.__setitem__("more", MetricRecord({"a": 1})), "it has 2 MetricRecords, not one"),
        (lambda content: content.__setitem__("more", ArrayRecord()), "it has 2 ArrayRecords, not one"),
        (lambda content: content["metrics"].__delitem__("num-examples"), "its metrics lack 'num-examples'"),
        (lambda content: content.__setitem__("note", ConfigRecord({"any": "thing"})), None),
    ],
)
def test_the_records_of_a_reply_are_counted(
    sent: Message, change: Callable[[RecordDict], None], reason: str | None
) -> None:
    """Flower's strategies raise for a record too many or too few; other config records are nobody's business."""
    found = reply(sent)
    change(found.content)
    assert check_reply(sent, found, Task.TRAIN) == reason
    assert check_reply(sent, Message(Error(2, "x"), reply_to=sent), Task.TRAIN) == "it has no content"


def test_a_strategy_may_weight_by_another_metric(sent: Message) -> None:
    """Flower's ``weighted_by_key`` is free; whatever it is, it must be a positive number."""
    check = Quarantine("share")
    assert check(sent, reply(sent, share=0.25), Task.TRAIN) is None
    assert check(sent, reply(sent), Task.TRAIN) == "its metrics lack 'share'"
    for value in (0.0, -1, float("nan"), float("inf")):
        assert check(sent, reply(sent, share=value), Task.TRAIN) == (
            f"'share' is {value}; replies cannot be weighted by it"
        )
    assert check(sent, reply(sent, share=[1.0]), Task.TRAIN) == "'share' is a list, not a number"
    assert check(sent, reply(sent, share=0), Task.VALIDATE) is None


def test_the_check_follows_the_model_from_round_to_round(sent: Message) -> None:
    """What was remembered of one model must not judge the next one."""
    check = Quarantine()
    assert check(sent, reply(sent), Task.TRAIN) is None
    grown = ArrayRecord({"weight": Array(np.ones((4, 4), dtype=np.float32))})
    other = Message(RecordDict({"arrays": grown}), 7, MessageType.TRAIN)
    number_message(other)
    assert check(other, reply(other, grown), Task.TRAIN) is None
    assert "parameters are missing" not in str(check(sent, reply(sent), Task.TRAIN))
    check.forget()
    assert check(other, reply(other), Task.TRAIN) == "2 parameters are not the model's, the first is 'scale'"


def test_where_no_model_was_sent_what_came_must_still_be_numbers(sent: Message) -> None:
    """Some strategies send no arrays; NaN is no model anywhere."""
    bare = Message(RecordDict(), 7, MessageType.TRAIN)
    number_message(bare)
    assert check_reply(bare, reply(bare), Task.TRAIN) is None
    poisoned = changed(scale=np.array(np.nan))
    assert check_reply(bare, reply(bare, poisoned), Task.TRAIN) == "'scale' holds NaN or infinity"
    # Names may begin with a digit (a sequence's layers), but what is not one of the model is not shown.
    assert check_reply(bare, reply(bare, changed(**{"0.weight": np.ones(2)})), Task.TRAIN) is None
    for array, why in ((np.array(np.nan), "holds NaN or infinity"), (raw(b"garbage"), "cannot be read as an array")):
        hidden = changed(**{"943 476 5919 A. Smith": array})
        told = f"'parameter 1 (its name cannot be shown)' {why}"
        assert check_reply(bare, reply(bare, hidden), Task.TRAIN) == told


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
        np.array(3.5),
        np.zeros((0, 4), dtype=np.float16),
        np.array([1 + 2j]),
        np.array([True, False]),
        np.arange(3, dtype=">f8"),
    ],
)
def test_arrays_are_read_where_they_lie(array: np.ndarray[Any, Any]) -> None:
    """The check must not double the memory of a large model, nor read another number than numpy does."""
    packed = Array(array)
    for like in (None, layout_of(packed), layout_of(Array(np.ones(2)))):
        found = view(packed, like)
        assert found.dtype == array.dtype
        assert np.array_equal(found, packed.numpy())
        assert array.size == 0 or not found.flags.owndata


def test_a_header_of_any_length_does_not_make_the_server_parse_a_book() -> None:
    """The header is a client's text; numpy evaluates it as a literal."""
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 40_000 + b"), }"
    data = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text
    with pytest.raises(NpyError, match="cannot be read"):
        layout_of(raw(data))


# -- what replies have in common ----------------------------------------------------------------------------------


def test_replies_that_agree_are_passed_on_as_they_are(sent: Message) -> None:
    """No copy, no change: a wrapped strategy sees what a bare one would."""
    replies = [("Trust_1", reply(sent)), ("Trust_2", reply(sent))]
    aligned = align(replies)
    assert [id(each) for each in aligned.replies] == [id(each) for _, each in replies]
    assert aligned.note == ""
    assert align([]).replies == []


def test_metrics_that_only_some_have_are_left_out_for_the_strategy_only(sent: Message) -> None:
    """One site that logs one metric more once ended the run for all; its own report keeps it."""
    first, second = reply(sent, f1=0.5, curve=[1.0, 2.0]), reply(sent, curve=[1.0])
    aligned = align([("Trust_1", first), ("Trust_2", second)])
    assert [sorted(each.content["metrics"]) for each in aligned.replies] == [["loss", "num-examples"]] * 2
    assert aligned.note == "'f1' (Trust_2), 'curve' (Trust_1, Trust_2)"
    assert sorted(first.content["metrics"]) == ["curve", "f1", "loss", "num-examples"]
    assert aligned.replies[0].content["arrays"] is first.content["arrays"]
    assert aligned.replies[0].metadata.reply_to_message_id == first.metadata.reply_to_message_id


def test_records_are_named_alike_for_the_strategy(sent: Message) -> None:
    """Flower compares the records' names although it needs none of them; config records stay what they are."""
    first, second = reply(sent), reply(sent)
    second.content["params"] = second.content.pop("arrays")
    second.content["flip.site"] = ConfigRecord({"slot": "Trust_2"})
    aligned = align([("Trust_1", first), ("Trust_2", second)])
    assert sorted(aligned.replies[1].content) == ["arrays", "flip.site", "metrics"]
    assert aligned.note == ""
