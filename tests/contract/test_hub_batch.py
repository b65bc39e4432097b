"""The batch route: one outcome per item, each id stored once, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, event

from flip_fl.hub.tables import EventLedger, FlLog, FlMetric, ModelsAudit, StatusHistory
from flip_fl.values import ModelStatus
from flip_fl.wire import MAX_BATCH_ITEMS, new_event_id
from tests.support.hub import RunningHub, codes, item, metric, outcomes


def test_every_kind_is_stored_and_answered_in_order(hub: RunningHub) -> None:
    """One batch carries a whole round; each item has its outcome under its own id, in order."""
    items = [
        item("status", status="RUNNING"),
        item("event", event_type="ROUND_STARTED", global_round=1, details={"total_rounds": 2}),
        metric("Trust_1", "loss", 0.5, 1, task="validate", stage="ae"),
        item("log", client="Trust_2", log="hello", global_round=1),
        item("log", log="of the server"),
        item("event", event_type="CLIENT_RESULT_RECEIVED", client="Trust_1", global_round=1, details={"size_bytes": 9}),
    ]
    answer = hub.batch(*items)
    assert [result["id"] for result in answer["results"]] == [sent["id"] for sent in items]
    assert outcomes(answer) == ["stored"] * 6
    assert [result.get("applied") for result in answer["results"]] == [True, None, None, None, None, None]
    assert answer["stop"] is False
    assert hub.logs() == [
        "The sites have started to work.",
        "Round 1 of 2 started",
        "hello",
        "of the server",
        "Round 1 · GSTT returned weights, 9 B",
    ]
    (row,) = hub.world.rows(FlMetric)
    assert (row.task, row.stage, row.x_value, row.x_label) == ("validate", "ae", 1.0, "Global Rounds")


def test_a_metric_keeps_the_round_it_was_measured_in(hub: RunningHub) -> None:
    """Stamps are made at the site; a batch that arrives late changes none of them."""
    sent = metric("Trust_1", "loss", 0.5, 3, x_value=2.5, x_label="epoch", seconds=60)
    hub.batch(item("event", event_type="ROUND_STARTED", global_round=4), sent)
    (row,) = hub.world.rows(FlMetric)
    assert (row.global_round, row.x_value, row.x_label) == (3, 2.5, "epoch")
    assert row.occurred_at.isoformat() == sent["at"]


def test_the_same_batch_again_is_all_duplicates(hub: RunningHub) -> None:
    """A batch whose answer was lost is sent again and stores nothing twice."""
    items = [
        item("status", status="RUNNING", reason="go"),
        metric("Trust_1", "loss", 0.5, 1),
        item("log", client="Trust_1", log="x"),
    ]
    hub.batch(*items)
    rows = [len(hub.world.rows(table)) for table in (FlMetric, FlLog, StatusHistory, EventLedger)]
    assert outcomes(hub.batch(*items)) == ["duplicate"] * 3
    assert [len(hub.world.rows(table)) for table in (FlMetric, FlLog, StatusHistory, EventLedger)] == rows


def test_a_copy_inside_one_batch_is_a_duplicate(hub: RunningHub) -> None:
    """An event that came live and again with the task's result counts once."""
    sent = metric("Trust_1", "loss", 0.5, 1)
    assert outcomes(hub.batch(sent, sent, metric("Trust_1", "loss", 0.6, 2))) == ["stored", "duplicate", "stored"]
    assert len(hub.world.rows(FlMetric)) == 2


def together(*results: float, **facts: Any) -> dict[str, Any]:
    """What a client measured in one task, as one item."""
    labels = [f"loss {place}" for place in range(len(results))]
    id_ = str(UUID(int=new_event_id().int & ~(1 << 31)))
    shared = {"client": "Trust_1", "global_round": 2, "task": "train", "labels": labels, "results": list(results)}
    return item("metrics", **shared) | {"id": id_} | facts


