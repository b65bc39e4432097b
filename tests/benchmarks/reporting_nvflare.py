"""What reporting costs a whole NVFLARE job: time in the reporter's handlers, and the run beside one without reporting.

A run is the engine's: from the start of its first process until its last one has ended. Hub, object store and the
sites' data are there before. With reporting switched off neither do the sites log anything nor is the hub told.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flip_fl.app.checks import check_app
from flip_fl.app.config import CONFIG_FILE, AppConfig
from flip_fl.environment import scrubbed
from flip_fl.jobs.templates import JobValues
from flip_fl.nvflare.job import SERVER_CONFIG, write_job
from flip_fl.reporting.session import sync
from flip_fl.settings import ServerSettings, load
from flip_fl.simulate.faults import HubFault
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.hub import SimulatedHub
from flip_fl.simulate.nvflare import SimulatorRun
from flip_fl.simulate.processes import start
from flip_fl.values import SERVER_NAME, ModelStatus
from tests.benchmarks.figures import Figure
from tests.benchmarks.flower_engines import prepared
from tests.benchmarks.flower_hub import HUNG
from tests.benchmarks.reporting_hubs import AWAY, LABEL, seen, stored
from tests.support.small_apps import write_app

NAME = "{rounds}-round NVFLARE job with {metrics} metrics a round and site, hub {hub}: {what}"
HANDLERS = "time inside our handlers"
RUN = "the run beside one with reporting switched off"
END = "the handler of its end"
MOST_IN_HANDLERS, MOST_LONGER, MOST_END_S = 0.01, 0.10, 5.0
SLOTS = ("Trust_1", "Trust_2")
PARTS = Path(__file__).with_name("reporting_nvflare_parts.py")
REPORTER = "flip_server_event_handler"
TOLD = "handlers.json"
END_EVENT = "_end_run"
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class How:
    """One way to run the job: which component reports, whether the sites log, and what is wrong with the hub."""

    hub: str
    reporter: str = "TimedReporter"
    logs: bool = True
    fault: HubFault | None = None


OFF = How("not told", "SilentReporter", logs=False)
RIVAL = How("told of each metric by a POST", "PostingReporter")
WAYS: Sequence[How] = (
    How("healthy"),
    How("500 ms slow", fault=HubFault.parse("hub-slow=0.5s")),
    How("hung", fault=HUNG),
    How("absent", fault=AWAY),
)


@dataclass(frozen=True)
class Effort:
    """``repeats`` times every way to run the job, in an order that moves on; the rival once."""

    repeats: int = 5
    rounds: int = 5
    metrics: int = 200
    ways: Sequence[How] = WAYS
    rival: bool = True


@dataclass(frozen=True)
class Took:
    """Seconds of a run, of the reporter's handlers while it lasted, and of the one at its end."""

    run_s: float
    handlers_s: float
    end_s: float


def figures(found: Mapping[How, Sequence[Took]], effort: Effort) -> list[Figure]:
    """Three figures for each state of the hub; the rival's share is known for a healthy one."""
    off_s = statistics.median(took.run_s for took in found[OFF])
    rivals = [took.handlers_s / took.run_s for took in found.get(RIVAL, ())]
    made = []
    for how in effort.ways:
        names = {
            what: NAME.format(rounds=effort.rounds, metrics=effort.metrics, hub=how.hub, what=what)
            for what in (HANDLERS, RUN, END)
        }
        share = statistics.median(took.handlers_s / took.run_s for took in found[how])
        rival = statistics.median(rivals) * 100 if rivals and how.fault is None else None
        met = share <= MOST_IN_HANDLERS
        made.append(Figure(names[HANDLERS], share * 100, "% of the run", rival, "≤ 1 %", met))
        run_s = statistics.median(took.run_s for took in found[how])
        met = run_s <= (1 + MOST_LONGER) * off_s
        made.append(Figure(names[RUN], run_s, "s", off_s, "within 10 %", met))
        end_s = max(took.end_s for took in found[how])
        made.append(Figure(names[END], end_s, "s", None, "≤ 5 s, the longest of all", end_s <= MOST_END_S))
    return made


