"""Reading an app's source without running it: what a file imports, defines and calls, by its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def parsed(path: Path) -> ast.Module | None:
    """The file's syntax tree; None for a file that cannot be read or is not Python."""
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def reachable(app_dir: Path, entry: str) -> Iterator[tuple[str, ast.Module]]:
    """The app's own modules that ``entry`` imports, itself first, each once, with their files' names in the app."""
    waiting, seen = [entry], {entry}
    while waiting:
        file = waiting.pop(0)
        tree = parsed(app_dir / file)
        if tree is None:
            continue
        yield file, tree
        for name in imported(tree):
            for place in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py"):
                if place not in seen and (app_dir / place).is_file():
                    seen.add(place)
                    waiting.append(place)


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of what a module imports: ``from a import b`` names both ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module:
                yield module
            yield from (f"{module}.{alias.name}".lstrip(".") for alias in node.names)


def functions(tree: ast.Module) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions that a module itself defines, by name; of two of one name the last, as Python has it."""
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def bound(tree: ast.Module) -> frozenset[str] | None:
    """The names that a module has when it was imported, also by imports and in branches; None: a ``*`` hides some."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue  # what is bound in there is not the module's
        if isinstance(node, ast.Import | ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                return None
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        waiting.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def takes(function: ast.FunctionDef | ast.AsyncFunctionDef, arguments: int) -> bool:
    """Whether a function can be called with that many positional arguments. A decorated one may be anything: True."""
    if function.decorator_list:
        return True
    given = function.args
    positional = len(given.posonlyargs) + len(given.args)
    least = positional - len(given.defaults)
    needs_keyword = any(default is None for default in given.kw_defaults)
    return not needs_keyword and least <= arguments and (arguments <= positional or given.vararg is not None)


def last_name(node: ast.AST) -> str:
    """``Executor`` of ``Executor``, ``apis.Executor`` and ``apis.Executor(…)``; empty for anything else."""
    called = node.func if isinstance(node, ast.Call) else node
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""


def text_of(node: ast.AST | None) -> str | None:
    """The text that a constant is; None for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
