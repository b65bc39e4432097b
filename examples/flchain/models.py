"""The model: what is known of a person when the blood was drawn, to the logarithm of the hazard of dying."""

import torch

FEATURES = 6


def get_model() -> torch.nn.Module:
    """Log hazards of shape (batch, 1) for inputs of shape (batch, 6); only differences between persons mean anything.

    The first layer brings the inputs to one scale; its running statistics are averaged over the sites like the
    weights, so no site needs to know another's patients.
    """
    return torch.nn.Sequential(
        torch.nn.BatchNorm1d(FEATURES, affine=False),
        torch.nn.Linear(FEATURES, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 1, bias=False),
    )
