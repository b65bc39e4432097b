"""The one document that the page and the report are drawn from (``story.json``).

The hub builds it from its tables, the simulator adds the baselines, the page draws it. Times are ISO 8601 in UTC (one
without a zone is taken as UTC); a number that is not finite becomes None, because JSON has no spelling for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    computed_field,
    model_validator,
)

from flip_fl.dashboard import words
from flip_fl.values import ModelStatus, Task

FL_SERVER = "FL server"
SCHEMA: Literal["flip-fl.story/1"] = "flip-fl.story/1"

CellState = Literal["returned", "late", "failed", "missed", "not_asked"]


def _in_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _finite_or_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


UtcTime = Annotated[datetime, AfterValidator(_in_utc)]
# Longer than any picture of 64 by 64 pixels in three colours.
Picture = Annotated[str, Field(pattern=r"^data:image/png;base64,[A-Za-z0-9+/]+=*$", max_length=20_000)]
Count = Annotated[int, Field(ge=0)] | Literal["withheld"]
Measured = Annotated[float | None, BeforeValidator(_finite_or_none)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)


class StoryModel(_Part):
    """Which run this is. ``facts`` are short details worth showing: engine, job type, seed, and the like.

    ``settings`` are those of its configuration, as its FL server told them.
    """

    id: str
    name: str
    description: str = ""
    project: str = ""
    facts: Mapping[str, str] = {}
    settings: Mapping[str, str] = Field(default_factory=dict)


class Transition(_Part):
    """One status change, or a late one that was ignored (``applied`` false)."""

    at: UtcTime
    previous: ModelStatus | None
    status: ModelStatus
    by: str
    reason: str | None = None
    applied: bool = True


class StorySite(_Part):
    """A participating slot, in natural order, and the trust that holds it."""

    slot: str
    trust: str
    code: str | None = None
    last_seen: UtcTime | None = None


class Cell(_Part):
    """What one site did in one round. ``size_bytes`` is the result's size, ``seconds`` since the round began.

    ``worked`` are the seconds from asking the site to its answer: work at the site and both ways. ``computed`` are
    those of the work alone, as the site says.
    """

    slot: str
    state: CellState
    at: UtcTime | None = None
    size_bytes: int | None = None
    seconds: float | None = None
    worked: float | None = None
    computed: float | None = None


class SiteUpdate(_Part):
    """What one site contributed to a round, as far as its FL server told it.

    ``norm`` is the L2 norm of its update, ``cosine`` that of the angle to the mean of all updates. ``examples`` is the
    number behind it, or "withheld" where that is small. ``labels``: how often each label is among them, likewise.
    """

    slot: str
    norm: Annotated[FiniteFloat, Field(ge=0)] | None = None
    cosine: Annotated[FiniteFloat, Field(ge=-1, le=1)] | None = None
    examples: Count | None = None
    labels: dict[str, Count] = Field(default_factory=dict)


class StoryRound(_Part):
    """One round; its cells always add up to the participating sites.

    ``stage`` is the job's, or the model that was evaluated; ``task`` what the sites did where that is not training;
    ``scored`` the slots that have measured the round's new model. ``updates`` are compared with their mean, ``mean``
    says how that was weighed: ``plain`` is every site alike. ``attempt`` is above 1 in a round that was started
    again, because its server was lost or the run was queued anew.
    """

    number: int
    stage: str | None = None
    task: str | None = None
    attempt: int = 1
    started_at: UtcTime | None = None
    aggregated_at: UtcTime | None = None
    returned: int | None = None
    expected: int | None = None
    cells: list[Cell] = []
    scored: list[str] = []
    updates: list[SiteUpdate] = []
    mean: Literal["weighted", "plain"] = "weighted"


class Point(_Part):
    """One measured value; ``y`` is None where a value was refused as not finite. Read from ``[x, y, round]``, too."""

    x: FiniteFloat
    y: Measured
    round: int

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, data: object) -> object:
        return dict(zip(("x", "y", "round"), data, strict=True)) if isinstance(data, list) else data


class Series(_Part):
    """One site's points in stable x order; ``name`` is what people read.

    Where not all points are shown ``total`` is how many there are, and ``breaks`` are the positions of those before
    which the line is cut. Of a part of the axis ``before`` and ``after`` are how many lie beyond its points.
    ``earlier`` are points of rounds that were started again and measured again: they are shown, and count no more.
    """

    slot: str
    name: str
    points: list[Point]
    total: int | None = None
    breaks: list[int] = Field(default_factory=list)
    before: int = 0
    after: int = 0
    earlier: list[Point] = Field(default_factory=list)


class Plot(_Part):
    """One metric on one axis: identified by (label, x_label)."""

    label: str
    x_label: str
    series: list[Series]


class FeedRow(_Part):
    """One line of the activity feed, worded by the hub.

    ``kind``: status, round, result, aggregated, log, failure, event.
    """

    id: int
    at: UtcTime
    kind: str
    text: str
    success: bool = True
    slot: str | None = None
    round: int | None = None


class Failure(_Part):
    """Equal failures of several sites are one entry; ``detail`` is the full text, values removed at the site."""

    at: UtcTime
    headline: str
    detail: str
    slots: list[str]
    round: int | None = None
    task: str | None = None


class StoredResults(_Part):
    """Where the bundle lies and what it is."""

    address: str
    at: UtcTime
    size_bytes: int | None = None
    sha256: str | None = None


class Silence(_Part):
    """The FL server has not been heard of ``since`` then; ``ends_at`` is when the hub's rule ends the run."""

    since: UtcTime
    ends_at: UtcTime | None = None


