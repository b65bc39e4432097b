"""Whole runs against trusts' own services: what an app makes is stored there, and what fails there says nothing."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from flip_fl.commands import summary
from flip_fl.data.partition import partition
from flip_fl.data.paths import UPLOAD
from flip_fl.simulate.model import Progress, RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import ModelStatus
from tests.support.cli import flip_fl
from tests.support.runs import studies_in
from tests.support.studies import CANARY as PATIENT
from tests.support.studies import write_slice
from tests.support.swept import keys, told_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]

SEGMENTING = """
import nibabel
import numpy as np
import torch
from torch.utils.data import DataLoader

DICOM = "DICOM"


def _data(site):
    cohort = site.cohort()
    return cohort, site.images(cohort, resource_type=DICOM)


def train(model, site, config):
    cohort, studies = _data(site)
    data = studies.dataset(image="*.dcm", target="label")
    batches = list(DataLoader(data, batch_size=4))
    brightest = max(batch["image"].max().item() for batch in batches)
    outcomes = []
    for name in list(studies)[:2]:
        made = site.upload_dir / f"{name}.nii.gz"
        mask = np.zeros((2, 2, 1), np.uint8)
        mask[0, 1] = int(name[-2:]) + 1
        nibabel.save(nibabel.Nifti1Image(mask, np.diag([0.5, 0.5, 2, 1])), made)
        # The second of a name is refused, one that was never written too: neither keeps the others from being stored.
        for file in (made, made.name, "never_written.nii.gz"):
            outcomes += site.add_resource(name, "scan_1", "SEG", [file])
        made.unlink()
    try:
        list(site.upload_dir.iterdir())
    except PermissionError:
        site.log("walled", 1)
    site.log("stored", sum(outcome.stored for outcome in outcomes))
    site.log("refused", sum("missing" in (outcome.problem or "") for outcome in outcomes))
    return {"num_examples": len(data), "brightest": brightest, "images": sum(len(batch["target"]) for batch in batches)}


def validate(model, site, config):
    return {"num_examples": len(site.cohort()), "loss": 0.5}
"""
PEOPLE, SITES = 40, ("Trust_1", "Trust_2")


@pytest.mark.parametrize("engine", [pytest.param("nvflare", marks=pytest.mark.soak), "flower"])
def test_an_app_behind_walls_reads_images_and_stores_segmentations(engine: str, tmp_path: Path) -> None:
    """In production a data set is made of a trust's images, and what the model makes of them is in the trust's archive
    with an outcome for each file; the end of the run says how many studies were skipped, and why, but not which.
    """
    cohort, images = write_studies(tmp_path / "data", lambda number: f"ACC{number:02d}")
    out = tmp_path / "run"
    missing: list[str] = []

    def lose_one(progress: Progress) -> None:
        archive = archive_of(out, "Trust_2")
        if progress.stage == "start" and not missing:
            missing.append(studies_in_archive(archive)[-1])
            (archive / missing[0]).rename(tmp_path / missing[0])

    app = write_app(tmp_path / "app", SEGMENTING, MAX_SKIPPED=0.1)
    options = RunOptions(app, engine, 2, rounds=1, data=cohort, images=images, out=out, production=True)
    outcome = run(options, lose_one)

    assert (outcome.status, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, None)
    own = {slot: pd.read_csv(out / "state" / "sites" / slot / "cohort.csv")["accession_id"].tolist() for slot in SITES}
    own["Trust_2"].remove(missing[0])
    for slot, names in own.items():
        values = last_values(outcome, slot)
        assert values["train_images"] == len(names)
        assert values["train_brightest"] == max(int(name[-2:]) for name in names)
        assert (values["stored"], values["refused"]) == (2, 4)
        assert values["walled"] == 1
        archive = archive_of(out, slot)
        files = sorted(archive.glob("*/SEG/*/*"))
        assert [file.relative_to(archive).as_posix() for file in files] == [
            f"{name}/SEG/scan_1/{name}.nii.gz" for name in names[:2]
        ]
        for file in files:
            stored = nibabel.load(file)
            assert np.asarray(stored.dataobj)[0, 1, 0] == int(file.name[3:5]) + 1
            assert np.diag(stored.affine).tolist() == [0.5, 0.5, 2, 1]
        shared = archive.parent / "shared" / "simulated"
        assert studies_in(shared) == []
        assert list((shared / UPLOAD).iterdir()) == []
    told = summary.text(summary.answer(outcome))
    assert "skipped  Trust_2: 19 studies, 1 skipped: 1 not found\n" in told
    assert "ACC" not in told


COUNTING = """
def train(model, site, config):
    return {"num_examples": len(site.images(site.cohort(), resource_type="DICOM"))}


