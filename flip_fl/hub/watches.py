"""Who watches which run: one look at the database for all who watch it, and a word to each when something is new."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from flip_fl.dashboard.delta import Again, Delta
from flip_fl.hub.cursor import Cursor
from flip_fl.hub.live import Face, LiveRun
from flip_fl.hub.silence import SilenceRule

# From the commit to the page it takes half of this in the middle.
LOOK_EVERY_S = 0.5
# A comment this often keeps proxies from closing a silent stream.
COMMENT_EVERY_S = 15.0
# A stream ends after this time and is resumed: then it is asked again who is reading.
STREAM_S = 600.0
KEEP_S = 60.0
_logger = logging.getLogger(__name__)

News = Delta | Again | None


@dataclass
class _Watch:
    run: LiveRun
    used: float
    readers: int = 0
    state: tuple[Cursor, Face] | None = None
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    looks: asyncio.Task[None] | None = None


class Watches:
    """The runs of one hub process that somebody watches. To be used in one event loop."""

    def __init__(self, engine: Engine, rule: SilenceRule) -> None:
        self._engine = engine
        self._rule = rule
        self._watches: dict[UUID, _Watch] = {}
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """End every stream, now and to come; may be called more than once."""
        self._leaving.set()
        for watch in self._watches.values():
            watch.stirred.set()

    @property
    def leaving(self) -> bool:
        """Whether the hub is about to end."""
        return self._leaving.is_set()

    async def pause(self, seconds: float) -> None:
        """Wait, but not for a hub that leaves."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)

    async def changes(self, model_id: UUID, place: Cursor) -> News:
        """What is new after ``place``; None of a run that is deleted. Raises what the database raises."""
        watch = self._watch(model_id)
        watch.state = await run_in_threadpool(watch.run.refresh)
        return None if watch.state is None else await run_in_threadpool(watch.run.since, place)

    async def follow(self, model_id: UUID, place: Cursor) -> AsyncIterator[News | str]:
        """First what is new after ``place``, then whatever comes, each as one piece of news; an empty text where
        nothing came for a while. Ends after ``Again`` or None, when the hub leaves, and after ten minutes."""
        watch = self._watch(model_id)
        watch.readers += 1
        ends = time.monotonic() + STREAM_S
        told: tuple[Cursor, Face] | None = None
        try:
            # What is new is asked for at once, and said even if it is nothing: the page sets its clock by it.
            news = await self.changes(model_id, place)
            while not self._leaving.is_set():
                told = watch.state
                yield news
                if not isinstance(news, Delta):
                    return
                place = Cursor.parse(news.cursor) or place
                if watch.looks is None or watch.looks.done():
                    watch.looks = asyncio.create_task(self._look(watch))
                while watch.state == told and not self._leaving.is_set():
                    if time.monotonic() > ends:
                        return
                    stirred = watch.stirred
                    try:
                        await asyncio.wait_for(stirred.wait(), COMMENT_EVERY_S)
                    except TimeoutError:
                        yield ""
                if self._leaving.is_set():
                    return
                news = None if watch.state is None else await run_in_threadpool(watch.run.since, place)
        finally:
            watch.readers -= 1
            watch.used = time.monotonic()
            if watch.readers == 0 and watch.looks is not None:
                watch.looks.cancel()
                watch.looks = None

    def _watch(self, model_id: UUID) -> _Watch:
        now = time.monotonic()
        for other, watch in list(self._watches.items()):
            if watch.readers == 0 and now - watch.used > KEEP_S:
                del self._watches[other]
        if model_id not in self._watches:
            self._watches[model_id] = _Watch(LiveRun(model_id, self._engine, self._rule), now)
        watch = self._watches[model_id]
        watch.used = now
        return watch

    async def _look(self, watch: _Watch) -> None:
        with suppress(asyncio.CancelledError):
            while not self._leaving.is_set():
                await asyncio.sleep(LOOK_EVERY_S)
                try:
                    state = await run_in_threadpool(watch.run.refresh)
                except SQLAlchemyError as error:
                    # There is a next look; readers are told nothing that is not known.
                    _logger.warning("a watched run could not be looked at (%s)", type(error).__name__)
                    continue
                if state != watch.state:
                    watch.state = state
                    stirred, watch.stirred = watch.stirred, asyncio.Event()
                    stirred.set()
