"""How long the engine's part of the standard example takes: in-process grid, NVFLARE's simulator, Flower with Ray.

From the start of the engine's first process until the run is over, for Ray the SuperLink's start included: what a
command makes anew for each run. Hub, object store and the sites' data are there before.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flip_fl.app.checks import check_app
from flip_fl.app.config import AppConfig
from flip_fl.settings import write_settings_file
from flip_fl.simulate.engines import find_engine
from flip_fl.simulate.folder import RunFolder, claim
from flip_fl.simulate.hub import SimulatedHub, simulated_hub
from flip_fl.simulate.sites import prepared_data, split, write_site_settings
from flip_fl.simulate.storage import storage
from flip_fl.values import SERVER_NAME, ModelStatus
from tests.benchmarks.figures import Figure

NAME = "the standard example, {sites} sites × {rounds} rounds: in-process grid beside {rival}"
SITES, ROUNDS = 2, 5
MOST_OF_RAY = 1 / 5
IN_PROCESS, NVFLARE, RAY = "in-process grid", "NVFLARE simulator", "Flower with Ray"
ENGINES: Mapping[str, tuple[str, str]] = {
    IN_PROCESS: ("flower", "in-process"),
    NVFLARE: ("nvflare", ""),
    RAY: ("flower", "ray"),
}
# The one that is shown is measured before and after the others: a busy minute does not make the figure.
ORDER = (IN_PROCESS, RAY, NVFLARE, IN_PROCESS)
APP = Path("examples") / "breast_cancer"
BUCKET = "flip-results"
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Effort:
    """What is measured, in which order, and over how many rounds."""

    order: Sequence[str] = ORDER
    rounds: int = ROUNDS


def figures(seconds: Mapping[str, float], rounds: int = ROUNDS) -> list[Figure]:
    """The in-process grid beside each of the others; there is a goal for Ray only."""
    ours = seconds[IN_PROCESS]
    share = Figure(
        name=NAME.format(sites=SITES, rounds=rounds, rival=RAY),
        value=ours,
        unit="s",
        rival=seconds[RAY],
        goal="≤ 1/5 of Ray's",
        met=ours <= MOST_OF_RAY * seconds[RAY],
    )
    other = Figure(
        name=NAME.format(sites=SITES, rounds=rounds, rival=NVFLARE),
        value=ours,
        unit="s",
        rival=seconds[NVFLARE],
        goal="no goal: the same app on the other engine",
        met=True,
    )
    return [share, other]


def measure() -> list[Figure]:
    """Every engine in turn."""
    return figures(measure_engines(Effort()))


def measure_engines(effort: Effort) -> dict[str, float]:
    """Seconds by engine, the median (of two: their mean) where it was measured several times."""
    found: dict[str, list[float]] = {}
    for name in effort.order:
        found.setdefault(name, []).append(engine_seconds(*ENGINES[name], effort.rounds))
    return {name: statistics.median(times) for name, times in found.items()}


def engine_seconds(engine: str, runtime: str, rounds: int) -> float:
    """Seconds of the engine's part of one run, which must have ended with stored results."""
    slots = tuple(f"Trust_{number}" for number in range(1, SITES + 1))
    config = check_app(APP, slots, federation=slots).config.with_rounds(rounds)
    with tempfile.TemporaryDirectory() as out, prepared(Path(out, "run"), slots, config) as (folder, hub):
        begun = time.perf_counter()
        run = find_engine(engine, runtime).start(config, slots, hub.model_id, folder)
        try:
            while run.running:
                assert time.perf_counter() - begun < TIMEOUT_S, f"{engine} {runtime} does not end"
                time.sleep(0.02)
            seconds = time.perf_counter() - begun
        finally:
            run.stop()
        status = hub.story().status
    assert status is ModelStatus.RESULTS_UPLOADED, f"{engine} {runtime} ended {status.value}"
    return seconds


@contextlib.contextmanager
def prepared(out: Path, slots: Sequence[str], config: AppConfig) -> Iterator[tuple[RunFolder, SimulatedHub]]:
    """Everything that is there before an engine starts, as ``flip-fl run`` makes it."""
    with contextlib.ExitStack() as parts:
        folder = parts.enter_context(claim(out, APP))
        data = prepared_data(config, folder)
        write_site_settings(split(data, slots, config, folder), data, config, folder)
        store = parts.enter_context(storage(folder.state / "s3", folder.logs / "s3.log"))
        hub = parts.enter_context(simulated_hub(folder, APP.name, "", slots, slots_total=len(slots)))
        store.create_bucket(BUCKET)
        values = {
            "FLIP_ROLE": "server",
            "FLIP_API_INTERNAL_URL": hub.url,
            "INTERNAL_SERVICE_KEY": hub.key,
            "FLIP_STATE_DIR": str(folder.state),
            **store.settings(BUCKET),
        }
        write_settings_file(folder.settings / f"{SERVER_NAME}.env", values)
        yield folder, hub
