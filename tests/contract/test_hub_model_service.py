"""The model service, function by function, on both databases."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from flip_fl.hub import admin, model_service, nets
from flip_fl.hub.model_service import IDetailedModelStatus, IModelDetails
from flip_fl.hub.tables import (
    FlJob,
    FlLog,
    FlMetric,
    FlScheduler,
    JobStatus,
    Model,
    ModelsAudit,
    ModelTrustIntersect,
    NetStatus,
    StatusHistory,
    Trust,
)
from flip_fl.values import ModelAuditAction, ModelStatus
from tests.support.hub import World, world

TERMINAL = (
    ModelStatus.ERROR,
    ModelStatus.STOPPED,
    ModelStatus.RESULTS_UPLOADED,
    ModelStatus.RESULTS_UPLOAD_FAILED,
)
USER = "7b8f3b1e-0d7c-4c8e-9a57-0a4f5a1f9a10"


@pytest.fixture
def filled(database_url: str) -> Iterator[World]:
    with world(database_url) as made:
        yield made


@pytest.fixture
def session(filled: World) -> Iterator[Session]:
    with filled.session() as opened:
        yield opened


def _actions(filled: World) -> list[tuple[ModelAuditAction, str | None]]:
    return [(row.action, row.user_id) for row in filled.rows(ModelsAudit)]


def test_the_ten_names_have_the_contracts_signatures() -> None:
    """Callers of FLIP's service must find the same names with the same leading parameters."""
    expected = {
        "edit_model": ["model_id", "model_details", "user_id", "session"],
        "update_model_status": ["model_id", "status", "session", "user_id"],
        "add_log": ["model_id", "log", "session", "transaction", "success", "trust", "fl_client_name"],
        "delete_model": ["model_id", "user_id", "session"],
        "delete_models": ["project_id", "user_id", "session", "ensure_deletion"],
        "get_model_status": ["model_id", "session"],
        "resolve_trust_from_fl_client_name": ["fl_client_name", "session"],
        "validate_trust_ids": ["model_id", "trust_ids", "session"],
        "get_metrics": ["model_id", "session"],
    }
    for name, parameters in expected.items():
        found = inspect.signature(getattr(model_service, name)).parameters
        positional = [p.name for p in found.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert positional == parameters, name
    assert dict(model_service._STATUS_AUDIT_MAP) == {
        ModelStatus.PREPARED: ModelAuditAction.PREPARED,
        ModelStatus.RUNNING: ModelAuditAction.RUNNING,
        ModelStatus.RESULTS_UPLOADED: ModelAuditAction.RESULTS_UPLOADED,
    }


class TestEdit:
    def test_name_and_audit_row_survive_together(self, filled: World, session: Session) -> None:
        """The EDIT audit row is in the same transaction as the edit, so both are there for another connection."""
        model_service.edit_model(filled.model_id, IModelDetails(name="n", description="d"), USER, session)
        (model,) = filled.rows(Model)
        assert (model.name, model.description) == ("n", "d")
        assert _actions(filled) == [(ModelAuditAction.EDIT, USER)]

    def test_a_user_may_be_a_uuid(self, filled: World, session: Session) -> None:
        """A user's id is stored alike whether it comes as text or as a UUID."""
        model_service.edit_model(filled.model_id, IModelDetails(name="n", description="d"), UUID(USER), session)
        assert _actions(filled) == [(ModelAuditAction.EDIT, USER)]

    def test_an_absent_model_is_an_error(self, filled: World, session: Session) -> None:
        """Editing nothing must not look like success, nor leave an audit row."""
        absent = uuid4()
        with pytest.raises(ValueError, match=f"^Model {absent} not found$"):
            model_service.edit_model(absent, IModelDetails(name="n", description="d"), USER, session)
        assert _actions(filled) == []


class TestStatus:
    def test_none_reads_and_writes_nothing(self, filled: World, session: Session) -> None:
        """Asking for the status must not change anything."""
        assert model_service.update_model_status(filled.model_id, None, session) is ModelStatus.PENDING
        assert model_service.update_model_status(uuid4(), None, session) is None
        assert len(filled.rows(StatusHistory)) == 1

    def test_an_absent_model_gives_none(self, filled: World, session: Session) -> None:
        """A status of an unknown model is told apart from one that was set."""
        assert model_service.update_model_status(uuid4(), ModelStatus.RUNNING, session) is None

    def test_every_change_is_history_and_mapped_ones_are_audited(self, filled: World, session: Session) -> None:
        """The life of a run can be read afterwards; background changes have no user in the audit."""
        for status in (ModelStatus.INITIATED, ModelStatus.PREPARED, ModelStatus.RUNNING, ModelStatus.RESULTS_UPLOADED):
            assert model_service.update_model_status(filled.model_id, status, session) is status
        changes = [(row.previous, row.status) for row in filled.rows(StatusHistory)]
        assert changes == [
            (None, ModelStatus.PENDING),
            (ModelStatus.PENDING, ModelStatus.INITIATED),
            (ModelStatus.INITIATED, ModelStatus.PREPARED),
            (ModelStatus.PREPARED, ModelStatus.RUNNING),
            (ModelStatus.RUNNING, ModelStatus.RESULTS_UPLOADED),
        ]
        assert _actions(filled) == [
            (ModelAuditAction.PREPARED, None),
            (ModelAuditAction.RUNNING, None),
            (ModelAuditAction.RESULTS_UPLOADED, None),
        ]

    def test_an_unchanged_status_is_not_audited_again(self, filled: World, session: Session) -> None:
        """A repeated report is no second transition."""
        for _ in range(3):
            model_service.update_model_status(filled.model_id, ModelStatus.RUNNING, session, USER)
        assert _actions(filled) == [(ModelAuditAction.RUNNING, USER)]

    @pytest.mark.parametrize(
        "late",
        [
            ModelStatus.PREPARED,
            ModelStatus.RUNNING,
            ModelStatus.ERROR,
            ModelStatus.RESULTS_UPLOADED,
            ModelStatus.RESULTS_UPLOAD_FAILED,
        ],
    )
    def test_stopped_is_sticky(self, filled: World, session: Session, late: ModelStatus) -> None:
        """What an engine still reports of a stopped run changes nothing and writes nothing."""
        model_service.update_model_status(filled.model_id, ModelStatus.STOPPED, session, USER)
        before = len(filled.rows(StatusHistory)), len(filled.rows(ModelsAudit))
        assert model_service.update_model_status(filled.model_id, late, session) is ModelStatus.STOPPED
        assert (len(filled.rows(StatusHistory)), len(filled.rows(ModelsAudit))) == before

    def test_a_stop_by_somebody_else_is_seen(self, filled: World) -> None:
        """A session that has read the model before judges a late status by what the database holds now."""
        with Session(filled.engine, expire_on_commit=False) as session:
            remembered = session.get(Model, filled.model_id)
            assert remembered is not None
            session.commit()
            with filled.session() as other:
                model_service.update_model_status(filled.model_id, ModelStatus.STOPPED, other)
            late = model_service.update_model_status(filled.model_id, ModelStatus.RUNNING, session)
        assert late is ModelStatus.STOPPED

    @pytest.mark.parametrize("again", [ModelStatus.INITIATED, ModelStatus.PENDING])
    def test_a_stopped_run_may_be_queued_again(self, filled: World, session: Session, again: ModelStatus) -> None:
        """A person's wish to start anew is not taken for a late report."""
        model_service.update_model_status(filled.model_id, ModelStatus.STOPPED, session)
        assert model_service.update_model_status(filled.model_id, again, session) is again

    def test_an_error_can_still_become_stopped(self, filled: World, session: Session) -> None:
        """The watchdog puts a run right that an abort had made look like an error."""
        model_service.update_model_status(filled.model_id, ModelStatus.ERROR, session)
        assert model_service.update_model_status(filled.model_id, ModelStatus.STOPPED, session) is ModelStatus.STOPPED

    @pytest.mark.parametrize("status", TERMINAL)
    def test_an_end_releases_the_net(self, filled: World, session: Session, status: ModelStatus) -> None:
        """A net whose run has ended must be free for the next one."""
        nets.add("net-1", session)
        nets.occupy("net-1", filled.model_id, [filled.guys, filled.kings], session)
        model_service.update_model_status(filled.model_id, ModelStatus.RUNNING, session)
        assert [row.status for row in filled.rows(FlScheduler)] == [NetStatus.BUSY]
        model_service.update_model_status(filled.model_id, status, session)
        (occupation,) = filled.rows(FlScheduler)
        assert (occupation.status, occupation.job_id) == (NetStatus.AVAILABLE, None)
        (job,) = filled.rows(FlJob)
        assert job.status == JobStatus.COMPLETED
        assert job.completed_at is not None

    def test_another_models_net_is_left_alone(self, filled: World, session: Session) -> None:
        """The end of one run must not free the net of another."""
        other = admin.create_model(session, "Stroke", "other")
        nets.add("net-1", session)
        nets.occupy("net-1", other.id, [filled.guys], session)
        model_service.update_model_status(filled.model_id, ModelStatus.ERROR, session)
        assert [row.status for row in filled.rows(FlScheduler)] == [NetStatus.BUSY]

    def test_a_failure_half_way_leaves_nothing(self, filled: World, session: Session) -> None:
        """Status, history, audit row and net are one transaction: a fault in its last statement undoes all."""
        nets.add("net-1", session)
        nets.occupy("net-1", filled.model_id, [filled.guys], session)
        _break_updates_of(session, "fl_scheduler")
        with pytest.raises(Exception, match="refused by the test"):
            model_service.update_model_status(filled.model_id, ModelStatus.RESULTS_UPLOADED, session)
        (model,) = filled.rows(Model)
        assert model.status is ModelStatus.PENDING
        assert len(filled.rows(StatusHistory)) == 1
        assert _actions(filled) == []


def _break_updates_of(session: Session, table: str) -> None:
    """Let the database itself refuse every update of a table."""
    from sqlalchemy import text

    if session.get_bind().dialect.name == "postgresql":
        session.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$"
            )
        )
        session.execute(text(f"CREATE TRIGGER t BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"))
    else:
        session.execute(
            text(f"CREATE TRIGGER t BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, 'refused by the test'); END")
        )
    session.commit()


