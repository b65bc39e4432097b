"""The records of our ClientApp and the keys of others, by example; for any input see the property tests."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from flip_fl.app.failures import Failure
from flip_fl.flower import grammar, protocol
from flip_fl.flower.grammar import metric_key, metrics_by_grammar
from flip_fl.flower.private import acting_as
from flip_fl.flower.protocol import (
    ABORTED,
    FAILED,
    ROWS_RECORD,
    SERIES_RECORD,
    SITE_RECORD,
    TaskNote,
    error_reason,
    get_report,
    get_task,
    put_report,
)
from flip_fl.wire import LogItem, MetricItem

AT = datetime(2026, 3, 4, 5, 6, 7, 891234, tzinfo=UTC)
ID = UUID("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
METRIC = MetricItem(
    id=ID, at=AT, client="Trust_1", global_round=3, label="loss", result=0.1, x_value=5.0, x_label="Step", task="train"
).model_dump(mode="json")
NOTE = LogItem(id=ID, at=AT, client="Trust_1", log="two studies skipped", success=False).model_dump(mode="json")


def reply(content: RecordDict | Error) -> Message:
    """A reply of a node."""
    with acting_as(run_id=1, node_id=2, task_id=3):
        return Message(content, reply_to=Message(RecordDict(), 5, "train"))  # type: ignore[call-overload,no-any-return]


def test_metrics_travel_as_columns_and_rows_as_text() -> None:
    """A long series is columns of numbers, not a hundred thousand texts; only rows are JSON."""
    content = RecordDict()
    put_report(content, "Trust_1", [METRIC, NOTE])
    assert dict(content.config_records[SERIES_RECORD]) == {
        "id": [ID.bytes],
        "at": [AT.timestamp()],
        "label": ["loss"],
        "x-label": ["Step"],
        "x": [5.0],
        "y": [0.1],
        "round": [3],
        "task": ["train"],
        "stage": [""],
    }
    assert json.loads(str(content.config_records[ROWS_RECORD]["json"])) == [NOTE]
    assert get_report(reply(content)).items == [METRIC, NOTE]


def test_an_item_in_another_clients_name_is_refused() -> None:
    """A node reports for nobody but whom it says it is; what it tries beyond that is counted."""
    content = RecordDict()
    put_report(content, "Trust_1", [{**METRIC, "client": "Trust_2"}, NOTE, {**NOTE, "client": None}])
    report = get_report(reply(content))
    assert report.items == [NOTE]
    assert report.refused == {"they name another client than Trust_1": 2}


def test_columns_that_do_not_fit_together_are_no_report() -> None:
    """Ragged or missing columns are refused as a whole: nobody can say which value belongs to which name."""
    content = RecordDict()
    put_report(content, "Trust_1", [METRIC, METRIC])
    series = content.config_records[SERIES_RECORD]
    for broken in ({**series, "y": [1.0]}, {name: series[name] for name in list(series)[:-1]}, {**series, "x": 1.0}):
        content[SERIES_RECORD] = ConfigRecord(broken)
        report = get_report(reply(content))
        assert (report.items, report.refused) == ([], {"they cannot be read": 1})
    content[SERIES_RECORD] = ConfigRecord({**series, "id": [ID.bytes, b"short"]})
    report = get_report(reply(content))
    assert (report.items, report.refused) == ([METRIC], {"they cannot be read": 1})


def test_the_number_of_items_is_bounded_and_the_rest_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One reply cannot fill the server's outbox, whichever record it uses."""
    monkeypatch.setattr(protocol, "MAX_ITEMS_PER_REPLY", 3)
    for sent in ([METRIC] * 5, [NOTE] * 5, [METRIC] * 2 + [NOTE] * 3):
        content = RecordDict()
        put_report(content, "Trust_1", sent)
        report = get_report(reply(content))
        assert len(report.items) == 3
        assert report.refused == {"more than 3 in one message": 2}


def test_an_error_carries_failure_and_items_or_the_word_that_it_was_stopped() -> None:
    """What a failed or stopped task had measured is not lost with its model."""
    failure = Failure("Trust_1", "train", 3, "ValueError", "ValueError: no", stage="ae")
    report = get_report(reply(Error(FAILED, error_reason("Trust_1", failure=failure, items=[METRIC]))))
    assert (report.claim, report.failure, report.aborted, report.items) == ("Trust_1", failure, False, [METRIC])
    report = get_report(reply(Error(ABORTED, error_reason("Trust_1", aborted=True, items=[NOTE]))))
    assert (report.failure, report.aborted, report.items) == (None, True, [NOTE])


