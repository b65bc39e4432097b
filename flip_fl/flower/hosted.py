"""A ServerApp that is not ours, unmodified: it gets our grid, and its strategy is watched while it runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result, Strategy

from flip_fl.app.loader import AppLoader
from flip_fl.app.plan import stages_in
from flip_fl.core.journal import read_journal
from flip_fl.environment import scrubbed
from flip_fl.flower.grid import FlipGrid
from flip_fl.flower.host import Host
from flip_fl.flower.phase import RoundFailed
from flip_fl.flower.private import has_main
from flip_fl.flower.rounds import Rounds
from flip_fl.flower.run_config import Given, RunFacts, read_facts
from flip_fl.flower.strategy import EvaluateFn
from flip_fl.flower.training import How, conduct
from flip_fl.values import ModelStatus
from flip_fl.wire import LogItem, StatusItem

MODULE = "server_app"
COMPONENT = "app"
NO_STRATEGY = (
    "the app's ServerApp ended without calling start() of a strategy: there is no model. Call strategy.start(grid, …),"
    " or leave server_app.py out of the app: flip_fl then averages by itself"
)


def serve(app_dir: Path, grid: Grid, context: Context, this: Host) -> None:
    """Run the ServerApp of the package in ``app_dir`` and deliver what its strategy has made.

    It runs with this process's environment but for settings and keys, in a folder of its own; ``FLIP()`` is the
    development client there: the house reports, and stores the results. Raises ``RoundFailed`` where no strategy was
    started, and what the ServerApp or a phase of the run raises, whether the ServerApp lets it pass or not.
    """
    work = _Hosted(this, read_facts(Given(app_dir), context.run_config), context)
    folder = this.home.folder / "server_app"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with _guest(folder, this.home.checkpoint_folders(app_dir)[-1]):
            app = getattr(AppLoader(app_dir).module(MODULE), COMPONENT, None)
            if not isinstance(app, ServerApp):
                raise RoundFailed(f"{MODULE}.py has no ServerApp called {COMPONENT}, it is a {type(app).__name__}")
            if not has_main(app):
                raise RoundFailed(f"{MODULE}.py is of Flower's older form (server_fn): write @app.main()")
            with _watched(work.start):
                app(_AppGrid(grid, work.open_grid), context)
    except Exception:
        # What the ServerApp makes of the end of its strategy is not how the run ended.
        if work.failed is not None:
            raise work.failed from None
        raise
    finally:
        _tell(folder, this)
    work.finish()


class _Hosted:
    """What one ServerApp does with its strategy."""

    def __init__(self, this: Host, facts: RunFacts, context: Context) -> None:
        self._this = this
        self._facts = facts
        self._context = context
        self._rounds: Rounds | None = None
        self.failed: BaseException | None = None

    def open_grid(self) -> FlipGrid:
        """The grid for what a ServerApp asks before its strategy starts."""
        return self._this.flip_grid or self._this.open_grid(self._facts)

    def start(
        self,
        strategy: Strategy,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """In the place of ``strategy.start``: the same rounds, on our grid, told to the hub."""
        if self._rounds is not None or self.failed is not None:
            raise RoundFailed("the ServerApp starts a second strategy; a job has one, put its rounds into one start()")
        facts = replace(
            self._facts,
            num_rounds=num_rounds,
            stages=stages_in({"": num_rounds}),
            phase_timeout_s=min(self._facts.phase_timeout_s, timeout),
        )
        how = How(initial_arrays, train_config, evaluate_config, evaluate_fn)
        try:
            self._rounds, result = conduct(strategy, self._this, facts, how)
        except BaseException as error:
            self.failed = error
            raise
        return result

    def finish(self) -> None:
        """Deliver the model. Raises what the strategy's run has raised, and ``RoundFailed`` where there was none."""
        if self.failed is not None:
            raise self.failed
        if self._rounds is None:
            raise RoundFailed(NO_STRATEGY)
        self._this.deliver(self._rounds.keep(), self._facts.app_dir, self._rounds.done)


class _AppGrid(Grid):
    """What the ServerApp sees of the grid: the job's sites only."""

    def __init__(self, inner: Grid, opened: Callable[[], FlipGrid]) -> None:
        self._inner = inner
        self._opened = opened

    @property
    def run(self) -> Any:
        return self._inner.run

    def set_run(self, run: Any) -> None:
        self._inner.set_run(run)

    def create_message(self, *args: Any, **kwargs: Any) -> Any:
        return self._opened().create_message(*args, **kwargs)

    def get_nodes(self) -> Any:
        return self._opened().get_nodes()

    def get_node_ids(self) -> Any:
        return self._opened().get_node_ids()

    def push_messages(self, messages: Any) -> Any:
        return self._opened().push_messages(messages)

    def pull_messages(self, message_ids: Any) -> Any:
        return self._opened().pull_messages(message_ids)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        return self._opened().send_and_receive(messages, timeout=timeout)


@contextlib.contextmanager
def _watched(start: Callable[..., Result]) -> Iterator[None]:
    """While the block runs, ``strategy.start(grid, …)`` with an ``_AppGrid`` is ``start(strategy, grid, …)``.

    Of every class of strategies that is there: also of those whose ``start`` is their own.
    """
    own: dict[type, Any] = {}

    def watching(kind: type) -> Any:
        original = own[kind]

        def started(self: Strategy, grid: Grid, *args: Any, **kwargs: Any) -> Result:
            if isinstance(grid, _AppGrid):
                return start(self, grid, *args, **kwargs)
            result: Result = original(self, grid, *args, **kwargs)
            return result

        return started

    for kind in _kinds(Strategy):
        if "start" in vars(kind):
            own[kind] = vars(kind)["start"]
    replaced = {kind: watching(kind) for kind in own}
    for kind, started in replaced.items():
        kind.start = started  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for kind, original in own.items():
            kind.start = original  # type: ignore[attr-defined]


def _kinds(kind: type) -> Iterator[type]:
    yield kind
    below: list[type] = kind.__subclasses__()
    for further in below:
        yield from _kinds(further)


@contextlib.contextmanager
def _guest(folder: Path, checkpoints: Path) -> Iterator[None]:
    """The process as the app's code finds it: no setting and no key in the environment, a folder of its own."""
    before, place = dict(os.environ), Path.cwd()
    own = {
        "LOCAL_DEV": "true",
        "FLIP_STATE_DIR": str(folder),
        "WORKING_DIR": str(folder),
        "MODEL_CHECKPOINTS_DIR": str(checkpoints),
    }
    # Flower's simulation starts the sites' processes from this one: they find their files by it.
    own |= {name: before[name] for name in ("FLIP_SETTINGS_DIR",) if name in before}
    _be(scrubbed(before, **own))
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(place)
        _be(before)


def _be(environment: Mapping[str, str]) -> None:
    """Change what differs and nothing else: other threads read what is there."""
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _tell(folder: Path, this: Host) -> None:
    """What the ServerApp itself reported with ``FLIP()`` and the house has not told: failures, and a status ERROR."""
    for _, item in read_journal(folder):
        if isinstance(item, LogItem) and not item.success and item.log:
            this.reporting.reporter.failure(None, item.log)
        elif isinstance(item, StatusItem) and item.status is ModelStatus.ERROR:
            text = "the ServerApp called update_status(ERROR): the run's own status decides"
            this.reporting.reporter.log(text, success=False)
