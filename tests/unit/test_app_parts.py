"""What of a model travels, and the pull of FedProx."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flip_fl.app.config import AppConfig
from flip_fl.app.faults import AppError
from flip_fl.app.local_state import LocalState
from flip_fl.app.parts import freeze, parts_of
from flip_fl.app.proximal import proximal
from flip_fl.values import JobType

CONFIG = AppConfig(Path("app"), JobType.STANDARD, raw={})


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))


def test_everything_travels_unless_something_is_said() -> None:
    """The ordinary job sends the whole state_dict, buffers included; buffers are no parameters."""
    parts = parts_of(net(), CONFIG)
    assert parts.travelling == tuple(net().state_dict())
    assert parts.whole
    assert "1.running_var" not in parts.trainable


def test_batch_norm_with_its_statistics_is_local_and_the_rest_frozen() -> None:
    """FEDBN and AGGREGATE_ONLY_REGEX together: a layer is local, frozen, or travels; nothing twice, nothing lost."""
    parts = parts_of(net(), replace(CONFIG, fedbn=True, aggregate_only_regex=r"^[12]\."))
    assert parts.travelling == ("2.weight", "2.bias")
    assert set(parts.local) == {name for name in net().state_dict() if name.startswith("1.")}
    assert parts.frozen == ("0.weight", "0.bias")


def test_a_model_of_which_nothing_would_travel_is_refused() -> None:
    """A pattern that finds nothing would train for nothing."""
    with pytest.raises(AppError, match="AGGREGATE_ONLY_REGEX leaves no parameter"):
        parts_of(net(), replace(CONFIG, aggregate_only_regex="classifier"))


def test_a_frozen_parameter_is_not_moved_by_an_optimiser() -> None:
    """The backbone of head-only training stays as it is even where the trainer gives the optimiser all parameters."""
    model = net()
    freeze(model, parts_of(model, replace(CONFIG, aggregate_only_regex=r"^2\.")))
    before = model[0].weight.detach().clone()  # type: ignore[index, union-attr]
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.1)
    model(torch.randn(4, 2)).sum().backward()
    optimiser.step()
    assert torch.equal(model[0].weight, before)  # type: ignore[index, arg-type]


def test_fedprox_adds_the_gradient_of_its_term_once_a_step() -> None:
    """Two backward passes before each step: the pull is mu (w - w0), not twice that. By hand, over two steps."""
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    w, start = 2.0, 2.0
    with proximal(model, 0.5):
        for _ in range(2):
            optimiser.zero_grad()
            for _ in range(2):
                model(torch.ones(1, 1)).sum().backward()
            optimiser.step()
            w -= 0.1 * (2.0 + 0.5 * (w - start))
    assert model.weight.item() == pytest.approx(w, rel=1e-6)
    optimiser.zero_grad()
    model(torch.ones(1, 1)).sum().backward()
    optimiser.step()
    assert model.weight.item() == pytest.approx(w - 0.1, rel=1e-6), "the pull must end with its block"


def test_fedprox_leaves_other_models_alone() -> None:
    """An optimiser of the app's own second network feels no pull."""
    model, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1, bias=False)
    before = other.weight.item()
    with proximal(model, 10.0):
        optimiser = torch.optim.SGD(other.parameters(), lr=0.1)
        other(torch.ones(1, 1)).sum().backward()
        optimiser.step()
    assert other.weight.item() == pytest.approx(before - 0.1, rel=1e-6)


def test_a_sites_own_part_outlives_its_process_and_ends_with_the_job(tmp_path: Path) -> None:
    """Flower may have a process for each message; another job of the same site has its own part."""
    LocalState(tmp_path, "job-1").keep("Trust_1", {"a": np.ones(2)})
    again = LocalState(tmp_path, "job-1")
    assert np.array_equal(again.read("Trust_1")["a"], np.ones(2))
    assert LocalState(tmp_path, "job-2").read("Trust_1") == {}
    again.clear()
    assert LocalState(tmp_path, "job-1").read("Trust_1") == {}
    assert list((tmp_path / "local").iterdir()) == []


def test_a_torn_file_of_a_sites_own_part_counts_as_none(tmp_path: Path) -> None:
    """A power cut must not end every later round of the job."""
    LocalState(tmp_path, "job").keep("Trust_1", {"a": np.ones(2)})
    (file,) = (tmp_path / "local" / "job").iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert LocalState(tmp_path, "job").read("Trust_1") == {}
