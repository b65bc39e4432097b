"""A diffusion job of a few numbers: what it measures tells which weights it was given, and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.small_apps import PREPARE

MODELS = """
import torch


class Autoencoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(3, 2), torch.nn.Linear(2, 3)

    def forward(self, x):
        return self.decoder(self.encoder(x))


class Diffusion(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.autoencoder = Autoencoder().requires_grad_(False)
        self.denoiser = torch.nn.Linear(2, 2)


def get_model(stage):
    return Autoencoder() if stage == "ae" else Diffusion()
"""
APART = """
import torch


def get_model(stage):
    return torch.nn.Linear(3, 2) if stage == "ae" else torch.nn.Linear(3, 4)
"""
TRAINER = """
import pathlib
import zlib

import torch


def train(model, site, config):
    {in_train}
    site.log("received", digest(model))
    site.log("code_is_there", float(pathlib.Path(__file__).with_name("denoising.py").is_file()))
    site.memory["tasks"] = site.memory.get("tasks", 0) + 1
    site.log("tasks_so_far", float(site.memory["tasks"]))
    x = data(site)
    optimiser = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for step in range(config["LOCAL_ROUNDS_AE" if site.stage == "ae" else "LOCAL_ROUNDS_DM"]):
        optimiser.zero_grad()
        found = loss(model, site, x)
        found.backward()
        optimiser.step()
        site.log("step_loss", float(found), x_value=float(step), x_label="Step")
    return {{"num_examples": len(x), "loss": float(found)}}


def validate(model, site, config):
    site.log("held", digest(model))
    x = data(site)
    with torch.no_grad():
        return {{"num_examples": len(x), "loss": float(loss(model, site, x))}}


def generate(model, count, config):
    return torch.sigmoid(model.autoencoder.decoder(torch.randn(count, 4, 2))).reshape(count, 4, 3)


def loss(model, site, x):
    if site.stage == "ae":
        return torch.nn.functional.mse_loss(model(x), x)
    import denoising  # for the first time in stage 2

    return denoising.loss(model, x)


def data(site):
    return torch.tensor(site.cohort()[["a", "b", "c"]].to_numpy(), dtype=torch.float32)


def digest(model):
    stored = (model.autoencoder if hasattr(model, "autoencoder") else model).state_dict()
    return float(zlib.crc32(b"".join(each.numpy().tobytes() for each in stored.values())))
"""
DENOISING = """
import torch


def loss(model, x):
    with torch.no_grad():
        latents = model.autoencoder.encoder(x)
    noise = torch.randn_like(latents)
    return torch.nn.functional.mse_loss(model.denoiser(latents + noise), noise)
"""


def write_staged_app(folder: Path, *, in_train: str = "pass", models: str = MODELS, **config: Any) -> Path:
    """Write the app; ``in_train`` is a statement at the begin of ``train``, ``config`` is added to config.json.

    ``received`` and ``held`` are a checksum of the autoencoder that ``train`` and ``validate`` were given.
    """
    folder.mkdir(parents=True)
    stages = {"GLOBAL_ROUNDS_AE": 2, "GLOBAL_ROUNDS_DM": 2, "LOCAL_ROUNDS_AE": 2, "LOCAL_ROUNDS_DM": 3}
    settings = {"job_type": "diffusion_model", "IMAGING": False, **stages, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "models.py").write_text(models)
    (folder / "trainer.py").write_text(TRAINER.format(in_train=in_train))
    (folder / "denoising.py").write_text(DENOISING)
    (folder / "prepare.py").write_text(PREPARE.format(canary="ROW"))
    return folder
