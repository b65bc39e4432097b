"""``flip-fl check`` and ``flip-fl new`` as people and programs meet them: words, JSON, exit codes, nothing written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import TypeAdapter

from flip_fl.commands.answers import ErrorEnvelope
from flip_fl.commands.app_answers import AppMade, CheckAnswer
from tests.support.app import CONFIG, TRAINER, write_app
from tests.support.cli import flip_fl

EXECUTOR = "from nvflare.apis.executor import Executor\n\n\nclass FLIP_TRAINER(Executor):\n    def execute(self): ...\n"


def tree(folder: Path) -> dict[str, str]:
    """The digest of every file below ``folder``."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_good_app_is_told_in_words_and_in_json_and_nothing_is_written(tmp_path: Path) -> None:
    """The same facts in both, exit code 0, and the app's folder stays as it was."""
    app = write_app(tmp_path / "app", config={**CONFIG, "METRICS": ["loss", "auc"]})
    before = tree(tmp_path)
    text = flip_fl("check", "app", "--sites", "2", cwd=tmp_path)
    answer = TypeAdapter(CheckAnswer).validate_python(
        flip_fl("check", "app", "--json", cwd=tmp_path).document()["data"]
    )
    assert (text.exit_code, text.stderr) == (0, "")
    lines = text.stdout.splitlines()
    assert lines[0] == "app is a neutral app (trainer.py defines train())"
    assert lines[-1] == "nothing to mend"
    assert (answer.form, answer.job_type) == ("neutral", "standard")
    assert all(run.how in text.stdout for run in answer.runs)
    assert answer.leaves.declared == ["loss", "auc"]
    assert answer.leaves.named == ["train_loss", "loss", "auc"]
    assert (answer.leaves.arrays, answer.leaves.size_bytes) == (2, 12)
    assert f"  metrics   {answer.leaves.metrics}" in lines
    assert answer.findings == []
    assert tree(tmp_path) == before
    assert app.is_dir()


def test_an_app_without_declared_metrics_is_told_what_may_leave(tmp_path: Path) -> None:
    """Nobody learns only from a trust's refusal that METRICS is the way to say which numbers may leave."""
    write_app(tmp_path / "app")
    told = flip_fl("check", "app", "--static", cwd=tmp_path).stdout
    assert "any finite number under a plain name" in told
    assert "METRICS would limit it" in told


def test_an_app_that_cannot_run_ends_with_1_and_all_its_findings(tmp_path: Path) -> None:
    """Each finding has code, place, why and fix; the verdict counts them and names the first; --json has the answer."""
    write_app(tmp_path / "app", trainer=TRAINER + "import no_such_part\n", config={**CONFIG, "GLOBAL_ROUNDS": 2000})
    text = flip_fl("check", "app", cwd=tmp_path)
    assert text.exit_code == 1
    lines = text.stdout.splitlines()
    at = lines.index("fail[FLIP-E0303]: GLOBAL_ROUNDS is 2000; it must be a whole number from 1 to 1000")
    assert lines[at + 1] == "  --> app/config.json:1:61"
    assert lines[at + 3].startswith("  fix: set 1..1000")
    assert any(line.startswith("fail[FLIP-E0216]: trainer.py imports no_such_part") for line in lines)
    assert text.stderr.splitlines()[0] == "error[FLIP-E0218]: app cannot run: 2 things to mend"
    document = flip_fl("check", "app", "--json", cwd=tmp_path).document()
    answer = TypeAdapter(CheckAnswer).validate_python(document.pop("data"))
    TypeAdapter(ErrorEnvelope).validate_python(document)
    assert document["exit_code"] == 1
    assert [finding.code for finding in answer.findings] == ["FLIP-E0303", "FLIP-E0216"]


