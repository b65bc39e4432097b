"""The models of an evaluation: how each is found and built on the FL server, and the words for what may go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flip_fl.app import weights
from flip_fl.app.checkpoints import find_checkpoint
from flip_fl.app.config import AppConfig
from flip_fl.app.isolation.rules import Isolation
from flip_fl.app.weights import StartingModel
from flip_fl.errors import FlipError

# Return codes of `evaluation_failures.json`. Those of a site are NVFLARE's own words, on every engine.
EXECUTION_EXCEPTION = "EXECUTION_EXCEPTION"
TASK_ABORTED = "TASK_ABORTED"
BAD_PEER_CONTEXT = "BAD_PEER_CONTEXT"
EXECUTION_RESULT_ERROR = "EXECUTION_RESULT_ERROR"
NO_REPLY = "NO_REPLY"
MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
MODEL_UNUSABLE = "MODEL_UNUSABLE"


class NotEvaluated(Exception):
    """A model, or a site's result, that cannot be used: ``code`` is the return code, the text says why."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


def load_model(
    config: AppConfig, name: str, folders: Sequence[Path], *, walls: Isolation | None = None
) -> StartingModel:
    """The model that ``config`` calls ``name``, with the weights of its checkpoint from one of ``folders``.

    ``walls`` as of ``weights.starting_model``.

    Raises ``NotEvaluated`` when there is no such file, or when the model cannot be built or does not take the weights.
    """
    try:
        checkpoint = find_checkpoint(str(config.models[name]["checkpoint"]), folders)
        return weights.starting_model(config.app_dir, name, checkpoint=checkpoint, walls=walls)
    except FlipError as error:
        if error.code == "E0210":
            raise NotEvaluated(MODEL_NOT_FOUND, f"{error.what} ({error.why})") from None
        raise NotEvaluated(MODEL_UNUSABLE, str(error.facts.get("problem") or error.what)) from None


def not_evaluated(name: str, checkpoint: str, problem: NotEvaluated) -> str:
    """The hub's row about a model that no site was asked to evaluate."""
    return f"model '{name}' ({checkpoint}) is not evaluated: {problem}"
