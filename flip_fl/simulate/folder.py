"""A run's folder: where everything of one simulated run lies, and the rule for using a folder again."""

from __future__ import annotations

import shutil
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


def claim(out: Path | None, app: Path) -> RunFolder:
    """An empty run folder: ``out``, else ``runs/<app>-<time>``.

    A folder that an earlier run wrote is emptied. Raises ``FlipError`` E0508 for one that holds anything else.
    """
    root = (out or Path("runs") / f"{app.resolve().name}-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    if root.exists():
        if not root.is_dir() or (any(root.iterdir()) and not (root / MARKER).is_file()):
            raise FlipError("E0508", folder=root)
        for entry in root.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    folder = RunFolder(root)
    for path in (root, folder.results, folder.state, folder.logs, folder.settings):
        path.mkdir(parents=True, exist_ok=True)
    folder.state.chmod(0o700)
    (root / MARKER).write_text("written by flip-fl run; emptied when the run is repeated\n", encoding="utf-8")
    return folder
