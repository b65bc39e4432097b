"""From what a whole run may spend to what one round may: the other way round than an account."""

from __future__ import annotations

import math

from flip_fl.privacy.analytic import delta_of, narrowed, noise_multiplier

_LEAST = 1e-9


def round_epsilon(epsilon: float, delta: float, rounds: int) -> float:
    """The ε of one release at ``delta``, so that ``rounds`` of them are (``epsilon``, ``delta``) together.

    Exact: releases of the Gaussian mechanism with one multiplier z compose to a single one with z / √rounds (Dong, Roth
    and Su, *Gaussian Differential Privacy*, 2022, corollary 3.3). Raises ``ValueError`` as ``noise_multiplier`` does,
    and for no rounds.
    """
    if rounds < 1:
        raise ValueError("there must be a round")
    multiplier = noise_multiplier(epsilon, delta) * math.sqrt(rounds)
    # Too much δ at an ε: so much noise is a larger one. Of the two sides the one with more noise.
    return narrowed(min(_LEAST, epsilon), epsilon, lambda middle: delta_of(multiplier, middle) > delta)[0]
