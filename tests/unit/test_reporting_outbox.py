"""What the outbox promises about the records in it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flip_fl import wire
from flip_fl.errors import FlipError
from flip_fl.reporting.losses import LossReason
from flip_fl.reporting.outbox import Outbox, OutboxState
from flip_fl.reporting.records import MAX_TEXT_CHARS, Lane, record_of
from flip_fl.reporting.store import Dead
from flip_fl.values import ModelStatus
from tests.support.reporting import MODEL, event, failure, in_child, metric, note, put, put_together, records, status


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox" / f"{MODEL}.sqlite"


@pytest.fixture
def box(path: Path) -> Outbox:
    return Outbox(path)


def ids(box: Outbox, **how: bool) -> list[bytes]:
    return [record.id for record in box.collect(**how)]


def test_what_matters_most_is_sent_first_and_in_order(box: Outbox) -> None:
    """A status must not queue behind a thousand metrics; within its lane nothing changes places."""
    metrics = put(box, metric(1), metric(2))
    events = put(box, event(1), note())
    failures = put(box, failure("a"), failure("b"))
    statuses = put(box, status(ModelStatus.INITIATED), status(ModelStatus.PREPARED))
    assert ids(box) == statuses + failures + events + metrics


def test_an_id_is_kept_once_before_and_after_it_was_sent(box: Outbox) -> None:
    """The copy of a live batch that rides in a task's result is no second report."""
    item = metric()
    put(box, item, item)
    assert box.depth()[Lane.METRIC] == 1
    box.settle([item.id.bytes])
    put(box, item)
    assert box.is_empty()


def test_only_a_full_batch_or_its_bytes_end_a_collection(box: Outbox) -> None:
    """The sender's memory stays within one batch, and a record larger than the limit still goes, alone."""
    put(box, *(metric(float(n)) for n in range(20)))
    assert len(box.collect(7)) == 7
    assert len(box.collect(max_bytes=600)) == 2
    assert len(box.collect(max_bytes=1)) == 1


def test_at_the_cap_the_oldest_metric_goes_and_is_counted(path: Path) -> None:
    """A long outage costs the least important facts, and the count of them is known."""
    box = Outbox(path, max_rows=5)
    kept = put(box, status(ModelStatus.RUNNING), failure(), event())
    metrics = put(box, *(metric(float(n)) for n in range(6)))
    assert ids(box) == kept + metrics[-2:]
    assert Outbox.stats(path).losses == {"full": 4}


def parts(box: Outbox, *how: int) -> list[bytes]:
    return [part.id for record in box.collect(*how) for part in record.parts()]


def test_metrics_of_one_row_count_as_what_they_are(path: Path) -> None:
    """Who reads the depth, fills a batch or looks at the cap means metrics, however they lie in the file."""
    box = Outbox(path)
    metrics = put_together(box, *(metric(float(n)) for n in range(70)))
    alone = put(box, metric(70.0))
    assert box.depth()[Lane.METRIC] == Outbox.stats(path).pending == 71
    assert parts(box) == metrics + alone
    assert parts(box, 60) == metrics[:50]
    box.settle([metrics[0]])
    assert parts(box) == metrics[50:] + alone
    assert box.depth()[Lane.METRIC] == 21


def test_metrics_of_one_row_are_put_apart_in_their_place(box: Outbox) -> None:
    """What the hub refuses of them must not let the others change places."""
    first, metrics = put(box, metric(1)), put_together(box, metric(2), metric(3), metric(4))
    last = put(box, metric(5))
    assert box.unfold([metrics[0]])
    assert ids(box) == first + metrics + last
    assert [record.reports for record in box.collect()] == [1] * 5
    assert [record.item()["result"] for record in box.collect()] == [1, 2, 3, 4, 5]


def test_at_the_cap_no_more_metrics_go_than_have_to(path: Path) -> None:
    """The metrics of a row are dropped one by one, the oldest first, and each is counted."""
    box = Outbox(path, max_rows=10)
    metrics = put_together(box, *(metric(float(n)) for n in range(8)))
    more = put_together(box, *(metric(float(n)) for n in range(8, 13)))
    assert parts(box) == metrics[3:] + more
    assert Outbox.stats(path).losses == {"full": 3}
    box.settle([])
    kept = put(box, *(event(n + 1) for n in range(7)))
    assert parts(box) == kept + more[2:]
    assert Outbox.stats(path).losses == {"full": 10}


