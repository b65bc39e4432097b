"""Every kind of local site keeps the same promises to the grid, and the grid keeps those of a deployment's grid."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import numpy as np
import psutil
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from flip_fl.app.child import WEIGHTS
from flip_fl.app.forks import ForkServer
from flip_fl.app.isolation.forking import GUEST
from flip_fl.flower.component import read_app
from flip_fl.flower.job import write_job
from flip_fl.flower.local_grid import LOCAL_RUN, LocalGrid
from flip_fl.flower.local_process import ProcessSite
from flip_fl.flower.local_site import DirectSite, LocalSite
from flip_fl.flower.local_warm import WORKER, modules, site_forks
from flip_fl.flower.protocol import ABORTED, FAILED, LOST, get_report, with_task
from flip_fl.flower.protocol import TaskNote as Note
from flip_fl.jobs.templates import JobValues
from tests.support.flower_client import LINEAR, MODEL_ID, settle
from tests.support.flower_plain import ENVIRONMENT, gone, until, write_plain_job
from tests.support.small_apps import write_app

MakeSite = Callable[[str], LocalSite]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job folder of Flower's with apps that are not ours."""
    return write_plain_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def forks(job: Path) -> Iterator[ForkServer]:
    """What the processes of the sites are forked from."""
    with closing(site_forks(job, ENVIRONMENT)) as server:
        yield server