def test_an_executor_style_app_is_shown_line_by_line(tmp_path: Path) -> None:
    """The way out is on the screen: each line as it reads, and what stands in its place."""
    write_app(tmp_path / "app", trainer=EXECUTOR)
    done = flip_fl("check", "app", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.exit_code == 1
    at = lines.index("  trainer.py:5  def execute(self): ...")
    assert lines[at + 1] == "      -> def train(model, site, config) -> dict: …"
    assert "leaves a trust" not in lines
    assert "  fix: change the 3 lines listed; flip-fl new writes an app to put them into" in done.stderr.splitlines()


def test_an_engine_that_an_app_does_not_run_on_is_a_failure_only_when_asked_for(tmp_path: Path) -> None:
    """A script is a good app; for Flower it is not."""
    write_app(tmp_path / "app", trainer="import nvflare.client as flare\n\nflare.init()\n")
    assert flip_fl("check", "app", "--static", cwd=tmp_path).exit_code == 0
    done = flip_fl("check", "app", "--static", "--engine", "flower", cwd=tmp_path)
    assert done.exit_code == 1
    assert done.stderr.startswith("error[FLIP-E0218]: app cannot run on flower: one thing to mend\n")


def test_no_app_and_no_engine_are_wrong_usage(tmp_path: Path) -> None:
    """A wrong folder names the app below it, with this command; a wrong engine names the right one."""
    write_app(tmp_path / "one" / "app")
    done = flip_fl("check", "one", cwd=tmp_path)
    assert (done.exit_code, done.stderr.splitlines()[2]) == (2, "  fix: flip-fl check one/app")
    done = flip_fl("check", "one/app", "--engine", "flowr", cwd=tmp_path)
    assert (done.exit_code, done.stderr.splitlines()[2]) == (2, "  fix: did you mean flower?")


def test_a_new_app_is_written_once(tmp_path: Path) -> None:
    """The answer lists what was written and the one command to run it; a second time nothing is touched."""
    answer = TypeAdapter(AppMade).validate_python(
        flip_fl("new", "scans", "--job-type", "fed_opt", "--imaging", "--json", cwd=tmp_path).document()["data"]
    )
    assert (answer.job_type, answer.imaging, answer.run) == ("fed_opt", True, "flip-fl run scans")
    before = tree(tmp_path)
    assert sorted(before) == [f"scans/{name}" for name in answer.files]
    again = flip_fl("new", "scans", cwd=tmp_path)
    assert (again.exit_code, again.stderr.splitlines()[0]) == (5, "error[FLIP-E0219]: scans is there already")
    assert tree(tmp_path) == before


def test_a_job_type_or_a_name_that_cannot_be_is_refused_with_a_right_one(tmp_path: Path) -> None:
    """A slip of the pen is answered with what was meant, and nothing is written."""
    done = flip_fl("new", "app", "--job-type", "standart", cwd=tmp_path)
    assert (done.exit_code, done.stderr.splitlines()[1]) == (2, "  fix: did you mean standard?")
    done = flip_fl("new", "my app", cwd=tmp_path)
    assert (done.exit_code, done.stderr.splitlines()[0].partition(":")[0]) == (2, "error[FLIP-E0102]")
    assert list(tmp_path.iterdir()) == []


def test_secure_aggregation_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    """Before anything starts: on NVFLARE, and for two sites; each error says why and what to do instead."""
    write_app(tmp_path / "app", config={"job_type": "standard", "IMAGING": False, "SECURE_AGGREGATION": True})
    done = flip_fl("check", "app", "--static", cwd=tmp_path)
    assert done.exit_code == 0
    assert "masked, 8 bytes a number: the FL server has their mean and no site's own" in done.stdout
    assert "SECURE_AGGREGATION is true, and nvflare has none that FLIP can use" in done.stdout
    done = flip_fl("check", "app", "--static", "--engine", "nvflare", cwd=tmp_path)
    assert done.exit_code == 1
    assert "fail[FLIP-E0221]" in done.stdout
    done = flip_fl("run", "app", "--engine", "nvflare", "--sites", "3", cwd=tmp_path)
    assert done.exit_code == 2
    assert "error[FLIP-E0221]: SECURE_AGGREGATION is true, and nvflare has none that FLIP can use\n" in done.stderr
    assert "  fix: run it with --engine flower" in done.stderr
    done = flip_fl("run", "app", "--engine", "flower", "--sites", "2", cwd=tmp_path)
    assert done.exit_code == 2
    words = "secure aggregation needs at least 3 sites, 2 are chosen (Trust_1, Trust_2)"
    assert f"error[FLIP-E0515]: {words}\n" in done.stderr
    assert "  why: of two sites each would learn the other's update" in done.stderr
    done = flip_fl("run", "app", "--engine", "flower", "--sites", "3", "--privacy-curve", "8", cwd=tmp_path)
    assert done.exit_code == 2
    assert "nobody knows the norm of a site's update" in done.stderr
