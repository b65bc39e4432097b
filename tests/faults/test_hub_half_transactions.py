"""A process that dies at any statement of what the model service does: all of it is there, or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select
from sqlmodel import Session, SQLModel

from flip_fl.hub import admin, database, model_service, nets, tallies
from flip_fl.hub.batch import store_batch
from flip_fl.hub.items import read_items
from flip_fl.hub.model_service import IModelDetails
from flip_fl.hub.tables import FlScheduler, Model
from flip_fl.values import ModelStatus
from tests.support.hub import World, item, metric, world

_DIED = 9
_Act = Callable[[World, Session], object]


def _batch(filled: World, session: Session) -> None:
    items = [
        metric("Trust_1", "loss", 0.5, 1, task="validate"),
        item("log", log="x"),
        item("status", status="ERROR", reason="why"),
        item("event", event_type="ROUND_STARTED", global_round=1),
    ]
    _store(filled, session, *items)


def _store(filled: World, session: Session, *items: dict[str, Any]) -> None:
    body = json.dumps({"items": items}).encode()
    store_batch(filled.model_id, read_items(body), session, unreachable_after=timedelta(seconds=60))


ACTS: dict[str, _Act] = {
    "status": lambda filled, session: model_service.update_model_status(
        filled.model_id, ModelStatus.RESULTS_UPLOADED, session, reason="done"
    ),
    "edit": lambda filled, session: model_service.edit_model(
        filled.model_id, IModelDetails(name="other", description="other"), "user", session
    ),
    "delete one": lambda filled, session: model_service.delete_model(filled.model_id, "user", session),
    "delete all": lambda filled, session: model_service.delete_models(filled.project_id, "user", session),
    "log": lambda filled, session: model_service.add_log(filled.model_id, "x", session, trust=filled.guys),
    "batch": _batch,
    "count": lambda filled, session: tallies.roll(filled.model_id, session, least=1),
}


# What each changes when it is done: all of these, and nothing else.
CHANGED = {
    "status": {"models", "net", "fl_status_history", "models_audit"},
    "edit": {"models", "models_audit"},
    "delete one": {"models", "models_audit"},
    "delete all": {"models", "models_audit"},
    "log": {"fl_logs"},
    "batch": {
        "models",
        "net",
        "fl_status_history",
        "fl_logs",
        "fl_metrics",
        "fl_event_ledger",
    },
    "count": {"fl_metric_series", "fl_round_scores", "fl_metric_blocks", "counted"},
}


@pytest.mark.parametrize("name", ACTS)
def test_a_death_at_any_statement_leaves_all_or_nothing(database_url: str, name: str) -> None:
    """Before and after each statement, the commit included; then the same act, repeated, is done as if never begun."""
    with world(database_url) as filled:
        with filled.session() as session:
            admin.create_model(session, "Stroke", "second")
            nets.add("net", session)
            nets.occupy("net", filled.model_id, [filled.guys], session)
            _store(filled, session, metric("Trust_2", "loss", 0.5, 1, task="validate"))
        before = _facts(filled)
        # What is open here must not be shared with a process that dies.
        filled.engine.dispose()
        deaths = 0
        while (exit_code := _dies_at(deaths, database_url, filled, ACTS[name])) == _DIED:
            deaths += 1
            assert _facts(filled) == before, f"half of it was there after death {deaths}"
            filled.engine.dispose()
        assert exit_code == 0
        assert deaths >= 3
        changed = {table for table, count in _facts(filled).items() if count != before[table]}
        assert changed == CHANGED[name]


def _facts(filled: World) -> dict[str, Any]:
    with database.reading(filled.engine) as session:
        found: dict[str, Any] = {
            table.name: session.execute(select(func.count()).select_from(table)).scalar_one()
            for table in SQLModel.metadata.sorted_tables
        }
        models = session.execute(select(Model.name, Model.status, Model.deleted).order_by(Model.name)).all()
        found["models"] = [tuple(row) for row in models]
        found["counted"] = session.execute(select(Model.counted_to).order_by(Model.name)).scalars().all()
        found["net"] = session.execute(select(FlScheduler.status)).scalars().all()
    return found


def _dies_at(moment: int, url: str, filled: World, act: _Act) -> int:
    """Do it in a process of its own that is killed at the given moment; its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            engine = database.open_engine(url)
            _kill_at(moment, engine)
            with Session(engine) as session:
                act(filled, session)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _kill_at(moment: int, engine: Engine) -> None:
    passed = 0

    def count(*_: object) -> None:
        nonlocal passed
        if passed == moment:
            os._exit(_DIED)
        passed += 1

    for when in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(engine, when, count)
