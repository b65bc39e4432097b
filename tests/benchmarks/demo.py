"""How long the main job takes from command to report, after installation."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.figures import Figure


def measure() -> list[Figure]:
    """The demo's own command, in a folder of its own."""
    command = [str(Path(sys.executable).parent / "flip-fl"), "run", "examples/breast_cancer", "--engine", "nvflare"]
    command += ["--sites", "2", "--rounds", "5", "--baselines", "--out"]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        subprocess.run([*command, str(Path(folder, "run"))], check=True, capture_output=True)
        seconds = time.perf_counter() - begun
    return [Figure("make demo after installation", seconds, "s", None, "< 60 s on 2 cores", seconds < 60)]
