"""Whether a file of a bundle has the form that its kind says. Each check gives the problem in words, or None."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flip_fl.results.contents import Item, Kind
from flip_fl.results.evaluation import sound

_PNG = b"\x89PNG\r\n\x1a\n"
_FAILURE = {"model", "client", "return_code"}
MAX_DEPTH = 8


def problem_of(item: Item, path: Path) -> str | None:
    """What is wrong with the form of ``item``, which lies at ``path``. Models are loaded elsewhere: None for them."""
    if item.kind is Kind.MODEL:
        return None
    if item.kind is Kind.PICTURE:
        return None if _begins(path, _PNG) else "it is no PNG"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return "it is no JSON"
    return _CHECKS[item.kind](document, item.required)


def _scores(document: Any, required: bool) -> str | None:
    if not isinstance(document, dict) or not all(isinstance(models, dict) for models in document.values()):
        return "it is not of the form {client: {model: {name: number}}}"
    if required and not any(document.values()):
        return "no client has a result in it"
    for models in document.values():
        for values in models.values():
            if not isinstance(values, dict) or not all(_numbers(value, MAX_DEPTH) for value in values.values()):
                return "a model's result in it holds something else than finite numbers"
    # What a job has for its result is held to all the rules of an evaluation.
    return sound(document, []) if required else None


def _numbers(value: Any, depth: int) -> bool:
    """Whether ``value`` is a finite number, or lists and objects of such."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_numbers(each, depth - 1) for each in inner)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _failures(document: Any, required: bool) -> str | None:
    form = "it is not of the form [{model, client, return_code}]"
    if not isinstance(document, list):
        return form
    sound = all(
        isinstance(each, dict) and set(each) == _FAILURE and all(isinstance(text, str) for text in each.values())
        for each in document
    )
    return None if sound else form


def _anything(document: Any, required: bool) -> str | None:
    return None


def _begins(path: Path, mark: bytes) -> bool:
    with path.open("rb") as source:
        return source.read(len(mark)) == mark


_CHECKS: Mapping[Kind, Callable[[Any, bool], str | None]] = {
    Kind.SCORES: _scores,
    Kind.FAILURES: _failures,
    Kind.DOCUMENT: _anything,
}
