"""What development clients would have sent, kept in a file so that a simulated run can show it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from flip_fl import wire

JOURNAL = "development_calls.jsonl"
_ITEM: TypeAdapter[wire.StatusItem | wire.MetricItem | wire.LogItem | wire.EventItem] = TypeAdapter(wire.Item)


class Journal:
    """Appends wire items to ``<state_dir>/development_calls.jsonl``; with no folder it keeps nothing."""

    def __init__(self, state_dir: Path | None) -> None:
        self._path = None if state_dir is None else state_dir / JOURNAL

    def add(self, model_id: str, kind: str, **fields: Any) -> None:
        """Keep one item of ``kind`` (status, metric, log, event). Raises ``ValueError`` for what no hub would take."""
        item = _ITEM.validate_python({"kind": kind, "at": datetime.now(UTC), **fields})
        if self._path is None:
            return
        line = json.dumps({"model_id": model_id, "item": item.model_dump(mode="json")}) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One write in append mode: lines of several processes do not mix.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def read_journal(state_dir: Path) -> Iterator[tuple[str, wire.Item]]:
    """The model id and the item of each call, in order; nothing when no client wrote any."""
    path = state_dir / JOURNAL
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            yield entry["model_id"], _ITEM.validate_python(entry["item"])
