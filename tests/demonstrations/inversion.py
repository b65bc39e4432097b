"""What a model's update tells of the data: digits read back from it, without a policy and with one.

    python -m tests.demonstrations.inversion docs/inversion.png

Each digit is one site's only patient, and the site trains for one step: the case in which an update says most. In a
layer y = Wx + b with loss L, dL/dW is dL/db times x, so one row of the one over its entry of the other *is* the picture
(Phong et al. 2018, "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", section III). Whoever
receives the update needs nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from flip_fl.dashboard.png import png
from flip_fl.privacy.pipeline import filtered
from flip_fl.privacy.policy import Clipping, FilterSet, Gaussian

LEARNING_RATE = 0.1
SIDE, ZOOM, GAP = 8, 10, 4
EPSILON, DELTA, NORM = 8.0, 1e-5, 1.0
OFF = FilterSet()
CLIPPED = FilterSet(clipping=Clipping(norm=NORM))
ON = FilterSet(gaussian=Gaussian(epsilon=EPSILON, delta=DELTA, clipping_norm=NORM))

Picture = np.ndarray[Any, np.dtype[np.float64]]


def digits(count: int) -> Picture:
    """``count`` different digits of scikit-learn's, (count, 64), values from 0 to 1."""
    data = load_digits()
    firsts = [int(np.flatnonzero(data.target == digit)[0]) for digit in range(count)]
    pictures: Picture = data.data[firsts] / 16.0
    return pictures


def update_of(picture: Picture, label: int, policy: FilterSet) -> dict[str, Any]:
    """What a site with this one picture sends after one step: differences by name, behind ``policy``."""
    torch.manual_seed(label)
    model = torch.nn.Sequential(torch.nn.Linear(SIDE * SIDE, 32), torch.nn.Sigmoid(), torch.nn.Linear(32, 10))
    before = {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
    x = torch.tensor(picture, dtype=torch.float32).reshape(1, -1)
    loss = torch.nn.functional.cross_entropy(model(x), torch.tensor([label]))
    loss.backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(model.parameters(), lr=LEARNING_RATE).step()
    after = {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
    whole = filtered(policy, before, after, difference=False) if not policy.empty else after
    return {name: whole[name] - before[name] for name in before}


def read_back(update: dict[str, Any]) -> Picture:
    """The picture that the first layer's update holds, if it holds one; values from 0 to 1."""
    weights, biases = update["0.weight"], update["0.bias"]
    row = int(np.argmax(np.abs(biases)))
    found: Picture = np.asarray(weights[row] / biases[row], dtype=np.float64)
    return np.clip(found, 0.0, 1.0)


def likeness(pictures: Picture, found: Picture) -> float:
    """The mean correlation of each picture with what was found; 1 where it is the same."""
    pairs = zip(pictures, found, strict=True)
    return float(np.mean([np.nan_to_num(np.corrcoef(one, other)[0, 1]) for one, other in pairs]))


def rows(count: int = 10) -> dict[str, Picture]:
    """The digits, and what is read back of each site's update by policy."""
    pictures = digits(count)
    told = {"patients": pictures}
    for name, policy in (("no policy", OFF), ("clipped", CLIPPED), ("Gaussian", ON)):
        told[name] = np.array([read_back(update_of(each, label, policy)) for label, each in enumerate(pictures)])
    return told


def canvas_of(told: dict[str, Picture]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pictures in rows, in grey."""
    height = len(told) * (SIDE * ZOOM + GAP) + GAP
    width = max(map(len, told.values())) * (SIDE * ZOOM + GAP) + GAP
    canvas = np.full((height, width), 128, np.uint8)
    for line, pictures in enumerate(told.values()):
        for place, each in enumerate(pictures):
            large = np.kron(255 * each.reshape(SIDE, SIDE), np.ones((ZOOM, ZOOM)))
            top, left = GAP + line * (SIDE * ZOOM + GAP), GAP + place * (SIDE * ZOOM + GAP)
            canvas[top : top + SIDE * ZOOM, left : left + SIDE * ZOOM] = np.rint(large)
    return canvas


def main(out: str) -> None:
    """Write the picture, and print how alike each row is to the first."""
    told = rows()
    Path(out).write_bytes(png(canvas_of(told)))
    for name, found in told.items():
        print(f"{name:10} {likeness(told['patients'], found):6.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
