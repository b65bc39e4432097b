"""What an entry of the cache of derived tensors depends on: the files, and what ``prepare`` does, as one digest.

A digest that is equal for two different functions would serve one's results as the other's. So a function is described
by its code and by everything that the code reaches by name; where that cannot be told, there is no digest.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import hashlib
import importlib.metadata
import importlib.util
import logging
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

# Changes whenever the readers would give other arrays for the same files.
READERS = 1
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), PurePath)
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class _Unknown(Exception):
    """Something whose value, or whose code, cannot be told."""


def entry_key(function: str, study: str, names: Iterable[str]) -> str:
    """The key of what ``function`` (a digest of ``identity``) makes of one study.

    ``names`` say which of the study's files are used, and what they were like: pattern, relative name, size, time.
    The study takes part by itself: files of two studies may be alike in all of that.
    """
    digest = hashlib.sha256()
    for part in (str(READERS), function, study, *names):
        digest.update(f"{len(part)}:".encode() + part.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def identity(function: Callable[..., Any] | None) -> str | None:
    """A digest of what ``function`` does, the same in every process; None where that cannot be told.

    It covers code, constants, defaults, values of closures, and what the code reaches by name: functions likewise,
    plain values, the researcher's own modules by their files, installed packages by their version. An array, a model
    or an object of a class with state is not told.
    """
    try:
        return hashlib.sha256("\n".join(_described(function, set())).encode()).hexdigest()
    except (_Unknown, OSError, RecursionError):
        return None


def _described(value: Any, seen: set[int]) -> Iterator[str]:
    import numpy as np

    if isinstance(value, Enum):
        yield f"{type(value).__module__}.{value}"
    elif isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}"
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} {len(value)}"
        for each in value:
            yield from _described(each, seen)
    elif isinstance(value, set | frozenset):
        # The order of a set differs from process to process.
        yield from sorted(" ".join(_described(each, seen)) for each in value)
    elif isinstance(value, Mapping):
        yield f"{type(value).__name__} {len(value)}"
        for key, each in value.items():
            yield from _described(key, seen)
            yield from _described(each, seen)
    elif isinstance(value, functools.partial):
        for part in (value.func, value.args, value.keywords):
            yield from _described(part, seen)
    elif isinstance(value, CodeType):
        yield from _code(value, seen)
    elif isinstance(value, FunctionType):
        yield from _function(value, seen)
    elif isinstance(value, ModuleType):
        yield from _module(value, seen)
    elif isinstance(value, type):
        yield f"class {value.__module__}.{value.__qualname__}"
        yield from _module(_home(value), seen)
    elif isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | None):
        yield f"builtin {value.__module__}.{value.__qualname__}"
    elif isinstance(value, logging.Logger):
        yield "logger"
    elif isinstance(value, np.generic | np.dtype | np.ufunc) or _is_torch_name(value):
        yield f"{value!r}"
    elif hasattr(value, "__wrapped__") and type(value).__module__ == "functools":
        yield from _described(value.__wrapped__, seen)
    else:
        raise _Unknown


def _is_torch_name(value: Any) -> bool:
    return type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device", "layout")


def _function(function: FunctionType, seen: set[int]) -> Iterator[str]:
    yield f"function {function.__module__}.{function.__qualname__}"
    if id(function) in seen:
        return
    seen.add(id(function))
    yield from _code(function.__code__, seen)
    yield from _described(function.__defaults__, seen)
    yield from _described(function.__kwdefaults__, seen)
    for cell in function.__closure__ or ():
        yield from _described(_content(cell), seen)
    for name in sorted(set(_globals(function.__code__))):
        if name in function.__globals__:
            yield f"global {name}"
            yield from _described(function.__globals__[name], seen)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        raise _Unknown from None  # not bound yet


def _code(code: CodeType, seen: set[int]) -> Iterator[str]:
    yield f"code {code.co_code.hex()} {code.co_exceptiontable.hex()} {code.co_flags}"
    yield f"names {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars}"
    yield from _imports(code)
    yield from _described(code.co_consts, seen)


def _globals(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant)


def _imports(code: CodeType) -> Iterator[str]:
    """What the code imports when it runs; only of installed packages is it known before."""
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            package = step.argval.partition(".")[0]
            spec = importlib.util.find_spec(package) if package else None
            if spec is None or (
                spec.origin not in (None, "built-in", "frozen") and not _is_installed(spec.origin or "")
            ):
                raise _Unknown
            yield package
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                yield importlib.metadata.version(package)


def _module(module: ModuleType, seen: set[int]) -> Iterator[str]:
    """An installed one by its version, another by its file and what it has from others of that kind."""
    yield f"module {module.__name__} {getattr(module, '__version__', '')}"
    if id(module) in seen:
        return
    seen.add(id(module))
    file = getattr(module, "__file__", None)
    if _is_installed(file) if file is not None else not hasattr(module, "__path__"):
        return
    if file is not None:
        yield hashlib.sha256(Path(file).read_bytes()).hexdigest()
    for name, value in sorted(vars(module).items()):
        if isinstance(value, ModuleType | FunctionType | type) and not name.startswith("__"):
            yield from _module(value if isinstance(value, ModuleType) else _home(value), seen)


def _home(value: Any) -> ModuleType:
    module = sys.modules.get(value.__module__)
    if module is None:
        raise _Unknown
    return module


def _is_installed(file: str) -> bool:
    return file.startswith(_INSTALLED)
