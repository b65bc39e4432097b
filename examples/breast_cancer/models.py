"""The model: ten measurements of cell nuclei, three statistics each, to the odds that a mass is malignant."""

import torch

FEATURES = 30


def get_model() -> torch.nn.Module:
    """Logits of shape (batch, 1) for inputs of shape (batch, 30).

    The first layer brings the thirty measurements to one scale; its running statistics are averaged over the sites
    like the weights, so no site needs to know another's patients.
    """
    return torch.nn.Sequential(
        torch.nn.BatchNorm1d(FEATURES, affine=False),
        torch.nn.Linear(FEATURES, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 1),
    )
