"""What lies where: a second round asks for nothing, jobs share, and every job's images are gone when the last ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from flip_fl.data.images import Studies, fetch_studies
from flip_fl.data.index import ImageIndex, derived_dir, open_index
from flip_fl.values import ResourceType
from tests.support.disks import small_disk
from tests.support.flower_plain import until
from tests.support.imaging import Imaging, imaging
from tests.support.recording_server import Answer

NAMES = [f"ACC{number:03d}" for number in range(12)]
TYPES = (ResourceType.NIFTI,)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Imaging]:
    with imaging(tmp_path, FLIP_STATE_DIR=str(tmp_path / "state"), FLIP_TRUST_READ_TIMEOUT_S="2") as running:
        yield running


def index_of(service: Imaging, job: str) -> ImageIndex:
    index = open_index(service.source, job)
    assert index is not None
    return index


def fetch(
    service: Imaging,
    index: ImageIndex,
    names: list[str] = NAMES,
    project: str = "p",
    types: tuple[ResourceType, ...] = TYPES,
) -> Studies:
    cohort = pd.DataFrame({"accession_id": names})
    known = index.of(project, types)
    return fetch_studies(service.source, project, cohort, types, max_skipped=1, known=known).wait()


def lying(service: Imaging) -> list[str]:
    return sorted(path.name for path in service.root.iterdir())


def test_a_second_round_asks_for_nothing(service: Imaging) -> None:
    """Neither the next round of a job nor another job of the project asks for what lies there unchanged."""
    index = index_of(service, "job-1")
    first = fetch(service, index)
    assert len(service.asked) == 12
    again = fetch(service, index)
    other = fetch(service, index_of(service, "job-2"))
    assert len(service.asked) == 12
    assert [s.files for s in first.studies()] == [s.files for s in again.studies()]
    assert [s.files for s in first.studies()] == [s.files for s in other.studies()]
    assert dict(first) == dict(again) == dict(other)


def test_what_many_threads_write_at_once_is_one_transaction(service: Imaging) -> None:
    """Each returns when its own is written: whoever has the database writes for those that wait."""
    index = index_of(service, "job")
    begun: list[str] = []
    index._database.set_trace_callback(lambda text: begun.append(text) if text.startswith("BEGIN") else None)
    known = index.of("p", TYPES)
    threads = [threading.Thread(target=known.asking, args=(name,)) for name in NAMES]
    with index._lock:
        for thread in threads:
            thread.start()
        until(lambda: len(index._changes) == len(NAMES))
    for thread in threads:
        thread.join()
    assert len(begun) == 1
    assert sorted(name for (name,) in index.read("SELECT accession FROM asked", ())) == NAMES


def test_what_changed_or_is_missing_is_asked_for_again(service: Imaging) -> None:
    """A file that is gone, other, newer or additional makes its study a miss, and only its study."""
    index = index_of(service, "job")
    fetch(service, index)
    service.server.requests.clear()
    (service.root / NAMES[0] / "input_1.nii.gz").unlink()
    (service.root / NAMES[1] / "input_1.nii.gz").write_bytes(b"longer than before")
    os.utime(service.root / NAMES[2] / "input_1.nii.gz", ns=(1, 1))
    (service.root / NAMES[3] / "more.nii.gz").write_bytes(b"x")
    fetch(service, index)
    assert sorted(service.asked) == NAMES[:4]
    service.server.requests.clear()
    fetch(service, index)
    assert service.asked == []


def test_another_project_or_type_asks_for_itself(service: Imaging) -> None:
    """What the service gave to one project is no permission for another."""
    index = index_of(service, "job")
    fetch(service, index)
    fetch(service, index, NAMES[:2], project="another")
    fetch(service, index, NAMES[:2], types=(ResourceType.DICOM, ResourceType.SEGMENTATION))
    assert len(service.asked) == 12 + 2 + 4


def test_a_skipped_study_is_asked_for_again(service: Imaging) -> None:
    """What was missing may have come meanwhile."""
    index = index_of(service, "job")
    service.say = lambda name, attempt: Answer(404) if name == NAMES[0] and attempt == 1 else None
    assert len(fetch(service, index)) == 11
    assert len(fetch(service, index)) == 12


def test_a_jobs_end_removes_its_images_and_no_others(service: Imaging) -> None:
    """Shared studies stay until the last job that uses them ends; what no job fetched is never touched."""
    (service.root / "somebody-elses").mkdir()
    first, second = index_of(service, "job-1"), index_of(service, "job-2")
    fetch(service, first, NAMES[:8])
    fetch(service, second, NAMES[6:], project="another")
    first.release()
    assert lying(service) == [*NAMES[6:], "somebody-elses"]
    assert len(fetch(service, second, NAMES[6:], project="another")) == 6
    second.release()
    assert lying(service) == ["somebody-elses"]


def test_a_study_that_was_found_wanting_is_removed_too(service: Imaging) -> None:
    """An empty file is no study, but it lies there."""
    service.files = {"input_1.nii.gz": b""}
    index = index_of(service, "job")
    assert len(fetch(service, index)) == 0
    assert lying(service) == NAMES
    index.release()
    assert lying(service) == []


def test_nothing_outside_the_images_folder_is_ever_removed(service: Imaging, tmp_path: Path) -> None:
    """The folder itself stays when a service names it as a study's, and so does what a link points to."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a").write_bytes(b"x")
    service.put(NAMES[1])
    service.say = lambda name, attempt: Answer(200, {"path": str(service.root)}) if name == NAMES[0] else None
    index = index_of(service, "job")
    fetch(service, index, NAMES[:2])
    (service.root / NAMES[1] / "link").symlink_to(kept)
    index.release()
    assert service.root.is_dir()
    assert (kept / "a").read_bytes() == b"x"


