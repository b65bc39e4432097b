"""Server components of the benchmark's NVFLARE job: our reporter with a watch, the rival in its place, and nothing.

The file travels in the job's ``custom`` folder: it imports nothing of the tests.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import requests
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from flip_fl.nvflare.protocol import get_events
from flip_fl.nvflare.reporter import FlipReporter
from flip_fl.reporting.lifecycle import Lifecycle

TOLD = "handlers.json"
POST_TIMEOUT_S = 30.0


class TimedReporter(FlipReporter):
    """Our reporter. At its end it writes down how long its handlers took, by event, and how the run ended."""

    def __init__(self, model_id: str = "") -> None:
        super().__init__(model_id)
        self._seconds: dict[str, float] = {}
        self._line = threading.Lock()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        open_reporting = self._reporting
        begun = time.perf_counter()
        try:
            super().handle_event(event_type, fl_ctx)
        finally:
            seconds = time.perf_counter() - begun
            with self._line:
                self._seconds[event_type] = self._seconds.get(event_type, 0.0) + seconds
            if event_type == EventType.END_RUN and open_reporting is not None:
                told = {"ended": open_reporting.lifecycle.status.value, "seconds": self._seconds}
                (self.state_dir / TOLD).write_text(json.dumps(told), encoding="utf-8")


class PostingReporter(TimedReporter):
    """The documented client's way: each metric is posted in the event's handler, on a connection of its own."""

    def __init__(self, model_id: str = "") -> None:
        super().__init__(model_id)
        self._posted: set[str] = set()

    def _receive(self, shareable: Shareable, slot: str) -> None:
        settings = self.settings
        assert settings is not None
        route = f"{settings.hub_url.rstrip('/')}/model/{self.run_model_id}/metrics"
        headers = {settings.service_key_header: settings.service_key.get_secret_value()}
        for item in get_events(shareable, slot).items:
            if item["kind"] == "metric" and item["id"] not in self._posted:
                self._posted.add(item["id"])
                names = ("global_round", "label", "result", "x_value", "x_label")
                body = {"fl_client_name": slot, **{name: item[name] for name in names if item.get(name) is not None}}
                requests.post(route, json=body, headers=headers, timeout=POST_TIMEOUT_S).raise_for_status()


class SilentReporter(TimedReporter):
    """Reporting switched off: the run is the same, and nobody is told of it."""

    def _open(self, model_id: UUID, state: Path) -> Any:
        return _Silence()


class _Silence:
    """Stands where a run's reporting would be."""

    stop_requested = False

    def __init__(self) -> None:
        self.reporter: Any = _Nobody()
        self.lifecycle = Lifecycle(self.reporter)

    def close(self, timeout_s: float = 0.0) -> bool:
        return True


class _Nobody:
    """Takes every report and keeps none."""

    def together(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def __getattr__(self, name: str) -> Any:
        return lambda *_arguments, **_more: True