class TestLog:
    def test_a_row_is_committed(self, filled: World, session: Session) -> None:
        """Without a transaction of the caller's the row is there for everybody at once."""
        model_service.add_log(filled.model_id, "hello", session, success=False, fl_client_name="Trust_1")
        (row,) = filled.rows(FlLog)
        assert (row.log, row.success, row.fl_client_name, row.trust_id) == ("hello", False, "Trust_1", None)

    @pytest.mark.parametrize("form", ["trust", "id", "name"])
    def test_a_trust_may_be_given_in_three_forms(self, filled: World, session: Session, form: str) -> None:
        """Callers hold a trust, its id or its name; the row is the same."""
        trust = session.get(Trust, filled.guys)
        assert trust is not None
        given = {"trust": trust, "id": filled.guys, "name": trust.name}[form]
        model_service.add_log(filled.model_id, "hello", session, trust=given)  # type: ignore[arg-type]
        assert [row.trust_id for row in filled.rows(FlLog)] == [filled.guys]

    def test_in_a_transaction_the_caller_decides(self, filled: World, session: Session) -> None:
        """A row that belongs to a larger change goes or stays with it."""
        model_service.add_log(filled.model_id, "undone", session, session)
        session.rollback()
        model_service.add_log(filled.model_id, "kept", session, session)
        session.commit()
        assert [row.log for row in filled.rows(FlLog)] == ["kept"]

    def test_an_error_rolls_back_and_is_raised_again(self, filled: World, session: Session) -> None:
        """A row that cannot be stored takes its transaction with it, and the caller hears of it."""
        model_service.add_log(filled.model_id, "before", session, session)
        with pytest.raises(IntegrityError):
            model_service.add_log(uuid4(), "of no model", session, session)
        session.commit()
        assert filled.rows(FlLog) == []

    def test_text_no_database_could_hold_is_kept(self, filled: World, session: Session) -> None:
        """A traceback is never lost for a NUL or half a surrogate pair in it."""
        model_service.add_log(filled.model_id, "a\x00b\ud800c", session)
        assert [row.log for row in filled.rows(FlLog)] == ["a\ufffdb?c"]

    def test_a_typed_event_goes_by_keyword(self, filled: World, session: Session) -> None:
        """Further parameters come after the contract's, by keyword."""
        model_service.add_log(
            filled.model_id, None, session, event_type="QUEUE_POSITION", global_round=2, details={"position": 3}
        )
        (row,) = filled.rows(FlLog)
        assert (row.event_type, row.global_round, row.details) == ("QUEUE_POSITION", 2, '{"position":3}')


