# ruff: noqa: E501 (tables of code and texts)
"""Everything that is wrong with an app is said before a run starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flip_fl.app.checks import CheckedApp, check_app
from flip_fl.app.config import load_config
from flip_fl.app.secure import check_engine
from flip_fl.errors import FlipError
from flip_fl.values import JobType
from tests.support.app import CONFIG, TRAINER, write_app
from tests.support.staged_app import write_staged_app

SLOTS = ("Trust_1", "Trust_2")


def refused(app: Path, slots: Sequence[str] = SLOTS, **options: Any) -> FlipError:
    with pytest.raises(FlipError) as caught:
        check_app(app, slots, **options)
    return caught.value


def with_config(folder: Path, **keys: Any) -> Path:
    return write_app(folder / "app", config={**CONFIG, **keys})


def test_a_good_app_passes_without_torch_in_this_process(tmp_path: Path) -> None:
    """The answer names the weights; the app was imported elsewhere."""
    marker = "import os, sys\nassert not any('KEY' in name for name in os.environ), list(os.environ)\n"
    app = write_app(tmp_path / "app", trainer=marker + TRAINER)
    before = sys.modules.get("trainer")
    checked = check_app(app, SLOTS)
    assert isinstance(checked, CheckedApp)
    assert checked.parameters == {"weight": ((1, 2), "float32"), "bias": ((1,), "float32")}
    assert checked.notes == ()
    assert checked.config == load_config(app)
    assert sys.modules.get("trainer") is before


def test_a_folder_without_an_app(tmp_path: Path) -> None:
    """The wrong folder is told from an app that lacks a file."""
    assert refused(tmp_path).code == "E0201"
    assert refused(tmp_path / "nowhere").why == "there is no such folder"
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file").why == "it is not a folder"


@pytest.mark.parametrize("name", ["trainer.py", "models.py", "config.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    """The error says which file, and which the job type needs."""
    app = write_app(tmp_path / "app")
    (app / name).unlink()
    error = refused(app)
    assert (error.code, error.facts["file"]) == ("E0202", name)


def test_job_types_without_a_template_are_refused(tmp_path: Path) -> None:
    """A job that this version cannot run does not run as another one."""
    error = refused(with_config(tmp_path, job_type="evaluation"), job_types=(JobType.STANDARD,))
    assert error.what == 'job_type is "evaluation"; it must be standard'
    error = refused(tmp_path / "app", job_types=tuple(JobType))
    assert (error.code, error.facts["file"]) == ("E0202", "evaluator.py")


@pytest.mark.parametrize(
    ("job_type", "key", "value"),
    [("standard", "SERVER_OPTIMIZER", "adam"), ("standard", "models", {"a": {"checkpoint": "a.pt"}}),
     ("evaluation", "FEDPROX_MU", 0.1), ("evaluation", "AGGREGATE_ONLY_REGEX", "weight")],
)  # fmt: skip
def test_an_option_of_another_job_type_is_refused(job_type: str, key: str, value: Any, tmp_path: Path) -> None:
    """Going on without what the config asks for would be another run."""
    app = with_config(tmp_path, **{"job_type": job_type, key: value})
    (app / "evaluator.py").write_text("def evaluate(model, site, config): ...\n")
    error = refused(app, job_types=tuple(JobType))
    assert error.what.startswith(key)
    assert "it must be absent, or in a job of type" in error.what


@pytest.mark.parametrize(
    ("config", "words"),
    [({"AGGREGATE_ONLY_REGEX": "^head"}, "AGGREGATE_ONLY_REGEX leaves no parameter that travels; the model has weight"),
     ({"AGGREGATE_ONLY_REGEX": "("}, "a regular expression"),
     ({"job_type": "fed_opt", "SERVER_OPTIMIZER": {"name": "adam", "momentum": 0.5}}, "'momentum' is none of adam's"),
     ({"job_type": "fed_opt", "SERVER_OPTIMIZER": {"name": "sgd", "momentum": 1.0}}, "momentum must be from 0"),
     ({"job_type": "fed_opt", "SERVER_OPTIMIZER": "rmsprop"}, "one of sgd, adam, yogi, adagrad")],
)  # fmt: skip
def test_an_option_that_cannot_be_meant_is_named(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    """A pattern that finds nothing and an optimiser that is none are found before anything starts."""
    assert words in refused(with_config(tmp_path, **config)).what


@pytest.mark.parametrize(
    ("slot", "suggestion"),
    [
        ("Trust_03", "did you mean Trust_3? (slots: Trust_1, Trust_2, Trust_3)"),
        ("trust_1", "did you mean Trust_1? (slots: Trust_1, Trust_2, Trust_3)"),
        ("Guys", "slots: Trust_1, Trust_2, Trust_3"),
    ],
)
def test_a_weight_for_no_slot_is_an_error(slot: str, suggestion: str, tmp_path: Path) -> None:
    """Weights are keyed by kit slot; a trust's name, or a zero too many, is shown at its place."""
    app = with_config(tmp_path, AGGREGATION_WEIGHTS={"Trust_1": 1, slot: 1})
    error = refused(app, federation=("Trust_1", "Trust_2", "Trust_3"))
    assert (error.code, error.fix) == ("E0312", suggestion)
    assert error.what == f"no kit slot called '{slot}' in AGGREGATION_WEIGHTS"
    assert str(error.where).startswith(f"{app / 'config.json'}:1:")


