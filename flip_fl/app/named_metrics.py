"""Which metrics an app's source names, and which keys of its config it reads: what can be said without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flip_fl.app.dict_names import keys_of, scopes
from flip_fl.app.forms import Form, FormKind
from flip_fl.app.metric_key import metric_key
from flip_fl.app.runner import BOOKKEEPING
from flip_fl.app.syntax import functions, last_name, reachable, text_of
from flip_fl.privacy.labels import LABEL_COUNTS

# Calls whose first argument is a metric's name, and those that are given a dict of them.
_NAMED = frozenset({"log", "log_metric", "add_scalar", "send_metrics_value"})
_DICTS = frozenset({"log_metrics", "MetricRecord", "FLModel"})
# They log words, or are no logging at all.
_NOT_SITES = frozenset({"logger", "logging", "math", "np", "numpy", "torch"})
_RETURNING = {"train": "train_", "validate": "", "evaluate": ""}


@dataclass(frozen=True)
class Reported:
    """``names`` as the hub would show them, in the order of the source; ``computed``: further ones are made up as the
    app runs, and cannot be told from its source."""

    names: tuple[str, ...]
    computed: bool


@dataclass(frozen=True)
class KeyRead:
    """A key of ``config`` that the app reads without asking whether it is there."""

    file: str
    line: int
    key: str


def reported(form: Form) -> Reported:
    """The metrics that the app's source names."""
    found: dict[str, None] = {}
    computed = False
    for _, tree in reachable(form.app_dir, form.entry):
        for name in _named(tree, form.kind):
            if name is None:
                computed = True
            else:
                label = metric_key(name)[0]
                if label not in BOOKKEEPING:
                    found.setdefault(label)
    return Reported(tuple(found), computed)


def keys_read(form: Form) -> tuple[KeyRead, ...]:
    """Each key that a neutral app reads as ``config["KEY"]``, with the place of its first use.

    A key that the same file asks for first (``"KEY" in config``, ``config.get``) or sets is left out.
    """
    found: dict[str, KeyRead] = {}
    for file, tree in reachable(form.app_dir, form.entry):
        asked = set(_asked(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and _is_config(node.value) and isinstance(node.ctx, ast.Load):
                key = text_of(node.slice)
                if key is not None and key not in asked:
                    found.setdefault(key, KeyRead(file, node.lineno, key))
    return tuple(found.values())


def _named(tree: ast.Module, kind: FormKind) -> Iterator[str | None]:
    """Names in the source; None for one that is computed."""
    for scope in scopes(tree):
        for node in scope:
            if isinstance(node, ast.Call):
                yield from _named_by(node, scope)
    if kind is FormKind.NEUTRAL:
        for name, function in functions(tree).items():
            if name in _RETURNING:
                for key in _returned(function):
                    if key == LABEL_COUNTS and name == "train":
                        continue  # a table of the page, and no metric
                    yield key if key is None or key in BOOKKEEPING else f"{_RETURNING[name]}{key}"


def _named_by(call: ast.Call, scope: Sequence[ast.AST]) -> Iterator[str | None]:
    name = last_name(call)
    if name in _NAMED and _receiver(call) not in _NOT_SITES:
        label = call.args[0] if call.args else _keyword(call, "label") or _keyword(call, "tag")
        if name == "log" and label is None:
            label = _keyword(call, "key")
        if label is not None:
            yield text_of(label)
    elif name in _DICTS:
        given = _keyword(call, "metrics") if name == "FLModel" else call.args[0] if call.args else None
        if given is not None:
            yield from keys_of(given, scope, _DICTS)


def _returned(function: ast.AST) -> Iterator[str | None]:
    scope = next(scopes(function))
    for node in scope:
        if isinstance(node, ast.Return) and node.value is not None:
            yield from keys_of(node.value, scope)


def _asked(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        key = None
        if isinstance(node, ast.Compare) and any(_is_config(other) for other in node.comparators):
            key = text_of(node.left)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_config(node.func.value):
            key = text_of(node.args[0]) if node.args else None
        elif isinstance(node, ast.Subscript) and _is_config(node.value) and not isinstance(node.ctx, ast.Load):
            key = text_of(node.slice)
        if key is not None:
            yield key


def _is_config(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "config"


def _receiver(call: ast.Call) -> str:
    return last_name(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)
