"""What engine code may rely on when it reports something."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import ValidationError

from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.plain import heads_of
from flip_fl.reporting.records import MAX_TEXT_CHARS, Lane
from flip_fl.reporting.reporter import Reporter
from flip_fl.values import ModelStatus
from flip_fl.wire import EventItem, new_event_id
from tests.support.reporting import metric


@pytest.fixture
def box(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.sqlite")


@pytest.fixture
def reporter(box: Outbox) -> Reporter:
    return Reporter(box)


def items(box: Outbox) -> list[dict[str, Any]]:
    return [record.item() for record in box.collect(release=True)]


def test_every_kind_of_report_is_kept_with_what_was_said(box: Outbox, reporter: Reporter) -> None:
    """Nothing that engine code says may change its meaning on the way."""
    assert reporter.status(ModelStatus.STOPPED, "A. Smith")
    assert reporter.failure("Trust_2", "Traceback", global_round=3)
    assert reporter.log("warming up", client="Trust_1")
    assert reporter.event("ROUND_STARTED", global_round=3, details={"total_rounds": 5})
    assert reporter.metric("Trust_1", "auc", 0.9, 3, x_value=4.5, x_label="Epochs", task="validate", stage="ae")
    stopped, failed, log, started, measured = (
        {key: value for key, value in item.items() if key not in ("id", "at")} for item in items(box)
    )
    assert stopped == {"kind": "status", "status": "STOPPED", "reason": "A. Smith"}
    assert failed == {"kind": "log", "client": "Trust_2", "log": "Traceback", "success": False, "global_round": 3}
    assert log == {"kind": "log", "client": "Trust_1", "log": "warming up", "success": True}
    assert started == {
        "kind": "event",
        "event_type": "ROUND_STARTED",
        "global_round": 3,
        "details": {"total_rounds": 5},
    }
    assert measured == {
        "kind": "metric",
        "client": "Trust_1",
        "label": "auc",
        "result": 0.9,
        "global_round": 3,
        "x_value": 4.5,
        "x_label": "Epochs",
        "task": "validate",
        "stage": "ae",
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_nan_metric_becomes_a_failure_row_and_aborts_nothing(box: Outbox, reporter: Reporter, value: float) -> None:
    """One NaN metric once aborted a whole run; here it is a row that names metric and round."""
    assert reporter.metric("Trust_1", "auc", value, 3, task="validate")
    (row,) = items(box)
    assert (row["kind"], row["success"], row["client"], row["global_round"]) == ("log", False, "Trust_1", 3)
    assert row["log"] == f"metric 'auc' of round 3 (validate) is {value}: not stored"


def test_a_flood_of_nan_metrics_is_one_row_a_round_and_a_count(box: Outbox, reporter: Reporter) -> None:
    """A loss that turned NaN stays NaN: a thousand equal rows would bury the one that matters."""
    for _ in range(50):
        reporter.metric("Trust_1", "loss", math.nan, 3)
    reporter.metric("Trust_1", "loss", math.nan, 4)
    assert len(items(box)) == 2
    assert box.path is not None
    assert Outbox.stats(box.path).losses == {"not_finite": 51}
    assert box.report_losses()
    assert "49 repeated values that were not finite" in items(box)[2]["log"]


def test_what_cannot_be_reported_is_counted_and_never_raised(
    box: Outbox, reporter: Reporter, caplog: pytest.LogCaptureFixture
) -> None:
    """An event handler of the engine must not fail because of what it reports, and no value may reach a log."""
    caplog.set_level(logging.DEBUG)
    assert not reporter.metric("", "loss", 0.5, 1)
    assert not reporter.metric("Trust_1", "SECRET-LABEL" * 50, 0.5, 1)
    assert not reporter.metric("Trust_1", "loss", "SECRET-VALUE", 1)  # type: ignore[arg-type]
    assert not reporter.event("ROUND_STARTED", global_round=0)
    assert not reporter.event("ROUND_STARTED", global_round=1, details={"x": "y" * 9000})
    assert not reporter.event("ROUND_STARTED", global_round=1, details={"x": object()})
    assert not reporter.status("NO_SUCH_STATUS")  # type: ignore[arg-type]
    assert items(box) == []
    assert box.path is not None
    assert Outbox.stats(box.path).losses == {"invalid": 7}
    assert "SECRET" not in caplog.text


def test_a_closed_outbox_refuses_quietly(box: Outbox, reporter: Reporter) -> None:
    """Engines fire events after the end of a run, too."""
    box.close()
    assert not reporter.metric("Trust_1", "loss", 0.5, 1)
    assert not reporter.status(ModelStatus.ERROR)


def dump(**changes: Any) -> dict[str, Any]:
    return {**metric().model_dump(mode="json"), **changes}


def test_a_sites_items_keep_ids_and_take_the_name_of_the_authenticated_peer(box: Outbox, reporter: Reporter) -> None:
    """A client that names itself in a record could write another hospital's curve."""
    raw = [dump(client="Trust_9", global_round=2), {**dump(), "kind": "log", "log": "hello", "client": None}]
    assert reporter.from_site("Trust_2", raw)
    assert reporter.from_site("Trust_2", raw)
    log, measured = items(box)
    assert (measured["client"], measured["id"], measured["global_round"]) == ("Trust_2", raw[0]["id"], 2)
    assert (log["client"], log["log"]) == ("Trust_2", "hello")


