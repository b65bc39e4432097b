"""The code that a told frame or type speaks of, found again in its file: what is not there was made up."""

from __future__ import annotations

import builtins
import re
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType

_MAX_BYTES = 8 << 20
_FROZEN = re.compile(r"<frozen ([a-z_]+(?:\.[a-z_]+)*)>")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def roots() -> list[str]:
    """Where modules are imported from, the longest path first."""
    return sorted({str(Path(entry).resolve()) for entry in sys.path if entry}, key=len, reverse=True)


def code_at(file: str, line: int, name: str) -> CodeType | None:
    """The code object ``name`` of ``file`` that has the ``line``; None where there is none.

    What the interpreter has frozen is looked for in its source: ``<frozen importlib._bootstrap>``.
    """
    frozen = _FROZEN.fullmatch(file)
    if frozen is not None:
        file = str(Path(sysconfig.get_path("stdlib"), *frozen[1].split(".")).with_suffix(".py"))
    whole = _compiled(file)
    return None if whole is None else next((c for c in _within(whole) if c.co_name == name and _has(c, line)), None)


def is_type(name: str, app_dir: Path | None) -> bool:
    """Whether ``name`` is a built-in exception, or a class whose name stands in the source of the module it names."""
    if "." not in name:
        kind = getattr(builtins, name, None)
        return isinstance(kind, type) and issubclass(kind, BaseException)
    if _DOTTED.fullmatch(name) is None:
        return False
    places = ([str(app_dir.resolve())] if app_dir is not None else []) + roots()
    parts = name.split(".")
    return any(_defines(place, parts[:cut], parts[cut:]) for cut in range(len(parts) - 1, 0, -1) for place in places)


def _defines(place: str, module: list[str], names: list[str]) -> bool:
    base = Path(place, *module)
    for file in (base.with_suffix(".py"), base / "__init__.py", base / "__init__.pyi"):
        text = _text(str(file))
        if text is not None and all(re.search(rf"\b{each}\b", text) for each in names):
            return True
    return False


@cache
def _text(file: str) -> str | None:
    try:
        path = Path(file)
        return path.read_text(encoding="utf-8") if path.stat().st_size <= _MAX_BYTES else None
    except (OSError, ValueError):
        return None


@cache
def _compiled(file: str) -> CodeType | None:
    text = _text(file)
    try:
        return None if text is None else compile(text, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _within(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _within(constant)


def _has(code: CodeType, line: int) -> bool:
    return any(at == line for _, _, at in code.co_lines())