class Awaited(_Part):
    """For whom the run waits before its first round: ``needs`` sites in all, and ``until`` then.

    ``awaited`` is empty where whoever comes may take part.
    """

    there: list[str]
    awaited: list[str]
    needs: int
    until: UtcTime | None = None


class Loss(_Part):
    """Reports that never reached the hub, as whoever counted them says it; ``slot`` is the site's that made them."""

    at: UtcTime
    text: str
    slot: str | None = None
    round: int | None = None


class Skew(_Part):
    """By how many seconds the clock of ``slot`` (None: the FL server's) is ahead of the hub's; below 0 it is behind.

    It is at least so much. Where it is not ``proven`` it is behind, and at most so much: what came late may have been
    held up.
    """

    slot: str | None
    seconds: FiniteFloat
    proven: bool = True


class BaselineRow(_Part):
    """One model as the app's ``validate`` scores it at one site: the global, a site's own, or the central one."""

    model: str
    scored_on: str
    metrics: Mapping[str, Measured]


class PrivacyPoint(_Part):
    """A whole run with noise for the ε that was ``asked``: what its sites' accounts say is ``spent``, and its scores.

    ``metrics`` are means over the sites; ``folder`` lies below that of the run. ``problem``: why it has none.
    """

    asked: FiniteFloat
    spent: FiniteFloat | None = None
    metrics: Mapping[str, Measured] = {}
    folder: str = ""
    problem: str | None = None


class PrivacyCurve(_Part):
    """The same run under differential privacy, a point for each ε; ``without`` are the scores without noise."""

    delta: FiniteFloat
    clipping_norm: FiniteFloat
    rounds: int
    without: Mapping[str, Measured] = {}
    points: list[PrivacyPoint] = []


class Samples(_Part):
    """Pictures that the uploaded model made, each a small PNG; ``problem`` says why there are none.

    ``width`` and ``height`` are in pixels, the same for all.
    """

    width: Annotated[int, Field(ge=0, le=64)] = 0
    height: Annotated[int, Field(ge=0, le=64)] = 0
    pictures: Annotated[list[Picture], Field(max_length=64)] = []
    problem: str | None = None


