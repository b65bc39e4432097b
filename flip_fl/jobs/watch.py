"""The watchdog's loop: ask hub and engine, let ``decide`` judge, deliver or write, until the hub knows the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from flip_fl.dashboard.story import Story
from flip_fl.dashboard.words import state_words
from flip_fl.errors import FlipError
from flip_fl.jobs.decide import (
    EVERY_S,
    TIMEOUT_S,
    Action,
    Deliver,
    EngineRun,
    EngineRuns,
    EngineState,
    Finish,
    HubState,
    Limits,
    OutboxState,
    Refuse,
    Situation,
    Wait,
    Write,
    decide,
)
from flip_fl.jobs.hub_model import HubAway, HubModel
from flip_fl.reporting.session import OUTBOX_FOLDER, SyncState, sync
from flip_fl.settings import ServerSettings
from flip_fl.values import ModelStatus
from flip_fl.wire import StatusItem

SILENCE_S = 60.0
DELIVERY_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Watched:
    """How the run stands at the hub in the end. ``written``: this watchdog wrote that end; ``engine`` is the last word
    of the engine, None when it was not asked."""

    status: ModelStatus
    reason: str | None
    words: str
    engine: EngineRun | None
    written: bool
    note: str | None = None


def watch(
    settings: ServerSettings,
    model_id: UUID,
    runs: EngineRuns,
    run: str,
    *,
    limits: Limits | None = None,
    every_s: float = EVERY_S,
    timeout_s: float = TIMEOUT_S,
    tell: Callable[[str], None] = lambda _text: None,
) -> Watched:
    """Watch until the hub knows how ``run`` ended, telling it if nobody else does.

    ``tell`` gets a line when something changes, and one a minute. Raises ``FlipError``: E0541 (the engine knows no
    such run), E0543 (the engine cannot be asked), E0542 (not over within ``timeout_s``), and those of ``HubModel``.
    """
    hub = HubModel(settings, model_id)
    try:
        return _Watchdog(settings, hub, runs, run, limits or Limits(), tell).run(every_s, timeout_s)
    finally:
        hub.close()


class _Watchdog:
    def __init__(
        self,
        settings: ServerSettings,
        hub: HubModel,
        runs: EngineRuns,
        run: str,
        limits: Limits,
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._runs = runs
        self._run = run
        self._limits = limits
        self._news = _News(tell)
        self._engine_since = _Since()
        self._hub_since = _Since()
        self._engine: EngineRun | None = None
        self._known = False
        self._item: StatusItem | None = None
        self._written = False
        self._away = ""

    def run(self, every_s: float, timeout_s: float) -> Watched:
        deadline = time.monotonic() + timeout_s
        while True:
            action = self._step()
            if isinstance(action, Finish):
                story = self._story()
                if story is not None:
                    return self._watched(story, action.note)
                action = Wait("an answer of the hub")
            assert isinstance(action, Wait)
            left = deadline - time.monotonic()
            if left <= 0:
                raise FlipError("E0542", seconds=f"{timeout_s:.0f}", awaited=self._awaited(action))
            self._news.say(self._words(self._awaited(action)))
            time.sleep(min(every_s, left))

    def _step(self) -> Wait | Finish:
        """Look and act until there is nothing to do but to wait, or nothing at all."""
        outbox: OutboxState | None = None
        told = False
        while True:
            seen = self._look(outbox)
            action: Action = decide(seen, self._limits, self._runs)
            match action:
                case Wait() | Finish():
                    return action
                case Deliver():
                    outbox = self._deliver()
                case Write():
                    if told or not self._write(action):
                        return Wait("a hub that keeps the run's end" if told else "an answer of the hub")
                    told = True
                case Refuse():
                    raise self._refusal(action)

    def _look(self, outbox: OutboxState | None) -> Situation:
        hub = self._hub_state()
        if outbox is None and not (self._engine and self._engine.state.is_final):
            self._engine = self._runs.look(self._run)
            self._known = self._known or self._engine.state.is_known
        return Situation(
            engine=self._engine,
            hub=hub,
            outbox=outbox,
            engine_s=self._engine_since.seconds(_kind(self._engine)),
            hub_s=self._hub_since.seconds(hub),
            known=self._known,
        )

    def _hub_state(self) -> HubState | None:
        try:
            state = self._hub.state()
        except HubAway as away:
            self._away = str(away)
            return None
        self._away = ""
        return state

    def _story(self) -> Story | None:
        try:
            return self._hub.story()
        except HubAway as away:
            self._away = str(away)
            return None

    def _deliver(self) -> OutboxState:
        path = outbox_path(self._settings, self._hub.model_id)
        if path is None:
            return OutboxState.CLEAR
        (result,) = sync([path], self._settings, timeout_s=DELIVERY_TIMEOUT_S)
        if result.sent:
            self._news.say(f"delivered {result.sent} reports that the run had left in {path}")
        if result.state is SyncState.LIVE:
            return OutboxState.LIVE
        # A file that cannot be used will not be any better later: nothing is awaited of it.
        return OutboxState.CLEAR if result.ok or result.state is SyncState.UNUSABLE else OutboxState.LEFT

    def _write(self, end: Write) -> bool:
        """Write the end; False when the hub gave no answer, and then the very same report is sent next time."""
        if self._item is None or (self._item.status, self._item.reason) != (end.status, end.reason):
            self._item = StatusItem(at=datetime.now(UTC), status=end.status, reason=end.reason)
        try:
            self._written = self._hub.write(self._item)
        except HubAway as away:
            self._away = str(away)
            return False
        self._item = None
        self._news.say(f"told the hub: {state_words(end.status).word}: {end.reason}")
        return True

    def _refusal(self, action: Refuse) -> FlipError:
        if action.unknown:
            return FlipError("E0541", server=self._runs.server, run=self._run, connection=self._runs.connection)
        return FlipError("E0543", engine=self._runs.engine, problem=action.problem, connection=self._runs.connection)

    def _awaited(self, action: Wait) -> str:
        return f"{action.awaited} ({self._hub.address}: {self._away})" if self._away else action.awaited

    def _words(self, awaited: str) -> str:
        engine = f"{self._runs.engine}: {self._engine.state}" if self._engine else f"{self._runs.engine}: not asked"
        return f"{engine}; waiting for {awaited}"

    def _watched(self, story: Story, note: str | None) -> Watched:
        return Watched(story.status, story.reason, story.headline.text, self._engine, self._written, note)


def _kind(engine: EngineRun | None) -> object:
    """What must stay the same for time to count: whether nobody answers or somebody refuses makes no difference."""
    if engine is not None and engine.state is EngineState.REFUSED:
        return EngineState.UNREACHABLE
    return engine and engine.state


class _Since:
    """For how long something has been the same."""

    def __init__(self) -> None:
        self._what: object = None
        self._at = time.monotonic()

    def seconds(self, what: object) -> float:
        now = time.monotonic()
        if what != self._what:
            self._what, self._at = what, now
        return now - self._at


class _News:
    """Lines for people: each once, and one a minute while nothing changes."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._last = ""
        self._at = float("-inf")

    def say(self, text: str) -> None:
        now = time.monotonic()
        if text != self._last or now - self._at >= SILENCE_S:
            self._last, self._at = text, now
            self._tell(text)


def outbox_path(settings: ServerSettings, model_id: UUID) -> Path | None:
    """The run's outbox in this machine's ``FLIP_STATE_DIR``; None when there is none (any more)."""
    if settings.state_dir is None:
        return None
    path = settings.state_dir / OUTBOX_FOLDER / f"{model_id}.sqlite"
    return path if path.is_file() else None
