"""The site's own studies as tensors."""

import hashlib

import torch

FEATURES, CLASSES = 64, 10
ON_ONE_SCALE = True
BRIGHTEST = 16
HELD_OUT_SHARE = 0.3


def patients(site) -> dict:
    """{"train": (inputs, target), "held_out": (inputs, target)}; inputs have the shape (studies, 1, 8, 8)."""
    if "patients" not in site.memory:  # lives as long as the site's process: read once for all rounds
        studies = site.images(site.cohort())
        data = studies.dataset(image="input_*.nii.gz", target="digit", columns=["person_id"], transform=scaled)
        items = list(data)  # all at once, since these are small; larger ones go through a torch DataLoader
        site.memory["patients"] = {
            "train": tensors([item for item in items if not is_held_out(item["person_id"])]),
            "held_out": tensors([item for item in items if is_held_out(item["person_id"])]),
        }
    return site.memory["patients"]


def scaled(item) -> dict:
    """The one slice of the volume, with values from 0 to 1."""
    return {**item, "image": item["image"][..., 0] / BRIGHTEST}


def tensors(items) -> tuple:
    return torch.stack([item["image"] for item in items]), torch.stack([item["target"] for item in items])


def is_held_out(person_id) -> bool:
    """Decided by the person's id alone, so that nobody is on both sides, in whatever round and at whatever site."""
    digest = hashlib.sha256(f"held out|{int(person_id)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64
