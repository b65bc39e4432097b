"""Projects, models and trusts: listed for those who may read, made by those who look after the hub."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlmodel import Session

from flip_fl.errors import FlipError
from flip_fl.hub import admin
from flip_fl.hub.access import Admin, Operator, Viewer, acting, visible_model
from flip_fl.hub.roles import Principal
from flip_fl.hub.routes.dependencies import CONFLICT, Reading, Writing, live_model
from flip_fl.values import ModelStatus

router = APIRouter()

_NO_NUL = r"^[^\x00]*$"
_Text = Annotated[str, Field(min_length=1, max_length=255, pattern=_NO_NUL)]


class ProjectIn(BaseModel):
    """``POST /projects``."""

    name: _Text


class ProjectOut(BaseModel):
    """A research project."""

    id: UUID
    name: str


class TrustIn(BaseModel):
    """``POST /trusts``. ``code`` is what stands at the curves."""

    name: _Text
    code: Annotated[str, Field(min_length=1, max_length=64, pattern=_NO_NUL)] | None = None


class TrustOut(BaseModel):
    """A trust and the slot it holds."""

    id: UUID
    name: str
    code: str | None
    slot: str | None


class ModelNew(BaseModel):
    """``POST /models``. ``project`` and ``trusts`` by id or name; asking again with the same ``id`` changes nothing."""

    project: _Text
    name: Annotated[str, Field(min_length=1, max_length=75, pattern=_NO_NUL)]
    description: Annotated[str, Field(max_length=250, pattern=_NO_NUL)] = ""
    id: UUID | None = None
    trusts: Annotated[list[_Text], Field(max_length=1000)] = Field(default_factory=list)


class Members(BaseModel):
    """``POST /model/{id}/trusts``: by id or name."""

    trusts: Annotated[list[_Text], Field(max_length=1000)]


class ModelOut(BaseModel):
    """One model; ``trusts`` are the names of those that take part."""

    id: UUID
    name: str
    description: str
    project: str
    projectId: UUID
    status: ModelStatus
    deleted: bool
    createdAt: datetime
    trusts: list[str]


@router.get("/projects", tags=["projects"])
def read_projects(who: Viewer, session: Reading) -> list[ProjectOut]:
    """The projects that one reaches, by name."""
    return [ProjectOut(id=p.id, name=p.name) for p in admin.list_projects(session, within=who.projects)]


@router.post("/projects", tags=["projects"])
def create_project(wanted: ProjectIn, who: Admin, session: Writing) -> ProjectOut:
    """The project of this name, made if it is new."""
    made = admin.create_project(acting(session, who), wanted.name)
    return ProjectOut(id=made.id, name=made.name)


@router.get("/trusts", tags=["trusts"])
def read_trusts(who: Viewer, session: Reading) -> list[TrustOut]:
    """The trusts, by name; with a token of some projects, those that take part in these."""
    return [_trust(trust) for trust in admin.list_trusts(session, within=who.projects)]


@router.post("/trusts", tags=["trusts"], responses=CONFLICT)
def create_trust(wanted: TrustIn, who: Admin, session: Writing) -> TrustOut:
    """The trust of this name, made if it is new. 409 when it is there with another code."""
    return _trust(admin.create_trust(acting(session, who), wanted.name, wanted.code))


@router.get("/models", tags=["models"])
def read_models(
    who: Viewer,
    session: Reading,
    project: Annotated[str | None, Query(max_length=255, pattern=_NO_NUL, description="Its id or name.")] = None,
    status: ModelStatus | None = None,
    text: Annotated[
        str, Query(max_length=250, pattern=_NO_NUL, description="A part of the name or the description.")
    ] = "",
    trust: Annotated[
        str | None, Query(max_length=255, pattern=_NO_NUL, description="One that takes part, by id or name.")
    ] = None,
    deleted: bool = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> list[ModelOut]:
    """The models that one reaches, newest first. 404 for an unknown project or trust."""
    if project is not None:
        _reached_project(project, who, session)
    found = admin.list_models(
        session,
        project,
        deleted=deleted,
        within=who.projects,
        status=status,
        text=text,
        trust=trust,
        limit=limit,
        offset=offset,
    )
    return [_model(model) for model in found]


@router.post("/models", tags=["models"], responses=CONFLICT)
def create_model(wanted: ModelNew, who: Operator, session: Writing) -> ModelOut:
    """A new model, a draft. 404 for an unknown project or trust, 409 when the id is another model's."""
    project = _reached_project(wanted.project, who, session)
    made = admin.create_model(
        acting(session, who),
        project.id,
        wanted.name,
        wanted.description,
        model_id=wanted.id or uuid4(),
        trusts=wanted.trusts,
    )
    return _model(made)


@router.post("/model/{model_id}/trusts", tags=["models"])
def add_members(model_id: UUID, members: Members, who: Operator, session: Writing) -> ModelOut:
    """Let trusts take part in a model; those that do already stay. 404 if absent, 400 if deleted."""
    visible_model(model_id, who, session)
    live_model(model_id, session)
    return _model(admin.associate_trusts(acting(session, who), model_id, members.trusts))


def _reached_project(project: str, who: Principal, session: Session) -> admin.ProjectInfo:
    """The project, unless it is out of reach: then it is answered as one that is not there."""
    found = admin.find_project(session, project)
    if not who.sees(found.id):
        raise FlipError("E1002", kind="project", name=project, known="", suggestion="")
    return found


def _trust(info: admin.TrustInfo) -> TrustOut:
    return TrustOut(id=info.id, name=info.name, code=info.code, slot=info.slot)


def _model(info: admin.ModelInfo) -> ModelOut:
    return ModelOut(
        id=info.id,
        name=info.name,
        description=info.description,
        project=info.project,
        projectId=info.project_id,
        status=info.status,
        deleted=info.deleted,
        createdAt=info.created_at,
        trusts=list(info.trusts),
    )
