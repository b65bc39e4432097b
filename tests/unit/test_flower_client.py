"""The ClientApp of a neutral app, asked as a node asks it: real apps, serialised messages."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flip_fl.app.stop import request_stop
from flip_fl.data.index import ImageIndex, job_lock
from flip_fl.data.sources.trust import TrustSource
from flip_fl.errors import FlipError
from flip_fl.flower.claim import claimed_slot
from flip_fl.flower.client import LEASE_S, client_app
from flip_fl.flower.private import message_from_bytes, message_to_bytes
from flip_fl.flower.protocol import (
    ABORTED,
    FAILED,
    METRICS,
    NUM_EXAMPLES,
    QUERY_END,
    QUERY_SLOT,
    QUERY_STAY,
    STOP_FILE,
    TaskNote,
    get_report,
    reply_slot,
)
from tests.support.flower_client import LINEAR, MODEL_ID, ask, context, labels, numpy_of, settle, task_message
from tests.support.flower_plain import until
from tests.support.imaging import imaging
from tests.support.small_apps import write_app

CANARY = "CANARY9Z"
WAIT = "for _ in site.progress(range(2000)): site.log('tick', 1.0); import time; time.sleep(0.01)"


@pytest.fixture
def trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes an app, settles Trust_1 for it, and returns the app's folder."""
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(tmp_path / "trusts"))
    for name in ("SUPERNODE_NAME", "FLIP_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    before = list(sys.path)

    def make(**app: Any) -> Path:
        folder = write_app(tmp_path / "app", canary=CANARY, **app)
        (tmp_path / "trusts").mkdir()
        settle(folder, tmp_path / "trusts")
        return folder

    yield make
    sys.path[:] = before


def state_of(tmp_path: Path) -> Path:
    """The state folder of Trust_1."""
    return tmp_path / "trusts" / "state" / "Trust_1"


def test_a_training_comes_back_as_arrays_numbers_and_a_story(trust: Callable[..., Path]) -> None:
    """The reply holds the trained model under the sent names, the numbers by which it counts, and every point."""
    reply = ask(client_app(trust(LOCAL_ROUNDS=3)), task_message(note=TaskNote("Trust_1", 2, 5)))
    assert not reply.has_error()
    arrays = numpy_of(reply)
    assert [(n, a.dtype, a.shape) for n, a in arrays.items()] == [(n, a.dtype, a.shape) for n, a in LINEAR.items()]
    assert np.abs(arrays["weight"]).max() > 0.01
    assert reply.content.metric_records[METRICS][NUM_EXAMPLES] == 240
    assert set(reply.content.metric_records[METRICS]) == {NUM_EXAMPLES, "loss"}
    report = get_report(reply)
    assert (report.claim, report.failure, report.refused) == ("Trust_1", None, {})
    assert (report.made, report.missing) == (len(report.items), 0)
    metrics = [item for item in report.items if item["kind"] == "metric"]
    assert [(m["label"], m["x_label"], m["x_value"]) for m in metrics] == [
        ("step_loss", "Step", 0.0),
        ("step_loss", "Step", 1.0),
        ("step_loss", "Step", 2.0),
        ("train_loss", None, None),
    ]
    assert {(m["client"], m["global_round"], m["task"]) for m in metrics} == {("Trust_1", 2, "train")}
    assert len({m["id"] for m in metrics}) == 4


def test_a_validation_sends_numbers_only(trust: Callable[..., Path]) -> None:
    """Flower's evaluate is the app's validate: its reply carries no model, and its points say so."""
    reply = ask(client_app(trust()), task_message("evaluate"))
    assert not reply.content.array_records
    assert set(reply.content.metric_records[METRICS]) == {NUM_EXAMPLES, "loss", "wrong"}
    assert {item["task"] for item in get_report(reply).items if item["kind"] == "metric"} == {"validate"}


ODD = {
    "scale": np.array(0.5, dtype=np.float32),
    "calls": np.array(41, dtype=np.int64),
    "double_b": np.array([[0.1, 0.2]], dtype=np.float64),
    "half_b": np.array([0.5, -0.5], dtype=np.float16),
    "wave_b": np.array([1 + 2j], dtype=np.complex64),
    "bytes_b": np.arange(5, dtype=np.uint8),
    "small_b": np.array([[-1], [2]], dtype=np.int8),
    "mask_b": np.array([True, False]),
    "nothing": np.zeros((0, 4), dtype=np.float32),
}
ODD_MODEL = """
import torch


class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.0))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("double_b", torch.zeros(1, 2, dtype=torch.float64))
        self.register_buffer("half_b", torch.zeros(2, dtype=torch.float16))
        self.register_buffer("wave_b", torch.zeros(1, dtype=torch.complex64))
        self.register_buffer("bytes_b", torch.zeros(5, dtype=torch.uint8))
        self.register_buffer("small_b", torch.zeros(2, 1, dtype=torch.int8))
        self.register_buffer("mask_b", torch.zeros(2, dtype=torch.bool))
        self.register_buffer("nothing", torch.zeros(0, 4))


def get_model():
    return Odd()
"""


def test_every_dtype_that_numpy_has_makes_the_round_trip(trust: Callable[..., Path]) -> None:
    """Buffers of whole numbers, 0-d arrays, halves and empty ones arrive and come back as what they were."""
    app = trust()
    (app / "models.py").write_text(ODD_MODEL)
    (app / "trainer.py").write_text(
        "def train(model, site, config):\n    model.calls += 1\n    return {'num_examples': 1}\n"
    )
    arrays = numpy_of(ask(client_app(app), task_message(arrays=ODD)))
    assert list(arrays) == list(ODD)
    for name, sent in ODD.items():
        assert (arrays[name].dtype, arrays[name].shape) == (sent.dtype, sent.shape), name
        np.testing.assert_array_equal(arrays[name], sent + 1 if name == "calls" else sent)


def test_a_dtype_that_numpy_has_not_is_refused_by_name(trust: Callable[..., Path]) -> None:
    """A bfloat16 parameter cannot travel; its name is said at the site, instead of other bytes being sent."""
    reply = ask(client_app(trust(before_return="model.weight.data = model.weight.data.bfloat16()")))
    failure = get_report(reply).failure
    assert failure is not None
    assert failure.headline.endswith("'weight' of the model is torch.bfloat16, which numpy has not")


def test_a_site_remembers_what_its_process_has_built(
    trust: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """site.memory lives from message to message, apart for each slot of a process, and no longer than the run."""
    count = "site.memory['n'] = site.memory.get('n', 0) + 1; site.log('calls', site.memory['n'])"
    folder = trust(in_train=count)
    settle(folder, tmp_path / "trusts", "Trust_2")
    app = client_app(folder)

    def calls(slot: str, run_id: int = 77) -> float:
        reply = ask(app, task_message(note=TaskNote(slot, 1, 2)), context({"slot": slot}, run_id=run_id))
        return next(float(item["result"]) for item in get_report(reply).items if item.get("label") == "calls")

    assert [calls("Trust_1"), calls("Trust_1"), calls("Trust_2"), calls("Trust_1")] == [1, 2, 1, 3]
    assert calls("Trust_1", run_id=78) == 1


def test_a_process_per_message_gives_the_same_model_as_one_for_all(trust: Callable[..., Path], tmp_path: Path) -> None:
    """In a deployment each message meets a new process: nothing of a result may hang on what stayed in memory."""
    folder = trust()
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from flwr.app import Context, RecordDict
        from flip_fl.flower.client import client_app
        from flip_fl.flower.private import acting_as, message_from_bytes, message_to_bytes, number_message
        app, sent, answered = map(Path, sys.argv[1:])
        with acting_as(run_id=77, node_id=11, task_id=6):
            reply = client_app(app)(message_from_bytes(sent.read_bytes()), Context(77, 11, {"slot": "Trust_1"}, RecordDict(), {}))
        number_message(reply)
        answered.write_bytes(message_to_bytes(reply))
    """)  # noqa: E501
    app = client_app(folder)
    first = numpy_of(ask(app, task_message(note=TaskNote("Trust_1", 1, 2))))
    message = task_message(arrays=first, note=TaskNote("Trust_1", 2, 2))
    (tmp_path / "sent").write_bytes(message_to_bytes(message))
    argv = [sys.executable, "-c", script, str(folder), str(tmp_path / "sent"), str(tmp_path / "answered")]
    subprocess.run(argv, check=True, timeout=120)
    alone = numpy_of(message_from_bytes((tmp_path / "answered").read_bytes()))
    together = numpy_of(ask(app, message))
    for name in LINEAR:
        np.testing.assert_array_equal(alone[name], together[name])


def test_a_failure_says_where_and_keeps_what_was_measured(
    trust: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server gets the place, the researcher's own words and the points; the patient's value stays in the trust."""
    text = "raise ValueError('odd patient ' + site.cohort()['person_id'][0])"
    with caplog.at_level(logging.DEBUG):
        reply = ask(client_app(trust(before_return=text, LOCAL_ROUNDS=2)))
    assert reply.error.code == FAILED
    assert CANARY not in str(reply.error.reason)
    assert CANARY not in caplog.text
    report = get_report(reply)
    assert report.failure is not None
    assert (report.failure.slot, report.failure.task, report.failure.round) == ("Trust_1", "train", 1)
    assert report.failure.headline == "ValueError: odd patient <value>"
    assert 'File "trainer.py"' in report.failure.traceback
    assert labels(report) == ["step_loss", "step_loss"]
    kept = state_of(tmp_path) / "failures.log"
    assert f"odd patient {CANARY}P00000" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda app, env: (app / "config.json").write_text("{"), "config.json"),
        (lambda app, env: (app / "trainer.py").write_text("raise RuntimeError('no luck at all')"), "no luck at all"),
        (lambda app, env: (app / "trainer.py").unlink(), "the app has no trainer.py"),
        (lambda app, env: env.write_text("LOCAL_DEV=false\n"), "DATA_ACCESS_API_URL"),
    ],
    ids=["config", "import", "no trainer", "settings"],
)
def test_what_is_wrong_before_the_task_is_a_failure_report_too(
    spoil: Callable[[Path, Path], None], words: str, trust: Callable[..., Path], tmp_path: Path
) -> None:
    """A broken config, import or settings file is told with slot, task and round, as any exception."""
    app = trust()
    spoil(app, tmp_path / "trusts" / "Trust_1.env")
    reply = ask(client_app(app), task_message("evaluate", note=TaskNote("Trust_1", 2, 3)))
    assert reply.error.code == FAILED
    failure = get_report(reply).failure
    assert failure is not None
    assert (failure.slot, failure.task, failure.round) == ("Trust_1", "validate", 2)
    assert words in failure.headline


