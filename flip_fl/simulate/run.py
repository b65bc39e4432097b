"""One simulated run: hub, object store, sites, engine, results, report — one process tree, nothing left behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flip_fl.app.checks import check_app
from flip_fl.app.config import AppConfig
from flip_fl.dashboard.report import write_report
from flip_fl.dashboard.story import BaselineRow, Story
from flip_fl.errors import ExitCode, FlipError
from flip_fl.reporting.session import sync
from flip_fl.settings import ServerSettings, load, write_settings_file
from flip_fl.simulate import nvflare
from flip_fl.simulate.baselines import CENTRAL_SLOT, BaselineSpec, read_baselines, start_baselines
from flip_fl.simulate.folder import RunFolder, claim
from flip_fl.simulate.hub import SimulatedHub, simulated_hub
from flip_fl.simulate.model import ENGINES, Progress, RunOptions, RunOutcome
from flip_fl.simulate.processes import Child, running, second_interrupt_leaves, terminable
from flip_fl.simulate.results import Checked, fetch_and_check
from flip_fl.simulate.sites import Data, find_data, split, write_site_settings
from flip_fl.simulate.storage import storage
from flip_fl.simulate.watch import OnlyChanges, news, trained
from flip_fl.values import SERVER_NAME, ModelStatus, natural_key

BUCKET = "flip-results"
POLL_S = 0.3
BASELINES_TIMEOUT_S = 600.0
STOPPED_BY_PERSON = "stopped by a person (Ctrl-C)"

Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class _Run:
    """The parts of a run in progress."""

    engine: str
    config: AppConfig
    slots: tuple[str, ...]
    folder: RunFolder
    data: Data
    cohorts: dict[str, Path]
    hub: SimulatedHub
    settings: ServerSettings
    baselines: bool


def run(options: RunOptions, progress: Tell) -> RunOutcome:
    """Run an app on this machine and return how it ended; the report is written whatever happened.

    Raises ``FlipError`` for what is wrong before anything starts, and ``KeyboardInterrupt`` after a run that a
    person stopped was ended, reported as STOPPED, and cleaned up.
    """
    if options.engine not in ENGINES:
        known = ", ".join(ENGINES)
        raise FlipError("E0510", engine=options.engine, engines=known, suggestion=f"--engine {ENGINES[0]}")
    nvflare.check_installed()
    tell = OnlyChanges(progress)
    federation = tuple(f"Trust_{number}" for number in range(1, options.sites + 1))
    slots = tuple(sorted(options.slots or federation, key=natural_key))
    tell(Progress("check", text=f"checking {options.app}"))
    config = check_app(options.app, slots, federation=federation).config
    if options.rounds is not None:
        config = config.with_rounds(options.rounds)
    folder = claim(options.out, options.app)
    tell(Progress("data", text="splitting the cohort between the sites"))
    data = find_data(config, options.data, options.images, folder)
    cohorts = split(data, slots, config, folder)
    write_site_settings({**cohorts, CENTRAL_SLOT: data.cohort}, data, config, folder)

    tell(Progress("hub", text="starting the hub and the object store"))
    with terminable(), contextlib.ExitStack() as parts:
        name = options.app.resolve().name
        description = f"{config.job_type.value} job"
        hub = parts.enter_context(simulated_hub(folder, name, description, slots, slots_total=options.sites))
        store = parts.enter_context(storage(folder.state / "s3", folder.logs / "s3.log"))
        store.create_bucket(BUCKET)
        server_file = folder.settings / f"{SERVER_NAME}.env"
        write_settings_file(
            server_file,
            {
                "FLIP_ROLE": "server",
                "FLIP_API_INTERNAL_URL": hub.url,
                "INTERNAL_SERVICE_KEY": hub.key,
                "FLIP_STATE_DIR": str(folder.state),
                **store.settings(BUCKET),
            },
        )
        settings = load(ServerSettings, server_file)
        this = _Run(options.engine, config, slots, folder, data, cohorts, hub, settings, options.baselines)
        return _drive(this, tell)


def _drive(this: _Run, tell: Tell) -> RunOutcome:
    with contextlib.ExitStack() as engine_parts:
        try:
            engine = engine_parts.enter_context(
                running(nvflare.start_engine(this.config, this.slots, this.hub.model_id, this.folder))
            )
            baselines, ended = _follow(this, engine, engine_parts, tell)
            _settle(this, ended)
            results = _check_results(this, tell)
            compared = _await_baselines(this, baselines, tell)
        except KeyboardInterrupt:
            with second_interrupt_leaves():
                _stop(this, engine_parts)
            raise
    return _finish(this, results, compared)


def _stop(this: _Run, engine_parts: contextlib.ExitStack) -> None:
    """End a run that a person stopped. The hub hears it before the engine, so that the truth is what sticks."""
    story = _try_story(this.hub)
    if story is not None and not story.status.is_terminal:
        this.hub.end(this.settings, ModelStatus.STOPPED, STOPPED_BY_PERSON)
    engine_parts.close()
    nvflare.collect_logs(this.slots, this.folder)
    _settle_outbox(this)
    story = _try_story(this.hub) or story
    if story is not None:
        _write(this, story, [])


def _follow(this: _Run, engine: Child, parts: contextlib.ExitStack, tell: Tell) -> tuple[Child | None, str]:
    """Tell what happens until the engine ends, and how it ended; start the baselines while it winds down.

    A site's process that is lost ends the run: the engine's simulator would wait for its reply.
    """
    baselines: Child | None = None
    sites = nvflare.SiteProcesses(engine, this.slots)
    while engine.running:
        story = _try_story(this.hub)
        lost = sites.lost()
        if lost and story is not None and not story.status.is_terminal:
            engine.stop()
            return baselines, f"the process of {', '.join(lost)} was lost"
        if story is not None:
            tell(news(story))
            if this.baselines and baselines is None and trained(story):
                baselines = parts.enter_context(running(_start_baselines(this)))
        time.sleep(POLL_S)
    return baselines, f"the engine ended (exit code {engine.process.returncode}) without a final status"


def _start_baselines(this: _Run) -> Child:
    spec = BaselineSpec(app_dir=str(this.config.app_dir), rounds=this.config.global_rounds, slots=this.slots)
    return start_baselines(spec, this.folder)


def _settle(this: _Run, ended: str) -> None:
    """Make the hub's status final: by what the engine has left in its outbox, else by how it ended."""
    nvflare.collect_logs(this.slots, this.folder)
    _settle_outbox(this)
    if not this.hub.story().status.is_terminal:
        this.hub.end(this.settings, ModelStatus.ERROR, ended)


