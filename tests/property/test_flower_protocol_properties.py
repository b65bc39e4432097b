"""What sites report survives the way through Flower exactly; what anybody else sends harms nothing."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flip_fl.app.failures import Failure
from flip_fl.flower.columns import NAMES
from flip_fl.flower.grammar import metric_key, metrics_by_grammar, plain_metrics
from flip_fl.flower.private import acting_as, message_from_bytes, message_to_bytes, number_message
from flip_fl.flower.protocol import (
    FAILED,
    MAX_REASON_BYTES,
    ROWS_RECORD,
    SERIES_RECORD,
    SITE_RECORD,
    TASK_RECORD,
    TaskNote,
    error_reason,
    get_report,
    get_task,
    put_report,
    with_task,
)
from flip_fl.privacy.egress import sane_name
from flip_fl.reporting.plain import plain_records
from flip_fl.wire import LogItem, MetricItem

SLOT = "Trust_1"
NOW = datetime(2026, 5, 4, 3, 2, 1, 987, tzinfo=UTC)
words = st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text)
floats = st.floats(allow_nan=False, allow_infinity=False)
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
ids = st.integers(0, 2**128 - 1).map(lambda number: UUID(int=number))
rounds = st.integers(0, 2**31 - 1)
metrics = st.builds(
    MetricItem,
    id=ids,
    at=moments,
    client=st.just(SLOT),
    global_round=rounds,
    label=words,
    result=floats,
    x_value=st.none() | floats,
    x_label=st.none() | words,
    task=st.none() | words,
    stage=st.none() | words,
)
rows = st.builds(
    LogItem, id=ids, at=moments, client=st.just(SLOT), log=st.text(), success=st.booleans(), global_round=rounds
)
items = st.lists((metrics | rows).map(lambda item: item.model_dump(mode="json")), max_size=8)
odd = st.fixed_dictionaries(
    {"kind": st.just("metric"), "client": st.just(SLOT)},
    optional={
        "result": st.sampled_from([float("nan"), float("inf"), 10**400, True, "text", None]),
        "x_value": st.sampled_from([float("nan"), float("-inf"), 7]),
        "label": st.sampled_from(["", "\ud800", 3]),
        "id": st.sampled_from(["x", None]),
        "global_round": st.sampled_from([-1, 2**63, 2**64]),
    },
)
keys = st.text(max_size=30) | st.from_regex(r"[a-z]{1,9}(@[A-Z0-9]{1,9})?(\.x_[0-9]{1,3})?", fullmatch=True)
scalars: st.SearchStrategy[Any] = (
    st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans() | st.text(max_size=8) | st.binary(max_size=20)
)


def lists_of(length: int) -> st.SearchStrategy[Any]:
    """Lists as a ConfigRecord may hold them, ids and almost-ids among them."""
    entries: list[st.SearchStrategy[Any]] = [
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.text(max_size=5),
        st.binary(min_size=16, max_size=16) | st.binary(max_size=17),
    ]
    return st.one_of(*(st.lists(entry, min_size=length, max_size=length) for entry in entries))


lists = st.integers(0, 3).flatmap(lists_of)
columns = st.sampled_from(["id", "at", "label", "x-label", "x", "y", "round", "task", "stage", "slot", "json"])
records = st.dictionaries(columns, scalars | lists).map(ConfigRecord)
whole_columns = (
    st.integers(0, 3).flatmap(lambda n: st.fixed_dictionaries(dict.fromkeys(NAMES, lists_of(n)))).map(ConfigRecord)
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["slot", "items", "failure", "aborted", "client", "dropped"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


def replied(content: RecordDict | Error) -> Message:
    """The reply as the server gets it."""
    with acting_as(run_id=1, node_id=2, task_id=3):
        sent = Message(RecordDict(), 5, "train")
        number_message(sent)
        reply = Message(content, reply_to=sent)  # type: ignore[call-overload]
        number_message(reply)
    return message_from_bytes(message_to_bytes(reply))


def same(left: Any, right: Any) -> bool:
    """Equal as JSON, so that NaN equals NaN and 1 is not 1.0; the order of items apart."""
    return sorted(json.dumps(i, sort_keys=True) for i in left) == sorted(json.dumps(i, sort_keys=True) for i in right)


@given(items, st.booleans())
def test_wire_items_come_out_as_they_went_in(sent: list[dict[str, Any]], failing: bool) -> None:
    """Ids, times to the microsecond, every digit and every absent field; in replies and in errors alike."""
    if failing:
        report = get_report(replied(Error(FAILED, error_reason(SLOT, items=sent))))
    else:
        content = RecordDict()
        put_report(content, SLOT, sent)
        report = get_report(replied(content))
    assert report.claim == SLOT
    assert same(report.items, sent)
    assert report.refused == {}


@given(st.lists(odd, max_size=5))
def test_odd_items_arrive_for_the_server_to_judge(sent: list[dict[str, Any]]) -> None:
    """NaN, infinity and what is no metric at all reach the one place that says so at the hub."""
    content = RecordDict()
    put_report(content, SLOT, sent)
    got = get_report(replied(content)).items
    assert len(got) == len(sent)
    expected = [{**item, **({"result": float("inf")} if item.get("result") == 10**400 else {})} for item in sent]
    expected = [
        {**item, **({"global_round": float(item["global_round"])} if item.get("global_round", 0) >= 2**63 else {})}
        for item in expected
    ]
    assert same(got, expected)


@given(
    st.dictionaries(st.sampled_from([SERIES_RECORD, ROWS_RECORD, SITE_RECORD, TASK_RECORD]), records | whole_columns)
)
def test_garbage_in_our_records_is_counted_and_harms_nothing(content: dict[str, ConfigRecord]) -> None:
    """Whatever a node puts into our records, reading it raises nothing and gives only mappings under its claim."""
    reply = replied(RecordDict(dict(content)))
    report = get_report(reply)
    assert all(item.get("client") == report.claim for item in report.items)
    get_task(reply.content)


@given(st.text() | json_values.map(json.dumps))
def test_garbage_in_an_errors_reason_harms_nothing(reason: str) -> None:
    """Flower's own reasons, foreign ones and hostile ones are read as far as they can be."""
    report = get_report(replied(Error(2, reason)))
    assert all(isinstance(item, dict) for item in report.items)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "9" * 5_000 + "]", '{"items": ' + "[" * 100_000])
