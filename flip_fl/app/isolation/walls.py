"""The walls around one app's process, seen from outside: its folder, what it was granted, and what it uses."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from flip_fl.app.isolation.channel import Channel
from flip_fl.app.isolation.entering import await_entered
from flip_fl.app.isolation.opener import Opener
from flip_fl.app.isolation.rules import Isolation, Level, Rules, rules
from flip_fl.app.isolation.watching import Watch
from flip_fl.app.session import Session
from flip_fl.app.site import SiteSpec
from flip_fl.data.index import derived_dir
from flip_fl.data.uploads import make_upload_dir, upload_dir

_CONFIGURATION = "config"
# A larger file of an app's folder is not copied: it is read where it lies.
MAX_COPIED_BYTES = 64 << 20


class Walls:
    """One app's process of the session's job at ``level``. ``environment``: what the app has of its own.

    ``home`` is the only folder that the app may write to beside what it derives from its project's images. ``close``
    removes it.
    """

    def __init__(
        self, level: Level, wanted: Isolation, session: Session, spec: SiteSpec, environment: Mapping[str, str]
    ) -> None:
        self.level = level
        self.environment = environment
        self.home = _home(session.source.state_dir)
        # Also where a process ends without a word, as one that Flower starts for a single message does.
        self._removal = weakref.finalize(self, shutil.rmtree, self.home, ignore_errors=True)
        self.derived = _derived(session, spec)
        self.uploads = _uploads(session)
        self._wanted = wanted
        self._app_dir = session.app_dir.resolve()
        self._watch: Watch | None = None
        self._opener: Opener | None = None

    @property
    def rules(self) -> Rules:
        """What the process applies to itself."""
        read = [str(self._app_dir), *self._of_environment("DEV_DATAFRAME")]
        # FLIP() makes an empty folder there for a study that is missing.
        write = [str(self.home), *self._of_environment("DEV_IMAGES_DIR")]
        if self.derived is not None:
            write.append(str(self.derived))
        told = rules(self.level, self._wanted, read=tuple(read), write=tuple(write))
        return replace(told, drop=(str(self.uploads),))

    def _of_environment(self, name: str) -> list[str]:
        """A developer's own data, which an app may open by itself."""
        return [self.environment[name]] if name in self.environment else []

    def entered(self, channel: Channel, pid: int) -> None:
        """Wait until the process ``pid``, which was told the rules, is behind them. Raises ``GuestStopped``."""
        self._opener = await_entered(channel, pid, self.level, self._wanted.processes)

    def watch(self, pid: int, beyond: Callable[[str], None]) -> None:
        """From now on ``beyond`` is called when the process ``pid``, with all that it started, uses too much."""
        # Twice as many: between a process that may be started and one that is counted there is a moment.
        self._watch = Watch(pid, 2 * self._wanted.processes, self._wanted.memory_bytes, beyond)

    def grant(self, folder: Path) -> None:
        """The app may read what lies in ``folder`` from now on."""
        if self._opener is not None:
            self._opener.grant(folder)

    def copy_of_app(self) -> Path:
        """The app's folder for one that writes beside itself; the folder that the job brought stays as it is.

        Existing scripts read the configuration of their job in the folder beside it.
        """
        copy = self.home / "app" / self._app_dir.name
        for folder in (self._app_dir, self._app_dir.with_name(_CONFIGURATION)):
            if folder.is_dir():
                shutil.copytree(folder, copy.with_name(folder.name), copy_function=_copied, symlinks=True)
        return copy

    def close(self) -> None:
        """Nothing is left of it. The process has ended before."""
        if self._watch is not None:
            self._watch.close()
        self._removal()


def _copied(source: str, target: str) -> str:
    if os.path.getsize(source) > MAX_COPIED_BYTES:
        os.symlink(source, target)
        return target
    return str(shutil.copyfile(source, target))


def _home(state_dir: Path | None) -> Path:
    """A new folder for what the app writes; what killed processes have left is removed."""
    parent = Path(tempfile.gettempdir(), f"flip-guests-{os.getuid()}") if state_dir is None else state_dir / "guests"
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in parent.glob("*-*"):
        number, _, _ = left.name.partition("-")
        if number.isdigit() and not Path("/proc", number).exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent)).resolve()


def _uploads(session: Session) -> Path:
    """Where an app puts what it made for ``site.add_resource``. Made here: walls are put around what is there."""
    folder = upload_dir(session.source)
    make_upload_dir(folder)
    return folder.resolve()


def _derived(session: Session, spec: SiteSpec) -> Path | None:
    state = session.source.state_dir
    if state is None:
        return None
    folder = derived_dir(state, spec.project_id)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder.resolve()