def test_what_a_task_made_and_a_reply_lacks_is_missing() -> None:
    """A reply says how many items its task made; what is neither in it nor refused by name never came."""
    content = RecordDict()
    put_report(content, "Trust_1", [METRIC, {**NOTE, "client": "Trust_2"}], made=7)
    report = get_report(reply(content))
    assert (report.made, report.missing, sum(report.refused.values())) == (7, 5, 1)
    content[SERIES_RECORD] = ConfigRecord()
    assert get_report(reply(content)).missing == 6
    for reason in (error_reason("Trust_1", aborted=True, items=[NOTE], made=3), error_reason("Trust_1", items=[NOTE])):
        report = get_report(reply(Error(ABORTED, reason)))
        assert report.missing == (2 if report.made else 0)
    many = [{**NOTE, "log": "x" * 1000} for _ in range(400)]
    report = get_report(reply(Error(FAILED, error_reason("Trust_1", items=many, made=400))))
    assert (report.missing, len(report.items) + sum(report.refused.values())) == (0, 400)


@pytest.mark.parametrize("made", ["5", -5, 2.0, True, [5], 0])
def test_a_count_that_is_none_is_no_gap(made: object) -> None:
    """An app that is not ours may write anything there."""
    content = RecordDict({"flip.site": ConfigRecord({"slot": "Trust_1", "made": made})})  # type: ignore[dict-item]
    assert get_report(reply(content)).missing == 0


def test_an_error_of_flower_itself_is_no_report() -> None:
    """Its reason is a text for people; nothing is read into it."""
    report = get_report(reply(Error(5, "Node Unavailable")))
    assert (report.claim, report.items, report.failure, report.refused) == (None, [], None, {})


@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("loss", ("loss", None, None)),
        ("Dice/Left Lung", ("Dice/Left Lung", None, None)),
        ("loss@Epoch", ("loss", "Epoch", None)),
        ("loss@Epoch.x_5", ("loss", "Epoch", 5.0)),
        ("loss.x_-0.5", ("loss", None, -0.5)),
        ("loss@my.axis.x_1e3", ("loss", "my.axis", 1000.0)),
        ("auc@a@b.x_2", ("auc", "a@b", 2.0)),
        ("loss.x_five", ("loss.x_five", None, None)),
        ("loss@", ("loss@", None, None)),
        (".x_5", (".x_5", None, None)),
        ("", ("", None, None)),
    ],
)
def test_the_documented_key_grammar(key: str, read: tuple[str, str | None, float | None]) -> None:
    """``<label>[@<x_label>][.x_<value>]``; whatever is not of that form is a label as it stands."""
    assert metric_key(key) == read


def test_a_foreign_apps_metrics_become_items() -> None:
    """Labels as they were written, bookkeeping left out, lists as series, a number that is not finite for the hub."""
    record = MetricRecord(
        {"num-examples": 10, "Loss@Epoch.x_2": 0.5, "steps": [3, 1], "auc@Fold.x_1": [0.5, 0.75], "bad": math.nan}
    )
    found = metrics_by_grammar(record, slot="Trust_2", round=4, task="validate")
    assert [(item["label"], item["x_label"], item["x_value"], item["result"]) for item in found[:-1]] == [
        ("Loss", "Epoch", 2.0, 0.5),
        ("steps", "Step", 0.0, 3.0),
        ("steps", "Step", 1.0, 1.0),
        ("auc", "Fold", 1.0, 0.5),
        ("auc", "Fold", 2.0, 0.75),
    ]
    assert math.isnan(found[-1]["result"])
    for item in found[:-1]:
        valid = MetricItem.model_validate(item)
        assert (valid.client, valid.global_round, valid.task) == ("Trust_2", 4, "validate")
    assert len({item["id"] for item in found}) == len(found)


def test_a_foreign_apps_flood_of_numbers_is_bounded_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out of too long a list is said in a row, never dropped in silence."""
    monkeypatch.setattr(grammar, "MAX_POINTS", 2)
    found = metrics_by_grammar({"a": [1.0] * 5}, slot="Trust_1", round=1, task="train")
    assert [item["kind"] for item in found] == ["metric", "metric", "log"]
    assert LogItem.model_validate(found[-1]).log.startswith("3 numbers of this reply were not stored")


def test_a_foreign_servers_round_is_read_where_strategies_put_it() -> None:
    """Under a server without our grid a site still knows the round; nonsense is no round."""

    def told(**entries: Any) -> TaskNote:
        return get_task(RecordDict({"config": ConfigRecord(entries)}))

    assert told(**{"server-round": 4}) == TaskNote("", 4, 0)
    assert told(**{"server-round": -1, "flip.task": '{"slot": 5, "round": "2", "quiet": 1}'}) == TaskNote()
    assert told(**{"server-round": 4, "flip.task": '["Trust_1"]'}) == TaskNote("", 4, 0)
    assert told(**{"server-round": 4, "flip.task": 5}) == TaskNote("", 4, 0)
    assert get_task(RecordDict({SITE_RECORD: ConfigRecord({"slot": "Trust_1"})})) == TaskNote()
