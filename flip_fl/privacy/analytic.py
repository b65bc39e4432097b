"""The exact (ε, δ) of the Gaussian mechanism, for every ε: Balle and Wang, "Improving the Gaussian Mechanism for
Differential Privacy", ICML 2018, theorem 8 and algorithm 1.

All is in units of the sensitivity: the noise's standard deviation over it is called the multiplier.
"""

from __future__ import annotations

import math
from collections.abc import Callable

_STEPS = 200
# Below this the complementary error function is too small for a float: its asymptotic series takes over.
_FAR = -30.0


def delta_of(multiplier: float, epsilon: float) -> float:
    """The δ at ``epsilon``: Φ(1/2z - εz) - e^ε Φ(-1/2z - εz), z being the ``multiplier``."""
    half, shift = 1 / (2 * multiplier), epsilon * multiplier
    first, second = _log_normal(half - shift), epsilon + _log_normal(-half - shift)
    return max(0.0, math.exp(first) * -math.expm1(min(0.0, second - first)))


def noise_multiplier(epsilon: float, delta: float) -> float:
    """The least multiplier whose δ at ``epsilon`` is at most ``delta``, from above, to 12 digits.

    Raises ``ValueError`` unless both are positive, and ``delta`` below 1.
    """
    if not (epsilon > 0 and math.isfinite(epsilon) and 0 < delta < 1):
        raise ValueError("epsilon must be positive and delta between 0 and 1")
    low = high = 1.0
    while delta_of(high, epsilon) > delta:
        high *= 2
    while delta_of(low, epsilon) <= delta:
        low /= 2
    return narrowed(low, high, lambda multiplier: delta_of(multiplier, epsilon) > delta)[1]


def narrowed(low: float, high: float, too_little: Callable[[float], bool]) -> tuple[float, float]:
    """The two sides, to 12 digits, of the positive number between ``low`` and ``high`` up to which it is too little."""
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        if high / low < 1 + 1e-12:
            break
        if too_little(middle):
            low = middle
        else:
            high = middle
    return low, high


def _log_normal(x: float) -> float:
    """The logarithm of the standard normal distribution function."""
    if x > _FAR:
        return math.log(math.erfc(-x / math.sqrt(2)) / 2)
    inverse = 1 / (x * x)
    return -x * x / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log1p(-inverse + 3 * inverse**2)
