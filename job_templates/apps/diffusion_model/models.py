"""A small latent diffusion model: an autoencoder, and a denoiser in its latent space."""

import math

import torch
from data import FEATURES, ON_ONE_SCALE

LATENT = 8
WIDTH = 64


def get_model(stage) -> torch.nn.Module:
    """The autoencoder for stage "ae"; for stage "dm" the whole model, with the autoencoder inside and frozen."""
    return Autoencoder() if stage == "ae" else LatentDiffusion()


class Autoencoder(torch.nn.Module):
    """Inputs with FEATURES numbers each, to latents (batch, LATENT) and back, all on one scale."""

    def __init__(self) -> None:
        super().__init__()
        scale = torch.nn.Identity() if ON_ONE_SCALE else torch.nn.BatchNorm1d(FEATURES, affine=False)
        self.scale = torch.nn.Sequential(torch.nn.Flatten(), scale)
        # batch norm at its end: the noise of stage 2 is made for latents of mean 0 and variance 1
        self.encoder = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, WIDTH),
            torch.nn.SiLU(),
            torch.nn.Linear(WIDTH, LATENT),
            torch.nn.BatchNorm1d(LATENT, affine=False),
        )
        self.decoder = torch.nn.Sequential(
            torch.nn.Linear(LATENT, WIDTH), torch.nn.SiLU(), torch.nn.Linear(WIDTH, FEATURES)
        )

    def forward(self, inputs):
        """The scaled inputs, and what comes back of them."""
        scaled = self.scale(inputs)
        return scaled, self.decoder(self.encoder(scaled))


class LatentDiffusion(torch.nn.Module):
    """The autoencoder as stage 1 has left it, and a denoiser."""

    def __init__(self) -> None:
        super().__init__()
        self.autoencoder = Autoencoder().requires_grad_(False)
        self.denoiser = torch.nn.Sequential(
            torch.nn.Linear(LATENT + 1, WIDTH), torch.nn.SiLU(), torch.nn.Linear(WIDTH, LATENT)
        )

    def train(self, mode: bool = True):
        super().train(mode)
        self.autoencoder.eval()  # its running statistics are frozen, too
        return self

    def latents(self, inputs):
        return self.autoencoder.encoder(self.autoencoder.scale(inputs))

    def forward(self, noisy, time):
        """The noise in ``noisy`` (batch, LATENT) at ``time`` (batch,) from 0 to 1."""
        return self.denoiser(torch.cat([noisy, time[:, None]], dim=1))


def signal(time):
    """How much of a latent is left at ``time``, as a factor: the cosine schedule of Nichol and Dhariwal, 2021."""
    return torch.cos(0.5 * math.pi * time * 0.999)
