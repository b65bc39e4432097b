"""Server components of the benchmark's NVFLARE job: our reporter with a watch, the rival in its place, and nothing.

The file travels in the job's ``custom`` folder: it imports nothing of the tests.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import requests
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext

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

    def open(self, reporting: Any) -> None:
        super().open(_Posting(reporting, self.settings))  # type: ignore[arg-type]


class _Posting:
    """A run's reporting, but for what sites measure."""

    def __init__(self, inner: Any, settings: Any) -> None:
        self._inner = inner
        self.reporter: Any = _PostingFace(inner.reporter, settings, inner.path.stem)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _PostingFace:
    """Our reporter, whose metrics go out on the caller's thread."""

    def __init__(self, inner: Any, settings: Any, model_id: str) -> None:
        self._inner = inner
        self._route = f"{settings.hub_url.rstrip('/')}/model/{model_id}/metrics"
        self._headers = {settings.service_key_header: settings.service_key.get_secret_value()}
        self._posted: set[str] = set()

    def from_site(self, client: str, raw: Iterable[Mapping[str, Any]]) -> bool:
        for item in raw:
            # A metric comes twice, live and in the task's reply.
            if item["kind"] == "metric" and item["id"] not in self._posted:
                self._posted.add(item["id"])
                names = ("global_round", "label", "result", "x_value", "x_label")
                body = {"fl_client_name": client, **{name: item[name] for name in names if item.get(name) is not None}}
                answer = requests.post(self._route, json=body, headers=self._headers, timeout=POST_TIMEOUT_S)
                answer.raise_for_status()
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class SilentReporter(TimedReporter):
    """Reporting switched off: the run is the same, and nobody is told of it."""

    def open(self, reporting: Any) -> None:
        reporting.close(0.0)
        super().open(_Silence())  # type: ignore[arg-type]


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
