"""What an app's ``generate`` returns, as pixels that a report can show: bounded in number and size."""

from __future__ import annotations

from typing import Any

import numpy as np

from flip_fl.app.faults import AppError

MAX_PICTURES = 64
MAX_SIDE = 64
COLOURS = 3

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def pixels_of(returned: Any, count: int) -> Pixels:
    """``returned``, an array or tensor of ``count`` pictures with values from 0 to 1, as bytes.

    Shape (count, height, width), or (count, height, width, 3) for red, green and blue. A side of more than ``MAX_SIDE``
    pixels is scaled down to it by averaging, the other in proportion. Raises ``AppError`` for anything else.
    """
    given = returned.detach().cpu().numpy() if hasattr(returned, "detach") else np.asarray(returned)
    if given.dtype.kind not in "fiub":
        raise AppError(f"it returned {type(returned).__name__}, not an array of numbers")
    if (
        given.ndim not in (3, 4)
        or given.shape[0] != count
        or 0 in given.shape
        or given.shape[3:] not in ((), (COLOURS,))
    ):
        raise AppError(
            f"its shape is {tuple(given.shape)}; it must be ({count}, height, width), or ({count}, height, width, 3)"
        )
    values = given.astype(np.float64)
    if not np.isfinite(values).all():
        raise AppError("it holds NaN or infinity")
    if values.min() < 0 or values.max() > 1:
        raise AppError(f"its values go from {values.min():.3g} to {values.max():.3g}; they must be from 0 to 1")
    pixels: Pixels = np.rint(255 * _small(values)).astype(np.uint8)
    return pixels


def check_pixels(pixels: Pixels, count: int) -> None:
    """Raises ``AppError`` for what ``pixels_of`` would not have made."""
    sides = pixels.shape[1:3]
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[3:] not in ((), (COLOURS,)):
        raise AppError("its process left no pictures")
    if pixels.shape[0] != count or min(sides) < 1 or max(sides) > MAX_SIDE:
        raise AppError("its process left other pictures than it was asked for")


def _small(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    longest = max(values.shape[1:3])
    if longest <= MAX_SIDE:
        return values
    for axis in (1, 2):
        side = values.shape[axis]
        wanted = max(1, side * MAX_SIDE // longest)
        edges = np.arange(wanted) * side // wanted
        sums = np.add.reduceat(values, edges, axis=axis)
        widths = np.diff([*edges, side]).reshape([-1 if number == axis else 1 for number in range(values.ndim)])
        values = sums / widths
    return values
