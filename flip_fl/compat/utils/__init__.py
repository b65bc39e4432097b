"""``flip.utils``."""

from __future__ import annotations

from flip_fl.compat.utils.model_weights_handling import get_model_weights_diff
from flip_fl.compat.utils.utils import Utils

__all__ = ["Utils", "get_model_weights_diff"]
