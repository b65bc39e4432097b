"""The cells of the truth table as data: each row's trouble in each column's moment, and how such a run must end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from flip_fl.app.checks import SUPPORTED_JOB_TYPES
from flip_fl.values import JobType, ModelStatus


class Engine(StrEnum):
    NVFLARE = "nvflare"
    FLOWER = "flower"


class Row(StrEnum):
    """What goes wrong. The last one is a second trouble, after the app has raised, but in its own column."""

    ABORT = "the operator aborts"
    RAISES = "the app's code raises"
    CLIENT = "a client is killed"
    SERVER = "the server process is killed"
    STORE = "the object store refuses"
    HUB = "the hub is down"
    MODEL = "the model file is missing"
    CLEANUP = "the app raises and the clean-up fails"


class Column(StrEnum):
    """When it does: from that moment on, until the run is over."""

    IMPORT = "import"
    INIT = "init"
    FIRST = "train, first round"
    MIDDLE = "train, middle round"
    LAST = "train, last round"
    VALIDATE = "validate, last round"
    EVALUATE = "evaluate"
    BETWEEN = "between stages"
    UPLOAD = "upload"
    CLEANUP = "clean-up"

    @property
    def job_type(self) -> JobType:
        """The job in which this moment comes."""
        return _JOB_TYPES.get(self, JobType.STANDARD)


_JOB_TYPES = {Column.EVALUATE: JobType.EVALUATION, Column.BETWEEN: JobType.DIFFUSION}


class Stored(StrEnum):
    """What is in the bucket when everything is over. A bundle's model loads and gives the reported scores."""

    NOTHING = "nothing"
    BUNDLE = "a bundle whose model loads"
    EVALUATION = "the evaluation's results"


@dataclass(frozen=True)
class Ending:
    """How a run must end: its status, the ``words`` of its reason at the hub (none: it has no reason, or anybody's),
    what is ``stored``, and the words of a failure that is told ``beside`` the outcome."""

    status: ModelStatus
    words: tuple[str, ...] = ()
    stored: Stored = Stored.NOTHING
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Impossible:
    """No run can be in this cell, and why."""

    why: str


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    row: Row
    column: Column
    engine: Engine

    @property
    def name(self) -> str:
        """As test ids and the list of results have it."""
        return f"{self.row.name}-{self.column.name}-{self.engine.name}".lower()

    @property
    def truth(self) -> Ending | Impossible:
        """How it ends."""
        if self.column.job_type not in SUPPORTED_JOB_TYPES:
            return Impossible("a job of this type is refused before anything starts")
        return _TRUTHS[self.row](self)

    @property
    def ending(self) -> Ending:
        """``truth`` of a cell that a run can be in."""
        truth = self.truth
        assert isinstance(truth, Ending), truth
        return truth


def all_cells() -> Iterator[Cell]:
    """Every cell, those that no run can be in, too."""
    for row, column, engine in product(Row, Column, Engine):
        yield Cell(row, column, engine)


def cells() -> list[Cell]:
    """Every cell that a run can be in."""
    return [cell for cell in all_cells() if isinstance(cell.truth, Ending)]


# -- the truths -------------------------------------------------------------------------------------------------------

UPLOADED, FAILED = ModelStatus.RESULTS_UPLOADED, ModelStatus.ERROR


def _success(cell: Cell, *beside: str) -> Ending:
    stored = Stored.EVALUATION if cell.column is Column.EVALUATE else Stored.BUNDLE
    return Ending(UPLOADED, stored=stored, beside=beside)


def _abort(cell: Cell) -> Ending:
    if cell.column is Column.CLEANUP:
        # The results were verified before; that the run was stopped is the person's word, and the last one.
        return Ending(ModelStatus.STOPPED, stored=Stored.BUNDLE)
    return Ending(ModelStatus.STOPPED, ("stopped at the hub",))


def _raises(cell: Cell) -> Ending | Impossible:
    if cell.column is Column.CLEANUP:
        return Impossible("no code of the app runs then")
    asked = cell.column in (Column.INIT, Column.BETWEEN, Column.UPLOAD)
    return Ending(FAILED, (*(("get_model() cannot be used",) if asked else ()), "RuntimeError", "on purpose"))


