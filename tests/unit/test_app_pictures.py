"""What an app's generate() may return, and what a report makes of it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from flip_fl.app.checks import check_app
from flip_fl.app.faults import AppError
from flip_fl.app.pictures import check_pixels, pixels_of
from flip_fl.app.weights import export_model, generate, initial_arrays
from flip_fl.dashboard.png import data_address, png
from flip_fl.dashboard.story import Samples
from flip_fl.errors import FlipError
from tests.support.staged_app import write_staged_app


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    """An own, strict reader of the PNGs that are written: no filter, eight bits."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    channels = {0: 1, 2: 3}[colour]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not lines[:, 0].any()
    pixels = lines[:, 1:].reshape(height, width, channels)
    return pixels[..., 0] if channels == 1 else pixels


@pytest.mark.parametrize("shape", [(5, 7), (64, 64), (1, 1), (6, 3, 3)])
def test_a_png_holds_the_pixels(shape: tuple[int, ...]) -> None:
    """Grey and colour, any size: what is written is what a reader finds."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(decoded(png(pixels)), pixels)


def test_values_from_0_to_1_become_bytes() -> None:
    """0 is black, 1 is white, a tensor is as good as an array."""
    import torch

    given = torch.tensor([[[0.0, 0.5, 1.0]], [[1.0, 0.25, 0.0]]], requires_grad=True)
    assert pixels_of(given, 2).tolist() == [[[0, 128, 255]], [[255, 64, 0]]]


def test_what_is_too_large_is_scaled_down_by_averaging() -> None:
    """The longest side becomes 64 pixels, the shape is kept, no pixel is left out."""
    fine = np.zeros((1, 128, 96, 3))
    fine[:, ::2] = 1.0  # stripes finer than a pixel become grey
    small = pixels_of(fine, 1)
    assert small.shape == (1, 64, 48, 3)
    assert set(small.ravel().tolist()) == {128}
    odd = np.linspace(0, 1, 100 * 70).reshape(1, 100, 70)
    assert pixels_of(odd, 1).shape == (1, 64, 44)
    assert pixels_of(odd, 1).mean() == pytest.approx(127.5, abs=2)
    assert pixels_of(np.ones((1, 3000, 2)), 1).shape == (1, 64, 1)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "it returned NoneType"),
        (np.zeros((3, 8, 8)), "its shape is (3, 8, 8); it must be (2, height, width)"),
        (np.zeros((2, 8, 8, 4)), "its shape is (2, 8, 8, 4)"),
        (np.zeros((2, 64)), "its shape is (2, 64)"),
        (np.zeros((2, 0, 8)), "its shape is (2, 0, 8)"),
        (np.full((2, 8, 8), np.nan), "NaN or infinity"),
        (np.linspace(-0.5, 1.5, 128).reshape(2, 8, 8), "its values go from -0.5 to 1.5"),
        (np.full((2, 8, 8), 1j), "not an array of numbers"),
    ],
)
def test_anything_else_is_refused_by_name(returned: Any, words: str) -> None:
    """A picture that would be drawn wrong is not drawn; the text says what was wrong."""
    with pytest.raises(AppError) as caught:
        pixels_of(returned, 2)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((2, 8, 8)), np.zeros((3, 8, 8), np.uint8), np.zeros((2, 65, 8), np.uint8), np.zeros((2, 8), np.uint8)],
)
def test_the_childs_file_is_not_believed(pixels: np.ndarray[Any, Any]) -> None:
    """The app's code runs in the process that writes it."""
    with pytest.raises(AppError):
        check_pixels(pixels, 2)


def test_a_story_takes_small_pngs_only() -> None:
    """An address that would fetch, run or bloat something never gets into a page."""
    good = data_address(np.zeros((64, 64, 3), np.uint8))
    assert Samples(width=64, height=64, pictures=[good] * 64).pictures[0] == good
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert Samples(width=64, height=64, pictures=[data_address(noise)])
    for bad in ("https://elsewhere/x.png", "data:image/svg+xml;base64,AAAA", good + "\n", good + "A" * 20_000, '"><b>'):
        with pytest.raises(ValidationError):
            Samples(width=8, height=8, pictures=[bad])
    with pytest.raises(ValidationError):
        Samples(width=8, height=8, pictures=[good] * 65)


def made(app: Path, folder: Path, count: int = 3) -> np.ndarray[Any, Any] | None:
    """What ``app`` generates with its untrained model."""
    export_model(app, initial_arrays(app), folder / "model.pt")
    return generate(app, folder / "model.pt", count)


def test_an_apps_own_pictures_are_the_same_every_time(tmp_path: Path) -> None:
    """Seeded, in a process of its own, with the weights of the file."""
    app = write_staged_app(tmp_path / "app")
    first, again = made(app, tmp_path), made(app, tmp_path)
    assert first is not None
    assert again is not None
    assert first.shape == (3, 4, 3)
    assert np.array_equal(first, again)


def test_an_app_without_generate_makes_none(tmp_path: Path) -> None:
    """The function is optional."""
    app = write_staged_app(tmp_path / "app")
    text = (app / "trainer.py").read_text()
    (app / "trainer.py").write_text(text.replace("def generate", "def another"))
    assert made(app, tmp_path) is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise RuntimeError('no such thing')", "RuntimeError: no such thing"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("return torch.ones(count, 4, 3) * 2", "its values go from 2 to 2"),
        ("import os; os._exit(3)", "its process ended with code 3"),
    ],
)
def test_a_generate_that_fails_is_an_error_with_its_reason(body: str, words: str, tmp_path: Path) -> None:
    """Whatever the app does there ends in E0214, never in the simulator's own end."""
    app = write_staged_app(tmp_path / "app")
    text = (app / "trainer.py").read_text().partition("def generate")[0]
    (app / "trainer.py").write_text(f"{text}def generate(model, count, config):\n    {body}\n")
    with pytest.raises(FlipError) as caught:
        made(app, tmp_path)
    assert caught.value.code == "E0214"
    assert words in caught.value.what


def test_a_generate_that_takes_something_else_is_refused_before_the_run(tmp_path: Path) -> None:
    """It would be found out after the last round."""
    app = write_staged_app(tmp_path / "app")
    text = (app / "trainer.py").read_text()
    (app / "trainer.py").write_text(text.replace("def generate(model, count, config)", "def generate(model)"))
    with pytest.raises(FlipError) as caught:
        check_app(app, ["Trust_1"])
    assert (caught.value.code, "it must take (model, count, config)" in caught.value.what) == ("E0214", True)


def test_an_app_that_keeps_the_pictures_from_being_written_makes_none(tmp_path: Path) -> None:
    """Its code can do anything in its own process; what is not there is said in words."""
    app = write_staged_app(tmp_path / "app")
    code = "    import sys\n    sys.modules['flip_fl.app.guest'].write_arrays = lambda path, arrays: None\n"
    text = (app / "trainer.py").read_text()
    (app / "trainer.py").write_text(
        text.replace("config):\n    return torch.sigmoid", f"config):\n{code}    return torch.sigmoid")
    )
    with pytest.raises(FlipError, match="its process left no pictures"):
        made(app, tmp_path)