def validate(model, site, config):
    return {"num_examples": len(site.cohort()), "loss": 0.5}
"""


@pytest.mark.parametrize("engine", [pytest.param("nvflare", marks=pytest.mark.soak), "flower"])
def test_too_many_skipped_studies_end_the_run_and_the_site_is_named(engine: str, tmp_path: Path) -> None:
    """The terminal names the site that lacks more studies than MAX_SKIPPED allows, and that setting; of the one within
    its limit it says what was skipped, and does not take it for the cause. No accession number is shown.
    """
    cohort, images = write_studies(tmp_path / "data", lambda number: f"ACC{number:02d}")
    parts = partition(pd.read_csv(cohort, dtype=str), dict.fromkeys(SITES, 1.0))
    for slot, lost in {"Trust_1": 1, "Trust_2": 7}.items():
        for name in parts[slot]["accession_id"][:lost]:
            shutil.rmtree(images / name)
    app = write_app(tmp_path / "app", COUNTING)
    words = ["run", app, "--engine", engine, "--production", "--data", cohort, "--images", images]
    ended = flip_fl(*map(str, words), "--out", str(tmp_path / "run"), cwd=tmp_path, timeout_s=200)

    assert ended.exit_code == 1
    why = r"[2-7] of 20 studies were skipped( so far)?, more than MAX_SKIPPED \(0\.05\) allows: [2-7] not found"
    assert re.search(rf"status +Failed in round 1 - Trust_2: flip_fl\.errors\.FlipError: {why}\n", ended.stdout)
    assert "skipped  Trust_1: 19 studies, 1 skipped: 1 not found\n" in ended.stdout
    assert re.search(rf"Trust_2 in train, round 1: flip_fl\.errors\.FlipError: {why}\n", ended.stderr)
    assert "Trust_1 in" not in ended.stderr
    assert "ACC" not in ended.stdout + ended.stderr


ACCESSION, FILE, PERSON, ROW, SQL = "00ACCESSIONCANARY", "FILECANARY7Q", "PERSONCANARY7Q", "ROWCANARY7Q", "SQLCANARY7Q"
# Behind a value's own digits: no time of day and no id holds them.
DIGITS = "5091827364"
FAILING = """
import logging
import warnings


def train(model, site, config):
    cohort = site.cohort()
    studies = site.images(cohort, resource_type="DICOM")
    if site.name == "Trust_1":
        row = cohort.iloc[0]
        files = [str(file) for kinds in studies.values() for kind in kinds.values() for file in kind.rglob("*.dcm")]
        everything = f"{row.to_dict()} {row['value']!r} {files} {list(studies)} {config['QUERY']}"
        site.log("planted", everything.count("CANARY"))
        print(everything)
        warnings.warn(everything)
        logging.getLogger("app").error(everything)
        try:
            {}[row["note"]]
        except KeyError as missing:
            missing.add_note(everything)
            raise ValueError(everything) from missing
    return {"num_examples": len(list(studies.dataset(image="*.dcm", target="label")))}


def validate(model, site, config):
    return {"num_examples": len(site.cohort()), "loss": 0.5}