def test_a_file_that_an_older_flip_fl_wrote_is_delivered(path: Path) -> None:
    """An update between two runs must not cost the reports that wait."""
    box = Outbox(path)
    before = put(box, metric(1), status(ModelStatus.RUNNING))
    box.close()
    with contextlib.closing(sqlite3.connect(path)) as sql, sql:
        for trigger, table, sign, row in (("in", "INSERT", "+", "NEW"), ("out", "DELETE", "-", "OLD")):
            sql.execute(f"DROP TRIGGER pending_{trigger}")
            sql.execute(
                f"CREATE TRIGGER pending_{trigger} AFTER {table} ON pending BEGIN UPDATE lanes"
                f" SET rows = rows {sign} 1, bytes = bytes {sign} {row}.size WHERE lane = {row}.lane; END"
            )
        sql.execute("ALTER TABLE pending DROP COLUMN count")
        sql.execute("PRAGMA user_version = 1")
    box = Outbox(path)
    after = put_together(box, metric(2), metric(3))
    assert parts(box) == [before[1], before[0], *after]
    box.settle([*before, after[0]])
    assert box.is_empty()
    assert Outbox.stats(path).size_bytes == 0


def test_a_status_or_a_failure_is_never_dropped_for_something_newer(path: Path) -> None:
    """Without metrics the oldest events make room; of failures the first ones, which explain the most, stay."""
    box = Outbox(path, max_rows=4)
    put(box, event(1), event(2))
    failures = put(box, *(failure(str(n)) for n in range(5)))
    statuses = put(box, status(ModelStatus.RUNNING), status(ModelStatus.ERROR))
    assert ids(box, release=True) == statuses + failures[:2]
    assert Outbox.stats(path).losses == {"full": 5}


def test_bytes_are_bounded_like_rows(path: Path) -> None:
    """A disk is filled by a hundred long texts as well as by many short ones."""
    box = Outbox(path, max_bytes=20_000)
    put(box, *(note("x" * 3_000) for _ in range(20)))
    assert Outbox.stats(path).size_bytes <= 20_000
    assert 0 < box.depth()[Lane.EVENT] < 7


def test_what_is_on_its_way_is_not_counted_as_dropped(path: Path) -> None:
    """A metric that the hub has meanwhile stored was not lost."""
    box = Outbox(path, max_rows=3)
    put(box, metric(1), metric(2))
    flying = ids(box)
    put(box, metric(3), metric(4), metric(5))
    box.settle(flying)
    assert Outbox.stats(path).losses == {"full": 2}
    assert box.depth()[Lane.METRIC] == 1
    box.defer(ids(box))
    assert ids(box) == []
    put(box, metric(6), metric(7), metric(8))
    assert Outbox.stats(path).losses == {"full": 3}
    box.settle_deferred()
    assert box.depth()[Lane.METRIC] == 2


def test_a_terminal_status_waits_for_everything_else(box: Outbox) -> None:
    """Once a run has ended at the hub, its last metrics are already there."""
    running = put(box, status(ModelStatus.RUNNING))
    metrics = put(box, metric())
    terminal = put(box, status(ModelStatus.RESULTS_UPLOADED))
    assert ids(box) == running + metrics
    assert box.holds_terminal()
    assert ids(box, release=True) == running + terminal + metrics
    box.settle(running + metrics)
    assert not box.holds_terminal()
    assert ids(box) == terminal


def test_a_terminal_status_with_a_new_run_behind_it_does_not_wait(box: Outbox) -> None:
    """The end of the last run must not hold back the start of the next one of the same model."""
    old = put(box, status(ModelStatus.ERROR))
    new = put(box, status(ModelStatus.INITIATED))
    metrics = put(box, metric())
    assert ids(box) == old + new + metrics


