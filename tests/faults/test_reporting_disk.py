"""The outbox on disks in trouble: full, not confirming, read-only, corrupt."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flip_fl.reporting.backoff import Backoff
from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.outbox import Outbox, OutboxState
from flip_fl.reporting.records import Lane
from flip_fl.reporting.sender import Sender
from flip_fl.reporting.spill import DISK_RETRY_S
from flip_fl.reporting.stats import find_outboxes
from flip_fl.values import ModelStatus
from tests.support.disks import resize, small_disk
from tests.support.reporting import (
    MODEL,
    QUICK,
    failure,
    in_child,
    metric,
    note,
    put,
    records,
    settings,
    status,
    wait_until,
)
from tests.support.scripted_hub import scripted_hub


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox" / f"{MODEL}.sqlite"


@pytest.fixture
def box(path: Path) -> Outbox:
    return Outbox(path)


def test_a_full_disk_is_a_state_and_everything_arrives_once(tmp_path: Path) -> None:
    """A run whose disk fills up goes on, its hub hears everything once and in order, and it is durable again later."""
    with small_disk(tmp_path / "disk", 512) as disk, scripted_hub() as hub:
        box = Outbox(disk / "outbox" / f"{MODEL}.sqlite")
        items = [metric(float(n)) for n in range(4_000)]
        on_disk = [put_one(box, item) for item in items]
        assert box.state is OutboxState.DISK_FULL
        assert 0 < sum(on_disk) < len(items)
        sender = Sender(box, HubClient(settings(hub.url)), MODEL, pace=QUICK, backoff=Backoff(lambda low, high: 0.02))
        sender.start()
        wait_until(lambda: len(hub.of_kind("metric")) == len(items), 30, "delivery from a full disk")
        put(box, status(ModelStatus.RUNNING))
        wait_until(lambda: len(hub.of_kind("status")) == 1)
        time.sleep(2 * DISK_RETRY_S)
        resize(disk, 16_384)
        time.sleep(DISK_RETRY_S + 0.1)
        last = records(metric(-1.0))
        assert box.append(last)
        assert box.state is OutboxState.OK
        wait_until(box.is_empty, what="the rest")
        sender.close(1)
        assert [row["result"] for row in hub.of_kind("metric")] == [*map(float, range(4_000)), -1.0]
        assert len(hub.ids) == len(set(hub.ids))
        assert [row["log"] for row in hub.of_kind("log")] == [
            "reporting: the outbox file cannot be written (disk_full); reports are kept in memory"
        ]
        assert Outbox.stats(disk / "outbox" / f"{MODEL}.sqlite").losses == {}
        box.close()


def put_one(box: Outbox, item: object) -> bool:
    return box.append(records(item))  # type: ignore[arg-type]


def test_what_only_memory_held_is_said_to_be_lost_when_the_run_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where neither disk nor hub take a report it is lost with the process, and the log must say so, with the count."""
    with small_disk(tmp_path / "disk", 256) as disk:
        box = Outbox(disk / f"{MODEL}.sqlite")
        kept = sum(put_one(box, metric(float(n))) for n in range(3_000))
        box.close()
        ours = [record for record in caplog.records if record.name.startswith("flip_fl.reporting")]
        errors = [record.getMessage() for record in ours if record.levelno == logging.ERROR]
        # All that memory held, and the row that says that the disk is full.
        assert f"{3_000 - kept + 1} reports were in memory only and are lost" in errors[-1]
        resize(disk, 16_384)
        assert Outbox.stats(disk / f"{MODEL}.sqlite").pending == kept


