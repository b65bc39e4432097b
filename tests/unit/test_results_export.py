"""A bundle's model as TorchScript: the same numbers, or no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flip_fl.app.weights import export_model
from flip_fl.errors import FlipError
from flip_fl.results.bundle import build
from flip_fl.results.export import export
from tests.support.app import write_app

NET = """
import torch

def get_model():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
"""
MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x):
        {body}

def get_model():
    return Net()
"""


def bundle_of(tmp_path: Path, models: str, fill: float | None = None) -> Path:
    """A bundle of the app's own starting weights, or of weights that are all ``fill``."""
    from flip_fl.app.weights import initial_arrays

    app = write_app(tmp_path / "app", models=models)
    arrays = initial_arrays(app)
    if fill is not None:
        arrays = {
            name: np.full_like(array, fill) if array.dtype.kind == "f" else array for name, array in arrays.items()
        }
    (tmp_path / "contents").mkdir()
    export_model(app, arrays, tmp_path / "contents" / "FL_global_model.pt")
    build(tmp_path / "contents", tmp_path / "results.zip", app_dir=app)
    return tmp_path / "results.zip"


def test_the_file_gives_what_the_model_gives_without_its_code(tmp_path: Path) -> None:
    """Dropout is off, running statistics are in it, and any size of a batch may be asked."""
    bundle = bundle_of(tmp_path, NET)
    made = export(bundle, tmp_path / "out" / "model.ts", shape=(3,))
    assert (made.batches, made.inputs) == ((1, 2, 5), 7)
    assert made.max_difference <= made.tolerance
    state = torch.load(tmp_path / "contents" / "FL_global_model.pt", weights_only=True)
    given = torch.tensor([[1.0, -2.0, 0.5]] * 4)
    hidden = given @ state["0.weight"].T + state["0.bias"]
    wanted = (hidden - state["1.running_mean"]) / torch.sqrt(state["1.running_var"] + 1e-5)
    wanted = wanted * state["1.weight"] + state["1.bias"]
    assert torch.allclose(torch.jit.load(str(tmp_path / "out" / "model.ts"))(given), wanted, atol=1e-6)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.ts"]


def test_an_app_may_say_what_its_input_looks_like(tmp_path: Path) -> None:
    """Several inputs, whole numbers among them, are nothing that a shape could tell."""
    models = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(7, 3)

        def forward(self, index, scale):
            return {"out": self.words(index) * scale, "scale": scale}

    def get_model():
        return Net()

    def example_input():
        return torch.tensor([[0, 6], [3, 1]]), torch.full((2, 2, 3), 2.0)
    """
    made = export(bundle_of(tmp_path, models), tmp_path / "model.ts")
    assert made.batches == (1, 2)
    index, scale = torch.tensor([[5, 5]]), torch.ones(1, 2, 3)
    table = torch.load(tmp_path / "contents" / "FL_global_model.pt", weights_only=True)["words.weight"]
    assert torch.equal(torch.jit.load(str(tmp_path / "model.ts"))(index, scale)["out"], table[index])


REFUSED = {
    "no input known": (NET, None, None, "it is not known what its input looks like", "--shape 1,28,28"),
    "an input of another size": (NET, (4,), None, "the model itself fails on the example input", "--shape"),
    "weights that are NaN": (NET, (3,), float("nan"), "the original gives NaN or infinity", "example_input()"),
    "NaN where others are right": (
        MODULE.format(body="return self.linear(x) / (x[:, :2] > 0).float()"), (3,), None, "the original gives NaN", "",
    ),
    "a way chosen by values": (
        MODULE.format(body="return self.linear(x) if x.sum() > 0 else -self.linear(x) - 1"), (3,), None,
        "its outputs differ from the original's by up to", "must not choose its way by values",
    ),
    "a size of the batch that was kept": (
        MODULE.format(body="return self.linear(x) + torch.arange(int(x.shape[0])).sum()"), (3,), None,
        "its outputs differ from the original's by up to", "",
    ),
    "no tensor": (MODULE.format(body="return 3.0"), (3,), None, "it returns no tensor", "must return tensors"),
    "an example that fails": (
        NET + "\ndef example_input():\n    raise KeyError('x')\n", None, None,
        "example_input() of its models.py failed (KeyError", "--shape",
    ),
    "an example that is none": (
        NET + "\ndef example_input():\n    return 3\n", None, None, "example_input() returned no tensors", "a tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_same_is_not_kept(case: str, tmp_path: Path) -> None:
    """A file that computes something else, or cannot be compared, is worse than none; the error names the fix."""
    models, shape, fill, problem, fix = REFUSED[case]
    bundle = bundle_of(tmp_path, models, fill)
    with pytest.raises(FlipError) as caught:
        export(bundle, tmp_path / "out" / "model.ts", shape=shape)
    assert caught.value.code == "E0707"
    assert problem in caught.value.what
    assert fix in caught.value.fix
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_the_bundle_has_not_is_named_with_those_it_has(tmp_path: Path) -> None:
    """The best model is not always there."""
    with pytest.raises(FlipError, match=r"it has no model best_FL_global_model\.pt") as caught:
        export(bundle_of(tmp_path, NET), tmp_path / "model.ts", model="best_FL_global_model.pt", shape=(3,))
    assert caught.value.fix == "it has FL_global_model.pt"