def test_metrics_of_one_item_are_stored_each_as_if_it_came_alone(hub: RunningHub) -> None:
    """Ten numbers of a reply travel as one item; what the hub keeps and shows of each is the same."""
    sent = together(0.5, 0.25, 1e-300, x_labels=[None, "epoch", None], x_values=[None, 2.5, 7.0])
    answer = hub.batch(sent, metric("Trust_2", "loss", 0.75, 2))
    assert (answer["results"][0]["id"], outcomes(answer)) == (sent["id"], ["stored", "stored"])
    rows = hub.world.rows(FlMetric)
    assert [(row.label, row.result, row.x_label, row.x_value) for row in rows] == [
        ("loss 0", 0.5, "Global Rounds", 2.0),
        ("loss 1", 0.25, "epoch", 2.5),
        ("loss 2", 1e-300, "Global Rounds", 7.0),
        ("loss", 0.75, "Global Rounds", 2.0),
    ]
    assert {(row.fl_client_name, row.task, row.global_round, row.occurred_at.isoformat()) for row in rows[:3]} == {
        ("Trust_1", "train", 2, sent["at"])
    }
    assert outcomes(hub.batch(sent)) == ["duplicate"]
    assert len(hub.world.rows(FlMetric)) == 4


def test_a_metric_of_an_item_that_was_stored_alone_is_not_stored_again(hub: RunningHub) -> None:
    """A sender that has to send them one by one uses the ids that they have in the item: a copy stays a copy."""
    sent = together(0.5, 0.25, 0.125)
    first = UUID(sent["id"]).int
    hub.batch(metric("Trust_1", "loss 1", 0.25, 2) | {"id": str(UUID(int=first + 1))})
    assert outcomes(hub.batch(sent)) == ["stored"]
    assert sorted(row.label for row in hub.world.rows(FlMetric)) == ["loss 0", "loss 1", "loss 2"]
    assert outcomes(hub.batch(metric("Trust_1", "loss 2", 0.125, 2) | {"id": str(UUID(int=first + 2))})) == [
        "duplicate"
    ]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"client": "Trust_99"}, "unknown_client"),
        ({"client": "Trust_3"}, "client_not_associated"),
        ({"results": [0.5]}, "invalid"),
        ({"results": [0.5, None]}, "invalid"),
        ({"labels": [], "results": []}, "invalid"),
        ({"labels": ["canary", ""]}, "invalid"),
        ({"x_values": [1.0]}, "invalid"),
        ({"x_labels": [None, None, "canary"]}, "invalid"),
        ({"id": "01890a5d-ac96-774b-bcce-b302ffffffff"}, "invalid"),
        ({"at": "0001-01-01T00:00:00+23:00"}, "invalid"),
    ],
    ids=str,
)
def test_a_bad_item_of_several_metrics_is_refused_alone(hub: RunningHub, change: dict[str, Any], code: str) -> None:
    """Nothing of it is stored, so that its sender can send what is sound of it one by one."""
    answer = hub.batch(metric("Trust_1", "loss", 0.5, 1), together(0.5, 0.25) | change)
    assert (outcomes(answer), codes(answer)) == (["stored", "refused"], [None, code])
    assert "canary" not in str(answer)
    assert len(hub.world.rows(FlMetric)) == 1


def test_metrics_beyond_the_bound_of_a_batch_are_refused_as_a_whole(hub: RunningHub) -> None:
    """The bound is of what a transaction has to store, in how few items it may come."""
    fits, beyond = together(*map(float, range(MAX_BATCH_ITEMS))), together(0.5, 0.25)
    assert hub.model("POST", "/events", json={"items": [fits, beyond]}).status_code == 422
    assert hub.world.rows(FlMetric) == []
    assert outcomes(hub.batch(fits)) == ["stored"]
    assert [row.result for row in hub.world.rows(FlMetric)] == [float(n) for n in range(MAX_BATCH_ITEMS)]


