"""What is said of an app before it runs: its form, what it runs as, all that it lacks, what it would report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flip_fl.app.executor_changes import changes_of
from flip_fl.app.inspection import Inspection, inspect_app
from tests.support.app import CONFIG, TRAINER, write_app

EXECUTOR = """
from flip import FLIP
from nvflare.apis.executor import Executor
from nvflare.apis.dxo import from_shareable


class FLIP_TRAINER(Executor):
    def __init__(self, epochs=5, project_id=""):
        self.flip = FLIP()

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        dxo = from_shareable(shareable)
        frame = self.flip.get_dataframe(self.project_id, self.query)
        if abort_signal.triggered:
            return make_reply(ReturnCode.TASK_ABORTED)
        self.flip.send_metrics_value("loss", 0.5, fl_ctx)
        return DXO(DataKind.WEIGHT_DIFF, data={}).to_shareable()
"""
SCRIPT = """
import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter

flare.init()
writer = SummaryWriter()
while flare.is_running():
    model = flare.receive()
    {asks}
    writer.add_scalar("loss@epoch", 0.5, 1)
    for number in range(3):
        writer.add_scalar(f"layer {{number}}", 0.5)
    flare.send(flare.FLModel(params=model.params, metrics={{"accuracy": 0.5}}))
"""


def looked(app: Path, **options: Any) -> Inspection:
    return inspect_app(app, build=False, **options)


def codes(found: Inspection) -> list[str]:
    return [problem.code for problem in found.problems]


def test_a_good_neutral_app_runs_on_both_engines_and_its_weights_are_known(tmp_path: Path) -> None:
    """The whole answer for an ordinary app, built elsewhere: nothing of it is in this process."""
    before = sys.modules.get("trainer")
    found = inspect_app(write_app(tmp_path / "app"), slots=("Trust_1", "Trust_2"))
    assert (found.problems, found.doubts) == ((), ())
    assert [(each.engine, each.runs) for each in found.runs] == [("nvflare", True), ("flower", True)]
    assert found.shapes == {"weight": ((1, 2), "float32"), "bias": ((1,), "float32")}
    assert found.travelling == ("weight", "bias")
    assert found.reported.names == ("train_loss", "loss", "auc")
    assert not found.reported.computed
    assert found.files == ("config.json", "models.py", "trainer.py")
    assert sys.modules.get("trainer") is before


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    """A person who mends the first thing need not run the check again to hear of the second."""
    config = {**CONFIG, "GLOBAL_ROUNDS": 0, "LOCAL_ROUND": 1, "SERVER_OPTIMIZER": "adam", "MIN_CLIENTS": 9}
    app = write_app(tmp_path / "app", trainer="import no_such_part\ndef train(model): ...\n", config=config)
    (app / "models.py").unlink()
    found = looked(app, slots=("Trust_1",))
    assert codes(found) == ["E0304", "E0303", "E0202", "E0303", "E0204", "E0204", "E0505", "E0216"]
    assert [problem.facts.get("function") for problem in found.problems if problem.code == "E0204"] == [
        "train",
        "validate",
    ]
    assert all(problem.where for problem in found.problems if problem.code != "E0202")


def test_the_code_of_an_app_is_not_run_to_look_at_it(tmp_path: Path) -> None:
    """``--static`` may be used on an app that nobody trusts: whatever it does at import is not done."""
    marker = tmp_path / "ran"
    bad = f"open({str(marker)!r}, 'w')\n"
    app = write_app(tmp_path / "app", trainer=bad + TRAINER, models=bad + "def get_model(): ...\n")
    (app / "__init__.py").write_text(bad)
    assert looked(app).problems == ()
    assert not marker.exists()
    assert inspect_app(app).problems != ()  # elsewhere, where nothing is to be had


def test_a_syntax_error_is_told_with_its_place(tmp_path: Path) -> None:
    """Every file is compiled, those that trainer.py does not import as well."""
    app = write_app(tmp_path / "app", extra="x = (\n")
    (problem,) = looked(app).problems
    assert (problem.code, problem.where) == ("E0203", f"{app / 'extra.py'}:1:5")


@pytest.mark.parametrize(
    ("models", "named"),
    [
        ("from architecture import get_model\n", []),
        ("from architecture import *\n", []),
        ("import architecture\nget_model = architecture.build\n", []),
        ("if True:\n    def get_model(): ...\n", []),
        ("def get_model(width=3): ...\n", []),
        ("def get_model(width): ...\n", ["E0204"]),
        ("def get_model(*, width): ...\n", ["E0204"]),
        ("def build():\n    def get_model(): ...\n", ["E0204"]),
    ],
)
def test_functions_are_found_however_they_come_there(models: str, named: list[str], tmp_path: Path) -> None:
    """An import or a branch may bring get_model; a function within another, or with other arguments, is none."""
    app = write_app(tmp_path / "app", models=models, architecture="def get_model(): ...\nbuild = get_model\n")
    assert codes(looked(app)) == named


def test_an_evaluation_needs_the_builder_that_its_models_name_and_their_checkpoints(tmp_path: Path) -> None:
    """Models with a path are built by get_model_for_path; where a checkpoint may lie on the server it is a doubt."""
    config = {"job_type": "evaluation", "IMAGING": False, "models": {"a": {"checkpoint": "a.pt", "path": "x"}}}
    app = write_app(tmp_path / "app", config=config, evaluator="def evaluate(model, site, config): ...\n")
    found = looked(app)
    assert [problem.facts["function"] for problem in found.problems] == ["get_model_for_path"]
    assert [doubt.what for doubt in found.doubts] == ["the checkpoint a.pt is not in the app's folder"]


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ('config["STEPS"]', ["STEPS"]),
        ('config["STEPS"] if "STEPS" in config else 1', []),
        ('config.get("STEPS", 1) and config["STEPS"]', []),
        ('config["GLOBAL_ROUNDS"]', ["GLOBAL_ROUNDS"]),
        ('config["job_type"]', []),
    ],
)
def test_a_key_that_is_read_must_be_in_the_file(body: str, missing: list[str], tmp_path: Path) -> None:
    """config is the file as it is written: a platform's default is not in it: a KeyError in round 1."""
    found = looked(write_app(tmp_path / "app", trainer=f"{TRAINER}\ndef steps(config):\n    return {body}\n"))
    assert [problem.facts["key"] for problem in found.problems] == missing


