"""``flip_local_dp_mod`` where existing apps look for it."""

from flip_fl.flower.local_dp import local_dp_mod as flip_local_dp_mod

__all__ = ["flip_local_dp_mod"]
