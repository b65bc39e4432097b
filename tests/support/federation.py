"""What a run has around its engine: hub, object store, settings files and a cohort that every site reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flip_fl.settings import write_settings_file
from flip_fl.simulate.folder import claim
from flip_fl.simulate.hub import SimulatedHub, simulated_hub
from flip_fl.simulate.prepare import prepare
from flip_fl.simulate.storage import storage

SLOTS = ("Trust_1", "Trust_2")


@dataclass(frozen=True)
class Federation:
    """A hub that is up, and the settings that the engine's processes find."""

    hub: SimulatedHub
    settings: Path
    state: Path


@contextlib.contextmanager
def federation(folder: Path, app: Path, slots: Sequence[str] = SLOTS) -> Iterator[Federation]:
    """Hub, object store and settings files, as a run has them, without an engine."""
    with (
        claim(folder / "run", app) as run,
        simulated_hub(run, "a job", "", slots, slots_total=len(slots)) as hub,
        storage(run.state / "s3", run.logs / "s3.log") as s3,
    ):
        prepare(app, run.data)
        s3.create_bucket("results")
        write_settings_file(
            run.settings / "server.env",
            {
                "FLIP_API_INTERNAL_URL": hub.url,
                "INTERNAL_SERVICE_KEY": hub.key,
                "FLIP_HUB_TOKEN": hub.token,
                "FLIP_STATE_DIR": str(run.state),
                **s3.settings("results"),
            },
        )
        for slot in slots:
            values = {"LOCAL_DEV": "true", "DEV_DATAFRAME": str(run.data / "cohort.csv"), "DEV_TABULAR": "true"}
            values["FLIP_STATE_DIR"] = str(run.site(slot))
            write_settings_file(run.settings / f"{slot}.env", values)
        yield Federation(hub, run.settings, run.state)
