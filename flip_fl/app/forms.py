"""Which form an app is written in, read from its source: the app is never run, and no engine is needed to tell.

=================  ==========================================================================================
``NEUTRAL``        ours: ``train``, ``validate``, ``evaluate`` as functions, of no engine
``CLIENT_API``     an NVFLARE Client-API script: ``trainer.py`` or ``evaluator.py`` speaks to ``nvflare.client``
``FLOWER_PACKAGE`` Flower's: ``client_app.py``, in the folder itself or in its package ``app``
``EXECUTOR``       classes of NVFLARE's (``FLIP_TRAINER`` and the like): recognised, and refused
=================  ==========================================================================================
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from flip_fl.app.syntax import functions, imported, last_name, parsed, reachable, text_of
from flip_fl.errors import FlipError
from flip_fl.values import JobType

CLIENT_API_MODULE = "nvflare.client"
FLOWER_FILE = "client_app.py"
FLOWER_PACKAGE = "app"
_NEUTRAL = {"trainer.py": "train", "evaluator.py": "evaluate", "validator.py": "validate"}
_EXECUTOR_NAMES = frozenset({"FLIP_TRAINER", "FLIP_VALIDATOR", "FLIP_EVALUATOR"})
_EXECUTOR_BASES = frozenset({"Executor", "ClientAlgo", "Learner", "ModelLearner"})
_PROJECT_OPTIONS = ("--project_id", "--project-id")
_ASKS_WHETHER_TO_VALIDATE = frozenset({"is_evaluate", "get_task_name"})


class FormKind(StrEnum):
    """The form of an app."""

    NEUTRAL = "neutral"
    CLIENT_API = "client_api"
    FLOWER_PACKAGE = "flower_package"
    EXECUTOR = "executor"


_ENGINES = {FormKind.CLIENT_API: "nvflare", FormKind.FLOWER_PACKAGE: "flower"}


@dataclass(frozen=True)
class Form:
    """The form of the app in ``app_dir``; ``entry`` is the file that shows it, ``evidence`` says what in it does.

    ``entry`` is relative to ``app_dir``, with ``/``.
    """

    kind: FormKind
    app_dir: Path
    entry: str
    evidence: str = ""

    @property
    def splits_itself(self) -> bool:
        """Whether the app expects a whole cohort at every simulated site and takes its own share of it."""
        return self.kind in (FormKind.CLIENT_API, FormKind.FLOWER_PACKAGE)

    @property
    def validates(self) -> bool:
        """Whether a Client-API script asks which task it has: one that does not would train on a model to validate."""
        return any(_uses(tree, _ASKS_WHETHER_TO_VALIDATE) for tree in self._sources) or self._evaluates_by_decorator

    @property
    def takes_project(self) -> bool:
        """Whether a script may be handed ``--project_id``: one that parses its command line without it would end."""
        parses = any("argparse" in set(imported(tree)) for tree in self._sources)
        return not parses or any(
            isinstance(node, ast.Constant) and node.value in _PROJECT_OPTIONS
            for tree in self._sources
            for node in ast.walk(tree)
        )

    @property
    def says_kind(self) -> str | None:
        """The one kind of params that a script says it sends (``params_type``): ``FULL`` or ``DIFF``, else None."""
        said = {kind for tree in self._sources for node in ast.walk(tree) if (kind := _kind_said(node)) is not None}
        return said.pop() if len(said) == 1 else None

    @property
    def _evaluates_by_decorator(self) -> bool:
        return any(
            isinstance(node, ast.FunctionDef) and any(last_name(each) == "evaluate" for each in node.decorator_list)
            for tree in self._sources
            for node in ast.walk(tree)
        )

    @cached_property
    def _sources(self) -> tuple[ast.Module, ...]:
        return tuple(tree for _, tree in reachable(self.app_dir, self.entry))


def form_of(app_dir: Path) -> Form:
    """The form of the app in ``app_dir``. Never raises: what nothing shows is ``NEUTRAL``, whose checks say what lacks.

    A file that cannot be parsed shows nothing; what is wrong with it is said when it is imported.
    """
    entry = _entry(app_dir)
    tree = parsed(app_dir / entry)
    neutral = tree is not None and _NEUTRAL[entry] in functions(tree) and not _imports_client_api(tree)
    if not neutral and any(_imports_client_api(each) for _, each in reachable(app_dir, entry)):
        return Form(FormKind.CLIENT_API, app_dir, entry, f"{entry} uses {CLIENT_API_MODULE}")
    executor = _executor(app_dir, entry)
    if executor is not None:
        return executor
    if neutral:
        return Form(FormKind.NEUTRAL, app_dir, entry, f"{entry} defines {_NEUTRAL[entry]}()")
    for place in (f"{FLOWER_PACKAGE}/{FLOWER_FILE}", FLOWER_FILE):
        if (app_dir / place).is_file():
            return Form(FormKind.FLOWER_PACKAGE, app_dir, place, f"it has {place}")
    return Form(FormKind.NEUTRAL, app_dir, entry)


def refusal(form: Form, engine: str) -> FlipError | None:
    """Why an app of this form is not run on ``engine`` (``nvflare``, ``flower``), or None."""
    place = str(form.app_dir / form.entry)
    if form.kind is FormKind.EXECUTOR:
        return FlipError("E0206", where=place, evidence=form.evidence)
    other = _ENGINES.get(form.kind)
    if other is None or other == engine:
        return None
    return FlipError("E0215", where=place, evidence=form.evidence, other=other, engine=engine)


def check_form(app_dir: Path, engine: str) -> None:
    """Raises ``FlipError`` E0206, E0215 for an app that is not run on ``engine``."""
    refused = refusal(form_of(app_dir), engine)
    if refused is not None:
        raise refused


def _entry(app_dir: Path) -> str:
    """The file that an app's job type starts with, else the one that is there."""
    try:
        job_type = JobType(json.loads((app_dir / "config.json").read_text("utf-8-sig")).get("job_type"))
    except (OSError, ValueError, AttributeError):
        evaluates = (app_dir / "evaluator.py").is_file() and not (app_dir / "trainer.py").is_file()
        return "evaluator.py" if evaluates else "trainer.py"
    return "evaluator.py" if job_type is JobType.EVALUATION else "trainer.py"