def test_a_copy_on_a_single_route_is_a_duplicate_too(hub: RunningHub) -> None:
    """A sender that falls back to single posts re-sends under the event's id, which the hub knows already."""
    sent = metric("Trust_1", "loss", 0.5, 1)
    hub.batch(sent)
    body = {"fl_client_name": "Trust_1", "global_round": 1, "label": "loss", "result": 0.5}
    response = hub.model("POST", "/metrics", json=body, headers={"Idempotency-Key": sent["id"]})
    assert response.status_code == 204
    assert len(hub.world.rows(FlMetric)) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"client": "Trust_99"}, "unknown_client"),
        ({"client": "Guy's and St Thomas'"}, "unknown_client"),
        ({"client": "Trust_3"}, "client_not_associated"),
        ({"global_round": -1}, "invalid"),
        ({"global_round": "one"}, "invalid"),
        ({"label": "canary\x00"}, "invalid"),
        ({"label": "canary" * 50}, "invalid"),
        ({"kind": "canary"}, "invalid"),
        ({"at": "canary"}, "invalid"),
        ({"at": "0001-01-01T00:00:00+23:00"}, "invalid"),
        ({"at": "9999-12-31T23:59:59-23:00"}, "invalid"),
        ({"id": "canary"}, "invalid"),
        ({"id": None}, "invalid"),
    ],
    ids=str,
)
def test_a_bad_item_is_refused_alone(hub: RunningHub, change: dict[str, Any], code: str) -> None:
    """One bad event never stops the line: its neighbours are stored, and its refusal names no input."""
    good = [metric("Trust_1", "loss", 0.5, 1), metric("Trust_2", "loss", 0.6, 1)]
    bad = metric("Trust_1", "loss", 0.7, 1) | change
    answer = hub.batch(good[0], bad, good[1])
    assert outcomes(answer) == ["stored", "refused", "stored"]
    assert codes(answer) == [None, code, None]
    assert "canary" not in str(answer)
    assert len(hub.world.rows(FlMetric)) == 2


def test_an_item_without_id_is_refused(hub: RunningHub) -> None:
    """An id made up by the hub would let every copy in."""
    sent = metric("Trust_1", "loss", 0.5, 1)
    del sent["id"]
    assert codes(hub.batch(sent)) == ["invalid"]


def test_a_nan_item_is_refused_alone(hub: RunningHub) -> None:
    """A raw NaN in one item costs that item only."""
    items = [metric("Trust_1", "loss", float("nan"), 1), metric("Trust_1", "loss", 0.5, 1)]
    response = hub.model(
        "POST", "/events", data=json.dumps({"items": items}), headers={"Content-Type": "application/json"}
    )
    assert outcomes(response.json()) == ["refused", "stored"]


def test_a_refused_id_stays_free(hub: RunningHub) -> None:
    """What was refused may come again under its id once the slot is assigned."""
    from flip_fl.hub import admin

    sent = metric("Trust_4", "loss", 0.5, 1)
    assert outcomes(hub.batch(sent)) == ["refused"]
    with hub.world.session() as session:
        trust = admin.create_trust(session, "New")
        admin.assign_slot(session, trust.id)
        admin.associate_trusts(session, hub.world.model_id, [trust.id])
    assert outcomes(hub.batch(sent)) == ["stored"]


def test_a_failure_of_somebody_unknown_is_kept(hub: RunningHub) -> None:
    """A traceback is never thrown away, whoever sent it; a success of such a client is refused."""
    answer = hub.batch(
        item("log", client="Trust_99", log="Traceback…", success=False),
        item("log", client="Trust_3", log="Traceback…", success=False),
        item("log", client="Trust_99", log="fine"),
        item("event", client="Trust_99", event_type="CLIENT_RESULT_RECEIVED", global_round=1),
    )
    assert outcomes(answer) == ["stored", "stored", "refused", "refused"]
    assert hub.logs() == [
        "[unattributed client 'Trust_99' — unknown FL kit slot] Traceback…",
        "[unattributed client 'Trust_3' — not associated with this model] Traceback…",
    ]


def test_the_hubs_own_event_type_is_refused(hub: RunningHub) -> None:
    """QUEUE_POSITION is nobody else's to say; an unknown type is stored."""
    answer = hub.batch(
        item("event", event_type="QUEUE_POSITION", details={"position": 1}),
        item("event", event_type="NEVER_SEEN", global_round=1),
    )
    assert outcomes(answer) == ["refused", "stored"]


def test_an_unknown_model_is_refused_item_by_item(hub: RunningHub) -> None:
    """A sender learns it from the items' outcomes; a 404 would read as a hub without this route."""
    sent = [metric("Trust_1", "loss", 0.5, 1), item("status", status="RUNNING")]
    response = hub.call("POST", f"/model/{uuid4()}/events", json={"items": sent})
    assert response.status_code == 200
    assert codes(response.json()) == ["unknown_model", "unknown_model"]


