"""A hub of one's own on either database, as a process, with several models that report at the same time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from sqlalchemy import func
from sqlmodel import col, select

from flip_fl.environment import scrubbed
from flip_fl.hub import admin, tokens
from flip_fl.hub.roles import Role
from flip_fl.hub.tables import FlMetric
from flip_fl.settings import write_settings_file
from flip_fl.simulate.processes import running, start, wait_until
from tests.benchmarks.reporting_hubs import SLOT

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ServedHub:
    """A hub that answers, and its models, in all of which the one trust takes part."""

    url: str
    key: str
    database_url: str
    models: tuple[UUID, ...]
    trust: UUID
    pid: int
    token: str

    @property
    def reader(self) -> dict[str, str]:
        """What a reader's request carries."""
        return {"Authorization": f"Bearer {self.token}"}

    def memory(self) -> int:
        """The most bytes that the hub's process has held at a time."""
        status = Path("/proc", str(self.pid), "status").read_text(encoding="utf-8")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def last_row(self) -> int:
        """The number of the newest metric; 0 without any."""
        with admin.open_session(self.database_url) as session:
            return session.exec(select(func.max(FlMetric.id))).one() or 0

    def rows_after(self, row: int) -> int:
        """How many metrics were stored after that one."""
        with admin.open_session(self.database_url) as session:
            found = session.exec(select(func.count()).select_from(FlMetric).where(col(FlMetric.id) > row))
            return found.one()


@contextlib.contextmanager
def served_hub(folder: Path, database_url: str, models: int) -> Iterator[ServedHub]:
    """Set up the database and serve it on 127.0.0.1 until the block ends; its settings and log are in ``folder``."""
    admin.init_database(database_url)
    key, key_hash = admin.new_service_key()
    with admin.open_session(database_url) as session:
        admin.seed_slots(session, 1)
        trust = admin.create_trust(session, "Hospital", "HOS")
        assert admin.assign_slot(session, trust.id) == SLOT
        admin.create_project(session, "Benchmark")
        made = [admin.create_model(session, "Benchmark", f"model {n}", trusts=[trust.id]) for n in range(models)]
        token = tokens.issue(session, "a reader", Role.VIEWER).secret
    settings, port_file = folder / "hub.env", folder / "hub.port"
    write_settings_file(settings, {"FLIP_HUB_DATABASE_URL": database_url, "INTERNAL_SERVICE_KEY_HASH": key_hash})
    command = [sys.executable, "-m", "flip_fl.hub", "--settings", str(settings), "--port-file", str(port_file)]
    with running(start("the hub", command, folder / "hub.log", env=scrubbed())) as child:
        wait_until(child, port_file.exists, START_TIMEOUT_S)
        url = f"http://127.0.0.1:{port_file.read_text(encoding='utf-8').strip()}/api"
        yield ServedHub(url, key, database_url, tuple(model.id for model in made), trust.id, child.process.pid, token)