def test_a_message_without_a_model_is_refused_by_name(trust: Callable[..., Path]) -> None:
    """A strategy that sends no ArrayRecord hears of it instead of a KeyError."""
    message = task_message()
    del message.content["arrays"]
    failure = get_report(ask(client_app(trust()), message)).failure
    assert failure is not None
    assert "it holds no ArrayRecords and none is called 'arrays'" in failure.headline


@pytest.mark.parametrize("way", ["site", "node", "caller"])
def test_a_long_training_sees_a_stop(way: str, trust: Callable[..., Path], tmp_path: Path) -> None:
    """A file at the site, a file that the node's keeper names, and the caller's word each end a training early."""
    begun = tmp_path / "begun"
    app = trust(in_train=f"site.log('tick', 1.0); open({str(begun)!r}, 'w').close()\n    {WAIT}")
    word = threading.Event()

    def stop() -> None:
        until(begun.exists)
        if way == "site":
            request_stop(state_of(tmp_path), MODEL_ID)
        elif way == "node":
            (tmp_path / "stop").touch()
        else:
            word.set()

    stopping = threading.Thread(target=stop)
    client = client_app(app, aborted=word.is_set)
    ask(client, task_message("evaluate"))  # torch is there before the clock runs
    stopping.start()
    began = time.monotonic()
    reply = ask(client, at=context({"slot": "Trust_1", STOP_FILE: str(tmp_path / "stop")}, run_id=78))
    stopping.join()
    assert time.monotonic() - began < 15  # all of it takes 20 s
    assert reply.error.code == ABORTED
    report = get_report(reply)
    assert (report.aborted, report.failure, report.made or 0) == (True, None, len(report.items))
    assert set(labels(report)) == {"tick"}
    assert ask(client, at=context({"slot": "Trust_1", STOP_FILE: str(tmp_path / "stop")}, run_id=78)).error.code == 1002