class Headline(_Part):
    """The state in words (see ``words``), as command line and page show it.

    ``hint`` stands beside the state, never instead of it; ``text`` ends with it.
    """

    word: str
    detail: str
    text: str
    tone: words.Tone
    hint: str = ""


class Story(_Part):
    """Everything that can be told about a run.

    ``cursor`` is the place in the hub's rows up to which it is told: what comes later can be asked for by it.
    ``queue_position`` is there while the run waits for its turn, ``awaited`` while it waits for its sites,
    ``feed_more`` when the feed has older lines still, and ``partial`` is told of a big run at once: rounds, activity
    and failures are not in it.
    """

    schema_: Literal["flip-fl.story/1"] = Field(SCHEMA, alias="schema")
    generated_at: UtcTime
    model: StoryModel
    status: ModelStatus
    reason: str | None = None
    total_rounds: int | None = None
    history: list[Transition] = []
    sites: list[StorySite] = []
    rounds: list[StoryRound] = []
    plots: list[Plot] = []
    feed: list[FeedRow] = []
    failures: list[Failure] = []
    results: StoredResults | None = None
    baselines: list[BaselineRow] = []
    samples: Samples | None = None
    privacy: PrivacyCurve | None = None
    unreachable: Silence | None = None
    awaited: Awaited | None = None
    losses: list[Loss] = []
    skews: list[Skew] = []
    cursor: str | None = None
    queue_position: int | None = None
    feed_more: bool = False
    partial: bool = False

    @computed_field  # type: ignore[prop-decorator]
    @property
    def headline(self) -> Headline:
        """The run's state in words: what happened, in which round, who or what caused it."""
        state = words.state_words(
            self.status,
            round_number=self.last_round,
            total_rounds=self.total_rounds,
            stage=self.last_stage,
            by=self._stopped_by(),
            cause=self._cause(),
            queue_position=self.queue_position,
            evaluating=self._evaluating(),
        )
        if self.unreachable is None:
            return Headline(word=state.word, detail=state.detail, text=state.text, tone=state.tone)
        hint = words.silence(self.unreachable.since, self.generated_at, ends_at=self.unreachable.ends_at)
        text = f"{state.text} - {hint[0].lower()}{hint[1:]}"
        return Headline(word=state.word, detail=state.detail, text=text, tone="warn", hint=hint)

    @property
    def last_round(self) -> int | None:
        """The number of the last round that began; None before the first."""
        return max((r.number for r in self.rounds), default=None)

    @property
    def last_stage(self) -> str | None:
        """The stage of the last round that began; None in a job of one."""
        return next((r.stage for r in self.rounds if r.number == self.last_round), None)

    @property
    def evaluates(self) -> bool:
        """Whether the sites score models and train none: each round is one of the models."""
        return bool(self.rounds) and all(each.task == Task.EVALUATE for each in self.rounds)

    def _evaluating(self) -> tuple[int, int] | None:
        if not self.evaluates:
            return None
        cells = self.rounds[-1].cells
        return sum(cell.state == "returned" for cell in cells), len(cells)

    def _stopped_by(self) -> str | None:
        stops = [t.by for t in self.history if t.applied and t.status is ModelStatus.STOPPED]
        # An FL server only passes on what a person has asked for somewhere else: the reason says who.
        return stops[-1] if stops and stops[-1] != FL_SERVER else None

    def _cause(self) -> str | None:
        if self.status is not ModelStatus.ERROR:
            return None
        if not self.failures:
            return self.reason
        newest = max(f.round or 0 for f in self.failures)
        candidates = [f for f in self.failures if (f.round or 0) == newest]
        # the cause that most sites share explains the run better than the one that came first
        shared = max(candidates, key=lambda f: len(f.slots))
        who = words.site_list(shared.slots, len(self.sites))
        return f"{who}: {shared.headline}" if who else shared.headline
