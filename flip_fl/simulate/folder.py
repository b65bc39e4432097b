"""A run's folder: where everything of one simulated run lies, and the rule for using a folder again."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flip_fl.errors import FlipError

MARKER = ".flip-fl-run"


@dataclass(frozen=True)
class RunFolder:
    """``report.html``, ``story.json``, ``results/``, ``hub.sqlite``, ``state/`` and ``logs/`` of one run."""

    root: Path

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def story(self) -> Path:
        return self.root / "story.json"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def database(self) -> Path:
        return self.root / "hub.sqlite"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def settings(self) -> Path:
        return self.state / "settings"

    @property
    def engine(self) -> Path:
        return self.state / "engine"

    @property
    def data(self) -> Path:
        return self.state / "data"

    def site(self, slot: str) -> Path:
        """The simulated trust's own data."""
        return self.state / "sites" / slot

    @property
    def job(self) -> Path:
        return self.state / "job"


@contextlib.contextmanager
def claim(out: Path | None, app: Path) -> Iterator[RunFolder]:
    """An empty run folder of one's own while the block runs: ``out``, else a new ``runs/<app>-<time>``.

    A folder that an earlier run wrote is emptied. Raises ``FlipError`` E0508 for one that holds anything else, E0512
    for one that a run is using.
    """
    root = (out if out is not None else _fresh(app)).resolve()
    if root.exists() and (not root.is_dir() or (any(root.iterdir()) and not (root / MARKER).is_file())):
        raise FlipError("E0508", folder=root)
    root.mkdir(parents=True, exist_ok=True)
    with (root / MARKER).open("a", encoding="utf-8") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FlipError("E0512", folder=root) from None
        for entry in root.iterdir():
            if entry.name != MARKER:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        folder = RunFolder(root)
        for path in (folder.results, folder.state, folder.logs, folder.settings):
            path.mkdir()
        folder.state.chmod(0o700)
        yield folder


def _fresh(app: Path) -> Path:
    """``runs/<app>-<time>``, with a number where two runs start in the same second; made here, so that it is ours."""
    name = f"{app.resolve().name}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        path = Path("runs") / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("unreachable: itertools.count() does not end")
