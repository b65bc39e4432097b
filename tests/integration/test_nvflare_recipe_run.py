"""A recipe's job in an environment of NVFLARE's own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flip_fl.environment import scrubbed
from flip_fl.simulate.prepare import prepare
from tests.support.recipes import SCRIPT
from tests.support.scripts import write_script_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def test_a_recipe_runs_in_nvflares_simulated_environment(tmp_path: Path) -> None:
    """``execute(SimEnv(…))`` on as many sites as it says, to results under the recipe's model id.

    A script on a table: DEV_DATAFRAME is all that its own ``FLIP()`` needs, since config.json says IMAGING false.
    """
    app = write_script_app(tmp_path / "app")
    prepare(app, tmp_path / "data")
    script = tmp_path / "job.py"
    script.write_text(SCRIPT.format(app=str(app), root=str(tmp_path / "sim")))
    data = {"DEV_DATAFRAME": str(tmp_path / "data" / "cohort.csv")}
    done = subprocess.run(
        [sys.executable, str(script)], env=scrubbed(**data), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (bundle,) = (tmp_path / "sim").rglob("results/*.zip")
    assert bundle.stem in {path.name for path in (tmp_path / "sim").iterdir()}
    with zipfile.ZipFile(bundle) as archive:
        assert "FL_global_model.pt" in archive.namelist()
