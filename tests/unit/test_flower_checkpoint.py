"""A run's state after a round, on disk and back."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideAdaptiveClipping, FedAdam, FedAvg

from flip_fl.errors import FlipError
from flip_fl.flower.checkpoint import Checkpoint, StrategyState, read_checkpoint, write_checkpoint
from flip_fl.flower.history import History

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, dtype=np.int64)}


class Accountant:
    """Something with a state of its own, as Flower's privacy accountants have."""

    def __init__(self) -> None:
        self.spent = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent = state["spent"]


def test_weights_keep_names_order_shapes_and_dtypes(tmp_path: Path) -> None:
    """What a restarted run sends is what the last round's model was, 0-d arrays and whole numbers included."""
    path = tmp_path / "runs" / "checkpoint.npz"
    write_checkpoint(path, Checkpoint(3, 5, ARRAYS, facts={"best": [2, 0.5]}))
    found = read_checkpoint(path)
    assert found is not None
    assert (found.round, found.total_rounds, found.facts) == (3, 5, {"best": [2, 0.5]})
    assert list(found.arrays) == ["w", "n"]
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert np.array_equal(found.arrays[name], array)


def test_what_the_sites_measured_comes_back_and_goes_on(tmp_path: Path) -> None:
    """A restarted run delivers the rounds before it was lost, too; a round that is done again stands there once."""
    history = History()
    history.note("train", 1, {"Trust_1": {"loss": 0.1}, 'a "quoted" slot': {}})
    history.note("validate", 1, {"Trust_1": {"auc": 1 / 3, "not finite": float("inf")}})
    history.note("train", 2, {"Trust_1": {"loss": 9.0}})
    history.note("train", 2, {"Trust_1": {"loss": 0.05}})
    path = tmp_path / "run" / "history.jsonl"
    size = history.save(path)
    again = History.read(path, size)
    assert again.whole() == history.whole()
    assert again.whole()["train"][2] == {"Trust_1": {"loss": 0.05}}
    again.note("validate", 2, {"Trust_1": {"auc": 0.5}})
    assert History.read(path, again.save(path)).whole()["validate"] == {
        **history.whole()["validate"],
        2: {"Trust_1": {"auc": 0.5}},
    }
    again.cross_site = {"Trust_1": {"Trust_2": {"auc": 0.4}}}
    assert again.whole()["cross_site"] == {"Trust_1": {"Trust_2": {"auc": 0.4}}}


def test_a_strategys_momenta_come_back_and_its_settings_do_not(tmp_path: Path) -> None:
    """A new process goes on with what was learnt, under the settings that it was given itself."""
    old = FedAdam(eta=0.1)
    state = StrategyState(old)
    old.m_t = {"w": np.full(3, 0.5)}
    old.v_t = {"w": np.full(3, 0.25)}
    write_checkpoint(tmp_path / "c.npz", Checkpoint(1, 2, ARRAYS, state.changed()))
    new = FedAdam(eta=0.7)
    found = read_checkpoint(tmp_path / "c.npz")
    assert found is not None
    StrategyState(new).restore(found.state)
    assert new.m_t is not None
    assert new.v_t is not None
    assert np.array_equal(new.m_t["w"], old.m_t["w"])
    assert np.array_equal(new.v_t["w"], old.v_t["w"])
    assert new.eta == 0.7


def test_what_a_wrapped_strategy_and_an_accountant_hold_comes_back_too(tmp_path: Path) -> None:
    """Clipping norms, spent privacy and inner momenta lie in different objects; none may start anew."""

    def wrapped() -> Any:
        inner = FedAdam()
        strategy: Any = DifferentialPrivacyServerSideAdaptiveClipping(
            inner, noise_multiplier=0.1, num_sampled_clients=2, clipped_count_stddev=0.2
        )
        strategy.accountant = Accountant()
        return strategy

    old, new = wrapped(), wrapped()
    state = StrategyState(old)
    old.clipping_norm = 0.33
    old.accountant.spent = 1.5
    old.current_arrays = ArrayRecord({"w": Array(np.ones(2, dtype=np.float32))})
    old.strategy.m_t = {"w": np.ones(2)}
    write_checkpoint(tmp_path / "c.npz", Checkpoint(1, 2, ARRAYS, state.changed()))
    found = read_checkpoint(tmp_path / "c.npz")
    assert found is not None
    StrategyState(new).restore(found.state)
    assert new.clipping_norm == 0.33
    assert new.accountant.spent == 1.5
    assert np.array_equal(new.current_arrays["w"].numpy(), np.ones(2, dtype=np.float32))
    assert np.array_equal(new.strategy.m_t["w"], np.ones(2))


