"""The hostile app in whole runs, with trusts, keys and a hub: on both engines nothing of a patient comes out."""

from __future__ import annotations

import socket
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from flip_fl.simulate.model import RunOptions
from flip_fl.simulate.run import run
from tests.support.hostile import ATTEMPTS, CANARY, write_hostile_app

pytestmark = pytest.mark.slow
PEOPLE = 40


@pytest.mark.parametrize("engine", ["nvflare", "flower"])
def test_a_hostile_app_gets_nothing_and_carries_nothing_out(engine: str, tmp_path: Path) -> None:
    """Each attempt fails at every site, the run ends with its reason, and no row is at the hub, in logs or bundles."""
    elsewhere = tmp_path / "elsewhere" / "other"
    elsewhere.mkdir(parents=True)
    (elsewhere / "secret.txt").write_text(CANARY)
    out = tmp_path / "run"
    data = tmp_path / "cohort.csv"
    rows = {"person_id": [f"P{number:02d}" for number in range(PEOPLE)], "name": CANARY, "value": 0.5}
    pd.DataFrame(rows).to_csv(data, index=False)
    with socket.create_server(("127.0.0.1", 0)) as service:
        facts = {
            "key": "TRUST_INTERNAL_SERVICE_KEY",
            "key_files": [str(out / "state" / "settings" / f"Trust_{number}.env") for number in (1, 2)],
            "other_study": str(elsewhere),
            "port": service.getsockname()[1],
            "engine": 0,
            "query": "SELECT 1",
            "project": "none",
        }
        app = write_hostile_app(tmp_path / "app", facts)
        outcome = run(RunOptions(app, engine, 2, rounds=1, data=data, out=out, production=True), lambda progress: None)
    logged = {
        (plot.label, series.slot): series.points[-1].y
        for plot in outcome.story.plots
        for series in plot.series
        if plot.label in ATTEMPTS
    }
    assert logged == {(name, f"Trust_{number}"): 0.0 for name in ATTEMPTS for number in (1, 2)}
    assert outcome.status.value == "ERROR"
    assert "Exception" in (outcome.reason or "")
    # Below state/ lie the trusts' own databases, and the keys.
    searched = [path for path in out.rglob("*") if path.is_file() and path.relative_to(out).parts[0] != "state"]
    assert {"story.json", "report.html", "hub.sqlite"} <= {path.name for path in searched}
    for path in searched:
        assert CANARY.encode() not in _content(path), path


def _content(path: Path) -> bytes:
    if path.suffix != ".zip":
        return path.read_bytes()
    with zipfile.ZipFile(path) as bundle:
        return b"".join(bundle.read(name) for name in bundle.namelist())
