"""A process that speaks to its site: what it may say wrongly, and how it ends, with a host that misbehaves."""

from __future__ import annotations

import json
import os
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError

from flip_fl.app import script_process
from flip_fl.app.forks import ForkServer
from flip_fl.app.forms import Form, FormKind
from flip_fl.app.isolation import forking
from flip_fl.app.isolation.rules import Level
from flip_fl.app.runner import Result, Session, run_task
from flip_fl.app.script import Script
from flip_fl.app.script_data import AskedSource, told_error
from flip_fl.app.script_values import flattened, unwrapped
from flip_fl.app.site import SiteSpec
from flip_fl.errors import FlipError
from flip_fl.http import HttpConnectionError, HttpStatusError, status_error
from flip_fl.values import ResourceType, Task
from flip_fl.wire import DETAIL_COHORT_TOO_SMALL, DETAIL_SQL_REFUSED, SqlReason
from tests.support.app import TableSource, notes_of, write_app

ARRAYS = {"w": np.zeros(2, dtype=np.float32)}
SPEC = SiteSpec(slot="Trust_1", round=2, total_rounds=3)
HEAD = """
import os, socket, sys, time
from flip_fl.app.frames import read_frame, write_frame
from flip_fl.app.isolation.channel import Channel
from flip_fl.app.isolation.gate import pass_gate

def main(argv):
    channel = socket.socket(fileno=int(argv[0]))
    gate = Channel(socket.socket(fileno=int(argv[1])))
    assert pass_gate(gate) is not None
    gate.close()
    def result(task, **facts):
        arrays = {name: array + 1 for name, array in task[1].items()}
        write_frame(channel, {"kind": "result", "number": task[0]["number"], "params_type": "FULL", **facts}, arrays)
"""

Run = Callable[..., Result]


class Host:
    """A site whose script's host is the given code."""

    def __init__(self, app: Path, module: str) -> None:
        self.stopped = False
        self.module = module
        self.session = Session(app, TableSource(), lambda batch: None, lambda: self.stopped)
        self.script = self.made()

    def made(self, *, asks: bool = False, environment: Mapping[str, str] | None = None) -> Script:
        """Without walls: what is protected here is what is said, and hosts of these tests write files."""
        form = Form(FormKind.CLIENT_API, self.session.app_dir, "trainer.py")
        return Script(form, self.module, "a-job", asks=asks, level=Level.PROCESS, environment=environment)

    def run(self, spec: SiteSpec = SPEC) -> Result:
        return run_task(Task.TRAIN, ARRAYS, spec, self.session, self.script)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose modules the server of processes finds."""
    folder = tmp_path_factory.mktemp("hosts")
    server = ForkServer(forking.MODULES, {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)})
    forking.servers.use(server)
    yield folder
    server.close()


@pytest.fixture
def host(tmp_path: Path, hosts: Path) -> Iterator[Callable[[str], Host]]:
    """Makes a site whose script runs this code in the place of the house's own host."""
    opened: list[Host] = []

    def make(code: str) -> Host:
        module = f"misbehaving_{len(list(hosts.glob('*.py')))}"
        (hosts / f"{module}.py").write_text(HEAD + textwrap.indent(textwrap.dedent(code), "    "))
        opened.append(Host(write_app(tmp_path / "app", config={"job_type": "standard", "GLOBAL_ROUNDS": 3}), module))
        return opened[-1]

    yield make
    for each in opened:
        each.script.close()


def failure_of(result: Result) -> str:
    assert result.failure is not None
    assert result.failure.slot == "Trust_1"
    return result.failure.traceback


def test_an_answer_with_nothing_else_is_a_result(host: Callable[[str], Host]) -> None:
    """The least that a host says: arrays; one example stands for what is not said."""
    result = host("result(read_frame(channel, lambda: 1 << 30)); time.sleep(60)").run()
    assert result.ok
    assert (result.num_examples, result.params_type) == (1, "FULL")
    np.testing.assert_array_equal(result.arrays["w"], ARRAYS["w"] + 1)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("channel.sendall(b'GET / HTTP/1.1'); time.sleep(60)", "cannot be read"),
        ("import struct; channel.sendall(b'FLS1' + struct.pack('!I', 1 << 31)); time.sleep(60)", "larger than 8 MiB"),
        (
            "import numpy as np\nwrite_frame(channel, {'kind': 'result'}, {'w': np.zeros(1 << 27)}); time.sleep(60)",
            "larger than",
        ),
        ("channel.sendall(b'FLS1')", "ends in the middle"),
        ("sys.exit(0)", "exit code 0"),
        ("sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("channel.close(); time.sleep(600)", "closed its channel"),
        ("if os.fork() == 0: time.sleep(600)\nos._exit(7)", "exit code 7"),
        ("raise ValueError('CANARY7Q')", "exit code 1"),
        ("write_frame(channel, {'kind': 'failed', 'type': 7})", "cannot be read"),
        ("result(read_frame(channel, lambda: 1 << 30), params_type='SOME')", "sent no params"),
        ("result(read_frame(channel, lambda: 1 << 30), metrics={'num_examples': -1})", "num_examples"),
    ],
)
def test_whatever_a_host_does_wrong_is_a_failure_soon(code: str, said: str, host: Callable[[str], Host]) -> None:
    """Malformed, oversized, dead, silent after its end: a failure within 3 s of it, and nothing of its text."""
    site = host(code)
    begun = time.monotonic()
    text = failure_of(site.run())
    assert said in text
    assert "CANARY7Q" not in text
    assert time.monotonic() - begun < 50  # most of it is the interpreter's start; the host stays for a minute
    assert site.script._process is None


