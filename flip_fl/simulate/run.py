"""One simulated run: hub, object store, sites, engine, results, report — one process tree, nothing left behind."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from flip_fl.app.checks import check_app
from flip_fl.app.config import AppConfig
from flip_fl.app.forms import FormKind, form_of
from flip_fl.app.packages import app_folder
from flip_fl.app.plan import rounds_of
from flip_fl.dashboard.report import write_report
from flip_fl.dashboard.story import BaselineRow, PrivacyCurve, Samples, Story
from flip_fl.errors import ExitCode, FlipError
from flip_fl.privacy.policy_file import POLICY_FILE, read_policy
from flip_fl.privacy.site_policy import check_installed
from flip_fl.reporting.session import sync
from flip_fl.reporting.stats import find_outboxes, read_stats
from flip_fl.settings import ServerSettings, load, write_settings_file
from flip_fl.simulate.baselines import (
    CENTRAL_SLOT,
    BaselineSpec,
    check_comparable,
    read_baselines,
    start_baselines,
)
from flip_fl.simulate.checkpoints import check_start, place_checkpoints
from flip_fl.simulate.engines import Engine, EngineRun, find_engine
from flip_fl.simulate.faults import OK, FaultyHub, faulty_hub
from flip_fl.simulate.folder import MARKER, RunFolder, claim
from flip_fl.simulate.hub import SimulatedHub, simulated_hub
from flip_fl.simulate.model import Progress, RunOptions, RunOutcome
from flip_fl.simulate.privacy_curve import check_curve, problems, run_curve
from flip_fl.simulate.processes import Child, running, second_interrupt_leaves, terminable
from flip_fl.simulate.results import Checked, fetch_and_check, fetch_and_compare
from flip_fl.simulate.sites import Data, development_calls, given_data, prepared_data, split, write_site_settings
from flip_fl.simulate.storage import storage
from flip_fl.simulate.trusts import WHOLE_COHORT, simulated_trusts
from flip_fl.simulate.watch import OnlyChanges, news, trained, waits_for_sites
from flip_fl.values import SERVER_NAME, JobType, ModelStatus, natural_key

BUCKET = "flip-results"
POLL_S = 0.3
BASELINES_TIMEOUT_S = 600.0
WIND_DOWN_S = 60.0
STOPPED_BY_PERSON = "stopped by a person (Ctrl-C)"
STOPPING = Progress("stopping (Ctrl-C)…", text="a second Ctrl-C leaves at once")

Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class _Run:
    """The parts of a run in progress."""

    engine: Engine
    config: AppConfig
    slots: tuple[str, ...]
    folder: RunFolder
    data: Data
    cohorts: dict[str, Path]
    hub: SimulatedHub
    settings: ServerSettings
    baselines: bool
    local_settings: Path
    proxy: FaultyHub | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    project_id: str = ""


def run(options: RunOptions, progress: Tell) -> RunOutcome:
    """Run an app on this machine and return how it ended; the report is written whatever happened.

    Raises ``FlipError`` for what is wrong before anything starts, and ``KeyboardInterrupt`` after a run that a
    person stopped was ended, reported as STOPPED, and cleaned up.
    """
    engine = find_engine(options.engine, options.runtime)
    engine.check_installed()
    tell = OnlyChanges(progress)
    federation = tuple(f"Trust_{number}" for number in range(1, options.sites + 1))
    slots = tuple(sorted(options.slots or federation, key=natural_key))
    tell(Progress("check", text=f"checking {options.app}"))
    app = app_folder(options.app)
    config = check_app(app, slots, federation=federation).config
    check_start(config)
    _check_options(options, config)
    if options.site_policy is not None:
        check_installed(read_policy(options.site_policy))
    if options.privacy_curve:
        check_curve(options, config)
    if options.baselines:
        check_comparable(config)
    engine.check_app(app)
    if options.rounds is not None:
        config = config.with_rounds(options.rounds)
    given = given_data(config, options.data, options.images, options.out)
    with terminable(), contextlib.ExitStack() as parts:
        if options.out is not None and (options.out / MARKER).is_file():
            tell(Progress("folder", text=f"emptying {options.out}, which an earlier run wrote"))
        folder = parts.enter_context(claim(options.out, options.app))
        this = _open(options, engine, config, slots, given, folder, parts, tell)
        outcome = _drive(this, tell)
        if not options.privacy_curve or outcome.exit_code != ExitCode.DONE:
            return outcome
        return _with_curve(this, outcome, run_curve(options, outcome.story, this.data, folder, run, tell))


def _check_options(options: RunOptions, config: AppConfig) -> None:
    """Raises ``FlipError`` E0102 for what an evaluation, or an app that splits its data itself, has no use for."""
    if options.shares and not options.production and form_of(config.app_dir).splits_itself:
        problem = "--shares: this app gets the whole cohort at every site and takes its own share"
        raise FlipError("E0102", problem=problem, usage=f"flip-fl run {options.app}")
    named = {"--rounds": options.rounds, "--baselines": options.baselines, "--privacy-curve": options.privacy_curve}
    for name, given in named.items():
        if given and config.job_type is JobType.EVALUATION:
            problem = f"{name}: an evaluation trains nothing, it has one round for each of its models"
            raise FlipError("E0102", problem=problem, usage=f"flip-fl run {options.app}")


def _open(
    options: RunOptions,
    engine: Engine,
    config: AppConfig,
    slots: tuple[str, ...],
    given: Data | None,
    folder: RunFolder,
    parts: contextlib.ExitStack,
    tell: Tell,
) -> _Run:
    """Everything that is there before the engine: data, hub, object store, settings; ``parts`` ends them."""
    whole = form_of(config.app_dir).splits_itself and not options.production
    divided = "giving every site the whole cohort" if whole else "splitting the cohort between the sites"
    tell(Progress("data", text=divided))
    data = given or prepared_data(config, folder)
    cohorts = split(data, slots, config, folder, options.shares, whole=whole)
    # The models to compare with are trained on the files, whatever the sites themselves ask.
    local_settings = folder.state / "local" if options.production else folder.settings
    write_site_settings({**cohorts, CENTRAL_SLOT: data.cohort}, data, config, folder, local_settings)
    if options.site_policy is not None:
        # Beside their settings, as in a kit; the models to compare with are nobody's, and have no policy.
        shutil.copyfile(options.site_policy, folder.settings / POLICY_FILE)
    project_id = ""
    if options.production:
        tell(Progress("trusts", text="filling and starting a trust for each site"))
        project_id = parts.enter_context(simulated_trusts(cohorts, data, folder, options.trust_database))
        config = replace(config, query=config.query or WHOLE_COHORT)

    tell(Progress("hub", text="starting the hub and the object store"))
    name, description = options.app.resolve().name, f"{config.job_type.value} job"
    with ThreadPoolExecutor(1) as beside:
        storing = beside.submit(parts.enter_context, storage(folder.state / "s3", folder.logs / "s3.log"))
        hub = parts.enter_context(simulated_hub(folder, name, description, slots, slots_total=options.sites))
        store = storing.result()
    store.create_bucket(BUCKET)
    proxy = parts.enter_context(faulty_hub(hub.url, options.hub_fault)) if options.hub_fault else None
    server_file = folder.settings / f"{SERVER_NAME}.env"
    values = {
        "FLIP_ROLE": "server",
        "FLIP_API_INTERNAL_URL": proxy.url if proxy else hub.url,
        "INTERNAL_SERVICE_KEY": hub.key,
        "FLIP_HUB_TOKEN": hub.token,
        "FLIP_STATE_DIR": str(folder.state),
        "SERVER_CHECKPOINT_ROOT": str(folder.state / "checkpoints"),
        # A developer's machine: the app is the developer's, and so is the hub.
        **({} if options.production else {"FLIP_SERVER_ISOLATION": "process"}),
        **store.settings(BUCKET),
    }
    write_settings_file(server_file, values)
    place_checkpoints(config, folder.state / "checkpoints", hub.model_id)
    # What this process itself asks and tells goes to the hub as it is.
    settings = load(ServerSettings, server_file, hub_url=hub.url)
    facts = {"Fault": f"{options.hub_fault} while the engine ran"} if options.hub_fault else {}
    if options.production:
        facts["Data"] = f"from each trust's own services ({options.trust_database})"
    return _Run(
        engine=engine,
        config=config,
        slots=slots,
        folder=folder,
        data=data,
        cohorts=cohorts,
        hub=hub,
        settings=settings,
        baselines=options.baselines,
        local_settings=local_settings,
        proxy=proxy,
        facts=facts,
        project_id=project_id,
    )


def _drive(this: _Run, tell: Tell) -> RunOutcome:
    engine: EngineRun | None = None
    with contextlib.ExitStack() as engine_parts:
        try:
            tell(Progress("start", text="the engine is starting"))
            engine = this.engine.start(this.config, this.slots, this.hub.model_id, this.folder, this.project_id)
            engine_parts.callback(engine.stop)
            baselines, ended = _follow(this, engine, engine_parts, tell)
            if this.proxy is not None:
                this.proxy.set(OK)
            _settle(this, engine, ended)
            story = this.hub.story()
            if story.status is ModelStatus.RESULTS_UPLOADED:
                if this.baselines and baselines is None:  # a hub that was away, or a run of few seconds
                    baselines = engine_parts.enter_context(running(_start_baselines(this)))
                results = _check_results(this, story, tell)
                compared = _await_baselines(this, baselines, tell)
            else:
                engine.stop_sites()
                results, compared = Checked([], None), Checked([], None)
            _await_end(this, engine, tell)
        except KeyboardInterrupt:
            with second_interrupt_leaves():
                tell(STOPPING)
                told = _stop(this, engine, engine_parts)
            raise KeyboardInterrupt(told) from None
    return _finish(this, results, compared)


def _stop(this: _Run, engine: EngineRun | None, engine_parts: contextlib.ExitStack) -> str:
    """End a run that a person stopped, and how it stands then, in words.

    The hub hears it before the engine, so that the truth is what sticks.
    """
    story = _try_story(this.hub)
    if story is not None and not story.status.is_terminal:
        with contextlib.suppress(FlipError):  # a hub that is away must not keep the engine alive
            this.hub.end(this.settings, ModelStatus.STOPPED, STOPPED_BY_PERSON)
    if engine is not None:
        engine.stop_sites()
    engine_parts.close()
    if engine is not None:
        engine.collect_logs()
    _settle_outbox(this)
    story = _try_story(this.hub) or story
    if story is None:
        return f"the hub gave no answer; what is known lies in {this.folder.root}"
    _write(this, story, [])
    return f"the run is over: {story.headline.text}; its report is {this.folder.report}"


def _follow(this: _Run, engine: EngineRun, parts: contextlib.ExitStack, tell: Tell) -> tuple[Child | None, str]:
    """Tell what happens until the engine ends, and how it ended; start the baselines while it winds down.

    A site's process that is lost ends the run: the engine would wait for its reply. A run whose rounds are over waits
    for none, and one whose end is decided has let its sites go.
    """
    baselines: Child | None = None
    decided_at: float | None = None
    while engine.running:
        story = _try_story(this.hub)
        if story is not None and story.status.is_terminal:
            break  # the engine takes some seconds to wind down: the results can be looked at meanwhile
        lost = engine.lost()
        if lost and decided_at is None and _end_is_decided(this):
            decided_at = time.monotonic()
        winding_down = decided_at is not None and time.monotonic() - decided_at < WIND_DOWN_S
        if lost and story is not None and not winding_down and waits_for_sites(story):
            engine.stop()
            return baselines, f"the process of {', '.join(lost)} was lost"
        if story is not None:
            tell(news(story))
            if this.baselines and baselines is None and trained(story):
                baselines = parts.enter_context(running(_start_baselines(this)))
        time.sleep(POLL_S)
    return baselines, engine.ended()


def _end_is_decided(this: _Run) -> bool:
    """Whether the FL server knows how the run ends, though the hub may not yet."""
    return any(read_stats(path).cause for path in find_outboxes([this.folder.state]))


def _start_baselines(this: _Run) -> Child:
    spec = BaselineSpec(app_dir=str(this.config.app_dir), rounds=rounds_of(this.config), slots=this.slots)
    return start_baselines(spec, this.folder, this.local_settings)


def _settle(this: _Run, engine: EngineRun, ended: str) -> None:
    """Make the hub's status final: by what the engine has left in its outbox, else by how it ended.

    Of a success also make its story whole: the final status may overtake a backlog that tells what the results are
    checked against.
    """
    status = this.hub.story().status
    if status is ModelStatus.RESULTS_UPLOADED:
        deadline = time.monotonic() + WIND_DOWN_S
        while engine.running and _backlog(this) and time.monotonic() < deadline:
            time.sleep(0.1)
    if not status.is_terminal or (status is ModelStatus.RESULTS_UPLOADED and _backlog(this)):
        _settle_outbox(this)
    if not status.is_terminal and not this.hub.story().status.is_terminal:
        this.hub.end(this.settings, ModelStatus.ERROR, ended)


def _backlog(this: _Run) -> bool:
    return any(read_stats(path).pending for path in find_outboxes([this.folder.state]))


def _await_end(this: _Run, engine: EngineRun, tell: Tell) -> None:
    """Let the engine wind down, for a bounded time, and keep its logs."""
    tell(Progress("end", text="the engine is winding down"))
    deadline = time.monotonic() + WIND_DOWN_S
    while engine.running and time.monotonic() < deadline:
        time.sleep(0.1)
    engine.stop()
    _settle_outbox(this)
    engine.collect_logs()
    for slot in this.slots:
        with contextlib.suppress(FlipError):
            this.hub.tell(this.settings, development_calls(this.folder, slot))


def _settle_outbox(this: _Run) -> None:
    sync([this.folder.state], this.settings)


def _check_results(this: _Run, story: Story, tell: Tell) -> Checked:
    target = this.folder.results / f"{this.hub.model_id}.zip"
    if this.config.job_type is JobType.EVALUATION:
        tell(Progress("verify", text="fetching the results and checking that they are what was reported"))
        return fetch_and_compare(story, this.settings, target)
    scored = form_of(this.config.app_dir).kind is FormKind.NEUTRAL
    checked = "the model gives the reported scores" if scored else "the model loads"
    tell(Progress("verify", text=f"fetching the results and checking that {checked}"))
    return fetch_and_check(story, this.settings, target, this.cohorts, this.data.images, this.config)


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


def _finish(this: _Run, results: Checked, compared: Checked) -> RunOutcome:
    # The global model's scores are the last round's: they say something new only beside another model's.
    rows = [*results.rows, *compared.rows] if compared.rows else []
    story = _write(this, this.hub.story(), rows, results.samples)
    problem = results.problem or compared.problem
    return RunOutcome(
        status=story.status,
        reason=problem or story.reason,
        exit_code=int(_exit_code(story.status, problem)),
        folder=this.folder.root,
        report=this.folder.report,
        results=story.results.address if story.results else None,
        story=story,
    )


def _with_curve(this: _Run, outcome: RunOutcome, curve: PrivacyCurve) -> RunOutcome:
    """The run with the curve in its story and its report. It keeps both when a point of it could not be had."""
    story = outcome.story.model_copy(update={"privacy": curve})
    _keep(this, story)
    problem = problems(curve.points)
    code = int(_exit_code(story.status, problem))
    return replace(outcome, story=story, reason=problem or outcome.reason, exit_code=code)


def _exit_code(status: ModelStatus, problem: str | None) -> ExitCode:
    if status is ModelStatus.STOPPED:
        return ExitCode.STOPPED
    succeeded = status is ModelStatus.RESULTS_UPLOADED and problem is None
    return ExitCode.DONE if succeeded else ExitCode.FAILED


def _write(this: _Run, story: Story, rows: list[BaselineRow], samples: Samples | None = None) -> Story:
    facts = {"Engine": this.engine.name, "Job type": this.config.job_type.value, "Seed": str(this.config.seed)}
    facts.update(this.facts)
    model = story.model.model_copy(update={"facts": facts})
    told = story.model_copy(update={"baselines": rows, "samples": samples, "model": model})
    _keep(this, told)
    return told


def _keep(this: _Run, story: Story) -> None:
    this.folder.story.write_text(story.model_dump_json(by_alias=True, indent=2), encoding="utf-8")
    write_report(story, this.folder.report)


def _try_story(hub: SimulatedHub) -> Story | None:
    try:
        return hub.story()
    except FlipError:
        return None
