"""Live batches leave in time, in order, numbered, and never hold up the trainer."""

from __future__ import annotations

import queue
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from flip_fl.app import batch as module
from flip_fl.app.batch import Batcher, Publish
from flip_fl.wire import LogItem, SiteBatch


def item(text: str) -> LogItem:
    return LogItem(at=datetime.now(UTC), client="Trust_1", log=text)


def batcher_of(publish: Publish | None, **how: Any) -> Batcher:
    return Batcher(publish, SiteBatch(task="train", round=3), **how)


def texts(*batches: SiteBatch) -> list[str]:
    return [event["log"] for batch in batches for event in batch.items]


def test_a_lone_event_leaves_while_the_trainer_is_busy() -> None:
    """An event does not wait for the next one: it leaves when it is as old as the limit, and not before."""
    left: queue.Queue[tuple[float, SiteBatch]] = queue.Queue()
    batcher = batcher_of(lambda batch: left.put((time.monotonic(), batch)), max_age_s=0.2)
    ages = []
    for name in ("one", "two", "three", "four"):
        started = time.monotonic()
        batcher.add(item(name))
        at, batch = left.get(timeout=30)
        assert texts(batch) == [name]
        ages.append(at - started)
    batcher.close()
    assert left.empty()
    # A busy machine makes some of them late, and none of them early.
    assert 0.2 <= min(ages) <= 0.5


def test_a_full_batch_leaves_at_once() -> None:
    """A burst does not wait for its first event to grow old."""
    left = threading.Event()
    batcher = batcher_of(lambda batch: left.set() if len(batch.items) >= 100 else None, max_age_s=60)
    for number in range(99):
        batcher.add(item(str(number)))
    assert not left.wait(0.2)
    batcher.add(item("99"))
    assert left.wait(60)
    batcher.close()


def test_batches_are_numbered_and_keep_the_order() -> None:
    """Each batch says which of the task's events it holds, and the result says how many there were."""
    batches: list[SiteBatch] = []

    def slow(batch: SiteBatch) -> None:
        time.sleep(0.002)
        batches.append(batch)

    batcher = batcher_of(slow, max_items=7, max_age_s=0.001)
    for number in range(200):
        batcher.add(item(str(number)))
        time.sleep(0.001)
    batcher.close()
    assert texts(*batches) == [str(number) for number in range(200)]
    assert len(batches) > 3
    assert [batch.first for batch in batches] == [int(texts(batch)[0]) for batch in batches]
    kept = batcher.kept
    assert (kept.first, kept.made, texts(kept)) == (0, 200, texts(*batches))
    assert {(each.task_id, each.task, each.round) for each in [kept, *batches]} == {(kept.task_id, "train", 3)}


def test_a_hung_channel_holds_up_neither_the_trainer_nor_the_end_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer adds while a batch is stuck in the network, and the task ends; the result has everything."""
    monkeypatch.setattr(module, "CLOSE_WAIT_S", 0.1)
    stuck, release = threading.Event(), threading.Event()
    done = threading.Event()

    def hang(batch: SiteBatch) -> None:
        stuck.set()
        release.wait(60)

    batcher = batcher_of(hang, max_items=10)

    def train() -> None:
        for number in range(1000):
            batcher.add(item(str(number)))
        assert stuck.wait(30)
        batcher.close()
        done.set()

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        assert done.wait(30)
    finally:
        release.set()
        trainer.join()
    assert texts(batcher.kept) == [str(number) for number in range(1000)]


def test_what_is_kept_is_bounded_and_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that logs without end does not fill the site's memory: the newest stay, under their numbers."""
    monkeypatch.setattr(module, "MAX_KEPT", 50)
    batcher = batcher_of(None)
    for number in range(120):
        batcher.add(item(str(number)))
    kept = batcher.kept
    assert (kept.first, kept.made) == (70, 120)
    assert texts(kept) == [str(number) for number in range(70, 120)]


def test_several_threads_lose_nothing() -> None:
    """Data loaders and callbacks may log from threads of their own."""
    seen: list[dict[str, Any]] = []
    batcher = batcher_of(lambda batch: seen.extend(batch.items), max_items=10)

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
    assert batcher.kept.items == seen


def test_nothing_is_published_after_close() -> None:
    """A thread that the app left behind cannot report into the next task."""
    seen: list[SiteBatch] = []
    batcher = batcher_of(seen.append)
    batcher.close()
    batcher.add(item("late"))
    assert (seen, batcher.kept.items, batcher.kept.made) == ([], [], 0)