def test_a_large_model_comes_back(host: Callable[[str], Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """What may come is measured by what was sent: a model is never too large for its own script."""
    monkeypatch.setattr(script_process, "SPARE_BYTES", 64)
    site = host("result(read_frame(channel, lambda: 1 << 30)); time.sleep(60)")
    large = {"w": np.zeros(1 << 16, dtype=np.float32)}
    result = run_task(Task.TRAIN, large, SPEC, site.session, site.script)
    assert result.ok, result.failure
    assert result.arrays["w"].nbytes == 1 << 18


def test_a_host_that_never_answers_ends_with_the_run(host: Callable[[str], Host]) -> None:
    """It may be at work: only a stop, or the server's patience, ends it; then at once."""

    site = host("time.sleep(600)")
    threading.Timer(3.0, lambda: setattr(site, "stopped", True)).start()
    begun = time.monotonic()
    assert site.run().aborted
    assert 2.5 < time.monotonic() - begun < 60


def test_what_is_no_answer_to_this_task_is_passed_over(host: Callable[[str], Host]) -> None:
    """Unknown kinds, results of other tasks, logs of no form, notes in other words than the house's: no failure."""
    site = host("""
        task = read_frame(channel, lambda: 1 << 30)
        for head in ({"kind": "dance"}, {"kind": "result", "number": 99}, {}, {"kind": "log", "items": "x"},
                     {"kind": "log", "number": [], "items": [["loss", None, 1], 7, [], ["auc@epoch", 0.5, 3]]},
                     {"kind": "note", "text": "patient Smith"}):
            write_frame(channel, head)
        result(task, metrics=[1], steps="many", printed="much")
        write_frame(channel, {"kind": "waiting"})
        time.sleep(60)
    """)
    result = site.run()
    assert result.ok, result.failure
    assert [(event["label"], event["x_value"]) for event in result.events if event["kind"] == "metric"] == [
        ("auc", 3.0)
    ]
    assert not any("Smith" in note for note in notes_of(result))


def test_what_is_said_after_the_answer_still_counts(host: Callable[[str], Host]) -> None:
    """A number logged between two tasks stands under the one that it was logged in."""
    site = host("""
        for _ in range(2):
            task = read_frame(channel, lambda: 1 << 30)
            result(task)
            write_frame(channel, {"kind": "log", "number": task[0]["number"], "items": [["late", 1.0, None]]})
            write_frame(channel, {"kind": "waiting"})
            write_frame(channel, {"kind": "log", "number": task[0]["number"], "items": [["later", 1.0, None]]})
        time.sleep(60)
    """)
    rounds = [
        [(event["label"], event["global_round"]) for event in site.run(spec).events if event["kind"] == "metric"]
        for spec in (SPEC, SiteSpec(slot="Trust_1", round=3, total_rounds=3))
    ]
    assert rounds == [[("late", 2)], [("later", 2), ("late", 3)]]


def test_the_end_is_told_and_what_does_not_end_is_ended(host: Callable[[str], Host], tmp_path: Path) -> None:
    """With the job a host hears that it is over, and may do some last thing; one that stays is killed."""
    site = host(f"""
        result(read_frame(channel, lambda: 1 << 30))
        write_frame(channel, {{"kind": "waiting"}})
        if read_frame(channel, lambda: 1 << 30)[0]["kind"] == "end":
            open({str(tmp_path / "told")!r}, "w").close()
        time.sleep(600)
    """)
    assert site.run().ok
    process = site.script._process
    assert process is not None
    begun = time.monotonic()
    site.script.close()
    assert (tmp_path / "told").exists()
    assert process._process.ended()
    assert time.monotonic() - begun < 60


class Trust(TableSource):
    """A trust whose services refuse in every way."""

    def resources(self, project_id: str, accession_id: str, types: Sequence[ResourceType]) -> dict[ResourceType, Path]:
        if accession_id == "away":
            raise HttpConnectionError("POST", "/download/images/{net}", ConnectionError("CANARY7Q"))
        if accession_id == "odd":
            raise FlipError("E0903", problem="it is no plain name")
        if accession_id == "bug":
            raise KeyError("CANARY7Q")
        return super().resources(project_id, accession_id, types)


ASKS = """
    import itertools, queue, threading, requests
    from flip_fl.app.script_data import AskedSource
    from flip_fl.core import beside
    from flip_fl import FLIP
    task = read_frame(channel, lambda: 1 << 30)
    def ask(asked, **facts):
        write_frame(channel, {"kind": "ask", "ask": 1, "asked": asked, **facts})
        return read_frame(channel, lambda: 1 << 30)
    beside.give(AskedSource(ask))
    flip, said = FLIP(), []
    frame = flip.get_dataframe("project", "SELECT 1")
    said += [str(frame.dtypes["value"]), len(frame), str(flip.get_by_accession_number("project", "here"))]
    for name in ("lost", "away", "odd", "bug"):
        try:
            flip.get_by_accession_number("project", name)
        except Exception as error:
            said.append(f"{type(error).__name__} {isinstance(error, requests.RequestException)} {error}")
    try:
        flip.get_dataframe("another", "SELECT 1")
    except ValueError as error:
        said.append(str(error))
    try:
        flip.send_metrics("Trust_1", "id", "loss", 0.5, 1)
    except Exception as error:
        said.append(type(error).__name__)
    open(os.environ["SAID"], "w").write("\\n".join(map(str, said)))
    result(task)
    time.sleep(60)
"""


def test_a_script_asks_its_site_for_the_trust_s_data(host: Callable[[str], Host], tmp_path: Path) -> None:
    """Without a key: the cohort with its types, a study's folder, each refusal as it is without a site in between.

    Only for the job's own project, and nothing that is a server's.
    """
    site = host(ASKS)
    site.session.source = Trust(studies={"here": tmp_path / "study"})
    site.script = site.made(asks=True, environment={"SAID": str(tmp_path / "said")})
    assert site.run(replace(SPEC, project_id="project")).ok
    said = (tmp_path / "said").read_text().splitlines()
    assert said == [
        "float64",
        "2",
        str(tmp_path / "study"),
        "HttpStatusError True POST /download/images/{net}: HTTP 404",
        "HttpConnectionError True POST /download/images/{net}: no answer (ConnectionError)",
        said[5],
        "RuntimeError False the site cannot give it (KeyError)",
        "a script may only ask for data of its own job's project",
        "FlipError",
    ]
    assert said[5].startswith("FlipError False")
    assert "CANARY7Q" not in "".join(said)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            status_error("POST", "/cohort/dataframe", 403, DETAIL_COHORT_TOO_SMALL),
            f"POST /cohort/dataframe: HTTP 403: {DETAIL_COHORT_TOO_SMALL}",
        ),
        (
            status_error("POST", "/cohort/dataframe", 400, DETAIL_SQL_REFUSED.format(SqlReason.NO_SELECT)),
            "POST /cohort/dataframe: HTTP 400: The SQL is refused: only a SELECT may be sent.",
        ),
        (status_error("POST", "/cohort/dataframe", 400, "CANARY7Q"), "POST /cohort/dataframe: HTTP 400"),
        (
            HttpConnectionError("POST", "/x", NewConnectionError(HTTPConnection("a"), "CANARY7Q")),
            "POST /x: no answer (NewConnectionError)",
        ),
        (HttpConnectionError("POST", "/x", ValueError("CANARY7Q")), "POST /x: no answer (ValueError)"),
    ],
)
def test_a_services_refusal_reads_alike_behind_a_site(error: HttpStatusError | HttpConnectionError, text: str) -> None:
    """A researcher whose SQL was refused is told why, also where a site asks the service in the app's place; a service
    that is away is told from one that answers nonsense; nothing else that was answered passes by that way.
    """
    with pytest.raises(type(error)) as caught:
        AskedSource.raised(json.loads(json.dumps(told_error(error))))
    assert str(error) == str(caught.value) == text
    if isinstance(error, HttpConnectionError):
        assert caught.value.answered == error.answered  # type: ignore[attr-defined]
    else:
        assert (caught.value.status_code, caught.value.detail) == (error.status_code, error.detail)  # type: ignore[attr-defined]


