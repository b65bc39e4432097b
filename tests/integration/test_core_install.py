"""The base install, in an empty environment: small, typed, and enough for `FLIP()` in development."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import leave_out

ROOT = Path(__file__).parents[2]

PROGRAM = """
import importlib.util as util, sys
for name in ("torch", "nvflare", "flwr", "boto3", "sqlmodel", "fastapi"):
    assert util.find_spec(name) is None, name
from flip_fl import FLIP, FlipError, JobType, ModelStatus
from flip_fl.compat import alias
alias.install(print)
from flip import FLIP as OldFLIP
from flip.constants import FlipConstants, ModelStatus as OldStatus, PTConstants
from flip.utils import Utils
assert OldFLIP is FLIP and OldStatus is ModelStatus
flip = FLIP()
assert type(flip).__name__ == "FLIPStandardDev"
assert list(flip.get_dataframe("project", "query")["accession_id"]) == ["007", "008"]
assert flip.update_status("my-model", ModelStatus.RUNNING) is True
flip.send_metrics("Trust_1", "my-model", "auc", 0.5, 1)
assert flip.get_by_accession_number("project", "007").is_dir()
assert "/installed/" in sys.modules["flip_fl"].__file__
import os
os.environ.update(LOCAL_DEV="false", FLIP_ROLE="server", FLIP_API_INTERNAL_URL="http://127.0.0.1:9/api",
                  INTERNAL_SERVICE_KEY="k", UPLOADED_FEDERATED_DATA_BUCKET="s3://results")
try:
    FLIP()
except FlipError as error:
    assert error.code == "E0509" and "flip_fl[s3]" in error.fix, error.text()
else:
    raise SystemExit("a server that cannot upload results has started")
print("all is well")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as `pip install .` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    run = _run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT])
    if run.returncode:
        leave_out(f"the base install: no wheel can be built here ({run.stderr.strip()[-200:]})")
    (built,) = folder.glob("flip_fl-*.whl")
    return built


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_base_install_gives_a_development_client_without_torch_or_an_engine(wheel: Path, tmp_path: Path) -> None:
    """The base install was broken once: `FLIP()` needed torch, which is an extra."""
    venv.create(tmp_path / "installed", with_pip=False)
    python = tmp_path / "installed" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    install = [*pip, "install", "--quiet", "--no-compile"]
    run = _run([*install, "--constraint", ROOT / "constraints.txt", wheel])
    if run.returncode:
        leave_out(f"the base install: the package index cannot be reached ({run.stderr.strip()[-200:]})")
    (tmp_path / "cohort.csv").write_text("accession_id,age\n007,1\n008,2\n")
    settings = {"DEV_DATAFRAME": str(tmp_path / "cohort.csv"), "DEV_IMAGES_DIR": str(tmp_path / "images")}
    run = _run([python, "-c", PROGRAM], cwd=tmp_path, environment={"PATH": os.defpath, **settings})
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("all is well")
    # What an installed package must satisfy, as pip sees it.
    check = _run([*pip, "check"])
    assert check.returncode == 0, check.stdout
    command = _run([tmp_path / "installed" / "bin" / "flip-fl", "--version"], environment={"PATH": os.defpath})
    assert command.returncode == 0, command.stderr


@pytest.mark.slow
def test_the_wheel_carries_everything_that_a_run_needs(wheel: Path) -> None:
    """Templates, pages and migrations are data: forgotten, they are missed only on somebody else's machine."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "flip_fl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert expected <= names
    assert "flip_fl/py.typed" in names
    templates = {
        f"flip_fl/_job_templates/{path.relative_to(ROOT / 'job_templates').as_posix()}"
        for path in (ROOT / "job_templates").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert templates
    assert templates <= names
    assert not any(name.startswith(("tests/", "examples/")) or name.endswith((".pyc", ".env")) for name in names)


def _run(
    command: list[str | Path], *, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
