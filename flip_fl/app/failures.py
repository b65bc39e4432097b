"""A client's failure as it is reported: where it happened, and a traceback without values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flip_fl.app.redact import redacted, type_name
from flip_fl.values import task_words


@dataclass(frozen=True)
class Failure:
    """One exception of one task at one site, as plain data. ``traceback`` holds no value of a row."""

    slot: str
    task: str
    round: int
    type: str
    traceback: str
    stage: str | None = None

    @classmethod
    def of(
        cls,
        error: BaseException,
        *,
        slot: str,
        task: str,
        round: int,
        stage: str | None = None,
        app_dir: Path | None = None,
    ) -> Failure:
        """The report of ``error``. Never raises."""
        text = redacted(error, app_dir)
        return cls(slot=slot, task=str(task), round=round, type=type_name(error), traceback=text, stage=stage)

    @property
    def headline(self) -> str:
        """The traceback's last line: type and message."""
        return self.traceback.rstrip().rpartition("\n")[2]

    @property
    def text(self) -> str:
        """The site's row at the hub: where it happened, and the traceback."""
        return f"In {task_words(self.task, self.round, self.stage)}:\n{self.traceback}"


class GuestStopped(Exception):
    """Researcher code cannot have the process that it must run in; the text is the house's own."""


class GuestFailed(Exception):
    """Researcher code in a process of its own has raised: ``failure`` is what it reported."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.headline)
        self.failure = failure
