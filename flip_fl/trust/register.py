"""What projects may have: their studies, and in frozen mode their snapshot. Asked with each request: it remembers."""

from __future__ import annotations

import threading
import time

from flip_fl.trust.own import Project, find_project, has_study
from flip_fl.trust.selection import Database

# How long a project that was approved anew is still served as it was.
_REMEMBER_S = 1.0
_MOST_STUDIES = 200_000


class Register:
    """The projects of one trust. ``frozen``: a project has the studies of its snapshot, else all. Thread-safe."""

    def __init__(self, database: Database, *, frozen: bool) -> None:
        self._database = database
        self._frozen = frozen
        self._lock = threading.Lock()
        self._projects: dict[str, tuple[float, Project]] = {}
        self._studies: set[tuple[int, str]] = set()

    def project(self, name: str) -> Project | None:
        """None for a project that the trust does not know. Raises ``Refusal`` 500."""
        now = time.monotonic()
        with self._lock:
            known = self._projects.get(name)
        if known is not None and now < known[0]:
            return known[1]
        found = find_project(self._database, name)
        with self._lock:
            if found is None:
                self._projects.pop(name, None)
            else:
                self._projects[name] = (now + _REMEMBER_S, found)
        return found

    def may_have(self, project: Project, accession_id: str) -> bool:
        """Whether the project may have this study. Raises ``Refusal`` 500."""
        if not self._frozen:
            return True
        if project.snapshot is None:
            return False
        # A snapshot never changes: what is in it stays in it.
        entry = (project.snapshot, accession_id)
        with self._lock:
            if entry in self._studies:
                return True
        if not has_study(self._database, *entry):
            return False
        with self._lock:
            if len(self._studies) >= _MOST_STUDIES:
                self._studies.clear()
            self._studies.add(entry)
        return True
