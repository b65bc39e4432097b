"""What ``flip-fl new`` writes runs whole with nothing but ``flip-fl run NAME``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flip_fl.app.checks import SUPPORTED_JOB_TYPES
from flip_fl.simulate.model import ENGINES
from flip_fl.values import JobType
from tests.support.cli import installed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]


@pytest.mark.parametrize(
    ("engine", "words", "metric"),
    [
        pytest.param("nvflare", (), "accuracy", marks=pytest.mark.soak),
        ("flower", ("--job-type", "fed_opt", "--imaging"), "accuracy"),
    ],
)
def test_a_new_app_runs_at_once(engine: str, words: tuple[str, ...], metric: str, tmp_path: Path) -> None:
    """Written, then run, in two commands: results are stored and verified, and the model learns at both sites."""
    made = installed("new", "mine", *words, cwd=tmp_path)
    assert made.exit_code == 0, made.stderr
    done = installed("run", "mine", "--engine", engine, "--out", "run", "--json", cwd=tmp_path, timeout_s=280)
    assert done.exit_code == 0, done.stdout
    data = done.document()["data"]
    assert data["status"] == "RESULTS_UPLOADED"
    for slot in ("Trust_1", "Trust_2"):
        values = [each["metrics"][metric] for each in data["rounds"] if each["slot"] == slot]
        assert len(values) in (3, 4)
        assert values[-1] > 0.6
        assert values[-1] >= values[0]


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("imaging", [False, True], ids=["table", "imaging"])
@pytest.mark.parametrize("job_type", SUPPORTED_JOB_TYPES, ids=str)
def test_every_kind_runs_as_it_is_written(job_type: JobType, imaging: bool, engine: str, tmp_path: Path) -> None:
    """Whatever somebody starts from, the second command ends with stored results and both sites' numbers."""
    words = ["--job-type", job_type.value, *(["--imaging"] if imaging else [])]
    made = installed("new", "mine", *words, cwd=tmp_path)
    assert made.exit_code == 0, made.stderr
    done = installed("run", "mine", "--engine", engine, "--out", "run", "--json", cwd=tmp_path, timeout_s=280)
    assert done.exit_code == 0, done.stdout
    assert done.document()["data"]["status"] == "RESULTS_UPLOADED"
    story = json.loads((tmp_path / "run" / "story.json").read_text())
    assert {series["slot"] for plot in story["plots"] for series in plot["series"]} >= {"Trust_1", "Trust_2"}
