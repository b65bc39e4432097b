"""What ``flip-fl new`` writes runs whole with nothing but ``flip-fl run NAME``."""

from __future__ import annotations

from pathlib import Path

import pytest

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
