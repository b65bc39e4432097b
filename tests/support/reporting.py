"""What the tests of reporting share: items, settings, waiting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from flip_fl import wire
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.records import Record, metric_records, record_of
from flip_fl.reporting.sender import Pace
from flip_fl.settings import ServerSettings
from flip_fl.values import ModelStatus
from tests.support.scripted_hub import KEY

MODEL = UUID("7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b")
QUICK = Pace(flush_s=0.02, heartbeat_s=60.0, request_timeout_s=1.0, hold_s=60.0, outage_patience_s=0.5)


def settings(url: str, key: str = KEY, **more: str) -> ServerSettings:
    """An FL server's settings for a hub at ``url``."""
    return ServerSettings(
        hub_url=url,
        service_key=key,
        results_bucket="s3://results",
        _env_file=None,
        **more,  # type: ignore[arg-type]
    )


def metric(value: float = 0.5, *, client: str = "Trust_1", label: str = "loss", round_: int = 1) -> wire.MetricItem:
    return wire.MetricItem(at=datetime.now(UTC), client=client, global_round=round_, label=label, result=value)


def failure(text: str = "Traceback …") -> wire.LogItem:
    return wire.LogItem(at=datetime.now(UTC), client="Trust_1", log=text, success=False)


def note(text: str = "all well") -> wire.LogItem:
    return wire.LogItem(at=datetime.now(UTC), log=text)


def event(round_: int = 1) -> wire.EventItem:
    return wire.EventItem(at=datetime.now(UTC), event_type="ROUND_STARTED", global_round=round_)


def status(value: ModelStatus, reason: str | None = None) -> wire.StatusItem:
    return wire.StatusItem(at=datetime.now(UTC), status=value, reason=reason)


def records(*items: wire.Item) -> list[Record]:
    return [record_of(item) for item in items]


def put(box: Outbox, *items: wire.Item) -> list[bytes]:
    """Append the items; return their ids."""
    kept = records(*items)
    box.append(kept)
    return [record.id for record in kept]


def put_together(box: Outbox, *items: wire.MetricItem) -> list[bytes]:
    """Append the metrics as they come in one reply, several to a row; return their ids."""
    box.append(metric_records(items))
    return [item.id.bytes for item in items]


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0, what: str = "it") -> None:
    """Poll until ``condition`` holds; fails the test after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.01)


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked child; its exit code: 0 if it returned something true, else 2, or 1 after an error."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
