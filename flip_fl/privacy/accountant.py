"""What Gaussian releases on one cohort give away together: composed by Google's ``dp-accounting``.

Each release is known by its noise multiplier: the noise's standard deviation over the sensitivity. Later updates depend
on earlier ones; composition holds for that, too.
"""

from __future__ import annotations

from collections.abc import Mapping

# Beyond, a budget is a word: Rényi accounting, some percent looser, is exact enough and takes no time.
_TIGHT_BELOW = 50.0


def epsilon_of(releases: Mapping[float, int], delta: float) -> float:
    """The ε at ``delta`` of all ``releases`` (multiplier → how many) together; 0.0 of none.

    By privacy loss distributions, which are never below the truth (Koskela et al. 2020), or for a large ε by Rényi
    differential privacy (Mironov 2017).
    """
    if not releases:
        return 0.0
    from dp_accounting import GaussianDpEvent
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    accountants = (RdpAccountant(), PLDAccountant())
    found = float("inf")
    for accountant in accountants:
        for multiplier, count in sorted(releases.items()):
            accountant.compose(GaussianDpEvent(multiplier), count)
        found = min(found, float(accountant.get_epsilon(delta)))
        if found > _TIGHT_BELOW:
            break
    return found
