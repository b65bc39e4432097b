"""One model at the hub as a watchdog needs it: its status read, its end written, its story when all is over."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from http import HTTPStatus
from uuid import UUID

from pydantic import ValidationError

from flip_fl import wire
from flip_fl.dashboard.story import Story
from flip_fl.errors import FlipError
from flip_fl.http import HttpClient, HttpConnectionError, HttpStatusError
from flip_fl.jobs.decide import LOSS_PREFIX, HubState
from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.hub_reader import reading_client, token_refused
from flip_fl.settings import ServerSettings
from flip_fl.values import ModelStatus

READ_TIMEOUT_S = 10.0
_UNAUTHORISED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


class HubAway(Exception):
    """The hub gives no answer now, or one that it gives when it is not well (5xx). Trying again helps."""


class HubModel:
    """The model ``model_id`` at the hub of ``settings``. Reading raises ``FlipError`` E0401 when these hold no token.

    Every method makes one bounded attempt and raises ``HubAway``, or ``FlipError``: E0411 (the key is refused), E0413
    (the token is), E1002 (no such model, or a deleted one), E0402 (not a hub that can be asked for a status).
    """

    def __init__(self, settings: ServerSettings, model_id: UUID, *, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        self.model_id = model_id
        self._settings = settings
        self._key = settings.service_key.get_secret_value()
        self._timeout_s = read_timeout_s
        self._write = HubClient(settings, read_timeout_s=read_timeout_s)

    @property
    def address(self) -> str:
        """The hub's address, without a user and password."""
        return _PASSWORD.sub("…@", self._settings.hub_url)

    def state(self) -> HubState:
        """The model's status now; of an ERROR also whether it is a lost engine's."""
        answer = self._get("status")
        try:
            status, deleted = ModelStatus(str(answer["status"])), answer["deleted"] is True
        except (KeyError, ValueError):
            raise self._no_hub("its answer to GET /model/{id}/status is no model's status") from None
        if deleted:
            raise self._no_model("it was deleted")
        loss = status is ModelStatus.ERROR and (self.story().reason or "").startswith(LOSS_PREFIX)
        return HubState(status, loss)

    def story(self) -> Story:
        """The run as the hub tells it."""
        try:
            return Story.model_validate(self._get("story"))
        except ValidationError:
            raise self._no_hub("its answer to GET /model/{id}/story is no story") from None

    def write(self, item: wire.StatusItem) -> bool:
        """Report the end; False when it came too late to count.

        The hub keeps the item's id once: after a time-out the same item may be sent again.
        """
        with self._named("events"):
            outcome = self._write.post_batch(self.model_id, [item.model_dump(mode="json")]).results[0]
        if outcome.outcome == "refused":
            raise self._no_model(outcome.detail or "it refuses the status")
        return outcome.applied is not False

    def close(self) -> None:
        if "_read" in vars(self):
            self._read.close()
        self._write.close()

    @cached_property
    def _read(self) -> HttpClient:
        # Reporting takes the service key alone: a stop must not wait for a token.
        return reading_client(self._settings, read_timeout_s=self._timeout_s)

    def _get(self, last: str) -> dict[str, object]:
        missing = wire.DETAIL_MODEL_MISSING.format(self.model_id)
        with self._named(last):
            answer = self._read.request(
                "GET",
                ("model", str(self.model_id), last),
                route=f"/model/{{id}}/{last}",
                show_details=wire.FIXED_DETAILS | {missing},
            )
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise self._no_hub(f"its answer to GET /model/{{id}}/{last} is not JSON")
        return document

    @contextlib.contextmanager
    def _named(self, last: str) -> Iterator[None]:
        try:
            yield
        except HttpConnectionError as error:
            raise HubAway(str(error)) from None
        except HttpStatusError as error:
            code = error.status_code
            if code >= HTTPStatus.INTERNAL_SERVER_ERROR or code == HTTPStatus.TOO_MANY_REQUESTS:
                raise HubAway(str(error)) from None
            if code in _UNAUTHORISED and last != "events":
                raise token_refused(self._settings, error) from None
            if code in _UNAUTHORISED:
                shown = f"sha256 {hashlib.sha256(self._key.encode()).hexdigest()[:6]}"
                raise FlipError("E0411", key=shown, reason=error.detail or f"it answered {code}") from None
            if code == HTTPStatus.NOT_FOUND and error.detail is not None:
                raise self._no_model("no model has this id") from None
            raise self._no_hub(f"/model/{{id}}/{last} is {code}") from None

    def _no_hub(self, evidence: str) -> FlipError:
        return FlipError(
            "E0402",
            url=self.address,
            evidence=evidence,
            suggestion="set FLIP_API_INTERNAL_URL to the hub's base URL (it ends in /api)",
        )

    def _no_model(self, known: str) -> FlipError:
        return FlipError("E1002", kind="model", name=self.model_id, known=known, suggestion="flip-fl hub model list")