def test_nothing_is_kept_of_a_strategy_that_learns_nothing() -> None:
    """FedAvg has no state: a checkpoint holds its settings neither."""
    strategy = FedAvg(min_train_nodes=5)
    assert StrategyState(strategy).changed() == {"own": {}, "inner": {}}
    assert StrategyState(strategy).unkept() == []


def test_a_round_is_written_once_however_many_follow(tmp_path: Path) -> None:
    """With all rounds in each checkpoint a hundred sites' thousandth round wrote 80 MB."""
    history, path = History(), tmp_path / "history.jsonl"
    sizes = [0]
    for number in range(1, 6):
        history.note("train", number, {"Trust_1": {"loss": 0.5}})
        sizes.append(history.save(path))
        # A byte that a second writing of the round would put right.
        path.write_bytes(b"#" + path.read_bytes()[1:])
    assert {after - before for before, after in pairwise(sizes)} == {sizes[1]}
    assert path.stat().st_size == sizes[-1]
    assert path.read_bytes().startswith(b"#")
    assert path.stat().st_mode & 0o077 == 0


def test_what_no_checkpoint_knows_of_is_not_part_of_the_history(tmp_path: Path) -> None:
    """A server that was killed between the two files does the round again, and half a line is no line."""
    history, path = History(), tmp_path / "history.jsonl"
    history.note("train", 1, {"Trust_1": {"loss": 0.5}})
    size = history.save(path)
    history.note("train", 2, {"Trust_1": {"loss": 9.0}})
    history.save(path)
    path.write_bytes(path.read_bytes() + b'["train", 3, {"Tr')
    again = History.read(path, size)
    assert list(again.whole()["train"]) == [1]
    again.note("train", 2, {"Trust_1": {"loss": 0.25}})
    whole = History.read(path, again.save(path)).whole()
    assert whole["train"] == {1: {"Trust_1": {"loss": 0.5}}, 2: {"Trust_1": {"loss": 0.25}}}


def test_a_history_that_somebody_removes_is_written_again(tmp_path: Path) -> None:
    """With only what came after it the next restart would find the run's file cut off, and fail."""
    history, path = History(), tmp_path / "history.jsonl"
    history.note("train", 1, {"Trust_1": {"loss": 0.5}})
    history.save(path)
    path.unlink()
    history.note("validate", 1, {"Trust_1": {"loss": 0.25}})
    assert History.read(path, history.save(path)).whole() == history.whole()


@pytest.mark.parametrize("harm", ["gone", "cut off", "garbage"])
def test_a_history_that_cannot_be_read_is_an_error_that_names_the_file(tmp_path: Path, harm: str) -> None:
    """A run must not deliver the rounds before it was lost as if there had been none."""
    history, path = History(), tmp_path / "history.jsonl"
    history.note("train", 1, {"Trust_1": {"loss": 0.5}})
    size = history.save(path)
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3] if harm == "cut off" else b"x" * size)
    with pytest.raises(FlipError) as caught:
        History.read(path, size)
    assert caught.value.code == "E0521"
    assert "history.jsonl" in caught.value.what


def test_what_cannot_be_kept_is_named() -> None:
    """An attribute that is neither numbers nor arrays could be state: the run can say so."""
    strategy: Any = FedAvg()
    strategy.cache = object()
    assert StrategyState(strategy).unkept() == ["cache"]


def test_no_checkpoint_is_none_and_a_broken_one_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    """A run must not start from the first round again because its file cannot be read."""
    assert read_checkpoint(tmp_path / "none.npz") is None
    broken = tmp_path / "broken.npz"
    write_checkpoint(broken, Checkpoint(1, 2, ARRAYS))
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(FlipError) as caught:
        read_checkpoint(broken)
    assert caught.value.code == "E0521"
    assert "broken.npz" in caught.value.what


def test_a_cut_off_write_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file never takes the place of a whole one. The full disk is simulated: there is none to fill here."""
    path = tmp_path / "c.npz"
    write_checkpoint(path, Checkpoint(1, 5, ARRAYS))

    def full(target: Path, _: Any) -> None:
        target.write_bytes(b"PK half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flip_fl.app.arrays.write_arrays", full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(path, Checkpoint(2, 5, ARRAYS))
    monkeypatch.undo()
    found = read_checkpoint(path)
    assert found is not None
    assert found.round == 1
