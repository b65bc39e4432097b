"""``flip.constants``: the enumerations are flip_fl's own; the two classes of constants exist for existing apps only."""

from __future__ import annotations

from flip_fl.compat.constants.flip_constants import FlipConstants
from flip_fl.compat.constants.pt_constants import PTConstants
from flip_fl.values import JobType, ModelStatus, ResourceType

__all__ = ["FlipConstants", "JobType", "ModelStatus", "PTConstants", "ResourceType"]
