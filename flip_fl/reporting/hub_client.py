"""The one place that builds requests to the hub: status, metrics, logs, typed events, batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from uuid import UUID

from flip_fl import wire
from flip_fl.http import HUB_READ_TIMEOUT_S, HttpClient, HttpConnectionError, HttpStatusError
from flip_fl.settings import ServerSettings
from flip_fl.values import HubDialect, ModelStatus

ROUTE_STATUS = "/model/{id}/status/{status}"
ROUTE_METRICS = "/model/{id}/metrics"
ROUTE_LOGS = "/model/{id}/logs"
ROUTE_EVENTS = "/model/{id}/events"

_RUNNING_SPELLINGS = {HubDialect.CURRENT: "RUNNING", HubDialect.OLDER: "TRAINING_STARTED"}
# What a web framework answers for a route it does not have: how a hub without the batch route is told from one
# that has it but not the model.
NO_SUCH_ROUTE = "Not Found"


class HubClient:
    """One hub, one kept-alive session. Every method makes one attempt and returns whether the hub echoed ``key``.

    Every method raises ``HttpStatusError`` (any answer that is no success), ``HttpConnectionError`` (no usable
    answer) and ``ValueError`` (something that JSON or the contract cannot carry; nothing was sent). ``timeout_s``
    shortens the time-outs of one call. Not safe for several threads at once.

    ``dialect`` is how metric and log bodies are spelt (the setting); ``status_dialect`` is how the hub spells
    ``RUNNING``: the setting's guess until the hub has accepted one of the two spellings.
    """

    def __init__(self, settings: ServerSettings, *, read_timeout_s: float = HUB_READ_TIMEOUT_S) -> None:
        self.dialect = settings.dialect
        self.status_dialect = HubDialect.OLDER if settings.dialect is HubDialect.OLDER else HubDialect.CURRENT
        self._http = HttpClient(
            settings.hub_url,
            key_header=settings.service_key_header,
            key=settings.service_key.get_secret_value(),
            read_timeout_s=read_timeout_s,
        )

    def put_status(
        self, model_id: UUID, status: ModelStatus, *, key: UUID | None = None, timeout_s: float | None = None
    ) -> bool:
        """Report a status. ``RUNNING`` is tried in the hub's other spelling after a 422, and that is remembered."""
        if status is not ModelStatus.RUNNING:
            return self._status(model_id, status.value, key, timeout_s)
        first = self.status_dialect
        second = HubDialect.CURRENT if first is HubDialect.OLDER else HubDialect.OLDER
        try:
            return self._status(model_id, _RUNNING_SPELLINGS[first], key, timeout_s)
        except HttpStatusError as error:
            if error.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
                raise
        echoed = self._status(model_id, _RUNNING_SPELLINGS[second], key, timeout_s)
        self.status_dialect = second
        return echoed

    def post_metric(
        self,
        model_id: UUID,
        *,
        client: str,
        global_round: int,
        label: str,
        result: float,
        x_value: float | None = None,
        x_label: str | None = None,
        key: UUID | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Report one finite number that ``client`` (a kit slot) measured in ``global_round``."""
        body = wire.metric_body(
            self.dialect,
            client=client,
            global_round=global_round,
            label=label,
            result=result,
            x_value=x_value,
            x_label=x_label,
        )
        return self._post(ROUTE_METRICS, model_id, "metrics", body, client, key, timeout_s)

    def post_log(
        self,
        model_id: UUID,
        *,
        client: str | None,
        log: str,
        success: bool,
        key: UUID | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Report one row of free text; ``success=False`` is a failure report. Without a client it is the hub's."""
        body = wire.log_body(self.dialect, client=client, log=log, success=success)
        return self._post(ROUTE_LOGS, model_id, "logs", body, client, key, timeout_s)

    def post_event(
        self,
        model_id: UUID,
        *,
        event_type: str,
        client: str | None = None,
        global_round: int | None = None,
        details: Mapping[str, Any] | None = None,
        key: UUID | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Report one typed event. A hub of the older dialect has no such thing and answers 422."""
        wire.check_event(event_type, global_round)
        if details is not None:
            wire.check_details(wire.details_size(details))
        body = wire.event_body(event_type=event_type, client=client, global_round=global_round, details=details)
        return self._post(ROUTE_LOGS, model_id, "logs", body, client, key, timeout_s)

    def post_batch(
        self, model_id: UUID, items: Sequence[Mapping[str, Any]], *, timeout_s: float | None = None
    ) -> wire.BatchOut:
        """Send ``items`` (``wire.Item`` dumped as JSON) and return one outcome per item, in order.

        An answer that is no such list counts as no answer: ``HttpConnectionError``. A hub without this route
        answers 405, or 404 with the detail ``NO_SUCH_ROUTE``.
        """
        bodies = [json.dumps(dict(item), separators=(",", ":"), allow_nan=False) for item in items]
        return self.post_bodies(model_id, bodies, timeout_s=timeout_s)

    def post_bodies(
        self,
        model_id: UUID,
        bodies: Sequence[str],
        *,
        timeout_s: float | None = None,
        count: int | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> wire.BatchOut:
        """As ``post_batch``, of items that are JSON texts already: reading them only to write them again costs most.

        A text may be that of several items with commas between them: then ``count`` says how many there are in all.
        ``meanwhile`` is called once everything is sent, while the hub works on it.
        """
        response = self._http.request(
            "POST",
            ("model", str(model_id), "events"),
            route=ROUTE_EVENTS,
            written=f'{{"items":[{",".join(bodies)}]}}'.encode(),
            meanwhile=meanwhile,
            timeout_s=timeout_s,
            show_details=wire.FIXED_DETAILS | {NO_SUCH_ROUTE, wire.DETAIL_MODEL_MISSING.format(model_id)},
        )
        try:
            out = wire.BatchOut.model_validate_json(response.content)
            if len(out.results) != (len(bodies) if count is None else count):
                raise ValueError("one outcome per item is needed")
        except ValueError as error:
            raise HttpConnectionError("POST", ROUTE_EVENTS, error) from None
        return out

    def close(self) -> None:
        self._http.close()

    def _status(self, model_id: UUID, spelling: str, key: UUID | None, timeout_s: float | None) -> bool:
        response = self._http.request(
            "PUT",
            ("model", str(model_id), "status", spelling),
            route=ROUTE_STATUS,
            headers=_key_header(key),
            timeout_s=timeout_s,
            show_details=_details(model_id, None),
        )
        return _echoed("PUT", ROUTE_STATUS, response.content, response.headers, key)

    def _post(
        self,
        route: str,
        model_id: UUID,
        last: str,
        body: Mapping[str, Any],
        client: str | None,
        key: UUID | None,
        timeout_s: float | None,
    ) -> bool:
        key = key or wire.new_event_id()
        response = self._http.request(
            "POST",
            ("model", str(model_id), last),
            route=route,
            json=body,
            headers=_key_header(key),
            timeout_s=timeout_s,
            show_details=_details(model_id, client),
        )
        return _echoed("POST", route, response.content, response.headers, key)


def _key_header(key: UUID | None) -> dict[str, str]:
    return {} if key is None else {wire.IDEMPOTENCY_HEADER: str(key)}


def _echoed(method: str, route: str, content: bytes, headers: Mapping[str, str], key: UUID | None) -> bool:
    """Whether the hub keeps keys. Raises ``HttpConnectionError`` for a success that is not a hub's.

    A network that wants a login answers everything with a page and 200: taken for the hub's word, all would be lost.
    """
    if content:
        try:
            if not isinstance(json.loads(content), dict):
                raise ValueError("a hub answers with an object")
        except ValueError as error:
            raise HttpConnectionError(method, route, error) from None
    return key is not None and headers.get(wire.IDEMPOTENCY_HEADER) == str(key)


def _details(model_id: UUID, client: str | None) -> frozenset[str]:
    known = {wire.DETAIL_MODEL_MISSING.format(model_id)}
    if client is not None:
        known |= {
            wire.DETAIL_CLIENT_UNRESOLVED.format(client, model_id),
            wire.DETAIL_TRUST_NOT_ASSOCIATED.format(client, model_id),
        }
    return wire.FIXED_DETAILS | known