def test_a_replys_metrics_share_a_row_and_lose_nothing_by_it(box: Outbox, reporter: Reporter) -> None:
    """A transaction's work for each of a reply's metrics was most of what a round with many sites cost."""
    made = [metric(n / 7, label=f"loss {n}").model_dump(mode="json") for n in range(60)]
    assert reporter.from_site("Trust_2", made, once=True)
    records = box.collect()
    assert [record.reports for record in records] == [50, 10]
    kept = [part.item() for record in records for part in record.parts()]
    assert kept == [
        {key: value for key, value in {**item, "client": "Trust_2"}.items() if value is not None} for item in made
    ]


def test_reports_of_several_replies_share_rows(box: Outbox, reporter: Reporter) -> None:
    """Of a hundred sites' replies in one moment: fewer rows to write, read and forget, each report as it was and in its
    order, fifty in a row at the most; what may come a second time by another way keeps a row of its own."""
    heads = heads_of([(f"loss {place}", None, None) for place in range(20)])
    alone = metric(0.5, label="alone").model_dump(mode="json")
    names = [f"Trust_{number}" for number in range(1, 7)]
    with reporter.together():
        for number in range(1, 7):
            assert reporter.plain(f"Trust_{number}", 3, "train", heads, [place / 7 for place in range(20)])
            assert reporter.event(
                "CLIENT_RESULT_RECEIVED", f"Trust_{number}", 3, {"seconds": number / 7, "clock": None}
            )
            if number == 2:
                assert reporter.from_site("Trust_9", [alone])
                assert reporter.log("in between")
    records = box.collect()
    assert [record.reports for record in records if record.lane is Lane.METRIC] == [40, 1, 40, 40]
    assert all(record.is_readable() for record in records)
    kept = [part.item() for record in records for part in record.parts() if record.lane is Lane.METRIC]
    made = [(item["client"], item["label"], item["result"]) for item in kept]
    sites = [[(f"Trust_{n}", f"loss {place}", place / 7) for place in range(20)] for n in range(1, 7)]
    assert made == [*sites[0], *sites[1], ("Trust_9", "alone", 0.5), *sites[2], *sites[3], *sites[4], *sites[5]]
    assert len({item["id"] for item in kept}) == 121
    assert [record.reports for record in records if record.lane is Lane.EVENT] == [2, 1, 4]
    events = [part.item() for record in records for part in record.parts() if record.lane is Lane.EVENT]
    assert [item.get("client") for item in events] == [*names[:2], None, *names[2:]]
    assert [item["details"] for item in events if "details" in item] == [
        {"seconds": number / 7, "clock": None} for number in range(1, 7)
    ]