SYNC = """
import sys
from pathlib import Path
from flip_fl.reporting.outbox import Outbox, OutboxState
from flip_fl.values import ModelStatus
from tests.support.disks import fail_every_sync
from tests.support.reporting import event, failure, metric, records, status
item = {"metric": metric, "event": event, "failure": failure, "status": lambda: status(ModelStatus.ERROR, "why")}
for kind in sys.argv[2:]:
    box = Outbox(Path(sys.argv[1]) / f"{kind}.sqlite")
    box.append(records(metric()))
    boxes = globals().setdefault("boxes", {})
    boxes[kind] = box
fail_every_sync()
for kind, box in boxes.items():
    if kind == "cause":
        box.keep_cause(status(ModelStatus.ERROR, "why"))
        print(kind, Outbox.stats(box.path).cause)
    else:
        print(kind, box.append(records(item[kind]())))
        assert (box.state is OutboxState.OK) == (kind in ("metric", "event")), box.state
"""


def test_statuses_and_failures_wait_for_the_disk_and_metrics_do_not(tmp_path: Path) -> None:
    """A loss of power may cost the last metrics, never a status, a failure or the reason of the run's end.

    The kernel refuses every sync: whatever waits for one is then not confirmed.
    """
    kinds = ("metric", "event", "failure", "status", "cause")
    run = subprocess.run(
        [sys.executable, "-c", SYNC, str(tmp_path), *kinds], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    confirmed = dict(line.split() for line in run.stdout.splitlines())
    assert confirmed == {"metric": "True", "event": "True", "failure": "False", "status": "False", "cause": "False"}


def test_a_flood_without_a_sender_stays_within_its_bounds_on_disk(path: Path) -> None:
    """A hub that is away for days must not fill the disk: neither rows nor the write-ahead log grow without end."""
    box = Outbox(path, max_rows=2_000, max_bytes=1 << 20)
    for _ in range(150):
        put(box, *(note("x" * 700) for _ in range(200)))
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
    # 16 MiB of log before it is folded in, and the million bytes twice: with their pages and indexes.
    assert sum(file.stat().st_size for file in files) < (16 << 20) + (3 << 20)
    stats = Outbox.stats(path)
    assert stats.size_bytes <= 1 << 20
    assert stats.pending + stats.losses["full"] == 30_000


def garbage(path: Path) -> None:
    path.write_text("not a database at all, but long enough to be one" * 100)


def garbage_header(path: Path) -> None:
    path.write_bytes(os.urandom(100) + path.read_bytes()[100:])


def garbage_pages(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096:12288] = os.urandom(8192)
    path.write_bytes(raw)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [garbage, garbage_header, garbage_pages, truncated])
def test_a_corrupt_file_is_set_aside_and_the_loss_is_reported(path: Path, damage: Callable[[Path], None]) -> None:
    """A broken disk costs what it destroyed, and neither the run nor the knowledge of the loss."""
    first = Outbox(path)
    put(first, *(metric(float(n)) for n in range(500)))
    first.close()
    damage(path)
    held = path.read_bytes()
    box = Outbox(path)
    put(box, failure())
    assert box.report_losses()
    assert [record.item()["log"] for record in box.collect()][1].startswith("reporting: 1 outbox file(s) that could")
    (aside,) = path.parent.glob("*.sqlite.corrupt-*[0-9]")
    assert aside.read_bytes() == held
    assert find_outboxes([path.parent]) == [path]


def test_a_row_that_the_disk_has_changed_costs_that_row_only(box: Outbox, path: Path) -> None:
    """Bits that change inside a text are no broken page; such a row once stopped all that travelled with it."""
    rows = put(box, *(metric(float(n)) for n in range(30)), status(ModelStatus.ERROR, "why"))
    damages = ["substr(body, 9)", "CAST(x'7BFF7D' AS TEXT)", "''", 'replace(body, \'"id":"0\', \'"id":"f\')']
    with contextlib.closing(sqlite3.connect(path)) as sql, sql:
        for row_id, damage in zip(rows[3:], damages, strict=False):
            sql.execute(f"UPDATE pending SET body = {damage} WHERE id = ?", (row_id,))
    for batches in (True, False):
        copy = path.with_name(f"{batches}.sqlite")
        with contextlib.closing(sqlite3.connect(path)) as sql, contextlib.closing(sqlite3.connect(copy)) as other:
            sql.backup(other)
        with scripted_hub() as hub, contextlib.closing(Outbox(copy)) as again:
            hub.has_batch_route = batches
            sender = Sender(
                again, HubClient(settings(hub.url)), MODEL, pace=QUICK, backoff=Backoff(lambda low, high: 0.01)
            )
            sender.start()
            wait_until(again.is_empty, what="delivery")
            sender.close(1)
            assert [row["result"] for row in hub.of_kind("metric")] == [
                float(n) for n in range(30) if n not in range(3, 7)
            ]
            assert [row["status"] for row in hub.of_kind("status")] == ["ERROR"]
            assert Outbox.stats(copy).losses == {"invalid": 4}
            assert Outbox.stats(copy).dead == {"unreadable": 4}


