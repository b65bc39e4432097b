"""The examples of the job types, run as their READMEs say: each reaches what it promises."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flip_fl.results.verify import generated
from flip_fl.simulate.model import ENGINES, RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import ModelStatus
from tests.support.bundles import bundle_of, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290), pytest.mark.xdist_group("examples-train")]

EXAMPLES = Path(__file__).parents[2] / "examples"


def launch(example: str, engine: str, folder: Path, **config: Any) -> RunOutcome:
    """One run of the example at two sites, with ``config`` in the place of its own values."""
    app = folder / example
    shutil.copytree(EXAMPLES / example, app, ignore=shutil.ignore_patterns("__pycache__"))
    own = json.loads((app / "config.json").read_text(encoding="utf-8"))
    (app / "config.json").write_text(json.dumps({**own, **config}), encoding="utf-8")
    outcome = run(RunOptions(app=app, engine=engine, sites=2, out=folder / "run"), lambda _: None)
    assert (outcome.status, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, None)
    return outcome


def by_round(outcome: RunOutcome, label: str) -> dict[str, list[float]]:
    """A metric's values by slot, round after round."""
    (plot,) = [plot for plot in outcome.story.plots if plot.label == label]
    return {series.slot: [float(point.y or 0) for point in series.points] for series in plot.series}


Diabetes = Callable[[str], RunOutcome]


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory: pytest.TempPathFactory) -> Diabetes:
    """The example's run on an engine, once."""
    return functools.cache(lambda engine: launch("diabetes_fed_opt", engine, tmp_path_factory.mktemp(engine)))


@pytest.mark.parametrize("engine", [pytest.param("nvflare", marks=pytest.mark.soak), "flower"])
def test_a_servers_optimizer_learns_how_diabetes_progresses(diabetes: Diabetes, engine: str) -> None:
    """Ten rounds of small steps make a useful model, at both hospitals alike; the best round is kept."""
    outcome = diabetes(engine)
    for values in by_round(outcome, "mae").values():
        assert len(values) == 10
        assert min(values) < 0.85 * values[0]
    assert all(max(values) > 0.3 for values in by_round(outcome, "r2").values())
    best = weights_of(bundle_of(outcome), "best_FL_global_model.pt")
    assert set(best) == set(weights_of(bundle_of(outcome)))


@pytest.mark.soak
def test_the_engines_agree_on_diabetes(diabetes: Diabetes) -> None:
    """Same example, same model: the weights differ by 1e-6 at the most."""
    one, other = (weights_of(bundle_of(diabetes(engine))) for engine in ENGINES)
    assert max(float((one[name] - other[name]).abs().max()) for name in one) <= 1e-6


@pytest.mark.soak
def test_a_latent_diffusion_model_draws_digits(tmp_path: Path) -> None:
    """At a third of its size: what the uploaded model draws for a digit looks, to its nearest real neighbours, like it;
    no two pictures are the same, and the report shows sixteen."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    reduced = {"GLOBAL_ROUNDS_AE": 2, "LOCAL_ROUNDS_AE": 15, "GLOBAL_ROUNDS_DM": 3, "LOCAL_ROUNDS_DM": 35}
    outcome = launch("digits_diffusion", "nvflare", tmp_path, **reduced)
    assert {each.number: each.stage for each in outcome.story.rounds} == {1: "ae", 2: "ae", 3: "dm", 4: "dm", 5: "dm"}
    for stage in ("ae", "dm"):
        assert all(values[-1] < values[0] for values in by_round(outcome, f"{stage}/loss").values())
    pixels = generated(bundle_of(outcome), 60)
    assert pixels is not None
    pictures = pixels.reshape(60, 64).astype(float) / 255 * 16
    real = load_digits()
    read = KNeighborsClassifier(3).fit(real.data, real.target).predict(pictures)
    assert np.mean(read == np.arange(60) % 10) > 0.7
    assert len({picture.tobytes() for picture in pixels}) == 60
    assert outcome.story.samples is not None
    assert len(outcome.story.samples.pictures) == 16
