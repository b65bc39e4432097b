"""What stays between the tasks of one site's process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip_fl.app.batch import Publish
from flip_fl.app.config import AppConfig, load_config
from flip_fl.app.loader import AppLoader
from flip_fl.app.local_state import LocalState
from flip_fl.app.site import Ledger, SiteSpec
from flip_fl.data.images import Studies, fetch_studies
from flip_fl.data.index import open_index
from flip_fl.privacy.gate import Gate

if TYPE_CHECKING:
    from flip_fl.data.sources import Source
    from flip_fl.privacy.policy import SitePolicy


class Session:
    """What stays between the tasks of one site's process: the app's modules, its source, its memory.

    ``publish`` gets live batches of wire items, on a thread of its own (None: nobody listens); ``aborted`` says
    whether the run was stopped. ``show_output`` lets the app's prints through, for a developer's own machine.
    ``failed`` gets the exception that ended a task, as it was raised: its text may hold patients' data. ``job`` is the
    engine's name for the run: its images are removed with ``release``, or, when its processes are killed, when the next
    job starts. ``local_rounds``: LOCAL_ROUNDS as the engine's job has it (0: it says nothing). ``policy`` is the site's
    (None: it has none): what it demands is behind ``gate``. ``less_than_full``: the level of isolation, where the hub
    is to hear of it.
    """

    def __init__(
        self,
        app_dir: Path,
        source: Source,
        publish: Publish | None = None,
        aborted: Callable[[], bool] = lambda: False,
        memory: dict[str, Any] | None = None,
        *,
        show_output: bool = False,
        failed: Callable[[BaseException], None] = lambda error: None,
        job: str = "",
        local_rounds: int | str = 0,
        policy: SitePolicy | None = None,
        less_than_full: str | None = None,
    ) -> None:
        self.app_dir = app_dir
        self.source = source
        self.publish = publish
        self.aborted = aborted
        self.memory: dict[str, Any] = {} if memory is None else memory
        self.show_output = show_output
        self.failed = failed
        self.loader = AppLoader(app_dir)
        self.output_reported = False
        self.told: dict[str, str] = {}
        self._less_than_full = less_than_full
        # How many rows the app was given; None: it has not asked yet, or not through this process.
        self.cohort_rows: int | None = None
        # Whose studies an app may ask for, and how many of the cohort's rows name none; None: not looked up yet.
        self.cohort_studies: frozenset[str] | None = None
        self.cohort_unnamed = 0
        # How studies are fetched for the app.
        self.fetch: Callable[..., Studies] = fetch_studies
        # Where files lie that the app wants stored; None: where the source has them.
        self.uploads: Path | None = None
        self._config: AppConfig | None = None
        self._local_rounds = local_rounds
        self.gate = Gate(policy, source.state_dir, job)
        self.local = LocalState(source.state_dir, job)
        self.index = open_index(source, job)
        if self.index is not None:
            # What an earlier job left must not hold up this one.
            threading.Thread(target=self.index.sweep, args=(source,), name="flip-sweep", daemon=True).start()

    @property
    def config(self) -> AppConfig:
        """The app's config, read once. Raises ``FlipError`` as ``load_config`` does."""
        if self._config is None:
            self._config = load_config(self.app_dir).with_local_rounds(self._local_rounds)
        return self._config

    def examples(self, said: int | None) -> int | None:
        """On how many examples a task has worked at most: what the app ``said``, and no more than it was given."""
        return said if said is None or self.cohort_rows is None else min(said, self.cohort_rows)

    def tell_level(self, ledger: Ledger) -> None:
        """Report, once, that the app runs at less than full isolation, where it does."""
        level, self._less_than_full = self._less_than_full, None
        if level is not None:
            ledger.note(f"this site runs the app at isolation level {level}, less than full", success=True)

    def tell_withheld(self, lines: int, spec: SiteSpec, ledger: Ledger) -> None:
        """Report, once, that the app has printed, if it has."""
        if lines and not self.output_reported:
            self.output_reported = True
            ledger.note(
                f"{lines} lines that the app printed in {spec.where()} are withheld, here and from now on: "
                "they could hold patients' data; use site.log() for numbers",
                success=True,
            )

    def close(self) -> None:
        """Forget what the app has built: data sets may hold files and workers. The job goes on elsewhere."""
        self.memory.clear()
        if self.index is not None:
            self.index.close()

    def release(self) -> None:
        """The job is over: as ``close``, and its images and the site's own part of the model are removed."""
        self.memory.clear()
        self.local.clear()
        if self.index is not None:
            self.index.release()
