"""How often each label is among a site's examples: what of it may leave, so that no small group is known by it.

A count below the threshold is told as ``withheld``, 0 like 9. Beside the number of all examples one such count would
be what is left, and several would be known by their sum: so the smallest count that might be told is withheld, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flip_fl.privacy.egress import Egress, sane_name
from flip_fl.values import MAX_LABELS, WITHHELD

# Under which name ``train`` returns them, and under which METRICS declares one: ``label_counts@benign``.
LABEL_COUNTS = "label_counts"
MAX_COUNT = 10**12

Told = int | str


def withheld_below(counts: Mapping[str, Told], threshold: int) -> dict[str, Told]:
    """``counts`` with small ones withheld, and one more with them; what was withheld before stays so."""
    told = {label: n if isinstance(n, str) or n >= threshold else WITHHELD for label, n in counts.items()}
    rest = [label for label, n in told.items() if not isinstance(n, str)]
    if told != dict(counts) and rest:
        told[min(rest, key=lambda label: told[label])] = WITHHELD
    return told


def labels_to_leave(given: Mapping[Any, Any], threshold: int, egress: Egress, examples: int) -> dict[str, Told]:
    """What may leave of the counts that an app returned; nothing, and a sentence that says why, where they are none.

    None is above the number of ``examples``, and each has as many digits as a metric of the site. One label that may
    not leave takes the others along: what is missing to the whole would be its count.
    """
    if len(given) > MAX_LABELS:
        return _refused(egress, f"have more than {MAX_LABELS} labels")
    counts: dict[str, Told] = {}
    for label, n in given.items():
        if not sane_name(label):
            return _refused(egress, "have a label that may not leave the trust")
        if not egress.declares(LABEL_COUNTS, label):
            return _refused(egress, f"have a label that METRICS does not declare as {LABEL_COUNTS}@label")
        if isinstance(n, bool) or not hasattr(n, "__index__") or not 0 <= int(n) <= MAX_COUNT:
            return _refused(egress, "are not whole numbers from 0")
        if int(n) > examples:
            return _refused(egress, "are more than the examples")
        counts[label] = int(n)
    told = withheld_below(counts, threshold)
    return {label: n if isinstance(n, str) else int(egress.rounded(n)) for label, n in told.items()}


def _refused(egress: Egress, why: str) -> dict[str, Told]:
    egress.refuse(f"the {LABEL_COUNTS} of {egress.where} {why}: not stored")
    return {}