def test_an_app_finds_its_data_by_itself_and_leaves_no_trace(trust: Callable[..., Path], tmp_path: Path) -> None:
    """Variables for an app's own FLIP() are the site's while its task runs, and are gone for whoever comes next."""
    seen = (
        "import os; site.log('there', float('Trust_1' in os.environ['DEV_DATAFRAME'] + os.environ['FLIP_STATE_DIR']))"
    )
    before = _environment()
    reply = ask(client_app(trust(in_train=seen)))
    assert next(item["result"] for item in get_report(reply).items if item.get("label") == "there") == 1.0
    assert _environment() == before


def _environment() -> dict[str, str]:
    """This process's environment without what torch notes there for itself when it is first used."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR_")}


def test_the_server_may_ask_who_a_node_is(trust: Callable[..., Path]) -> None:
    """In a simulation only the client knows its partition; the slot is asked for before the first round."""
    reply = ask(
        client_app(trust()),
        task_message(QUERY_SLOT, note=None),
        context({"partition-id": 1, "num-partitions": 2}, {"flip-slots": "Trust_4, Trust_7"}),
    )
    assert reply_slot(reply) == "Trust_7"


@pytest.mark.parametrize(
    ("node", "run", "told", "slot"),
    [
        ({"slot": "Trust_3", "partition-id": 0}, {}, "Trust_9", "Trust_3"),
        ({"partition-id": 1}, {"flip-slots": "Trust_5,Trust_6"}, "Trust_9", "Trust_6"),
        ({"partition-id": 1}, {"flip-slots": ""}, "", "Trust_2"),
        ({}, {}, "Trust_9", "Trust_9"),
    ],
)
def test_the_claim_follows_the_documented_order(
    node: dict[str, Any], run: dict[str, Any], told: str, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node config first, then the variable of older networks, then the partition, then what the server says."""
    monkeypatch.delenv("SUPERNODE_NAME", raising=False)
    assert claimed_slot(node, run, told) == slot
    monkeypatch.setenv("SUPERNODE_NAME", "Trust_8")
    assert claimed_slot(node, run, told) == (node.get("slot") or "Trust_8")


