"""Engine, migration and schema, on both databases."""

from __future__ import annotations

import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, event, insert, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, SQLModel, select

from flip_fl.errors import ExitCode, FlipError
from flip_fl.hub import admin, database
from flip_fl.hub.curves import scored_in
from flip_fl.hub.ledger import claim
from flip_fl.hub.plots import stored_series
from flip_fl.hub.tables import EventLedger, FlLog, Model, Project, as_utc
from flip_fl.values import ModelStatus
from flip_fl.wire import new_event_id
from tests.support.databases import PostgresServer
from tests.support.hub import world


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables, once of each kind."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.empty_database()
    return f"sqlite:///{tmp_path / 'new' / 'hub.sqlite'}"


def test_the_migrations_make_exactly_the_tables(database_url: str) -> None:
    """What the code believes of the tables and what a database gets are the same."""
    engine = database.open_engine(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
        assert {
            "project",
            "model",
            "trust",
            "fl_kit_slot",
            "model_trust_intersect",
            "fl_logs",
            "fl_metrics",
            "fl_status_history",
            "models_audit",
            "fl_job",
            "fl_job_trust",
            "fl_scheduler",
            "fl_nets",
        } <= set(engine.dialect.get_table_names(connection))
    engine.dispose()


def test_initialising_twice_keeps_what_is_there(empty_url: str) -> None:
    """`hub init` on a used hub is harmless."""
    admin.init_database(empty_url)
    with admin.open_session(empty_url) as session:
        admin.create_project(session, "p")
    admin.init_database(empty_url)
    with admin.open_session(empty_url) as session:
        assert [project.name for project in admin.list_projects(session)] == ["p"]


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004"])
def test_a_filled_database_of_an_older_version_is_migrated(empty_url: str, revision: str) -> None:
    """Everything is kept: rows, ids, what came late; a copy is still a copy; a run under way was last heard of then.

    What later versions keep beside (the count of each series) is made from the rows that are there.
    """
    ids = [new_event_id() for _ in range(3)]
    _older_database(empty_url, ids)
    _upgrade(empty_url, revision)
    admin.init_database(empty_url)
    engine = database.open_engine(empty_url)
    with Session(engine) as session:
        (model,) = session.exec(select(Model)).all()
        assert (model.id, model.status) == (_OLD_MODEL, ModelStatus.RUNNING)
        assert model.heard_at == datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
        late = {row.event_id: row for row in session.exec(select(EventLedger)).all()}
        assert set(late) == set(ids)
        assert (late[ids[2]].applied, late[ids[2]].status) == (False, ModelStatus.ERROR)
        assert late[ids[2]].occurred_at == datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)
        counted = [(one.plot.label, one.slot, one.points, one.newest) for one in stored_series(model.id, session)]
        newest = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)
        assert sorted(counted, key=str) == [("dice", None, 1, newest), ("loss", "Trust_1", 3, newest)]
        assert scored_in(model.id, session) == {1: {"Trust_1"}}
        fresh = new_event_id()
        assert claim(model.id, [each.hex for each in (*ids, fresh)], session) == {fresh.hex}
        with pytest.raises(IntegrityError):
            claim(uuid4(), [new_event_id().hex], session)
    engine.dispose()


_OLD_MODEL = UUID("0190a6c1-0000-7000-8000-000000000001")


def _older_database(url: str, ids: Sequence[UUID]) -> None:
    """A database as the first version left it, with a run under way."""
    engine = database.open_engine(url)
    if engine.dialect.name == "sqlite":
        Path(str(engine.url.database)).parent.mkdir(parents=True, exist_ok=True)
    _upgrade(url, "0001")
    with engine.begin() as connection:
        kept = MetaData()
        kept.reflect(connection)
        tables = kept.tables
        at = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)

        def spelt(value: UUID) -> Any:
            return value.hex if engine.dialect.name == "sqlite" else value

        project, model = spelt(uuid4()), spelt(_OLD_MODEL)
        connection.execute(insert(tables["project"]), {"id": project, "name": "p", "created_at": at})
        facts = {"id": model, "project_id": project, "name": "m", "description": "", "status": "RUNNING"}
        connection.execute(insert(tables["model"]), facts | {"deleted": False, "created_at": at})
        for seconds in (0, 5):
            row = {"model_id": model, "occurred_at": at, "success": True, "log": "x"}
            connection.execute(
                insert(tables["fl_logs"]), row | {"log_date": datetime(2026, 3, 1, 12, 0, seconds, tzinfo=UTC)}
            )
        trust = spelt(uuid4())
        connection.execute(insert(tables["trust"]), {"id": trust, "name": "t", "created_at": at})
        point = {"model_id": model, "trust_id": trust, "global_round": 1, "result": 0.5, "x_label": "Step"}
        for label, slot, task in (*[("loss", "Trust_1", "validate")] * 3, ("dice", None, "validate")):
            facts = {"label": label, "fl_client_name": slot, "task": task, "x_value": 1.0, "occurred_at": at}
            connection.execute(insert(tables["fl_metrics"]), point | facts)
        for number, event in enumerate(ids):
            late = number == 2
            facts = {"model_id": model, "event_id": spelt(event), "status": "ERROR" if late else None}
            connection.execute(insert(tables["fl_event_ledger"]), facts | {"applied": not late, "occurred_at": at})
    engine.dispose()


