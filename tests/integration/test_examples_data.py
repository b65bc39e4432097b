"""The examples on data from a trust, run end to end with canaries planted in everything that is a patient's.

Numbers such as ``000123`` are too plain to look for: any time of day may hold them. So the examples' own data are given
accession numbers, file names, persons, values and SQL that can come from nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flip_fl.simulate.model import RunOptions, RunOutcome
from flip_fl.simulate.prepare import prepare
from flip_fl.simulate.run import run
from flip_fl.values import ModelStatus
from tests.support.runs import Trouble, studies_in, wait_for
from tests.support.swept import keys, told_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]

EXAMPLES = Path(__file__).parents[2] / "examples"
ACCESSION, FILE, PERSON, SQL = "00ACCESSIONCANARY", "FILECANARY7Q", "PERSONCANARY7Q", "SQLCANARY7Q"
# Whole numbers that a double holds exactly, and digits behind a value's own two.
FIRST_PERSON, DIGITS = 918_273_645_500_000, "091827364"
SHARES = (50, 25, 15, 10)
# A third of the digits, each seen twice as often, teaches as much.
STUDIES, LOCAL_ROUNDS = 600, 4


def test_digits_are_fetched_once_learned_and_removed_and_nothing_of_them_is_told(tmp_path: Path) -> None:
    """Protects the imaging example on NVFLARE: it learns; once its studies are there no round or task asks the trust
    for one; afterwards no image is left at a site; nobody outside the trusts can read what a study is called.
    """
    query = f" WHERE accession_id <> '{SQL}' ORDER BY"
    app = planted_app(tmp_path, "digits_dicom", query, LOCAL_ROUNDS=LOCAL_ROUNDS)
    forget_between_tasks(app / "trainer.py")
    cohort, images = planted_studies(tmp_path / "data")
    out = tmp_path / "run"
    archives = Archives(out)
    trouble = Trouble(archives.take_away)

    outcome = run(
        RunOptions(app, "nvflare", 2, rounds=2, data=cohort, images=images, out=out, production=True), trouble
    )

    assert (outcome.status, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, None)
    trouble.end()
    accuracy = by_round(outcome, "accuracy")
    assert sorted(accuracy) == ["Trust_1", "Trust_2"]
    for first, last in accuracy.values():
        assert last > max(0.85, first)
    assert sum(archives.studies.values()) == STUDIES
    assert archives.seen == archives.studies
    for slot in archives.studies:
        assert studies_in(out / "state" / "sites" / slot / "trust" / "shared" / "simulated") == []
    assert told_of(out, [ACCESSION, FILE, PERSON, *keys(out)]) == []
    assert told_of(out, [SQL], below="state") == []


def test_an_omop_query_at_unequal_sites_trains_and_no_row_is_told(tmp_path: Path) -> None:
    """Protects the survival example on Flower, four trusts, each with a PostgreSQL database: the query gives what the
    files say, to the last score (the run checks that); patients are divided as asked; the model orders them well; no
    person and no value of a row is outside the trusts.
    """
    app = planted_app(tmp_path, "flchain", f" WHERE p.person_source_value <> '{SQL}' GROUP BY")
    out = tmp_path / "run"
    options = RunOptions(
        app,
        "flower",
        len(SHARES),
        rounds=2,
        data=planted_patients(tmp_path / "data"),
        out=out,
        production=True,
        trust_database="postgresql",
        shares=SHARES,
    )

    outcome = run(options, lambda _: None)

    assert (outcome.status, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, None)
    c_index = by_round(outcome, "c_index")
    assert sorted(c_index) == ["Trust_1", "Trust_2", "Trust_3", "Trust_4"]
    assert min(last for _, last in c_index.values()) > 0.74
    for slot, share in zip(sorted(c_index), SHARES, strict=True):
        rows = len(pd.read_csv(out / "state" / "sites" / slot / "cohort.csv"))
        assert abs(rows - 7874 * share / 100) <= 1
    persons = str(FIRST_PERSON)[:10]
    assert told_of(out, [persons, DIGITS, *keys(out)]) == []
    assert told_of(out, [SQL], below="state") == []


def test_what_is_told_is_looked_through_wherever_it_lies(tmp_path: Path) -> None:
    """Protects from a search that would find nothing anyway: in a log, a hub's row, a bundle's member."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "logs" / "server.log").write_text(f"study {ACCESSION}000123 failed")
    with contextlib.closing(sqlite3.connect(tmp_path / "hub.sqlite")) as hub, hub:
        hub.execute("CREATE TABLE fl_logs (log TEXT)")
        hub.execute("INSERT INTO fl_logs VALUES (?)", ("x" * 480 + ACCESSION + "x" * 3600,))  # over a page's edge
    with zipfile.ZipFile(tmp_path / "results" / "model.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("metrics.json", f"{ACCESSION}000123" * 50)
    (tmp_path / "state" / "sites" / "Trust_1").mkdir(parents=True)
    (tmp_path / "state" / "sites" / "Trust_1" / "cohort.csv").write_text(ACCESSION)
    found = told_of(tmp_path, [ACCESSION])
    assert found == [
        ("hub.sqlite, as SQL", ACCESSION),
        ("logs/server.log", ACCESSION),
        ("results/model.zip, metrics.json", ACCESSION),
    ]


class Archives:
    """Moves each trust's archive away as soon as its site has all of its studies: whoever asks again gets none.

    ``studies``: how many each site has; ``seen``: how many lay in its images folder then.
    """

    def __init__(self, out: Path) -> None:
        self._sites = out / "state" / "sites"
        self.studies: dict[str, int] = {}
        self.seen: dict[str, int] = {}

    def take_away(self) -> None:
        for site in sorted(self._sites.glob("Trust_*")):
            self.studies[site.name] = len(pd.read_csv(site / "cohort.csv"))
        for slot, studies in self.studies.items():
            site = self._sites / slot
            index = site / "images" / "index.sqlite"
            wait_for(lambda index=index, wanted=studies: remembered(index) == wanted, f"the studies of {slot}")
            self.seen[slot] = len(studies_in(site / "trust" / "shared" / "simulated"))
            (site / "trust" / "archive").rename(site / "trust" / "archive.away")


def remembered(index: Path) -> int:
    """How many studies a site's index holds; 0 while there is none."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as sql,
    ):
        return int(sql.execute("SELECT count(*) FROM study").fetchone()[0])
    return 0


def planted_app(folder: Path, example: str, where: str, **changes: int) -> Path:
    """A copy of the example whose query has one condition more, which holds for every row, with ``changes``."""
    app = folder / example
    shutil.copytree(EXAMPLES / example, app, ignore=shutil.ignore_patterns("__pycache__"))
    config: dict[str, Any] = json.loads((app / "config.json").read_text(encoding="utf-8"))
    before = " " + where.split("' ")[1]
    assert config["QUERY"].count(before) == 1
    config |= {"QUERY": config["QUERY"].replace(before, where), **changes}
    (app / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return app


def forget_between_tasks(trainer: Path) -> None:
    """Let the app ask for its images in every task, as one that keeps nothing in ``site.memory``."""
    text = trainer.read_text(encoding="utf-8")
    keeps = 'if "images" not in site.memory:'
    assert text.count(keeps) == 1
    trainer.write_text(text.replace(keeps, "if True:"), encoding="utf-8")


def planted_studies(folder: Path) -> tuple[Path, Path]:
    """The first digits under other names: the cohort's CSV and the folder of images."""
    prepare(EXAMPLES / "digits_dicom", folder)
    cohort, images = folder / "cohort.csv", folder / "images"
    rows = pd.read_csv(cohort, dtype=str).head(STUDIES)
    for number in rows["accession_id"]:
        study = (images / number).rename(images / f"{ACCESSION}{number}")
        (study / "DICOM" / "1.dcm").rename(study / "DICOM" / f"{FILE}.dcm")
    rows["accession_id"] = ACCESSION + rows["accession_id"]
    rows["person_id"] = PERSON + rows["person_id"]
    rows.to_csv(cohort, index=False)
    return cohort, images


def planted_patients(folder: Path) -> Path:
    """The patients under other numbers, each with a light chain value that only a row of this cohort can have."""
    prepare(EXAMPLES / "flchain", folder)
    rows = pd.read_csv(folder / "cohort.csv")
    rows["person_id"] += FIRST_PERSON
    rows["kappa"] = [float(f"{kappa:.2f}{DIGITS}") for kappa in rows["kappa"]]
    rows.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


def by_round(outcome: RunOutcome, label: str) -> dict[str, list[float]]:
    """A metric's values by slot, round after round."""
    (plot,) = [plot for plot in outcome.story.plots if plot.label == label]
    return {series.slot: [float(point.y or 0) for point in series.points] for series in plot.series}
