"""What a person is told while a run goes on: the hub's story, read again and again, as news."""

from __future__ import annotations

from collections.abc import Callable

from flip_fl.dashboard.story import Story, StoryRound
from flip_fl.simulate.model import Progress
from flip_fl.values import ModelStatus


def news(story: Story) -> Progress:
    """Where the run is, from its story."""
    if story.status in (ModelStatus.PENDING, ModelStatus.INITIATED):
        return Progress("start", text="the engine is starting")
    if story.status is ModelStatus.PREPARED or not story.rounds:
        return Progress("prepare", total=story.total_rounds, text="the sites are getting ready")
    current = story.rounds[-1]
    expected = len(story.sites)
    if story.status.is_terminal:
        return Progress("end", round=current.number, total=story.total_rounds, text=story.headline.text)
    doing = current.task or "train"
    if current.aggregated_at is None:
        returned = returned_slots(current)
        awaited = tuple(site.slot for site in story.sites if site.slot not in returned)
        return Progress(doing, current.number, story.total_rounds, len(returned), expected, awaited)
    if len(current.scored) < expected and current.task is None:
        awaited = tuple(site.slot for site in story.sites if site.slot not in current.scored)
        return Progress("validate", current.number, story.total_rounds, len(current.scored), expected, awaited)
    if current.number == story.total_rounds:
        return Progress("upload", current.number, story.total_rounds, text="the results are stored and checked")
    return Progress(doing, current.number + 1, story.total_rounds, 0, expected)


def returned_slots(current: StoryRound) -> set[str]:
    """The slots whose result of this round has come."""
    return {cell.slot for cell in current.cells if cell.state == "returned"}


def trained(story: Story) -> bool:
    """Whether the last round's model has been aggregated: what is left is validation and the upload."""
    return bool(
        story.rounds and story.rounds[-1].number == story.total_rounds and story.rounds[-1].aggregated_at is not None
    )


def waits_for_sites(story: Story) -> bool:
    """Whether anything is still to come from the sites: not when all of them have scored the last round's model."""
    return news(story).stage != "upload"


class OnlyChanges:
    """Passes on a piece of news when it differs from the last one."""

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self._tell = tell
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        if progress != self._last:
            self._last = progress
            self._tell(progress)
