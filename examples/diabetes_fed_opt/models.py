"""The model: ten measurements of a person with diabetes to how far the disease progresses in a year."""

import torch

FEATURES = 10


def get_model() -> torch.nn.Module:
    """Progression of shape (batch, 1), on the scale of ``trainer.SCALE``, for inputs of shape (batch, 10).

    The first layer brings the measurements to one scale. A server optimizer moves weights and biases only: the running
    statistics become the sites' average.
    """
    return torch.nn.Sequential(
        torch.nn.BatchNorm1d(FEATURES, affine=False),
        torch.nn.Linear(FEATURES, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 1),
    )
