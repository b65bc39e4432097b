"""How a run on Flower ends at the hub, whatever its strategy does. No engine: the sites are in this process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, RecordDict
from flwr.serverapp.strategy import FedAvg, Result

from flip_fl.errors import FlipError
from flip_fl.flower import RunFailed, run
from flip_fl.flower.checkpoint import read_checkpoint
from flip_fl.reporting.outbox import Outbox
from tests.support.flower import direct_grid, initial, run_observed

SITES = 2


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WRITTEN_BY_A_CLIENT", "patient 943 476 5919 John SMITH")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app folder of which only the config is read: these runs end before their results are stored."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"job_type": "standard", "GLOBAL_ROUNDS": 3}))
    return folder


def start(strategy: FedAvg, app: Path, model_id: UUID, **how: Any) -> Result:
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    slots = [f"Trust_{number}" for number in range(1, SITES + 1)]
    given = {"arrays": initial(), "slots": slots, **how}
    return run(strategy, direct_grid(SITES), context, app_dir=app, model_id=model_id, **given)


def reports(home: Path, model_id: UUID) -> list[dict[str, Any]]:
    """What the run left in its outbox."""
    outbox = Outbox(home / "flip-state" / "outbox" / f"{model_id}.sqlite")
    with contextlib.closing(outbox):
        return [part.item() for record in outbox.collect(10_000, release=True) for part in record.parts()]


class Strategy(FedAvg):
    """FedAvg that does something in ``aggregate_train`` of its second round."""

    def __init__(self, act: Callable[[ArrayRecord], None]) -> None:
        super().__init__()
        self.act = act

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        if server_round == 2 and arrays is not None:
            self.act(arrays)
        return arrays, metrics


def poison(arrays: ArrayRecord) -> None:
    arrays["weight"] = Array(np.full((3, 4), np.nan, dtype=np.float32))


def leave(_: ArrayRecord) -> None:
    sys.exit(0)


def name_a_patient(_: ArrayRecord) -> None:
    # Read at run time: what stands in the code itself is the researcher's and no patient's.
    raise KeyError(os.environ["WRITTEN_BY_A_CLIENT"])


def test_a_model_that_is_no_number_is_never_a_result(app: Path) -> None:
    """A strategy's own mistake is told as its own, in the round that it happens in, not as the sites' in the next."""
    with pytest.raises(RunFailed, match="ERROR: the strategy's model of round 2 holds NaN or infinity in 'weight'"):
        start(Strategy(poison), app, uuid4())


def test_a_strategy_that_leaves_is_no_stop_by_a_person(app: Path, tmp_path: Path) -> None:
    """STOPPED is sticky at the hub: sys.exit(0) in a strategy is an ERROR that says what happened."""
    model_id = uuid4()
    with pytest.raises(SystemExit):
        start(Strategy(leave), app, model_id)
    told = [item["reason"] for item in reports(tmp_path / "home", model_id) if item.get("status") == "ERROR"]
    assert told == ["the server's code ended its process with sys.exit(0)"]


def test_an_exception_of_the_server_is_told_without_values(app: Path, tmp_path: Path) -> None:
    """Strategies handle what clients write: neither hub nor engine nor log gets an exception's text as it is."""
    model_id = uuid4()
    with pytest.raises(RunFailed) as caught:
        start(Strategy(name_a_patient), app, model_id)
    assert "the server failed: KeyError" in str(caught.value)
    everything = str(caught.value) + json.dumps(reports(tmp_path / "home", model_id))
    assert "SMITH" not in everything
    assert re.search(r"\b(943|476|5919)\b", everything) is None


def test_a_best_model_by_a_metric_that_nobody_measured_is_told(app: Path, tmp_path: Path) -> None:
    """The run has a model and no best one: a row says which metric was awaited, and which there were."""
    settings = json.loads((app / "config.json").read_text())
    (app / "config.json").write_text(json.dumps({**settings, "BEST_MODEL_METRIC": "dice"}))
    model_id = uuid4()
    with contextlib.suppress(RunFailed):  # whatever becomes of the model
        start(FedAvg(), app, model_id)
    told = [str(item.get("log")) for item in reports(tmp_path / "home", model_id) if item.get("success") is False]
    assert [text for text in told if "no site validated dice, the BEST_MODEL_METRIC; there were loss" in text]


def test_a_strategy_that_wants_more_sites_than_the_job_has_fails_at_once(app: Path) -> None:
    """Flower would wait for ever; the reason names the setting and its value."""
    wanted = "FedAvg waits for 3 sites and there are 2: give it min_available_nodes=2"
    with pytest.raises(RunFailed, match=wanted):
        start(FedAvg(min_available_nodes=3), app, uuid4())


def test_a_live_run_of_the_same_model_is_left_alone(app: Path) -> None:
    """Two servers of one model would tell every round twice and remove each other's files: the second is refused."""
    model_id, seen = uuid4(), []

    def again(_: ArrayRecord) -> None:
        with pytest.raises(FlipError) as caught:
            start(FedAvg(), app, model_id)
        seen.append(caught.value.code)
        raise InterruptedError

    with pytest.raises(RunFailed, match="InterruptedError"):
        start(Strategy(again), app, model_id)
    assert seen == ["E0523"]


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run leaves everything as it is, as after kill -9 (which test_flower_recovery.py does for real)."""
    monkeypatch.setattr("flip_fl.flower.host.tidy", lambda folders: [])


@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize(("rounds", "code", "first_round"), [(3, "", 2), (2, "", 1), (3, "STEP = 2", 1)])
def test_only_the_same_job_goes_on_from_a_checkpoint(
    rounds: int, code: str, first_round: int, app: Path, tmp_path: Path
) -> None:
    """A model that is queued anew with other rounds or other code starts with round 1; the very same job goes on."""
    model_id = uuid4()
    with pytest.raises(RunFailed):
        start(Strategy(name_a_patient), app, model_id)
    found = read_checkpoint(tmp_path / "home" / "flip-state" / "flower" / str(model_id) / "checkpoint.npz")
    assert found is not None
    assert found.round == 1
    (tmp_path / "home" / "flip-state" / "outbox" / f"{model_id}.sqlite").unlink()
    if code:
        (app / "trainer.py").write_text(code)
    with pytest.raises(RunFailed):
        start(Strategy(name_a_patient), app, model_id, num_rounds=rounds)
    told = [item["global_round"] for item in reports(tmp_path / "home", model_id) if "event_type" in item]
    assert min(told) == first_round


class NoValidation(FedAvg):
    """A user's loop that only trains."""

    def start(self, grid: Any, initial_arrays: ArrayRecord, num_rounds: int = 3, *_: Any, **__: Any) -> Result:
        arrays = initial_arrays
        for number in range(1, num_rounds + 1):
            from flwr.app import ConfigRecord

            messages = self.configure_train(number, arrays, ConfigRecord(), grid)
            arrays, _metrics = self.aggregate_train(number, grid.send_and_receive(messages))  # type: ignore[assignment]
        return Result(arrays=arrays)


def test_a_strategy_that_never_validates_is_checkpointed_all_the_same(tmp_path: Path) -> None:
    """Each round is closed when the next one begins: a long run without validation must not start anew."""
    run_observed(NoValidation(), tmp_path, SITES, 3)
    found = read_checkpoint(tmp_path / "run" / "checkpoint.npz")
    assert found is not None
    assert found.round == 2  # the third is closed when the results are kept
