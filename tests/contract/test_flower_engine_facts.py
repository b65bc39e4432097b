"""The facts about Flower's engine that flip_fl rests on, against one real deployment: to be run on every new release.

Two runs of a numpy-only app on a SuperLink with TLS and node authentication. The ServerApps write down what they see;
each test looks at one fact.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.flower_deployment import Run, deployment, eventually, write_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.xdist_group("flower_engine_facts")]

CLIENT_APP = """
import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

import_breaks = os.environ.get("IMPORT_BREAKS")
if import_breaks and Path(import_breaks).exists():
    raise ImportError("a value of the trust")

app = ClientApp()


@app.query("work")
def work(msg: Message, context) -> Message:
    order = msg.content["order"]["do"]
    if order == "raise":
        raise ValueError("a value of the trust")
    if order == "exit":
        os._exit(3)
    if order == "wait":
        Path(msg.content["order"]["began"]).write_text("began")
        time.sleep(100)
    calls = context.state.config_records.setdefault("calls", ConfigRecord({"number": 0}))
    calls["number"] += 1
    answer = ConfigRecord({"number": calls["number"], "node-config": sorted(context.node_config)})
    return Message(RecordDict({"answer": answer}), reply_to=msg)


if import_breaks:
    del app
"""

SERVER_APP = """
import json
import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


def write(folder, name, facts):
    partly = folder / f"{name}.part"
    partly.write_text(json.dumps(facts))
    partly.rename(folder / f"{name}.json")


@app.main()
def main(grid, context):
    folder = Path(context.run_config["out"])
    if context.run_config["part"] == "hooks":
        hooks(grid, folder)
    else:
        replies(grid, folder)


def replies(grid, folder):
    nodes = list(grid.get_nodes())
    told = [{"id": str(n.node_id), "name": n.name, "status": n.status, "key": bool(n.public_key)} for n in nodes]
    write(folder, "nodes", {"nodes": told, "type": grid.run.primary_task_type})
    sound = {n.name: n.node_id for n in nodes if n.name in ("Trust_1", "Trust_2")}
    broken = [n.node_id for n in nodes if n.name == "Twice"]
    ask(grid, folder, "first", {sound["Trust_1"]: "answer", sound["Trust_2"]: "raise", broken[0]: "answer"})
    (folder / "import-breaks").write_text("now")
    ask(grid, folder, "second", {sound["Trust_1"]: "exit", sound["Trust_2"]: "wait", broken[0]: "answer"})


def ask(grid, folder, name, orders):
    sent = []
    for node, order in orders.items():
        content = RecordDict({"order": ConfigRecord({"do": order, "began": str(folder / "began")})})
        sent.append(Message(content, dst_node_id=node, message_type="query.work"))
    began = time.time()
    ids = list(grid.push_messages(sent))
    pending = {m.metadata.message_id: m for m in sent}
    facts = []
    in_place = list(pending) == ids and all(ids)
    while pending and time.time() < began + 100:
        for reply in grid.pull_messages(list(pending)):
            message = pending.pop(reply.metadata.reply_to_message_id)
            error = {"code": reply.error.code, "reason": reply.error.reason} if reply.has_error() else None
            answer = None if reply.has_error() else dict(reply.content["answer"])
            facts.append({
                "asked": str(message.metadata.dst_node_id), "order": orders[message.metadata.dst_node_id],
                "source": str(reply.metadata.src_node_id), "error": error, "answer": answer,
                "seconds": time.time() - began,
            })
            write(folder, f"{name}-so-far", facts)
        time.sleep(0.3)
    write(folder, name, {"replies": facts, "ids_in_place": in_place})


class Recording(FedAvg):
    def __init__(self, calls):
        super().__init__(fraction_train=0.0, fraction_evaluate=0.0, min_train_nodes=0, min_evaluate_nodes=0,
                         min_available_nodes=1)
        self.calls = calls

    def __getattribute__(self, name):
        if name in ("summary", "configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate"):
            self.calls.append(name)
        return super().__getattribute__(name)


class Counting(Grid):
    def __init__(self, inner, calls):
        self.inner, self.calls = inner, calls

    def send_and_receive(self, messages, *, timeout=None):
        self.calls.append("send_and_receive")
        return self.inner.send_and_receive(messages, timeout=timeout)

    def set_run(self, run): self.inner.set_run(run)
    @property
    def run(self): return self.inner.run
    def create_message(self, *args, **kwargs): return self.inner.create_message(*args, **kwargs)
    def get_node_ids(self): return self.inner.get_node_ids()
    def get_nodes(self): return self.inner.get_nodes()
    def push_messages(self, messages): return self.inner.push_messages(messages)
    def pull_messages(self, message_ids): return self.inner.pull_messages(message_ids)


def hooks(grid, folder):
    calls = []

    def evaluate(server_round, arrays):
        calls.append(f"evaluate_fn({server_round})")

    strategy = Recording(calls)
    strategy.start(Counting(grid, calls), ArrayRecord([np.zeros(2)]), num_rounds=1, evaluate_fn=evaluate)
    write(folder, "hooks", calls)
    ended = {"how": "returned"}
    try:
        write(folder, "waiting", True)
        until = time.time() + 100
        while time.time() < until:
            grid.pull_messages([])
            grid.get_nodes()
            time.sleep(0.5)
    except Exception as error:
        ended = {"how": "Exception"}
    except BaseException as error:
        ended = {"how": type(error).__name__, "code": getattr(error, "code", None)}
        raise
    finally:
        write(folder, "ended", {**ended, "at": time.time()})
