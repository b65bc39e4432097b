"""From what a run may spend to what one round may, cross-checked with the account."""

from __future__ import annotations

import pytest

from flip_fl.privacy.accountant import epsilon_of
from flip_fl.privacy.analytic import noise_multiplier
from flip_fl.privacy.calibration import round_epsilon


@pytest.mark.parametrize("rounds", [1, 2, 5, 40])
@pytest.mark.parametrize("epsilon", [0.3, 1.0, 8.0, 30.0])
def test_all_rounds_together_spend_what_was_asked(epsilon: float, rounds: int) -> None:
    """Google's accountant, which knows nothing of the calibration, composes the rounds to the ε of the whole run."""
    one = round_epsilon(epsilon, 1e-5, rounds)
    assert one <= epsilon
    spent = epsilon_of({noise_multiplier(one, 1e-5): rounds}, 1e-5)
    assert spent == pytest.approx(epsilon, rel=1e-3)


def test_a_single_round_is_the_whole_run() -> None:
    """With one round nothing is divided, and with more each gets less than its share of none."""
    assert round_epsilon(4.0, 1e-5, 1) == pytest.approx(4.0, rel=1e-9)
    assert round_epsilon(4.0, 1e-5, 4) > 4.0 / 4


@pytest.mark.parametrize(("epsilon", "rounds"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_what_is_no_run_is_refused(epsilon: float, rounds: int) -> None:
    """An ε of 0, or no round, has no noise that would give it."""
    with pytest.raises(ValueError, match="must be"):
        round_epsilon(epsilon, 1e-5, rounds)
