"""What several files of whole runs look at: one ordinary run on each engine."""

from __future__ import annotations

import pytest

from flip_fl.simulate.model import ENGINES, RunOptions, RunOutcome
from flip_fl.simulate.run import run
from tests.support import warm
from tests.support.small_apps import CANARY, ORDINARY, write_app


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """A run that is started here begins with a hub that has everything loaded."""
    warm.simulate_with_warm_hubs()


@pytest.fixture(scope="session")
def ordinary_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunOutcome]:
    """An ordinary run of three rounds on each engine, of the same app; for tests of the group "ordinary" alone."""
    app = write_app(tmp_path_factory.mktemp("ordinary") / "app", canary=CANARY, **ORDINARY)
    outcomes = {}
    for engine in ENGINES:
        out = tmp_path_factory.mktemp(engine) / "run"
        outcomes[engine] = run(RunOptions(app=app, engine=engine, sites=2, out=out), lambda _: None)
    return outcomes
