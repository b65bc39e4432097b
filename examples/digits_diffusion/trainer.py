"""Training and validation of both stages at one hospital, and what the finished model draws."""

import hashlib
import itertools

import torch
from models import DIGITS, LATENT, STEPS, signal

HELD_OUT_SHARE = 0.2


def train(model, site, config) -> dict:
    """The autoencoder learns to give pictures back; then the denoiser learns to see noise in their latents."""
    pictures, digits = (each.to(site.device) for each in patients(site)["train"])
    loss_of, rounds = stage(site, config)
    # smaller steps towards the end: each round begins with a new optimizer
    rate = config["LEARNING_RATE"] * (1 - 0.9 * (site.round - 1) / site.total_rounds)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=rate)
    model.train()
    total = 0.0
    for _ in site.progress(range(rounds)):
        total = 0.0
        for batch in torch.randperm(len(pictures)).split(config["BATCH_SIZE"]):
            if len(batch) < 2:  # batch norm needs two
                continue
            optimizer.zero_grad()
            loss = loss_of(model, pictures[batch], digits[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    return {"num_examples": len(pictures), "loss": total / len(pictures)}


def validate(model, site, config) -> dict:
    """The stage's own loss on the held-out pictures; the noise is the same in every round."""
    pictures, digits = (each.to(site.device) for each in patients(site)["held_out"])
    loss_of, _ = stage(site, config)
    torch.manual_seed(site.seed)
    model.eval()
    with torch.no_grad():
        loss = loss_of(model, pictures, digits)
    return {"num_examples": len(pictures), "loss": loss.item()}


def generate(model, count, config):
    """``count`` pictures (count, 8, 8) of the digits 0, 1, 2, …: noise, denoised step by step.

    The deterministic sampler of J. Song et al., "Denoising Diffusion Implicit Models", 2021.
    """
    digits = torch.arange(count) % DIGITS
    latents = torch.randn(count, LATENT)
    times = torch.linspace(1, 0, STEPS + 1)
    with torch.no_grad():
        for now, then in itertools.pairwise(times):
            noise = model.denoiser(latents, now.expand(count), digits)
            left, kept = signal(now), signal(then)
            clean = ((latents - (1 - left**2).sqrt() * noise) / left).clamp(-4, 4)
            noise = (latents - left * clean) / (1 - left**2).sqrt()
            latents = kept * clean + (1 - kept**2).clamp(min=0).sqrt() * noise
        return model.autoencoder.decoder(latents).reshape(count, 8, 8)


def stage(site, config):
    """The loss of the job's stage, and its passes over the data a round."""
    if site.stage == "ae":
        return reconstruction_loss, config["LOCAL_ROUNDS_AE"]
    return denoising_loss, config["LOCAL_ROUNDS_DM"]


def reconstruction_loss(model, pictures, digits):
    latents = model.encoder(pictures)
    if model.training:  # a little noise: nearby latents shall be alike
        latents = latents + 0.1 * torch.randn_like(latents)
    return torch.nn.functional.mse_loss(model.decoder(latents), pictures)


def denoising_loss(model, pictures, digits):
    with torch.no_grad():
        latents = model.autoencoder.encoder(pictures)
    time, noise = torch.rand(len(latents), device=latents.device), torch.randn_like(latents)
    left = signal(time)[:, None]
    noisy = left * latents + (1 - left**2).sqrt() * noise
    return torch.nn.functional.mse_loss(model.denoiser(noisy, time, digits), noise)


def patients(site) -> dict:
    """The hospital's pictures and digits as tensors, read once: {"train": (…), "held_out": (…)}."""
    if "patients" not in site.memory:
        cohort = site.cohort()
        pictures = torch.tensor(cohort.filter(like="pixel_").to_numpy() / 16, dtype=torch.float32)
        digits = torch.tensor(cohort["digit"].to_numpy(), dtype=torch.long)
        held_out = torch.tensor([is_held_out(person) for person in cohort["person_id"]])
        site.memory["patients"] = {
            "train": (pictures[~held_out], digits[~held_out]),
            "held_out": (pictures[held_out], digits[held_out]),
        }
    return site.memory["patients"]


def is_held_out(person_id) -> bool:
    """Decided by the writer's id alone: the same in every round, at every hospital, whatever the order of the rows."""
    digest = hashlib.sha256(f"held out|{person_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64