CHILD = """
    import sys, threading
    from pathlib import Path
    import pandas as pd
    from flip_fl.data.images import fetch_studies
    from flip_fl.data.index import open_index
    from flip_fl.data.sources.trust import TrustSource
    from flip_fl.settings import ClientSettings, load
    from flip_fl.values import ResourceType

    file, job, *names = sys.argv[1:]
    source = TrustSource(load(ClientSettings, Path(file)))
    types = (ResourceType.NIFTI,)
    index = open_index(source, job)
    cohort = pd.DataFrame({"accession_id": names})
    studies = fetch_studies(source, "p", cohort, types, max_skipped=1, known=index.of("p", types))
    for number, _ in enumerate(studies.arriving(), start=1):
        print(number, flush=True)
    threading.Event().wait()
"""


def child(tmp_path: Path, job: str, names: list[str]) -> subprocess.Popen[str]:
    """Another process that fetches ``names`` for ``job`` and then does nothing."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path / "flip.env"), job, *names]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def await_lines(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    for _ in range(count):
        assert process.stdout.readline()


def test_a_killed_jobs_images_go_when_the_next_one_starts(service: Imaging, tmp_path: Path) -> None:
    """After kill -9 in the middle of a fetch the next start removes all of it: studies that had come, and one on its
    way, of which only the service knows where it is. A job whose process lives keeps what it has.
    """
    hold = threading.Event()
    last = NAMES[5]
    service.say = lambda name, attempt: (
        Answer(200, {"path": str(service.put(name))}, wait=hold) if name == last and attempt == 1 else None
    )
    killed = child(tmp_path, "killed", NAMES[:6])
    alive = child(tmp_path, "alive", NAMES[6:])
    try:
        await_lines(killed, 5)
        await_lines(alive, 6)
        until(lambda: lying(service) == NAMES)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        hold.set()
        assert lying(service) == NAMES
        index = index_of(service, "next")
        index.sweep(service.source)
        assert lying(service) == NAMES[6:]
        assert service.attempts[last] == 2
    finally:
        for process in (killed, alive):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    index.sweep(service.source)
    assert lying(service) == []


def test_a_sweep_waits_for_a_service_that_is_down(service: Imaging) -> None:
    """What could not be found out stays to be found out: nothing is forgotten because the service was away."""
    index = index_of(service, "job")
    service.say = lambda name, attempt: Answer(hang_up=True) if attempt <= 4 else None
    assert len(fetch(service, index, NAMES[:1])) == 0
    index.release()
    service.put(NAMES[0])
    following = index_of(service, "next")
    following.sweep(service.source)
    assert lying(service) == NAMES[:1]
    following.sweep(service.source)
    assert lying(service) == []


def test_two_jobs_on_one_index_lose_nothing(service: Imaging, tmp_path: Path) -> None:
    """While one job ends over and over, another keeps finding its studies whole."""
    keeper = index_of(service, "keeper")
    fetch(service, keeper)
    failures: list[str] = []

    def come_and_go() -> None:
        for number in range(15):
            index = index_of(service, f"passing-{number}")
            if len(fetch(service, index)) != 12:
                failures.append("a study was missing")
            index.release()

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert lying(service) == NAMES


def test_a_damaged_index_is_set_aside(service: Imaging, tmp_path: Path) -> None:
    """Garbage where the index was costs another fetch, not the job."""
    folder = tmp_path / "state" / "images"
    folder.mkdir(parents=True)
    (folder / "index.sqlite").write_bytes(b"no database at all" * 100)
    index = index_of(service, "job")
    assert len(fetch(service, index)) == 12
    assert len(list(folder.glob("index.sqlite.damaged-*"))) == 1
    index.release()
    assert lying(service) == []


def test_without_a_state_folder_a_job_still_cleans_up(tmp_path: Path) -> None:
    """What cannot outlive the process is kept in it: second rounds and the end work all the same."""
    with imaging(tmp_path) as service:
        index = index_of(service, "job")
        fetch(service, index)
        fetch(service, index)
        assert len(service.asked) == 12
        index.release()
        assert lying(service) == []


def test_the_index_is_private_and_what_was_derived_goes_with_the_last_job(service: Imaging, tmp_path: Path) -> None:
    """The file names studies: 0600 in 0700. Tensors made from a project's images end with its last job."""
    first, second = index_of(service, "job-1"), index_of(service, "job-2")
    fetch(service, first)
    fetch(service, second, NAMES[:1])
    state = tmp_path / "state"
    assert (state / "images").stat().st_mode & 0o777 == 0o700
    assert (state / "images" / "index.sqlite").stat().st_mode & 0o777 == 0o600
    derived = derived_dir(state, "p")
    derived.mkdir(parents=True)
    first.release()
    assert derived.is_dir()
    second.release()
    assert not derived.exists()


def test_a_full_disk_costs_the_memory_of_studies_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing can be written down every study comes all the same, and the log names none of them."""
    state = tmp_path / "state"
    with small_disk(state, 8192), imaging(tmp_path, FLIP_STATE_DIR=str(state)) as service:
        index = index_of(service, "job")
        (state / "filler").write_bytes(b"")
        with contextlib.suppress(OSError), (state / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        names = [f"CANARY-{number:04d}" for number in range(60)]
        assert len(fetch(service, index, names)) == 60
        assert len(fetch(service, index, names)) == 60
        assert "cannot be written" in caplog.text
        assert "CANARY" not in caplog.text
        (state / "filler").unlink()
        assert len(fetch(service, index, names)) == 60
        index.release()
        assert lying(service) == []


def test_a_state_folder_that_cannot_be_written_costs_the_memory_too(service: Imaging, tmp_path: Path) -> None:
    """An index that is there and read-only: studies come, and nothing raises at the end."""
    first = index_of(service, "job-1")
    fetch(service, first, NAMES[:3])
    first.close()
    index = index_of(service, "job-2")
    index.write(lambda database: database.execute("PRAGMA query_only = ON"))
    assert len(fetch(service, index)) == 12
    index.release()
