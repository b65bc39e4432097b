"""What the cells need: hubs that begin with everything loaded."""

from __future__ import annotations

import pytest

from tests.support import warm


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """A cell is about how a run ends, not about how its hub starts."""
    warm.simulate_with_warm_hubs()
