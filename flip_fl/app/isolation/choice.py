"""Which walls an app is run behind at a site: what the site asks for, and what its system has."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flip_fl.app.isolation.rules import Isolation, Level, offered
from flip_fl.errors import FlipError

if TYPE_CHECKING:
    from flip_fl.app.isolation.call import IsolatedCall
    from flip_fl.settings import ServerSettings

logger = logging.getLogger("flip_fl.app")


def level_for(wanted: Isolation, *, development: bool) -> Level:
    """The level at which an app is run. Raises ``FlipError`` E0560 where the system has not what the site asks for.

    On a developer's own machine it is what the system has: the app is the developer's, and so is the data.
    """
    found, reason = offered()
    if wanted.level.rank <= found.rank:
        logger.info("the app runs at isolation level %s", wanted.level.value)
        return wanted.level
    if development:
        logger.info("the app runs at isolation level %s: %s", found.value, reason)
        return found
    raise FlipError("E0560", level=wanted.level.value, offered=found.value, reason=reason)


def to_tell(level: Level, *, development: bool) -> str | None:
    """What the hub is to hear of ``level``: that a trust runs apps at less than full."""
    return None if development or level is Level.FULL else level.value


def isolated(level: Level, wanted: Isolation, environment: Mapping[str, str]) -> IsolatedCall | None:
    """The way to the app's process; None at level ``none``."""
    if level is Level.NONE:
        return None
    from flip_fl.app.isolation.call import IsolatedCall

    return IsolatedCall(level, wanted, environment)


def at_server(settings: ServerSettings | None) -> Isolation:
    """What an FL server with these settings (None: a developer's) asks for where it runs the app's model.

    Raises ``FlipError`` E0561 where its system has not that.
    """
    if settings is None or settings.isolation != Level.FULL:
        return Isolation(level=Level.PROCESS)
    found, reason = offered()
    if found is not Level.FULL:
        raise FlipError("E0561", offered=found.value, reason=reason)
    return Isolation()
