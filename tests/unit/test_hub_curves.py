"""What the hub reads out of a model's metrics."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from flip_fl.hub.curves import MetricRow, scored_in
from flip_fl.values import DEFAULT_X_LABEL


def row(slot: str | None, number: int, task: str | None, label: str = "loss") -> MetricRow:
    """A metric of ``slot``."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return MetricRow(label, DEFAULT_X_LABEL, 1.0, 0.5, number, uuid4(), None, None, slot, at, task, None)


def test_only_what_validation_measured_scores_a_rounds_model() -> None:
    """A site that logs while it trains and is lost before it has validated is still waited for, and found missing."""
    rows = [
        row("Trust_1", 1, "validate"),
        row("Trust_2", 1, "train"),
        row("Trust_2", 1, "train", "train_loss"),
        row("Trust_2", 1, None),
        row("Trust_2", 2, "validate"),
        row(None, 2, "validate"),
    ]
    assert scored_in(rows) == {1: {"Trust_1"}, 2: {"Trust_2"}}
