"""``flip-fl run`` as a person runs it, and the examples of every command's help, run as they stand."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from pydantic import TypeAdapter

from flip_fl.commands.answers import RunAnswer
from flip_fl.commands.job_watch import MODEL
from flip_fl.dashboard.story import Story
from flip_fl.settings import DevSettings, load, write_settings_file
from flip_fl.values import ModelStatus
from tests.contract.test_cli_json import checked
from tests.support.cli import SCRIPT, Finished, all_commands, environment, flip_fl, installed, served_hub
from tests.support.small_apps import write_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.xdist_group("cli_run")
def test_a_run_tells_its_progress_on_stderr_and_its_answer_on_stdout(tmp_path: Path) -> None:
    """Protects pipes and scripts: one JSON document or one table on stdout, lines of progress beside it."""
    # Long enough to be seen by whoever looks three times a second at what a hub is told once a second.
    write_app(tmp_path / "app", GLOBAL_ROUNDS=2, in_train="import time; time.sleep(1)")
    text = installed("run", "app", "--engine", "flower", "--out", "text", cwd=tmp_path, timeout_s=300)
    assert text.exit_code == 0, text.stderr
    assert "\r" not in text.stderr
    assert "\x1b" not in text.stderr + text.stdout
    assert [line for line in text.stderr.splitlines() if line.startswith(("train, round 2/2", "validate, round 2/2"))]
    assert "status   Finished - results ready" in text.stdout.splitlines()
    assert f"report   {tmp_path / 'text' / 'report.html'}" in text.stdout.splitlines()
    story = Story.model_validate_json((tmp_path / "text" / "story.json").read_bytes())
    assert story.status is ModelStatus.RESULTS_UPLOADED
    assert f"bundle   {tmp_path / 'text' / 'results' / f'{story.model.id}.zip'}" in text.stdout.splitlines()
    again = installed("results", "verify", "text", cwd=tmp_path)
    assert again.exit_code == 0
    assert "as the run recorded it" in again.stdout
    fetched = installed("results", "get", story.model.id[:8], "--json", cwd=_under_runs(tmp_path / "text"))
    assert (fetched.exit_code, fetched.document()["data"]["model_id"]) == (0, story.model.id)


def _under_runs(folder: Path) -> Path:
    """A folder in which ``folder`` is one of the runs."""
    here = folder.parent / "here"
    (here / "runs").mkdir(parents=True)
    shutil.copytree(folder, here / "runs" / "copy")
    return here


@pytest.mark.xdist_group("cli_run")
def test_a_run_that_fails_ends_with_1_and_its_reason(tmp_path: Path) -> None:
    """Protects from a failed run that looks well to the shell: exit code, reason and report."""
    write_app(tmp_path / "app", GLOBAL_ROUNDS=2, in_train="raise RuntimeError('no such backend')")
    done = installed("run", "app", "--engine", "flower", "--out", "run", "--json", cwd=tmp_path, timeout_s=300)
    document = done.document()
    assert (done.exit_code, document["code"]) == (1, "FLIP-E0507")
    assert "no such backend" in document["message"]
    assert TypeAdapter(RunAnswer).validate_python(document["data"]).status == "ERROR"
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.xdist_group("cli_run")
def test_ctrl_c_stops_the_run_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Protects the machine and the hub: 130, the story says STOPPED, and no process of the run is left."""
    write_app(tmp_path / "app", GLOBAL_ROUNDS=1000)
    child = subprocess.Popen(
        [str(SCRIPT), "run", "app", "--engine", "flower", "--out", "run"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("train, round "):
                break
        family = psutil.Process(child.pid).children(recursive=True)
        assert family
        # As a terminal does: the signal reaches every process of the foreground group.
        os.killpg(child.pid, signal.SIGINT)
        _, errors = child.communicate(timeout=120)
    finally:
        child.terminate()
    assert child.returncode == 130
    assert "stopping (Ctrl-C)" in errors
    assert "error[FLIP-E0103]: stopped by Ctrl-C" in errors
    assert "Traceback" not in errors
    story = Story.model_validate_json((tmp_path / "run" / "story.json").read_bytes())
    assert story.status is ModelStatus.STOPPED
    assert [process for process in family if process.is_running()] == []


# The kit at that point is one for fl.example.org, and the check says so; nobody answers there; no hub has a model of an
# example's id, nor a key of its fingerprint, by then two models have the example's name, and the token is a viewer's.
EXPECTED = {
    "flip-fl kit verify kits/server --host localhost": 3,
    "flip-fl kit verify kits/Trust_1 --connect": 3,
    f"flip-fl job watch {MODEL} --run": 2,
    "flip-fl job ": 3,
    "flip-fl doctor --federation": 4,
    "flip-fl hub model delete ": 2,
    "flip-fl hub key revoke ": 2,
}


def _expected(example: str) -> int:
    return next((code for words, code in EXPECTED.items() if example.startswith(words)), 0)


def _examples() -> list[str]:
    """Every example of every command once, in the order in which they build on one another."""
    seen = dict.fromkeys(example for _, command in all_commands() for example in getattr(command, "examples", ()))
    hub = ("hub init", "hub serve", "hub sweep", "hub trust add", "hub")
    trust = ("trust init --dir trust", "trust load --settings trust/trust.env --cohort", "trust load", "trust")
    order = ("run", *hub, *trust, "results", "sync", "doctor", "explain")
    # What is compared must have been made.
    ranks = {"flip-fl doctor --federation": len(order) + 1}
    ranks |= {f"flip-fl {words}": rank for rank, words in enumerate(order)}
    return sorted(seen, key=lambda example: _rank(example, ranks))


def _rank(example: str, ranks: dict[str, int]) -> int:
    """Its place; commands that build on nothing of these keep their own order, last."""
    return next((rank for words, rank in ranks.items() if example.startswith(words)), len(ranks) - 1)


@pytest.mark.timeout(1800)
@pytest.mark.xdist_group("cli_run")
def test_every_example_runs_as_it_stands(tmp_path: Path) -> None:
    """Protects the first line that anybody copies: each example of each help does what it says.

    The first of each command is started as at a shell, its others where everything is loaded already. What the run as
    JSON says is looked at, too.
    """
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "state").mkdir()
    federation = "net: oncology\nengine: nvflare\nserver:\n  host: fl.example.org\nslots: 2\n"
    (tmp_path / "federation.yaml").write_text(federation, encoding="utf-8")
    _write_trust(tmp_path)
    served = tmp_path / "served"
    served.mkdir()
    with served_hub(served) as hub:
        server = hub.server_env(FLIP_STATE_DIR=str(tmp_path / "state"))
        write_settings_file(tmp_path / "local" / "flip.env", server)
        started: set[str] = set()
        measured = False
        for example in _examples():
            words = shlex.split(example)[1:]
            command = _command(example)
            if command == "flip-fl results get" and command not in started:
                _keep_results(tmp_path)
            if words[:2] in (["hub", "serve"], ["trust", "serve"]):
                # A fixed port may be taken on a machine that runs tests.
                _serve_for_a_moment([*words, "--port", "0"], tmp_path)
            else:
                run = flip_fl if command in started else installed
                done = run(*words, cwd=tmp_path, timeout_s=300)
                assert done.exit_code == _expected(example), f"{example}\n{done.stdout}\n{done.stderr}"
                if command == "flip-fl run" and "--json" in words:
                    _check_measurements(done)
                    measured = True
            started.add(command)
    assert measured


def _check_measurements(done: Finished) -> None:
    """A run as JSON is for programs: one document, with every measurement of each site that took part."""
    answer = checked(done.document(), RunAnswer)
    assert (done.stderr, answer.status) == ("", "RESULTS_UPLOADED")
    assert [(row.slot, row.round) for row in answer.rounds] == [("Trust_1", 1), ("Trust_3", 1)]
    assert all(row.metrics["loss"] is not None for row in answer.rounds)
    assert answer.results is not None
    assert answer.results.startswith("s3://")


def _command(example: str) -> str:
    """The command of an example with its groups."""
    return max((path for path, _ in all_commands() if f"{example} ".startswith(f"{path} ")), key=len)


def _write_trust(folder: Path) -> None:
    """What the examples of ``flip-fl trust`` load: a cohort of twenty and a folder of studies."""
    rows = "".join(f"{number},{number:04d}\n" for number in range(1, 21))
    (folder / "cohort.csv").write_text(f"person_id,accession_id\n{rows}", encoding="utf-8")
    (folder / "studies" / "0001" / "NIFTI").mkdir(parents=True)
    (folder / "studies" / "0001" / "NIFTI" / "input_1.nii.gz").write_bytes(b"pixels")


def _keep_results(folder: Path) -> None:
    """What the examples of ``flip-fl results`` name: the demo (one of the runs will do), its bundle, a site's data."""
    demo = (folder / "runs" / "short").rename(folder / "runs" / "demo")
    (bundle,) = (demo / "results").glob("*.zip")
    shutil.copy(bundle, folder / "model.zip")
    (settings,) = demo.glob("state/*/Trust_1.env")
    cohort = load(DevSettings, settings).dataframe
    assert cohort is not None
    shutil.copy(str(cohort).replace("/runs/short/", "/runs/demo/"), folder / "cohort.csv")


def _serve_for_a_moment(words: list[str], cwd: Path) -> None:
    child = subprocess.Popen([str(SCRIPT), *words], cwd=cwd, env=environment(), stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert "answers at http://127.0.0.1:" in child.stderr.readline()
    child.terminate()
    child.communicate(timeout=30)
    assert child.returncode == 0