def test_a_file_that_turns_corrupt_under_way_is_set_aside_too(box: Outbox, path: Path) -> None:
    """The run goes on reporting into a new file."""
    put(box, *(metric(float(n)) for n in range(500)))
    with sqlite3.connect(path) as sql:
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sql.close()
    raw = bytearray(path.read_bytes())
    raw[4096:] = os.urandom(len(raw) - 4096)
    path.write_bytes(raw)
    box.before_fork()
    box.after_fork(in_child=False)
    assert box.append(records(failure()))
    assert box.depth()[Lane.FAILURE] == 1
    assert Outbox.stats(path).losses == {"corrupt_file": 1}


FULL_DISK = """
import resource, sys
from pathlib import Path
from flip_fl.reporting.outbox import Outbox, OutboxState
from flip_fl.reporting.spill import DISK_RETRY_S
from flip_fl.reporting.records import Lane
from tests.support.reporting import failure, metric, put, records, status
import time
box = Outbox(Path(sys.argv[1]))
early = put(box, *(metric(float(n)) for n in range(300)))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (Path(sys.argv[1] + "-wal").stat().st_size, hard))
late = [metric(1000.0 + n) for n in range(300)]
assert not any([box.append(records(item)) for item in late])
assert box.state is OutboxState.IO_ERROR, box.state
assert sum(box.depth().values()) == 601, box.depth()
first = box.collect()
box.settle([record.id for record in first])
second = box.collect()
assert not {record.id for record in first} & {record.id for record in second}
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
time.sleep(DISK_RETRY_S + 0.1)
assert box.append(records(failure()))
assert box.state is OutboxState.OK
box.collect()
print(sum(box.depth().values()) + len(first))
"""


def test_a_disk_that_takes_no_more_is_a_state_and_loses_nothing_while_the_process_lives(path: Path) -> None:
    """Reports go to memory, still reach the hub, what it has is not sent again, and it is durable again later."""
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    # 300 early, 300 late, one row that says so, one failure at the end
    assert run.stdout.strip() == "602"


def test_a_full_database_is_told_apart_from_a_broken_disk(box: Outbox) -> None:
    """Who reads the log must know whether to make room or to change the disk."""
    put(box, metric())
    # SQLite's own limit: the next page is refused exactly as on a full disk.
    store = box._file._open()
    store._sql.execute("PRAGMA max_page_count = 1")
    assert not box.append(records(*(note("x" * 3000) for _ in range(100))))
    assert box.state is OutboxState.DISK_FULL
    assert box.depth()[Lane.EVENT] == 100
    assert box.depth()[Lane.FAILURE] == 1


def test_a_folder_that_turns_read_only_is_told_apart_too(tmp_path: Path) -> None:
    """A remount or a changed owner in the middle of a run: reports go to memory, and the log says why."""
    folder = Path(tempfile.mkdtemp())
    box = Outbox(folder / "outbox.sqlite")
    put(box, metric())
    folder.chmod(0o755)

    def work() -> bool:
        # A fork makes the file be opened anew, here by somebody who may not.
        if os.geteuid() == 0:
            os.setuid(65534)
        kept = box.append(records(failure()))
        return not kept and box.state is OutboxState.READ_ONLY and box.depth()[Lane.FAILURE] == 2

    try:
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        assert in_child(work) == 0
    finally:
        folder.chmod(0o755)
        box.close()
        shutil.rmtree(folder)