def test_weights_must_cover_the_run(tmp_path: Path) -> None:
    """A site of the run without a weight, or with nothing but zeros, is an error; a slot outside the run is a note."""
    app = with_config(tmp_path, AGGREGATION_WEIGHTS={"Trust_1": 0, "Trust_3": 1})
    assert "Trust_2 has none" in refused(app, federation=("Trust_3",)).what
    assert "all of them are 0" in refused(app, ("Trust_1",), federation=("Trust_3",)).what
    app = with_config(tmp_path, AGGREGATION_WEIGHTS={"Trust_1": 2, "Trust_2": 0, "Trust_3": 1})
    assert check_app(app, SLOTS, federation=("Trust_3",)).notes == (
        "AGGREGATION_WEIGHTS names Trust_3, not part of this run",
    )


def test_the_quorum_must_be_there(tmp_path: Path) -> None:
    """A job that needs three sites does not start with two and wait for ever."""
    app = with_config(tmp_path, MIN_CLIENTS=3)
    error = refused(app)
    assert error.what == "the job needs 3 sites, 2 are chosen (Trust_1, Trust_2)"
    assert error.where == f"{app / 'config.json'}:1:59"


def test_the_best_model_s_metric_must_be_declared(tmp_path: Path) -> None:
    """A metric that may not leave the sites cannot choose a model."""
    error = refused(with_config(tmp_path, METRICS=["loss"], BEST_MODEL_METRIC="auc"))
    assert error.what == 'BEST_MODEL_METRIC is "auc"; it must be one of METRICS (loss)'


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("trainer", "class FLIP_TRAINER(object):\n    pass\n"),
        ("trainer", "from nvflare.apis.executor import Executor\nclass Mine(Executor):\n    pass\n"),
        ("validator", "class FLIP_VALIDATOR:\n    pass\n"),
    ],
)
def test_executor_style_apps_are_recognised(file: str, text: str, tmp_path: Path) -> None:
    """They are refused by name, with what to change, not by a missing function."""
    app = write_app(tmp_path / "app", **{file: text})
    error = refused(app)
    assert error.code == "E0206"
    assert f"{file}.py defines the class" in error.what


SCRIPT = """
import nvflare.client as flare
raise SystemExit("a script is not run before its job")
"""