"""


@dataclass(frozen=True)
class Facts:
    """What the two ServerApps wrote down, and how ``flwr ls`` tells the stopped run."""

    folder: Path
    ids: dict[str, list[int]]
    stop_sent: float
    stopped: Run

    def read(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())

    def reply(self, order: str, which: str = "second") -> dict[str, Any]:
        """The reply to the one message with this order."""
        (told,) = [each for each in self.read(which)["replies"] if each["order"] == order]
        assert isinstance(told, dict)
        return told


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facts]:
    """One deployment: two sound nodes and one that cannot load the app, whose name is registered a second time."""
    folder = tmp_path_factory.mktemp("facts")
    job = write_app(folder / "job", SERVER_APP, CLIENT_APP, out="", part="")
    with deployment(folder / "flower") as there:
        broken = {"Twice": {"IMPORT_BREAKS": str(folder / "import-breaks")}}
        first, second, third = there.add_nodes("Trust_1", "Trust_2", "Twice", only=broken)
        fourth = there.register("Twice")
        there.submit(job, out=str(folder), part="replies")
        eventually((folder / "began").exists, 60, "the long task began")
        there.unregister(second)
        hooks = there.submit(job, out=str(folder), part="hooks")
        eventually((folder / "waiting.json").exists, 40, "the second run ended its rounds")
        stop_sent = time.time()
        there.stop_run(hooks)
        eventually((folder / "ended.json").exists, 20, "the stopped ServerApp ran its finally")
        stopped = there.run(hooks)
        eventually((folder / "second.json").exists, 100, "all replies, that of the dead process too")
        ids = {"Trust_1": [first.node_id], "Trust_2": [second.node_id], "Twice": [third.node_id, fourth.node_id]}
        yield Facts(folder, ids, stop_sent, stopped)


def test_nodes_carry_the_name_that_their_key_was_registered_with(facts: Facts) -> None:
    """``get_nodes`` tells id, name and key, online nodes only: the slot of a node in a deployment."""
    told = facts.read("nodes")
    assert told["type"] == "flwr-serverapp"
    seen = {each["id"]: each["name"] for each in told["nodes"] if each["status"] == "online"}
    expected = {str(ids[0]): name for name, ids in facts.ids.items()}
    assert seen == expected
    assert all(each["key"] for each in told["nodes"])


def test_a_name_can_be_registered_twice(facts: Facts) -> None:
    """The SuperLink accepts two keys under one name: telling them apart is our grid's task."""
    assert len(set(facts.ids["Twice"])) == 2


def test_replies_name_the_message_that_they_answer(facts: Facts) -> None:
    """Ids are set on the sent messages in place, and every reply, errors included, leads back to its node."""
    for which in ("first", "second"):
        assert facts.read(which)["ids_in_place"]
    asked = {each["order"]: int(each["asked"]) for each in facts.read("second")["replies"]}
    expected = {"exit": facts.ids["Trust_1"][0], "wait": facts.ids["Trust_2"][0], "answer": facts.ids["Twice"][0]}
    assert asked == expected
    (sound,) = [each for each in facts.read("first")["replies"] if each["error"] is None]
    assert int(sound["source"]) == facts.ids["Trust_1"][0]
    assert sound["answer"] == {"number": 1, "node-config": []}


def test_an_app_that_cannot_be_loaded_is_code_1(facts: Facts) -> None:
    """A module without the ClientApp that pyproject.toml names: code 1, at once."""
    (told,) = [each for each in facts.read("first")["replies"] if int(each["asked"]) == facts.ids["Twice"][0]]
    assert told["error"]["code"] == 1


def test_an_exception_is_code_2_and_carries_the_trusts_values(facts: Facts) -> None:
    """Without our mod the text of an exception leaves the trust: why the mod must be there."""
    told = facts.reply("raise", "first")
    assert told["error"]["code"] == 2
    assert "a value of the trust" in told["error"]["reason"]


def test_an_exception_at_import_passes_by_every_mod(facts: Facts) -> None:
    """It is code 2 with its text: why the researcher's modules are only imported inside our ClientApp's handlers."""
    told = facts.reply("answer")
    assert told["error"]["code"] == 2
    assert "a value of the trust" in told["error"]["reason"]


def test_an_unregistered_node_is_code_5_at_once(facts: Facts) -> None:
    """The SuperLink answers in the place of a node that is gone; the source is not the node's id then."""
    told = facts.reply("wait")
    assert told["error"]["code"] == 5
    assert int(told["source"]) != facts.ids["Trust_2"][0]
    assert told["seconds"] < 45


def test_a_dead_client_process_is_code_8_after_the_heartbeat(facts: Facts) -> None:
    """A ClientApp that died without a word is reported by its SuperNode, within some 70 seconds."""
    told = facts.reply("exit")
    assert told["error"]["code"] == 8
    assert told["seconds"] < 95


def test_hooks_come_in_the_order_that_our_strategy_counts_on(facts: Facts) -> None:
    """A round is configure, send, aggregate for train, the same for evaluate, then the central evaluation."""
    train = ["configure_train", "send_and_receive", "aggregate_train"]
    evaluate = ["configure_evaluate", "send_and_receive", "aggregate_evaluate"]
    calls = [call for call in facts.read("hooks") if call != "summary"]
    assert calls == ["evaluate_fn(0)", *train, *evaluate, "evaluate_fn(1)"]
    assert facts.read("hooks")[0] == "summary"


def test_flwr_stop_is_a_system_exit_within_seconds(facts: Facts) -> None:
    """It is no Exception, and is raised where the ServerApp talks to its SuperLink (elsewhere, at a heartbeat)."""
    ended = facts.read("ended")
    assert ended["how"] == "SystemExit"
    assert ended["at"] - facts.stop_sent < 15
    assert facts.stopped.status == "finished:stopped"