def measure() -> list[Figure]:
    """Every state of the hub, five times."""
    effort = Effort()
    return figures(measure_runs(effort), effort)


def measure_runs(effort: Effort) -> dict[How, list[Took]]:
    """What the runs took, by how they were made."""
    ways = [OFF, *effort.ways]
    found: dict[How, list[Took]] = {how: [] for how in ways}
    for repeat in range(effort.repeats):
        # Each way comes first, last and in between: a machine that gets slower favours none.
        turn = repeat % len(ways)
        for how in ways[turn:] + ways[:turn]:
            found[how].append(run_job(how, effort))
    if effort.rival:
        found[RIVAL] = [run_job(RIVAL, effort)]
    return found


def run_job(how: How, effort: Effort) -> Took:
    """One run; whatever the hub did meanwhile, it has everything in the end."""
    with tempfile.TemporaryDirectory(prefix="flip-bench-run-") as folder:
        config = check_app(write_bench_app(Path(folder, "app"), how, effort), SLOTS, federation=SLOTS).config
        with prepared(Path(folder, "run"), SLOTS, config) as (room, hub), seen(hub.url, how.fault) as url:
            settings_file = room.settings / f"{SERVER_NAME}.env"
            settings_file.write_text(settings_file.read_text("utf-8").replace(hub.url, url), "utf-8")
            took, ended = run_engine(config, hub, room, how)
            settings = load(ServerSettings, settings_file, hub_url=hub.url)
            if how is not OFF:
                sync([room.state / "outbox"], settings)
            told = stored(room.database, hub.model_id), hub.story().status
    everything = effort.rounds * len(SLOTS) * effort.metrics
    assert ended is ModelStatus.RESULTS_UPLOADED, f"the run ended {ended.value}"
    assert told == ((0, ModelStatus.PENDING) if how is OFF else (everything, ended)), (how, told)
    print(f"NVFLARE job, hub {how.hub}: {took}", file=sys.stderr, flush=True)
    return took


def write_bench_app(folder: Path, how: How, effort: Effort) -> Path:
    """A small app that logs so many numbers in each round's training."""
    metrics = effort.metrics if how.logs else 0
    log = f'site.log(f"{LABEL}_{{n % 10}}", n / 7, x_value=float(n), x_label="Step")'
    return write_app(folder, in_train=f"[{log} for n in range({metrics})]", GLOBAL_ROUNDS=effort.rounds)


def run_engine(config: AppConfig, hub: SimulatedHub, folder: RunFolder, how: How) -> tuple[Took, ModelStatus]:
    """Run the job with the reporter in question, as ``flip-fl run`` does with ours; what it took and how it ended."""
    job = write_job(
        config.app_dir, config.job_type.value, JobValues.of(config, SLOTS, hub.model_id), folder.root / "job"
    )
    custom = job / "app" / "custom"
    (custom / CONFIG_FILE).write_text(config.for_run(hub.model_id), encoding="utf-8")
    shutil.copy(PARTS, custom)
    file = job / SERVER_CONFIG
    server = json.loads(file.read_text(encoding="utf-8"))
    (component,) = [part for part in server["components"] if part["id"] == REPORTER]
    component["path"] = f"{PARTS.stem}.{how.reporter}"
    file.write_text(json.dumps(server), encoding="utf-8")
    command = [sys.executable, "-m", "nvflare.cli", "simulator", str(job), "-w", str(folder.engine)]
    command += ["-c", ",".join(SLOTS), "-t", str(len(SLOTS))]
    environment = scrubbed(FLIP_SETTINGS_DIR=str(folder.settings), OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    begun = time.perf_counter()
    child = start("the engine", command, folder.logs / "engine.log", cwd=folder.state, env=environment)
    run = SimulatorRun(child, SLOTS, folder)
    try:
        while run.running:
            assert time.perf_counter() - begun < TIMEOUT_S, "the run does not end"
            time.sleep(0.02)
        run_s = time.perf_counter() - begun
    finally:
        run.stop()
    told = json.loads((folder.state / TOLD).read_text(encoding="utf-8"))
    end_s = told["seconds"].pop(END_EVENT)
    return Took(run_s, sum(told["seconds"].values()), end_s), ModelStatus(told["ended"])
