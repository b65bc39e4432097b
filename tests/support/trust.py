"""A trust for tests: its real services behind a real socket, over a real database and real files."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import uvicorn
from starlette.applications import Starlette

from flip_fl.settings import TrustSettings
from flip_fl.trust.app import create_app
from flip_fl.trust.envelope import Envelope, new_key
from flip_fl.trust.load import load_cohort, register_project
from flip_fl.values import ResourceType

KEY = "canary-trust-key-41c7"
KEY_HEADER = "X-Trust-Internal-Service-Key"
ENVELOPE_KEY = new_key()
PROJECT = "Stroke"
TOO_SMALL = b'{"detail":"Cohort is too small for row-level data to be released."}'
NO_SNAPSHOT = b'{"detail":"No approved cohort snapshot exists for this project."}'
# Values that must never be told in a refusal or a log.
CANARY_NOTE = "canary-note-of-a-patient"
CANARY_ACCESSION = "0042canary"

COHORT_CSV = "person_id,accession_id,age,score,smoker,seen,note\n" + "".join(
    f"{number},{'0042canary' if number == 1 else f'{number:04d}'},{40 + number},"
    f"{'' if number == 3 else number / 4},{number % 2 == 0},2024-03-{number:02d},"
    f"{CANARY_NOTE if number == 1 else ''}\n"
    for number in range(1, 21)
)


def write_cohort(folder: Path, text: str = COHORT_CSV) -> Path:
    """Twenty patients with one study each, as a CSV in ``folder``."""
    path = folder / "cohort.csv"
    path.write_text(text, encoding="utf-8")
    return path


def write_study(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A study's files (path below ``folder`` → content)."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@dataclass(frozen=True)
class RunningTrust:
    """A trust that answers."""

    base: str
    app: Starlette
    settings: TrustSettings

    @property
    def archive(self) -> Path:
        return self.settings.archive

    @property
    def images(self) -> Path:
        return self.settings.images_root

    def sealed(self, project: str = PROJECT) -> str:
        return Envelope(ENVELOPE_KEY).seal(project)

    def call(self, method: str, path: str, *, key: str | None = None, **options: Any) -> requests.Response:
        """One request; with the right key unless ``key`` says otherwise (empty: none)."""
        headers = dict(options.pop("headers", {}))
        presented = KEY if key is None else key
        if presented:
            headers[KEY_HEADER] = presented
        return requests.request(method, f"{self.base}{path}", headers=headers, timeout=60, **options)

    def cohort(self, query: str, *, project_id: str | None = None, **options: Any) -> requests.Response:
        body = {"encrypted_project_id": project_id or self.sealed(), "query": query}
        return self.call("POST", "/cohort/dataframe", json=body, **options)

    def rows(self, query: str) -> dict[str, list[Any]]:
        """The columns of a cohort that must be answered."""
        response = self.cohort(query)
        assert response.status_code == 200, response.text
        answer: dict[str, list[Any]] = response.json()
        return answer

    def download(
        self,
        accession_id: str,
        kind: ResourceType | str = ResourceType.DICOM,
        *,
        assessor: bool | None = None,
        net: str = "net-1",
        project_id: str | None = None,
        **options: Any,
    ) -> requests.Response:
        wanted = str(kind) == "SEG" if assessor is None else assessor
        return self.call(
            "POST",
            f"/download/images/{net}",
            params={"assessor_type": "assessor" if wanted else "scan", "resource_type": str(kind)},
            json={
                "encrypted_central_hub_project_id": project_id or self.sealed(),
                "accession_id": accession_id,
            },
            **options,
        )

    def upload(self, study: str, *files: str, net: str = "net-1", **changes: Any) -> requests.Response:
        body = {
            "encrypted_central_hub_project_id": self.sealed(),
            "accession_id": study,
            "scan_id": "1",
            "resource_id": "SEG",
            "files": list(files),
        }
        return self.call("PUT", f"/upload/images/{net}", json=body | changes)


def trust_settings(root: Path, database_url: str, **changes: Any) -> TrustSettings:
    """Settings of a trust whose folders lie in ``root``, which are made."""
    values: dict[str, Any] = {
        "database_url": database_url,
        "images_root": root / "images",
        "archive": root / "archive",
        "trust_key": KEY,
        "envelope_key": ENVELOPE_KEY,
        "_env_file": None,
        **changes,
    }
    for name in ("images_root", "archive"):
        values[name].mkdir(parents=True, exist_ok=True)
    return TrustSettings(**values)


def filled(database_url: str, folder: Path) -> str:
    """Load the twenty patients into a database, and make the project known there."""
    load_cohort(database_url, write_cohort(folder))
    register_project(database_url, PROJECT)
    return database_url


@contextmanager
def running_trust(settings: TrustSettings, **options: Any) -> Iterator[RunningTrust]:
    """Serve a trust on a free port of 127.0.0.1, in a thread."""
    app = create_app(settings, **options)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    server = uvicorn.Server(uvicorn.Config(app, ws="none", access_log=False, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the trust did not start"
        assert time.monotonic() < deadline, "the trust did not start in time"
        time.sleep(0.01)
    try:
        yield RunningTrust(f"http://127.0.0.1:{listener.getsockname()[1]}", app, settings)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()