def test_a_deleted_model_is_refused_item_by_item_and_stops_the_run(hub: RunningHub) -> None:
    """Nothing more is stored of a deleted model, and its run need not go on."""
    hub.model("DELETE")
    answer = hub.batch(metric("Trust_1", "loss", 0.5, 1))
    assert codes(answer) == ["deleted_model"]
    assert answer["stop"] is True
    assert hub.world.rows(FlMetric) == []


def test_a_status_is_told_with_its_reason(hub: RunningHub) -> None:
    """The fixed sentence and the reason are two rows of the hub's own, marked as the status says."""
    hub.batch(item("status", status="ERROR", reason="Trust_2: CUDA out of memory"))
    rows = [(row.log, row.success, row.status, row.trust_id) for row in hub.world.rows(FlLog)]
    assert rows == [
        ("The run has failed.", False, ModelStatus.ERROR, None),
        ("Trust_2: CUDA out of memory", False, ModelStatus.ERROR, None),
    ]
    assert hub.world.rows(StatusHistory)[-1].reason == "Trust_2: CUDA out of memory"


def test_rows_keep_the_order_of_the_batch_around_a_status(hub: RunningHub) -> None:
    """The feed reads as it happened: what came before the end stands before it."""
    hub.batch(
        item("log", log="before"), item("status", status="ERROR"), item("log", log="after"), item("log", log="last")
    )
    assert hub.logs() == ["before", "The run has failed.", "after", "last"]


def test_a_late_status_is_answered_not_applied(hub: RunningHub) -> None:
    """After STOPPED a late status is kept in the ledger alone, and the answer says both."""
    hub.batch(item("status", status="STOPPED", reason="by a person"))
    before = [len(hub.world.rows(table)) for table in (FlLog, ModelsAudit, StatusHistory)]
    late = item("status", status="RESULTS_UPLOADED", reason="done")
    answer = hub.batch(late, item("log", log="still kept"))
    assert answer["results"][0] == {"id": late["id"], "outcome": "stored", "applied": False}
    assert answer["stop"] is True
    before[0] += 1
    assert [len(hub.world.rows(table)) for table in (FlLog, ModelsAudit, StatusHistory)] == before
    assert outcomes(hub.batch(late)) == ["duplicate"]


def test_a_stop_in_the_same_batch_counts(hub: RunningHub) -> None:
    """Statuses of one batch are applied in their order, so what follows a stop is late."""
    answer = hub.batch(
        item("status", status="RUNNING"), item("status", status="STOPPED"), item("status", status="ERROR")
    )
    assert [result["applied"] for result in answer["results"]] == [True, True, False]
    assert answer["stop"] is True


def test_an_empty_batch_asks_whether_to_stop(hub: RunningHub) -> None:
    """An idle sender hears of a stop without having anything to send."""
    assert hub.batch() == {"results": [], "stop": False}
    hub.model("PUT", "/status/STOPPED")
    assert hub.batch() == {"results": [], "stop": True}


def test_the_older_spelling_of_running_is_understood(hub: RunningHub) -> None:
    """TRAINING_STARTED in an item is RUNNING."""
    assert outcomes(hub.batch(item("status", status="TRAINING_STARTED"))) == ["stored"]
    assert hub.read("/status")["status"] == "RUNNING"


def test_a_full_batch_is_one_transaction_in_order(hub: RunningHub) -> None:
    """500 items are stored in the order in which they were logged."""
    items = [metric("Trust_1", "loss", float(n), 1, x_value=1.0) for n in range(MAX_BATCH_ITEMS)]
    assert outcomes(hub.batch(*items)) == ["stored"] * MAX_BATCH_ITEMS
    (plot,) = hub.read("/metrics")
    assert [point["yValue"] for point in plot["metrics"][0]["data"]] == [float(n) for n in range(MAX_BATCH_ITEMS)]


