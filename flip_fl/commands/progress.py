"""How a run's progress is shown: redrawn at a terminal, plain lines into a pipe; always on stderr.

Names and texts may come from sites: they are shown as plain text, never as markup.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from flip_fl.commands.output import write
from flip_fl.errors import printable
from flip_fl.simulate.model import Progress

if TYPE_CHECKING:
    from rich.text import Text

SILENCE_S = 60.0
REDRAWS_PER_S = 4
_BAR_CELLS = 20


class Display(Protocol):
    """Takes news, from any thread, while the context is open."""

    def __call__(self, progress: Progress, /) -> None: ...


def line(news: Progress, awaited_s: float) -> str:
    """``train, round 4/20, 3 of 5 in, waiting Trust_4 38 s: text`` with what is known of it.

    ``awaited_s`` is how long the awaited sites have been waited for, in seconds.
    """
    parts = [news.stage]
    if news.round is not None:
        parts.append(f"round {news.round}" + (f"/{news.total}" if news.total is not None else ""))
    if news.expected is not None and news.returned is not None:
        parts.append(f"{news.returned} of {news.expected} in")
    if news.awaited:
        parts.append(f"waiting {', '.join(news.awaited)} {awaited_s:.0f} s")
    told = ", ".join(parts)
    return printable(f"{told}: {news.text}" if news.text else told)


class _Clocked:
    """The last news, and since when its stage and round have lasted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._news: Progress | None = None
        self._began = self._since = clock()

    def _take(self, news: Progress) -> bool:
        """Keep ``news``; True when the stage or the round changed."""
        last, self._news = self._news, news
        changed = last is None or (last.stage, last.round) != (news.stage, news.round)
        if changed:
            self._since = self._clock()
        return changed

    def _line(self) -> str:
        return "" if self._news is None else line(self._news, self._clock() - self._since)


class PlainDisplay(_Clocked):
    """A line when stage or round changes, and one after every ``silence_s`` without any."""

    def __init__(
        self, stream: TextIO, *, silence_s: float = SILENCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._stream = stream
        self._silence_s = silence_s
        self._woken = threading.Condition(self._lock)
        self._open = False
        self._written = 0
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._open = True
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._woken:
            self._open = False
            self._woken.notify()
        self._thread.join()

    def __call__(self, progress: Progress, /) -> None:
        with self._woken:
            if self._take(progress):
                self._write()
                self._woken.notify()

    def _write(self) -> None:
        self._written += 1
        write(self._stream, self._line())

    def _watch(self) -> None:
        with self._woken:
            while self._open:
                before = self._written
                self._woken.wait_for(lambda b=before: not self._open or self._written != b, self._silence_s)  # type: ignore[misc]
                if self._open and self._written == before and self._news is not None:
                    self._write()


class LiveDisplay(_Clocked):
    """One block at a terminal, redrawn at most four times a second and removed at the end."""

    def __init__(
        self, stream: TextIO, *, color: bool, width: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(clock)
        console = Console(
            file=stream, no_color=not color, force_terminal=True, markup=False, highlight=False, width=width
        )
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=REDRAWS_PER_S, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def __call__(self, progress: Progress, /) -> None:
        with self._lock:
            self._take(progress)

    def render(self) -> Text:
        """The block as it stands now."""
        from rich.text import Text

        with self._lock:
            elapsed = f"{self._clock() - self._began:.0f} s"
            text = Text(no_wrap=True, overflow="ellipsis")
            if self._news is None:
                return text.append(f"starting  {elapsed}")
            if self._news.round is not None and self._news.total:
                full = min(_BAR_CELLS, _BAR_CELLS * self._news.round // self._news.total)
                text.append("━" * full, style="green").append("━" * (_BAR_CELLS - full), style="dim").append("  ")
            return text.append(self._line()).append(f"  {elapsed}", style="dim")


def display(stream: TextIO, *, quiet: bool, color: bool) -> AbstractContextManager[Display]:
    """The display that fits ``stream``: none when quiet, live at a terminal, else lines."""
    if quiet:
        return nullcontext(_silent)
    return LiveDisplay(stream, color=color) if stream.isatty() else PlainDisplay(stream)


def _silent(progress: Progress, /) -> None:
    """What -q shows of a run's progress."""
