"""A Flower job of two stages whose server is lost: in which stage a second start goes on, and with what."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flip_fl.flower import RunFailed, run
from flip_fl.flower.protocol import get_task
from flip_fl.reporting.outbox import Outbox
from tests.support.bundles import weights_of
from tests.support.flower import direct_grid
from tests.support.staged_app import write_staged_app

SITES = ("Trust_1", "Trust_2")
STAGES = {1: "ae", 2: "ae", 3: "dm", 4: "dm"}


@pytest.fixture(autouse=True)
def _lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run leaves everything as it is, as after kill -9 (which test_flower_recovery.py does for real)."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("flip_fl.flower.host.tidy", lambda folders: [])


class Lost(FedAvg):
    """FedAvg whose process is lost while it aggregates round ``number``."""

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.number = number

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        if server_round == self.number:
            raise ConnectionError
        return super().aggregate_train(server_round, replies)


def adding(seen: list[tuple[int, str, list[str]]]) -> ClientApp:
    """Adds to all floats what depends on site and round alone; ``seen``: what was asked of the first site."""
    app = ClientApp()

    def note(message: Message, context: Context) -> int:
        task = get_task(message.content)
        if task.slot == SITES[0]:
            (record,) = message.content.array_records.values()
            seen.append((task.round, task.stage, list(record)))
        return task.round

    @app.train()
    def train(message: Message, context: Context) -> Message:
        step = note(message, context) * int(context.node_config["number"]) / 8
        (sent,) = message.content.array_records.values()
        moved = ArrayRecord({name: Array((array.numpy() + step).astype(np.float32)) for name, array in sent.items()})
        content = RecordDict({"arrays": moved, "metrics": MetricRecord({"num-examples": 10})})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 10, "loss": 1.0})}), reply_to=message)

    return app


def start(app: Path, model_id: UUID, number: int = 0) -> list[tuple[int, str, list[str]]]:
    """One start of the job; what the first site was asked to train: round, stage, and the names that it got."""
    seen: list[tuple[int, str, list[str]]] = []
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    expected = pytest.raises(RunFailed, match="ConnectionError") if number else contextlib.nullcontext()
    with expected:
        run(Lost(number), direct_grid(2, adding(seen)), context, app_dir=app, model_id=model_id, slots=SITES)
    return seen


def model_of(home: Path, model_id: UUID) -> dict[str, list[float]]:
    stored = weights_of(home / "flip-state" / "results" / f"{model_id}.zip")
    return {name: tensor.tolist() for name, tensor in stored.items()}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of each stage; the server runs its models.py, the sites are numpy."""
    return write_staged_app(tmp_path_factory.mktemp("staged") / "app")


@pytest.mark.parametrize("lost_in", [2, 3, 4])
def test_a_restart_goes_on_in_the_stage_that_it_was_in(lost_in: int, app: Path, tmp_path: Path) -> None:
    """Lost in stage 1, between the stages, and in stage 2: no round is done twice, each in its own stage and with that
    stage's model, and the result is that of a run that nothing happened to."""
    model_id, undisturbed = uuid4(), uuid4()
    whole = start(app, undisturbed)
    assert {number: stage for number, stage, _ in whole} == STAGES
    assert all(("denoiser.weight" in names) == (stage == "dm") for _, stage, names in whole)
    before = start(app, model_id, lost_in)
    after = start(app, model_id)
    assert [number for number, _, _ in before] == list(range(1, lost_in + 1))
    assert after == whole[lost_in - 1 :]
    home = tmp_path / "home"
    assert model_of(home, model_id) == model_of(home, undisturbed)


def test_stage_two_starts_from_the_result_of_stage_one(app: Path, tmp_path: Path) -> None:
    """The autoencoder goes on where stage 1 ended; what stage 1 has not is fresh. The names of either are its own."""
    from flip_fl.app.weights import initial_arrays

    model_id = uuid4()
    start(app, model_id)
    step = sum(number * (1 + 2) / 2 / 8 for number in (1, 2))  # stage 1; equal weights
    further = sum(number * (1 + 2) / 2 / 8 for number in (3, 4))
    ae, dm, found = initial_arrays(app, "ae"), initial_arrays(app, "dm"), model_of(tmp_path / "home", model_id)
    for name, array in ae.items():
        assert found[f"autoencoder.{name}"] == pytest.approx((array + step + further), abs=1e-5)
    assert found["denoiser.weight"] == pytest.approx(dm["denoiser.weight"] + further, abs=1e-5)


def test_rounds_are_told_with_their_stage(app: Path, tmp_path: Path) -> None:
    """Rounds count on through the stages; begin, results and end of each carry the stage's name."""
    model_id = uuid4()
    start(app, model_id)
    outbox = Outbox(tmp_path / "home" / "flip-state" / "outbox" / f"{model_id}.sqlite")
    with contextlib.closing(outbox):
        items = [part.item() for record in outbox.collect(10_000, release=True) for part in record.parts()]
    told = {(item["event_type"], item["global_round"], item["details"]["stage"]) for item in items
            if item.get("event_type") in ("ROUND_STARTED", "CLIENT_RESULT_RECEIVED", "ROUND_AGGREGATED")}  # fmt: skip
    kinds = ("ROUND_STARTED", "CLIENT_RESULT_RECEIVED", "ROUND_AGGREGATED")
    assert told == {(kind, number, stage) for kind in kinds for number, stage in STAGES.items()}