def test_what_only_a_lenient_reader_accepts_costs_that_item_at_most(hub: RunningHub) -> None:
    """A body that cannot be read in one pass is read item by item, and its good items are stored all the same."""
    good = [metric("Trust_1", "loss", 0.5, 1), metric("Trust_2", "loss", 0.6, 1)]
    texts = [json.dumps(sent) for sent in good]
    deep = json.dumps(item("event", event_type="E", global_round=1, details={"a": "deep"}))
    texts.insert(1, deep.replace('"deep"', "[" * 500 + "]" * 500))
    texts.append(json.dumps(item("log", log="half")).replace('"half"', '"half \\ud800"'))
    texts.append(json.dumps(metric("Trust_1", "loss", 1.5, 1)).replace("1.5", "1" + "0" * 400))
    response = hub.model(
        "POST", "/events", data='{"items": [' + ",".join(texts) + "]}", headers={"Content-Type": "application/json"}
    )
    assert outcomes(response.json()) == ["stored", "stored", "stored", "stored", "refused"]


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"[]", b'{"items": 1}', b'{"items": [1]}', b"{}", b"\xff", b'{"items": ' + b"[" * 100_000],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_that_is_no_batch_is_refused_as_a_whole(hub: RunningHub, body: bytes) -> None:
    """It is a 422 that says where and quotes nothing, so that its sender halves the batch; the hub stays up."""
    response = hub.model("POST", "/events", data=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert set(response.json()) == {"detail"}
    assert "nonsense" not in response.text
    assert hub.batch()["stop"] is False


def test_a_database_that_cannot_be_written_is_503_for_the_whole(hub: RunningHub) -> None:
    """Nothing of the batch is stored, the sender is told when to come again, and then all of it is."""
    items = [item("status", status="RUNNING"), metric("Trust_1", "loss", 0.5, 1)]
    with _read_only(hub.world.engine):
        response = hub.model("POST", "/events", json={"items": items})
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert hub.world.rows(EventLedger) == []
    assert hub.read("/status")["status"] == "PENDING"
    assert outcomes(hub.batch(*items)) == ["stored"] * 2


@contextmanager
def _read_only(engine: Engine) -> Iterator[None]:
    """The database answers and takes nothing, as a full one, or a standby, does."""
    on, off = (
        ("PRAGMA query_only = ON", "PRAGMA query_only = OFF")
        if engine.dialect.name == "sqlite"
        else ("SET default_transaction_read_only = on", "SET default_transaction_read_only = off")
    )

    def say(statement: str) -> Callable[..., None]:
        def listener(connection: Any, *_: object) -> None:
            connection.cursor().execute(statement)
            connection.commit()

        return listener

    close, reopen = say(on), say(off)
    event.listen(engine, "checkout", close)
    yield
    event.remove(engine, "checkout", close)
    event.listen(engine, "checkout", reopen)


def test_too_many_items_are_refused_as_a_whole(hub: RunningHub) -> None:
    """A batch over the bound is refused before anything is stored, so that its sender halves it."""
    items = [metric("Trust_1", "loss", 1.0, 1) for _ in range(MAX_BATCH_ITEMS + 1)]
    assert hub.model("POST", "/events", json={"items": items}).status_code == 422
    assert hub.world.rows(FlMetric) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_an_oversized_body_is_413(hub: RunningHub, chunked: bool) -> None:
    """A body is bounded whether or not it declares its length, and the hub stays up."""
    body = b'{"items": [' + b" " * (2 << 20) + b"]}"
    data = iter([body[start : start + 65536] for start in range(0, len(body), 65536)]) if chunked else body
    response = hub.model("POST", "/events", data=data, headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert hub.batch()["stop"] is False


def test_a_traceback_with_impossible_text_is_kept(hub: RunningHub) -> None:
    """A NUL or half a surrogate pair in a report costs these characters, not the report."""
    answer = hub.batch(
        item("log", client="Trust_1", log="a\x00b\ud800c", success=False),
        item("status", status="ERROR", reason="r\x00\ud800"),
        item("event", event_type="E", global_round=1, details={"a": "\x00\ud800"}),
    )
    assert outcomes(answer) == ["stored"] * 3
    assert hub.logs()[0] == "a\ufffdb?c"
    assert hub.read("/story")["reason"] == "r\ufffd?"
