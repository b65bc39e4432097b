"""The model. The server builds it, too, so that this file needs nothing that only a site has."""

import torch
from data import CLASSES, FEATURES, ON_ONE_SCALE


def get_model() -> torch.nn.Module:
    """Logits of shape (batch, CLASSES) for inputs of shape (batch, FEATURES)."""
    return torch.nn.Sequential(
        # brings the measurements to one scale; its statistics are averaged over the sites like the weights
        torch.nn.Identity() if ON_ONE_SCALE else torch.nn.BatchNorm1d(FEATURES, affine=False),
        torch.nn.Linear(FEATURES, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, CLASSES),
    )
