"""A recipe's job in an environment of NVFLARE's own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flip_fl.environment import scrubbed
from flip_fl.simulate.prepare import prepare
from tests.support.recipes import SCRIPT
from tests.support.runs import pending
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


POC = """
from flip_fl.nvflare.recipes import FlipFedAvgRecipe
from nvflare.recipe import PocEnv

made = FlipFedAvgRecipe(app={app!r}, num_rounds=1)
env = PocEnv(num_clients=2)
run = made.execute(env)
try:
    run.get_result(timeout=200.0, clean_up=False)
    print("STATUS", run.get_status(), made.model_id, flush=True)
finally:
    env.stop()
"""


@pytest.mark.soak
def test_a_recipe_runs_in_nvflares_proof_of_concept_with_all_of_its_sites(tmp_path: Path) -> None:
    """A secured federation of processes: without a hub where that was said, and never with fewer sites than it has."""
    app = write_script_app(tmp_path / "app")
    prepare(app, tmp_path / "data")
    script = tmp_path / "job.py"
    script.write_text(POC.format(app=str(app)))
    own = {"DEV_DATAFRAME": str(tmp_path / "data" / "cohort.csv"), "LOCAL_DEV": "true"}
    own |= {"NVFLARE_POC_WORKSPACE": str(tmp_path / "poc"), "HOME": str(tmp_path)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, str(script)],
        env=scrubbed(**own, PATH=path),
        capture_output=True,
        text=True,
        check=False,
        timeout=260,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "STATUS FINISHED:COMPLETED" in done.stdout
    (outbox,) = (tmp_path / "poc").rglob("outbox/*.sqlite")
    told = [item for _, item in pending(outbox) if item.get("event_type") == "ROUND_AGGREGATED"]
    assert [item["details"] for item in told] == [{"returned": 2, "expected": 2}]
