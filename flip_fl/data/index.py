"""What lies where in a site's images folder, which jobs use it, and that it is gone when none does any more.

One SQLite file a site, in the state folder of the trust, since it names patients' studies. A job claims its studies
before it asks for the first one; a study is removed when no job claims it, in chunks of one transaction each, so that
a job that claims it meanwhile finds it either whole or gone. A job lives as long as a process holds its lock: its own,
or, for an engine whose site has none between two tasks, its keeper (``data.keeper``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from flip_fl.data.images import Study
from flip_fl.data.listing import OutsideError, StudyFile, list_files, merged
from flip_fl.errors import FlipError
from flip_fl.http import HttpConnectionError, HttpStatusError
from flip_fl.reporting.locks import FileLock
from flip_fl.values import ResourceType

if TYPE_CHECKING:
    from flip_fl.data.sources import Source

SCHEMA_VERSION = 2
BUSY_S = 60.0
CHUNK = 200
_TABLES = """
CREATE TABLE study (
  project TEXT NOT NULL, accession TEXT NOT NULL, type TEXT NOT NULL, folder TEXT NOT NULL, files TEXT NOT NULL,
  PRIMARY KEY (project, accession, type)) WITHOUT ROWID;
CREATE TABLE place (accession TEXT NOT NULL, folder TEXT NOT NULL, PRIMARY KEY (accession, folder)) WITHOUT ROWID;
CREATE TABLE job (job TEXT PRIMARY KEY, used_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE claim (
  accession TEXT NOT NULL, job TEXT NOT NULL, project TEXT NOT NULL,
  PRIMARY KEY (accession, job, project)) WITHOUT ROWID;
CREATE INDEX claim_job ON claim (job);
CREATE TABLE asked (
  project TEXT NOT NULL, accession TEXT NOT NULL, types TEXT NOT NULL,
  PRIMARY KEY (project, accession, types)) WITHOUT ROWID;
"""

_AS_TEXT = json.JSONEncoder(separators=(",", ":")).encode

logger = logging.getLogger(__name__)


@dataclass
class _Change:
    """Something to write, and whether it is written."""

    make: Callable[[sqlite3.Connection], object]
    written: bool = False


class ImageIndex:
    """The index of one site, as one job uses it. Safe for several threads, and for several processes on one file.

    ``folder`` holds the file (None: it is gone with this object). ``watch``: the job's lock, held; only look after a
    job that others use.
    """

    def __init__(self, folder: Path | None, root: Path, job: str, *, watch: FileLock | None = None) -> None:
        self.root = root
        self.folder = folder
        self.job = job
        self._lock = threading.Lock()
        self._changes: deque[_Change] = deque()
        self._complained = False
        self._alive = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._alive = watch or job_lock(folder, job)
        self._database = _open(folder)
        if watch is None:
            self.renew()

    def of(self, project_id: str, types: Sequence[ResourceType]) -> ProjectStudies:
        """The part of one project and of studies in these types."""
        return ProjectStudies(self, project_id, types)

    def write(self, change: Callable[[sqlite3.Connection], object]) -> None:
        """Write before returning, in one transaction with what other threads write meanwhile.

        The database's refusals (a full disk, say) are logged: studies are used all the same.
        """
        mine = _Change(change)
        self._changes.append(mine)
        with self._lock:
            if not mine.written:
                self._write_all()

    def _write_all(self) -> None:
        changes = [self._changes.popleft() for _ in range(len(self._changes))]
        try:
            with _transaction(self._database):
                for each in changes:
                    each.make(self._database)
        except sqlite3.Error as error:
            self._unusable("written", error)
        except BaseException:
            # Whoever waits for one of them writes it.
            self._changes.extendleft(reversed(changes))
            raise
        for each in changes:
            each.written = True

    def read(self, query: str, values: Sequence[object]) -> list[tuple[str, ...]]:
        """The rows; none, which is logged, where the database cannot be read."""
        with self._lock:
            try:
                return self._database.execute(query, values).fetchall()
            except sqlite3.Error as error:
                self._unusable("read", error)
                return []

    def claim(self, project: str, names: Iterable[str]) -> None:
        def change(database: sqlite3.Connection) -> None:
            database.execute(
                "INSERT INTO job VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET used_at = excluded.used_at",
                (self.job, time.time()),
            )
            database.executemany(
                "INSERT OR IGNORE INTO claim VALUES (?, ?, ?)", ((name, self.job, project) for name in names)
            )

        self.write(change)

    def renew(self) -> None:
        """Say that the job is in use now."""
        self.claim("", ())

    def used_at(self) -> float | None:
        """When the job was last used, in seconds since 1970; None when it is over."""
        rows = self.read("SELECT used_at FROM job WHERE job = ?", (self.job,))
        return float(rows[0][0]) if rows and self._alive is not None and self._alive.stands else None

    def end_if_alone(self, source: Source | None) -> bool:
        """End the job unless another process holds it, and do as ``sweep`` then; whether that was so."""
        assert self._alive is not None  # a database in memory is no other process's
        if not self._alive.acquire():
            # A lock that could not be turned into an exclusive one is lost.
            self._alive.acquire(shared=True, wait=True)
            return False
        with self._lock, _logged():
            self._end(self.job)
            if source is None:
                self._remove_unclaimed()
        if source is not None:
            self.sweep(source)
        self._forget_lock()
        self.close()
        return True

    def release(self) -> None:
        """The job is over: remove what no other job uses. A study that comes later is removed by the next ``sweep``."""
        with self._lock:
            with _logged():
                self._end(self.job)
                self._remove_unclaimed()
            self._forget_lock()
        self.close()

    def close(self) -> None:
        """Let go of the file; the job goes on."""
        with self._lock:
            self._database.close()
            if self._alive is not None:
                self._alive.release()

    def sweep(self, source: Source) -> None:
        """Do for jobs whose processes are gone what they could not do: end them, and remove what only they used.

        Asks ``source`` where studies lie that were on their way when their job was killed.
        """
        with self._lock, _logged():
            for (job,) in self._database.execute("SELECT job FROM job").fetchall():
                if job != self.job:
                    self._end_if_over(job)
        for project, name, types in self.read("SELECT * FROM asked", ()):
            if not self._find(source, project, name, types):
                break
        with self._lock, _logged():
            self._remove_unclaimed()

    def _unusable(self, how: str, error: sqlite3.Error) -> None:
        # Each study would say it again.
        if not self._complained:
            self._complained = True
            logger.warning("the index of images cannot be %s: %s", how, type(error).__name__)

    def _forget_lock(self) -> None:
        if self.folder is not None:
            lock_file(self.folder, self.job).unlink(missing_ok=True)

    def _end_if_over(self, job: str) -> None:
        assert self.folder is not None  # a database in memory knows no other job
        path = lock_file(self.folder, job)
        lock = FileLock(path)
        # Held meanwhile: a process of the job that comes back now begins anew, with claims of its own.
        if lock.acquire():
            try:
                self._end(job)
                for file in (path, lock_file(self.folder, job, "keeper")):
                    file.unlink(missing_ok=True)
            finally:
                lock.release()

    def _find(self, source: Source, project: str, name: str, types: str) -> bool:
        """Learn where a study lies that was asked for when its job was killed. False: the service cannot say now."""
        if self.read("SELECT 1 FROM claim WHERE accession = ? LIMIT 1", (name,)):
            return True  # a live job uses it, and will know
        try:
            folders = source.resources(project, name, [ResourceType(kind) for kind in types.split(",")])
        except HttpConnectionError:
            return False
        except (HttpStatusError, FlipError, OSError):
            folders = {}
        self.write(lambda database: _found(database, project, name, types, folders))
        return True

    def _end(self, job: str) -> None:
        with _transaction(self._database):
            projects = self._database.execute("SELECT DISTINCT project FROM claim WHERE job = ?", (job,)).fetchall()
            self._database.execute("DELETE FROM claim WHERE job = ?", (job,))
            self._database.execute("DELETE FROM job WHERE job = ?", (job,))
            for (project,) in projects:
                used = self._database.execute("SELECT 1 FROM claim WHERE project = ? LIMIT 1", (project,)).fetchone()
                if self.folder is not None and used is None:
                    shutil.rmtree(derived_dir(self.folder.parent, project), ignore_errors=True)

    def _remove_unclaimed(self) -> None:
        while True:
            with _transaction(self._database):
                rows = self._database.execute(
                    "SELECT accession, folder FROM place WHERE NOT EXISTS"
                    " (SELECT 1 FROM claim WHERE claim.accession = place.accession) LIMIT ?",
                    (CHUNK,),
                ).fetchall()
                for name, folder in rows:
                    _remove(Path(folder), self.root)
                    self._database.execute("DELETE FROM place WHERE accession = ? AND folder = ?", (name, folder))
                    self._database.execute("DELETE FROM study WHERE accession = ?", (name,))
            if len(rows) < CHUNK:
                return


class ProjectStudies:
    """What is known of one project's studies in certain types: a ``data.images.Known``."""

    def __init__(self, index: ImageIndex, project_id: str, types: Sequence[ResourceType]) -> None:
        self._index = index
        self._project = project_id
        self._types = tuple(types)
        self._names = ",".join(kind.value for kind in types)
        self._stored: dict[str, dict[str, tuple[str, str]]] = {}

    def claim(self, names: Sequence[str]) -> None:
        self._index.claim(self._project, names)
        marks = ", ".join("?" * len(self._types))
        query = f"SELECT accession, type, folder, files FROM study WHERE project = ? AND type IN ({marks})"
        stored: dict[str, dict[str, tuple[str, str]]] = {}
        for name, kind, folder, files in self._index.read(query, (self._project, *(k.value for k in self._types))):
            stored.setdefault(name, {})[kind] = (folder, files)
        self._stored = stored

    def get(self, accession_id: str) -> Study | None:
        stored = self._stored.get(accession_id)
        if stored is None or len(stored) < len(self._types):
            return None
        lying: dict[str, tuple[StudyFile, ...]] = {}
        for folder, files in stored.values():
            if folder not in lying:
                try:
                    lying[folder] = list_files(folder, self._index.root)
                except (OSError, OutsideError):
                    return None
            if _written(folder, lying[folder]) != files:
                return None
        return Study(
            accession_id,
            MappingProxyType({kind: Path(stored[kind.value][0]) for kind in self._types}),
            merged(list(lying.values())),
        )

    def asking(self, accession_id: str) -> None:
        row = (self._project, accession_id, self._names)
        self._index.write(lambda database: database.execute("INSERT OR IGNORE INTO asked VALUES (?, ?, ?)", row))

    def found(self, accession_id: str, folders: Mapping[ResourceType, Path], study: Study | None = None) -> None:
        rows = []
        if study is not None:
            for kind, folder in folders.items():
                inside = [file for file in study.files if file.path.startswith(f"{folder}/")]
                rows.append((self._project, accession_id, kind.value, str(folder), _written(str(folder), inside)))

        def change(database: sqlite3.Connection) -> None:
            _found(database, self._project, accession_id, self._names, folders)
            database.executemany("INSERT OR REPLACE INTO study VALUES (?, ?, ?, ?, ?)", rows)

        self._index.write(change)


def open_index(source: Source, job: str) -> ImageIndex | None:
    """The index for ``job`` at the site of ``source``; None where nothing is fetched and nothing may be removed."""
    if source.images_root is None:
        return None
    folder = source.state_dir / "images" if source.state_dir is not None else None
    return ImageIndex(folder, source.images_root, job)


def derived_dir(state_dir: Path, project_id: str) -> Path:
    """The folder of what was computed from the studies of one project."""
    return state_dir / "derived" / hashlib.sha256(project_id.encode()).hexdigest()[:32]


def _written(folder: str, files: Sequence[StudyFile]) -> str:
    start = len(folder) + 1
    return _AS_TEXT([[file.path[start:], file.size, file.mtime_ns] for file in files])


def _found(
    database: sqlite3.Connection, project: str, name: str, types: str, folders: Mapping[ResourceType, Path]
) -> None:
    places = ((name, str(folder)) for folder in dict.fromkeys(folders.values()))
    database.executemany("INSERT OR IGNORE INTO place VALUES (?, ?)", places)
    database.execute("DELETE FROM asked WHERE project = ? AND accession = ? AND types = ?", (project, name, types))


def _remove(folder: Path, root: Path) -> None:
    """Remove a study's folder, and what is empty above it; nothing that does not lie below ``root``."""
    base, target = os.path.realpath(root), os.path.realpath(folder)
    if target == base or os.path.commonpath([base, target]) != base:
        return
    shutil.rmtree(target, ignore_errors=True)
    parent = os.path.dirname(target)
    with contextlib.suppress(OSError):
        while parent != base:
            os.rmdir(parent)
            parent = os.path.dirname(parent)


def job_lock(folder: Path, job: str) -> FileLock:
    """The lock that says that the job lives, held beside the job's other processes."""
    lock = FileLock(lock_file(folder, job))
    # Somebody who looks whether this job lives holds it for a moment.
    lock.acquire(shared=True, wait=True)
    return lock


def lock_file(folder: Path, job: str, kind: str = "lock") -> Path:
    """The file whose lock a job's processes hold, or its keeper (``kind`` "keeper")."""
    return folder / f"{hashlib.sha256(job.encode()).hexdigest()[:32]}.{kind}"


def _open(folder: Path | None) -> sqlite3.Connection:
    if folder is None:
        return _connect(":memory:")
    path = folder / "index.sqlite"
    try:
        return _connect(str(path))
    except sqlite3.OperationalError as error:
        logger.warning("the index of images cannot be used: %s; it lasts as long as this process", type(error).__name__)
        return _connect(":memory:")
    except sqlite3.DatabaseError:
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        os.replace(path, aside)
        logger.warning(
            "the index of images was damaged and is set aside as %s: studies are asked for again", aside.name
        )
        return _connect(str(path))


def _connect(name: str) -> sqlite3.Connection:
    database = sqlite3.connect(name, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        if name != ":memory:":
            os.chmod(name, 0o600)
        database.execute("PRAGMA journal_mode = WAL")
        # A power cut may cost the newest rows: such studies are asked for again.
        database.execute("PRAGMA synchronous = NORMAL")
        with _transaction(database):
            if database.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    database.execute(f'DROP TABLE "{table}"')
                for statement in filter(str.strip, _TABLES.split(";\n")):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        database.close()
        raise
    return database


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """What cannot be tidied up now is left to the next job's start."""
    try:
        yield
    except sqlite3.Error as error:
        logger.warning("images stay until the next job's start: %s", type(error).__name__)


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # A disk that is full has sometimes rolled back already.
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