def test_packages_that_are_not_there_stop_an_app_only_where_it_needs_them(tmp_path: Path) -> None:
    """An import at the top of a file fails; one in a function or a try may be meant, and prepare.py may not be run."""
    trainer = f"""
import no_part_at_the_top
import flip
try:
    import no_part_tried
except ImportError:
    pass
{TRAINER}
def later():
    import no_part_later
"""
    found = looked(write_app(tmp_path / "app", trainer=trainer, prepare="import no_part_of_prepare\n"))
    assert [problem.facts["module"] for problem in found.problems] == ["no_part_at_the_top"]
    assert [doubt.what.split()[0] for doubt in found.doubts] == [
        "no_part_of_prepare",
        "no_part_tried",
        "no_part_later",
    ]


def test_a_slip_in_a_modules_name_is_no_package_to_install(tmp_path: Path) -> None:
    """``pip install`` of a name that was never meant brings a stranger's code; a file that lacks is said once."""
    app = write_app(tmp_path / "app", trainer=TRAINER.replace("import torch", "import modles\nimport torch", 1))
    (problem,) = looked(app).problems
    assert problem.fix == "the app has models.py: import models"
    trainer = TRAINER.replace("import torch", "import models\nimport nobody_knows_this\nimport torch", 1)
    other = write_app(tmp_path / "other", trainer=trainer)
    (other / "models.py").unlink()
    assert codes(looked(other)) == ["E0202", "E0216"]
    assert "pip install" not in looked(other).problems[1].fix