"""
QUERY = f"SELECT person_id, accession_id, label, note, value FROM omop.cohort WHERE accession_id <> '{SQL}'"
FAILURES = {
    "Trust_1": "ValueError",
    "Trust_2": "names a column that is not there",
    "Trust_3": "study 1 of 12 cannot be read",
    "Trust_4": "HTTP 403",
}


@pytest.mark.parametrize("engine", [pytest.param("nvflare", marks=pytest.mark.soak), "flower"])
def test_a_run_that_fails_in_every_way_tells_nothing_of_a_patient(engine: str, tmp_path: Path) -> None:
    """An app that raises rows, SQL and file names, a database that refuses, images that are corrupt, a cohort that is
    too small: the hub has each failure, and no log, row, exception or report outside the trusts has a canary.
    """
    cohort, images = write_studies(tmp_path / "data", lambda number: f"{ACCESSION}{number:02d}", FILE)
    rows = pd.read_csv(cohort, dtype={"accession_id": str})
    rows["person_id"] = PERSON + rows["person_id"]
    rows["note"] = ROW
    rows["value"] = [float(f"{number}.{DIGITS}") for number in range(len(rows))]
    rows.to_csv(cohort, index=False)
    out = tmp_path / "run"
    broken: list[Path] = []

    def break_two(progress: Progress) -> None:
        if progress.stage != "start" or broken:
            return
        for file in archive_of(out, "Trust_3").rglob("*.dcm"):
            # A patient's name is still in it, and there are fewer pixels than it says.
            file.write_bytes(file.read_bytes()[:-3])
            broken.append(file)
        database = archive_of(out, "Trust_2").with_name("trust.omop.sqlite")
        with contextlib.closing(sqlite3.connect(database)) as omop, omop:
            omop.execute("ALTER TABLE cohort RENAME COLUMN note TO other")

    app = write_app(tmp_path / "app", FAILING, QUERY=QUERY)
    options = RunOptions(app, engine, 4, data=cohort, images=images, out=out, production=True, shares=(12, 12, 12, 4))
    outcome = run(options, break_two)

    assert len(broken) == 12
    assert outcome.status is ModelStatus.ERROR
    assert outcome.results is None
    for slot, words in FAILURES.items():
        assert [each for each in outcome.story.failures if slot in each.slots and words in each.detail], slot
    canaries = [ACCESSION, FILE, PERSON, ROW, DIGITS, PATIENT, *keys(out)]
    assert told_of(out, canaries) == []
    assert told_of(out, [SQL], below="state") == []
    terminal = summary.text(summary.answer(outcome)) + str(outcome.reason) + outcome.story.model_dump_json()
    assert [canary for canary in (*canaries, SQL) if canary in terminal] == []
    # They were there to be told: a row's three, two in each file's path, each study's, and the query's.
    assert last_values(outcome, "Trust_1") == {"planted": 3 + 2 * 12 + 12 + 1}


def last_values(outcome: RunOutcome, slot: str) -> dict[str, float | None]:
    """What a site has measured last, by name."""
    found = [(plot.label, series) for plot in outcome.story.plots for series in plot.series if series.slot == slot]
    return {label: series.points[-1].y for label, series in found}


def archive_of(out: Path, slot: str) -> Path:
    """The archive of a run's trust."""
    return out / "state" / "sites" / slot / "trust" / "archive"


def studies_in_archive(archive: Path) -> list[str]:
    """The names of the studies in an archive."""
    return sorted(path.name for path in archive.glob("[!.]*"))


def write_studies(folder: Path, named: Callable[[int], str], file: str = "1") -> tuple[Path, Path]:
    """A cohort of persons with a DICOM study each, whose pixels are its number, and the folder of the studies."""
    rows = []
    for number in range(PEOPLE):
        pixels = np.full((2, 2), number, np.uint16)
        write_slice(folder / "images" / named(number) / "DICOM" / f"{file}.dcm", pixels)
        rows.append({"person_id": f"P{number:02d}", "accession_id": named(number), "label": number % 2})
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv", folder / "images"


def write_app(folder: Path, trainer: str, **config: Any) -> Path:
    """An app with a tiny model and ``trainer``."""
    folder.mkdir()
    (folder / "trainer.py").write_text(trainer)
    (folder / "models.py").write_text("import torch\n\n\ndef get_model():\n    return torch.nn.Linear(1, 1)\n")
    (folder / "config.json").write_text(json.dumps({"job_type": "standard", "GLOBAL_ROUNDS": 1, **config}))
    return folder
