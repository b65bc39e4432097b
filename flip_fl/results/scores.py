"""What a run has recorded of its model's score at each site, and whether the bundle's model gives it again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.results.contents import CROSS_VALIDATION, GLOBAL_MODEL
from flip_fl.results.verify import reproduce, unpacked

# The site's own process and this one may add floats in another order.
TOLERANCE = 1e-5
SiteScores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Again:
    """One metric of the global model at one site: as the run recorded it, and as the bundle's model gives it."""

    slot: str
    metric: str
    recorded: float
    reproduced: float

    @property
    def holds(self) -> bool:
        """False for NaN, too."""
        return math.isclose(self.recorded, self.reproduced, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def recorded(bundle: Path) -> SiteScores:
    """The last round's scores of the global model, as the bundle tells them: slot → metric → value.

    Empty where it tells none. Raises ``FlipError`` E0702.
    """
    with unpacked(bundle, only=(CROSS_VALIDATION,)) as (folder, manifest):
        if CROSS_VALIDATION not in manifest.files:
            return {}
        told = json.loads((folder / CROSS_VALIDATION).read_text(encoding="utf-8"))
    found = {slot: models.get(f"SRV_{GLOBAL_MODEL}") for slot, models in told.items()}
    return {slot: scores for slot, scores in found.items() if scores}


def again(bundle: Path, told: SiteScores, cohorts: Mapping[str, Path], images: Path | None = None) -> list[Again]:
    """The ``told`` scores of the slots in ``cohorts`` (slot → CSV), had again by the bundle's own ``validate``.

    Raises ``FlipError`` E0702 when the bundle cannot be used, or one of its scores is not had again.
    """
    unknown = [slot for slot in cohorts if slot not in told]
    if unknown:
        raise _differs(bundle, f"it has no score of {unknown[0]}", f"it has those of {', '.join(told) or 'no site'}")
    scores = reproduce(bundle, cohorts, images=images)
    found = [
        Again(slot, metric, value, scores[slot].get(metric, math.nan))
        for slot in cohorts
        for metric, value in told[slot].items()
    ]
    for each in found:
        if not each.holds:
            problem = (
                f"its model scores {each.metric} {each.reproduced:.6g} on the data of {each.slot}, "
                f"the run recorded {each.recorded:.6g}"
            )
            raise _differs(bundle, problem, "give the very data that the site had in the run")
    return found


def whose(bundle: Path, told: SiteScores, cohort: Path, images: Path | None = None) -> list[Again]:
    """The scores of the site whose data ``cohort`` is: the one that is had again with it.

    Raises ``FlipError`` E0702 when no site's is.
    """
    if not told:
        raise _differs(bundle, "it has no score of any site", "leave out --data")
    scores = reproduce(bundle, dict.fromkeys(told, cohort), images=images)
    for slot, metrics in told.items():
        found = [Again(slot, name, value, scores[slot].get(name, math.nan)) for name, value in metrics.items()]
        if all(each.holds for each in found):
            return found
    first = next(iter(told))
    given = ", ".join(f"{name} {value:.6g}" for name, value in scores[first].items())
    problem = f"on this data its model scores {given}, which is what no site of the run has recorded"
    raise _differs(bundle, problem, f"give the data of a site of the run: --data {first}=CSV")


def _differs(bundle: Path, problem: str, suggestion: str) -> FlipError:
    return FlipError("E0702", bundle=bundle.name, problem=problem, suggestion=suggestion)
