"""``JobType`` where existing apps look for it."""

from flip_fl.values import JobType

__all__ = ["JobType"]
