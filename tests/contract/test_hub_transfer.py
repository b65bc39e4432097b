"""A hub's database as a whole: copied, backed up, restored, and what it forgets."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, select
from sqlmodel import SQLModel

from flip_fl.errors import FlipError
from flip_fl.hub import admin, database, kit_slots, model_service, nets, retention, tallies, transfer
from flip_fl.hub.batch import store_batch
from flip_fl.hub.items import read_items
from flip_fl.hub.tables import EventLedger, FlLog, FlMetric, FlMetricSeries, Model, ModelsAudit, StatusHistory, utc_now
from flip_fl.values import ModelStatus
from tests.support.databases import PostgresServer
from tests.support.hub import World, item, metric, world

ODD = (0.1 + 0.2, 1e-320, -1.7e308)


@pytest.fixture
def filled(database_url: str) -> Iterator[World]:
    """A hub with rows in every table, odd texts and numbers among them."""
    with world(database_url) as made:
        _fill(made)
        yield made


def _fill(made: World) -> None:
    items = [
        item("status", status="RUNNING"),
        *(
            metric("Trust_1", "loss", value, n, task="validate")
            for n, value in enumerate((0.1 + 0.2, 1e-320, -1.7e308))
        ),
        metric("Trust_2", "Ä'\"\\\n☃", 0.5, 1, stage="ae"),
        item("log", client="Trust_1", log="first\nsecond", success=False, global_round=1),
        item("event", event_type="ROUND_STARTED", global_round=1, details={"total_rounds": 3}),
    ]
    with made.session() as session:
        store_batch(
            made.model_id, read_items(json.dumps({"items": items}).encode()), session, unreachable_after=timedelta(60)
        )
        nets.add("net", session)
        nets.occupy("net", made.model_id, [made.guys], session)
        kit_slots.record_kit("Trust_3", "ab:cd", session)
        kit_slots.release("Trust_3", session)
        assert tallies.roll(made.model_id, session, least=1)


def _tables(url: str) -> dict[str, list[tuple[Any, ...]]]:
    engine = database.open_engine(url)
    try:
        with engine.execution_options(flip_reading=True).connect() as connection:
            return {table.name: _rows(table, connection) for table in SQLModel.metadata.sorted_tables}
    finally:
        engine.dispose()


def _rows(table: Table, connection: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables, once of each kind."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.empty_database()
    return f"sqlite:///{tmp_path / 'target' / 'hub.sqlite'}"


def test_a_copy_holds_exactly_what_was_there_and_goes_on(filled: World, empty_target: str) -> None:
    """Every table, value by value, between both kinds of database; new rows get numbers of their own."""
    before = _tables(filled.url)
    assert all(before[name] for name in ("fl_metrics", "fl_logs", "fl_event_ledger", "fl_job", "fl_slot_revocation"))
    counted = transfer.copy_all(filled.url, empty_target)
    assert _tables(empty_target) == before
    assert counted == {name: len(rows) for name, rows in before.items()}
    with admin.open_session(empty_target) as session:
        model_service.add_log(filled.model_id, "after", session)
        model_service.update_model_status(filled.model_id, ModelStatus.ERROR, session)
    assert len(_tables(empty_target)["fl_logs"]) == len(before["fl_logs"]) + 1
    with pytest.raises(FlipError, match="is not empty") as caught:
        transfer.copy_all(filled.url, empty_target)
    assert caught.value.code == "E1020"


def test_a_copy_that_fails_leaves_nothing(filled: World, empty_target: str) -> None:
    """Half a hub would look like a whole one: it is all there, or nothing is."""
    sqlite = filled.url.startswith("sqlite")
    with closing(filled.engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
        # A row that refers to nothing, as no hub writes it.
        cursor.execute("PRAGMA foreign_keys = OFF" if sqlite else "SET session_replication_role = replica")
        cursor.execute("UPDATE fl_metric_series SET trust_id = '00000000000000000000000000000009'")
        connection.commit()
    with pytest.raises(FlipError):
        transfer.copy_all(filled.url, empty_target)
    assert not any(_tables(empty_target).values())


def test_a_backup_can_be_restored_on_either_database(filled: World, empty_target: str, tmp_path: Path) -> None:
    """What was backed up while the hub has it open comes back row by row; the file is one, and its owner's alone."""
    file = tmp_path / "kept" / "backup.sqlite"
    file.parent.mkdir()
    before = _tables(filled.url)
    with filled.session() as writer:
        writer.add(FlLog(model_id=filled.model_id, log="not committed"))
        writer.flush()
        if filled.url.startswith("postgresql"):
            counted = transfer.back_up(filled.url, file)
        writer.rollback()
    if filled.url.startswith("sqlite"):
        counted = transfer.back_up(filled.url, file)
    assert counted == {name: len(rows) for name, rows in before.items()}
    assert [path.name for path in file.parent.iterdir()] == ["backup.sqlite"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(FlipError, match="a file is there"):
        transfer.back_up(filled.url, file)
    kept = file.read_bytes()
    assert transfer.restore(file, empty_target) == counted
    assert _tables(empty_target) == before
    assert file.read_bytes() == kept
    assert [path.name for path in file.parent.iterdir()] == ["backup.sqlite"]


@pytest.mark.parametrize("damage", ["cut", "garbled", "other", "absent"])
def test_a_broken_backup_is_refused(tmp_path: Path, damage: str) -> None:
    """A file that was cut off, garbled or is something else is told before anything is written."""
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    admin.init_database(url)
    with world(url) as made:
        _fill(made)
    file = tmp_path / "backup.sqlite"
    transfer.back_up(url, file)
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "garbled":
        file.write_bytes(content[:8192] + b"\xff" * 40_000 + content[48_192:])
    elif damage == "other":
        file.write_text("notes" * 1000)
    else:
        file.unlink()
    target = tmp_path / "new" / "hub.sqlite"
    with pytest.raises(FlipError) as caught:
        transfer.restore(file, f"sqlite:///{target}")
    assert caught.value.code in ("E1021", "E1001")
    assert not target.exists()


# Who may ask for what came with 0003: a hub of 0002 knows nobody.
_OF_0003 = ("hub_session", "hub_token_project", "hub_token", "hub_service_key", "hub_audit")


def test_a_backup_of_an_older_version_is_brought_up_to_date(filled: World, tmp_path: Path) -> None:
    """Backups outlive versions: what the tables have got since is made while restoring, in a copy."""
    file = tmp_path / "backup.sqlite"
    transfer.back_up(filled.url, file)
    with sqlite3.connect(file) as older:
        for statement in (
            "DROP TABLE fl_metric_series",
            "DROP TABLE fl_round_scores",
            "ALTER TABLE model DROP COLUMN counted_to",
            "DROP TABLE fl_metric_blocks",
            "DROP INDEX ix_fl_logs_failures",
            "DROP INDEX ix_fl_logs_starts",
            *(f"DROP TABLE {name}" for name in ("hub_session", "hub_token_project", "hub_token", "hub_service_key")),
            "DROP TABLE hub_audit",
            *(
                f"DROP TRIGGER {name}_no_{act}"
                for name in ("models_audit", "fl_status_history")
                for act in ("update", "delete", "replace")
            ),
            "UPDATE alembic_version SET version_num = '0002'",
        ):
            older.execute(statement)
    older.close()
    target = f"sqlite:///{tmp_path / 'new.sqlite'}"
    transfer.restore(file, target)
    with admin.open_session(target) as session:
        assert tallies.roll(filled.model_id, session, least=1)
    assert _tables(target) == _tables(filled.url) | {name: [] for name in _OF_0003}


class TestRetention:
    def test_details_of_old_runs_go_and_what_happened_stays(self, filled: World) -> None:
        """Points, logs and ids of a run that ended go together; model, history and audit stay; others keep all."""
        with filled.session() as session:
            other = admin.create_model(session, "Stroke", "running", trusts=[filled.guys])
            model_service.add_log(other.id, "x", session)
            assert retention.expired(session, utc_now() + timedelta(days=1)) == []
            model_service.update_model_status(filled.model_id, ModelStatus.RESULTS_UPLOADED, session)
            assert retention.expired(session, utc_now() - timedelta(days=1)) == []
            (run,) = retention.expired(session, utc_now() + timedelta(seconds=1))
            assert (run.model_id, run.rows) == (filled.model_id, 4 + 3 + 7)
            retention.forget(session, run, utc_now())
            assert retention.expired(session, utc_now() + timedelta(seconds=1)) == []
        for table in (FlMetric, FlMetricSeries, EventLedger):
            assert filled.rows(table) == []
        assert sorted(row.log or "" for row in filled.rows(FlLog)) == [
            "14 rows of this run were removed by the hub's rule of retention.",
            "x",
        ]
        assert len(filled.rows(Model)) == 2
        assert [row.status for row in filled.rows(StatusHistory) if row.model_id == filled.model_id] == [
            ModelStatus.PENDING,
            ModelStatus.RUNNING,
            ModelStatus.RESULTS_UPLOADED,
        ]
        assert len(filled.rows(ModelsAudit)) == 2

    def test_a_run_that_began_again_keeps_everything(self, filled: World) -> None:
        """Between the look and the removal somebody may have queued the run anew."""
        with filled.session() as session:
            model_service.update_model_status(filled.model_id, ModelStatus.STOPPED, session)
            (run,) = retention.expired(session, utc_now() + timedelta(seconds=1))
            model_service.update_model_status(filled.model_id, ModelStatus.INITIATED, session)
            retention.forget(session, run, utc_now())
        assert len(filled.rows(FlMetric)) == 4
