"""What cannot run on a machine is said in the summary, and is an error in continuous integration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_TESTS = """
import pytest

def test_without_a_part():
    pytest.skip("LEFT OUT: Chromium is not installed")

@pytest.fixture
def part():
    pytest.skip("LEFT OUT: no server could be started")

def test_with_a_part(part):
    pass

def test_skipped_for_another_reason():
    pytest.skip("only on Windows")
"""
_MODULE = 'import pytest\npytest.skip("LEFT OUT: a whole module", allow_module_level=True)\n'


def _run(folder: Path, *options: str, ci: bool) -> subprocess.CompletedProcess[str]:
    (folder / "test_parts.py").write_text(_TESTS)
    (folder / "test_module.py").write_text(_MODULE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "true" if ci else ""}
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-q", *options, str(folder)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "with workers"])
def test_the_summary_names_what_was_left_out(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Each part that could not run is a line of its own, with how many tests it cost; other skips are not."""
    done = _run(tmp_path, *options, ci=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("LEFT OUT: ")]
    assert sorted(lines) == [
        "LEFT OUT: Chromium is not installed (tests: 1)",
        "LEFT OUT: a whole module (tests: 1)",
        "LEFT OUT: no server could be started (tests: 1)",
    ]
    assert done.returncode == 0


def test_in_continuous_integration_nothing_may_be_left_out(tmp_path: Path) -> None:
    """Where CI=true each of them fails, and says why."""
    done = _run(tmp_path, "--continue-on-collection-errors", ci=True)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("LEFT OUT: ") and "(tests: 1)" in line]
    assert len(lines) == 3
    assert "1 failed, 1 skipped, 2 errors" in done.stdout
