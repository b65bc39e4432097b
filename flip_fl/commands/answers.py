"""What commands answer under ``--json``: one frozen dataclass each, whose JSON schema is kept in ``schemas/``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal
from uuid import UUID

from flip_fl.commands.app_answers import AppMade, CheckAnswer
from flip_fl.commands.job_answers import JobAborted, JobLogs, Jobs, JobSubmitted, JobWatched

CheckState = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Explanation:
    """One entry of the catalogue; facts that differ each time stand in angle brackets."""

    code: str
    what: str
    why: str | None
    fix: str | None
    explain: str | None
    exit_code: int
    retryable: bool


@dataclass(frozen=True)
class Explained:
    """``flip-fl explain``."""

    SCHEMA: ClassVar[str] = "flip-fl.explain/1"
    errors: list[Explanation]


@dataclass(frozen=True)
class Measurement:
    """What one site measured in one round; a value that was not finite is null. ``model``: the one it is about, in an
    evaluation.
    """

    slot: str
    trust: str
    round: int
    metrics: dict[str, float | None]
    model: str | None = None


@dataclass(frozen=True)
class Baseline:
    """One model scored on one site's held-out patients."""

    model: str
    scored_on: str
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class PrivatePoint:
    """The run again with noise: the epsilon that was asked for and the one that was spent, and the last round's scores
    as means over the sites. ``asked`` null: without noise.
    """

    asked: float | None
    spent: float | None
    metrics: dict[str, float | None]
    problem: str | None = None


@dataclass(frozen=True)
class Skipped:
    """What a site said of studies that it could not use: how many and why, never which."""

    slot: str
    trust: str
    text: str


