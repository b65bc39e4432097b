"""What ``flip-fl new`` writes runs whole with nothing but ``flip-fl run NAME``."""

from __future__ import annotations

from pathlib import Path

import pytest

from flip_fl.simulate.model import ENGINES
from flip_fl.values import JobType
from tests.support.cli import installed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]

SLOTS = ("Trust_1", "Trust_2")
# One shows it in every run of the suite: a data set of images and an optimizer on the server.
EVERY_TIME = (JobType.FED_OPT, True, "flower")
KINDS = [(job_type, imaging, engine) for job_type in JobType for imaging in (False, True) for engine in ENGINES]


@pytest.mark.parametrize(
    ("job_type", "imaging", "engine"),
    [pytest.param(*kind, marks=[] if kind == EVERY_TIME else pytest.mark.soak) for kind in KINDS],
)
def test_a_new_app_runs_at_once(job_type: JobType, imaging: bool, engine: str, tmp_path: Path) -> None:
    """Written, then run, in two commands: results are stored and verified, and what it has learnt is right."""
    words = ["--job-type", job_type.value, *(["--imaging"] if imaging else [])]
    made = installed("new", "mine", *words, cwd=tmp_path)
    assert made.exit_code == 0, made.stderr
    done = installed("run", "mine", "--engine", engine, "--out", "run", "--json", cwd=tmp_path, timeout_s=280)
    assert done.exit_code == 0, done.stdout
    data = done.document()["data"]
    assert data["status"] == "RESULTS_UPLOADED"
    for slot in SLOTS:
        told = [each["metrics"] for each in data["rounds"] if each["slot"] == slot]
        if job_type is JobType.DIFFUSION:
            for stage in ("ae", "dm"):
                losses = [each[f"{stage}/loss"] for each in told if f"{stage}/loss" in each]
                assert losses[-1] < losses[0]
        else:
            scores = [value for each in told for name, value in each.items() if name.endswith("accuracy")]
            assert len(scores) == (1 if job_type is JobType.EVALUATION else len(told)) == len(told)
            assert scores[-1] > 0.6
            assert scores[-1] >= scores[0]
