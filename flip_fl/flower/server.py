"""A run on Flower from its start to its end at the hub, whatever strategy it uses."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flip_fl.aggregate.best import BestModel
from flip_fl.aggregate.optimizers import ServerOptimizer
from flip_fl.app import weights
from flip_fl.app.checkpoints import checkpoint_folders, find_checkpoint
from flip_fl.app.config import AppConfig
from flip_fl.app.failures import Failure
from flip_fl.app.plan import Stage
from flip_fl.app.travel import travelling
from flip_fl.app.weights import StartingModel
from flip_fl.errors import ExitCode, FlipError, ResultsUploadError
from flip_fl.flower.checkpoint import StrategyState
from flip_fl.flower.grid import FlipGrid
from flip_fl.flower.phase import STOPPED_AT_HUB, Patience, Quorum, RoundFailed, RunStopped
from flip_fl.flower.quarantine import ReplyCheck
from flip_fl.flower.roster import DEPLOYMENT
from flip_fl.flower.rounds import Rounds
from flip_fl.flower.run_config import Given, RunFacts, find_app, find_model_id, read_facts
from flip_fl.flower.strategy import EvaluateFn, ObservedStrategy, unsatisfiable, weight_key
from flip_fl.reporting.local import LocalReporting
from flip_fl.reporting.locks import FileLock
from flip_fl.reporting.session import Reporting, open_reporting
from flip_fl.results.delivery import Delivery, DeliveryStopped, deliver, tidy, upload_problem
from flip_fl.settings import ServerSettings, load, load_server, settings_file
from flip_fl.values import SERVER_NAME, ModelStatus

logger = logging.getLogger("flip_fl.flower")

# Flower ends a stopped ServerApp's process 5 s after the SystemExit that tells it so.
CLOSE_TIMEOUT_S = 3.0
STOPPED_BY_ENGINE = "stopped: the server's process was told to end (flwr stop, or a signal)"


class RunFailed(Exception):
    """The run did not end in stored results. The text is its status and the reason, as the hub has them."""


@dataclass(frozen=True)
class _How:
    """What the caller of ``run`` gives on to the strategy and to the grid."""

    arrays: ArrayRecord | None
    train_config: ConfigRecord | None
    evaluate_config: ConfigRecord | None
    evaluate_fn: EvaluateFn | None
    check: ReplyCheck | None


@dataclass(frozen=True)
class _Home:
    """Where a run reports to and keeps its files."""

    model_id: UUID
    settings: ServerSettings | None
    state_dir: Path
    folder: Path


def run(
    strategy: Strategy | Callable[[AppConfig], Strategy],
    grid: Grid,
    context: Context,
    *,
    app_dir: Path | None = None,
    model_id: str | UUID | None = None,
    arrays: ArrayRecord | None = None,
    num_rounds: int | None = None,
    slots: Sequence[str] | None = None,
    min_clients: int | None = None,
    ignore_result_error: bool | None = None,
    train_config: ConfigRecord | None = None,
    evaluate_config: ConfigRecord | None = None,
    evaluate_fn: EvaluateFn | None = None,
    check: ReplyCheck | None = None,
) -> Result:
    """Run ``strategy`` (or what it makes of the app's config) over the job's sites and report everything to the hub.

    The results are stored and verified.

    ``app_dir`` holds config.json and models.py; ``arrays`` is the starting model (default: a fresh ``get_model()``).
    ``slots`` are the participants, ``min_clients`` how many of them must return in each phase (0: all). What is not
    given is read from the run config, then from config.json. ``check`` says why a reply cannot be aggregated; the
    default wants exactly the sent model back: for a strategy whose clients return something else give your own.

    A run whose process was lost goes on after its last whole round when the same job is started again with the same
    model id; ``arrays`` are then the checkpoint's.

    Raises ``RunFailed`` for a run that did not succeed, so that Flower shows it as failed, and ``FlipError`` for a
    setting that is missing or malformed before the run starts. A stop through Flower (``SystemExit``) passes through.
    """
    found = find_model_id(model_id, app_dir, context.run_config)
    home = _home(grid, found)
    given = Given(app_dir, num_rounds, slots, min_clients, ignore_result_error)
    how = _How(arrays, train_config, evaluate_config, evaluate_fn, check)
    with _alone(home):
        return _run(strategy, grid, home, given, context, how)


def _run(
    strategy: Strategy | Callable[[AppConfig], Strategy],
    grid: Grid,
    home: _Home,
    given: Given,
    context: Context,
    how: _How,
) -> Result:
    reporting: Reporting | LocalReporting
    if home.settings is None:
        logger.warning("no hub is configured (development): the run's story stays in %s", home.state_dir)
        reporting = LocalReporting(home.model_id, home.state_dir)
    else:
        reporting = open_reporting(home.settings, home.model_id, home.state_dir)
    lifecycle = reporting.lifecycle
    result = Result()
    rounds: Rounds | None = None
    try:
        # Read in here: what is wrong with the app is told at the hub, too.
        facts = read_facts(given, context.run_config)
        chosen = strategy(facts.app) if not isinstance(strategy, Strategy) else strategy
        rounds = _rounds(facts, home, grid, reporting, chosen, how)
        resumed = rounds.resume()
        if resumed:
            lifecycle.resumed(rounds.done)
        else:
            lifecycle.initiated()
            # Before the sites are waited for: an app that cannot be imported is told at once.
            if how.arrays is not None:
                rounds.record = how.arrays
            else:
                rounds.begin(facts.stages[0], _starting(facts, home))
        if unkept := rounds.state.unkept():
            text = f"a restart of this run would forget what the strategy holds in {', '.join(unkept)}"
            reporting.reporter.log(text, success=True)
        if rounds.done < rounds.total:
            sites = rounds.grid.await_sites()
            if problem := unsatisfiable(chosen, len(sites)):
                raise RoundFailed(problem)
            rounds.expected = len(sites)
            lifecycle.prepared()
        for stage in facts.stages:
            if rounds.done >= stage.last:
                continue
            if stage.first > 1 and rounds.done == stage.first - 1:
                rounds.begin(stage, weights.starting_model(facts.app_dir, stage.name, previous=rounds.whole))
            else:
                rounds.stage = stage
            result = _train(chosen, rounds, stage, facts, how)
        if facts.app.cross_site_validation:
            _cross_validate(rounds, reporting)
        _deliver(rounds, facts, home, reporting)
    except (RunStopped, DeliveryStopped):
        lifecycle.stop(STOPPED_AT_HUB)
    except RoundFailed as failed:
        lifecycle.fail(str(failed))
    except FlipError as error:
        lifecycle.fail(f"{error.what}{f' ({error.why})' if error.why else ''}")
    except ResultsUploadError as error:
        lifecycle.upload_failed(upload_problem(error))
    except (SystemExit, KeyboardInterrupt) as left:
        rounds = None  # the engine carries no more messages of this run
        if _is_stop(left):
            lifecycle.stop(STOPPED_BY_ENGINE)
        else:
            code = left.code if isinstance(left, SystemExit) else None
            lifecycle.fail(f"the server's code ended its process with sys.exit({code!r:.100})")
        raise
    except Exception as error:
        # Strategies handle what clients have written: names and texts that may hold a row's value.
        failure = Failure.of(error, slot=SERVER_NAME, task="aggregate", round=0, app_dir=find_app(given.app_dir, {}))
        logger.error("the server failed\n%s", failure.traceback)
        reporting.reporter.failure(None, failure.traceback)
        lifecycle.fail(f"the server failed: {failure.headline}")
    finally:
        if rounds is not None:
            rounds.grid.dismiss()
        status = _end(reporting, home)
    if not status.is_success:
        raise RunFailed(f"{status.value}: {lifecycle.reason}")
    return result


def _train(strategy: Strategy, rounds: Rounds, stage: Stage, facts: RunFacts, how: _How) -> Result:
    """The rounds of ``stage`` that are not done yet."""
    optimizer = getattr(strategy, "optimizer", None)
    if isinstance(optimizer, ServerOptimizer):
        optimizer.trainable = rounds.frame.trainable if rounds.frame is not None else frozenset(rounds.record)
        if rounds.done == stage.first - 1:
            optimizer.forget()
    return ObservedStrategy(strategy, rounds, offset=rounds.done).start(
        rounds.grid,
        rounds.record,
        num_rounds=stage.last - rounds.done,
        timeout=facts.phase_timeout_s,
        train_config=how.train_config,
        evaluate_config=how.evaluate_config,
        evaluate_fn=how.evaluate_fn,
    )


def _starting(facts: RunFacts, home: _Home) -> StartingModel:
    """What the run starts from. Raises ``FlipError`` E0205, E0210."""
    checkpoint = None
    if facts.app.server_checkpoint is not None:
        root = home.settings.checkpoint_root if home.settings is not None else None
        checkpoint = find_checkpoint(
            facts.app.server_checkpoint, checkpoint_folders(facts.app_dir, root, home.model_id)
        )
    return weights.starting_model(facts.app_dir, facts.stages[0].name, checkpoint=checkpoint)


def _cross_validate(rounds: Rounds, reporting: Reporting | LocalReporting) -> None:
    if rounds.updates:
        rounds.cross_validate()
    else:
        text = "no cross-site validation: the sites' own models of the last round went with the server's process"
        reporting.reporter.log(text, success=False)


def _is_stop(left: SystemExit | KeyboardInterrupt) -> bool:
    """Whether the process was told to end: by Flower's or our own signal handler, not by ``sys.exit`` in a strategy."""
    if isinstance(left, KeyboardInterrupt):
        return True
    innermost = left.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    module = innermost.tb_frame.f_globals.get("__name__", "") if innermost is not None else ""
    return left.code in (None, ExitCode.DONE, ExitCode.STOPPED) and module.partition(".")[0] in ("flwr", "flip_fl")


@contextlib.contextmanager
def _alone(home: _Home) -> Iterator[None]:
    """Keep a second run of the same model away. Raises ``FlipError`` E0523 where one is live on this machine."""
    path = home.folder.with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(path)
    if not lock.acquire():
        raise FlipError("E0523", model=str(home.model_id), folder=home.folder)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _home(grid: Grid, model_id: UUID) -> _Home:
    """The server's settings and folders. Raises ``FlipError`` E0401 in a deployment without a hub."""
    file = settings_file(SERVER_NAME)
    deployed = grid.run.primary_task_type == DEPLOYMENT
    settings = load(ServerSettings, file) if deployed else load_server(file)
    state = settings.state_dir if settings and settings.state_dir else _default_state()
    return _Home(model_id, settings, state, state / "flower" / str(model_id))


def _default_state() -> Path:
    home = os.environ.get("FLWR_HOME")
    return (Path(home) if home else Path.home() / ".flwr") / "flip-state"


def _rounds(
    facts: RunFacts,
    home: _Home,
    grid: Grid,
    reporting: Reporting | LocalReporting,
    strategy: Strategy,
    how: _How,
) -> Rounds:
    flip_grid = FlipGrid(
        grid,
        reporting,
        slots=facts.slots,
        quorum=Quorum(facts.min_clients, facts.ignore_result_error),
        patience=Patience(facts.start_timeout_s, facts.phase_timeout_s),
        total_rounds=facts.num_rounds,
        check=how.check,
        weighted_by=weight_key(strategy),
    )
    return Rounds(
        grid=flip_grid,
        lifecycle=reporting.lifecycle,
        folder=home.folder,
        total=facts.num_rounds,
        state=StrategyState(strategy),
        identity=_identity(facts, strategy, how.arrays),
        best=BestModel(facts.best_metric, facts.best_minimize) if facts.best_metric else None,
        keep_updates=facts.app.cross_site_validation,
    )


def _identity(facts: RunFacts, strategy: Strategy, arrays: ArrayRecord | None) -> str:
    """A digest of what makes two starts of one model the same job: code, sites, rounds, strategy, starting model."""
    digest = hashlib.sha256()
    for path in sorted(travelling(facts.app_dir)):
        content = (facts.app_dir / path).read_bytes()
        digest.update(f"{path.as_posix()}\0{len(content)}\0".encode() + content)
    told = (facts.num_rounds, facts.slots, facts.best_metric, facts.best_minimize, type(strategy).__qualname__)
    digest.update(repr(told).encode())
    for name, array in (arrays or {}).items():
        digest.update(name.encode() + array.data)
    return digest.hexdigest()


def _deliver(rounds: Rounds, facts: RunFacts, home: _Home, reporting: Reporting | LocalReporting) -> None:
    work = home.folder / "work"
    tidy([work])  # of a run that was cut off here
    this = Delivery(
        models=rounds.keep(),
        app_dir=facts.app_dir,
        model_id=home.model_id,
        round=rounds.done,
        work=work,
        state_dir=home.state_dir,
        settings=home.settings,
    )
    stored = deliver(this, lambda: reporting.stop_requested)
    reporting.lifecycle.uploaded(stored.address, stored.sha256, stored.size_bytes, rounds.done)


def _end(reporting: Reporting | LocalReporting, home: _Home) -> ModelStatus:
    for problem in tidy([home.folder]):
        reporting.reporter.log(problem, success=False)
    status = reporting.lifecycle.finish()
    logger.info("the run ends %s", status.value)
    reporting.close(CLOSE_TIMEOUT_S)
    return status