class TestDelete:
    def test_one_model_is_flagged_and_audited(self, filled: World, session: Session) -> None:
        """Deleting flags the model and says who did it, together."""
        model_service.delete_model(filled.model_id, UUID(USER), session)
        assert model_service.get_model_status(filled.model_id, session) == IDetailedModelStatus(
            status=ModelStatus.PENDING, deleted=True
        )
        assert _actions(filled) == [(ModelAuditAction.DELETE, USER)]

    def test_a_second_delete_writes_a_second_row(self, filled: World, session: Session) -> None:
        """At this level nothing is refused: the routes do that."""
        model_service.delete_model(filled.model_id, USER, session)
        model_service.delete_model(filled.model_id, USER, session)
        assert len(_actions(filled)) == 2

    def test_an_absent_model_is_an_error(self, session: Session) -> None:
        """Deleting nothing must not look like success."""
        with pytest.raises(ValueError, match="not found"):
            model_service.delete_model(uuid4(), USER, session)

    def test_a_projects_models_are_really_deleted(self, filled: World, session: Session) -> None:
        """The filter must compile to rows, not to `WHERE false`: every live model of this project and no other."""
        second = admin.create_model(session, "Stroke", "second")
        gone = admin.create_model(session, "Stroke", "gone")
        model_service.delete_model(gone.id, "x", session)
        admin.create_project(session, "Other")
        other = admin.create_model(session, "Other", "other")
        assert model_service.delete_models(filled.project_id, USER, session) == 2
        deleted = {row.id for row in filled.rows(Model) if row.deleted}
        assert deleted == {filled.model_id, second.id, gone.id}
        assert other.id not in deleted
        audited = [row for row in filled.rows(ModelsAudit) if row.user_id == USER]
        assert {row.model_id for row in audited} == {filled.model_id, second.id}
        assert {row.action for row in audited} == {ModelAuditAction.DELETE}

    def test_without_live_models_it_is_an_error_only_when_ensured(self, filled: World, session: Session) -> None:
        """A caller that must delete hears that there was nothing; one that only tidies up does not."""
        model_service.delete_models(filled.project_id, USER, session)
        with pytest.raises(ValueError, match=f"^Failed to delete models for project: {filled.project_id}$"):
            model_service.delete_models(filled.project_id, USER, session)
        assert model_service.delete_models(filled.project_id, USER, session, ensure_deletion=False) == 0
        assert len(_actions(filled)) == 1


