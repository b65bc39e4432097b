"""One attempt to hand records to the hub: as a batch, in halves of it, or one by one. Returns facts, never raises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from uuid import UUID

from flip_fl import wire
from flip_fl.http import HttpConnectionError, HttpStatusError
from flip_fl.reporting.backoff import retry_after
from flip_fl.reporting.feedback import Feedback, Problem, set_unreadable_aside
from flip_fl.reporting.hub_client import NO_SUCH_ROUTE, HubClient
from flip_fl.reporting.losses import LossReason
from flip_fl.reporting.records import Lane, Record
from flip_fl.reporting.store import Dead
from flip_fl.values import ModelStatus

# A refusal of what was sent, as opposed to a hub that cannot or will not talk now.
_REFUSALS = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
_UNAUTHORISED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
# The code with which a hub refuses an item that it cannot read, as opposed to one that may not be stored.
_UNREAD = "invalid"
# Answers of something between us and the hub, which may have stored the record all the same.
_AMBIGUOUS = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})


class Transmitter:
    """Speaks to one hub about one model and remembers, for this process, which hub it is.

    ``single``: the hub has no batch route, so records go one by one. ``max_bytes`` shrinks when the hub calls a batch
    too large. ``unpacks``: the hub could not read an item of several metrics, and needs each as an item of its own.
    ``meanwhile`` is called while the hub works on a batch. Not safe for several threads.
    """

    def __init__(self, hub: HubClient, model_id: UUID, meanwhile: Callable[[], object] | None = None) -> None:
        self._hub = hub
        self._meanwhile = meanwhile
        self._model_id = model_id
        self.single = False
        self.max_bytes = wire.MAX_BATCH_BYTES
        self._too_large = False
        self._probed = False
        self.unpacks = False
        self._echoes = False
        self._accepts = False
        self._current: bool | None = None
        self._reasons: set[bytes] = set()

    def needs_mark(self, record: Record) -> bool:
        """Whether ``record`` must be marked as attempted before it is sent: a repeat of it would be a second row."""
        asked_twice = record.reports == 1 and record.lane in (Lane.METRIC, Lane.EVENT)
        return self.single and not self._echoes and asked_twice

    def ping(self, timeout_s: float) -> Feedback:
        """An empty batch: shows that this run is alive, and learns whether it was stopped."""
        feedback = Feedback()
        self._batch([], timeout_s, feedback)
        return feedback

    def send(self, records: Sequence[Record], timeout_s: float) -> Feedback:
        """Hand ``records`` to the hub, each call to it bounded by ``timeout_s``."""
        feedback = Feedback()
        if self.single:
            for record in records:
                self._one(record, timeout_s, feedback)
                if feedback.problem is not None:
                    break
        else:
            self._too_large = self._probed = False
            self._batch(records, timeout_s, feedback)
            whole = not (feedback.divided or any(corpse.reason is LossReason.TOO_LARGE for corpse in feedback.dead))
            if self._too_large and whole:
                # No single record was to blame: this hub's limit is lower than ours.
                self.max_bytes = max(wire.MAX_DETAILS_BYTES, sum(record.size for record in records) // 2)
        return feedback

    def close(self) -> None:
        self._hub.close()

    # -- the batch route --------------------------------------------------------------------------------------

    def _batch(self, records: Sequence[Record], timeout_s: float, feedback: Feedback) -> None:
        try:
            names = [record.names for record in records]
            answer = self._hub.post_bodies(
                self._model_id,
                [record.body for record in records],
                timeout_s=timeout_s,
                count=sum(map(len, names)),
                meanwhile=self._meanwhile,
            )
        except HttpStatusError as error:
            feedback.alive = True
            status = error.status_code
            if status == HTTPStatus.METHOD_NOT_ALLOWED or (
                status == HTTPStatus.NOT_FOUND and error.detail == NO_SUCH_ROUTE
            ):
                self.single = True
            elif status in _REFUSALS and records:
                self._refused_whole(records, error, timeout_s, feedback)
            elif status not in _REFUSALS:
                feedback.problem = _problem(error)
            return
        except (HttpConnectionError, ValueError) as error:
            set_unreadable_aside(records, feedback)
            feedback.problem = Problem(_words(error))
            return
        feedback.alive = True
        feedback.stop = feedback.stop or answer.stop
        self._sort(records, answer, feedback)

    def _refused_whole(
        self, records: Sequence[Record], error: HttpStatusError, timeout_s: float, feedback: Feedback
    ) -> None:
        """Halve a batch that was refused as a whole, down to the one that is to blame, if it is the records' fault."""
        too_large = error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        self._too_large = self._too_large or too_large
        if not (too_large or self._probed):
            self._probed = True
            feedback.problem = self._refuses_anything(timeout_s)
            if feedback.problem is not None:
                return
            sound = set_unreadable_aside(records, feedback)
            if len(sound) < len(records):
                self._batch(sound, timeout_s, feedback)
                return
        if len(records) == 1 and records[0].reports > 1:
            feedback.divided.append(records[0].id)
            return
        if len(records) == 1:
            reason = LossReason.TOO_LARGE if too_large else LossReason.REFUSED
            feedback.dead.append(Dead(records[0].id, reason, f"http_{error.status_code}", error.detail))
            return
        middle = len(records) // 2
        for half in (records[:middle], records[middle:]):
            self._batch(half, timeout_s, feedback)
            if feedback.problem is not None or self.single:
                return

    def _refuses_anything(self, timeout_s: float) -> Problem | None:
        """What is wrong with a hub that refuses an empty batch, too: a proxy in front of it, or its address.

        Without this, such a hub would make us set everything aside, the run's end included.
        """
        try:
            self._hub.post_bodies(self._model_id, [], timeout_s=timeout_s)
        except HttpStatusError as error:
            return _problem(error, f"{error}, also of a batch without reports")
        except HttpConnectionError as error:
            return Problem(_words(error))
        return None

    def _sort(self, records: Sequence[Record], answer: wire.BatchOut, feedback: Feedback) -> None:
        outcomes = {outcome.id: outcome for outcome in answer.results}
        missing: list[Record] = []
        for record in records:
            if record.reports > 1:
                found = [outcomes.get(name) for name in record.names]
                sound = found and all(each and each.outcome != "refused" for each in found)
                unread = any(each and each.code == _UNREAD for each in found)
                self.unpacks = self.unpacks or (unread and record.packed)
                # Sent one by one they are stored once all the same: the hub knows their ids.
                (feedback.acked if sound else feedback.divided).append(record.id)
                continue
            outcome = outcomes.get(record.name)
            if outcome is None:
                missing.append(record)
            elif outcome.outcome == "refused":
                code = outcome.code or "refused"
                feedback.dead.append(Dead(record.id, LossReason.REFUSED, code, outcome.detail))
            else:
                feedback.acked.append(record.id)
        if left_out := len(set_unreadable_aside(missing, feedback)):
            feedback.problem = Problem(f"the hub left out {left_out} of {len(records)} items in its answer")

    # -- one by one -------------------------------------------------------------------------------------------

    def _one(self, record: Record, timeout_s: float, feedback: Feedback) -> None:
        if record.reports > 1:
            feedback.divided.append(record.id)
            return
        if record.attempted and self.needs_mark(record):
            feedback.dead.append(Dead(record.id, LossReason.AMBIGUOUS, "ambiguous"))
            return
        if not set_unreadable_aside([record], feedback):
            return
        item = record.item()
        formless = _formless(item)
        if formless and self._current is False:
            feedback.dead.append(Dead(record.id, LossReason.NO_FORM, "no_form"))
            return
        try:
            self._post(record, item, timeout_s)
        except HttpStatusError as error:
            feedback.alive = True
            self._refused_one(record, error, formless, feedback)
        except HttpConnectionError as error:
            if error.sent and self.needs_mark(record):
                feedback.dead.append(Dead(record.id, LossReason.AMBIGUOUS, "ambiguous"))
            feedback.problem = Problem(_words(error))
        except ValueError as error:
            feedback.dead.append(Dead(record.id, LossReason.REFUSED, "invalid", type(error).__name__))
        else:
            feedback.alive = True
            feedback.acked.append(record.id)
            self._current = True if formless else self._current

    def _refused_one(self, record: Record, error: HttpStatusError, formless: bool, feedback: Feedback) -> None:
        status = error.status_code
        if formless and status == HTTPStatus.UNPROCESSABLE_ENTITY and self._current is None:
            self._current = False
            feedback.dead.append(Dead(record.id, LossReason.NO_FORM, "no_form", error.detail))
        elif status == HTTPStatus.NOT_FOUND and not (self._accepts or error.detail):
            # Nothing was ever accepted here and the hub does not speak of the model: this is no hub's address.
            self.single = False
            feedback.problem = Problem(f"{error}; does the hub's base URL end in /api?")
        elif status in _REFUSALS or status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            large = status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            reason = LossReason.TOO_LARGE if large else LossReason.REFUSED
            feedback.dead.append(Dead(record.id, reason, f"http_{status}", error.detail))
        else:
            if status in _AMBIGUOUS and self.needs_mark(record):
                feedback.dead.append(Dead(record.id, LossReason.AMBIGUOUS, "ambiguous"))
            feedback.problem = _problem(error)

    def _post(self, record: Record, facts: dict[str, object], timeout_s: float) -> None:
        item = _ITEMS[facts["kind"]].model_validate(facts)
        echoed = False
        if isinstance(item, wire.StatusItem):
            self._post_reason(record, item, timeout_s)
            echoed = self._hub.put_status(self._model_id, item.status, key=item.id, timeout_s=timeout_s)
            self._reasons.discard(record.id)
        elif isinstance(item, wire.MetricItem):
            echoed = self._hub.post_metric(
                self._model_id,
                client=item.client,
                global_round=item.global_round,
                label=item.label,
                result=item.result,
                x_value=item.x_value,
                x_label=item.x_label,
                key=item.id,
                timeout_s=timeout_s,
            )
        elif isinstance(item, wire.LogItem):
            echoed = self._hub.post_log(
                self._model_id, client=item.client, log=item.log, success=item.success, key=item.id, timeout_s=timeout_s
            )
        else:
            echoed = self._hub.post_event(
                self._model_id,
                event_type=item.event_type,
                client=item.client,
                global_round=item.global_round,
                details=item.details,
                key=item.id,
                timeout_s=timeout_s,
            )
        self._accepts = True
        self._echoes = self._echoes or echoed

    def _post_reason(self, record: Record, item: wire.StatusItem, timeout_s: float) -> None:
        """The single status route has no body: its reason goes before it, as a row of its own, once."""
        if item.reason is None or record.id in self._reasons or self._current is False:
            return
        key, success = UUID(int=item.id.int ^ 1), ModelStatus(item.status).is_success
        try:
            self._hub.post_log(
                self._model_id, client=None, log=item.reason, success=success, key=key, timeout_s=timeout_s
            )
        except HttpStatusError as error:
            # A reason that this hub cannot keep must not hold back the status.
            if error.status_code not in _REFUSALS:
                raise
            self._current = False if self._current is None else self._current
        self._reasons.add(record.id)


_ITEMS: dict[object, type[wire.StatusItem | wire.MetricItem | wire.LogItem | wire.EventItem]] = {
    "status": wire.StatusItem,
    "metric": wire.MetricItem,
    "log": wire.LogItem,
    "event": wire.EventItem,
}


def _formless(item: dict[str, object]) -> bool:
    """Typed events and rows without a client: a hub of the older dialect has no form for them."""
    return item["kind"] == "event" or (item["kind"] == "log" and item.get("client") is None)


def _problem(error: HttpStatusError, text: str | None = None) -> Problem:
    headers = {} if error.response is None else error.response.headers
    return Problem(text or str(error), retry_after(headers), unauthorised=error.status_code in _UNAUTHORISED)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, HttpConnectionError) else f"unusable answer ({type(error).__name__})"