def _upgrade(url: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    engine = database.open_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_two_processes_may_initialise_at_once(empty_url: str) -> None:
    """Two starters at the same moment both succeed, and the tables are made once."""
    if empty_url.startswith("sqlite:///"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: admin.init_database(empty_url), range(4)))
    with admin.open_session(empty_url) as session:
        assert admin.list_projects(session) == []


def test_a_database_without_tables_is_refused(empty_url: str) -> None:
    """A hub that was not initialised says so, and how."""
    if empty_url.startswith("sqlite:///"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir()
    with pytest.raises(FlipError) as caught, admin.open_session(empty_url):
        pass
    assert (caught.value.code, caught.value.exit_code) == ("E1001", ExitCode.UNREACHABLE)
    assert caught.value.fix == "flip-fl hub init"


def test_a_newer_schema_is_refused(database_url: str) -> None:
    """An older flip_fl neither serves nor migrates what a newer one wrote."""
    engine = database.open_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(FlipError, match="9999"), admin.open_session(database_url):
        pass
    with pytest.raises(FlipError, match="not known to this version"):
        admin.init_database(database_url)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "",
        "mysql://user:canary@localhost/flip",
        "postgresql://user:canary@127.0.0.1:1/flip",
        "sqlite:////proc/none/hub.sqlite",
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(url: str) -> None:
    """The message names the address and never the password in it."""
    with pytest.raises(FlipError) as caught:
        admin.init_database(url)
    assert caught.value.code == "E1001"
    assert "canary" not in caught.value.text()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """A wrong path is told, and the file is left as it is."""
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and not a database at all\n" * 100)
    before = path.read_bytes()
    with pytest.raises(FlipError, match="not a database"):
        admin.init_database(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    """What a hub keeps is not for every user of the machine."""
    path = tmp_path / "a" / "hub.sqlite"
    admin.init_database(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_foreign_keys_hold(database_url: str) -> None:
    """A row about a model that does not exist is refused, on SQLite too."""
    with world(database_url) as filled, filled.session() as session:
        session.add(FlLog(model_id=filled.project_id, log="of no model"))
        with pytest.raises(IntegrityError):
            session.commit()


def test_times_are_aware_and_in_utc(database_url: str) -> None:
    """A time comes back as the moment it was, whatever zone it was given in."""
    moment = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5)))
    with admin.open_session(database_url) as session:
        session.add(Project(name="p", created_at=moment))
        session.commit()
        session.expire_all()
        stored = session.exec(_all_projects()).one().created_at
    assert stored == moment
    assert stored.tzinfo is UTC
    assert as_utc(datetime(2026, 3, 1)) == datetime(2026, 3, 1, tzinfo=UTC)


def _all_projects():  # type: ignore[no-untyped-def]
    from sqlmodel import select

    return select(Project)


def test_readers_do_not_wait_for_a_writer(database_url: str) -> None:
    """A page is answered while a batch is being written."""
    with world(database_url) as filled, Session(filled.engine) as writer:
        writer.add(Project(name="uncommitted"))
        writer.flush()
        with database.reading(filled.engine) as reader:
            assert [project.name for project in reader.exec(_all_projects())] == ["Stroke"]


def test_writers_of_one_process_take_turns_on_sqlite(tmp_path: Path) -> None:
    """SQLite itself lets one of many wait until it gives up: here it never waits at all, and nobody is refused.

    A writer that fails gives its turn back, too.
    """
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    admin.init_database(url)
    engine = database.open_engine(url)
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA busy_timeout = 0"))

    def write(number: int) -> None:
        for _ in range(5):
            with database.writing(engine) as session:
                session.add(Project(name=f"{number} {uuid4()}"))
                session.flush()
                time.sleep(0.002)
                if number % 2:
                    session.commit()

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(write, range(8)))
    with database.reading(engine) as session:
        assert len(session.exec(select(Project)).all()) == 4 * 5
    engine.dispose()
