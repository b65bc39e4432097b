"""The seeds of a task, the same on every engine and for every form of app."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from flip_fl.values import SERVER_NAME


def initial_seed(seed: int) -> int:
    """What is seeded before the starting model is made, at the server and wherever a part of it must be the same."""
    return derived_seed(seed, SERVER_NAME, 0, "init")


def derived_seed(seed: int, slot: str, round: int, task: str) -> int:
    """The 64-bit seed of one task, the same on every engine: sha256 of seed, slot, round and task."""
    digest = hashlib.sha256(f"{seed}|{slot}|{round}|{task}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def seed_everything(value: int) -> None:
    """Seed python's, numpy's and torch's global generators."""
    import torch

    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value % 2**63)
