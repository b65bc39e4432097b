"""What somebody may do at the hub, and of which projects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from uuid import UUID


class Role(StrEnum):
    """What a principal may do: ADMIN may all that OPERATOR may, and OPERATOR all that VIEWER may.

    SERVICE stands beside them: an FL server reports, and reads nothing.
    """

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    SERVICE = "service"

    def reaches(self, needed: Role) -> bool:
        """Whether this role may do what ``needed`` may."""
        if Role.SERVICE in (self, needed):
            return self is needed
        return _LADDER.index(self) >= _LADDER.index(needed)


_LADDER = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)


@dataclass(frozen=True)
class Principal:
    """Who asks. ``projects`` are the only ones this principal knows of; None: all of them."""

    name: str
    role: Role
    projects: frozenset[UUID] | None
    kind: Literal["service", "token", "session"]

    def sees(self, project_id: UUID) -> bool:
        """Whether the project is one of this principal's."""
        return self.projects is None or project_id in self.projects