def test_a_best_model_by_a_metric_that_nobody_reports_is_said(tmp_path: Path) -> None:
    """Else the run ends well and has no best model."""
    found = looked(write_app(tmp_path / "app", config={**CONFIG, "BEST_MODEL_METRIC": "dice"}))
    assert [each.what.partition(",")[0] for each in found.doubts] == ["BEST_MODEL_METRIC is dice"]
    assert looked(write_app(tmp_path / "other", config={**CONFIG, "BEST_MODEL_METRIC": "auc"})).doubts == ()


@pytest.mark.parametrize(
    ("said", "kind"),
    [("params_type=flare.ParamsType.FULL", "FULL"), ('params_type="FULL"', "FULL"), ('params_type="DIFF"', "DIFF")],
)
def test_the_wrong_kind_of_params_is_said(said: str, kind: str, tmp_path: Path) -> None:
    """Whole weights where differences are expected, and the reverse: the minute until the first task fails is saved."""
    script = SCRIPT.format(asks="flare.is_evaluate()").replace("params=", f"{said}, params=")
    for wanted in ("DIFF", "FULL"):
        app = write_app(tmp_path / wanted, trainer=script, config={**CONFIG, "PARAMS_TYPE": wanted})
        told = [each.what for each in looked(app).doubts if each.what.startswith("PARAMS_TYPE")]
        assert told == ([] if wanted == kind else [f"PARAMS_TYPE is {wanted}, and trainer.py says params_type {kind}"])
    assert looked(write_app(tmp_path / "free", trainer=script)).doubts == ()


PACKAGE = """
from flwr.app import MetricRecord
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    metrics = {{"loss": 0.5}}
    metrics |= {{"num-examples": 3}}
    metrics["auc"] = 0.5
    {more}
    return MetricRecord(metrics)


@app.evaluate()
def evaluate(message, context):
    metrics: dict = {{"dice": 0.5}}
    metrics.update({{"hd95": 1.0}}, iou=0.5)
    return MetricRecord(metrics)
"""


@pytest.mark.parametrize(
    ("more", "computed"),
    [
        ("print(metrics)", False),
        ('metrics[f"loss_{message}"] = 0.5', True),
        ("fill(metrics)", True),
        ("metrics |= measured()", True),
    ],
)
def test_the_names_of_a_dict_that_is_filled_step_by_step_are_told(more: str, computed: bool, tmp_path: Path) -> None:
    """As existing packages write them; what somebody else may have put there is not taken for known."""
    app = write_app(tmp_path / "app", client_app=PACKAGE.format(more=more))
    (app / "trainer.py").unlink()
    found = looked(app).reported
    assert (set(found.names), found.computed) == ({"loss", "auc", "dice", "hd95", "iou"}, computed)


def test_metrics_that_would_not_be_stored_are_said(tmp_path: Path) -> None:
    """A name that METRICS does not declare, or that may not leave a trust, is heard of before the run."""
    trainer = TRAINER.replace('"auc": 0.75', '"auc": 0.75, "born 1956-07-31": 1.0')
    found = looked(write_app(tmp_path / "app", trainer=trainer, config={**CONFIG, "METRICS": ["loss"]}))
    told = [doubt.what for doubt in found.doubts]
    assert told[0].startswith("'born 1956-07-31' is no name")
    assert told[1] == "METRICS does not declare auc, born 1956-07-31"


@pytest.mark.parametrize(("asks", "validates"), [("flare.is_evaluate()", True), ("pass", False)])
def test_a_script_is_told_what_it_runs_as(asks: str, validates: bool, tmp_path: Path) -> None:
    """It runs on NVFLARE alone; whether it is asked to validate depends on whether it asks; its tags are found."""
    app = write_app(tmp_path / "app", trainer=SCRIPT.format(asks=asks))
    found = looked(app)
    assert found.problems == ()
    assert [each.runs for each in found.runs] == [True, False]
    assert ("to validate" in found.runs[0].how.partition(";")[2]) is True
    assert ("never asks" in found.runs[0].how) is not validates
    assert found.reported.names == ("loss", "accuracy")
    assert found.reported.computed
    assert codes(looked(app, engine="flower")) == ["E0215"]


