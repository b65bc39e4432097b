"""What an FL server's own process sees of its sites: kept in a file of its kit, and told to the runs going on.

A kit that is started twice has the same key twice: no server can tell the copy from the original. The engines keep who
came first; whoever runs the federation must learn of the other one. A site's clock is known here, too, without any run:
it says the time with each connection or request. Runs tell of it themselves, with each result.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flip_fl.errors import FlipError
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.reporter import Reporter
from flip_fl.reporting.stats import find_outboxes, read_stats
from flip_fl.values import WORTH_TELLING_SKEW_S

logger = logging.getLogger("flip_fl.reporting")

FILE = "site-news.json"
UNKNOWN = "an unknown address"
# A site whose address changes with every attempt must not fill the disk.
MAX_KEPT = 100


@dataclass(frozen=True)
class SecondHolder:
    """Somebody at ``address`` was refused ``times`` as ``slot``, which is held from the address ``holder``. In UTC."""

    slot: str
    address: str
    holder: str
    first: str
    last: str
    times: int = 1

    @property
    def words(self) -> str:
        """What happened, for people."""
        return (
            f"a second copy of the kit of {self.slot} is refused: it connects from {self.address}, "
            f"while the slot is held from {self.holder}"
        )


@dataclass(frozen=True)
class SiteClock:
    """The clock of ``slot`` was ``ahead_s`` ahead of the server's (below 0: behind) when it was ``seen`` last (UTC)."""

    slot: str
    ahead_s: float
    seen: str


@dataclass
class Known:
    """All that a server has noted, as it stands in its file; the newest last."""

    second_holders: list[SecondHolder] = field(default_factory=list)
    clocks: list[SiteClock] = field(default_factory=list)


class SiteNews:
    """Takes news from any thread, without waiting; writing and telling are a thread's of its own.

    ``state`` is the server's kit's state folder, ``runs`` the folder of its runs' outboxes (None: there is no hub).
    """

    def __init__(self, state: Path, runs: Path | None) -> None:
        self._state = state
        self._runs = runs
        self._known = read(state)
        # Who connected before this server was started says the time anew.
        self._clocks: dict[str, SiteClock] = {}
        self._told: set[tuple[str, ...]] = set()
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="flip-site-news", daemon=True).start()

    def refused(self, slot: str, address: str, holder: str) -> None:
        """Somebody at ``address`` was refused as ``slot``, which is held from ``holder``."""
        self._waiting.put(lambda: self._refused(slot, address, holder))

    def clock(self, slot: str, told: float) -> None:
        """``slot`` said just now that it is ``told`` (seconds since 1970)."""
        ahead_s = round(told - time.time(), 1)
        if abs(ahead_s) > WORTH_TELLING_SKEW_S or slot in self._clocks:
            self._waiting.put(lambda: self._clock(slot, ahead_s))

    def _work(self) -> None:
        while True:
            try:
                self._waiting.get()()
            except Exception:
                logger.exception("news of a site could not be kept")

    def _refused(self, slot: str, address: str, holder: str) -> None:
        now = _now()
        others = {(one.slot, one.address): one for one in self._known.second_holders}
        before = others.pop((slot, address), None)
        found = SecondHolder(slot, address, holder, now, now)
        if before is not None:
            found = replace(found, first=before.first, times=before.times + 1)
        logger.log(logging.INFO if before else logging.WARNING, found.words)
        self._known.second_holders = [*others.values(), found][-MAX_KEPT:]
        self._keep()
        self._tell(("holder", slot, address), lambda reporter: reporter.failure(slot, found.words))

    def _clock(self, slot: str, ahead_s: float) -> None:
        before = self._clocks.pop(slot, None)
        if abs(ahead_s) > WORTH_TELLING_SKEW_S:
            self._clocks[slot] = SiteClock(slot, ahead_s, _now())
            if before is None:
                logger.warning("the clock of %s is off by %+.0f s", slot, ahead_s)
        # A site says the time every few seconds: what is known already is not written again.
        if before is None or slot not in self._clocks or abs(before.ahead_s - ahead_s) > WORTH_TELLING_SKEW_S:
            self._known.clocks = list(self._clocks.values())
            self._keep()

    def _tell(self, what: tuple[str, ...], report: Callable[[Reporter], bool]) -> None:
        """Once a run."""
        for path in self._going_on():
            key = (path.stem, *what)
            if key in self._told:
                continue
            try:
                outbox = Outbox(path)
            except FlipError as error:
                logger.warning("the run of model %s could not be told: %s", path.stem, error.what)
                continue
            try:
                report(Reporter(outbox))
            finally:
                outbox.close()
            self._told.add(key)

    def _going_on(self) -> Iterator[Path]:
        """The outboxes of the runs whose processes live: they send what others append, too."""
        if self._runs is not None:
            yield from (path for path in find_outboxes([self._runs]) if read_stats(path).sending)

    def _keep(self) -> None:
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._state / f"{FILE}.new"
        temporary.write_text(json.dumps(asdict(self._known), indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._state / FILE)


def read(state: Path) -> Known:
    """What the server whose kit's state folder this is has noted; nothing where it has noted nothing."""
    try:
        told: dict[str, Any] = json.loads((state / FILE).read_text(encoding="utf-8"))
        return Known(
            [SecondHolder(**facts) for facts in told["second_holders"]],
            [SiteClock(**facts) for facts in told["clocks"]],
        )
    except FileNotFoundError:
        return Known()
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s cannot be read (%s)", state / FILE, type(error).__name__)
        return Known()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
