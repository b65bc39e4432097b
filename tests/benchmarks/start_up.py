"""How long a user waits for an import and for help: best of several, beside a bare interpreter and a bare typer app."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.figures import Figure

REPEATS = 7
HEAVY = frozenset({"flwr", "nvflare", "torch"})
BARE_TYPER = "import typer\napp = typer.Typer()\n@app.command()\ndef main() -> None: ...\napp()"


def measure() -> list[Figure]:
    """``import flip_fl`` and ``flip-fl --help``."""
    bare = best([sys.executable, "-c", "pass"])
    imported = best([sys.executable, "-c", "import flip_fl"]) - bare
    heavy = loaded_by("import flip_fl") & HEAVY
    command = str(Path(sys.executable).parent / "flip-fl")
    helped = best([command, "--help"])
    typer = best([sys.executable, "-c", BARE_TYPER, "--help"])
    return [
        Figure(
            "import of flip_fl",
            imported,
            "s",
            None,
            f"≤ 0.15 s, and none of {', '.join(sorted(HEAVY))} imported",
            imported <= 0.15 and not heavy,
        ),
        Figure("flip-fl --help", helped, "s", typer, "≤ 0.35 s", helped <= 0.35),
    ]


def loaded_by(code: str) -> set[str]:
    """The top-level packages that ``code`` leaves imported in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def best(command: list[str]) -> float:
    """Seconds of the fastest of several runs: what the work takes, without what else the machine does."""
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return min(times)
