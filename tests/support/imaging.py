"""An imaging service on loopback whose answers a test decides, study by study, and a source that asks it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flip_fl.data.sources.trust import TrustSource
from flip_fl.settings import ClientSettings, load
from tests.support.core import client_values, settings_at
from tests.support.recording_server import Answer, Recorded, RecordingServer, recording_server

Say = Callable[[str, int], Answer | None]


@dataclass
class Imaging:
    """``say(accession, attempt)`` decides an answer (None: the study is put there); ``most`` were under way at once."""

    server: RecordingServer
    root: Path
    source: TrustSource
    say: Say = lambda accession, attempt: None
    attempts: dict[str, int] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=lambda: {"input_1.nii.gz": b"pixels"})

    @property
    def asked(self) -> list[str]:
        return [request.json["accession_id"] for request in list(self.server.requests)]

    def answer(self, request: Recorded) -> Answer:
        name = request.json["accession_id"]
        self.attempts[name] = self.attempts.get(name, 0) + 1
        said = self.say(name, self.attempts[name])
        if said is not None:
            return said
        self.put(name)
        return Answer(200, {"path": str(self.root / name)})

    def put(self, name: str) -> Path:
        """The study as the service would leave it on the shared file system."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in self.files.items():
            if not (folder / file).exists():
                (folder / file).write_bytes(content)
        return folder


@contextmanager
def imaging(tmp_path: Path, **settings: str) -> Iterator[Imaging]:
    """A running service and a client's source with these settings."""
    root = tmp_path / "images"
    root.mkdir(exist_ok=True)
    with recording_server() as server:
        file = settings_at(tmp_path, client_values(server.url, server.url, root, **settings))
        service = Imaging(server, root, TrustSource(load(ClientSettings, file)))
        server.answer = service.answer
        yield service


@contextmanager
def released(event: threading.Event) -> Iterator[threading.Event]:
    """Whatever waits for ``event`` goes on at the end, so that no thread of a test outlives it."""
    try:
        yield event
    finally:
        event.set()
