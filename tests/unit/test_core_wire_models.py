"""What crosses the wire: both dialects of the FL routes, the batch's items, event ids."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from flip_fl import wire
from flip_fl.values import HubDialect

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ITEM: TypeAdapter[Any] = TypeAdapter(wire.Item)
names = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=1, max_size=40)
finite = st.floats(allow_nan=False, allow_infinity=False)
rounds = st.integers(0, 2**31 - 1)


@given(names, rounds, names, finite, st.none() | finite, st.none() | names, st.sampled_from(list(HubDialect)))
def test_a_metric_reads_back_as_it_was_written(
    client: str, number: int, label: str, result: float, x_value: float | None, x_label: str | None, dialect: HubDialect
) -> None:
    """In each dialect and in the superset, through JSON, the hub stores what the site measured."""
    body = wire.metric_body(
        dialect, client=client, global_round=number, label=label, result=result, x_value=x_value, x_label=x_label
    )
    read = wire.MetricIn.model_validate(json.loads(json.dumps(body, allow_nan=False)))
    assert (read.fl_client_name or read.trust, read.global_round, read.label, read.result) == (
        client,
        number,
        label,
        result,
    )
    if dialect is not HubDialect.OLDER:
        assert (read.x_value, read.x_label) == (x_value, x_label)


@pytest.mark.parametrize(
    ("body", "coordinate"),
    [
        ({}, ("Global Rounds", 3.0)),
        ({"x_value": 7.5}, ("Global Rounds", 7.5)),
        ({"x_label": "Epochs"}, ("Epochs", 3.0)),
        ({"x_label": "Epochs", "x_value": 0}, ("Epochs", 0.0)),
    ],
)
def test_the_plot_coordinate_is_the_global_round_unless_said(
    body: dict[str, Any], coordinate: tuple[str, float]
) -> None:
    """A plot is identified by (label, x_label)."""
    read = wire.MetricIn.model_validate({"trust": "T", "globalRound": 3, "label": "auc", "result": 1, **body})
    assert read.coordinate() == coordinate


GOOD_METRIC = {"fl_client_name": "Trust_1", "global_round": 1, "label": "auc", "result": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        {"result": math.nan},
        {"result": math.inf},
        {"result": "high"},
        {"result": None},
        {"x_value": -math.inf},
        {"x_label": ""},
        {"x_label": "x" * 65},
        {"label": ""},
        {"global_round": -1},
        {"global_round": 2**31},
        {"global_round": 1.5},
        {"fl_client_name": None},
        {"fl_client_name": ""},
        {"label": "a\0b"},
    ],
    ids=str,
)
def test_a_metric_that_no_plot_could_show_is_refused(change: dict[str, Any]) -> None:
    """Not finite, no name, no round, an axis without a name."""
    with pytest.raises(ValidationError):
        wire.MetricIn.model_validate(GOOD_METRIC | change)
    assert wire.MetricIn.model_validate(GOOD_METRIC | {"x_label": "x" * 64, "future": 1}).x_label == "x" * 64


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sender_never_writes_a_number_that_is_not_finite(value: float) -> None:
    """Neither as the result nor as the coordinate."""
    for numbers in ({"result": value}, {"result": 0.5, "x_value": value}):
        with pytest.raises(ValueError, match="finite"):
            wire.metric_body(HubDialect.BOTH, client="T", global_round=1, label="auc", **numbers)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"trust": "T", "log": "x"}, ("T", False)),
        ({"trust": "T", "log": "x", "success": True}, ("T", True)),
        ({"trust": "T", "fl_client_name": "S", "log": "x"}, ("S", True)),
        ({"fl_client_name": "S", "log": "x"}, ("S", True)),
        ({"fl_client_name": "S", "log": "x", "success": False}, ("S", False)),
        ({"log": "x"}, (None, True)),
        ({"trust": None, "log": "x"}, (None, True)),
    ],
)
def test_an_older_log_row_is_read_as_what_its_only_sender_means(
    body: dict[str, Any], expected: tuple[str | None, bool]
) -> None:
    """A failure report of that client; a current hub used to store it as a success of nobody."""
    read = wire.LogIn.model_validate(body)
    assert (read.fl_client_name or read.trust, read.success) == expected


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"log": "x", "event_type": "ROUND_STARTED", "global_round": 1},
        {"event_type": "ROUND_STARTED"},
        {"event_type": "ROUND_STARTED", "global_round": 0},
        {"event_type": "ROUND_STARTED", "global_round": 2**31},
        {"event_type": "QUEUE_POSITION"},
        {"event_type": " ", "global_round": 1},
        {"event_type": "x" * 65, "global_round": 1},
        {"event_type": "X", "global_round": 1, "details": {"k": "v" * 8192}},
        {"event_type": "X", "global_round": 1, "details": {"k": math.nan}},
        {"event_type": "X", "global_round": 1, "details": ["k"]},
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_row_that_is_neither_text_nor_one_whole_event_is_refused(body: dict[str, Any]) -> None:
    """Exactly one of log and event_type; a round unless the event has none; details within their bound."""
    with pytest.raises(ValidationError):
        wire.LogIn.model_validate(body)


def test_an_unknown_event_is_kept_and_a_roundless_one_needs_no_round() -> None:
    """What a newer sender reports is stored, not refused."""
    assert wire.LogIn.model_validate({"event_type": "OF_THE_FUTURE", "global_round": 1}).event_type == "OF_THE_FUTURE"
    assert wire.LogIn.model_validate({"event_type": "JOB_WAITING_FOR_RESOURCES"}).global_round is None


def test_the_bound_of_details_is_in_bytes_and_exact() -> None:
    """8192 bytes as compact JSON, in UTF-8."""
    details = {"k": "v" * (wire.MAX_DETAILS_BYTES - len('{"k":""}'))}
    assert wire.details_size(details) == wire.MAX_DETAILS_BYTES
    wire.LogIn.model_validate({"event_type": "X", "global_round": 1, "details": details})
    details["k"] += "v"
    with pytest.raises(ValidationError):
        wire.LogIn.model_validate({"event_type": "X", "global_round": 1, "details": details})


@pytest.mark.parametrize(
    "item",
    [
        wire.StatusItem(at=NOW, status="RUNNING", reason="because"),  # type: ignore[arg-type]
        wire.MetricItem(at=NOW, client="T", global_round=1, label="auc", result=0.5, task="validate", stage="ae"),
        wire.LogItem(at=NOW, client="T", log="boom", success=False, global_round=3),
        wire.EventItem(at=NOW, event_type="ROUND_STARTED", global_round=1, details={"total_rounds": 5}),
    ],
    ids=lambda item: item.kind,
)
def test_a_batch_item_reads_back_as_it_was_written(item: Any) -> None:
    """Its id and time were made where it happened: every copy must carry them on."""
    back = ITEM.validate_python(json.loads(item.model_dump_json()))
    assert back == item
    assert (back.id, back.at) == (item.id, NOW)


def test_event_ids_are_version_7_unique_and_ordered_by_time() -> None:
    """A hub's index grows at its end, and two events never share an id."""
    ids = [wire.new_event_id(millis) for millis in (0, 1, 1_700_000_000_000, 2**48 - 1) for _ in range(50)]
    assert len(set(ids)) == len(ids)
    assert all((made.version, made.variant) == (7, "specified in RFC 4122") for made in ids)
    assert [made.int >> 80 for made in ids] == sorted(made.int >> 80 for made in ids)
    assert isinstance(wire.new_event_id(), UUID)
    before = datetime.now(UTC).timestamp() * 1000
    assert abs((wire.new_event_id().int >> 80) - before) < 60_000


def test_the_authentication_texts_are_those_of_the_contract() -> None:
    """They are compared word for word by whoever decides what may be shown."""
    assert wire.HUB_AUTH_DETAILS == (
        "Not authenticated: internal service key is missing.",
        "Internal service auth not configured.",
        "Invalid internal service key.",
    )
    assert wire.TRUST_AUTH_DETAILS[1:] == (
        "Trust-internal service auth not configured.",
        "Invalid trust-internal service key.",
    )


def test_a_batch_is_bounded() -> None:
    """500 items at most; each is read by itself, so that one bad item costs only itself."""
    wire.BatchIn.model_validate({"items": [{}] * 500})
    with pytest.raises(ValidationError):
        wire.BatchIn.model_validate({"items": [{}] * 501})