@dataclass(frozen=True)
class RunAnswer:
    """``flip-fl run``."""

    SCHEMA: ClassVar[str] = "flip-fl.run/1"
    model_id: str
    status: str
    words: str
    reason: str | None
    folder: Path
    report: Path
    results: str | None
    sha256: str | None
    pictures: str | None = None
    rounds: list[Measurement] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    privacy: list[PrivatePoint] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One thing that ``flip-fl doctor`` looked at."""

    name: str
    state: CheckState
    what: str
    why: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class Setting:
    """One setting: where its value comes from and what that value overrides. Keys are shown as fingerprints."""

    name: str
    value: str | None
    source: str
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OutboxRow:
    """One outbox, of a live run or a dead one, as it is on disk. Ages in seconds, times in UTC.

    ``state``: ok, missing or unreadable. ``sending``: a live process sends from it. ``waiting`` counts what the hub
    does not have yet, by lane (status, failure, event, metric). ``losses`` are all that were ever counted, by reason,
    ``unreported`` those that the hub has not heard of; ``refused`` is what was set aside, by the hub's code.
    """

    path: Path
    state: str
    sending: bool
    waiting: dict[str, int]
    size_bytes: int
    oldest_age_s: float | None
    last_ack: datetime | None
    last_error: str | None
    last_error_at: datetime | None
    paused: str | None
    losses: dict[str, int]
    unreported: int
    refused: dict[str, int]


@dataclass(frozen=True)
class DoctorAnswer:
    """``flip-fl doctor``."""

    SCHEMA: ClassVar[str] = "flip-fl.doctor/1"
    checks: list[Check]
    settings: list[Setting]
    outboxes: list[OutboxRow] = field(default_factory=list)


@dataclass(frozen=True)
class HubMade:
    """``flip-fl hub init``. ``service_key`` is null unless it was made just now: it is shown once."""

    SCHEMA: ClassVar[str] = "flip-fl.hub-init/1"
    database: str
    settings: Path
    created: bool
    service_key: str | None


@dataclass(frozen=True)
class TokenRow:
    """A login token without its secret. ``projects`` null: all of them. ``state``: valid, expired or revoked."""

    id: str
    name: str
    role: str
    projects: list[str] | None
    created_at: datetime
    ends_at: datetime
    state: str


@dataclass(frozen=True)
class Tokens:
    """``flip-fl hub token …``. ``token`` is there when it was made just now: it is shown once."""

    SCHEMA: ClassVar[str] = "flip-fl.tokens/1"
    tokens: list[TokenRow]
    token: str | None = None


@dataclass(frozen=True)
class KeyRow:
    """A service key by the first 12 digits of its SHA-256. ``source``: settings or database."""

    sha256: str
    source: str
    created_at: datetime | None
    ends_at: datetime | None
    valid: bool


@dataclass(frozen=True)
class Keys:
    """``flip-fl hub key …``. ``key`` is there when it was made just now: it is shown once."""

    SCHEMA: ClassVar[str] = "flip-fl.keys/1"
    keys: list[KeyRow]
    key: str | None = None


@dataclass(frozen=True)
class AuditRow:
    """One change: who (and how the hub knows), when, what, and of which thing."""

    id: int
    at: datetime
    actor: str
    actor_kind: str
    action: str
    subject: str
    details: dict[str, Any]


@dataclass(frozen=True)
class Audit:
    """``flip-fl hub audit list``."""

    SCHEMA: ClassVar[str] = "flip-fl.audit/1"
    rows: list[AuditRow]


@dataclass(frozen=True)
class ProjectRow:
    """A research project."""

    id: UUID
    name: str


@dataclass(frozen=True)
class Projects:
    """``flip-fl hub project add|list``."""

    SCHEMA: ClassVar[str] = "flip-fl.projects/1"
    projects: list[ProjectRow]


@dataclass(frozen=True)
class TrustRow:
    """A trust and the slot it holds."""

    id: UUID
    name: str
    code: str | None
    slot: str | None


@dataclass(frozen=True)
class Trusts:
    """``flip-fl hub trust add|list``."""

    SCHEMA: ClassVar[str] = "flip-fl.trusts/1"
    trusts: list[TrustRow]


@dataclass(frozen=True)
class SlotRow:
    """A kit slot and the trust that holds it."""

    slot: str
    number: int
    trust: str | None
    assigned_at: datetime | None
    retired: bool


@dataclass(frozen=True)
class Slots:
    """``flip-fl hub slot seed|assign|release|list``."""

    SCHEMA: ClassVar[str] = "flip-fl.slots/1"
    slots: list[SlotRow]


@dataclass(frozen=True)
class ModelRow:
    """A model and the trusts that take part. ``unreachable_since``: its FL server should report and does not."""

    id: UUID
    name: str
    project: str
    status: str
    trusts: list[str]
    unreachable_since: datetime | None = None


@dataclass(frozen=True)
class Models:
    """``flip-fl hub model add|delete|list``."""

    SCHEMA: ClassVar[str] = "flip-fl.models/1"
    models: list[ModelRow]


@dataclass(frozen=True)
class SilentRow:
    """A run that should report and does not. ``due``: it was (under ``--dry-run``: would be) ended as failed."""

    id: UUID
    name: str
    status: str
    since: datetime
    due: bool


@dataclass(frozen=True)
class HubSwept:
    """``flip-fl hub sweep``. ``error_after_s`` is null when no rule is set."""

    SCHEMA: ClassVar[str] = "flip-fl.hub-sweep/1"
    error_after_s: float | None
    dry_run: bool
    silent: list[SilentRow]


@dataclass(frozen=True)
class HubKept:
    """``flip-fl hub backup|restore|copy``: where it is now, and how many rows of each table were counted there."""

    SCHEMA: ClassVar[str] = "flip-fl.hub-kept/1"
    place: Path
    rows: dict[str, int]


@dataclass(frozen=True)
class PrunedRow:
    """A run that ended then; so many rows about it were (under ``--dry-run``: would be) removed."""

    id: UUID
    name: str
    ended_at: datetime
    rows: int


@dataclass(frozen=True)
class HubPruned:
    """``flip-fl hub prune``."""

    SCHEMA: ClassVar[str] = "flip-fl.hub-pruned/1"
    older_than_days: int
    dry_run: bool
    runs: list[PrunedRow]


@dataclass(frozen=True)
class Synced:
    """One outbox after ``flip-fl sync``: how many records went and how many stay, and why."""

    path: Path
    state: str
    sent: int
    left: int
    problem: str | None


@dataclass(frozen=True)
class SyncAnswer:
    """``flip-fl sync``."""

    SCHEMA: ClassVar[str] = "flip-fl.sync/1"
    outboxes: list[Synced]


@dataclass(frozen=True)
class ResultsAnswer:
    """``flip-fl results get``. ``present`` is true when the very file was there already."""

    SCHEMA: ClassVar[str] = "flip-fl.results-get/1"
    model_id: str
    path: Path
    sha256: str
    size_bytes: int
    present: bool


@dataclass(frozen=True)
class ScoreAgain:
    """One metric of the global model at a site, as the run recorded it and as the bundle's model gives it."""

    slot: str
    metric: str
    recorded: float
    reproduced: float


@dataclass(frozen=True)
class VerifyAnswer:
    """``flip-fl results verify``. ``scores`` is empty where there was no data to score the model on."""

    SCHEMA: ClassVar[str] = "flip-fl.results-verify/1"
    bundle: Path
    sha256: str
    files: int
    left_out: list[str]
    models: list[str]
    model_id: str | None
    global_round: int | None
    scores: list[ScoreAgain]


@dataclass(frozen=True)
class ExportAnswer:
    """``flip-fl results export``. ``inputs`` were compared, in batches of these sizes."""

    SCHEMA: ClassVar[str] = "flip-fl.results-export/1"
    bundle: Path
    path: Path
    format: str
    model: str
    sha256: str
    size_bytes: int
    inputs: int
    batches: list[int]
    max_difference: float
    tolerance: float


