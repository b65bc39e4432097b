"""What engine code calls to report something: it is kept on disk when the call returns, and sent by others."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flip_fl import wire
from flip_fl.reporting.gaps import Missing
from flip_fl.reporting.losses import LossReason
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.plain import Heads, event_record, plain_records
from flip_fl.reporting.records import Record, in_fewer_rows, metric_records, record_of
from flip_fl.values import ModelStatus

logger = logging.getLogger("flip_fl.reporting")

# A metric that is not finite is one row a round; of rounds and metrics beyond this number they are counted only.
MAX_NOT_FINITE_ROWS = 1_000

_METRICS = TypeAdapter(list[wire.MetricItem])
# What bad input makes pydantic and arithmetic raise: a whole number of 400 digits is no float.
_BAD_INPUT = (ValidationError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)


class Reporter:
    """Appends to an outbox. Never raises, never waits for the network; safe for several threads.

    Every method returns True once the report is on disk. A report that cannot be made is counted, never raised: an
    engine's event handler must not fail because of what it reports.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._not_finite: dict[tuple[object, ...], object] = {}
        # Per thread, so that one thread's batch does not hold back what another one reports.
        self._batch = threading.local()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What this thread reports inside goes to disk at the end of the block, in one append, also after an error.

        For many reports at once: a transaction costs more than ten reports. Inside, True means kept in memory.
        """
        if getattr(self._batch, "records", None) is not None:
            yield
            return
        self._batch.records = []
        try:
            yield
        finally:
            records, self._batch.records = self._batch.records, None
            if records:
                self._keep(in_fewer_rows(records))

    def status(self, status: ModelStatus, reason: str | None = None) -> bool:
        """A change of the model's status; a reason becomes a row of its own at the hub."""
        return self._append(lambda: [wire.StatusItem(at=_now(), status=status, reason=reason)])

    def items(self, items: Sequence[wire.Item]) -> bool:
        """Reports that were made elsewhere; their ids are kept, so that a copy of them is no second report."""
        return self._append(lambda: items)

    def from_site(self, client: str, raw: Iterable[Mapping[str, Any]], *, once: bool = False) -> bool:
        """Metrics and rows as a site sent them (``wire.MetricItem``, ``wire.LogItem`` as JSON types).

        ``once``: no copy of them can come by another way, so that many may share a row of the outbox.
        ``client`` is the authenticated peer's slot and replaces whatever the site wrote. A number that is not finite
        becomes a failure row. Anything else a site may not report: it is counted, and one row says how many.
        """
        raw = list(raw) if isinstance(raw, Iterable) else [raw]
        items: list[wire.Item] = []
        refused = 0
        try:
            # Nearly always a site sends sound metrics only, and all of them at once are read faster.
            metrics = _METRICS.validate_python([_metric_of(client, facts) for facts in raw])
            if once:
                return self._gathered(lambda: metric_records(metrics), len(metrics))
            items += metrics
        except _BAD_INPUT:
            for facts in raw:
                try:
                    items += self._site_item(client, facts)
                except _BAD_INPUT:
                    refused += 1
        if refused:
            logger.warning("%s sent %d reports that are none", client, refused)
            self._lost(LossReason.INVALID, refused)
            text = f"reporting: {refused} reports of this site were not valid and were not stored"
            self.failure(client, text)
        return self.items(items)

    def plain(self, client: str, global_round: int, task: str | None, heads: Heads, values: Sequence[float]) -> bool:
        """The numbers ``values`` that ``client`` measured; ``heads`` are those of ``plain.heads_of``."""
        return self._gathered(
            lambda: plain_records(client, global_round, task, _now(), heads, values), count=len(values)
        )

    def refused(self, client: str, count: int, reason: str, global_round: int | None = None) -> bool:
        """``count`` reports of a site were not taken at all, and why: counted, and one row says so."""
        self._lost(LossReason.INVALID, count)
        text = f"reporting: {count} reports of {client} were refused: {reason}"
        return self.failure(client, text, global_round or None)

    def missing(self, missing: Missing) -> bool:
        """Reports that a site made and that never came: counted, and one row says so."""
        self._lost(LossReason.MISSING, missing.count)
        return self.failure(missing.slot, f"reporting: {missing.words}", missing.round or None)

    def metric(
        self,
        client: str,
        label: str,
        value: float,
        global_round: int,
        x_value: float | None = None,
        x_label: str | None = None,
        task: str | None = None,
        stage: str | None = None,
    ) -> bool:
        """One number that ``client`` measured in ``global_round`` (1-based; 0: outside any round).

        A value that is not finite becomes a failure row naming metric and round, once.
        """
        return self._append(
            lambda: self._metric(
                {
                    "at": _now(),
                    "client": client,
                    "label": label,
                    "result": float(value),
                    "global_round": int(global_round),
                    "x_value": None if x_value is None else float(x_value),
                    "x_label": x_label,
                    "task": task,
                    "stage": stage,
                }
            )
        )

    def log(self, text: str, client: str | None = None, success: bool = True, global_round: int | None = None) -> bool:
        """One row of free text; ``success=False`` is a failure report."""
        return self._append(
            lambda: [wire.LogItem(at=_now(), client=client, log=text, success=success, global_round=global_round)]
        )

    def failure(self, client: str | None, text: str, global_round: int | None = None) -> bool:
        """A failure of ``client``, or of the run where nobody can be named."""
        return self.log(text, client=client, success=False, global_round=global_round)

    def event(
        self,
        event_type: str,
        client: str | None = None,
        global_round: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> bool:
        """A typed event; ``details`` are at most 8192 bytes as JSON. The hub words it."""
        return self._gathered(lambda: [event_record(event_type, client, global_round, details, _now())], count=1)

    def cause(self, status: ModelStatus, reason: str) -> None:
        """Remember durably how the run is going to end; ``Outbox.recover_cause`` tells it if nobody else does."""
        try:
            self._outbox.keep_cause(wire.StatusItem(at=_now(), status=status, reason=reason))
        except Exception as error:
            self._invalid(error)

    def _append(self, make: Callable[[], Sequence[wire.Item]]) -> bool:
        try:
            items = make()
        except Exception as error:
            return self._invalid(error)
        records: list[Record] = []
        sound = True
        for item in items:
            try:
                records.append(record_of(item))
            except Exception as error:
                # One report that cannot be written must not take the others along.
                sound = self._invalid(error)
        return self._keep_or_gather(records) and sound

    def _gathered(self, make: Callable[[], list[Record]], count: int) -> bool:
        try:
            return self._keep_or_gather(make())
        except Exception as error:
            return self._invalid(error, count)

    def _keep_or_gather(self, records: list[Record]) -> bool:
        batch: list[Record] | None = getattr(self._batch, "records", None)
        if batch is None:
            return self._keep(records) if records else True
        batch += records
        return True

    def _keep(self, records: list[Record]) -> bool:
        try:
            return self._outbox.append(records)
        except Exception as error:
            return self._invalid(error)

    def _lost(self, reason: LossReason, count: int) -> None:
        """Count losses that a row of their own tells."""
        try:
            self._outbox.lose(reason, count, reported=count)
        except Exception as error:
            logger.error("the outbox failed (%s)", type(error).__name__)

    def _invalid(self, error: Exception, count: int = 1) -> bool:
        # The error's text would quote the value that is not valid.
        logger.warning("something could not be reported (%s)", type(error).__name__)
        try:
            self._outbox.lose(LossReason.INVALID, count)
        except Exception as second:
            logger.error("the outbox failed (%s)", type(second).__name__)
        return False

    def _site_item(self, client: str, facts: Mapping[str, Any]) -> list[wire.Item]:
        known = {**facts, "client": client}
        if facts.get("kind") == "log":
            return [wire.LogItem.model_validate(known)]
        if facts.get("kind") == "metric":
            return self._metric(known)
        raise ValueError("a site reports metrics and rows only")

    def _metric(self, facts: Mapping[str, Any]) -> list[wire.Item]:
        odd = [name for name in ("result", "x_value") if _is_not_finite(facts.get(name))]
        if not odd:
            return [wire.MetricItem.model_validate(facts)]
        # Validated with a finite stand-in: what is wrong beside the number is still an error.
        plain = wire.MetricItem.model_validate({**facts, **dict.fromkeys(odd, 0.0)})
        key = (plain.client, plain.label, plain.global_round, plain.task, plain.stage)
        if key not in self._not_finite and len(self._not_finite) >= MAX_NOT_FINITE_ROWS:
            self._outbox.lose(LossReason.NOT_FINITE)
            return []
        # One step, so that of two threads with the same metric one makes the row.
        first = self._not_finite.setdefault(key, plain.id)
        if first is not plain.id:
            if first != plain.id:
                self._outbox.lose(LossReason.NOT_FINITE)
            return []
        self._outbox.lose(LossReason.NOT_FINITE, reported=1)
        task = f" ({plain.task})" if plain.task else ""
        what = f"is {float(facts[odd[0]])}" if odd == ["result"] else "has a coordinate that is not finite"
        text = f"metric '{plain.label}' of round {plain.global_round}{task} {what}: not stored"
        row = wire.LogItem(
            id=plain.id,
            at=plain.at,
            client=plain.client,
            log=text,
            success=False,
            global_round=plain.global_round or None,
        )
        return [row]


def _metric_of(client: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    if facts.get("kind") != "metric":
        raise ValueError("no metric")
    return {**facts, "client": client}


def _is_not_finite(value: object) -> bool:
    return isinstance(value, int | float) and not math.isfinite(value)


def _now() -> datetime:
    return datetime.now(UTC)
