"""Mistakes of an app that the house itself found, and the end of a task that was aborted."""

from __future__ import annotations


class AppError(Exception):
    """The app broke a rule of the neutral form. The text is the house's own and never holds a value of a row."""


class TaskAborted(BaseException):
    """The run was stopped while the app was at work. No ``Exception``, so that ``except Exception`` lets it pass."""