def test_bombs_of_nested_lists_and_digits_harm_nothing(text: str) -> None:
    """Nesting that exhausts the parser and numbers that Python refuses are garbage like any other."""
    assert get_report(replied(Error(2, text))).items == []
    content = RecordDict({ROWS_RECORD: ConfigRecord({"json": text}), SITE_RECORD: ConfigRecord({"slot": SLOT})})
    report = get_report(replied(content))
    assert report.items == []
    assert sum(report.refused.values()) == 1


@given(st.text(max_size=300), st.text(max_size=300), st.integers(0, 40_000), st.integers(0, 400))
def test_a_reason_is_bounded_whatever_failed(slot: str, stage: str, length: int, count: int) -> None:
    """Long texts of any script are cut, the oldest metrics go first, and what is missing is counted."""
    failure = Failure(slot=slot, task="train", round=1, type="T", traceback="\U0001f600" * length + "E", stage=stage)
    many = [{"kind": "metric", "client": slot, "label": "x" * 900, "result": n} for n in range(count)]
    reason = error_reason(slot, failure=failure, items=[*many, {"kind": "log", "client": slot, "log": "kept"}])
    assert len(reason.encode()) <= MAX_REASON_BYTES
    facts = json.loads(reason)
    assert len(facts["items"]) + facts["dropped"] == count + 1
    assert facts["items"][-1]["kind"] == "log"
    assert [item["result"] for item in facts["items"][:-1]] == list(range(facts["dropped"], count))
    assert facts["failure"]["traceback"].endswith("E")


@given(st.dictionaries(keys, st.integers(0, 2**63 - 1) | st.floats() | st.lists(st.floats(), max_size=4)))
def test_any_key_of_a_foreign_metric_can_be_read(record: dict[str, Any]) -> None:
    """Every number under a name that may leave is one item, the others are counted; no key breaks the reading."""
    found = metrics_by_grammar(MetricRecord(record), slot=SLOT, round=1, task="train")
    skipped = {"num-examples", "num_examples", "num-iterations"}
    named = {key: value for key, value in record.items() if key not in skipped}
    names = {key: [name for name in metric_key(key)[:2] if name is not None] for key in named}
    fit = [value for key, value in named.items() if all(map(sane_name, names[key]))]
    told = [item["log"] for item in found if item["kind"] == "log"]
    hidden = len(named) - len(fit)
    assert len(found) - len(told) == sum(len(value) if isinstance(value, list) else 1 for value in fit)
    assert [int(text.split()[0]) for text in told] == ([hidden] if hidden else [])
    assert all(sane_name(item["label"]) for item in found if item["kind"] == "metric")


@given(
    st.dictionaries(
        st.sampled_from(["loss", "a@b.x_2", "num-examples", "Dice/Left Lung", "x.x_1e999", "dé"]) | keys,
        st.floats() | st.integers(-(2**70), 2**70) | st.lists(st.floats(), max_size=2),
        max_size=4,
    ),
    # The server's own name of the site: a name with a NUL is registered nowhere.
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=9),
)
def test_the_quick_way_of_a_foreign_metric_is_the_long_way(record: dict[str, Any], slot: str) -> None:
    """What is written without a model of each metric is what the models would have written, but for ids and time."""
    plain = plain_metrics(record)
    long = metrics_by_grammar(record, slot=slot, round=3, task="train")
    if plain is None:
        odd = [item for item in long if item["kind"] == "log" or not math.isfinite(item["result"])]
        x_odd = [item for item in long if item["kind"] == "metric" and not math.isfinite(item["x_value"] or 0.0)]
        assert odd or x_odd or any(isinstance(value, list) for value in record.values())
        return
    try:
        expected = [MetricItem.model_validate(item) for item in long]
    except ValidationError:
        with pytest.raises(ValidationError):
            plain_records(slot, 3, "train", NOW, plain.heads, plain.values)
        return
    made = plain_records(slot, 3, "train", NOW, plain.heads, plain.values)
    found = [MetricItem.model_validate(part.item()) for each in made for part in each.parts()]
    same = {"id", "at"}
    assert [item.model_dump(exclude=same) for item in found] == [item.model_dump(exclude=same) for item in expected]
    assert {item.at for item in found} <= {NOW}
    assert len({item.id for item in found}) == len(found) == sum(each.reports for each in made)
    assert all(each.is_readable() and each.body.isascii() for each in made)


@given(st.text(max_size=10), rounds, rounds, st.lists(st.sampled_from(["config", "other"]), unique=True))
def test_a_task_note_survives_beside_whatever_a_strategy_sends(
    slot: str, now: int, all_: int, names: list[str]
) -> None:
    """With no, one or two records of the strategy's own, which stay as they were; no second one is added to one."""
    content = RecordDict({name: ConfigRecord({"lr": 0.5}) for name in names})
    noted = with_task(content, TaskNote(slot, now, all_))
    assert get_task(replied(noted).content) == TaskNote(slot, now, all_)
    assert all(dict(content.config_records[name]) == {"lr": 0.5} for name in names)
    assert len(noted.config_records) == {0: 1, 1: 1, 2: 3}[len(names)]