def test_a_script_that_reads_files_gets_no_answer_from_its_site(host: Callable[[str], Host]) -> None:
    """In development the site answers nothing: its data lies in files that the script's own settings name."""
    site = host("""
        task = read_frame(channel, lambda: 1 << 30)
        write_frame(channel, {"kind": "ask", "ask": 1, "asked": "dataframe", "project": "", "query": ""})
        channel.settimeout(1.0)
        try:
            read_frame(channel, lambda: 1 << 30)
        except TimeoutError:
            channel.settimeout(None)
            result(task)
        time.sleep(60)
    """)
    assert site.run().ok


def test_the_forms_of_returned_metrics() -> None:
    """One name around all of them, a model's or a task's, is taken away; groups become names with a stroke."""
    spec = SiteSpec(slot="Trust_1", round=1, total_rounds=1, model="wide")
    assert unwrapped({"wide": {"dice": 0.5}}, spec) == {"dice": 0.5}
    assert unwrapped({"SRV_wide": {"dice": 0.5}, "SRV_other": {}}, spec) == {"dice": 0.5}
    assert unwrapped({"metrics_validate_ae": {"loss": 1.0}}, SPEC) == {"loss": 1.0}
    assert unwrapped({"roc": {"fpr": [0.0]}}, spec) == {"roc": {"fpr": [0.0]}}
    assert flattened({"f1": {"oedema": 0.5, "x": {"y": 1}}, "loss": 2}) == {"f1/oedema": 0.5, "f1/x/y": 1, "loss": 2}
