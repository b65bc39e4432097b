"""The server's way to the model: arrays in, arrays out, the app's code elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flip_fl.app.arrays import read_arrays, write_arrays
from flip_fl.app.weights import export_model, initial_arrays, load_model, score
from flip_fl.errors import FlipError
from tests.support.app import ARRAYS, CONFIG, write_app

MODELS = """
import os, torch

def get_model():
    assert not any("SERVICE_KEY" in name or name.startswith("AWS_") for name in os.environ), "a key is here"
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
"""


def test_initial_weights_are_the_job_s_own_and_come_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed gives one model, on every machine and engine; the child's environment holds no key of the server."""
    monkeypatch.setenv("INTERNAL_SERVICE_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    app = write_app(tmp_path / "app", models=MODELS, config={**CONFIG, "SEED": 3})
    first = initial_arrays(app)
    assert list(first) == [
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
        "2.weight", "2.bias",
    ]  # fmt: skip
    assert first["1.num_batches_tracked"].dtype == np.int64
    assert first["1.num_batches_tracked"].shape == ()
    again = initial_arrays(app)
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    other = initial_arrays(write_app(tmp_path / "other", models=MODELS, config={**CONFIG, "SEED": 4}))
    assert first["0.weight"].tobytes() != other["0.weight"].tobytes()


def test_an_exported_model_is_a_plain_file_of_tensors(tmp_path: Path) -> None:
    """Anybody can load it with weights_only, without flip_fl; it holds exactly the arrays."""
    import torch

    app = write_app(tmp_path / "app")
    arrays = {name: array + 5 for name, array in ARRAYS.items()}
    export_model(app, arrays, tmp_path / "model.pt")
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert type(stored) is dict
    assert {name: tensor.tolist() for name, tensor in stored.items()} == {"weight": [[5.0, 5.0]], "bias": [5.0]}
    assert load_model(app, tmp_path / "model.pt") == {"weight": ((1, 2), "float32"), "bias": ((1,), "float32")}
    assert os.listdir(tmp_path) == ["app", "model.pt"] or sorted(os.listdir(tmp_path)) == ["app", "model.pt"]


def test_weights_that_do_not_fit_are_never_exported(tmp_path: Path) -> None:
    """A model that could not be loaded again leaves no file behind."""
    with pytest.raises(FlipError) as caught:
        export_model(write_app(tmp_path / "app"), {"weight": ARRAYS["weight"]}, tmp_path / "model.pt")
    assert caught.value.code == "E0205"
    assert "they have no bias" in caught.value.what
    assert not (tmp_path / "model.pt").exists()


def test_a_model_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    """A pickle is not executed, whatever its name."""
    import torch

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save({"weight": Evil()}, tmp_path / "model.pt")
    with pytest.raises(FlipError) as caught:
        load_model(write_app(tmp_path / "app"), tmp_path / "model.pt")
    assert "model.pt is not a file of weights" in caught.value.what
    assert not (tmp_path / "executed").exists()


def test_a_model_is_scored_on_each_site_s_data(tmp_path: Path) -> None:
    """The app's own validate runs on each CSV, with the weights of the file."""
    trainer = """
    def validate(model, site, config):
        cohort = site.cohort()
        return {"num_examples": len(cohort), "sum": cohort["value"].sum() + model.bias.item()}
    """
    app = write_app(tmp_path / "app", trainer=trainer)
    export_model(app, {name: array + 100 for name, array in ARRAYS.items()}, tmp_path / "model.pt")
    cohorts = {}
    for slot, values in {"Trust_1": [1.0, 2.0], "Trust_2": [5.0]}.items():
        cohorts[slot] = tmp_path / f"{slot}.csv"
        pd.DataFrame({"value": values}).to_csv(cohorts[slot], index=False)
    found = score(app, tmp_path / "model.pt", cohorts)
    assert {slot: (each.num_examples, each.metrics) for slot, each in found.items()} == {
        "Trust_1": (2, {"sum": 103.0}),
        "Trust_2": (1, {"sum": 105.0}),
    }
    pd.DataFrame({"other": ["Zorkmid"]}).to_csv(cohorts["Trust_2"], index=False)
    with pytest.raises(FlipError) as caught:
        score(app, tmp_path / "model.pt", cohorts, name="results.zip")
    assert caught.value.code == "E0702"
    assert "validate() failed on the data of Trust_2: KeyError: 'value'" in caught.value.what


def test_arrays_survive_any_name(tmp_path: Path) -> None:
    """A parameter may be called like an argument of numpy's writer, or hold a slash; order and shapes stay."""
    arrays = {"file": np.float32(1), "a/b": np.zeros((0, 3)), "ü.names": np.arange(3), "names": np.ones(2, bool)}
    write_arrays(tmp_path / "a.npz", arrays)
    back = read_arrays(tmp_path / "a.npz")
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == np.asarray(array).dtype
        assert back[name].shape == np.shape(array)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    """Arrays of objects would execute code on reading."""
    np.savez(tmp_path / "a.npz", names=np.array('["x"]'), a0=np.array([object()]))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(tmp_path / "a.npz")
