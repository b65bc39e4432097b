"""What differential privacy costs two of the examples: scores against the ε that their sites' accounts say.

    python -m tests.demonstrations.privacy_curve docs/privacy-curve.svg build/privacy-curve

Some minutes of whole runs on Flower, kept in the second folder: an example whose run is there is only drawn. They run
as they are but for FEDBN: what batch norm knows of a site's patients stays there, since noise on a running variance may
make it negative.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flip_fl.dashboard.privacy import HEIGHT, WIDTH, drawing
from flip_fl.dashboard.story import PrivacyCurve, Story
from flip_fl.simulate.model import RunOptions
from flip_fl.simulate.run import run

EXAMPLES = Path(__file__).parents[2] / "examples"
# Two draws of the noise for each ε.
EPSILONS = (4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
DRAWS = 2
GAP, HEAD = 24, 24
STYLE = """text{font:11px sans-serif;fill:#4c5a67}.head{font-weight:600;fill:#16202a}
path{fill:none;stroke:#0a4fb3;stroke-width:1.75}.axis{stroke:#8a97a3;stroke-width:1}
.rule{stroke:#4c5a67;stroke-width:1;stroke-dasharray:4 3}circle{fill:#0a4fb3}"""


@dataclass(frozen=True)
class Shown:
    """An example, how it is divided between sites, and the score that is drawn."""

    example: str
    sites: int
    score: str
    shares: tuple[float, ...] = ()


SHOWN = (Shown("breast_cancer", 2, "auc"), Shown("flchain", 4, "c_index", (50, 25, 15, 10)))


def measured(shown: Shown, folder: Path, epsilons: tuple[float, ...]) -> PrivacyCurve:
    """The example's curve; its runs are kept in ``folder``, and not done again."""
    out = folder / f"{shown.example}-run"
    if (out / "story.json").is_file():
        kept = Story.model_validate_json((out / "story.json").read_text(encoding="utf-8")).privacy
        if kept is not None:
            return kept
    app = folder / shown.example
    shutil.copytree(EXAMPLES / shown.example, app, dirs_exist_ok=True)
    config = json.loads((app / "config.json").read_text(encoding="utf-8"))
    (app / "config.json").write_text(json.dumps({**config, "FEDBN": True}), encoding="utf-8")
    options = RunOptions(app, "flower", shown.sites, shares=shown.shares, out=out, privacy_curve=epsilons)
    outcome = run(options, lambda progress: print(progress.text, flush=True) if progress.stage == "privacy" else None)
    assert outcome.exit_code == 0, outcome.reason
    assert outcome.story.privacy is not None
    return outcome.story.privacy


def picture(curves: Mapping[Shown, PrivacyCurve]) -> str:
    """The curves beside one another, as an SVG that needs nothing else."""
    panels = []
    for number, (shown, curve) in enumerate(curves.items()):
        left = number * (WIDTH + GAP)
        found = [(point.spent, point.metrics.get(shown.score)) for point in curve.points]
        dots = [(x, y) for x, y in found if x is not None and y is not None]
        inner = drawing(dots, curve.without.get(shown.score), shown.score)
        placed = inner.replace("<svg ", f'<svg x="{left}" y="{HEAD}" width="{WIDTH}" height="{HEIGHT}" ', 1)
        title = f"{shown.example}, {shown.sites} sites: {shown.score}"
        panels.append(f'<text class="head" x="{left}" y="14">{title}</text>{placed}')
    width, height = len(panels) * (WIDTH + GAP) - GAP, HEIGHT + HEAD
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(panels)}</svg>\n'
    )


def main(target: Path, folder: Path) -> None:
    """Run, draw, and say the numbers."""
    curves = {shown: measured(shown, folder, EPSILONS * DRAWS) for shown in SHOWN}
    target.write_text(picture(curves), encoding="utf-8")
    for shown, curve in curves.items():
        print(shown.example, f"norm {curve.clipping_norm:g}", f"without noise {curve.without[shown.score]:.4f}")
        for point in curve.points:
            print(f"  {point.asked:g} {point.spent} {point.metrics.get(shown.score)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