@dataclass(frozen=True)
class KitRow:
    """A kit that was made: whose, and its certificate's fingerprint (SHA-256) and last day."""

    name: str
    role: Literal["server", "admin", "site"]
    path: Path
    sha256: str
    valid_to: datetime


@dataclass(frozen=True)
class Provisioned:
    """``flip-fl provision``. ``kits`` are the new ones; ``replaced`` is where the old ones lie, if any were."""

    SCHEMA: ClassVar[str] = "flip-fl.provision/1"
    net: str
    engine: str
    host: str
    port: int
    slots: int
    folder: Path
    kits: list[KitRow]
    replaced: Path | None


@dataclass(frozen=True)
class KitVerified:
    """``flip-fl kit verify``. ``host`` is the one that the certificate was compared with."""

    SCHEMA: ClassVar[str] = "flip-fl.kit-verify/1"
    kit: Path
    name: str
    role: Literal["server", "admin", "site"]
    net: str
    host: str | None
    checks: list[Check]


@dataclass(frozen=True)
class KitRenewed:
    """``flip-fl kit renew``. ``certificate`` goes to the kit's holder; ``to_copy``: where in the server's kit, too."""

    SCHEMA: ClassVar[str] = "flip-fl.kit-renew/1"
    name: str
    valid_to: datetime
    certificate: Path
    written: list[Path]
    to_copy: str | None


@dataclass(frozen=True)
class KitRevoked:
    """``flip-fl kit revoke``. ``since`` is null under ``--dry-run``; ``to_remove`` is what whoever runs the server must
    still remove from its kit, null when nothing is left to do."""

    SCHEMA: ClassVar[str] = "flip-fl.kit-revoked/1"
    slot: str
    since: datetime | None
    already: bool
    to_remove: str | None


@dataclass(frozen=True)
class TrustMade:
    """``flip-fl trust init``. ``client`` are the settings of an FL client of this trust."""

    SCHEMA: ClassVar[str] = "flip-fl.trust-init/1"
    settings: Path
    client: Path
    database: str
    archive: Path
    images: Path
    created: bool


@dataclass(frozen=True)
class TrustLoaded:
    """``flip-fl trust load``; null for what was not asked for. ``missing_studies``: of the cohort, not among the
    images."""

    SCHEMA: ClassVar[str] = "flip-fl.trust-load/1"
    database: str
    archive: Path
    rows: int | None
    persons: int | None
    studies: int | None
    missing_studies: int | None
    project: str | None
    approved_rows: int | None


@dataclass(frozen=True)
class TrustEnvelope:
    """``flip-fl trust envelope``. ``project_id`` is what jobs carry; another one each time, all of them good."""

    SCHEMA: ClassVar[str] = "flip-fl.trust-envelope/1"
    project: str
    project_id: str


@dataclass(frozen=True)
class PrivacySpent:
    """What one project has spent at a site: ``epsilon`` over ``rounds`` updates; ``left`` of the budget, if any.

    ``project`` is the id that its jobs carry; ``first`` and ``last`` are times in UTC.
    """

    project: str
    rounds: int
    jobs: int
    cohorts: int
    epsilon: float
    left: float | None
    first: str
    last: str


@dataclass(frozen=True)
class PrivacyStatus:
    """``flip-fl privacy status``. Every epsilon is at ``delta``; ``budget`` is the policy's, null without one."""

    SCHEMA: ClassVar[str] = "flip-fl.privacy-status/1"
    account: Path | None
    delta: float
    budget: float | None
    projects: list[PrivacySpent]


@dataclass(frozen=True)
class ErrorEnvelope:
    """What every command answers instead when it fails; ``data`` only where something was found out all the same."""

    SCHEMA: ClassVar[str] = "flip-fl.error/1"
    schema: str
    status: Literal["error"]
    exit_code: int
    code: str
    message: str
    where: str | None
    why: str | None
    fix: str | None
    docs: str
    retryable: bool


ANSWERS: tuple[Any, ...] = (
    Explained,
    RunAnswer,
    DoctorAnswer,
    HubMade,
    Tokens,
    Keys,
    Audit,
    Projects,
    Trusts,
    Slots,
    Models,
    HubSwept,
    HubKept,
    HubPruned,
    SyncAnswer,
    ResultsAnswer,
    VerifyAnswer,
    ExportAnswer,
    Provisioned,
    KitVerified,
    KitRevoked,
    KitRenewed,
    JobWatched,
    JobSubmitted,
    Jobs,
    JobAborted,
    JobLogs,
    PrivacyStatus,
    TrustLoaded,
    TrustEnvelope,
    CheckAnswer,
    AppMade,
)