@pytest.mark.parametrize(
    "details",
    [
        {"id": "01890a5d-ac96-774b-bcce-b302099a8057"},
        {"settings": {"id": "01890a5d-ac96-774b-bcce-b302099a8057"}},
        {"settings": {"name": "NUL \0 and half a pair \ud800"}},
        {"settings": {"seed": "7", "quoted": '{"id":"01890a5d-ac96-774b-bcce-b302099a8057"'}},
        MappingProxyType({"a": 1}),
        {},
        None,
    ],
)
def test_whatever_an_event_tells_those_beside_it_stay_whole(
    box: Outbox, reporter: Reporter, details: Mapping[str, Any] | None
) -> None:
    """A row of several events is taken to pieces by what their beginnings look like: details may look so, too."""
    with reporter.together():
        assert reporter.event("RUN_CONFIGURED", None, 1, details)
        assert reporter.event("ROUND_STARTED", "Łódź", 2, {"total_rounds": 3})
        assert reporter.event("ROUND_AGGREGATED", None, 2)
    records = box.collect()
    assert all(record.is_readable() and record.body.isascii() for record in records)
    kept = [part.item() for record in records for part in record.parts()]
    assert [EventItem.model_validate(item).event_type for item in kept] == [
        "RUN_CONFIGURED",
        "ROUND_STARTED",
        "ROUND_AGGREGATED",
    ]
    assert (kept[1]["client"], kept[1]["global_round"]) == ("Łódź", 2)
    assert ("details" in kept[0], "details" in kept[2]) == (details is not None, False)


def test_large_events_share_few_bytes_of_a_row(box: Outbox, reporter: Reporter) -> None:
    """What goes at the bound of the outbox's bytes goes by rows: fifty of these would be 400 kB."""
    with reporter.together():
        for number in range(1, 21):
            assert reporter.event("UPDATES_COMPARED", None, number, {"sites": "x" * 5000})
    assert [record.reports for record in box.collect()] == [3, 3, 3, 3, 3, 3, 2]


@pytest.mark.parametrize(
    "told",
    [
        ("QUEUE_POSITION", None, 1, None),
        ("ROUND_STARTED", None, None, None),
        ("ROUND_STARTED", None, 0, None),
        ("ROUND_STARTED", "", 1, None),
        ("", None, 1, None),
        ("ROUND_STARTED", None, 1, {"text": "x" * 8192}),
        ("ROUND_STARTED", None, 1, {"value": math.nan}),
        ("ROUND_STARTED", None, 1, {1: "a key that is no text"}),
    ],
)
def test_an_event_that_the_wire_does_not_know_is_counted(
    box: Outbox, reporter: Reporter, told: tuple[Any, ...]
) -> None:
    """The hub would refuse it: it must not come so far, and must not raise in an engine's event handler."""
    names = ("event_type", "client", "global_round", "details")
    with pytest.raises(ValidationError):
        EventItem.model_validate({"at": datetime.now(UTC), **dict(zip(names, told, strict=True))})
    assert not reporter.event(*told)
    assert box.is_empty()
    assert box.path is not None
    assert Outbox.stats(box.path).losses == {"invalid": 1}


