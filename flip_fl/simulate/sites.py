"""The simulated trusts: where the cohort comes from, each site's own part of it, each site's settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flip_fl.app.config import AppConfig
from flip_fl.app.forms import form_of
from flip_fl.core.journal import read_journal
from flip_fl.data.cohort import read_cohort, studies_of
from flip_fl.data.partition import partition_csv
from flip_fl.errors import FlipError
from flip_fl.settings import DevSettings, load, write_settings_file
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.prepare import prepare
from flip_fl.wire import Item, LogItem, StatusItem

COHORT_FILE = "cohort.csv"


@dataclass(frozen=True)
class Data:
    """The whole cohort of a run, before it is split, and the folder of its images (None: tabular)."""

    cohort: Path
    images: Path | None


def given_data(config: AppConfig, csv: Path | None, images: Path | None, out: Path | None) -> Data | None:
    """The data that was asked for: the arguments, else ``DEV_DATAFRAME`` / ``DEV_IMAGES_DIR``; None: ``prepare.py``.

    Looked at before anything is written. Raises ``FlipError`` E0901 when there is none, or it is not there, E0513 when
    it lies in ``out``, which is emptied.
    """
    if csv is None:
        dev = load(DevSettings)
        csv, images = dev.dataframe, images or dev.images_dir
    if csv is None and not (config.app_dir / "prepare.py").is_file() and not form_of(config.app_dir).splits_itself:
        raise FlipError(
            "E0901", problem="none was given and the app has no prepare.py", suggestion="add --data path/to/cohort.csv"
        )
    if csv is not None and not csv.is_file():
        raise FlipError(
            "E0901", problem=f"{csv} is not a file", suggestion="give the path of a CSV with a header as --data"
        )
    if images is not None and not images.is_dir():
        raise FlipError(
            "E0901", problem=f"{images} is not a folder", suggestion="give a folder with one folder a study"
        )
    for path in (csv, images):
        if path is not None and out is not None and path.resolve().is_relative_to(out.resolve()):
            raise FlipError("E0513", path=path, folder=out)
    return Data(csv, images) if csv is not None else None


def prepared_data(config: AppConfig, folder: RunFolder) -> Data:
    """The data that the app's ``prepare.py`` writes. Raises ``FlipError`` E0901 when it fails or writes none.

    An app that reads data of its own, and was given none, has a cohort without rows.
    """
    cohort = folder.data / COHORT_FILE
    if not (config.app_dir / "prepare.py").is_file():
        folder.data.mkdir(parents=True, exist_ok=True)
        cohort.write_text("accession_id\n", encoding="utf-8")
        return Data(cohort, None)
    prepare(config.app_dir, folder.data)
    if not cohort.is_file():
        raise FlipError(
            "E0901",
            where=str(config.app_dir / "prepare.py"),
            problem=f"prepare() wrote no {COHORT_FILE}",
            suggestion=f"let prepare(out_dir) write out_dir/{COHORT_FILE}",
        )
    images = folder.data / "images"
    return Data(cohort, images if images.is_dir() else None)


def split(
    data: Data,
    slots: Sequence[str],
    config: AppConfig,
    folder: RunFolder,
    shares: Sequence[float] = (),
    *,
    whole: bool = False,
) -> dict[str, Path]:
    """Write each site's part of the cohort, no patient at two sites; returns the CSV by slot.

    ``whole``: each site gets all of it, because the app takes its own share.

    Raises ``FlipError`` E0902 for a cohort that cannot be read or has fewer patients than there are sites, E0901 for an
    app that reads images where there are none.
    """
    cohort = read_cohort(data.cohort)
    columns = cohort.columns
    if config.imaging and "accession_id" not in columns:
        raise FlipError(
            "E0902",
            where=str(config.app_dir / "config.json"),
            path=data.cohort,
            problem=f"it has no column accession_id (it has {', '.join(map(str, columns[:8]))})",
            why="an app reads images unless its config.json says that its cohort is a table",
            suggestion='add "IMAGING": false to config.json, or the column accession_id to the cohort',
        )
    if config.imaging and len(cohort):
        _check_images(data, studies_of(cohort))
    targets = {slot: folder.site(slot) / COHORT_FILE for slot in slots}
    if whole:
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data.cohort, target)
        return targets
    partition_csv(data.cohort, targets, dict(zip(slots, shares, strict=True)) if shares else None, seed=config.seed)
    return targets


def _check_images(data: Data, names: Sequence[str]) -> None:
    why = "an app reads images unless its config.json says that its cohort is a table"
    tabular = 'or add "IMAGING": false to config.json'
    if data.images is None:
        problem = f"the cohort names {len(names)} studies, and no folder of images was given"
        raise FlipError("E0901", problem=problem, why=why, suggestion=f"add --images path/to/studies, {tabular}")
    if names and not any((data.images / name).is_dir() for name in names):
        problem = f"none of the cohort's {len(names)} studies has a folder in {data.images}"
        suggestion = f"give the folder whose folders are named by accession_id as --images, {tabular}"
        raise FlipError("E0901", problem=problem, why=why, suggestion=suggestion)


def write_site_settings(
    cohorts: Mapping[str, Path], data: Data, config: AppConfig, folder: RunFolder, settings: Path | None = None
) -> None:
    """Write ``<slot>.env`` for every site into ``settings`` (the run's): local data and nothing else, no key."""
    for slot, cohort in cohorts.items():
        values = {
            "LOCAL_DEV": "true",
            "FLIP_ROLE": "client",
            "DEV_DATAFRAME": str(cohort),
            "DEV_TABULAR": "false" if config.imaging else "true",
            "DEV_MISSING_STUDY": "error",
            "FLIP_STATE_DIR": str(folder.site(slot)),
        }
        if data.images is not None:
            values["DEV_IMAGES_DIR"] = os.path.abspath(data.images)
        write_settings_file((settings or folder.settings) / f"{slot}.env", values)


def development_calls(folder: RunFolder, slot: str) -> list[Item]:
    """What the app itself reported with ``FLIP()`` at a site, as that site's. A site's word on the status is a row."""
    told: list[Item] = []
    for _, item in read_journal(folder.site(slot)):
        if isinstance(item, StatusItem):
            text = f"the app called update_status({item.status.value}): the run's own status decides"
            told.append(LogItem(at=item.at, client=slot, log=text))
        else:
            told.append(item.model_copy(update={"client": slot}))
    return told