def _client(cell: Cell) -> Ending:
    if cell.column in (Column.UPLOAD, Column.CLEANUP):
        return _success(cell)  # nothing is asked of it any more
    if cell.column is Column.EVALUATE and cell.engine is Engine.FLOWER:
        # The other site's scores are results; in NVFLARE the loss of a client's process ends the job.
        return _success(cell, "1 of 2 evaluations failed", "Trust_2")
    return Ending(FAILED, ("Trust_2",))


def _server(cell: Cell) -> Ending:
    if cell.column is Column.CLEANUP:
        return _success(cell)  # verified, and known on the disk: whoever delivers what was left says so
    return Ending(FAILED, ("the FL server's process was lost", "signal 9"))


def _store(cell: Cell) -> Ending:
    if cell.column is Column.CLEANUP:
        return _success(cell)
    return Ending(ModelStatus.RESULTS_UPLOAD_FAILED, ("results to S3",))


def _hub(cell: Cell) -> Ending:
    return _success(cell)


def _model(cell: Cell) -> Ending | Impossible:
    match cell.column:
        case Column.IMPORT | Column.FIRST:
            return Impossible("there is none yet; an app without models.py is refused before anything starts")
        case Column.INIT | Column.EVALUATE:
            return Ending(FAILED, ("start.pt",))  # the checkpoint that the job names
        case Column.VALIDATE if cell.engine is Engine.NVFLARE:
            return Ending(FAILED, ("no global model",))
        case Column.UPLOAD:
            return Ending(FAILED, ("model",))
    # A later round writes it again, or (Flower) the model is in memory until it is delivered.
    return _success(cell)


def _cleanup(cell: Cell) -> Ending:
    if cell.column is Column.CLEANUP:
        return _success(cell, "clean-up", "could not be removed")
    first = _raises(cell)
    assert isinstance(first, Ending)
    return Ending(first.status, first.words, first.stored, ("clean-up", "could not be removed"))


_TRUTHS = {
    Row.ABORT: _abort,
    Row.RAISES: _raises,
    Row.CLIENT: _client,
    Row.SERVER: _server,
    Row.STORE: _store,
    Row.HUB: _hub,
    Row.MODEL: _model,
    Row.CLEANUP: _cleanup,
}


# -- which of them are run every day ----------------------------------------------------------------------------------

_AT_SITES = (Column.FIRST, Column.MIDDLE, Column.LAST, Column.VALIDATE)
# The columns that take the same way through the code in a row; what is in no group is a way of its own.
_GROUPS: dict[Row, Sequence[Sequence[Column]]] = {
    Row.ABORT: (_AT_SITES,),
    Row.RAISES: (_AT_SITES, (Column.INIT, Column.BETWEEN)),
    Row.CLIENT: ((Column.IMPORT, *_AT_SITES), (Column.UPLOAD, Column.CLEANUP)),
    Row.SERVER: ((Column.IMPORT, Column.INIT, *_AT_SITES, Column.BETWEEN),),
    Row.STORE: ((Column.IMPORT, Column.INIT, *_AT_SITES, Column.BETWEEN),),
    Row.HUB: ((Column.IMPORT, *_AT_SITES, Column.BETWEEN),),
    Row.MODEL: ((Column.MIDDLE, Column.LAST, Column.BETWEEN),),
    Row.CLEANUP: ((Column.IMPORT, *_AT_SITES, Column.BETWEEN),),
}


def way(cell: Cell) -> tuple[Column, ...]:
    """The columns of the cell's row that take the same way through the code as it does."""
    for group in _GROUPS[cell.row]:
        if cell.column in group:
            return tuple(group)
    return (cell.column,)


def pairwise(among: Sequence[Cell], limit: int) -> list[Cell]:
    """At most ``limit`` cells, the same ones always: each next one has the most that none before it has.

    What counts, the first most: row and engine, row and way through the code, column, column and engine.
    """
    chosen: list[Cell] = []
    covered: set[tuple[object, ...]] = set()
    while len(chosen) < limit:
        best = max(among, key=lambda cell: [pair not in covered for pair in _pairs(cell)])
        if covered.issuperset(_pairs(best)):
            break
        chosen.append(best)
        covered.update(_pairs(best))
    return chosen


def _pairs(cell: Cell) -> list[tuple[object, ...]]:
    return [(cell.row, cell.engine), (cell.row, way(cell)), (cell.column,), (cell.column, cell.engine)]
