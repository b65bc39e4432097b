"""How a run is told, whatever the engine does."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from flip_fl.reporting.lifecycle import NO_CAUSE, Lifecycle
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.reporter import Reporter
from flip_fl.values import ModelStatus


@pytest.fixture
def box(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.sqlite")


@pytest.fixture
def run(box: Outbox) -> Lifecycle:
    return Lifecycle(Reporter(box))


def told(box: Outbox) -> list[dict[str, Any]]:
    return [record.item() for record in box.collect(release=True)]


def statuses(box: Outbox) -> list[str]:
    return [item["status"] for item in told(box) if item["kind"] == "status"]


def events(box: Outbox) -> list[tuple[Any, ...]]:
    return [
        (item["event_type"], item.get("client"), item["global_round"], item["details"])
        for item in told(box)
        if item["kind"] == "event"
    ]


def test_each_part_of_a_comparison_is_told_once(box: Outbox, run: Lifecycle) -> None:
    """Many sites need several events of one kind in one round: none of them is taken for a copy of another."""
    parts = [{"mean": "plain", "sites": {"Trust_1": {}}}, {"mean": "plain", "sites": {"Trust_2": {}}}]
    for _ in range(2):
        run.compared(1, parts, stage="ae")
    assert events(box) == [("UPDATES_COMPARED", None, 1, {**part, "stage": "ae"}) for part in parts]


def test_a_good_run_is_told_once_although_everything_is_said_twice(box: Outbox, run: Lifecycle) -> None:
    """Engines repeat their events; the hub's story must not."""
    for _ in range(2):
        run.initiated()
        run.prepared()
    for number in (1, 2):
        for _ in range(2):
            run.round_started(number, 2)
            for slot in ("Trust_1", "Trust_2"):
                run.client_result(slot, number, 1000)
            run.aggregated(number, 2, 2)
    for _ in range(2):
        run.uploaded("s3://results/x.zip", "ab" * 32, 4096, 2)
        assert run.finish() is ModelStatus.RESULTS_UPLOADED
    assert statuses(box) == ["INITIATED", "PREPARED", "RUNNING", "RESULTS_UPLOADED"]
    assert events(box) == [
        *(
            row
            for number in (1, 2)
            for row in [
                ("ROUND_STARTED", None, number, {"total_rounds": 2}),
                ("CLIENT_RESULT_RECEIVED", "Trust_1", number, {"size_bytes": 1000}),
                ("CLIENT_RESULT_RECEIVED", "Trust_2", number, {"size_bytes": 1000}),
                ("ROUND_AGGREGATED", None, number, {"returned": 2, "expected": 2}),
            ]
        ),
        ("RESULTS_STORED", None, 2, {"address": "s3://results/x.zip", "sha256": "ab" * 32, "size_bytes": 4096}),
    ]
    assert not [item for item in told(box) if item["kind"] == "log"]
    assert [item.get("reason") for item in told(box) if item["kind"] == "status"] == [None] * 4


def test_statuses_never_go_backwards(box: Outbox, run: Lifecycle) -> None:
    """A late PREPARED, or the start of a job's second stage, once overwrote RUNNING."""
    run.round_started(1, 3, stage="ae")
    run.prepared()
    run.initiated()
    run.round_started(1, 3, stage="dm")
    assert statuses(box) == ["RUNNING"]
    assert [event[3] for event in events(box)] == [
        {"total_rounds": 3, "stage": "ae"},
        {"total_rounds": 3, "stage": "dm"},
    ]


def test_the_first_cause_decides_and_later_ones_stand_beside_it(box: Outbox, run: Lifecycle) -> None:
    """Clients of a stopped run fail, too; it was stopped all the same."""
    run.round_started(1, 5)
    run.stop("stopped at the hub")
    run.fail("Trust_2: connection lost")
    run.fail("Trust_2: connection lost")
    run.upload_failed("no bucket")
    assert run.cause is ModelStatus.STOPPED
    assert run.finish() is ModelStatus.STOPPED
    (last,) = [item for item in told(box) if item["kind"] == "status" and item["status"] == "STOPPED"]
    assert last["reason"] == "stopped at the hub; then: Trust_2: connection lost; then: no bucket"


def test_after_a_cause_no_round_starts_any_more(box: Outbox, run: Lifecycle) -> None:
    """An engine that panics still fires one more round; the page must not show it."""
    run.round_started(1, 5)
    run.fail("boom")
    run.round_started(2, 5)
    run.client_result("Trust_1", 1, 10)
    assert [(kind, number) for kind, _, number, _ in events(box)] == [
        ("ROUND_STARTED", 1),
        ("CLIENT_RESULT_RECEIVED", 1),
    ]