def test_odd_letters_of_a_replys_metrics_are_kept_as_ascii(box: Outbox, reporter: Reporter) -> None:
    """The bounds count characters as bytes, also of names in another script."""
    made = [metric(label=label).model_dump(mode="json") for label in ("Wächter", "loss")]
    assert reporter.from_site("Trust_1", made, once=True)
    assert reporter.plain("Łódź", 1, "train", heads_of([("loss", None, None), ("dé", "axé", 2.0)]), [0.5, 1e-300])
    records = box.collect()
    assert all(record.body.isascii() and record.is_readable() for record in records)
    kept = [part.item() for record in records for part in record.parts()]
    assert [item["label"] for item in kept] == ["Wächter", "loss", "loss", "dé"]
    assert [item["client"] for item in kept[2:]] == ["Łódź", "Łódź"]
    assert (kept[3]["x_label"], kept[3]["x_value"], kept[3]["result"]) == ("axé", 2.0, 1e-300)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_cannot_be_written_plainly_are_counted(box: Outbox, reporter: Reporter, value: float) -> None:
    """JSON has no word for them: one would make the hub refuse the whole batch."""
    assert not reporter.plain("Trust_1", 1, None, heads_of([("a", None, None), ("b", None, None)]), [0.5, value])
    assert box.is_empty()
    assert box.path is not None
    assert Outbox.stats(box.path).losses == {"invalid": 2}


def test_a_site_cannot_report_statuses_or_events(box: Outbox, reporter: Reporter) -> None:
    """Only the server knows how the run stands; what a site may not say is refused, counted and told."""
    at = dump()["at"]
    reporter.from_site(
        "Trust_2",
        [
            {"kind": "status", "status": "RESULTS_UPLOADED", "at": at, "id": str(new_event_id())},
            {"kind": "event", "event_type": "ROUND_STARTED", "global_round": 1, "at": at},
            {"kind": "metric"},
            dump(label=""),
            "nonsense",  # type: ignore[list-item]
            dump(label="good"),
        ],
    )
    told, good = items(box)
    assert good["label"] == "good"
    assert told["log"] == "reporting: 5 reports of this site were not valid and were not stored"
    assert (told["client"], told["success"]) == ("Trust_2", False)


def nested(depth: int) -> Any:
    value: Any = 0.5
    for _ in range(depth):
        value = [value]
    return value


ODD = {
    "a whole number of 400 digits": {"result": 10**400},
    "a coordinate of 400 digits": {"x_value": -(10**400)},
    "a round of 400 digits": {"global_round": 10**400},
    "a time after the calendar": {"at": "99999-01-01T00:00:00Z"},
    "a time in seconds beyond all": {"at": 10**400},
    "an infinite time": {"at": math.inf},
    "half a surrogate pair": {"label": "\ud800"},
    "ten million letters": {"label": "x" * 10_000_000},
    "a list in a hundred thousand lists": {"result": nested(100_000)},
    "an id that is none": {"id": "x" * 10_000_000},
    "an id in lists": {"id": nested(100_000)},
    "a kind that is none": {"kind": nested(3)},
    "a key that is no text": {7: 7, "result": None},
}


