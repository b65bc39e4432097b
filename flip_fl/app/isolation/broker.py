"""A trust's data for a guest: asked for here, where the key is, of the job's own project, query and cohort alone."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flip_fl.app.faults import BadFrame
from flip_fl.app.isolation import handover
from flip_fl.app.isolation.channel import Channel
from flip_fl.app.script_data import MAX_OPEN, AskedSource, answered, cohort_of, told_error
from flip_fl.app.session import Session
from flip_fl.app.site import MANIFEST, Ledger, SiteSpec
from flip_fl.data.fetch import SideBySide
from flip_fl.data.images import Study, fetching_of
from flip_fl.data.manifest import Manifest, SkipReason
from flip_fl.errors import FlipError
from flip_fl.http import HttpConnectionError, HttpStatusError
from flip_fl.values import ResourceType

MAX_NAMES = 1_000_000
MAX_TOLD = 1_000
# Questions that are answered at once; whoever asks more waits.
_AT_ONCE = 8


class Broker:
    """Answers the questions of one task."""

    def __init__(
        self, channel: Channel, grant: Callable[[Path], None], spec: SiteSpec, session: Session, ledger: Ledger
    ) -> None:
        self._channel = channel
        self._grant = grant
        self._spec = spec
        self._session = session
        self._ledger = ledger
        self._fetching: dict[int, SideBySide[str, Study | SkipReason]] = {}
        self._told: set[str] = set()
        self._slots = threading.Semaphore(_AT_ONCE)
        self._over = threading.Event()
        self._open = 0
        self._lock = threading.Lock()

    def take(self, head: Mapping[str, Any]) -> None:
        """Answer a question, or end an answer, on a thread of its own. Raises ``ValueError`` for what is none."""
        number = head.get("ask")
        if type(number) is not int:
            raise ValueError("a question has no number")
        if head.get("kind") == "enough":
            fetching = self._fetching.get(number)
            if fetching is not None:
                fetching.stop()
            return
        with self._lock:
            self._open += 1
            if self._open > MAX_OPEN:
                raise ValueError(f"it asks more than {MAX_OPEN} questions at once")
        threading.Thread(target=self._answer, args=(number, dict(head)), name="flip-broker", daemon=True).start()

    def has_said(self, text: str) -> bool:
        """Whether ``text`` is that of an error which the guest has from here."""
        return text in self._told

    def close(self) -> None:
        """The task is over: nothing is asked for any more."""
        self._over.set()
        for fetching in list(self._fetching.values()):
            fetching.stop()

    def _answer(self, number: int, head: dict[str, Any]) -> None:
        with self._slots, contextlib.suppress(OSError):
            try:
                self._answered(number, head)
            except Exception as error:
                if isinstance(error, FlipError | HttpStatusError | HttpConnectionError) and len(self._told) < MAX_TOLD:
                    self._told.add(str(error))
                self._say(number, told_error(error))
        with self._lock:
            self._open -= 1

    def _answered(self, number: int, head: dict[str, Any]) -> None:
        if head.get("asked") == "images":
            return self._images(number, head)
        # A developer's own files have neither a project nor a query.
        if self._session.source.images_root is None:
            head["project"] = self._spec.project_id
        facts, arrays = answered(head, self._spec, self._session)
        if "error" in facts:
            with contextlib.suppress(Exception):
                self._remember(facts)
        for folder in facts.get("folders", {}).values():
            self._grant(Path(folder))
        memory = [handover.put(arrays)] if arrays else []
        try:
            self._say(number, facts, memory)
        finally:
            for descriptor in memory:
                os.close(descriptor)

    def _remember(self, facts: Mapping[str, Any]) -> None:
        try:
            AskedSource.raised(facts)
        except Exception as error:
            if len(self._told) < MAX_TOLD:
                self._told.add(str(error))

    def _images(self, number: int, head: Mapping[str, Any]) -> None:
        names, given = head.get("names"), head.get("types")
        if not isinstance(names, list) or len(names) > MAX_NAMES or not all(isinstance(name, str) for name in names):
            raise ValueError("the studies are not named")
        if not isinstance(given, list) or not given:
            raise ValueError("no types")
        types = tuple(dict.fromkeys(ResourceType(kind) for kind in given))
        with self._lock:
            cohort = cohort_of(self._spec, self._session)
        own = [name for name in dict.fromkeys(names) if name in cohort]
        session, project = self._session, self._spec.project_id
        known = session.index.of(project, types) if session.index is not None else None
        fetching = self._fetching[number] = fetching_of(session.source, project, own, types, known)
        outcomes: dict[str, SkipReason | None] = {}
        for name in names:
            if name not in cohort:
                outcomes[name] = SkipReason.REFUSED
                self._say(number, {"name": name, "skipped": SkipReason.REFUSED.value})
        if known is not None:
            known.claim(own)
        fetching.start()
        while (answer := fetching.answer()) is not None:
            name, outcome = answer
            outcomes[name] = outcome if isinstance(outcome, SkipReason) else None
            self._say(number, self._told_study(name, outcome))
        del self._fetching[number]
        if len(outcomes) == len(names):
            self._tell_skipped(Manifest({name: outcomes[name] for name in names}, self._session.cohort_unnamed))

    def _told_study(self, name: str, outcome: Study | SkipReason) -> dict[str, Any]:
        if isinstance(outcome, SkipReason):
            return {"name": name, "skipped": outcome.value}
        for folder in set(outcome.folders.values()):
            self._grant(folder)
        return {
            "name": name,
            "folders": {kind.value: str(folder) for kind, folder in outcome.folders.items()},
            "files": [[file.path, file.size, file.mtime_ns] for file in outcome.files],
        }

    def _tell_skipped(self, manifest: Manifest) -> None:
        text = str(manifest)
        # Every round finds the same: it is said when it is new.
        if manifest.skipped and self._session.told.get(MANIFEST) != text:
            self._session.told[MANIFEST] = text
            self._ledger.note(text)

    def _say(self, number: int, facts: Mapping[str, Any], memory: list[int] | None = None) -> None:
        if self._over.is_set():
            return
        try:
            self._channel.say({**facts, "kind": "answer", "ask": number}, memory or [])
        except BadFrame:
            self._channel.say({"error": "other", "text": "the answer is too large", "kind": "answer", "ask": number})
