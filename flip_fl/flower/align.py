"""Replies that a strategy can average: the same records, and the same metrics in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from flip_fl.privacy.egress import sane_name


@dataclass(frozen=True)
class Aligned:
    """Replies in the order of their slots, and the metrics that were left out of them: name → slots that differ."""

    replies: list[Message]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """What was left out, in words; "" when nothing was. A name that may not leave a trust is only counted."""
        told = [f"'{name}' ({', '.join(slots)})" for name, slots in self.left_out.items() if sane_name(name)]
        if hidden := len(self.left_out) - len(told):
            told.append(f"{hidden} whose names cannot be shown")
        return ", ".join(told)


def align(replies: Sequence[tuple[str, Message]]) -> Aligned:
    """Of ``replies`` (slot, message), each with at most one ArrayRecord and one MetricRecord, what all have in common.

    Flower's strategies raise where one reply has another metric, a list of another length, or another name for a
    record. Replies that agree are passed on as they are; else copies without those metrics, records named as the first
    reply names them.
    """
    names = [_names(reply) for _, reply in replies]
    records = [_metrics(reply) for _, reply in replies]
    if all(each == names[0] for each in names) and _alike(records):
        return Aligned([reply for _, reply in replies])
    shapes = [
        (slot, {name: _shape(value) for name, value in record.items()})
        for (slot, _), record in zip(replies, records, strict=True)
    ]
    odd: dict[str, tuple[str, ...]] = {}
    if any(shape != shapes[0][1] for _, shape in shapes):
        for name in dict.fromkeys(name for _, shape in shapes for name in shape):
            lacking = tuple(slot for slot, shape in shapes if name not in shape)
            ragged = len({shape[name] for _, shape in shapes if name in shape}) > 1
            if lacking or ragged:
                odd[name] = lacking or tuple(slot for slot, _ in shapes)
    return Aligned([_trimmed(reply, odd, names[0]) for _, reply in replies], odd)


def _trimmed(reply: Message, odd: Mapping[str, Any], names: tuple[str | None, str | None]) -> Message:
    content = RecordDict()
    for name, record in reply.content.items():
        if isinstance(record, ArrayRecord):
            content[names[0] or name] = record
        elif isinstance(record, MetricRecord):
            kept = {key: value for key, value in record.items() if key not in odd}
            content[names[1] or name] = MetricRecord(kept)
        else:
            content[name] = record
    trimmed = copy(reply)
    trimmed.content = content
    return trimmed


def _names(reply: Message) -> tuple[str | None, str | None]:
    names: dict[type, str] = {}
    for name, record in reply.content.items():
        names.setdefault(type(record), name)
    return names.get(ArrayRecord), names.get(MetricRecord)


def _metrics(reply: Message) -> Mapping[str, Any]:
    return next((record for record in reply.content.values() if isinstance(record, MetricRecord)), {})


def _alike(records: Sequence[Mapping[str, Any]]) -> bool:
    lengths = [{name: len(value) for name, value in record.items() if isinstance(value, list)} for record in records]
    return all(
        record.keys() == records[0].keys() and each == lengths[0] for record, each in zip(records, lengths, strict=True)
    )


def _shape(value: Any) -> int | None:
    return len(value) if isinstance(value, list) else None
