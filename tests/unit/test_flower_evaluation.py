"""An evaluation on Flower: what becomes of odd replies, and of a server that is lost. The sites are in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flip_fl.app.evaluation import load_model
from flip_fl.flower import RunFailed
from flip_fl.flower.apps import house_strategy
from flip_fl.flower.protocol import LOST, SUPPLEMENTARY_RECORD, get_task, put_report
from flip_fl.flower.server import run_app
from flip_fl.results.verify import read_evaluation
from tests.support.evaluations import write_evaluation
from tests.support.flower import direct_grid

MODELS = {name: {"checkpoint": "linear.pt"} for name in ("first", "second")}
Act = Callable[[str, RecordDict, Message], Message | None]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))


def client(asked: list[str], act: Act = lambda *_: None) -> ClientApp:
    """Returns the loss 0.5 and a curve; notes site and model in ``asked``; ``act`` may change the reply or make one."""
    app = ClientApp()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        note = get_task(message.content)
        asked.append(f"{note.slot}/{note.model}/{note.round} of {note.total_rounds}")
        content = RecordDict({"metrics": MetricRecord({"num-examples": 10, "loss": 0.5})})
        content[SUPPLEMENTARY_RECORD] = ConfigRecord({"json": '{"roc": [0, 0.5, 1]}'})
        put_report(content, note.slot, [])
        return act(f"{note.slot}/{note.model}", content, message) or Message(content, reply_to=message)

    return app


def start(app: Path, model_id: UUID, client_app: ClientApp) -> dict[str, dict[str, dict[str, Any]]]:
    """Run the evaluation in ``app`` at two sites; what its bundle says."""
    config = {"flip-model-id": str(model_id), "flip-slots": "Trust_1,Trust_2"}
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    run_app(house_strategy, direct_grid(2, client_app), context, app)
    (bundle,) = (app.parent / "home").rglob(f"{model_id}.zip")
    return read_evaluation(bundle)


def test_a_lost_server_goes_on_after_the_last_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was evaluated before is neither asked for again nor forgotten: each score is told once."""
    app, model_id, asked = write_evaluation(tmp_path / "app", MODELS), uuid4(), list[str]()

    def lost(config: Any, name: str, folders: Any, **how: Any) -> Any:
        if name == "second":
            raise InterruptedError
        return load_model(config, name, folders, **how)

    with monkeypatch.context() as killed:
        killed.setattr("flip_fl.flower.evaluation.load_model", lost)
        killed.setattr("flip_fl.flower.host.tidy", lambda folders: [])
        with pytest.raises(RunFailed, match="InterruptedError"):
            start(app, model_id, client(asked))
    (tmp_path / "home" / "flip-state" / "outbox" / f"{model_id}.sqlite").unlink()
    found = start(app, model_id, client(asked))
    assert sorted(asked) == sorted(
        f"Trust_{site}/{model}/{number} of 2" for site in (1, 2) for number, model in ((1, "first"), (2, "second"))
    )
    assert {slot: list(models) for slot, models in found.items()} == {
        slot: ["SRV_first", "SRV_second"] for slot in ("Trust_1", "Trust_2")
    }


def test_what_a_site_returns_is_checked_again(tmp_path: Path) -> None:
    """A client without our rules: text, NaN and what cannot be read never get into the results, the rest does."""
    made = iter(['{"roc": ["Smith"]}', '{"roc": [NaN]}', "[["])

    def tamper(where: str, content: RecordDict, message: Message) -> None:
        if where != "Trust_2/second":
            content[SUPPLEMENTARY_RECORD] = ConfigRecord({"json": next(made)})

    app = write_evaluation(tmp_path / "app", MODELS)
    found = start(app, uuid4(), client([], tamper))
    assert found == {"Trust_2": {"SRV_second": {"num_examples": 10, "loss": 0.5, "roc": [0, 0.5, 1]}}}


def test_a_site_that_is_lost_is_a_failure_of_its_own(tmp_path: Path) -> None:
    """A process that died in one model, and an answer that is none of ours: the others' results stand."""

    def die(where: str, content: RecordDict, message: Message) -> Message | None:
        return Message(Error(LOST, "gone"), reply_to=message) if where == "Trust_1/first" else None

    app = write_evaluation(tmp_path / "app", MODELS)
    found = start(app, uuid4(), client([], die))
    assert {slot: list(models) for slot, models in found.items()} == {
        "Trust_1": ["SRV_second"],
        "Trust_2": ["SRV_first", "SRV_second"],
    }
