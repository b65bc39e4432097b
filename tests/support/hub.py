"""A hub for tests: the real application behind a real socket, on a real database."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import requests
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine, text
from sqlmodel import Session, SQLModel, select

from flip_fl.hub import admin, database, tokens
from flip_fl.hub.app import create_app
from flip_fl.hub.roles import Role
from flip_fl.services.patience import PatientProtocol
from flip_fl.services.serving import Server
from flip_fl.settings import HubSettings
from flip_fl.wire import new_event_id

_Row = TypeVar("_Row", bound=SQLModel)
KEY_HEADER = "X-Internal-Service-Key"
T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """What a hub under test holds: two trusts of a model on slots Trust_1 and Trust_2, a third that is not of it.

    ``token`` is an admin's.
    """

    url: str
    engine: Engine
    project_id: UUID
    model_id: UUID
    guys: UUID
    kings: UUID
    outsider: UUID
    token: str

    def session(self) -> Session:
        return Session(self.engine)

    def rows(self, table: type[_Row]) -> list[_Row]:
        """Every row of a table, in the order in which they came."""
        with database.reading(self.engine) as session:
            rows = session.exec(select(table)).all()
            session.expunge_all()
        return sorted(rows, key=lambda row: getattr(row, "id", 0) if isinstance(getattr(row, "id", 0), int) else 0)


@contextmanager
def world(url: str) -> Iterator[World]:
    """Fill an initialised database with two participating trusts, one outsider and one model."""
    with admin.open_session(url) as session:
        project = admin.create_project(session, "Stroke")
        guys = admin.create_trust(session, "Guy's and St Thomas'", "GSTT")
        kings = admin.create_trust(session, "King's College", "KCH")
        outsider = admin.create_trust(session, "Outsider", "OUT")
        admin.seed_slots(session, 4)
        for trust in (guys, kings, outsider):
            admin.assign_slot(session, trust.id)
        model = admin.create_model(session, "Stroke", "lesions", "finds lesions", trusts=[guys.id, kings.id])
        token = tokens.issue(session, "Ada", Role.ADMIN).secret
    engine = database.open_engine(url)
    try:
        yield World(url, engine, project.id, model.id, guys.id, kings.id, outsider.id, token)
    finally:
        engine.dispose()


@dataclass(frozen=True)
class RunningHub:
    """A hub that answers, the key to its FL routes, and what its database holds, a token among it."""

    base: str
    key: str
    world: World

    def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> requests.Response:
        """One request below ``/api`` with the service key and the admin's token, each where it is asked for.

        ``key`` is sent instead of both (empty: neither).
        """
        sent = dict(headers or {})
        if key != "":
            sent[KEY_HEADER] = key or self.key
            sent.setdefault("Authorization", f"Bearer {key or self.world.token}")
        return requests.request(method, f"{self.base}{path}", headers=sent, timeout=30, **options)

    def root(self, method: str, path: str, **options: Any) -> requests.Response:
        """One request above ``/api``."""
        return replace(self, base=self.base.removesuffix("/api")).call(method, path, **options)

    def model(self, method: str, path: str = "", **options: Any) -> requests.Response:
        """One request on the model of the world."""
        return self.call(method, f"/model/{self.world.model_id}{path}", **options)

    def batch(self, *items: Mapping[str, Any]) -> dict[str, Any]:
        """Send one batch that must be answered; returns the answer."""
        response = self.model("POST", "/events", json={"items": list(items)})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def read(self, path: str) -> Any:
        """What a read route of the model answers."""
        response = self.model("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def logs(self) -> list[str]:
        return [row["log"] for row in self.read("/logs")]


@dataclass(frozen=True)
class HubServer:
    """A hub that is up; ``app.state.engine`` may be exchanged between two tests, which saves starting it anew."""

    base: str
    key: str
    app: FastAPI


@contextmanager
def hub_server(
    url: str, *, key_hash: str | None = None, wrong_keys: int = 1_000_000, port: int = 0
) -> Iterator[HubServer]:
    """Serve a hub on 127.0.0.1, in a thread; on a free port and with a fresh key unless these are given.

    It hears ``wrong_keys`` a minute: the tests of many come from one address.
    """
    key, fingerprint = admin.new_service_key()
    settings = HubSettings(
        database_url=url,
        service_key_hash=fingerprint if key_hash is None else key_hash,
        wrong_keys_per_minute=wrong_keys,
        _env_file=None,
    )
    app = create_app(settings)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    config = uvicorn.Config(
        app, ws="none", access_log=False, log_level="warning", timeout_graceful_shutdown=5, http=PatientProtocol
    )
    server = Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the hub did not start"
        assert time.monotonic() < deadline, "the hub did not start in time"
        time.sleep(0.01)
    try:
        yield HubServer(f"http://127.0.0.1:{listener.getsockname()[1]}/api", key, app)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


@contextmanager
def running_hub(filled: World, *, key_hash: str | None = None, wrong_keys: int = 1_000_000) -> Iterator[RunningHub]:
    """A hub of its own for one world."""
    with hub_server(filled.url, key_hash=key_hash, wrong_keys=wrong_keys) as server:
        yield RunningHub(server.base, server.key, filled)


def unlock_history(session: Session) -> None:
    """Let a test say that it was some other time: the database keeps the history of statuses as it is."""
    on = " ON fl_status_history" if session.get_bind().dialect.name == "postgresql" else ""
    session.execute(text(f"DROP TRIGGER fl_status_history_no_update{on}"))


def item(kind: str, *, seconds: float = 0.0, **facts: Any) -> dict[str, Any]:
    """One batch item as a sender writes it, with a fresh id, ``seconds`` after a fixed moment."""
    at = datetime.fromtimestamp(T0.timestamp() + seconds, UTC)
    return {"kind": kind, "id": str(new_event_id()), "at": at.isoformat(), **facts}


def metric(client: str, label: str, result: float, global_round: int, **facts: Any) -> dict[str, Any]:
    return item("metric", client=client, label=label, result=result, global_round=global_round, **facts)


def outcomes(answer: Mapping[str, Any]) -> list[str]:
    return [result["outcome"] for result in answer["results"]]


def codes(answer: Mapping[str, Any]) -> Sequence[str | None]:
    return [result.get("code") for result in answer["results"]]
