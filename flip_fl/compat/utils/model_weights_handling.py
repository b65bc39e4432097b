"""``get_model_weights_diff``: what a training changed, as NVFLARE's DXO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flip_fl.aggregate.differences import difference


def get_model_weights_diff(original_weights: Mapping[str, Any], new_weights: Mapping[str, Any], iterations: int) -> Any:
    """The ``nvflare.apis.dxo.DXO`` of kind WEIGHT_DIFF with ``new - original`` by name, and ``iterations`` as steps.

    Weights are arrays or tensors, of equal names and shapes. Raises ``ImportError`` without NVFLARE, ``KeyError`` for a
    name that ``original_weights`` has not.
    """
    from nvflare.apis.dxo import DXO, DataKind, MetaKey

    before = {name: _array(original_weights[name]) for name in new_weights}
    changed = difference(before, {name: _array(value) for name, value in new_weights.items()})
    return DXO(DataKind.WEIGHT_DIFF, data=changed, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: iterations})


def _array(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
