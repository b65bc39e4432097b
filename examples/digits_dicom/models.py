"""The model: an image of 8 × 8 pixels to which digit it shows."""

import torch


def get_model() -> torch.nn.Module:
    """Logits of shape (batch, 10) for images of shape (batch, 1, 8, 8) with values from 0 to 1."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 2 * 2, 10),
    )
