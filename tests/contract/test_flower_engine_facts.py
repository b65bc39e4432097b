"""The facts about Flower's engine that flip_fl rests on, against one real deployment.

For every new release of Flower: `make soak`.

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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.xdist_group("flower_engine_facts"),
    pytest.mark.soak,
]

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
    ids = {n.name: n.node_id for n in nodes}
    orders = [("Trust_1", "exit"), ("Trust_2", "answer"), ("Trust_2", "raise"), ("Trust_2", "wait"), ("Twice", "load")]
    pending, facts, in_place = {}, {}, []

    def ask(name, order):
        content = RecordDict({"order": ConfigRecord({"do": order, "began": str(folder / "began")})})
        message = Message(content, dst_node_id=ids[name], message_type="query.work")
        in_place.append(list(grid.push_messages([message])) == [message.metadata.message_id])
        pending[message.metadata.message_id] = (name, order, time.time())

    for name, order in orders:
        ask(name, order)
    until = time.time() + 110
    while pending and time.time() < until:
        for reply in grid.pull_messages(list(pending)):
            name, order, asked_at = pending.pop(reply.metadata.reply_to_message_id)
            facts[order] = {
                "node": name, "source": str(reply.metadata.src_node_id), "seconds": time.time() - asked_at,
                "error": {"code": reply.error.code, "reason": reply.error.reason} if reply.has_error() else None,
                "answer": None if reply.has_error() else dict(reply.content["answer"]),
            }
            if order == "load":
                (folder / "import-breaks").write_text("now")
                ask(name, "import")
        time.sleep(0.3)
    write(folder, "replies", {"by_order": facts, "in_place": in_place})


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

    def reply(self, order: str) -> dict[str, Any]:
        """The reply to the message with this order."""
        told: dict[str, Any] = self.read("replies")["by_order"][order]
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
        eventually((folder / "replies.json").exists, 110, "all replies, that of the dead process too")
        registered = {"Trust_1": [first], "Trust_2": [second], "Twice": [third, fourth]}
        ids = {name: [int(node.node_id) for node in nodes] for name, nodes in registered.items()}
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
    assert all(facts.read("replies")["in_place"])
    nodes = {order: told["node"] for order, told in facts.read("replies")["by_order"].items()}
    expected = {"exit": "Trust_1", "answer": "Trust_2", "raise": "Trust_2", "wait": "Trust_2"}
    assert nodes == {**expected, "load": "Twice", "import": "Twice"}
    sound = facts.reply("answer")
    assert [int(sound["source"])] == facts.ids["Trust_2"]
    assert sound["answer"] == {"number": 1, "node-config": ["slot"]}


def test_an_app_that_cannot_be_loaded_is_code_1(facts: Facts) -> None:
    """A module without the ClientApp that pyproject.toml names: code 1, at once."""
    assert facts.reply("load")["error"]["code"] == 1


def test_an_exception_is_code_2_and_carries_the_trusts_values(facts: Facts) -> None:
    """Without our mod the text of an exception leaves the trust: why the mod must be there."""
    told = facts.reply("raise")
    assert told["error"]["code"] == 2
    assert "a value of the trust" in told["error"]["reason"]


def test_an_exception_at_import_passes_by_every_mod(facts: Facts) -> None:
    """It is code 2 with its text: why the researcher's modules are only imported inside our ClientApp's handlers."""
    told = facts.reply("import")
    assert told["error"]["code"] == 2
    assert "a value of the trust" in told["error"]["reason"]


def test_an_unregistered_node_is_code_5_at_once(facts: Facts) -> None:
    """The SuperLink answers in the place of a node that is gone; the source is not the node's id then."""
    told = facts.reply("wait")
    assert told["error"]["code"] == 5
    assert int(told["source"]) != facts.ids["Trust_2"][0]
    assert told["seconds"] < 60


def test_a_dead_client_process_is_code_8_after_the_heartbeat(facts: Facts) -> None:
    """A ClientApp that died without a word is reported by its SuperNode, within some 70 seconds."""
    told = facts.reply("exit")
    assert told["error"]["code"] == 8
    assert told["seconds"] < 100


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