@pytest.mark.parametrize(
    ("node", "run", "words"),
    [
        ({}, {}, "nothing names it"),
        ({"slot": "T" * 129}, {}, "1 to 128 printable characters"),
        ({"slot": "Trust\n1"}, {}, "1 to 128 printable characters"),
        ({"partition-id": 2}, {"flip-slots": "Trust_1,Trust_2"}, "partition 2, and flip-slots names 2 slots"),
        ({"partition-id": "x"}, {}, "partition-id is 'x'"),
    ],
)
def test_a_node_that_is_nobody_is_told_so(
    node: dict[str, Any], run: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a usable slot there are neither settings nor data; the error names what was looked at."""
    monkeypatch.delenv("SUPERNODE_NAME", raising=False)
    with pytest.raises(FlipError, match=words) as raised:
        claimed_slot(node, run)
    assert raised.value.code == "E0551"


def test_the_run_config_may_name_the_apps_folder(trust: Callable[..., Path], tmp_path: Path) -> None:
    """flip-job-dir wins over the folder that the ClientApp was made for."""
    app = trust()
    reply = ask(client_app(tmp_path / "nowhere"), at=context(run={"flip-job-dir": str(app)}))
    assert not reply.has_error()


def test_a_failure_of_a_long_run_fits_into_an_error(trust: Callable[..., Path]) -> None:
    """An error's reason stays below 256,000 bytes however much was logged; what was left out is counted."""
    many = "for step in range(5000): site.log('x', 1.0, x_value=step, x_label='Step')\n    raise ValueError('late')"
    reply = ask(client_app(trust(in_train=many)))
    assert len(str(reply.error.reason)) <= 256_000
    report = get_report(reply)
    assert report.items[-1]["x_value"] == 4999.0
    (left_out,) = report.refused.values()
    assert left_out + len(report.items) == report.made == 5000
    assert report.missing == 0
    assert json.loads(str(reply.error.reason))["dropped"] == left_out


IMAGES = """
def _data(site):
    studies = site.images(site.cohort())
    x = torch.tensor([[1.0, 0.0, 0.0] for _ in studies], dtype=torch.float32)
    return x, torch.zeros(len(x))
"""


def test_a_sites_images_outlive_a_process_and_go_when_it_is_told(
    trust: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process a message: each leaves the images to the next one, and to a keeper; a word that the run goes on makes
    the lease new; a word that it is over removes all and sends the keeper away. A process a site needs no keeper.
    """
    kept: list[tuple[str, str, float]] = []
    monkeypatch.setattr(
        "flip_fl.flower.client.start_keeper", lambda index, slot, lease_s: kept.append((index.job, slot, lease_s))
    )
    app = trust(data=IMAGES, IMAGING=True)
    with imaging(tmp_path, FLIP_STATE_DIR=str(state_of(tmp_path))) as service:
        shutil.copy(tmp_path / "flip.env", tmp_path / "trusts" / "Trust_1.env")
        rows = {"accession_id": ["A1", "A2"], "person_id": ["P1", "P2"]}
        monkeypatch.setattr(TrustSource, "dataframe", lambda self, project, query: pd.DataFrame(rows))
        assert not ask(client_app(app), task_message()).has_error()
        assert kept == [("flower-77", "Trust_1", LEASE_S)]
        # The folder that uploads are put into is the net's, and stays.
        lying = sorted(path.name for path in service.root.iterdir())
        assert lying == ["A1", "A2", "upload"]
        folder = state_of(tmp_path) / "images"
        index = ImageIndex(folder, service.root, "flower-77", watch=job_lock(folder, "flower-77"))
        first = index.used_at()
        assert not ask(client_app(app), task_message(QUERY_STAY)).has_error()
        again = index.used_at()
        assert first is not None
        assert again is not None
        assert again > first
        assert not ask(client_app(app), task_message(QUERY_END)).has_error()
        assert index.used_at() is None
        assert [path.name for path in service.root.iterdir()] == ["upload"]
        assert service.attempts == {"A1": 1, "A2": 1}
        kept.clear()
        long_lived = context({"slot": "Trust_1", STOP_FILE: str(tmp_path / "stop")})
        assert not ask(client_app(app), task_message(), at=long_lived).has_error()
        assert kept == []
