"""Mistakes of an app that the house itself found, what its process says that is none, and the end of a task."""

from __future__ import annotations

from flip_fl.app.raised import Raised


class AppError(Exception):
    """The app broke a rule of the neutral form. The text is the house's own and never holds a value of a row."""


class BadFrame(Exception):
    """What came is no message of ours, or too large; the text holds nothing of it."""


class TaskAborted(BaseException):
    """The run was stopped while the app was at work. No ``Exception``, so that ``except Exception`` lets it pass."""


class ScriptFailed(Exception):
    """What ended a script, as its own process tells it: the type's name, and the traceback without values."""

    def __init__(self, type: str, traceback: str) -> None:
        super().__init__(type)
        self.type = type
        self.traceback = traceback
        # What it told of itself, values included: for a file that stays in the trust.
        self.chain: tuple[Raised, ...] = ()

    @classmethod
    def because(cls, text: str) -> ScriptFailed:
        """The house's own words, which hold no value of a row."""
        return cls("AppError", f"AppError: {text}")