class TestLookups:
    def test_the_status_of_an_absent_model_is_none(self, session: Session) -> None:
        """None means absent, and nothing else."""
        assert model_service.get_model_status(uuid4(), session) is None

    def test_a_client_is_resolved_by_its_slot_alone(self, filled: World, session: Session) -> None:
        """A trust's display name, code, or another spelling of a slot is nobody's client name."""
        found = model_service.resolve_trust_from_fl_client_name("Trust_1", session)
        assert found is not None
        assert found.id == filled.guys
        for name in ("Guy's and St Thomas'", "GSTT", "trust_1", "Trust_01", " Trust_1", "Trust_4", "Trust_9", ""):
            assert model_service.resolve_trust_from_fl_client_name(name, session) is None, name

    def test_trust_ids_are_all_of_the_model(self, filled: World, session: Session) -> None:
        """One foreign trust makes the answer false; none at all makes it true; repeats do not count twice."""
        ask = model_service.validate_trust_ids
        assert ask(filled.model_id, [], session)
        assert ask(filled.model_id, [filled.guys, filled.kings, filled.guys], session)
        assert not ask(filled.model_id, [filled.guys, filled.outsider], session)
        assert not ask(uuid4(), [filled.guys], session)


class TestMetrics:
    def _add(self, filled: World, trust: UUID, slot: str, label: str, points: list[tuple[str, float, float]]) -> None:
        with filled.session() as session:
            session.add_all(
                FlMetric(
                    model_id=filled.model_id,
                    trust_id=trust,
                    fl_client_name=slot,
                    global_round=1,
                    label=label,
                    result=y,
                    x_label=x_label,
                    x_value=x,
                )
                for x_label, x, y in points
            )
            session.commit()

    def test_none_is_an_empty_list(self, filled: World, session: Session) -> None:
        """A run without metrics is no error."""
        assert model_service.get_metrics(filled.model_id, session) == []

    def test_a_plot_is_label_and_axis(self, filled: World, session: Session) -> None:
        """One metric on two axes is two plots; the axis is the stored one."""
        self._add(filled, filled.guys, "Trust_1", "loss", [("Global Rounds", 1, 0.5), ("epoch", 1, 0.4)])
        plots = model_service.get_metrics(filled.model_id, session)
        assert [(plot.yLabel, plot.xLabel) for plot in plots] == [("loss", "Global Rounds"), ("loss", "epoch")]

    def test_the_shape_is_the_contracts(self, filled: World, session: Session) -> None:
        """Readers depend on these very names."""
        self._add(filled, filled.guys, "Trust_1", "loss", [("Global Rounds", 1, 0.5)])
        (plot,) = model_service.get_metrics(filled.model_id, session)
        assert plot.model_dump() == {
            "yLabel": "loss",
            "xLabel": "Global Rounds",
            "metrics": [{"seriesLabel": "GSTT", "data": [{"xValue": 1.0, "yValue": 0.5}]}],
        }

    def test_points_stand_in_stable_x_order(self, filled: World, session: Session) -> None:
        """Rows that came late or share an x are drawn in one order, always the same."""
        self._add(
            filled,
            filled.guys,
            "Trust_1",
            "loss",
            [("e", 3, 30), ("e", 1, 10), ("e", 2, 20), ("e", 1, 11), ("e", 0, 0)],
        )
        (plot,) = model_service.get_metrics(filled.model_id, session)
        assert [(p.xValue, p.yValue) for p in plot.metrics[0].data] == [(0, 0), (1, 10), (1, 11), (2, 20), (3, 30)]

    def test_trusts_that_share_a_code_stay_two_series(self, filled: World, session: Session) -> None:
        """Two hospitals must never be drawn as one; equal labels gain the slot."""
        twin = admin.create_trust(session, "Twin of Guy's", "GSTT")
        slot = admin.assign_slot(session, twin.id)
        session.add(ModelTrustIntersect(model_id=filled.model_id, trust_id=twin.id))
        session.commit()
        self._add(filled, filled.guys, "Trust_1", "loss", [("Global Rounds", 1, 0.5)])
        self._add(filled, twin.id, slot, "loss", [("Global Rounds", 1, 0.7)])
        (plot,) = model_service.get_metrics(filled.model_id, session)
        assert [(s.seriesLabel, s.data[0].yValue) for s in plot.metrics] == [
            ("GSTT (Trust_1)", 0.5),
            ("GSTT (Trust_4)", 0.7),
        ]

    def test_a_trust_without_a_code_goes_by_its_name(self, filled: World, session: Session) -> None:
        """Code, else name: a series is never nameless."""
        plain = admin.create_trust(session, "Plain")
        self._add(filled, plain.id, "Trust_4", "loss", [("Global Rounds", 1, 0.5)])
        (plot,) = model_service.get_metrics(filled.model_id, session)
        assert plot.metrics[0].seriesLabel == "Plain"
