"""The words that may stand in an exception's text: those that come from code, not from data."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType

_MAX_FILES = 200
_MAX_FILE_BYTES = 1 << 20
_HOLE = re.compile(r"%\(\w+\)[-#0 +]*\d*(?:\.\d+)?[a-zA-Z]|%[-#0 +]*\d*(?:\.\d+)?[a-zA-Z]|\{[^{}]*\}")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_MIN_WORD_CHARS = 3
# The rooms whose errors an app may meet.
_SPEAKING = ("app", "core", "data", "privacy", "flower", "nvflare", "services")
_MIN_PHRASE_CHARS = 6

_TYPE_NAMES = frozenset(
    name for name, value in vars(builtins).items() if isinstance(value, type)
) | frozenset(
    """NoneType module method function builtin_function_or_method generator mappingproxy dict_keys dict_values
    ndarray numpy Tensor Parameter DataFrame Series Index MultiIndex RangeIndex Timestamp NaTType Categorical torch
    Module ModuleList Sequential DataLoader Subset TensorDataset Dataset Site Studies PosixPath Path Size dtype
    Float Double Half BFloat16 Int Long Short Char Byte Bool FloatTensor DoubleTensor LongTensor IntTensor
    float16 float32 float64 int8 int16 int32 int64 uint8 object""".split()  # noqa: SIM905 (a list of sixty lines is harder to read)
)  # fmt: skip


@dataclass
class Vocabulary:
    """What may be shown: ``words`` and ``phrases`` of an exception's text, and ``names`` of code.

    A *word* is a string literal of the app itself. A *phrase* is a piece of at least two words from the code that
    raised. Neither can be put together from single letters, and nothing of digits alone is ever one.
    """

    words: set[str] = field(default_factory=set)
    phrases: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    @classmethod
    def of_app(cls, app_dir: Path | None) -> Vocabulary:
        """The literals and identifiers of the app's own source files."""
        own = cls(names=set(_TYPE_NAMES) | set(keyword.kwlist))
        if app_dir is None:
            return own
        for path in sorted(app_dir.rglob("*.py"))[:_MAX_FILES]:
            try:
                if path.stat().st_size > _MAX_FILE_BYTES:
                    continue
                tree = ast.parse(path.read_bytes())
            except (OSError, SyntaxError, ValueError):
                continue
            own._learn(tree)
        return own

    @classmethod
    def of_house(cls) -> Vocabulary:
        """The phrases and identifiers of the house's own source files."""
        return _of_house()

    def add(self, other: Vocabulary) -> None:
        """Everything of ``other``."""
        self.words |= other.words
        self.phrases |= other.phrases
        self.names |= other.names

    def add_code(self, code: CodeType) -> None:
        """The phrases and names of a library's code object that is part of the traceback."""
        self.names.update(code.co_names)
        self.add_phrases(constant for constant in code.co_consts if isinstance(constant, str))

    def add_phrases(self, literals: Iterable[str]) -> None:
        """The phrases of ``literals``."""
        self.phrases.update(piece for literal in literals for piece in pieces(literal) if _is_phrase(piece))

    def trusted(self) -> list[str]:
        """All words and phrases, the longest first."""
        return sorted(self.words | self.phrases, key=len, reverse=True)

    def _learn(self, tree: ast.AST) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.words.update(piece for piece in pieces(node.value) if _is_word(piece))
                if _IDENTIFIER.fullmatch(node.value):
                    self.names.add(node.value)
            else:
                self.names.update(_names(node))


@cache
def _of_house() -> Vocabulary:
    own = Vocabulary()
    package = Path(__file__).resolve().parents[1]
    for path in sorted(
        (*package.glob("*.py"), *(file for name in _SPEAKING for file in package.glob(f"{name}/**/*.py")))
    ):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            own.names.update(_names(node))
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                own.add_phrases([node.value])
    return own


def pieces(literal: str) -> Iterable[str]:
    """The parts of a literal between its place-holders (``%s``, ``{name}``)."""
    return (piece for piece in _HOLE.split(literal) if piece)


def _is_word(piece: str) -> bool:
    return len(piece.strip()) >= _MIN_WORD_CHARS and any(char.isalpha() for char in piece)


def _is_phrase(piece: str) -> bool:
    bare = piece.strip()
    return len(piece) >= _MIN_PHRASE_CHARS and any(map(str.isalpha, bare)) and any(map(str.isspace, piece))


def _names(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        return (node.attr,)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.arg):
        return (node.arg,)
    if isinstance(node, ast.keyword):
        return (node.arg,) if node.arg else ()
    if isinstance(node, ast.alias):
        return (node.name, *node.name.split("."), *((node.asname,) if node.asname else ()))
    if isinstance(node, ast.ImportFrom) and node.module:
        return (node.module, *node.module.split("."))
    return ()
