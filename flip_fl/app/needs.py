"""What each job type asks of an app: its files and its functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flip_fl.app.config import AppConfig
from flip_fl.app.forms import FLOWER_FILE, FormKind
from flip_fl.values import JobType

CONFIG = "config.json"


@dataclass(frozen=True)
class Function:
    """A function that the app must define, and how many arguments the house calls it with."""

    module: str
    name: str
    parameters: tuple[str, ...]

    @property
    def arguments(self) -> int:
        return len(self.parameters)

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(self.parameters)})"


@dataclass(frozen=True)
class Needs:
    """The files (the config first) and functions of one job type."""

    files: tuple[str, ...]
    functions: tuple[Function, ...]

    def words(self) -> str:
        """The files in words: ``config.json, models.py and trainer.py``."""
        return f"{', '.join(self.files[:-1])} and {self.files[-1]}"


_TASK = ("model", "site", "config")
_MODEL = Function("models", "get_model", ())
_TRAIN = (Function("trainer", "train", _TASK), Function("trainer", "validate", _TASK))
_TRAINED = Needs((CONFIG, "models.py", "trainer.py"), (_MODEL, *_TRAIN))

_PACKAGE_FILES = (CONFIG, "models.py", FLOWER_FILE)

_NEEDS = {
    JobType.STANDARD: _TRAINED,
    JobType.FED_OPT: _TRAINED,
    JobType.DIFFUSION: Needs(_TRAINED.files, (Function("models", "get_model", ("stage",)), *_TRAIN)),
    JobType.EVALUATION: Needs(
        (CONFIG, "models.py", "evaluator.py"), (_MODEL, Function("evaluator", "evaluate", _TASK))
    ),
}


def model_call(config: AppConfig, part: str | None) -> tuple[str, tuple[str, ...]]:
    """The function of models.py that builds ``part``, a job's stage or the name of a model to evaluate, and its
    arguments.
    """
    if config.job_type is JobType.DIFFUSION:
        return "get_model", (part or "",)
    path = config.models.get(part or "", {}).get("path") if config.job_type is JobType.EVALUATION else None
    return ("get_model", ()) if path is None else ("get_model_for_path", (str(path),))


def fitting(function: Callable[..., Any], arguments: tuple[str, ...]) -> tuple[str, ...]:
    """``arguments``, or none where ``function`` takes none: a script's one model may serve both stages."""
    return arguments if takes(function, len(arguments)) or not takes(function, 0) else ()


def takes(function: Any, arguments: int) -> bool:
    """Whether ``function`` can be called with that many positional arguments."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:
        return True  # a callable without a signature that can be read
    return True


def needs_of(job_type: JobType, kind: FormKind = FormKind.NEUTRAL) -> Needs:
    """What an app of ``job_type`` and this form must have; nobody looks at functions but ours before they run."""
    needs = _NEEDS[job_type]
    if kind is FormKind.FLOWER_PACKAGE:
        return Needs(_PACKAGE_FILES, tuple(each for each in needs.functions if each.module == "models"))
    return needs
