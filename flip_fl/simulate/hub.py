"""The hub of a simulated run: its database set up, its process started, its story read over the wire."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from flip_fl.dashboard.story import Story
from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError
from flip_fl.http import HttpConnectionError, HttpStatusError
from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.hub_reader import token_client
from flip_fl.settings import ServerSettings, write_settings_file
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.processes import read_port, running, start, wait_until
from flip_fl.values import ModelStatus
from flip_fl.wire import MAX_BATCH_ITEMS, Item, StatusItem

if TYPE_CHECKING:
    from sqlmodel import Session

START_TIMEOUT_S = 60.0
PROJECT = "Simulated project"


@dataclass(frozen=True)
class SimulatedHub:
    """A hub that runs on this machine, and the model that the run reports on. ``key`` reports, ``token`` reads."""

    url: str
    key: str
    token: str
    model_id: UUID

    def story(self) -> Story:
        """The run's story as the hub tells it now. Raises ``FlipError`` E0403 when the hub gives no answer."""
        client = token_client(self.url, self.token)
        with contextlib.closing(client), self._named():
            answer = client.request("GET", ("model", str(self.model_id), "story"), route="/model/{id}/story")
        return Story.model_validate_json(answer.content)

    def end(self, settings: ServerSettings, status: ModelStatus, reason: str) -> None:
        """Write a terminal status with its reason to the hub, at once. Raises ``FlipError`` E0403."""
        item = StatusItem(at=datetime.now(UTC), status=status, reason=reason)
        self.tell(settings, [item])

    def tell(self, settings: ServerSettings, items: Sequence[Item]) -> None:
        """Write what was reported outside the engine to the hub. Raises ``FlipError`` E0403."""
        with contextlib.closing(HubClient(settings)) as client, self._named():
            for start_at in range(0, len(items), MAX_BATCH_ITEMS):
                batch = items[start_at : start_at + MAX_BATCH_ITEMS]
                client.post_batch(self.model_id, [item.model_dump(mode="json") for item in batch])

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (HttpConnectionError, HttpStatusError) as error:
            safe = "what was reported meanwhile is in the run's folder, under state/outbox"
            raise FlipError("E0403", url=self.url, problem=error, safe=safe) from None


@contextlib.contextmanager
def simulated_hub(
    folder: RunFolder, name: str, description: str, slots: Sequence[str], *, slots_total: int
) -> Iterator[SimulatedHub]:
    """Set up a hub in the run's folder and serve it on 127.0.0.1.

    ``slots_total`` trusts hold a slot each; those of ``slots`` take part in the one model.

    Raises ``FlipError`` E0509 without the hub's packages, E0506 when it does not start.
    """
    from flip_fl.hub import admin, tokens
    from flip_fl.hub.roles import Role

    database_url = f"sqlite:///{folder.database}"
    admin.init_database(database_url)
    key, key_hash = admin.new_service_key()
    with admin.open_session(database_url) as session:
        trusts = _register_trusts(session, slots, slots_total)
        admin.create_project(session, PROJECT)
        model_id = admin.create_model(session, PROJECT, name, description, trusts=trusts).id
        token = tokens.issue(session, "the simulator", Role.VIEWER).secret
    settings = folder.settings / "hub.env"
    write_settings_file(settings, {"FLIP_HUB_DATABASE_URL": database_url, "INTERNAL_SERVICE_KEY_HASH": key_hash})
    port_file = folder.state / "hub.port"
    command = [sys.executable, "-m", "flip_fl.hub", "--settings", str(settings), "--port", "0"]
    command += ["--port-file", str(port_file)]
    with running(start("the hub", command, folder.logs / "hub.log", env=scrubbed())) as child:
        wait_until(child, lambda: read_port(port_file) is not None, START_TIMEOUT_S)
        yield SimulatedHub(f"http://127.0.0.1:{read_port(port_file)}/api", key, token, model_id)


def _register_trusts(session: Session, slots: Sequence[str], slots_total: int) -> list[str]:
    """One trust on each slot; returns the names of those that take part, in the order of ``slots``."""
    from flip_fl.hub import admin

    admin.seed_slots(session, slots_total)
    holders = {}
    for number in range(1, slots_total + 1):
        trust = admin.create_trust(session, f"Simulated hospital {number}", f"SIM{number}")
        holders[admin.assign_slot(session, trust.id)] = trust.name
    return [holders[slot] for slot in slots]
