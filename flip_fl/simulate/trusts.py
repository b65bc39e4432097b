"""The trusts of a run on the production client: each with its own services, database, archive and key."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from flip_fl.data.cohort import ACCESSION_ID, read_cohort
from flip_fl.data.index import open_index
from flip_fl.data.sources.trust import TrustSource
from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError
from flip_fl.settings import ClientSettings, load, write_settings_file
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.model import DATABASES
from flip_fl.simulate.postgres import postgres
from flip_fl.simulate.processes import Child, read_port, running, start, wait_until
from flip_fl.simulate.sites import Data

PROJECT = "Simulated project"
NET = "simulated"
# What a job asks for that says nothing: the table that the trust's loader makes in the cohort's own shape.
WHOLE_COHORT = "SELECT * FROM omop.cohort"
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class _Trust:
    """One trust before its services run: where everything of it lies, and its keys."""

    slot: str
    root: Path
    database_url: str
    key: str
    envelope_key: str

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def images_root(self) -> Path:
        return self.root / "shared"

    @property
    def settings(self) -> Path:
        return self.root / "trust.env"


@contextlib.contextmanager
def simulated_trusts(
    cohorts: Mapping[str, Path], data: Data, folder: RunFolder, database: str = DATABASES[0]
) -> Iterator[str]:
    """Fill and start a trust for each slot of ``cohorts`` and write the settings by which its FL client finds it.

    Each holds its own part of the cohort and of the images, in a database of its own on ``database``. Yields the
    sealed project id that jobs carry. Raises ``FlipError`` E0509 without the packages of the services, E0506 when they
    do not start, E0902 and E0954 for data that cannot be loaded.
    """
    _check_installed()
    from flip_fl.trust.envelope import Envelope, new_key

    envelope_key = new_key()
    with contextlib.ExitStack() as parts:
        urls = _database_urls(cohorts, folder, database, parts)
        children: dict[str, tuple[Child, Path]] = {}
        trusts = [
            _Trust(slot, folder.site(slot) / "trust", urls[slot], secrets.token_urlsafe(32), envelope_key)
            for slot in cohorts
        ]
        for trust in trusts:
            _fill(trust, cohorts[trust.slot], data)
            port_file = trust.root / "port"
            command = [sys.executable, "-m", "flip_fl.trust", "--settings", str(trust.settings), "--port", "0"]
            command += ["--port-file", str(port_file)]
            log = folder.logs / f"{trust.slot}-trust.log"
            child = parts.enter_context(running(start(f"the trust of {trust.slot}", command, log, env=scrubbed())))
            children[trust.slot] = (child, port_file)
        for trust in trusts:
            child, port_file = children[trust.slot]
            wait_until(child, lambda file=port_file: read_port(file) is not None, START_TIMEOUT_S)  # type: ignore[misc]
            _write_client(trust, f"http://127.0.0.1:{read_port(port_file)}", folder)
        try:
            yield Envelope(envelope_key).seal(PROJECT)
        finally:
            for trust in trusts:
                tidy(folder.settings / f"{trust.slot}.env")


def tidy(client: Path) -> None:
    """Remove what the processes of a site left of its images when they were killed, as the next job there would.

    ``client`` are the site's settings. No process of the site's is there any more.
    """
    if not client.is_file():
        return
    source = TrustSource(load(ClientSettings, client))
    if source.state_dir is None or not (source.state_dir / "images").is_dir():
        return
    index = open_index(source, "the end of the run")
    if index is not None:
        index.sweep(source)
        index.release()


def _check_installed() -> None:
    if not all(map(find_spec, ("fastapi", "sqlglot", "sqlmodel", "pyarrow"))):
        raise FlipError(
            "E0509", part="the trust's services", needed_for="--production asks them", requirement="flip_fl[simulate]"
        )


def _database_urls(
    cohorts: Mapping[str, Path], folder: RunFolder, database: str, parts: contextlib.ExitStack
) -> dict[str, str]:
    if database == "sqlite":
        return {slot: f"sqlite:///{folder.site(slot) / 'trust' / 'trust.sqlite'}" for slot in cohorts}
    server = parts.enter_context(postgres(folder.logs))
    return {slot: server.create_database(f"trust_{number}") for number, slot in enumerate(cohorts, start=1)}


def _fill(trust: _Trust, cohort: Path, data: Data) -> None:
    from flip_fl.trust import load as loading

    for place in (trust.archive, trust.images_root / NET):
        place.mkdir(parents=True)
    write_settings_file(
        trust.settings,
        {
            "TRUST_INTERNAL_SERVICE_KEY": trust.key,
            "OMOP_DATABASE_URL": trust.database_url,
            "IMAGES_ROOT": str(trust.images_root),
            "FLIP_TRUST_ARCHIVE": str(trust.archive),
            "FLIP_TRUST_ENVELOPE_KEY": trust.envelope_key,
        },
    )
    loading.load_cohort(trust.database_url, cohort)
    loading.register_project(trust.database_url, PROJECT)
    if data.images is not None:
        frame = read_cohort(cohort)
        own = frozenset(frame[ACCESSION_ID].dropna()) if ACCESSION_ID in frame.columns else frozenset()
        loading.load_images(trust.archive, data.images, only=own)


def _write_client(trust: _Trust, url: str, folder: RunFolder) -> None:
    write_settings_file(
        folder.settings / f"{trust.slot}.env",
        {
            "LOCAL_DEV": "false",
            "FLIP_ROLE": "client",
            "DATA_ACCESS_API_URL": url,
            "IMAGING_API_URL": url,
            "TRUST_INTERNAL_SERVICE_KEY": trust.key,
            "NET_ID": NET,
            "IMAGES_DIR": str(trust.images_root / NET),
            "FLIP_STATE_DIR": str(folder.site(trust.slot)),
        },
    )