def _settle_outbox(this: _Run) -> None:
    sync(sorted((this.folder.state / "outbox").glob("*.sqlite")), this.settings)


def _check_results(this: _Run, tell: Tell) -> Checked | None:
    story = this.hub.story()
    if story.status is not ModelStatus.RESULTS_UPLOADED or story.results is None:
        return None
    tell(Progress("verify", text="fetching the results and checking that the model gives the reported scores"))
    target = this.folder.results / f"{this.hub.model_id}.zip"
    return fetch_and_check(story, this.settings, target, this.cohorts, this.data.images)


def _await_baselines(this: _Run, baselines: Child | None, tell: Tell) -> Checked:
    """The models to compare with. The run keeps its report when they could not be trained."""
    if baselines is None:
        return Checked([], None)
    tell(Progress("baselines", text="training the models to compare with"))
    deadline = time.monotonic() + BASELINES_TIMEOUT_S
    while baselines.running and time.monotonic() < deadline:
        time.sleep(0.1)
    if baselines.running or baselines.process.returncode != 0:
        log = baselines.log.relative_to(this.folder.root)
        return Checked([], f"the models to compare with could not be trained; {log} has the reason")
    return Checked(read_baselines(this.folder), None)


def _finish(this: _Run, results: Checked | None, compared: Checked) -> RunOutcome:
    rows = [*(results.rows if results else []), *compared.rows]
    story = _write(this, this.hub.story(), rows)
    problem = (results.problem if results else None) or compared.problem
    succeeded = story.status is ModelStatus.RESULTS_UPLOADED and results is not None and problem is None
    return RunOutcome(
        status=story.status,
        reason=problem or story.reason,
        exit_code=int(_exit_code(story.status, succeeded)),
        folder=this.folder.root,
        report=this.folder.report,
        results=story.results.address if story.results else None,
        story=story,
    )


def _exit_code(status: ModelStatus, succeeded: bool) -> ExitCode:
    if status is ModelStatus.STOPPED:
        return ExitCode.STOPPED
    return ExitCode.DONE if succeeded else ExitCode.FAILED


def _write(this: _Run, story: Story, rows: list[BaselineRow]) -> Story:
    facts = {"Engine": this.engine, "Job type": this.config.job_type.value, "Seed": str(this.config.seed)}
    model = story.model.model_copy(update={"facts": facts})
    told = story.model_copy(update={"baselines": rows, "model": model})
    this.folder.story.write_text(told.model_dump_json(by_alias=True, indent=2), encoding="utf-8")
    write_report(told, this.folder.report)
    return told


def _try_story(hub: SimulatedHub) -> Story | None:
    try:
        return hub.story()
    except FlipError:
        return None