@pytest.mark.parametrize("odd", ODD)
def test_nothing_that_a_site_sends_raises_here(
    box: Outbox, reporter: Reporter, odd: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What one site sends must not end the run of the others: it is counted, told once, and the rest is kept."""
    assert reporter.from_site("Trust_1", [dump(label="before"), {**dump(), **ODD[odd]}, dump(label="after")])
    told, *kept = items(box)
    assert told["log"] == "reporting: 1 reports of this site were not valid and were not stored"
    assert [item["label"] for item in kept] == ["before", "after"]
    assert box.path is not None
    assert Outbox.stats(box.path).losses == {"invalid": 1}
    assert len(caplog.text) < 1_000


@pytest.mark.parametrize("raw", [None, 7, [None], [[]], nested(100_000), ["x" * 10_000_000]])
def test_what_is_no_list_of_reports_does_not_raise_either(box: Outbox, reporter: Reporter, raw: Any) -> None:
    """The site decides what the message holds; the server's event thread must survive all of it."""
    reporter.from_site("Trust_1", raw)
    assert [item["success"] for item in items(box)] == [False]


def test_a_sites_long_text_and_odd_letters_are_kept_in_part(box: Outbox, reporter: Reporter) -> None:
    """A traceback of ten million letters is still a failure that somebody has to hear of."""
    row = {**dump(), "kind": "log", "success": False, "log": "first\n" + "x\ud800\0" * 3_000_000 + "\nlast"}
    assert reporter.from_site("Trust_1", [row])
    (kept,) = items(box)
    assert len(kept["log"]) <= MAX_TEXT_CHARS
    assert kept["log"].endswith("\nlast")


def test_a_sites_nan_is_told_once_although_its_copy_comes_again(box: Outbox, reporter: Reporter) -> None:
    """The same value rides in the live batch and in the task's result."""
    raw = [dump(result=math.nan, label="auc")]
    reporter.from_site("Trust_1", raw)
    reporter.from_site("Trust_1", raw)
    (row,) = items(box)
    assert row["log"] == "metric 'auc' of round 1 is nan: not stored"
    assert box.path is not None
    assert Outbox.stats(box.path).losses == {"not_finite": 1}


def test_per_class_metrics_under_one_label_stay_distinct(box: Outbox, reporter: Reporter) -> None:
    """A label with a coordinate of its own is another plot, not another point of the same one."""
    reporter.metric("Trust_1", "dice", 0.5, 1, x_value=1, x_label="Class")
    reporter.metric("Trust_1", "dice", 0.7, 1, x_value=2, x_label="Class")
    assert [(item["x_label"], item["x_value"]) for item in items(box)] == [("Class", 1.0), ("Class", 2.0)]


def test_reports_made_together_are_one_append_in_their_order(box: Outbox, reporter: Reporter) -> None:
    """A hundred sites that answer at once must not cost a hundred transactions, nor any report."""
    with reporter.together():
        assert reporter.log("first", client="Trust_1")
        with reporter.together():
            assert reporter.log("second", client="Trust_1")
        assert box.is_empty()
    assert [item["log"] for item in items(box)] == ["first", "second"]


def test_what_was_reported_before_an_error_is_kept(box: Outbox, reporter: Reporter) -> None:
    """The run that fails in the middle of a batch is the one whose reports matter."""
    with pytest.raises(SystemExit), reporter.together():
        sys.exit(reporter.failure("Trust_1", "Traceback"))
    assert [item["log"] for item in items(box)] == ["Traceback"]
    assert reporter.log("afterwards")
    assert len(items(box)) == 2


def test_another_threads_reports_do_not_wait_for_a_batch(box: Outbox, reporter: Reporter) -> None:
    """A cause that a watcher notes must be on disk while the main thread still collects."""
    with reporter.together():
        thread = threading.Thread(target=reporter.log, args=("elsewhere",))
        thread.start()
        thread.join()
        assert [item["log"] for item in items(box)] == ["elsewhere"]


@pytest.mark.parametrize("text", ["plain", 'quote " and \\u0041', "Königsallee", "\ud800 half", "nul \0 byte", "tab\t"])
def test_any_text_is_kept_as_ascii_json(box: Outbox, reporter: Reporter, text: str) -> None:
    """The quick way of writing a report must say the same as the careful one, and never what no database stores."""
    assert reporter.log(text)
    (record,) = box.collect(release=True)
    assert record.body.isascii()
    assert record.item()["log"] == text.replace("\0", "\ufffd").replace("\ud800", "?")


def test_one_report_that_cannot_be_written_costs_only_itself(box: Outbox, reporter: Reporter) -> None:
    """Of many reports in one call the others are kept, and the one is counted."""
    odd = EventItem.model_construct(at=metric().at, event_type="X", details={"x": object()})
    assert not reporter.items([metric(1.0), odd, metric(2.0)])
    assert [item["result"] for item in items(box)] == [1.0, 2.0]
    assert box.path is not None
    assert Outbox.stats(box.path).losses == {"invalid": 1}
