"""What the hub says of statuses and events."""

from __future__ import annotations

from typing import Any

import pytest

from flip_fl.hub.refusals import first_error, public_errors
from flip_fl.hub.words import STATUS_SENTENCES, event_text, size_text
from flip_fl.values import ModelStatus


def test_every_status_but_pending_has_a_sentence_of_its_own() -> None:
    """Each change is told, each in other words; a draft is nothing to tell."""
    assert set(STATUS_SENTENCES) == set(ModelStatus) - {ModelStatus.PENDING}
    assert len(set(STATUS_SENTENCES.values())) == len(STATUS_SENTENCES)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2_300_000, "2.3 MB"),
        (5 * 10**9, "5.0 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_sizes_are_read_by_people(size: int, text: str) -> None:
    """Bytes are shown in units of a thousand, with one digit after the point."""
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("event_type", "global_round", "details", "text"),
    [
        ("ROUND_STARTED", 2, {}, "Round 2 started"),
        ("ROUND_STARTED", 4, {"total_rounds": 8, "stage": "dm"}, "Round 4 of 8 (dm) started"),
        ("ROUND_STARTED", 4, {"stage": "dm"}, "Round 4 (dm) started"),
        ("ROUND_STARTED", 4, {"total_rounds": 8, "stage": 7}, "Round 4 of 8 started"),
        (
            "ROUND_AGGREGATED",
            4,
            {"returned": 1, "expected": 2, "stage": "ae"},
            "Round 4 (ae) aggregated: 1 of 2 sites returned",
        ),
        ("CLIENT_RESULT_RECEIVED", 4, {"stage": "d" * 65}, f"Round 4 ({'d' * 64}) · KCH returned weights"),
        ("ROUND_STARTED", None, {"total_rounds": 3}, "The run of 3 started"),
        ("ROUND_AGGREGATED", 2, {"returned": 1}, "Round 2 aggregated"),
        ("CLIENT_RESULT_RECEIVED", 2, {}, "Round 2 · KCH returned weights"),
        (
            "CLIENT_RESULT_RECEIVED",
            2,
            {"size_bytes": 2_300_000, "seconds": 4.123},
            "Round 2 · KCH returned weights, 2.3 MB in 4.1 s",
        ),
        (
            "CLIENT_RESULT_RECEIVED",
            2,
            {"size_bytes": 10, "seconds": 3600.4},
            "Round 2 · KCH returned weights, 10 B in 3600 s",
        ),
        ("CLIENT_RESULT_RECEIVED", 2, {"size_bytes": 10, "seconds": "4"}, "Round 2 · KCH returned weights, 10 B"),
        ("CLIENT_RESULT_RECEIVED", 2, {"size_bytes": 10, "seconds": -1.0}, "Round 2 · KCH returned weights, 10 B"),
        (
            "ROUND_STARTED",
            1,
            {"total_rounds": 3, "stage": "base", "task": "evaluate"},
            "Model 1 (base) of 3: evaluation started",
        ),
        ("ROUND_STARTED", 1, {"task": "evaluate", "stage": 7}, "Model 1: evaluation started"),
        (
            "CLIENT_RESULT_RECEIVED",
            1,
            {"stage": "base", "task": "evaluate", "seconds": 2.0},
            "Model 1 (base) · KCH returned its scores in 2.0 s",
        ),
        (
            "ROUND_AGGREGATED",
            1,
            {"stage": "base", "task": "evaluate", "returned": 1, "expected": 2},
            "Model 1 (base) evaluated: 1 of 2 sites returned",
        ),
        ("ROUND_AGGREGATED", 1, {"task": "evaluate", "returned": 0, "expected": 0}, "Model 1 is left out"),
        ("JOB_WAITING_FOR_RESOURCES", None, {"final": True}, "Waiting for resources at KCH; this was the last attempt"),
        ("QUEUE_POSITION", None, {"position": 3}, "Queued at position 3"),
        ("QUEUE_POSITION", None, {}, "Queued"),
        ("RESULTS_STORED", 5, {"address": "s3://b/k", "size_bytes": 10}, "Results stored, 10 B at s3://b/k"),
        ("NEW", None, {}, "NEW · KCH"),
    ],
)
def test_events_are_worded_from_what_is_there(
    event_type: str, global_round: int | None, details: dict[str, Any], text: str
) -> None:
    """A missing fact shortens the sentence and never breaks it."""
    assert event_text(event_type, global_round=global_round, details=details, who="KCH") == text


def test_refusals_never_quote_the_input() -> None:
    """Whatever the validator says of the input, place and reason are all that is answered."""
    errors = [
        {"type": "union_tag_invalid", "loc": (), "msg": "Input tag 'canary' found", "input": "canary", "ctx": {}},
        {"type": "float_type", "loc": ("metric", "result"), "msg": "Input should be a number", "input": "canary"},
    ]
    assert "canary" not in str(public_errors(errors))
    assert first_error(errors) == "kind must be status, metric, metrics, log or event"
    assert first_error(errors[1:]) == "result: Input should be a number"
