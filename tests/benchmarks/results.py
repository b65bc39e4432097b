"""2 GB of checkpoints to a real S3 server on loopback: as documented until now, ours, and the bare upload.

Each way is a process of its own against a server of its own; ours and the bare upload, of the same bytes, take turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks.figures import Figure
from tests.benchmarks.results_ways import BARE, DOCUMENTED, OURS
from tests.support.s3_server import s3_server

GIGABYTES = 2
NAME = "{gigabytes} GB of checkpoints to S3: {what}"
BUCKET = "results"
# Side by side, in an order that a machine which gets slower does not favour.
RUNS = (BARE, OURS, OURS, BARE, BARE, OURS, DOCUMENTED)
FASTER, MOST, MOST_MB = 3.0, 1.25, 100.0
TIMEOUT_S = 3600.0
MODELS_CODE = "import torch\n\n\ndef get_model():\n    return torch.nn.Linear(1, 1)\n"


@dataclass(frozen=True)
class Cost:
    """What one upload took. ``seconds`` to the store, ``confirm_s`` to read back and compare, where that was done."""

    seconds: float
    peak_mb: float
    cpu_s: float
    server_cpu_s: float
    scratch_mb: float
    confirm_s: float = 0.0


def measure() -> list[Figure]:
    """Every way, the quick ones several times."""
    return figures(measure_costs())


def figures(costs: Mapping[str, Sequence[Cost]], gigabytes: float = GIGABYTES) -> list[Figure]:
    """Medians, and the most of memory and disk."""
    took = {way: statistics.median(cost.seconds for cost in several) for way, several in costs.items()}
    checked = statistics.median(cost.seconds + cost.confirm_s for cost in costs[OURS])
    peak = {way: max(cost.peak_mb for cost in several) for way, several in costs.items()}
    scratch = {way: max(cost.scratch_mb for cost in several) for way, several in costs.items()}
    faster, slower = took[DOCUMENTED] / took[OURS], took[OURS] / took[BARE]
    wholly = took[DOCUMENTED] / checked

    def figure(what: str, value: float, unit: str, rival: float | None, goal: str, met: bool) -> Figure:
        return Figure(NAME.format(gigabytes=gigabytes, what=what), value, unit, rival, goal, met)

    return [
        figure(
            "streamed, beside make_archive and then upload",
            took[OURS],
            "s",
            took[DOCUMENTED],
            f"≥ {FASTER:.0f} × faster ({faster:.1f} ×)",
            faster >= FASTER,
        ),
        figure(
            "streamed, beside a bare upload of the same bytes",
            took[OURS],
            "s",
            took[BARE],
            f"≤ {MOST} × the bare upload ({slower:.2f} ×)",
            slower <= MOST,
        ),
        figure(
            "streamed and read back, beside make_archive and then upload",
            checked,
            "s",
            took[DOCUMENTED],
            f"≥ {FASTER:.0f} × faster ({wholly:.1f} ×)",
            wholly >= FASTER,
        ),
        figure(
            "peak memory of the uploading process",
            peak[OURS],
            "MB",
            peak[BARE],
            f"≤ {MOST_MB:.0f} MB",
            peak[OURS] <= MOST_MB,
        ),
        figure(
            "temporary copies on disk",
            scratch[OURS],
            "MB",
            scratch[DOCUMENTED],
            "none",
            scratch[OURS] < 1,
        ),
    ]


def measure_costs(runs: Sequence[str] = RUNS, gigabytes: float = GIGABYTES) -> dict[str, list[Cost]]:
    """What each of ``runs`` cost, by way, one after another."""
    from flip_fl.results.bundle import gather, write

    costs: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory(prefix="flip-bench-") as name:
        folder = Path(name)
        needed, free = gigabytes * 4e9, shutil.disk_usage(folder).free
        if free < needed:
            raise RuntimeError(f"{needed / 1e9:.0f} GB of free disk are needed, there are {free / 1e9:.0f}")
        write_results(folder, gigabytes)
        zipped = folder / "same.zip"
        write(gather(folder / "contents", app_dir=folder / "app"), zipped)
        for way in runs:
            cost = _cost(way, folder, zipped)
            print(f"  {way}: {cost}", file=sys.stderr, flush=True)
            costs.setdefault(way, []).append(cost)
    return costs


def write_results(folder: Path, gigabytes: float) -> None:
    """Two models of random weights in ``folder``/contents, and the app that they are of in ``folder``/app."""
    import torch

    contents, app = folder / "contents", folder / "app"
    contents.mkdir()
    app.mkdir()
    layers = 10
    size = int(gigabytes * 1e9 / 2 / 4 / layers)
    torch.manual_seed(1)
    for model in ("FL_global_model.pt", "best_FL_global_model.pt"):
        torch.save({f"layer_{n}.weight": torch.randn(size) for n in range(layers)}, contents / model)
    (contents / "metrics.json").write_text(json.dumps({"validate": {str(n): {} for n in range(1000)}}))
    (app / "models.py").write_text(MODELS_CODE)
    (app / "config.json").write_text('{"job_type": "standard"}')


def _cost(way: str, folder: Path, zipped: Path) -> Cost:
    scratch = folder / "scratch"
    scratch.mkdir()
    with s3_server() as server:
        server.make_bucket(BUCKET)
        values = {
            **os.environ,
            **server.environment(BUCKET),
            "FLIP_API_INTERNAL_URL": "http://127.0.0.1:9/api",
            "INTERNAL_SERVICE_KEY": "none is asked",
            "TMPDIR": str(scratch),
        }
        before = _server_cpu_s()
        command = [sys.executable, "-m", "tests.benchmarks.results_ways", way, str(folder), str(zipped)]
        with _watched(scratch) as most:
            done = subprocess.run(command, env=values, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
        served = _server_cpu_s() - before
        facts = json.loads(done.stdout)
    shutil.rmtree(scratch)
    return Cost(server_cpu_s=served, scratch_mb=most[0] / 1e6, **facts)


def _server_cpu_s() -> float:
    """What the store, which is a child of this process, has computed for so far."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True) if child.name() == "weed"]
    return sum(each.user + each.system for each in times)


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[list[int]]:
    """The most bytes that lay in ``folder`` while the block ran, as the only item."""
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            sizes = []
            for path in folder.rglob("*"):
                with contextlib.suppress(OSError):
                    sizes.append(path.stat().st_size)
            most[0] = max(most[0], sum(sizes))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()
