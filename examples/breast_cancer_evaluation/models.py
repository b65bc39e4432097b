"""The models that are compared: ten measurements of cell nuclei, three statistics each, to the odds of malignancy."""

import torch

FEATURES = 30


def get_model_for_path(path: str) -> torch.nn.Module:
    """The model of an entry in config.json, by its ``path``: logits of shape (batch, 1) for inputs (batch, 30).

    The first layer brings the thirty measurements to one scale.
    """
    scale = torch.nn.BatchNorm1d(FEATURES, affine=False)
    if path == "linear":
        return torch.nn.Sequential(scale, torch.nn.Linear(FEATURES, 1))
    if path == "network":
        return torch.nn.Sequential(scale, torch.nn.Linear(FEATURES, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    raise ValueError("path must be linear or network")
