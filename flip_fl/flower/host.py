"""A run on Flower from its start to its end at the hub, whatever is done in it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from flwr.serverapp import Grid

from flip_fl.app.checkpoints import checkpoint_folders
from flip_fl.app.failures import Failure, GuestFailed
from flip_fl.app.isolation.choice import at_server
from flip_fl.app.isolation.rules import Isolation
from flip_fl.errors import ExitCode, FlipError, ResultsUploadError
from flip_fl.flower.grid import FlipGrid
from flip_fl.flower.phase import STOPPED_AT_HUB, Patience, Quorum, RoundFailed, RunStopped
from flip_fl.flower.protocol import NUM_EXAMPLES
from flip_fl.flower.quarantine import ReplyCheck
from flip_fl.flower.roster import DEPLOYMENT
from flip_fl.flower.run_config import RunFacts
from flip_fl.reporting.local import LocalReporting
from flip_fl.reporting.locks import FileLock
from flip_fl.reporting.session import Reporting, open_reporting
from flip_fl.results.delivery import Delivery, DeliveryStopped, deliver, tidy, upload_problem
from flip_fl.results.model_folder import ModelFolder
from flip_fl.settings import ServerSettings, checkpoint_root, load, load_server, settings_file
from flip_fl.values import SERVER_NAME, ModelStatus

logger = logging.getLogger("flip_fl.flower")

# Flower ends a stopped ServerApp's process 5 s after the SystemExit that tells it so.
CLOSE_TIMEOUT_S = 3.0
STOPPED_BY_ENGINE = "stopped: the server's process was told to end (flwr stop, or a signal)"

T = TypeVar("T")


class RunFailed(Exception):
    """The run did not end in stored results. The text is its status and the reason, as the hub has them."""


@dataclass(frozen=True)
class Home:
    """Where a run reports to and keeps its files."""

    model_id: UUID
    settings: ServerSettings | None
    state_dir: Path
    folder: Path

    @property
    def walls(self) -> Isolation:
        """How far the app's code is kept apart here. Raises ``FlipError`` E0561."""
        return at_server(self.settings)

    def checkpoint_folders(self, app_dir: Path) -> tuple[Path, ...]:
        """Where checkpoints of this job may lie."""
        root = checkpoint_root(self.settings, settings_file(SERVER_NAME))
        return checkpoint_folders(app_dir, root, self.model_id)


@dataclass
class Host:
    """What a run's work has around it: the engine's grid, the hub, files; ``flip_grid`` once the work has made it."""

    home: Home
    grid: Grid
    reporting: Reporting | LocalReporting
    flip_grid: FlipGrid | None = None

    def open_grid(
        self, facts: RunFacts, *, check: ReplyCheck | None = None, weighted_by: str = NUM_EXAMPLES
    ) -> FlipGrid:
        """The run's grid as ``facts`` want it; its sites are told when the run is over."""
        self.flip_grid = FlipGrid(
            self.grid,
            self.reporting,
            slots=facts.slots,
            quorum=Quorum(facts.min_clients, facts.ignore_result_error),
            patience=Patience(facts.start_timeout_s, facts.phase_timeout_s),
            total_rounds=facts.num_rounds,
            check=check,
            weighted_by=weighted_by,
        )
        return self.flip_grid

    def deliver(self, models: ModelFolder, app_dir: Path, number: int) -> None:
        """Store and verify the results of ``number`` rounds. Raises as ``deliver`` does."""
        work = self.home.folder / "work"
        tidy([work])  # of a run that was cut off here
        this = Delivery(
            models=models,
            app_dir=app_dir,
            model_id=self.home.model_id,
            round=number,
            work=work,
            state_dir=self.home.state_dir,
            settings=self.home.settings,
        )
        stored = deliver(this, lambda: self.reporting.stop_requested)
        self.reporting.lifecycle.uploaded(stored.address, stored.sha256, stored.size_bytes, number)


def host(grid: Grid, model_id: UUID, app_dir: Path | None, work: Callable[[Host], T]) -> T:
    """Do ``work``, and tell the hub how the run ended, whatever it raises.

    Raises ``RunFailed`` for a run that did not succeed, ``FlipError`` before it starts, and passes a stop through.
    """
    home = _home(grid, model_id)
    with _alone(home):
        return _hosted(home, grid, app_dir, work)


def _hosted(home: Home, grid: Grid, app_dir: Path | None, work: Callable[[Host], T]) -> T:
    reporting: Reporting | LocalReporting
    if home.settings is None:
        logger.warning("no hub is configured (development): the run's story stays in %s", home.state_dir)
        reporting = LocalReporting(home.model_id, home.state_dir)
    else:
        reporting = open_reporting(home.settings, home.model_id, home.state_dir)
    lifecycle = reporting.lifecycle
    this = Host(home, grid, reporting)
    done: list[T] = []
    try:
        done.append(work(this))
    except (RunStopped, DeliveryStopped):
        lifecycle.stop(STOPPED_AT_HUB)
    except RoundFailed as failed:
        lifecycle.fail(str(failed))
    except FlipError as error:
        lifecycle.fail(error.sentence)
    except ResultsUploadError as error:
        lifecycle.upload_failed(upload_problem(error))
    except (SystemExit, KeyboardInterrupt) as left:
        this.flip_grid = None  # the engine carries no more messages of this run
        if _is_stop(left):
            lifecycle.stop(STOPPED_BY_ENGINE)
        else:
            code = left.code if isinstance(left, SystemExit) else None
            lifecycle.fail(f"the server's code ended its process with sys.exit({code!r:.100})")
        raise
    except Exception as error:
        # Strategies handle what clients have written: names and texts that may hold a row's value.
        failure = (
            error.failure
            if isinstance(error, GuestFailed)
            else Failure.of(error, slot=SERVER_NAME, task="aggregate", round=0, app_dir=app_dir)
        )
        logger.error("the server failed\n%s", failure.traceback)
        reporting.reporter.failure(None, failure.traceback)
        lifecycle.fail(f"the server failed: {failure.headline}")
    finally:
        if this.flip_grid is not None:
            this.flip_grid.dismiss()
        status = _end(reporting, home)
    if not status.is_success or not done:
        raise RunFailed(f"{status.value}: {lifecycle.reason}")
    return done[0]


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
def _alone(home: Home) -> Iterator[None]:
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


def _home(grid: Grid, model_id: UUID) -> Home:
    """The server's settings and folders. Raises ``FlipError`` E0401 in a deployment without a hub."""
    file = settings_file(SERVER_NAME)
    deployed = grid.run.primary_task_type == DEPLOYMENT
    settings = load(ServerSettings, file) if deployed else load_server(file)
    # An app's own ServerApp works in another folder.
    state = (settings.state_dir if settings and settings.state_dir else _default_state()).absolute()
    return Home(model_id, settings, state, state / "flower" / str(model_id))


def _default_state() -> Path:
    home = os.environ.get("FLWR_HOME")
    return (Path(home) if home else Path.home() / ".flwr") / "flip-state"


def _end(reporting: Reporting | LocalReporting, home: Home) -> ModelStatus:
    for problem in tidy([home.folder]):
        reporting.reporter.log(problem, success=False)
    status = reporting.lifecycle.finish()
    logger.info("the run ends %s", status.value)
    reporting.close(CLOSE_TIMEOUT_S)
    return status
