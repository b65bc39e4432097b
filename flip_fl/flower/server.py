"""What a ServerApp calls: a run of any strategy, or of a neutral app, from its start to its end at the hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flip_fl.app.config import AppConfig
from flip_fl.app.packages import SERVER_FILE, is_package
from flip_fl.flower.evaluation import evaluate
from flip_fl.flower.host import Host, RunFailed, host
from flip_fl.flower.hosted import serve
from flip_fl.flower.phase import RoundFailed
from flip_fl.flower.quarantine import ReplyCheck
from flip_fl.flower.run_config import Given, find_app, find_model_id, read_facts
from flip_fl.flower.strategy import EvaluateFn
from flip_fl.flower.training import How, train
from flip_fl.values import JobType

__all__ = ["RunFailed", "run", "run_app"]

NOT_ITS_OWN = (
    "the app's server_app.py is not used: flip_fl sends each model of an evaluation to every site, one after another,"
    " and writes the results"
)


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
    given = Given(app_dir, num_rounds, slots, min_clients, ignore_result_error)
    how = How(arrays, train_config, evaluate_config, evaluate_fn, check)

    def work(this: Host) -> Result:
        # Read in here: what is wrong with the app is told at the hub, too.
        facts = read_facts(given, context.run_config)
        if facts.app.job_type is JobType.EVALUATION:
            raise RoundFailed("an evaluation has no strategy: give it flip_fl.flower.server_app as its ServerApp")
        return train(strategy, this, facts, how)

    return host(grid, find_model_id(model_id, app_dir, context.run_config), find_app(app_dir, {}), work)


def run_app(strategy: Callable[[AppConfig], Strategy], grid: Grid, context: Context, app_dir: Path) -> None:
    """Run the app in ``app_dir`` as its job type says: with ``strategy``, or as an evaluation.

    A Flower package that trains and has a ``server_app.py`` runs its own ServerApp instead.
    """

    def work(this: Host) -> None:
        facts = read_facts(Given(app_dir), context.run_config)
        own = is_package(app_dir) and (app_dir / SERVER_FILE).is_file()
        if facts.app.job_type is JobType.EVALUATION:
            if own:
                this.reporting.reporter.log(NOT_ITS_OWN)
            evaluate(this, facts)
        elif own:
            serve(app_dir, grid, context, this)
        else:
            train(strategy, this, facts, How())

    host(grid, find_model_id(None, app_dir, context.run_config), app_dir, work)
