"""The keeper of a job's images, with real processes: what starts tasks, tasks that come and go, and a job that ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from flip_fl.data.index import ImageIndex, open_index
from flip_fl.values import ResourceType
from tests.support.flower_plain import until
from tests.support.imaging import Imaging, imaging

NAMES = [f"ACC{number:03d}" for number in range(4)]
OTHERS = "ACC-of-another-job"
HOUR = 3600.0
# One task of a job, in a process of its own: it fetches, starts the keeper, says so, and lives as long as it is told.
TASK = """
    import sys
    import pandas as pd
    from flip_fl.data.images import fetch_studies
    from flip_fl.data.index import open_index
    from flip_fl.data.keeper import start_keeper
    from flip_fl.data.sources.opening import open_source
    from flip_fl.values import ResourceType

    lease, *names = sys.argv[1:]
    source = open_source("Trust_1")
    types = (ResourceType.NIFTI,)
    index = open_index(source, "kept")
    start_keeper(index, "Trust_1", float(lease))
    cohort = pd.DataFrame({"accession_id": names})
    fetch_studies(source, "p", cohort, types, max_skipped=1, known=index.of("p", types)).wait()
    print("fetched", flush=True)
    sys.stdin.read()
    index.renew()
"""


@dataclass
class Site:
    """A site with another live job, and a process that starts the tasks of the job "kept", as a SuperNode does."""

    service: Imaging
    folder: Path
    other: ImageIndex
    starters: list[subprocess.Popen[str]] = field(default_factory=list)

    def task(self, *, lease_s: float = HOUR) -> subprocess.Popen[str]:
        """Start something that starts a task, fetches, and goes on when the task has ended."""
        words = [sys.executable, "-c", textwrap.dedent(TASK), str(lease_s), *NAMES]
        starter = subprocess.Popen(
            ["sh", "-c", '"$@"; echo over; read -r _ < hold', "sh", *words],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "FLIP_SETTINGS_DIR": str(self.folder)},
        )
        self.starters.append(starter)
        assert starter.stdout is not None
        assert starter.stdout.readline() == "fetched\n"
        return starter

    def end_task(self, starter: subprocess.Popen[str]) -> None:
        assert starter.stdin is not None
        assert starter.stdout is not None
        starter.stdin.close()
        assert starter.stdout.readline() == "over\n"

    def lying(self) -> list[str]:
        return sorted(path.name for path in self.service.root.iterdir())

    def keepers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "flip_fl.data.keeper" in words and str(self.folder / "state" / "images") in words:
                    found.append(process)
        return found

    def keeper(self) -> psutil.Process:
        """The one keeper, once it looks after the job."""
        until(lambda: len(self.keepers()) == 1)
        (keeper,) = self.keepers()
        until(lambda: any(Path(file.path).name == "index.sqlite" for file in keeper.open_files()), timeout_s=30)
        return keeper

    def next_job(self) -> None:
        """What the start of another job does for those that are over."""
        index = open_index(self.service.source, "next")
        assert index is not None
        index.sweep(self.service.source)
        index.release()

    def close(self) -> None:
        for process in self.keepers():
            process.kill()
        for starter in self.starters:
            for process in [*psutil.Process(starter.pid).children(), starter] if starter.poll() is None else []:
                process.kill()
            starter.wait()
            for stream in (starter.stdin, starter.stdout):
                assert stream is not None
                stream.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with imaging(tmp_path, FLIP_STATE_DIR=str(tmp_path / "state"), FLIP_TRUST_READ_TIMEOUT_S="2") as service:
        shutil.copy(tmp_path / "flip.env", tmp_path / "Trust_1.env")
        os.mkfifo(tmp_path / "hold")
        other = open_index(service.source, "other")
        assert other is not None
        known = other.of("p", (ResourceType.NIFTI,))
        known.claim([OTHERS])
        known.found(OTHERS, {ResourceType.NIFTI: service.put(OTHERS)})
        site = Site(service, tmp_path, other)
        try:
            yield site
        finally:
            site.close()


def test_images_outlive_a_task_and_go_with_what_starts_tasks(site: Site) -> None:
    """A job without a process keeps its images while other jobs come and go; kill -9 of what starts its tasks, and
    nothing else, removes them within seconds, and leaves another job's.
    """
    starter = site.task()
    site.end_task(starter)
    keeper = site.keeper()
    site.next_job()
    assert site.lying() == [OTHERS, *NAMES]
    starter.kill()
    starter.wait()
    until(lambda: site.lying() == [OTHERS], timeout_s=30)
    until(lambda: not keeper.is_running(), timeout_s=30)
    assert list((site.folder / "state" / "images").glob("*.keeper")) == []


def test_a_job_does_not_seem_to_be_over_before_its_keeper_is_awake(site: Site) -> None:
    """The start of another job, at the moment at which a task has ended and its keeper has only been started, takes
    nothing: the first look of a keeper on a busy machine is seconds away.
    """
    site.end_task(site.task())
    site.next_job()
    assert site.lying() == [OTHERS, *NAMES]
    site.keeper()
    site.next_job()
    assert site.lying() == [OTHERS, *NAMES]


def test_a_lease_ends_a_job_that_nobody_ends_and_none_that_works(site: Site) -> None:
    """A run that is stopped where nobody tells the site of it: its images go by themselves, after the last task's end
    and not in the middle of one that is longer than the lease.
    """
    starter = site.task(lease_s=0.5)
    site.keeper()
    busy = site.service.attempts.copy()
    with contextlib.suppress(subprocess.TimeoutExpired):
        starter.wait(5)  # several looks of the keeper
    assert site.lying() == [OTHERS, *NAMES]
    site.end_task(starter)
    until(lambda: site.lying() == [OTHERS], timeout_s=30)
    assert site.service.attempts == busy
    assert starter.poll() is None


def test_a_keeper_that_is_killed_too_leaves_it_to_the_next_start(site: Site) -> None:
    """After the loss of a whole host nothing keeps the images from the next job's start, whatever the lease."""
    site.end_task(site.task())
    keeper = site.keeper()
    keeper.kill()
    keeper.wait()
    assert site.lying() == [OTHERS, *NAMES]
    site.next_job()
    assert site.lying() == [OTHERS]


def test_a_keeper_that_is_asked_to_end_ends_its_job(site: Site) -> None:
    """A host that shuts down (SIGTERM) takes the images with it, once no task is at work."""
    starter = site.task()
    keeper = site.keeper()
    keeper.send_signal(signal.SIGTERM)
    site.end_task(starter)
    until(lambda: site.lying() == [OTHERS], timeout_s=30)


def test_there_is_one_keeper_and_it_leaves_when_the_job_ends(site: Site) -> None:
    """A second task starts no second keeper; after the job's own end none is left, and its images are gone at once."""
    site.end_task(site.task())
    keeper = site.keeper()
    site.end_task(site.task())
    assert site.keeper() == keeper
    index = open_index(site.service.source, "kept")
    assert index is not None
    index.release()
    assert site.lying() == [OTHERS]
    until(lambda: not keeper.is_running(), timeout_s=30)
