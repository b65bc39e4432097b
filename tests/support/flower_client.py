"""A ClientApp as a node calls it: messages of a server, a site with settings of its own, replies read back."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from flip_fl.flower.private import acting_as, message_from_bytes, message_to_bytes, number_message
from flip_fl.flower.protocol import ARRAYS, CONFIG, SERVER_ROUND, SiteReport, TaskNote, with_task
from flip_fl.settings import write_settings_file

RUN_ID = 77
MODEL_ID = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
FIRST = TaskNote("Trust_1", 1, 2)
LINEAR = {"weight": np.zeros((1, 3), dtype=np.float32), "bias": np.zeros(1, dtype=np.float32)}


def task_message(
    kind: str = "train",
    arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
    *,
    note: TaskNote | None = FIRST,
    config: Mapping[str, Any] | None = None,
    node_id: int = 11,
    run_id: int = RUN_ID,
) -> Message:
    """What a strategy sends to a node in round 1, with our note; serialised and read, as on a network."""
    model = LINEAR if arrays is None else arrays
    facts = {SERVER_ROUND: note.round if note else 1, **(config or {})}
    content = RecordDict(
        {ARRAYS: ArrayRecord({name: Array(array) for name, array in model.items()}), CONFIG: ConfigRecord(facts)}
    )
    if note is not None:
        content = with_task(content, note)
    with acting_as(run_id=run_id, node_id=1, task_id=5):
        message = Message(content, node_id, kind)
    number_message(message)
    return message_from_bytes(message_to_bytes(message))


def context(
    node: Mapping[str, Any] | None = None, run: Mapping[str, Any] | None = None, *, run_id: int = RUN_ID
) -> Context:
    """A node's context; by default the node is Trust_1 and the run reports on ``MODEL_ID``."""
    own = {"slot": "Trust_1"} if node is None else dict(node)
    return Context(run_id, 11, own, RecordDict(), {"flip-model-id": MODEL_ID, **(run or {})})


def ask(app: ClientApp, message: Message | None = None, at: Context | None = None) -> Message:
    """The reply of ``app``, as it arrives at the server."""
    sent = message or task_message()
    with acting_as(run_id=RUN_ID, node_id=11, task_id=6):
        reply = app(sent, at or context())
    assert reply.metadata.reply_to_message_id == sent.metadata.message_id
    number_message(reply)
    return message_from_bytes(message_to_bytes(reply))


def numpy_of(reply: Message) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a reply."""
    return {name: array.numpy() for name, array in reply.content.array_records[ARRAYS].items()}


def labels(report: SiteReport) -> list[str]:
    """The names of the metrics in a report, in order; its rows are left out (importing torch may print)."""
    return [str(item["label"]) for item in report.items if item["kind"] == "metric"]


def settle(app: Path, folder: Path, slot: str = "Trust_1") -> Path:
    """A simulated trust: the app's cohort, and the settings file ``<folder>/<slot>.env``; its state folder."""
    data = folder / "data" / slot
    data.mkdir(parents=True)
    spec = importlib.util.spec_from_file_location("prepare_for_test", app / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.prepare(data)
    state = folder / "state" / slot
    values = {
        "LOCAL_DEV": "true",
        "DEV_DATAFRAME": str(data / "cohort.csv"),
        "DEV_TABULAR": "true",
        "FLIP_STATE_DIR": str(state),
    }
    write_settings_file(folder / f"{slot}.env", values)
    return state
