"""A site's account of the privacy that its projects have spent: durable, and written before anything leaves.

``privacy.sqlite`` in the site's state folder, readable by its owner alone, one row a release. Who writes holds SQLite's
lock, so that two jobs of one project never spend the same rest of a budget. A round whose row is written and whose
update is then lost counts as spent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.privacy.accountant import epsilon_of

ACCOUNT_FILE = "privacy.sqlite"
LOCK_WAIT_S = 30.0
_TABLE = """
CREATE TABLE IF NOT EXISTS spent (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, project TEXT NOT NULL, cohort TEXT NOT NULL, job TEXT NOT NULL,
    task TEXT NOT NULL, round INTEGER NOT NULL, stage TEXT NOT NULL, multiplier REAL NOT NULL CHECK (multiplier > 0)
)"""
# A project whose id is sealed anew for each job is known again by its cohort.
_OF = "FROM spent WHERE project = ? OR cohort = ?"


@dataclass(frozen=True)
class Release:
    """One update that is about to leave: of which project's cohort, in which job, with which noise ``multiplier``."""

    project: str
    cohort: str
    job: str
    task: str
    round: int
    stage: str | None
    multiplier: float


@dataclass(frozen=True)
class Spent:
    """What one project has spent, over all of its cohorts."""

    project: str
    rounds: int
    jobs: int
    cohorts: int
    first: str
    last: str
    epsilon: float


def cohort_of(query: str) -> str:
    """By what the cohort of ``query`` is known here: a digest that white space and letter case do not change."""
    return hashlib.sha256(" ".join(query.lower().split()).encode()).hexdigest()


class Account:
    """The account in ``state_dir``. Every method raises ``FlipError`` E0977 where it cannot be read or written."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / ACCOUNT_FILE
        # The last figure: what is asked before a round is asked again after it, and takes a second to compute.
        self._known: tuple[tuple[tuple[float, int], ...], float, float] | None = None

    def epsilon(self, project: str, cohort: str, delta: float, also: float | None = None) -> float:
        """The ε at ``delta`` that the project, or its cohort, has spent, and a release with multiplier ``also``."""
        with self._open() as database:
            return self._epsilon(self._releases(database, project, cohort), delta, also)

    def spend(self, release: Release, delta: float, most: float | None) -> float:
        """Write ``release`` down, durably, and return the ε that is then spent.

        With more than ``most`` nothing is written; the ε that it would have been is returned all the same.
        """
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            spent = self._releases(database, release.project, release.cohort)
            epsilon = self._epsilon(spent, delta, release.multiplier)
            if most is not None and epsilon > most:
                database.execute("ROLLBACK")
                return epsilon
            database.execute(
                "INSERT INTO spent (at, project, cohort, job, task, round, stage, multiplier) VALUES (?,?,?,?,?,?,?,?)",
                (
                    datetime.now(UTC).isoformat(timespec="seconds"),
                    release.project,
                    release.cohort,
                    release.job,
                    release.task,
                    release.round,
                    release.stage or "",
                    release.multiplier,
                ),
            )
            database.execute("COMMIT")
            return epsilon

    def projects(self, delta: float) -> list[Spent]:
        """What every project has spent at ``delta``, by its id. Nothing is made where there is no account yet."""
        if not self.path.is_file():
            return []
        with self._open() as database:
            rows = database.execute(
                "SELECT project, COUNT(*), COUNT(DISTINCT job), COUNT(DISTINCT cohort), MIN(at), MAX(at) FROM spent "
                "GROUP BY project ORDER BY project"
            ).fetchall()
            found = []
            for project, rounds, jobs, cohorts, first, last in rows:
                alike = "SELECT multiplier, COUNT(*) FROM spent WHERE project = ? OR cohort IN "
                alike += "(SELECT cohort FROM spent WHERE project = ?) GROUP BY multiplier"
                releases = Counter(dict(database.execute(alike, (project, project)).fetchall()))
                epsilon = self._epsilon(releases, delta, None)
                found.append(Spent(project, rounds, jobs, cohorts, first, last, epsilon))
            return found

    def _releases(self, database: sqlite3.Connection, project: str, cohort: str) -> Counter[float]:
        rows = database.execute(f"SELECT multiplier, COUNT(*) {_OF} GROUP BY multiplier", (project, cohort))
        return Counter(dict(rows.fetchall()))

    def _epsilon(self, releases: Counter[float], delta: float, also: float | None) -> float:
        together = releases + Counter([also] if also is not None else [])
        key = tuple(sorted(together.items()))
        if self._known is None or self._known[:2] != (key, delta):
            self._known = (key, delta, epsilon_of(together, delta))
        return self._known[2]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
            self.path.chmod(0o600)
            with contextlib.closing(sqlite3.connect(self.path, timeout=LOCK_WAIT_S, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous=FULL")
                database.execute(_TABLE)
                yield database
        except (sqlite3.Error, OSError) as error:
            problem = f"{self.path} cannot be used ({error})"
            suggestion = "mend the disk, or put a backup of the file back; an empty one would forget what was spent"
            raise FlipError("E0977", problem=problem, suggestion=suggestion) from error
