"""The keys of a dict in an app's source: written where it is used, or filled before under a name of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from flip_fl.app.syntax import last_name, text_of

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
# They leave a dict as it is.
_READERS = frozenset({"print", "len", "dict", "sorted", "info", "debug", "dumps"})


def scopes(tree: ast.AST) -> Iterator[list[ast.AST]]:
    """The nodes of ``tree`` by the function in which they stand; what is inside of another function is its own."""
    waiting = [tree]
    while waiting:
        own, inside = [], list(ast.iter_child_nodes(waiting.pop(0)))
        while inside:
            node = inside.pop(0)
            own.append(node)
            if isinstance(node, _FUNCTIONS):
                waiting.append(node)
            else:
                inside.extend(ast.iter_child_nodes(node))
        yield own


def keys_of(given: ast.expr, scope: Sequence[ast.AST], sinks: frozenset[str] = frozenset()) -> Iterator[str | None]:
    """The keys of what ``given`` is within ``scope``; None for one that is computed, or for all of what is not known.

    ``sinks``: calls that are given the dict, and change nothing of it.
    """
    if isinstance(given, ast.Dict):
        for key, value in zip(given.keys, given.values, strict=True):
            if key is None:
                yield from keys_of(value, (), sinks)
            else:
                yield text_of(key)
    elif isinstance(given, ast.BinOp) and isinstance(given.op, ast.BitOr):
        yield from keys_of(given.left, scope, sinks)
        yield from keys_of(given.right, scope, sinks)
    elif isinstance(given, ast.Name) and any(_fills(node, given.id) for node in scope):
        for node in scope:
            yield from _filled(node, given.id, sinks)
    else:
        yield None


def _fills(node: ast.AST, name: str) -> bool:
    """Whether the dict called ``name`` is made here."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(_is(target, name) for target in targets)


def _filled(node: ast.AST, name: str, sinks: frozenset[str]) -> Iterator[str | None]:
    """The keys that ``node`` gives to the dict called ``name``."""
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        adds = isinstance(node, ast.AugAssign) and _is(node.target, name)
        if node.value is not None and (adds or _fills(node, name)):
            yield from keys_of(node.value, (), sinks)
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and _is(node.value, name):
        yield text_of(node.slice)
    elif isinstance(node, ast.Call):
        of_dict = isinstance(node.func, ast.Attribute) and _is(node.func.value, name)
        if of_dict and last_name(node) == "update":
            for each in node.args:
                yield from keys_of(each, (), sinks)
            yield from (each.arg for each in node.keywords)
        elif of_dict and last_name(node) == "setdefault":
            yield text_of(node.args[0]) if node.args else None
        elif any(_is(each, name) for each in node.args) and last_name(node) not in _READERS | sinks:
            yield None  # it may add some there


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
