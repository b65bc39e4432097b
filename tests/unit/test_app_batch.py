"""Live batches leave in time, in order, and never hold up the trainer."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

from flip_fl.app.batch import Batcher
from flip_fl.wire import LogItem


def item(text: str) -> LogItem:
    return LogItem(at=datetime.now(UTC), client="Trust_1", log=text)


def test_a_lone_event_leaves_while_the_trainer_is_busy() -> None:
    """An event does not wait for the next one: it leaves when it is as old as the limit."""
    batches: list[tuple[float, list[dict[str, Any]]]] = []
    batcher = Batcher(lambda batch: batches.append((time.monotonic(), batch)), max_age_s=0.2)
    started = time.monotonic()
    batcher.add(item("one"))
    time.sleep(0.6)
    assert [event["log"] for event in batches[0][1]] == ["one"]
    assert 0.15 <= batches[0][0] - started <= 0.5
    batcher.add(item("two"))
    time.sleep(0.4)
    assert len(batches) == 2
    batcher.close()
    assert len(batches) == 2


def test_batches_keep_the_order_when_threads_publish() -> None:
    """The timer's batch and the trainer's batch never overtake each other."""
    seen: list[str] = []

    def slow(batch: list[dict[str, Any]]) -> None:
        time.sleep(0.002)
        seen.extend(event["log"] for event in batch)

    batcher = Batcher(slow, max_items=7, max_age_s=0.001)
    for number in range(200):
        batcher.add(item(str(number)))
    batcher.close()
    assert seen == [str(number) for number in range(200)]
    assert [event["log"] for event in batcher.events] == seen


def test_several_threads_lose_nothing() -> None:
    """Data loaders and callbacks may log from threads of their own."""
    seen: list[dict[str, Any]] = []
    batcher = Batcher(seen.extend, max_items=10)

    def work(name: int) -> None:
        for number in range(100):
            batcher.add(item(f"{name}-{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    assert len({event["id"] for event in seen}) == 400
    assert {event["id"] for event in batcher.events} == {event["id"] for event in seen}


def test_nothing_is_published_after_close() -> None:
    """A thread that the app left behind cannot report into the next task."""
    seen: list[dict[str, Any]] = []
    batcher = Batcher(seen.extend)
    batcher.close()
    batcher.add(item("late"))
    batcher.flush()
    assert (seen, batcher.events) == ([], [])
