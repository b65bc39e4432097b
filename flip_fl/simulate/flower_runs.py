"""A job submitted to a SuperLink of its own, as ``flwr run`` does it: on Ray, or to a deployment's SuperNodes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.jobs.flower_answers import details_words
from flip_fl.simulate.flower_deployment import SUPERLINK_LOG, deployment
from flip_fl.simulate.flower_job import FlowerJob
from flip_fl.simulate.flower_link import CONNECTION, Home, SuperLink, program, start_superlink
from flip_fl.simulate.processes import Child, start
from flip_fl.values import SERVER_NAME

RAY_LOGS = "ray"


class LinkRun:
    """One run of a SuperLink; ``submitted`` is ``flwr run --stream``, which ends when the run does."""

    def __init__(
        self,
        job: FlowerJob,
        home: Home,
        link: SuperLink,
        submitted: Child,
        nodes: Mapping[str, Child],
        parts: contextlib.ExitStack,
        tolerated: int,
    ) -> None:
        self._job = job
        self._home = home
        self._link = link
        self._submitted = submitted
        self._nodes = nodes
        self._parts = parts
        self._tolerated = tolerated

    @property
    def running(self) -> bool:
        return self._submitted.running and self._link.child.running

    def ended(self) -> str:
        if not self._link.child.running:
            return f"the SuperLink ended (exit code {self._link.child.process.returncode})"
        return f"the engine ended the run without a final status{self._details()}"

    def lost(self) -> list[str]:
        """The slots whose SuperNode has ended, when more have than the job can do without.

        The SuperLink would take a minute to notice one, and wait for ever for one that never came.
        """
        gone = [slot for slot, child in self._nodes.items() if not child.running]
        return gone if len(gone) > self._tolerated else []

    def stop_sites(self) -> None:
        self._job.stop_sites()

    def stop(self) -> None:
        self._parts.close()

    def collect_logs(self) -> None:
        """Nothing to do: every process writes its log where it belongs."""

    def _details(self) -> str:
        """What the SuperLink says of its last run."""
        with contextlib.suppress(FlipError):
            runs = self._home.flwr("ls", CONNECTION)["runs"]
            if isinstance(runs, list) and runs and isinstance(runs[-1], dict):
                words = details_words(str(runs[-1].get("status-details") or ""))
                return f": {' '.join(word for word in (str(runs[-1].get('status')), words) if word)}"
        return ""


def start_on_ray(job: FlowerJob) -> LinkRun:
    """Submit the job to a SuperLink in simulation mode: Flower starts Ray, with one virtual node for each slot.

    Raises ``FlipError`` E0506 when the SuperLink does not start.
    """
    folder = job.folder
    with contextlib.ExitStack() as parts:
        room = parts.enter_context(_room())
        parts.callback(_keep_ray_logs, room, folder.logs / RAY_LOGS)
        environment = {**job.environment, "TMPDIR": str(room), "RAY_TMPDIR": str(room), "RAY_USAGE_STATS_ENABLED": "0"}
        home = Home.make(folder.engine / "home", **environment)
        parts.callback(home.end_all)
        link = start_superlink(home, folder.logs / SUPERLINK_LOG, ["--simulation"], tls=None, cwd=folder.state)
        parts.callback(link.child.stop)
        nodes = f"num-supernodes={len(job.slots)} client-resources-num-cpus=1"
        submitted = _submit(job, home, ["--federation-config", nodes])
        # Nothing here is worth a polite end: all at once takes a second, one after another several.
        parts.callback(home.end_all)
        return LinkRun(job, home, link, submitted, {}, parts.pop_all(), 0)


def start_deployment(job: FlowerJob) -> LinkRun:
    """Submit the job to a SuperLink with TLS and node authentication, and a SuperNode for each slot.

    Raises ``FlipError`` E0506 when one of them does not start.
    """
    folder = job.folder
    with contextlib.ExitStack() as parts:
        room = parts.enter_context(_room())
        opened = deployment(folder.engine, folder.logs, cwd=folder.state, **job.environment, TMPDIR=str(room))
        there = parts.enter_context(opened)
        nodes = there.start_nodes(job.slots)
        submitted = _submit(job, there.home, [])
        return LinkRun(job, there.home, there.superlink, submitted, nodes, parts.pop_all(), job.spare)


def _submit(job: FlowerJob, home: Home, options: Sequence[str]) -> Child:
    command = [program("flwr"), "run", str(job.path), CONNECTION, "--stream", *options]
    log = job.folder.logs / f"{SERVER_NAME}.log"
    return start("the run", command, log, cwd=job.folder.state, env=home.environment)


@contextlib.contextmanager
def _room() -> Iterator[Path]:
    """A folder for what processes leave that are killed. A unix socket's name has at most 107 bytes, and Ray's are
    long: a run's folder may be deeper than that.
    """
    with tempfile.TemporaryDirectory(prefix="flip-run-", ignore_cleanup_errors=True) as room:
        yield Path(room)


def _keep_ray_logs(room: Path, target: Path) -> None:
    """Keep what Ray's workers, the sites among them, have written: all else in ``room`` goes."""
    for source in room.glob("ray/session_*/logs/worker-*"):
        if source.stat().st_size and not source.parent.parent.is_symlink():
            target.mkdir(exist_ok=True)
            shutil.copyfile(source, target / source.name)