def test_a_script_is_checked_without_being_run(tmp_path: Path) -> None:
    """Of a Client-API script the model is built and the text is parsed; a mistake in it is shown with its place."""
    app = write_app(tmp_path / "app", trainer=SCRIPT)
    assert check_app(app, SLOTS).parameters == {"weight": ((1, 2), "float32"), "bias": ((1,), "float32")}
    (app / "trainer.py").write_text("import nvflare.client\nimport helper\n")
    (app / "helper.py").write_text("import nvflare.client")
    assert check_app(app, SLOTS).parameters
    (app / "models.py").write_text("def get_model(): raise ValueError('no weights')")
    assert refused(app).code == "E0205"


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [("FEDPROX_MU", 0.1, "a training loop of its own"), ("CROSS_SITE_VALIDATION", True, "flare.is_evaluate()")],
)
def test_an_option_that_a_script_cannot_follow_is_refused(key: str, value: Any, why: str, tmp_path: Path) -> None:
    """Without an effect it would be another run than its author believes."""
    error = refused(write_app(tmp_path / "app", trainer=SCRIPT, config={**CONFIG, key: value}))
    assert (error.code, error.facts["key"]) == ("E0303", key)
    assert why in error.why


def test_one_model_may_serve_both_stages_of_a_script(tmp_path: Path) -> None:
    """Existing two-stage scripts have a get_model() without a stage; a neutral app's must take one."""
    config = {"job_type": "diffusion_model", "IMAGING": False}
    assert check_app(write_app(tmp_path / "script", trainer=SCRIPT, config=config), SLOTS).parameters
    assert refused(write_app(tmp_path / "neutral", config=config)).code in ("E0204", "E0205")


@pytest.mark.parametrize(("name", "way_out"), [("server_app", "flwr run"), ("client_app", "trainer.py")])
def test_an_app_of_flower_s_in_the_folder_is_refused(name: str, way_out: str, tmp_path: Path) -> None:
    """A strategy or ClientApp that would silently not be used makes another run than its author believes."""
    app = write_app(tmp_path / "app", **{name: "app = None\n"})
    error = refused(app)
    assert error.code == "E0209"
    assert f"{name}.py" in error.what
    assert error.where == str(app / f"{name}.py")
    assert way_out in error.fix


@pytest.mark.parametrize(
    ("files", "code", "words", "place"),
    [
        ({"trainer": "import no_such_package\n"}, "E0203", "No module named 'no_such_package'", "trainer.py:1"),
        ({"trainer": "import helper\n", "helper": "\n1 / 0\n"}, "E0203", "ZeroDivisionError", "helper.py:2"),
        ({"trainer": "def train(:\n"}, "E0203", "SyntaxError: invalid syntax", "trainer.py:1:11"),
        ({"trainer": "def train(model, site, config): ...\n"}, "E0204", "no function validate", "trainer.py"),
        ({"trainer": TRAINER.replace("(model, site, config)", "(model)", 1)}, "E0204", "no function train", "trainer.py"),
        ({"models": "get_model = 3\n"}, "E0204", "no function get_model", "models.py"),
        ({"models": "def get_model():\n    raise OSError('no weights here')\n"}, "E0205", "no weights here", "models.py:2"),
        ({"models": "def get_model():\n    return 3\n"}, "E0205", "it returned int, not a torch.nn.Module", "models.py"),
        ({"models": "def get_model():\n    import os; os._exit(3)\n"}, "E0205", "ended with code 3", "models.py"),
        ({"models": "import torch\ndef get_model():\n    return torch.nn.ReLU()\n"}, "E0205", "no weights", "models.py"),
        ({"models": "import torch\ndef get_model():\n    return torch.nn.LazyLinear(2)\n"}, "E0205", "lazy layer", "models.py"),
        (
            {"models": "import torch\ndef get_model():\n    return torch.nn.Linear(1, 1).to(torch.bfloat16)\n"},
            "E0205",
            "'weight' of the model is torch.bfloat16, which numpy has not",
            "models.py",
        ),
    ],
)  # fmt: skip
def test_code_that_cannot_run_is_found_before_the_run(
    files: dict[str, str], code: str, words: str, place: str, tmp_path: Path
) -> None:
    """Imports, functions and the model are tried in a process of their own; the error names the place in the app."""
    app = write_app(tmp_path / "app", **files)
    error = refused(app)
    assert error.code == code
    assert words in error.what
    assert str(error.where) == str(app / place)