@pytest.mark.parametrize("server", [True, False])
def test_a_flower_package_is_told_who_serves_it(server: bool, tmp_path: Path) -> None:
    """The folder above a package is the app, too; its own ServerApp is used where it has one."""
    package = write_app(
        tmp_path / "project" / "app", client_app="from flwr.clientapp import ClientApp\napp = ClientApp()\n"
    )
    (package / "trainer.py").unlink()
    if server:
        (package / "server_app.py").write_text("app = None\n")
    found = looked(tmp_path / "project")
    assert found.problems == ()
    assert [each.runs for each in found.runs] == [False, True]
    assert ("server_app.py as it is" in found.runs[1].how) is server
    (package / "config.json").write_text(json.dumps({"job_type": "evaluation", "models": {}}))
    assert ("own server, not server_app.py" in looked(package).runs[1].how) is server
    (package / "config.json").write_text(json.dumps(CONFIG))
    (package / "client_app.py").write_text("client = 1\n")
    assert codes(looked(package)) == ["E0530"]


def test_flower_s_own_hello_world_is_told_both_files_that_it_lacks(tmp_path: Path) -> None:
    """Without a config.json the job's type is not known, but that it needs a model is."""
    package = tmp_path / "project" / "app"
    package.mkdir(parents=True)
    (package / "client_app.py").write_text("app = None\n")
    found = looked(tmp_path / "project")
    assert [problem.facts["file"] for problem in found.problems] == ["config.json", "models.py"]
    assert not any(each.runs for each in found.runs)


def test_an_executor_style_app_is_changed_line_by_line(tmp_path: Path) -> None:
    """Each line that ties the code to NVFLARE's classes is named, with what stands in its place."""
    app = write_app(tmp_path / "app", trainer=EXECUTOR)
    found = looked(app)
    assert codes(found) == ["E0206"]
    assert not any(each.runs for each in found.runs)
    told = {change.line: change.new for change in found.changes}
    lines = EXECUTOR.splitlines()
    assert all(lines[change.line - 1].strip().startswith(change.old.rstrip("…")) for change in found.changes)
    wanted = {
        "from flip import FLIP": "imports neither",
        "class FLIP_TRAINER": "become functions",
        "def __init__": "config.json",
        "def execute": "def train(model, site, config)",
        "from_shareable(shareable)": "global weights loaded",
        "get_dataframe": "site.cohort()",
        "triggered": "site.aborted",
        "make_reply": "raise an exception",
        "send_metrics_value": "site.log(label, value)",
        "to_shareable": "train in place",
    }
    for old, new in wanted.items():
        (number,) = [n for n, line in enumerate(lines, 1) if (old in line and "import" not in line[:4]) or line == old]
        assert new in told[number], (old, told.get(number))


def test_a_validator_moves_into_the_trainer(tmp_path: Path) -> None:
    """What a file of its own held becomes a function of trainer.py."""
    validator = "class FLIP_VALIDATOR(Executor):\n    def execute(self, *arguments): ...\n"
    app = write_app(tmp_path / "app", trainer=EXECUTOR, validator=validator)
    told = [change.new for change in changes_of(app) if change.file == "validator.py"]
    assert told == [
        "no class: its methods become functions, in trainer.py",
        "def validate(model, site, config) -> dict: …",
    ]


def test_a_config_that_cannot_be_read_hides_nothing_else(tmp_path: Path) -> None:
    """A broken config.json is one problem; the form, the files and an executor's lines are told all the same."""
    app = write_app(tmp_path / "app", trainer=EXECUTOR, config='{"job_type": ')
    found = looked(app)
    assert codes(found) == ["E0301", "E0206"]
    assert found.changes
    (app / "config.json").write_text(json.dumps({"IMAGING": False}))
    assert codes(looked(app)) == ["E0302", "E0206"]
