"""Which form an app has is read from its source, without running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flip_fl.app.forms import FormKind, check_form, form_of
from flip_fl.errors import FlipError

SCRIPT = """
import nvflare.client as flare

def main():
    flare.init()
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(params=model.params))

if __name__ == "__main__":
    main()
"""
EXPLODES = "raise SystemExit('the app was run')\n"


def app(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + (".json" if name == "config" else ".py"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "kind", "entry"),
    [
        ({"trainer": "def train(model, site, config): ..."}, FormKind.NEUTRAL, "trainer.py"),
        ({"evaluator": "def evaluate(model, site, config): ..."}, FormKind.NEUTRAL, "evaluator.py"),
        ({"trainer": SCRIPT}, FormKind.CLIENT_API, "trainer.py"),
        ({"trainer": "from nvflare.client.tracking import SummaryWriter"}, FormKind.CLIENT_API, "trainer.py"),
        ({"trainer": "from nvflare import client as flare"}, FormKind.CLIENT_API, "trainer.py"),
        ({"trainer": "def main():\n    import nvflare.client.lightning"}, FormKind.CLIENT_API, "trainer.py"),
        ({"trainer": SCRIPT + "\ndef train(model): ..."}, FormKind.CLIENT_API, "trainer.py"),
        ({"trainer": "from loop import main\nmain()", "loop": SCRIPT}, FormKind.CLIENT_API, "trainer.py"),
        ({"trainer": "from parts import loop\n", "parts__loop": SCRIPT}, FormKind.CLIENT_API, "trainer.py"),
        ({"trainer": SCRIPT, "validator": "class FLIP_VALIDATOR: ..."}, FormKind.CLIENT_API, "trainer.py"),
        (
            {"config": '{"job_type": "evaluation"}', "trainer": "def train(): ...", "evaluator": SCRIPT},
            FormKind.CLIENT_API,
            "evaluator.py",
        ),
        ({"trainer": "class FLIP_TRAINER(Executor): ..."}, FormKind.EXECUTOR, "trainer.py"),
        ({"trainer": "class Mine(nv.Executor): ..."}, FormKind.EXECUTOR, "trainer.py"),
        ({"validator": "class FLIP_VALIDATOR(ClientAlgo): ..."}, FormKind.EXECUTOR, "validator.py"),
        ({"evaluator": "class FLIP_EVALUATOR(Executor): ..."}, FormKind.EXECUTOR, "evaluator.py"),
        (
            {"trainer": "def train(model, site, config): ...", "validator": "class FLIP_VALIDATOR: ..."},
            FormKind.EXECUTOR,
            "validator.py",
        ),
        ({"client_app": "app = ClientApp()"}, FormKind.FLOWER_PACKAGE, "client_app.py"),
        ({"app__client_app": "app = ClientApp()"}, FormKind.FLOWER_PACKAGE, "app/client_app.py"),
        ({"client_app": "", "trainer": "def fit(): ..."}, FormKind.FLOWER_PACKAGE, "client_app.py"),
        ({"client_app": "", "trainer": "def train(): ..."}, FormKind.NEUTRAL, "trainer.py"),
        ({"trainer": "def train(: nothing"}, FormKind.NEUTRAL, "trainer.py"),
        ({}, FormKind.NEUTRAL, "trainer.py"),
    ],
)
def test_the_form_is_told_by_the_source(files: dict[str, str], kind: FormKind, entry: str, tmp_path: Path) -> None:
    """Each form by each way of writing it; where two could be meant, the job type's own file decides."""
    found = form_of(app(tmp_path / "app", **files))
    assert (found.kind, found.entry) == (kind, entry)


def test_the_app_is_never_run(tmp_path: Path) -> None:
    """Telling the form, and what a script asks, imports nothing of the app."""
    form = form_of(app(tmp_path, trainer=EXPLODES + "import helper\n" + SCRIPT, helper=EXPLODES))
    assert form.kind is FormKind.CLIENT_API
    assert not form.validates


@pytest.mark.parametrize(
    ("text", "validates"),
    [
        (SCRIPT, False),
        (SCRIPT + "\nif flare.is_train(): ...", False),
        (SCRIPT + "\nif flare.is_evaluate(): ...", True),
        (SCRIPT + "\nfrom nvflare.client import is_evaluate as scoring", True),
        (SCRIPT + "\nname = flare.get_task_name()", True),
        (SCRIPT + "\n@flare.evaluate\ndef score(model): ...", True),
        ("import helper\n" + SCRIPT, True),
    ],
)
def test_only_a_script_that_asks_for_its_task_validates(text: str, validates: bool, tmp_path: Path) -> None:
    """A script that trains on whatever it gets is not asked to validate; a helper module may do the asking."""
    helper = "import nvflare.client as flare\n\ndef scoring():\n    return flare.is_evaluate()\n"
    form = form_of(app(tmp_path, trainer=text, helper=helper))
    assert form.validates is validates


@pytest.mark.parametrize(
    ("text", "takes"),
    [
        (SCRIPT, True),
        (SCRIPT + "import argparse\nparser.add_argument('--project_id')", True),
        (SCRIPT + "import argparse\nparser.add_argument('--epochs')", False),
    ],
    ids=["reads no command line", "knows the option", "does not know it"],
)
def test_only_a_script_that_can_take_the_project_is_handed_it(text: str, takes: bool, tmp_path: Path) -> None:
    """NVFLARE's own examples parse options of theirs: an unknown one would end them with exit code 2."""
    assert form_of(app(tmp_path, trainer=text)).takes_project is takes


def test_neutral_apps_get_a_part_of_the_cohort_and_existing_ones_all_of_it(tmp_path: Path) -> None:
    """Existing apps split a shared file themselves."""
    assert form_of(app(tmp_path / "script", trainer=SCRIPT)).splits_itself
    assert form_of(app(tmp_path / "flower", app__client_app="")).splits_itself
    assert not form_of(app(tmp_path / "neutral", trainer="def train(): ...")).splits_itself


@pytest.mark.parametrize(
    ("files", "engine", "code"),
    [
        ({"trainer": SCRIPT}, "nvflare", None),
        ({"trainer": SCRIPT}, "flower", "E0215"),
        ({"app__client_app": ""}, "flower", None),
        ({"app__client_app": ""}, "nvflare", "E0215"),
        ({"trainer": "class FLIP_TRAINER: ..."}, "nvflare", "E0206"),
        ({"trainer": "class FLIP_TRAINER: ..."}, "flower", "E0206"),
        ({"trainer": "def train(): ..."}, "flower", None),
    ],
)
def test_an_app_is_refused_where_it_cannot_run(
    files: dict[str, str], engine: str, code: str | None, tmp_path: Path
) -> None:
    """Each form on each engine; what is refused says what shows it and what to do."""
    folder = app(tmp_path, **files)
    if code is None:
        check_form(folder, engine)
        return
    with pytest.raises(FlipError) as refused:
        check_form(folder, engine)
    assert refused.value.code == code
    assert refused.value.fix
