"""Whether a reply can be aggregated: checked against the message that was sent, before any strategy sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from flip_fl.aggregate.average import MAX_EXAMPLES, Update, check_update
from flip_fl.flower.npy import Layout, NpyError, layout_of, payload_bytes, view
from flip_fl.flower.protocol import NUM_EXAMPLES
from flip_fl.privacy.egress import sane_name
from flip_fl.values import Task

_Kind = TypeVar("_Kind", ArrayRecord, MetricRecord)

ReplyCheck = Callable[[Message, Message, Task], str | None]


class Quarantine:
    """The house's ``ReplyCheck``: exactly the sent arrays' names, shapes and dtypes (train), finite; sound metrics.

    ``weighted_by`` is the metric by which the strategy weights. Remembers how the last model that was sent is laid out,
    so that a reply's arrays are read without a copy.
    """

    def __init__(self, weighted_by: str = NUM_EXAMPLES) -> None:
        self._weighted_by = weighted_by
        self._sent: ArrayRecord | None = None
        self._layouts: dict[str, Layout] = {}
        self._model: dict[str, np.ndarray[Any, Any]] = {}

    def __call__(self, sent: Message, reply: Message, task: Task) -> str | None:
        """Why ``reply`` cannot be aggregated, or None. The reason names parameters, never values. Never raises."""
        if not reply.has_content():
            return "it has no content"
        metrics = records_of(reply.content, MetricRecord)
        if len(metrics) != 1:
            return f"it has {len(metrics)} MetricRecords, not one"
        reason = _check_metrics(metrics[0]) or self._check_weight(metrics[0], task)
        if reason is not None or task is not Task.TRAIN:
            return reason
        arrays = records_of(reply.content, ArrayRecord)
        if len(arrays) != 1:
            return f"it has {len(arrays)} ArrayRecords, not one"
        return self._check_arrays(sent, arrays[0], metrics[0])

    def forget(self) -> None:
        """Let go of the model that was sent last: it may be large."""
        self._sent, self._layouts, self._model = None, {}, {}

    def _check_weight(self, metrics: MetricRecord, task: Task) -> str | None:
        name = self._weighted_by
        value = metrics.get(name)
        if value is None:
            return f"its metrics lack '{name}'"
        if name == NUM_EXAMPLES:
            if task is Task.TRAIN:
                return None  # check_update has the rule
            if isinstance(value, bool) or not isinstance(value, int):
                return f"{name} is a {type(value).__name__}, not a whole number"
            return None if 0 <= value <= MAX_EXAMPLES else f"{name} is {value}; it must be from 0 to {MAX_EXAMPLES}"
        if isinstance(value, list):
            return f"'{name}' is a list, not a number"
        least = 0 if task is not Task.TRAIN else math.ulp(0.0)
        if not (math.isfinite(value) and least <= value <= MAX_EXAMPLES):
            return f"'{name}' is {value}; replies cannot be weighted by it"
        return None

    def _check_arrays(self, sent: Message, returned: ArrayRecord, metrics: MetricRecord) -> str | None:
        try:
            model = self._read_model(sent)
        except NpyError:
            return "the model that was sent is not made of numpy arrays: give your own check"
        found: dict[str, Any] = {}
        hidden = [name for name in returned if name not in (model or ()) and not sane_name(name)]
        if hidden and model is not None:
            return f"{len(hidden)} parameters have names that cannot be shown, and are not the model's"
        shown = {name: f"parameter {place} (its name cannot be shown)" for place, name in enumerate(hidden, 1)}
        for name, array in returned.items():
            said = shown.get(name, name)
            try:
                found[said] = view(array, self._layouts.get(name))
            except NpyError as error:
                return f"'{said}' {error}"
        examples: Any = metrics[NUM_EXAMPLES] if self._weighted_by == NUM_EXAMPLES else 1
        # A message without a model (the strategy sends none): what came must be numbers all the same.
        return check_update(model if model is not None else found, Update("", found, examples))

    def _read_model(self, sent: Message) -> Mapping[str, np.ndarray[Any, Any]] | None:
        records = records_of(sent.content, ArrayRecord)
        if len(records) != 1:
            return None
        if records[0] is not self._sent:
            self._layouts = {name: layout_of(array) for name, array in records[0].items()}
            self._model = {name: view(array, self._layouts[name]) for name, array in records[0].items()}
            self._sent = records[0]
        return self._model


def records_of(content: RecordDict, kind: type[_Kind]) -> list[_Kind]:
    """The records of one kind. Flower's own properties build a checked dict at every call."""
    return [record for record in content.values() if isinstance(record, kind)]


def array_bytes(reply: Message) -> int:
    """Bytes of the arrays in a reply's records, without headers, whatever they say of themselves. Never raises."""
    return sum(payload_bytes(array) for record in records_of(reply.content, ArrayRecord) for array in record.values())


def _check_metrics(record: MetricRecord) -> str | None:
    lengths: dict[int, str] = {}
    for name, value in record.items():
        if isinstance(value, list):
            lengths.setdefault(len(value), f"'{name}'" if sane_name(name) else "one whose name cannot be shown")
    if len(lengths) > 1:
        told = ", ".join(f"{name} has {length}" for length, name in sorted(lengths.items()))
        return f"its lists of metrics differ in length: {told}"
    return None
