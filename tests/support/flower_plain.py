"""A Flower app that is not ours, as a job folder: numpy only, with handlers for what a site has to live through."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

# What a site's process gets, and all that it gets.
ENVIRONMENT = {"PATH": os.environ["PATH"], "SITE_ONLY": "1"}

CLIENT_APP = '''
import os
import sys
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    """Add one to every array; count the calls in the node's state."""
    state = context.state.setdefault("calls", ConfigRecord({"count": 0}))
    state["count"] += 1
    arrays = message.content["arrays"]
    for name in list(arrays):
        before = arrays[name].numpy()
        arrays[name] = Array(np.asarray(before + 1, dtype=before.dtype))
    said = {
        "count": state["count"],
        "slot": context.node_config["slot"],
        "rate": context.run_config["rate"],
        "pid": os.getpid(),
        "environment": sorted(os.environ),
        "partition": context.node_config.get("partition-id", -1),
    }
    return Message(RecordDict({"arrays": arrays, "said": ConfigRecord(said)}), reply_to=message)


@app.evaluate()
def evaluate(message, context):
    raise ValueError("patient " + str(message.content["config"]["patient"]) + " is wrong")


@app.query("wrong")
def wrong(message, context):
    return {"no": "message"}


@app.query("stranger")
def stranger(message, context):
    message.metadata.__dict__["_message_id"] = "another"
    return Message(RecordDict(), reply_to=message)


@app.query("noise")
def noise(message, context):
    print("printed by the app")
    os.write(1, b"written by the app\\n")
    os.system("echo from a child of the app")
    sys.stderr.write("told by the app\\n")
    return Message(RecordDict(), reply_to=message)


@app.query("leave")
def leave(message, context):
    os._exit(7)


@app.query("watch")
def watch(message, context):
    """A long task that looks at the stop file, as site.aborted does."""
    note = message.content["config"]["note"]
    open(note, "w").write(str(os.getpid()))
    while not os.path.exists(context.node_config["stop-file"]):
        time.sleep(0.02)
    open(note, "a").write(" stopped")
    return Message(RecordDict(), reply_to=message)


@app.query("family")
def family(message, context):
    import subprocess

    child = subprocess.Popen(["sleep", "600"])
    open(message.content["config"]["note"], "w").write(str(child.pid))
    return Message(RecordDict(), reply_to=message)


@app.query("sleep")
def sleep(message, context):
    open(message.content["config"]["note"], "w").write(str(os.getpid()))
    time.sleep(message.content["config"]["seconds"])
    return Message(RecordDict(), reply_to=message)
'''

SERVER_APP = """
import json
import logging
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from flwr.supercore.logger import log

app = ServerApp()


@app.main()
def main(grid, context):
    what = context.run_config["what"]
    note = context.run_config["note"]

    def ask(kind, node, **config):
        content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2))}), "config": ConfigRecord(config)})
        return Message(content, node, kind)

    nodes = {node.name: node.node_id for node in grid.get_nodes()}
    if what == "fail":
        log(logging.WARNING, "the ServerApp fails now")
        raise ValueError("the ServerApp failed")
    if what == "hang":
        try:
            grid.send_and_receive([ask("query.watch", node, note=f"{note}-{name}") for name, node in nodes.items()])
        except SystemExit as ending:
            open(note, "w").write(f"SystemExit {ending.code}")
            raise
    rounds = []
    for _ in range(3):
        started = time.monotonic()
        replies = grid.send_and_receive([ask("train", node) for node in nodes.values()], timeout=60)
        rounds.append(time.monotonic() - started)
    said = [dict(reply.content["said"]) for reply in replies]
    said = {record["slot"]: record for record in said}
    facts = {"said": said, "rounds": rounds}
    open(note, "w").write(json.dumps({**facts, "config": context.run_config}))
"""

PROJECT = """
[project]
name = "sums"
version = "1.0.0"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "sums.server_app:app"
clientapp = "sums.client_app:app"
[tool.flwr.app.config]
rate = 0.5
what = ""
note = ""
flip-slots = ""
"""


def write_plain_job(folder: Path) -> Path:
    """Write the app into ``folder``; returns it."""
    (folder / "sums").mkdir(parents=True)
    (folder / "sums" / "__init__.py").touch()
    (folder / "sums" / "client_app.py").write_text(CLIENT_APP)
    (folder / "sums" / "server_app.py").write_text(SERVER_APP)
    (folder / "pyproject.toml").write_text(PROJECT)
    return folder


def until(done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for ``done``. Raises ``AssertionError`` when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether the process has ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
