"""``FlipFedAvg`` where existing apps look for it."""

from flip_fl.flower.fedavg import FlipFedAvg

__all__ = ["FlipFedAvg"]