def _executor(app_dir: Path, entry: str) -> Form | None:
    for file in (entry, "validator.py"):
        tree = parsed(app_dir / file)
        if tree is None or _NEUTRAL[file] in functions(tree):
            continue
        for node in tree.body:
            if not isinstance(node, ast.ClassDef):
                continue
            bases = {last_name(base) for base in node.bases}
            if node.name in _EXECUTOR_NAMES or bases & _EXECUTOR_BASES:
                return Form(FormKind.EXECUTOR, app_dir, file, f"{file} defines the class {node.name}")
    return None


def _imports_client_api(tree: ast.Module) -> bool:
    return any(name == CLIENT_API_MODULE or name.startswith(f"{CLIENT_API_MODULE}.") for name in imported(tree))


def _kind_said(node: ast.AST) -> str | None:
    """``DIFF`` of ``ParamsType.DIFF`` and of ``params_type="DIFF"``."""
    if isinstance(node, ast.Attribute):
        return node.attr if last_name(node.value) == "ParamsType" else None
    return text_of(node.value) if isinstance(node, ast.keyword) and node.arg == "params_type" else None


def _uses(tree: ast.Module, names: frozenset[str]) -> bool:
    """Whether a name or an attribute of ``names`` is read, or imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in names:
            return True
        if isinstance(node, ast.Name) and node.id in names:
            return True
        if isinstance(node, ast.ImportFrom) and any(alias.name in names for alias in node.names):
            return True
    return False
