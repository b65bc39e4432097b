"""The seam between a task and the app's code: whatever form the app has, this is what calls it and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flip_fl.app.config import FULL
from flip_fl.app.session import Session
from flip_fl.app.site import Ledger, SiteSpec
from flip_fl.app.tensors import Arrays


@dataclass(frozen=True)
class Made:
    """What the app's code gave: ``values`` as it returned them, ``num_examples`` among them, and a trained model.

    ``measured_before``: the values are of the model that was received, which the round before has made.
    """

    values: Mapping[Any, Any]
    arrays: Arrays = field(default_factory=dict)
    params_type: str = FULL
    measured_before: bool = False


class Call(Protocol):
    """Runs the app's code for one task. Raises whatever the app raises, ``AppError`` and ``TaskAborted``."""

    def __call__(self, spec: SiteSpec, arrays: Mapping[str, Any], session: Session, ledger: Ledger) -> Made: ...
