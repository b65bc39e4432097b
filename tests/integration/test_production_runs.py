"""Whole runs whose sites ask their trusts' own services: the examples on real data, and nothing of a patient told."""

from __future__ import annotations

import re
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from flip_fl.simulate.model import RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import ModelStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]

EXAMPLES = Path("examples")


def texts_that_travel(root: Path) -> Iterator[tuple[str, bytes]]:
    """Everything of a run that is not a trust's own: logs, the hub's database, story, report, bundle, job."""
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root).parts
        if not path.is_file() or inside[:2] in (("state", "sites"), ("state", "data"), ("state", "s3")):
            continue
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as bundle:
                yield from ((f"{path.name}:{name}", bundle.read(name)) for name in bundle.namelist())
        else:
            yield "/".join(inside), path.read_bytes()


def scores(outcome: RunOutcome, label: str) -> dict[str, float]:
    """The last round's scores by slot."""
    (plot,) = [plot for plot in outcome.story.plots if plot.label == label]
    return {series.slot: float(series.points[-1].y or 0) for series in plot.series}


def test_studies_are_pulled_by_number_used_and_removed(tmp_path: Path) -> None:
    """Digits as DICOM studies, on NVFLARE: each site asks its own imaging service once for each study, in all rounds
    and tasks; the model learns; afterwards no image is left at a site, and no accession number is in what leaves.
    """
    folder = tmp_path / "run"
    options = RunOptions(EXAMPLES / "digits_dicom", "nvflare", 2, rounds=2, out=folder, production=True)
    outcome = run(options, lambda _: None)
    assert (outcome.status, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, None)
    accuracy = scores(outcome, "accuracy")
    assert set(accuracy) == {"Trust_1", "Trust_2"}
    assert min(accuracy.values()) > 0.8
    numbers: set[str] = set()
    for slot in accuracy:
        site = folder / "state" / "sites" / slot
        cohort = pd.read_csv(site / "cohort.csv", dtype=str)
        numbers |= set(cohort["accession_id"])
        assert len(list((site / "trust" / "archive").iterdir())) >= len(cohort)
        assert list((site / "trust" / "shared" / "simulated").iterdir()) == []
        with sqlite3.connect(site / "images" / "index.sqlite") as index:
            assert index.execute("SELECT count(*) FROM study").fetchone() == (0,)
            assert index.execute("SELECT count(*) FROM claim").fetchone() == (0,)
    assert len(numbers) == 1797
    # not the microseconds or the hours, minutes and seconds of a time, which have six digits, too
    plain = re.compile(rb"(?<![0-9A-Za-z.,_:+-])0[01][0-9]{4}(?![0-9A-Za-z])")
    for name, content in texts_that_travel(folder):
        if name.endswith((".npz", ".pt", ".sqlite", ".sqlite-wal")) or b"\0" in content[:1000]:
            continue
        found = {match.decode() for match in plain.findall(content)} & numbers
        assert not found, (name, sorted(found)[:3])


def test_an_omop_query_trains_a_survival_model_at_unequal_sites(tmp_path: Path) -> None:
    """flchain on Flower, a PostgreSQL database a trust: what the query gives is what the files say, to the last score
    (the run checks that), patients are divided as asked, and the model orders them well.
    """
    options = RunOptions(
        EXAMPLES / "flchain",
        "flower",
        3,
        rounds=2,
        out=tmp_path / "run",
        production=True,
        trust_database="postgresql",
        shares=(60, 30, 10),
    )
    outcome = run(options, lambda _: None)
    assert (outcome.status, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, None)
    assert min(scores(outcome, "c_index").values()) > 0.74
    sites = tmp_path / "run" / "state" / "sites"
    rows = {path.parent.name: len(pd.read_csv(path)) for path in sites.glob("*/cohort.csv")}
    assert rows == {"Trust_1": 4724, "Trust_2": 2363, "Trust_3": 787}
