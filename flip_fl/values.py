"""The enumerations that FLIP's services and flip_fl share. This module depends on nothing."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

# Seconds by which clocks differ before anybody is told: less may be a report that waited for its turn.
WORTH_TELLING_SKEW_S = 30.0


class Role(StrEnum):
    """What a process is allowed to call: the server calls the hub, a client calls its trust's services."""

    SERVER = "server"
    CLIENT = "client"


class ModelStatus(StrEnum):
    """A model's life at the hub. ``TRAINING_STARTED`` is the older spelling of ``RUNNING``."""

    PENDING = "PENDING"
    INITIATED = "INITIATED"
    PREPARED = "PREPARED"
    RUNNING = "RUNNING"
    TRAINING_STARTED = "RUNNING"
    RESULTS_UPLOADED = "RESULTS_UPLOADED"
    ERROR = "ERROR"
    STOPPED = "STOPPED"
    RESULTS_UPLOAD_FAILED = "RESULTS_UPLOAD_FAILED"

    @classmethod
    def _missing_(cls, value: object) -> ModelStatus | None:
        return cls.RUNNING if value == "TRAINING_STARTED" else None

    @property
    def is_terminal(self) -> bool:
        """True for the statuses that end a run and release its net."""
        return self in TERMINAL_STATUSES

    @property
    def is_success(self) -> bool:
        """False for the statuses whose log row the hub marks as a failure."""
        return self not in (ModelStatus.ERROR, ModelStatus.STOPPED, ModelStatus.RESULTS_UPLOAD_FAILED)


TERMINAL_STATUSES = frozenset(
    {ModelStatus.ERROR, ModelStatus.STOPPED, ModelStatus.RESULTS_UPLOADED, ModelStatus.RESULTS_UPLOAD_FAILED}
)


class ModelAuditAction(StrEnum):
    """What an audit row of a model records."""

    DELETE = "DELETE"
    EDIT = "EDIT"
    PREPARED = "PREPARED"
    RUNNING = "RUNNING"
    TRAINING_STARTED = "RUNNING"
    RESULTS_UPLOADED = "RESULTS_UPLOADED"

    @classmethod
    def _missing_(cls, value: object) -> ModelAuditAction | None:
        return cls.RUNNING if value == "TRAINING_STARTED" else None


class ResourceType(StrEnum):
    """What the imaging service can return of a study."""

    DICOM = "DICOM"
    NIFTI = "NIFTI"
    SEGMENTATION = "SEG"
    SEG = "SEG"
    ALL = "ALL"


class JobType(StrEnum):
    """The kinds of job a researcher submits; ``<type>_client_api`` is read as the type."""

    STANDARD = "standard"
    EVALUATION = "evaluation"
    FED_OPT = "fed_opt"
    DIFFUSION = "diffusion_model"

    @classmethod
    def _missing_(cls, value: object) -> JobType | None:
        if isinstance(value, str) and value.endswith("_client_api"):
            stem = value.removesuffix("_client_api")
            return cls(stem) if stem in cls._value2member_map_ else None
        return None


class EventType(StrEnum):
    """The typed events that a sender may report; the hub words them when it serves them."""

    RUN_CONFIGURED = "RUN_CONFIGURED"
    SITES_AWAITED = "SITES_AWAITED"
    ROUND_STARTED = "ROUND_STARTED"
    CLIENT_RESULT_RECEIVED = "CLIENT_RESULT_RECEIVED"
    ROUND_AGGREGATED = "ROUND_AGGREGATED"
    UPDATES_COMPARED = "UPDATES_COMPARED"
    JOB_WAITING_FOR_RESOURCES = "JOB_WAITING_FOR_RESOURCES"
    QUEUE_POSITION = "QUEUE_POSITION"
    RESULTS_STORED = "RESULTS_STORED"


ROUNDLESS_EVENTS = frozenset({EventType.JOB_WAITING_FOR_RESOURCES, EventType.QUEUE_POSITION})


class HubDialect(StrEnum):
    """Which spelling of metric and log bodies a sender uses towards the hub."""

    BOTH = "both"
    OLDER = "older"
    CURRENT = "current"


class Task(StrEnum):
    """What a site is asked to do in a round."""

    TRAIN = "train"
    VALIDATE = "validate"
    EVALUATE = "evaluate"


def task_words(task: str, round: int, stage: str | None = None) -> str:
    """Where a task stands, in words: ``train, round 3``, in a job of several stages ``train, round 3 (dm)``."""
    return f"{task}, round {round} ({stage})" if stage else f"{task}, round {round}"


MAX_SQL_CHARS = 10240


class SqlReason(StrEnum):
    """Why a trust's data-access service does not run the SQL that was sent to it; nothing of the SQL itself."""

    TOO_LONG = f"it has more than {MAX_SQL_CHARS} characters"
    TOO_DEEP = "it is nested too deeply"
    UNREADABLE = "it cannot be read"
    CONTROL = "it holds control characters"
    SEVERAL = "only one statement may be sent"
    NO_SELECT = "only a SELECT may be sent"
    WRITES = "it may only read"
    CAST = "it casts to a type that is not allowed"
    FUNCTION = "it uses a function that is not allowed"
    OTHER = "it uses something that is not allowed"
    SCHEMA = "only tables of the schema omop may be named, with the schema"
    NUMBERS = "LIMIT, OFFSET and the sizes of types must be plain numbers"
    NO_TABLE = "it names a table that is not there"
    NO_COLUMN = "it names a column that is not there"
    NOT_TAKEN = "the database does not take it"
    SAME_NAMES = "two columns of the result have one name"


DEFAULT_X_LABEL = "Global Rounds"

# Fewer patients or examples than this are not counted out to anybody, unless a service's settings say otherwise.
MIN_COUNT = 10
# What stands in the place of such a count.
WITHHELD = "withheld"
# How many labels a site may tell the numbers of.
MAX_LABELS = 50
# How the text of a manifest begins in which a few studies are skipped: a site's row, and no failure.
SKIPPING = re.compile(r"[\d,]+ (study|studies), [\d,]+ skipped: ")
SERVER_NAME = "server"


@lru_cache(maxsize=4096)
def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts ``Trust_2`` before ``Trust_10``."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part)
