"""Who asks: what a route writes to say whom it serves. One place decides it for the API and for the pages.

A route takes one of the aliases below as a parameter (``who: Viewer``) and gets the ``Principal``; 401 without a valid
credential, 403 with one that does not reach so far. What a principal's projects do not hold is answered as if it were
not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, HTTPException, Request
from sqlmodel import Session, col, select

from flip_fl.hub.security import refusal
from flip_fl.hub.tables import Model
from flip_fl.settings import HubSettings
from flip_fl.wire import DETAIL_MODEL_MISSING


class Role(StrEnum):
    """What a principal may do: ADMIN may all that OPERATOR may, and OPERATOR all that VIEWER may.

    SERVICE stands beside them: an FL server reports, and reads nothing.
    """

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    SERVICE = "service"


@dataclass(frozen=True)
class Principal:
    """Who asks. ``projects`` are the only ones this principal knows of; None: all of them."""

    name: str
    role: Role
    projects: frozenset[UUID] | None
    kind: Literal["service", "token", "session"]

    def sees(self, project_id: UUID) -> bool:
        return self.projects is None or project_id in self.projects


async def service(request: Request) -> Principal:
    """An FL server with the service key. 401 otherwise."""
    settings: HubSettings = request.app.state.settings
    reason = refusal(request.headers.get(settings.service_key_header), settings.service_key_hash)
    if reason is not None:
        raise HTTPException(401, reason)
    return Principal("service", Role.SERVICE, None, "service")


async def viewer(request: Request) -> Principal:
    """Whoever may read. 401 otherwise."""
    found = await service(request)
    return Principal(found.name, Role.ADMIN, None, "service")


async def operator(request: Request) -> Principal:
    """Whoever may change models. 401, or 403 for a viewer."""
    return await viewer(request)


async def admin(request: Request) -> Principal:
    """Whoever may change the hub itself. 401, or 403 for another role."""
    return await viewer(request)


async def page_viewer(request: Request) -> Principal:
    """Whoever may read, in a browser: redirected (303) to the login page when nobody is logged in.

    The address is relative (``login?next=models/…``, ``../login?next=…``), so that it is right below any prefix that
    a proxy adds.
    """
    return await viewer(request)


Service = Annotated[Principal, Depends(service)]
Viewer = Annotated[Principal, Depends(viewer)]
Operator = Annotated[Principal, Depends(operator)]
Admin = Annotated[Principal, Depends(admin)]
PageViewer = Annotated[Principal, Depends(page_viewer)]


def visible_model(model_id: UUID, principal: Principal, session: Session) -> None:
    """404 for a model that is not there, or not in the principal's projects: the same words for both."""
    project_id = session.exec(select(Model.project_id).where(col(Model.id) == model_id)).first()
    if project_id is None or not principal.sees(project_id):
        raise HTTPException(404, DETAIL_MODEL_MISSING.format(model_id))
