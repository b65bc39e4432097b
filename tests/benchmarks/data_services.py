"""What the data's figures are measured against: a trust's own services, some milliseconds away, and ready bodies.

python -m tests.benchmarks.data_services imaging SETTINGS PORT_FILE LATENCY_S
python -m tests.benchmarks.data_services cohort FOLDER PORT_FILE
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flip_fl.data.tables import ARROW_STREAM, JSON
from flip_fl.errors import FlipError
from flip_fl.services import serving
from flip_fl.settings import ClientSettings, TrustSettings, load, write_settings_file
from flip_fl.simulate.processes import read_port, running, start, wait_until
from flip_fl.trust.app import create_app
from flip_fl.trust.envelope import Envelope, new_key
from flip_fl.trust.load import load_cohort, register_project

KEY, NET, PROJECT = "bench-trust-key", "bench", "Bench"
COHORT_BODY = "cohort"


@dataclass(frozen=True)
class Trust:
    """A trust that answers at ``url``; ``client`` is a settings file for its FL client."""

    url: str
    project: str
    images_dir: Path
    client: Path

    def settings(self) -> ClientSettings:
        return load(ClientSettings, self.client)


class Late:
    """Every answer of ``app`` begins ``seconds`` later; others go on meanwhile."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(self._seconds)
        await self._app(scope, receive, send)


@contextlib.contextmanager
def late_trust(folder: Path, studies: Sequence[str], content: bytes, latency_s: float) -> Iterator[Trust]:
    """A trust with ``studies`` of one DICOM file each, whose answers come ``latency_s`` later."""
    archive, root = folder / "archive", folder / "shared"
    for name in studies:
        study = archive / name / "DICOM"
        study.mkdir(parents=True)
        (study / "1.dcm").write_bytes(content)
    (root / NET).mkdir(parents=True)
    key, database = new_key(), f"sqlite:///{folder / 'trust.sqlite'}"
    csv = folder / "cohort.csv"
    csv.write_text("person_id,accession_id\n1,1\n", encoding="utf-8")
    load_cohort(database, csv)
    register_project(database, PROJECT)
    settings = folder / "trust.env"
    write_settings_file(
        settings,
        {
            "TRUST_INTERNAL_SERVICE_KEY": KEY,
            "OMOP_DATABASE_URL": database,
            "IMAGES_ROOT": str(root),
            "FLIP_TRUST_ARCHIVE": str(archive),
            "FLIP_TRUST_ENVELOPE_KEY": key,
        },
    )
    with _served(folder, "imaging", str(settings), latency_s) as url:
        client = folder / "client.env"
        write_settings_file(
            client,
            {
                "LOCAL_DEV": "false",
                "FLIP_ROLE": "client",
                "DATA_ACCESS_API_URL": url,
                "IMAGING_API_URL": url,
                "TRUST_INTERNAL_SERVICE_KEY": KEY,
                "NET_ID": NET,
                "IMAGES_DIR": str(root / NET),
                "FLIP_STATE_DIR": str(folder / "state"),
            },
        )
        yield Trust(url, Envelope(key).seal(PROJECT), root / NET, client)


@contextlib.contextmanager
def cohort_service(folder: Path) -> Iterator[str]:
    """Serves ``cohort.json`` and ``cohort.arrow`` of ``folder``, whichever is asked for; yields its address."""
    with _served(folder, "cohort", str(folder), 0.0) as url:
        yield url


@contextlib.contextmanager
def _served(folder: Path, kind: str, what: str, latency_s: float) -> Iterator[str]:
    port_file = folder / f"{kind}.port"
    command = [sys.executable, "-m", "tests.benchmarks.data_services", kind, what, str(port_file), str(latency_s)]
    with running(start(kind, command, folder / f"{kind}.log")) as child:
        wait_until(child, lambda: read_port(port_file) is not None, 60.0)
        yield f"http://127.0.0.1:{read_port(port_file)}"


def _cohort_app(folder: Path) -> Starlette:
    def answer(request: Request) -> FileResponse:
        kind, ending = (ARROW_STREAM, "arrow") if ARROW_STREAM in request.headers["accept"] else (JSON, "json")
        return FileResponse(folder / f"{COHORT_BODY}.{ending}", media_type=kind)

    return Starlette(routes=[Route("/cohort/dataframe", answer, methods=["POST"])])


def main(kind: str, what: str, port_file: str, latency_s: str) -> None:
    """Serve until told to end."""
    listener = serving.listen(0, lambda problem: FlipError("E0951", host=serving.HOST, port=0, problem=problem))
    app: ASGIApp
    if kind == "imaging":
        app = Late(create_app(load(TrustSettings, Path(what))), float(latency_s))
    else:
        app = _cohort_app(Path(what))
    serving.serve(app, listener, Path(port_file))


if __name__ == "__main__":
    main(*sys.argv[1:])
