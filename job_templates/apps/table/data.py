"""The site's own patients as tensors."""

import hashlib

import torch

FEATURES, CLASSES = 30, 2
ON_ONE_SCALE = False
HELD_OUT_SHARE = 0.3


def patients(site) -> dict:
    """{"train": (inputs, target), "held_out": (inputs, target)}; inputs have the shape (patients, FEATURES)."""
    if "patients" not in site.memory:  # lives as long as the site's process: read once for all rounds
        cohort = site.cohort()
        inputs = torch.tensor(cohort.drop(columns=["person_id", "malignant"]).to_numpy(), dtype=torch.float32)
        target = torch.tensor(cohort["malignant"].to_numpy(), dtype=torch.long)
        held_out = torch.tensor([is_held_out(person) for person in cohort["person_id"]])
        site.memory["patients"] = {
            "train": (inputs[~held_out], target[~held_out]),
            "held_out": (inputs[held_out], target[held_out]),
        }
    return site.memory["patients"]


def is_held_out(person_id) -> bool:
    """Decided by the patient's id alone: the same in every round, whatever the order of the rows."""
    digest = hashlib.sha256(f"held out|{person_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64
