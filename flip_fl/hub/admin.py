"""Administration of a hub: what the command line and the simulator call. Each change is committed at once.

Trusts, projects and models are named by their id or by their name. Asking again for what is already there changes
nothing and returns it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, or_
from sqlmodel import Session, col, select

from flip_fl.errors import FlipError
from flip_fl.hub import audit, database, kit_slots, model_service, tallies
from flip_fl.hub.once import insert_once
from flip_fl.hub.security import new_service_key as new_service_key  # what sets up a hub needs one, too
from flip_fl.hub.tables import FlKitSlot, Model, ModelTrustIntersect, Project, StatusHistory, Trust
from flip_fl.values import ModelStatus, natural_key


@dataclass(frozen=True)
class ProjectInfo:
    """One research project."""

    id: UUID
    name: str


@dataclass(frozen=True)
class TrustInfo:
    """One trust and the slot it holds, if any."""

    id: UUID
    name: str
    code: str | None
    slot: str | None


@dataclass(frozen=True)
class SlotInfo:
    """One kit slot and who holds it."""

    name: str
    number: int
    trust: str | None
    assigned_at: datetime | None
    retired: bool


@dataclass(frozen=True)
class ModelInfo:
    """One model; ``trusts`` are names in natural order."""

    id: UUID
    name: str
    description: str
    project: str
    project_id: UUID
    status: ModelStatus
    deleted: bool
    created_at: datetime
    trusts: tuple[str, ...]


def init_database(url: str) -> None:
    """Create the tables, or bring them to this version. Harmless when done before. Raises ``FlipError`` E1001."""
    database.migrate(url)
    with open_session(url) as session:
        tallies.roll_everything(session)


@contextmanager
def open_session(url: str, actor: audit.Actor = audit.HUB) -> Iterator[Session]:
    """A session on an initialised database, for the functions below; ``actor`` is who the audit says has acted.

    Raises ``FlipError`` E1001.
    """
    engine = database.open_engine(url)
    try:
        database.require_current_schema(engine)
        with database.writing(engine) as session:
            audit.act_as(session, actor)
            yield session
    finally:
        engine.dispose()


def create_project(session: Session, name: str) -> ProjectInfo:
    """The project of this name, made if it is new. Raises ``FlipError`` E1005 for a name of 0 or over 255 letters."""
    _check_text("project", "the name", name, 1, 255)
    for project_id in insert_once(Project, [_new_row(Project(name=name))], "id", session):
        audit.record(session, "project.created", name, project_id=project_id)
    session.commit()
    return _project(session, name)


def create_trust(session: Session, name: str, code: str | None = None) -> TrustInfo:
    """The trust of this name, made if it is new.

    Raises ``FlipError`` E1003 when it is there with another code, E1005 for a name or code that cannot be stored.
    """
    _check_text("trust", "the name", name, 1, 255)
    if code is not None:
        _check_text("trust", "the code", code, 1, 64)
    if insert_once(Trust, [_new_row(Trust(name=name, code=code))], "id", session):
        audit.record(session, "trust.created", name, code=code)
    session.commit()
    trust = _trust(session, name)
    if trust.code != code:
        difference = f"the code {trust.code!r}" if trust.code else "no code"
        raise FlipError("E1003", kind="trust", name=name, difference=difference, suggestion="choose another name")
    return trust


def create_model(
    session: Session,
    project: str | UUID,
    name: str,
    description: str = "",
    *,
    model_id: UUID | None = None,
    trusts: Sequence[str | UUID] = (),
) -> ModelInfo:
    """A new model in a project, PENDING, in which ``trusts`` take part.

    With a ``model_id`` that is there already under this name and project, that one. Raises ``FlipError`` E1002 for
    an unknown project or trust, E1003 when the id belongs to another model, E1005 for texts that do not fit.
    """
    _check_text("model", "the name", name, 1, 75)
    _check_text("model", "the description", description, 0, 250)
    project_id = _project(session, project).id
    trust_ids = [_trust(session, trust).id for trust in trusts]
    model_id = model_id or uuid4()
    row = _new_row(Model(id=model_id, project_id=project_id, name=name, description=description))
    if insert_once(Model, [row], "id", session):
        session.add(StatusHistory(model_id=model_id, status=ModelStatus.PENDING, by=audit.actor_of(session).name))
        audit.record(session, "model.created", model_id, project_id=project_id, name=name)
    else:
        known = session.exec(select(Model).where(col(Model.id) == model_id)).one()
        if (known.name, known.project_id) != (name, project_id):
            difference = f"the name {known.name!r}" if known.name != name else "another project"
            session.rollback()
            raise FlipError("E1003", kind="model", name=model_id, difference=difference, suggestion="use another id")
    _associate(session, model_id, project_id, trust_ids)
    session.commit()
    return _model(session, model_id)


def associate_trusts(session: Session, model: str | UUID, trusts: Sequence[str | UUID]) -> ModelInfo:
    """Let ``trusts`` take part in a model; those that already do stay. Raises ``FlipError`` E1002."""
    known = _model(session, model)
    _associate(session, known.id, known.project_id, [_trust(session, trust).id for trust in trusts])
    session.commit()
    return _model(session, known.id)


def seed_slots(session: Session, count: int) -> list[SlotInfo]:
    """Make sure that slots 1 to ``count`` exist; returns all slots in number order. Raises ``FlipError`` E1005."""
    kit_slots.seed(count, session)
    return list_slots(session)


def assign_slot(session: Session, trust: str | UUID) -> str:
    """The name of the slot that the trust holds, the lowest free one if it held none.

    Raises ``FlipError`` E1002 for an unknown trust and E1004 when no slot is free.
    """
    return kit_slots.assign(_trust(session, trust).id, session)


def release_slot(session: Session, slot: str, *, retire: bool = True) -> str | None:
    """Free a slot and revoke its credentials, see ``kit_slots.release``. Raises ``FlipError`` E1002."""
    return kit_slots.release(slot, session, retire=retire)


def list_projects(session: Session, *, within: Collection[UUID] | None = None) -> list[ProjectInfo]:
    """The projects, by name; only those ``within`` (ids) when it is given."""
    query = select(Project.id, Project.name)
    rows = session.exec(query if within is None else query.where(col(Project.id).in_(within))).all()
    session.commit()
    return sorted((ProjectInfo(*row) for row in rows), key=lambda project: natural_key(project.name))


def list_trusts(session: Session, *, within: Collection[UUID] | None = None) -> list[TrustInfo]:
    """The trusts with their slots, by name; only those that take part in the projects ``within`` when it is given."""
    wanted: list[ColumnElement[bool]] = []
    if within is not None:
        members = select(ModelTrustIntersect.trust_id).join(Model, col(Model.id) == col(ModelTrustIntersect.model_id))
        wanted.append(col(Trust.id).in_(members.where(col(Model.project_id).in_(within))))
    return sorted(_trusts(session, *wanted), key=lambda trust: natural_key(trust.name))


def list_slots(session: Session) -> list[SlotInfo]:
    """Every slot, retired ones too, in number order."""
    rows = session.exec(
        select(FlKitSlot, Trust.name)
        .outerjoin(Trust, col(Trust.id) == col(FlKitSlot.assigned_to_trust_id))
        .order_by(col(FlKitSlot.slot_number))
    ).all()
    slots = [
        SlotInfo(slot.slot_name, slot.slot_number, trust, slot.assigned_at, slot.retired_at is not None)
        for slot, trust in rows
    ]
    session.commit()
    return slots


def list_models(
    session: Session,
    project: str | UUID | None = None,
    *,
    deleted: bool = False,
    within: Collection[UUID] | None = None,
    status: ModelStatus | None = None,
    text: str = "",
    trust: str | UUID | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[ModelInfo]:
    """The models, newest first; deleted ones only when asked for.

    ``within`` are the ids of the only projects that are looked at, ``text`` a part of the name or the description in
    any case, ``trust`` one that takes part. Raises ``FlipError`` E1002 for an unknown project or trust.
    """
    wanted: list[ColumnElement[bool]] = [] if deleted else [col(Model.deleted).is_(False)]
    if project is not None:
        wanted.append(col(Model.project_id) == _project(session, project).id)
    if within is not None:
        wanted.append(col(Model.project_id).in_(within))
    if status is not None:
        wanted.append(col(Model.status) == status)
    if text:
        columns = (col(Model.name), col(Model.description))
        wanted.append(or_(*(column.icontains(text, autoescape=True) for column in columns)))
    if trust is not None:
        members = select(ModelTrustIntersect.model_id)
        wanted.append(col(Model.id).in_(members.where(col(ModelTrustIntersect.trust_id) == _trust(session, trust).id)))
    return _models(session, *wanted, limit=limit, offset=offset)


def find_project(session: Session, project: str | UUID) -> ProjectInfo:
    """The project of this id or name. Raises ``FlipError`` E1002."""
    return _project(session, project)


def find_model(session: Session, model: str | UUID) -> ModelInfo:
    """The model of this id or name, a deleted one too. Raises ``FlipError`` E1002."""
    return _model(session, model)


def delete_model(session: Session, model: str | UUID) -> ModelInfo:
    """Flag a model as deleted; its rows stay. Harmless when done before. Raises ``FlipError`` E1002."""
    known = _model(session, model)
    if not known.deleted:
        audit.record(session, "model.deleted", known.id, project_id=known.project_id, name=known.name)
        model_service.delete_model(known.id, audit.actor_of(session).name, session)
    return _model(session, known.id)


def _associate(session: Session, model_id: UUID, project_id: UUID, trust_ids: Sequence[UUID]) -> None:
    rows = [{"model_id": model_id, "trust_id": trust_id} for trust_id in dict.fromkeys(trust_ids)]
    joined = insert_once(ModelTrustIntersect, rows, "trust_id", session)
    if joined:
        audit.record(session, "model.joined", model_id, project_id=project_id, trusts=sorted(map(str, joined)))


def _new_row(row: Project | Trust | Model) -> dict[str, object]:
    return row.model_dump()


def _project(session: Session, project: str | UUID) -> ProjectInfo:
    condition = _by_id_or_name(project, Project)
    row = session.exec(select(Project.id, Project.name).where(condition)).first()
    session.commit()
    if row is None:
        names = [info.name for info in list_projects(session)]
        raise _unknown("project", project, names, "flip-fl hub model add --project NAME, with one that is there")
    return ProjectInfo(*row)


def _trust(session: Session, trust: str | UUID) -> TrustInfo:
    found = _trusts(session, _by_id_or_name(trust, Trust))
    if not found:
        names = [info.name for info in list_trusts(session)]
        raise _unknown("trust", trust, names, f"flip-fl hub trust add '{trust}'")
    return found[0]


def _model(session: Session, model: str | UUID) -> ModelInfo:
    found = _models(session, _by_id_or_name(model, Model))
    if not found:
        names = [str(info.id) for info in list_models(session)]
        raise _unknown("model", model, names, "flip-fl hub model list")
    return found[0]


def _trusts(session: Session, *conditions: ColumnElement[bool]) -> list[TrustInfo]:
    rows = session.exec(
        select(Trust.id, Trust.name, Trust.code, FlKitSlot.slot_name)
        .outerjoin(FlKitSlot, col(FlKitSlot.assigned_to_trust_id) == col(Trust.id))
        .where(*conditions)
    ).all()
    session.commit()
    return [TrustInfo(*row) for row in rows]


def _models(
    session: Session, *conditions: ColumnElement[bool], limit: int | None = None, offset: int = 0
) -> list[ModelInfo]:
    rows = session.exec(
        select(Model, Project.name)
        .join(Project, col(Project.id) == col(Model.project_id))
        .where(*conditions)
        .order_by(col(Model.created_at).desc(), col(Model.id))
        .limit(limit)
        .offset(offset)
    ).all()
    members: dict[UUID, list[str]] = {model.id: [] for model, _ in rows}
    for model_id, trust in session.exec(
        select(ModelTrustIntersect.model_id, Trust.name)
        .join(Trust, col(Trust.id) == col(ModelTrustIntersect.trust_id))
        .where(col(ModelTrustIntersect.model_id).in_(members))
    ):
        members[model_id].append(trust)
    models = [
        ModelInfo(
            id=model.id,
            name=model.name,
            description=model.description,
            project=project,
            project_id=model.project_id,
            status=model.status,
            deleted=model.deleted,
            created_at=model.created_at,
            trusts=tuple(sorted(members[model.id], key=natural_key)),
        )
        for model, project in rows
    ]
    session.commit()
    return models


def _by_id_or_name(value: str | UUID, table: type[Project] | type[Trust] | type[Model]) -> ColumnElement[bool]:
    if isinstance(value, UUID):
        return col(table.id) == value
    try:
        return (col(table.id) == UUID(value)) | (col(table.name) == value)
    except ValueError:
        return col(table.name) == value


def _check_text(kind: str, field: str, value: str, least: int, most: int) -> None:
    if least <= len(value.strip()) and len(value) <= most and value.isprintable():
        return
    expected = f"{least} to {most} printable characters"
    raise FlipError("E1005", kind=kind, field=field, value=repr(value), expected=expected, suggestion="shorten it")


def _unknown(kind: str, name: str | UUID, known: Sequence[str], suggestion: str) -> FlipError:
    listed = f"it knows {', '.join(known[:10])}" if known else f"it knows no {kind} yet"
    return FlipError("E1002", kind=kind, name=name, known=listed, suggestion=suggestion)