def test_folder_and_files_are_the_owners_alone(box: Outbox, path: Path) -> None:
    """Tracebacks and metrics of a hospital's run are nobody else's to read."""
    put(box, metric())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = list(path.parent.iterdir())
    assert {file.name for file in files} >= {path.name + suffix for suffix in ("", "-wal", "-shm", ".use")}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_one_sender_a_file(box: Outbox, path: Path) -> None:
    """Two senders of one file would send everything twice."""
    other = Outbox(path)
    assert box.acquire_sender()
    assert box.acquire_sender()
    assert not other.acquire_sender()
    assert Outbox.stats(path).sending
    box.release_sender()
    assert other.acquire_sender()


def test_a_sender_that_died_does_not_hold_the_file(path: Path) -> None:
    """The next process must be able to send what a killed one has left."""
    code = (
        "import os, sys; from pathlib import Path; from flip_fl.reporting.outbox import Outbox\n"
        "box = Outbox(Path(sys.argv[1])); assert box.acquire_sender(); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        box = Outbox(path)
        assert not box.acquire_sender()
        child.kill()
        child.wait()
        assert box.acquire_sender()


def test_a_forked_child_reports_into_its_parents_outbox(box: Outbox) -> None:
    """Engines fork; a SQLite handle or a lock carried across a fork corrupts or hangs."""
    assert box.acquire_sender()
    put(box, metric(1))
    assert in_child(lambda: box.append(records(metric(2), failure()))) == 0
    put(box, metric(3))
    assert sum(box.depth().values()) == 4
    assert [record.item().get("result") for record in box.collect()] == [None, 1, 2, 3]


def test_nothing_of_the_file_is_open_in_a_forked_child_before_it_reports(box: Outbox, path: Path) -> None:
    """SQLite's locks stay with the parent: a child that wrote by the parent's handle could damage the file."""
    put(box, metric())
    assert box.acquire_sender()

    def opened() -> list[str]:
        files = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        return [file for file in files if file.startswith(str(path))]

    assert len(opened()) > 2
    assert in_child(lambda: not opened()) == 0


def test_a_fork_in_the_middle_of_other_threads_reports_hangs_nobody(box: Outbox) -> None:
    """A lock that another thread held at the moment of the fork would be held for ever in the child."""
    done = threading.Event()

    def report() -> None:
        while not done.is_set():
            put(box, metric())

    threads = [threading.Thread(target=report) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert [in_child(lambda: box.append(records(failure()))) for _ in range(15)] == [0] * 15
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert box.depth()[Lane.FAILURE] == 15


def test_a_forked_child_neither_sends_nor_keeps_the_lock(box: Outbox, path: Path) -> None:
    """A worker that outlives its parent must not keep the next process from sending."""
    assert box.acquire_sender()
    assert in_child(lambda: not box.acquire_sender()) == 0
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(0)
    try:
        box.close()
        assert Outbox(path).acquire_sender()
    finally:
        os.write(write, b"x")
        os.waitpid(pid, 0)


def test_a_newer_files_version_is_refused_by_name(box: Outbox, path: Path) -> None:
    """An older flip_fl must not misread what a newer one has left."""
    box.close()
    with sqlite3.connect(path) as sql:
        sql.execute("PRAGMA user_version = 9")
    sql.close()
    with pytest.raises(FlipError, match="version 9") as caught:
        Outbox(path)
    assert caught.value.code == "E0412"


def test_a_folder_that_cannot_be_made_refuses_the_start(tmp_path: Path) -> None:
    """A run whose reports would not be durable does not begin, and the message names path and setting."""
    (tmp_path / "state").write_text("a file, not a folder")
    with pytest.raises(FlipError) as caught:
        Outbox(tmp_path / "state" / "outbox" / "run.sqlite")
    assert caught.value.code == "E0412"
    assert str(tmp_path) in caught.value.what
    assert "FLIP_STATE_DIR" in caught.value.fix


def test_counters_are_readable_from_outside_live_and_afterwards(box: Outbox, path: Path) -> None:
    """``doctor`` must see how a run's reporting stands without disturbing it."""
    put(box, metric(), metric(), failure())
    sent = ids(box)[:1]
    box.settle(sent, [Dead(ids(box)[1], LossReason.REFUSED, "unknown_client", "who?")])
    box.note(last_error="PUT: HTTP 500", last_error_ms="1700000000000", paused=None)
    live = Outbox.stats(path)
    assert (live.state, live.sending, live.pending, live.unreported) == ("ok", False, 1, 1)
    assert live.depth == {"status": 0, "failure": 0, "event": 0, "metric": 1}
    assert live.dead == {"unknown_client": 1}
    assert live.losses == {"refused": 1}
    assert live.last_error == "PUT: HTTP 500"
    assert live.last_error_at is not None
    assert live.last_error_at.year == 2023
    assert live.last_ack is not None
    assert live.oldest_age_s is not None
    assert live.oldest_age_s < 60
    box.close()
    dead = Outbox.stats(path)
    assert (dead.state, dead.pending, dead.dead) == ("ok", 1, {"unknown_client": 1})


def test_reading_what_is_no_outbox_is_a_state(tmp_path: Path) -> None:
    """``doctor`` never fails because of what it looks at."""
    (tmp_path / "x.sqlite").write_text("nonsense")
    assert Outbox.stats(tmp_path / "x.sqlite").state == "unreadable"
    assert Outbox.stats(tmp_path / "y.sqlite").state == "missing"


def test_the_file_is_removed_only_when_the_hub_has_the_end_of_the_run(path: Path) -> None:
    """Nothing that somebody could still want to send or to read is deleted."""
    box = Outbox(path)
    rows = put(box, metric(), status(ModelStatus.RUNNING))
    box.settle(rows)
    assert not box.close(remove_if_done=True)
    box = Outbox(path)
    box.settle(put(box, status(ModelStatus.RESULTS_UPLOADED)))
    late = put(box, metric())
    assert not box.close(remove_if_done=True)
    box = Outbox(path)
    box.settle(late)
    assert box.close(remove_if_done=True)
    assert list(path.parent.iterdir()) == []


def test_a_file_with_the_start_of_another_run_is_not_removed(path: Path) -> None:
    """A model that is run again has an end at the hub already; the new run's end may still have to be told."""
    box = Outbox(path)
    box.settle(put(box, status(ModelStatus.ERROR)))
    box.settle(put(box, status(ModelStatus.INITIATED)))
    assert not box.close(remove_if_done=True)


@pytest.mark.parametrize("how", ["set aside", "unreported"])
def test_a_file_that_tells_of_losses_is_not_removed(path: Path, how: str) -> None:
    """What the hub refused, and why, can only be read here; and a loss that nobody was told of stays known."""
    box = Outbox(path)
    if how == "set aside":
        box.settle([], [Dead(put(box, metric())[0], LossReason.REFUSED, "unknown_client")])
        assert box.report_losses()
        box.settle(ids(box))
    else:
        box.lose(LossReason.INVALID)
    box.settle(put(box, status(ModelStatus.RESULTS_UPLOADED)))
    assert not box.close(remove_if_done=True)


def test_a_file_that_somebody_else_has_open_is_not_removed(path: Path) -> None:
    """A report into a removed file would be lost without anybody noticing."""
    box, other = Outbox(path), Outbox(path)
    box.settle(put(box, status(ModelStatus.RESULTS_UPLOADED)))
    assert not box.close(remove_if_done=True)
    put(other, metric())
    assert Outbox.stats(path).pending == 1


def test_opening_a_file_twice_keeps_the_first_ones_locks(path: Path) -> None:
    """Closing any descriptor of a file drops a process's locks on it: another process would then tidy up its log."""
    box = Outbox(path)
    put(box, metric())
    other = Outbox(path)
    code = (
        "import sys; from pathlib import Path; from flip_fl.reporting.outbox import Outbox\n"
        "Outbox(Path(sys.argv[1])).close()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    # The last one to close removes the log, and that was not the other process.
    assert path.with_name(path.name + "-wal").exists()
    put(box, metric())
    put(other, metric())
    assert Outbox.stats(path).pending == 3


def test_after_close_nothing_is_taken_and_nothing_comes_back(path: Path) -> None:
    """A late event of the engine, or a late answer of the hub, must not revive the file."""
    box = Outbox(path)
    rows = put(box, status(ModelStatus.RESULTS_UPLOADED))
    box.settle(rows)
    assert box.close(remove_if_done=True)
    assert not box.append(records(metric()))
    box.settle(rows)
    box.checkpoint()
    assert box.state is OutboxState.CLOSED
    assert not path.exists()


def test_losses_are_told_once_and_a_lost_telling_is_not_told_again(box: Outbox, path: Path) -> None:
    """A row about losses that the hub refuses must not beget the next one for ever."""
    box.lose(LossReason.INVALID, 3)
    assert box.report_losses()
    assert not box.report_losses()
    (record,) = box.collect()
    assert record.item()["log"] == "reporting: 3 not reported because they were not valid reports"
    assert record.lane is Lane.FAILURE
    box.settle([], [Dead(record.id, LossReason.REFUSED, "http_422")])
    assert not box.report_losses()
    assert Outbox.stats(path).losses == {"invalid": 3, "refused": 1}


def test_a_signal_handler_may_report_in_the_middle_of_a_report(box: Outbox) -> None:
    """Ctrl-C arrives in the thread that is just writing; its handler must neither hang nor break the transaction."""
    stop = status(ModelStatus.STOPPED)

    def handler(*_: object) -> None:
        box.append(records(stop))
        # Only now the next one: on a busy machine handlers would otherwise pile up on the stack.
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        for n in range(100):
            assert put(box, metric(float(n)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert box.depth() == {Lane.STATUS: 1, Lane.FAILURE: 0, Lane.EVENT: 0, Lane.METRIC: 100}


def test_what_a_signal_handler_reports_while_something_else_is_written_is_not_forgotten(box: Outbox) -> None:
    """Ctrl-C may come while losses are counted or the run's cause is kept, and be the last that is reported."""
    for round_ in range(1, 9):
        fired: list[object] = []

        def handler(*_: object, fired: list[object] = fired) -> None:
            fired.append(put(box, failure()))

        previous = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        try:
            while not fired:
                box.lose(LossReason.INVALID, 1)
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert box.path is not None
        assert Outbox.stats(box.path).depth["failure"] == round_


def test_many_threads_report_at_once_and_nothing_is_missing(box: Outbox) -> None:
    """Engines call from several threads."""

    def report(slot: int) -> None:
        for n in range(100):
            put(box, metric(float(n), client=f"Trust_{slot}"))

    threads = [threading.Thread(target=report, args=(slot,)) for slot in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen: dict[str, list[float]] = {}
    while batch := box.collect():
        for record in batch:
            seen.setdefault(record.item()["client"], []).append(record.item()["result"])
        box.settle([record.id for record in batch])
    assert seen == {f"Trust_{slot}": [float(n) for n in range(100)] for slot in range(6)}


def test_a_cause_outlives_the_process_that_knew_it(path: Path) -> None:
    """A run whose process is killed between its failure and its end still ends with status and reason."""
    box = Outbox(path)
    box.keep_cause(status(ModelStatus.ERROR, "Trust_3: out of memory"))
    box.close()
    assert Outbox.stats(path).cause
    again = Outbox(path)
    assert again.recover_cause()
    assert not again.recover_cause()
    (record,) = again.collect()
    assert (record.item()["status"], record.item()["reason"]) == ("ERROR", "Trust_3: out of memory")
    assert record.terminal


def test_texts_are_cut_in_the_middle_and_made_storable() -> None:
    """The last line of a traceback says what happened; a NUL or half a surrogate is what no database takes."""
    long = record_of(failure("first\n" + "x" * 200_000 + "\nValueError: boom")).item()["log"]
    assert len(long) <= MAX_TEXT_CHARS
    assert long.startswith("first\n")
    assert long.endswith("\nValueError: boom")
    odd = record_of(failure("a\0b\ud800c 😀 \\u0000")).item()["log"]
    assert odd == "a\ufffdb?c 😀 \\u0000"
    assert isinstance(wire.LogItem.model_validate(record_of(failure("a\0b")).item()), wire.LogItem)


def test_memory_behaves_like_a_file() -> None:
    """Tests use the same code without a disk."""
    box = Outbox(":memory:")
    rows = put(box, status(ModelStatus.RUNNING), metric())
    assert ids(box) == rows
    box.settle(rows)
    assert box.is_empty()
    assert box.acquire_sender()
    assert not box.close(remove_if_done=True)