def _app(job: Path) -> ClientApp:
    spec = importlib.util.spec_from_file_location("sums_client_app", job / "sums" / "client_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(ClientApp, module.app)


@pytest.fixture(scope="module", params=["direct", "process"])
def make_site(
    request: pytest.FixtureRequest, job: Path, forks: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeSite]:
    """Gives sites of one kind, one for each slot: they serve one run after another."""
    logs = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:

        @cache
        def make(slot: str) -> LocalSite:
            site: LocalSite
            if request.param == "direct":
                site = DirectSite(slot, _app(job), {"rate": 0.5})
            else:
                site = ProcessSite(slot, job, {"rate": 0.5}, forks=forks, env=ENVIRONMENT, log_dir=logs)
            stack.callback(site.close, 0.0)
            return site

        yield make


@pytest.fixture
def process(job: Path, forks: ForkServer, tmp_path: Path) -> Iterator[ProcessSite]:
    """A site in a process of its own, logging to ``tmp_path/logs``."""
    with closing(
        ProcessSite("Trust_1", job, {"rate": 0.5}, forks=forks, env=ENVIRONMENT, log_dir=tmp_path / "logs")
    ) as site:
        yield site


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


# -- a site in a process of its own --------------------------------------------------------------------------------


def _wait(grid: LocalGrid, message: Message, timeout_s: float = 60.0) -> Message:
    deadline = time.monotonic() + timeout_s
    while not (got := grid.pull_messages([message.metadata.message_id])):
        assert time.monotonic() < deadline, "no reply"
        grid.wait(1.0)
    return got[0]


def test_a_process_gets_the_environment_it_is_given_and_lives_through_all_rounds(
    process: ProcessSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site must not find the server's keys in its environment; its process is where an app keeps its memory."""
    monkeypatch.setenv("SERVER_SECRET", "1")
    grid = LocalGrid([process])
    said = [grid.send_and_receive([_ask(grid)], timeout=60)[0].content.config_records["said"] for _ in range(2)]
    assert [record["pid"] for record in said] == [process.pid, process.pid]
    names = said[0]["environment"]
    assert isinstance(names, list)
    assert "SITE_ONLY" in names
    assert "SERVER_SECRET" not in names
    command = psutil.Process(process.pid).cmdline()
    assert "rate" not in " ".join(command), "the run config, with the cohort's query, is not for the process list"


def test_what_an_app_prints_goes_to_the_sites_log_and_not_among_the_messages(
    process: ProcessSite, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Any print of an app would otherwise break the messages, or show patients' data to the server."""
    grid = LocalGrid([process])
    (reply,) = grid.send_and_receive([_ask(grid, "query.noise")], timeout=60)
    assert reply.has_content()
    (failed,) = grid.send_and_receive([_ask(grid, "evaluate", patient="P-4711")], timeout=60)
    assert failed.has_error()
    log = (tmp_path / "logs" / "Trust_1.log").read_text()
    for words in ("printed by the app", "written by the app", "echo from a child", "told by the app", "P-4711"):
        assert words.removeprefix("echo ") in log
    assert capfd.readouterr() == ("", "")


def test_100_mb_pass_both_ways_and_two_large_messages_wait_for_each_other(process: ProcessSite) -> None:
    """Neither side may wait for the other with its buffer full, however large the model."""
    grid = LocalGrid([process])
    large = np.random.default_rng(1).standard_normal(12_500_000)
    messages = []
    for size in (len(large), len(large) // 10):
        content = RecordDict({"arrays": _arrays(w=large[:size]), "config": ConfigRecord({})})
        messages.append(Message(content, process.node_id, "train"))
    replies = grid.send_and_receive(messages, timeout=120)
    assert len(replies) == 2
    assert np.array_equal(replies[0].content.array_records["arrays"]["w"].numpy(), large + 1)


def test_a_process_that_ends_is_told_at_once_with_its_exit_code(process: ProcessSite) -> None:
    """A site that crashed must cost its round seconds, and say why; a later message must not wait for it either."""
    grid = LocalGrid([process])
    messages = [_ask(grid, "query.leave"), _ask(grid)]
    replies = grid.send_and_receive(messages, timeout=60)
    assert [r.metadata.reply_to_message_id for r in replies] == [m.metadata.message_id for m in messages]
    started = time.monotonic()
    replies += grid.send_and_receive([_ask(grid)])
    assert time.monotonic() - started < 30.0
    for reply in replies:
        assert reply.error.code == LOST
        failure = get_report(reply).failure
        assert failure is not None
        assert failure.slot == "Trust_1"
        assert "ended with exit code 7" in failure.headline


def test_a_process_killed_in_the_middle_of_its_task_is_told_at_once(process: ProcessSite, tmp_path: Path) -> None:
    """kill -9 is what a machine without memory does."""
    grid = LocalGrid([process])
    note = tmp_path / "note"
    message = _ask(grid, "query.sleep", seconds=600.0, note=str(note))
    grid.push_messages([message])
    until(lambda: note.exists() and note.read_text() != "")
    os.kill(process.pid, signal.SIGKILL)
    killed = time.monotonic()
    reply = _wait(grid, message)
    assert time.monotonic() - killed < 30.0
    assert reply.error.code == LOST
    failure = get_report(reply).failure
    assert failure is not None
    assert "signal 9 (SIGKILL" in failure.headline


@pytest.mark.parametrize("how", ["signal", "stop"])
def test_a_long_task_sees_that_it_is_to_stop(process: ProcessSite, tmp_path: Path, how: str) -> None:
    """Nothing else reaches a training that runs for hours."""
    grid = LocalGrid([process])
    note = tmp_path / "note"
    message = _ask(grid, "query.watch", note=str(note))
    grid.push_messages([message])
    until(lambda: note.exists() and note.read_text() != "")
    if how == "signal":
        os.kill(process.pid, signal.SIGTERM)
    else:
        grid.stop()
    assert _wait(grid, message).has_content()
    assert note.read_text().endswith("stopped")


def test_a_task_that_does_not_stop_is_killed_after_the_grace_with_all_it_started(
    process: ProcessSite, tmp_path: Path
) -> None:
    """The end of a run must not depend on an app's goodwill, nor leave anything of it running."""
    grid = LocalGrid([process])
    child, note = tmp_path / "child", tmp_path / "note"
    grid.send_and_receive([_ask(grid, "query.family", note=str(child))], timeout=60)
    grid.push_messages([_ask(grid, "query.sleep", seconds=600.0, note=str(note))])
    until(lambda: note.exists() and note.read_text() != "")
    started = time.monotonic()
    grid.close(0.3)
    assert 0.25 < time.monotonic() - started < 60.0
    until(lambda: gone(process.pid) and gone(int(child.read_text())))
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["Trust_1.log"], "the stop file is left behind"


def test_an_idle_process_ends_by_itself_when_it_is_closed(process: ProcessSite) -> None:
    """What an app does at its exit happens; and closing costs no grace."""
    grid = LocalGrid([process])
    grid.send_and_receive([_ask(grid)], timeout=60)
    started = time.monotonic()
    grid.close(60.0)
    assert time.monotonic() - started < 30.0
    assert gone(process.pid)
    (reply,) = grid.send_and_receive([_ask(grid)])
    assert reply.error.code == LOST


def test_an_app_that_cannot_be_imported_fails_each_message_with_the_place(
    tmp_path: Path, job: Path, forks: ForkServer
) -> None:
    """An error at import must be reported like any other, at once."""
    broken = tmp_path / "broken"
    (broken / "sums").mkdir(parents=True)
    (broken / "pyproject.toml").write_text((job / "pyproject.toml").read_text())
    (broken / "sums" / "client_app.py").write_text("import no_such_module_at_all\n")
    with closing(ProcessSite("Trust_1", broken, forks=forks, env=ENVIRONMENT, log_dir=tmp_path / "logs")) as site:
        grid = LocalGrid([site])
        (reply,) = grid.send_and_receive([_ask(grid)], timeout=60)
    failure = get_report(reply).failure
    assert failure is not None
    assert failure.type == "ModuleNotFoundError"
    assert "client_app.py" in failure.traceback
    assert "no_such_module_at_all" in (tmp_path / "logs" / "Trust_1.log").read_text()


def test_a_neutral_apps_training_ends_early_when_its_process_gets_sigterm(tmp_path: Path, forks: ForkServer) -> None:
    """The way from the signal to ``site.aborted`` is long; every part of it must hold."""
    note = tmp_path / "note"
    wait = "[__import__('time').sleep(0.01) for _ in site.progress(iter(int, 1))]"
    loop = f"open({str(note)!r}, 'w').write('here'); {wait}"
    app = write_app(tmp_path / "app", in_train=loop)
    settle(app, tmp_path)
    values = JobValues(model_id=UUID(MODEL_ID), num_rounds=1, min_clients=1, slots=("Trust_1",))
    job = write_job(app, "standard", values, tmp_path / "job")
    environment = {**ENVIRONMENT, "FLIP_SETTINGS_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    config = read_app(job).run_config
    with closing(ProcessSite("Trust_1", job, config, forks=forks, env=environment, log_dir=tmp_path / "logs")) as site:
        grid = LocalGrid([site])
        (validated,) = grid.send_and_receive([_linear(site, "evaluate")], timeout=120)
        assert validated.content.metric_records["metrics"]["num-examples"] == 240
        training = _linear(site, "train")
        grid.push_messages([training])
        until(lambda: note.exists() and note.read_text() != "")
        os.kill(site.pid, signal.SIGTERM)
        reply = _wait(grid, training)
    assert reply.error.code == ABORTED
    assert get_report(reply).aborted


def _linear(site: ProcessSite, kind: str) -> Message:
    content = RecordDict({"arrays": _arrays(**LINEAR), "config": ConfigRecord({"server-round": 1})})
    return Message(with_task(content, Note("Trust_1", 1, 1)), site.node_id, kind)


def test_torch_and_its_compiler_are_loaded_ahead_for_apps_that_need_them(job: Path, tmp_path: Path) -> None:
    """Both take seconds: an app that needs one and does not have it waits at every site, another waits for nothing."""
    assert "torch" not in modules(job / "app")
    plain = modules(write_app(tmp_path / "plain"))
    assert plain[0] == "torch"
    assert "torch._dynamo" not in plain
    optimizing = modules(write_app(tmp_path / "with", optimiser="torch.optim.SGD"))
    # Whoever trains shall find it, in the site's process or in one of its own; the starting weights do not wait for it.
    order = [optimizing.index(name) for name in (WEIGHTS, "torch._dynamo", GUEST, WORKER)]
    assert order == sorted(order)
    assert set(optimizing) == {*plain, "torch._dynamo"}
