"""The run's state machine, the same for every engine: what is reported when, and how the run ended."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from flip_fl.privacy.counts import CountPolicy
from flip_fl.reporting.forking import watch_forks
from flip_fl.reporting.reporter import Reporter
from flip_fl.reporting.site_clocks import Ahead
from flip_fl.values import EventType, ModelStatus
from flip_fl.wire import SiteFacts

NO_CAUSE = "the run ended without results and without a reason"

_ORDER = (ModelStatus.PENDING, ModelStatus.INITIATED, ModelStatus.PREPARED, ModelStatus.RUNNING)


class Lifecycle:
    """Turns what an engine sees into statuses and events. Safe for several threads; every call may be repeated.

    Statuses never go backwards. The first terminal cause in time decides the end: a failure, a stop, a failed upload,
    or a finished one. Later causes are appended to its reason; what is told after ``finish`` is a row beside it.
    Rounds are 1-based. ``stage`` tells the rounds of a job's stages apart. ``task`` is what the sites do in them where
    that is not training. ``counts`` is which of the sites' numbers of examples may be told.
    """

    def __init__(self, reporter: Reporter, counts: CountPolicy | None = None) -> None:
        self.counts = counts or CountPolicy()
        self._reporter = reporter
        self._lock = threading.RLock()
        self._status = ModelStatus.PENDING
        self._told: set[tuple[object, ...]] = set()
        self._causes: list[tuple[ModelStatus, str]] = []
        self._final: ModelStatus | None = None
        self.task: str | None = None
        watch_forks(self)

    @property
    def status(self) -> ModelStatus:
        """The status that was reported last; PENDING before the first."""
        return self._final or self._status

    @property
    def cause(self) -> ModelStatus | None:
        """How the run is going to end, if that is decided."""
        return self._causes[0][0] if self._causes else None

    @property
    def reason(self) -> str | None:
        """The causes of the end so far, the first one first; None while nothing is decided and after plain success."""
        return self._reason() if self._causes else None

    def initiated(self) -> None:
        """The run has started."""
        self._advance(ModelStatus.INITIATED)

    def configured(self, settings: Mapping[str, str]) -> None:
        """With which settings the run goes; said once, at its start."""
        # The event needs a round, and they are those of the first as well.
        self._event(EventType.RUN_CONFIGURED, None, 1, {"settings": dict(settings)}, None)

    def prepared(self) -> None:
        """The initial model is there, and the quorum too."""
        self._advance(ModelStatus.PREPARED)

    def resumed(self, number: int) -> None:
        """A run whose server process was lost goes on after round ``number``: what was reported before, stands."""
        with self._lock:
            if self._status is ModelStatus.PENDING:
                self._status = ModelStatus.PREPARED
                self._reporter.log(f"the run goes on after round {number}: its server process was lost", success=True)

    def round_started(self, number: int, total: int, *, stage: str | None = None) -> None:
        """A round has begun; the first one is also RUNNING. After a terminal cause no round is reported any more."""
        with self._lock:
            if self._causes:
                return
            self._advance(ModelStatus.RUNNING)
            self._event(EventType.ROUND_STARTED, None, number, {"total_rounds": total}, stage)

    def client_result(
        self,
        slot: str,
        number: int,
        size_bytes: int | None,
        *,
        seconds: float | None = None,
        stage: str | None = None,
        facts: SiteFacts | None = None,
        clock: Ahead | None = None,
    ) -> None:
        """The result of ``slot`` in a round has come, ``seconds`` after it was asked for; only the first one counts.

        ``size_bytes`` is the size of its weights; None where it has none. ``facts`` is what the site says of its work,
        ``clock`` how far its clock is ahead of this server's.
        """
        details: dict[str, object] = {} if size_bytes is None else {"size_bytes": size_bytes}
        if seconds is not None:
            details["seconds"] = round(seconds, 3)
        if facts is not None and facts.seconds is not None:
            details["computed"] = round(facts.seconds, 3)
        if facts is not None and (labels := self.counts.labels(facts.labels)):
            details["labels"] = labels
        if clock is not None and clock != Ahead():
            details["clock"] = clock.facts
        self._event(EventType.CLIENT_RESULT_RECEIVED, slot, number, details, stage)

    def aggregated(self, number: int, returned: int, expected: int, *, stage: str | None = None) -> None:
        """The results of ``returned`` of ``expected`` sites are the round's new global model."""
        self._event(EventType.ROUND_AGGREGATED, None, number, {"returned": returned, "expected": expected}, stage)

    def compared(self, number: int, parts: Sequence[Mapping[str, object]], *, stage: str | None = None) -> None:
        """How the sites' updates of a round differ, as ``aggregate.comparison`` says it: each part an event."""
        for place, details in enumerate(parts):
            self._event(EventType.UPDATES_COMPARED, None, number, dict(details), stage, place)

    def fail(self, reason: str) -> None:
        """The run cannot succeed any more."""
        self._ends(ModelStatus.ERROR, reason)

    def stop(self, reason: str) -> None:
        """Somebody stops the run."""
        self._ends(ModelStatus.STOPPED, reason)

    def upload_failed(self, reason: str) -> None:
        """There is a model, but its results could not be stored."""
        self._ends(ModelStatus.RESULTS_UPLOAD_FAILED, reason)

    def uploaded(self, address: str, sha256: str, size_bytes: int, global_round: int) -> None:
        """The verified results are stored at ``address``; said once, and without another cause this is success."""
        details: dict[str, object] = {"address": address, "sha256": sha256, "size_bytes": size_bytes}
        with self._lock:
            # The event needs a round; an evaluation, which has none, tells its results with the first.
            self._event(EventType.RESULTS_STORED, None, max(1, global_round), details, None)
            if not any(status is ModelStatus.RESULTS_UPLOADED for status, _ in self._causes):
                self._ends(ModelStatus.RESULTS_UPLOADED, "")

    def finish(self) -> ModelStatus:
        """Report how the run ended, once, and return it. A run with neither a cause nor an upload is ERROR."""
        with self._lock:
            if self._final is None:
                if not self._causes:
                    self._ends(ModelStatus.ERROR, NO_CAUSE)
                self._final = self._causes[0][0]
                self._reporter.status(self._final, self._reason())
            return self._final

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._lock = threading.RLock()
        else:
            self._lock.release()

    def _advance(self, status: ModelStatus) -> None:
        with self._lock:
            if self._causes or self._final or _ORDER.index(status) <= _ORDER.index(self._status):
                return
            self._status = status
            self._reporter.status(status)

    def _event(
        self,
        event_type: EventType,
        slot: str | None,
        number: int,
        details: dict[str, object],
        stage: str | None,
        part: int = 0,
    ) -> None:
        with self._lock:
            key = (event_type, slot, number, stage, part)
            if self._final or key in self._told:
                return
            self._told.add(key)
            facts = dict(details)
            if stage is not None:
                facts["stage"] = stage
            if self.task is not None and event_type is not EventType.RESULTS_STORED:
                facts["task"] = self.task
            self._reporter.event(event_type, client=slot, global_round=number, details=facts)

    def _ends(self, status: ModelStatus, reason: str) -> None:
        with self._lock:
            if (status, reason) in self._causes:
                return
            self._causes.append((status, reason))
            if self._final is not None:
                self._reporter.log(f"after the end: {reason or status.value}", success=status.is_success)
            else:
                # Kept at once: whoever kills this process before `finish` does not take the reason along.
                self._reporter.cause(self._causes[0][0], self._reason() or "")

    def _reason(self) -> str | None:
        first, *later = [reason or "the results were stored" for _, reason in self._causes]
        if self._causes[0][0] is ModelStatus.RESULTS_UPLOADED and not later:
            return None
        return "; then: ".join([first, *later])