def test_a_failure_before_the_first_round_leaves_running_out(box: Outbox, run: Lifecycle) -> None:
    """A run that failed while it was prepared never trained."""
    run.initiated()
    run.fail("models.py: no module named torch")
    run.prepared()
    run.round_started(1, 5)
    assert run.finish() is ModelStatus.ERROR
    assert statuses(box) == ["INITIATED", "ERROR"]


def test_a_run_with_neither_results_nor_cause_is_an_error_with_a_reason(box: Outbox, run: Lifecycle) -> None:
    """An empty run once ended as a success; the reason is always at the hub."""
    run.round_started(1, 1)
    assert run.finish() is ModelStatus.ERROR
    assert told(box)[1]["reason"] == NO_CAUSE


def test_a_clean_up_that_fails_after_a_good_upload_does_not_change_the_end(box: Outbox, run: Lifecycle) -> None:
    """Clean-up is reported beside the outcome, whether it fails before or after the end was told."""
    run.uploaded("s3://results/x.zip", "ab" * 32, 1, 5)
    run.fail("could not remove a folder")
    assert run.finish() is ModelStatus.RESULTS_UPLOADED
    run.fail("could not remove another folder")
    assert run.finish() is ModelStatus.RESULTS_UPLOADED
    last = told(box)[0]
    assert (last["status"], last["reason"]) == (
        "RESULTS_UPLOADED",
        "the results were stored; then: could not remove a folder",
    )
    (late,) = [item for item in told(box) if item["kind"] == "log"]
    assert (late["log"], late["success"]) == ("after the end: could not remove another folder", False)


def test_results_that_were_stored_after_a_failure_are_told_but_do_not_hide_it(box: Outbox, run: Lifecycle) -> None:
    """A partial result is worth having; the run failed all the same."""
    run.fail("round 4: quorum lost")
    run.uploaded("s3://results/x.zip", "ab" * 32, 1, 3)
    assert run.finish() is ModelStatus.ERROR
    assert [kind for kind, *_ in events(box)] == ["RESULTS_STORED"]


def test_results_of_a_run_without_rounds_can_be_told(box: Outbox, run: Lifecycle) -> None:
    """An evaluation has no round, but the event needs one."""
    run.uploaded("s3://results/x.zip", "ab" * 32, 1, 0)
    assert [number for _, _, number, _ in events(box)] == [1]


def test_the_cause_is_on_disk_before_the_end_is_told(box: Outbox, run: Lifecycle) -> None:
    """An engine kills an aborted job's process ten seconds later; the reason must survive it."""
    run.round_started(1, 5)
    run.fail("Trust_1: out of memory")
    assert box.path is not None
    path = box.path
    assert Outbox.stats(path).cause
    box.close()
    again = Outbox(path)
    assert again.recover_cause()
    assert [(item["status"], item.get("reason")) for item in told(again) if item["kind"] == "status"] == [
        ("RUNNING", None),
        ("ERROR", "Trust_1: out of memory"),
    ]


def test_a_told_end_leaves_no_cause_behind(box: Outbox, run: Lifecycle) -> None:
    """The next process must not tell the end a second time."""
    run.stop("enough")
    run.finish()
    assert not box.recover_cause()


def test_threads_that_tell_the_same_tell_it_once(box: Outbox, run: Lifecycle) -> None:
    """Results of several sites come in several threads."""
    barrier = threading.Barrier(8)

    def tell() -> None:
        barrier.wait()
        run.round_started(1, 1)
        run.client_result("Trust_1", 1, 1)
        run.stop("x")
        run.finish()

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses(box) == ["RUNNING", "STOPPED"]
    assert len([kind for kind, *_ in events(box) if kind == "ROUND_STARTED"]) == 1


def test_a_fork_does_not_freeze_the_childs_lifecycle(box: Outbox, run: Lifecycle) -> None:
    """A lock that another thread held at the moment of the fork would be held for ever in the child."""
    done = threading.Event()

    def tell() -> None:
        number = 0
        while not done.is_set():
            number += 1
            run.client_result("Trust_1", number, 1)

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        for number in range(10):
            pid = os.fork()
            if pid == 0:
                run.aggregated(1000 + number, 1, 1)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        done.set()
        thread.join()
    while batch := box.collect(release=True):
        box.settle([record.id for record in batch])
        if any(record.item()["event_type"] == "ROUND_AGGREGATED" for record in batch):
            return
    raise AssertionError("the children's events are missing")


def test_a_result_says_how_long_it_took_where_that_is_known(box: Outbox, run: Lifecycle) -> None:
    """Which site is slow is the first question about a slow run; milliseconds are enough."""
    run.client_result("Trust_1", 1, 10, seconds=4.12345)
    run.client_result("Trust_2", 1, 10)
    assert [event[3] for event in events(box)] == [{"size_bytes": 10, "seconds": 4.123}, {"size_bytes": 10}]