@pytest.mark.parametrize("pattern", ["^(denoiser|encoder|decoder)", "autoencoder.encoder|denoiser|^(en|de)coder"])
def test_what_stage_two_takes_over_must_reach_the_sites(pattern: str, tmp_path: Path) -> None:
    """A part of stage 1's result that does not travel would be a fresh one at the sites: refused before the run."""
    error = refused(write_staged_app(tmp_path / "app", AGGREGATE_ONLY_REGEX=pattern))
    assert (error.code, "what stage dm takes over has 'autoencoder." in error.what) == ("E0205", True)


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes_fed_opt", "digits_diffusion"])
def test_the_examples_pass(name: str) -> None:
    """The examples in the repository are apps like any other."""
    assert check_app(Path(__file__).parents[2] / "examples" / name, SLOTS).parameters


SECURE = {"SECURE_AGGREGATION": True}
THREE = ("Trust_1", "Trust_2", "Trust_3")


@pytest.mark.parametrize(
    ("config", "key", "why"),
    [
        ({**SECURE, "CROSS_SITE_VALIDATION": True}, "CROSS_SITE_VALIDATION", "single site's model, which nobody has"),
        ({**SECURE, "AGGREGATION_WEIGHTS": dict.fromkeys(THREE, 1)}, "AGGREGATION_WEIGHTS", "is its num_examples"),
        ({**SECURE, "MIN_CLIENTS": 2}, "MIN_CLIENTS", "tells each of them the others' part"),
        ({**SECURE, "job_type": "diffusion_model"}, "SECURE_AGGREGATION", "a job of type diffusion_model cannot"),
        ({"SECURE_AGGREGATION_RANGE": 8}, "SECURE_AGGREGATION_RANGE", "without SECURE_AGGREGATION nothing has a range"),
    ],
)
def test_what_secure_aggregation_cannot_work_with_is_refused(
    config: dict[str, Any], key: str, why: str, tmp_path: Path
) -> None:
    """What needs a single site's update is refused by its name, before a run finds out that nobody has it."""
    app = write_app(tmp_path / "app", config={"job_type": "standard", "IMAGING": False, **config})
    with pytest.raises(FlipError) as caught:
        check_app(app, THREE)
    assert (caught.value.code, caught.value.facts["key"]) == ("E0303", key)
    assert why in caught.value.why


def test_secure_aggregation_is_for_neutral_apps(tmp_path: Path) -> None:
    """A script sends its model by itself: nothing of ours could mask it."""
    config = {"job_type": "standard", "IMAGING": False, **SECURE}
    with pytest.raises(FlipError) as caught:
        check_app(write_app(tmp_path / "app", trainer=SCRIPT, config=config), THREE)
    assert (caught.value.code, caught.value.facts["key"]) == ("E0303", "SECURE_AGGREGATION")
    assert "for neutral apps" in caught.value.why


@pytest.mark.parametrize("sites", [1, 2])
def test_secure_aggregation_of_two_sites_is_refused(sites: int, tmp_path: Path) -> None:
    """Of two each would learn the other's update: the error says so."""
    app = write_app(tmp_path / "app", config={"job_type": "standard", "IMAGING": False, **SECURE})
    with pytest.raises(FlipError) as caught:
        check_app(app, THREE[:sites])
    assert caught.value.code == "E0515"
    assert "each would learn the other's update" in caught.value.why


def test_secure_aggregation_is_refused_on_nvflare(tmp_path: Path) -> None:
    """NVFLARE's server could not read the model: it is said before anything starts, and Flower is named."""
    app = write_app(tmp_path / "app", config={"job_type": "standard", "IMAGING": False, **SECURE})
    config = check_app(app, THREE).config
    check_engine(config, "flower")
    with pytest.raises(FlipError) as caught:
        check_engine(config, "nvflare")
    assert caught.value.code == "E0221"
    assert "can never read the model" in caught.value.why
    assert "--engine flower" in caught.value.fix
