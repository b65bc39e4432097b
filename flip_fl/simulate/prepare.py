"""Runs an app's ``prepare.py`` in a process of its own: ``python -m flip_fl.simulate.prepare APP OUT``."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError

PREPARE_TIMEOUT_S = 1800


def prepare(app_dir: Path, out_dir: Path) -> None:
    """Let the app write ``cohort.csv`` and, for imaging, ``images/`` into ``out_dir``.

    Raises ``FlipError`` E0901 when the script fails, with the last line that it wrote.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "flip_fl.simulate.prepare", str(app_dir), str(out_dir)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=scrubbed(), timeout=PREPARE_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise FlipError(
            "E0901",
            where=str(app_dir / "prepare.py"),
            problem=f"prepare.py failed: {last}",
            suggestion="mend prepare.py, or give --data CSV",
        )


def main(app_dir: Path, out_dir: Path) -> None:
    """Import ``prepare.py`` and call ``prepare(out_dir)``."""
    spec = importlib.util.spec_from_file_location("prepare", app_dir / "prepare.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"no prepare.py in {app_dir}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(app_dir))
    spec.loader.exec_module(module)
    module.prepare(out_dir)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
