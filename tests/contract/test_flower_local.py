"""Every kind of local site keeps the same promises to the grid, and the grid keeps those of a deployment's grid."""

from __future__ import annotations

import importlib.util
import json
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from flip_fl.flower.local import LOCAL_RUN, DirectSite, LocalGrid, LocalSite
from flip_fl.flower.protocol import FAILED, get_report, with_task
from flip_fl.flower.protocol import TaskNote as Note

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


@app.query("sleep")
def sleep(message, context):
    open(message.content["config"]["note"], "w").write(str(os.getpid()))
    time.sleep(message.content["config"]["seconds"])
    return Message(RecordDict(), reply_to=message)
'''

MakeSite = Callable[[str], LocalSite]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job folder of Flower's with a ClientApp that is not ours."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "sums").mkdir()
    (folder / "sums" / "__init__.py").touch()
    (folder / "sums" / "client_app.py").write_text(CLIENT_APP)
    (folder / "pyproject.toml").write_text(
        textwrap.dedent("""
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
        """)
    )
    return folder


def _app(job: Path) -> ClientApp:
    spec = importlib.util.spec_from_file_location("sums_client_app", job / "sums" / "client_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(ClientApp, module.app)


@pytest.fixture(params=["direct"])
def make_site(request: pytest.FixtureRequest, job: Path, tmp_path: Path) -> Iterator[MakeSite]:
    """Makes sites of one kind and closes them."""
    with ExitStack() as stack:

        def make(slot: str) -> LocalSite:
            site = DirectSite(slot, _app(job), {"rate": 0.5})
            stack.callback(site.close, 0.0)
            return site

        yield make


def _arrays(**arrays: Any) -> ArrayRecord:
    return ArrayRecord({name: _array(value) for name, value in arrays.items()})


def _array(value: Any) -> Any:
    from flwr.app import Array

    return Array(np.asarray(value))


def _ask(grid: LocalGrid, kind: str = "train", *, to: int | None = None, **config: Any) -> Message:
    nodes = grid.get_node_ids()
    content = RecordDict({"arrays": _arrays(w=np.zeros(3, np.float32), n=np.int64(4)), "config": ConfigRecord(config)})
    return Message(with_task(content, Note("Trust_1", 2, 5)), nodes[0] if to is None else to, kind)


def test_arrays_go_out_and_come_back_with_their_names_shapes_and_dtypes(make_site: MakeSite) -> None:
    """A model must not change by having been sent."""
    grid = LocalGrid([make_site("Trust_1")])
    (reply,) = grid.send_and_receive([_ask(grid)], timeout=60)
    got = {name: array.numpy() for name, array in reply.content.array_records["arrays"].items()}
    assert list(got) == ["w", "n"]
    assert [(a.dtype, a.shape) for a in got.values()] == [(np.float32, (3,)), (np.int64, ())]
    assert got["w"].tolist() == [1, 1, 1]
    assert got["n"] == 5


def test_a_reply_says_which_message_it_answers_and_has_an_id_of_its_own(make_site: MakeSite) -> None:
    """Attribution by the answered message is all that the server trusts."""
    grid = LocalGrid([make_site("Trust_1"), make_site("Trust_2")])
    first, second = grid.get_node_ids()
    messages = [_ask(grid, to=first), _ask(grid, to=second), _ask(grid, to=first)]
    replies = grid.send_and_receive(messages, timeout=60)
    sent = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    assert len(sent) == len(replies) == 3
    assert {r.metadata.reply_to_message_id: r.metadata.src_node_id for r in replies} == sent
    ids = {r.metadata.message_id for r in replies}
    assert len(ids) == 3
    assert "" not in ids
    assert ids.isdisjoint(sent)
    assert {r.metadata.dst_node_id for r in replies} == {1}
    assert {r.metadata.run_id for r in replies} == {grid.run.run_id}


def test_nodes_are_named_after_their_slots_and_the_run_says_that_it_is_local(make_site: MakeSite) -> None:
    """The server knows a local site by the same field as a registered one."""
    grid = LocalGrid([make_site("Trust_1"), make_site("Trust_2")])
    assert [node.name for node in grid.get_nodes()] == ["Trust_1", "Trust_2"]
    assert [node.node_id for node in grid.get_nodes()] == grid.get_node_ids()
    assert grid.run.primary_task_type == LOCAL_RUN == "flip-local"


def test_a_nodes_state_lives_from_message_to_message(make_site: MakeSite) -> None:
    """What a ClientApp keeps in its context must be there in the next round, and be its own site's."""
    grid = LocalGrid([make_site("Trust_1"), make_site("Trust_2")])
    for expected in (1, 2):
        replies = grid.send_and_receive([_ask(grid, to=node) for node in grid.get_node_ids()], timeout=60)
        said = [r.content.config_records["said"] for r in replies]
        assert [record["count"] for record in said] == [expected, expected]
        assert {record["slot"] for record in said} == {"Trust_1", "Trust_2"}
        assert {record["rate"] for record in said} == {0.5}


def test_what_a_client_does_to_its_message_is_seen_by_nobody_else(make_site: MakeSite) -> None:
    """A strategy sends one set of records to all nodes; in one process they would be the same objects."""
    grid = LocalGrid([make_site("Trust_1"), make_site("Trust_2")])
    shared = _ask(grid).content
    messages = [Message(shared, node, "train") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages, timeout=60)
    assert [r.content.array_records["arrays"]["w"].numpy().tolist() for r in replies] == [[1, 1, 1], [1, 1, 1]]
    assert shared.array_records["arrays"]["w"].numpy().tolist() == [0, 0, 0]


def test_an_exception_is_an_error_reply_with_its_place_and_without_its_values(make_site: MakeSite) -> None:
    """One client's mistake must reach the researcher, and its values must not."""
    grid = LocalGrid([make_site("Trust_1")])
    (reply,) = grid.send_and_receive([_ask(grid, "evaluate", patient="P-4711")], timeout=60)
    assert reply.error.code == FAILED
    failure = get_report(reply).failure
    assert failure is not None
    assert (failure.slot, failure.task, failure.round, failure.type) == ("Trust_1", "validate", 2, "ValueError")
    assert "client_app.py" in failure.traceback
    assert "P-4711" not in json.dumps(reply.error.reason)
    (again,) = grid.send_and_receive([_ask(grid)], timeout=60)
    assert again.has_content(), "the site works on after a failure"


@pytest.mark.parametrize("kind", ["query.wrong", "query.stranger", "query.unknown"])
def test_an_answer_that_is_no_reply_is_an_error(make_site: MakeSite, kind: str) -> None:
    """A ClientApp that answers nonsense must fail by itself, and not the grid."""
    grid = LocalGrid([make_site("Trust_1")])
    message = _ask(grid, kind)
    (reply,) = grid.send_and_receive([message], timeout=60)
    assert reply.error.code == FAILED
    assert reply.metadata.reply_to_message_id == message.metadata.message_id


def test_a_message_to_a_node_that_is_not_there_is_answered_at_once(make_site: MakeSite) -> None:
    """Waiting for a node that left would be waiting for ever."""
    grid = LocalGrid([make_site("Trust_1")])
    message = _ask(grid, to=42)
    (reply,) = grid.send_and_receive([message])
    assert reply.error.code == 5
    assert reply.metadata.reply_to_message_id == message.metadata.message_id


def test_a_message_that_answers_another_or_is_dead_is_refused(make_site: MakeSite) -> None:
    """A deployment's grid refuses them, so what works here must not fail there."""
    grid = LocalGrid([make_site("Trust_1")])
    (reply,) = grid.send_and_receive([_ask(grid)], timeout=60)
    with pytest.raises(ValueError, match="cannot be sent"):
        grid.push_messages([reply])
    dead = _ask(grid)
    dead.metadata.ttl = 0
    with pytest.raises(ValueError, match="cannot be sent"):
        grid.push_messages([dead])


def test_a_late_reply_waits_for_who_asks_and_does_not_keep_the_grid_awake(make_site: MakeSite) -> None:
    """The rest of an earlier phase must neither be lost nor turn every later wait into a busy loop."""
    grid = LocalGrid([make_site("Trust_1")])
    early, later = _ask(grid), _ask(grid)
    grid.push_messages([early, later])
    deadline = time.monotonic() + 60
    while not (got := grid.pull_messages([later.metadata.message_id])):
        assert time.monotonic() < deadline
        grid.wait(1.0)
    assert got[0].metadata.reply_to_message_id == later.metadata.message_id
    started = time.monotonic()
    grid.wait(0.15)
    assert time.monotonic() - started > 0.1
    (kept,) = grid.pull_messages([early.metadata.message_id])
    assert kept.metadata.reply_to_message_id == early.metadata.message_id
    assert grid.pull_messages([early.metadata.message_id]) == []
