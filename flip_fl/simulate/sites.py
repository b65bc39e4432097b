"""The simulated trusts: where the cohort comes from, each site's own part of it, each site's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flip_fl.app.config import AppConfig
from flip_fl.data.partition import partition_csv
from flip_fl.errors import FlipError
from flip_fl.settings import DevSettings, load, write_settings_file
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.prepare import prepare

COHORT_FILE = "cohort.csv"


@dataclass(frozen=True)
class Data:
    """The whole cohort of a run, before it is split, and the folder of its images (None: tabular)."""

    cohort: Path
    images: Path | None


def find_data(config: AppConfig, csv: Path | None, images: Path | None, folder: RunFolder) -> Data:
    """The run's data: what was asked for, else ``DEV_DATAFRAME`` / ``DEV_IMAGES_DIR``, else the app's ``prepare.py``.

    Raises ``FlipError`` E0901 when there is none.
    """
    if csv is None:
        dev = load(DevSettings)
        csv, images = dev.dataframe, images or dev.images_dir
    if csv is not None:
        if not csv.is_file():
            raise FlipError(
                "E0901", problem=f"{csv} is not a file", suggestion="give the path of a CSV with a header as --data"
            )
        return Data(csv, images)
    if not (config.app_dir / "prepare.py").is_file():
        raise FlipError(
            "E0901", problem="none was given and the app has no prepare.py", suggestion="add --data path/to/cohort.csv"
        )
    prepare(config.app_dir, folder.data)
    cohort = folder.data / COHORT_FILE
    if not cohort.is_file():
        raise FlipError(
            "E0901",
            where=str(config.app_dir / "prepare.py"),
            problem=f"prepare() wrote no {COHORT_FILE}",
            suggestion=f"let prepare(out_dir) write out_dir/{COHORT_FILE}",
        )
    made = folder.data / "images"
    return Data(cohort, images or (made if made.is_dir() else None))


def split(data: Data, slots: Sequence[str], config: AppConfig, folder: RunFolder) -> dict[str, Path]:
    """Write each site's part of the cohort, no patient at two sites; returns the CSV by slot.

    Raises ``FlipError`` E0902 for a cohort that cannot be read or has fewer patients than there are sites.
    """
    targets = {slot: folder.site(slot) / COHORT_FILE for slot in slots}
    partition_csv(data.cohort, targets, seed=config.seed)
    return targets


def write_site_settings(cohorts: Mapping[str, Path], data: Data, config: AppConfig, folder: RunFolder) -> None:
    """Write ``<slot>.env`` for every site: local data and nothing else, no key."""
    for slot, cohort in cohorts.items():
        values = {
            "LOCAL_DEV": "true",
            "FLIP_ROLE": "client",
            "DEV_DATAFRAME": str(cohort),
            "DEV_TABULAR": "false" if config.imaging else "true",
            "DEV_MISSING_STUDY": "error",
        }
        if data.images is not None:
            values["DEV_IMAGES_DIR"] = os.path.abspath(data.images)
        write_settings_file(folder.settings / f"{slot}.env", values)
