"""A small latent diffusion model of handwritten digits: an autoencoder, and a denoiser in its latent space."""

import math

import torch

PIXELS = 64
LATENT = 12
WIDTH = 128
DIGITS = 10
STEPS = 200


def get_model(stage) -> torch.nn.Module:
    """The autoencoder for stage "ae"; for stage "dm" the whole model, with the autoencoder inside and frozen."""
    return Autoencoder() if stage == "ae" else LatentDiffusion()


class Autoencoder(torch.nn.Module):
    """Pictures (batch, 64) with values from 0 to 1, to latents (batch, 12) and back.

    The encoder ends in batch norm: latents have mean 0 and variance 1, which is what the noise of stage 2 is made for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(
            torch.nn.Linear(PIXELS, WIDTH),
            torch.nn.SiLU(),
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.SiLU(),
            torch.nn.Linear(WIDTH, LATENT),
            torch.nn.BatchNorm1d(LATENT, affine=False),
        )
        self.decoder = torch.nn.Sequential(
            torch.nn.Linear(LATENT, WIDTH),
            torch.nn.SiLU(),
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.SiLU(),
            torch.nn.Linear(WIDTH, PIXELS),
            torch.nn.Sigmoid(),
        )

    def forward(self, pictures):
        return self.decoder(self.encoder(pictures))


class LatentDiffusion(torch.nn.Module):
    """The autoencoder of stage 1 as it came, and a denoiser that is told the time and the digit."""

    def __init__(self) -> None:
        super().__init__()
        self.autoencoder = Autoencoder().requires_grad_(False)
        self.denoiser = Denoiser()

    def train(self, mode: bool = True):
        super().train(mode)
        # frozen altogether: its running statistics, too
        self.autoencoder.eval()
        return self


class Denoiser(torch.nn.Module):
    """The noise in a noisy latent (batch, 12), given its time from 0 to 1 (batch,) and its digit (batch,)."""

    def __init__(self) -> None:
        super().__init__()
        self.digit = torch.nn.Embedding(DIGITS, WIDTH)
        self.time = torch.nn.Sequential(torch.nn.Linear(2 * 16, WIDTH), torch.nn.SiLU(), torch.nn.Linear(WIDTH, WIDTH))
        self.enter = torch.nn.Linear(LATENT, WIDTH)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.SiLU(), torch.nn.Linear(WIDTH, WIDTH))
            for _ in range(3)
        )
        self.leave = torch.nn.Linear(WIDTH, LATENT)

    def forward(self, noisy, time, digit):
        angles = time[:, None] * torch.logspace(0, 3, 16, device=time.device)
        told = self.time(torch.cat([angles.sin(), angles.cos()], dim=1)) + self.digit(digit)
        hidden = self.enter(noisy)
        for block in self.blocks:
            hidden = hidden + block(hidden + told)
        return self.leave(hidden)


def signal(time):
    """How much of a latent is left at ``time`` (0 to 1), as a factor; the noise's factor completes its square to 1.

    The cosine schedule of A. Nichol and P. Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021.
    """
    return torch.cos(0.5 * math.pi * time * 0.999)
