"""Which SQL of a client may run: one SELECT over the schema omop, and nothing that sqlglot does not know as harmless.

The statement is read as PostgreSQL's into a syntax tree; every node of it must be of a kind that is listed in
``sql_words``. What runs is the tree written anew, in the database's dialect, with every name quoted, and only if what
is read back passes, too. Whatever goes wrong on the way is a refusal.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Literal

from sqlglot import Dialect, ErrorLevel, TokenType, exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.dialects.sqlite import SQLite
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.parser import Parser
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.parsers.sqlite import SQLiteParser

from flip_fl.trust.address import OMOP
from flip_fl.trust.refusal import Refusal, sql_refused
from flip_fl.trust.sql_words import EXPRESSIONS, PARTS, STATEMENTS, TYPES
from flip_fl.values import MAX_SQL_CHARS, SqlReason

_MAX_DEPTH = 48
# Ordinary statements take less than two steps a token.
_MIN_STEPS = 1000
_STEPS_A_TOKEN = 10
_MAX_TYPE_PARAMETER = 1000
_MAX_NUMBER_CHARS = 18
_BRACKETS = frozenset({TokenType.L_BRACKET, TokenType.R_BRACKET, TokenType.L_BRACE, TokenType.R_BRACE})
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A line's end and a tab are the only control characters that SQL needs.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class _Bounded(Parser):
    """A parser that gives up when it goes to and fro too often: ``int(int(int(…`` takes time that doubles each time."""

    _steps = 0

    def _advance(self, times: int = 1) -> None:
        self._steps += 1
        if self._steps > _MIN_STEPS + _STEPS_A_TOKEN * self._tokens_size:
            raise sql_refused(SqlReason.TOO_DEEP)
        super()._advance(times)


class _Postgres(Postgres):
    """PostgreSQL's SQL, read with bounded effort."""

    class Parser(_Bounded, PostgresParser):
        """See ``_Bounded``."""


class _Sqlite(SQLite):
    """SQLite's, with backticks: a name in double quotes that names nothing would be taken as text."""

    class Tokenizer(SQLite.Tokenizer):
        IDENTIFIERS = ["`"]  # noqa: RUF012 - how a dialect is written

    class Parser(_Bounded, SQLiteParser):
        """See ``_Bounded``."""


def check(query: str, dialect: Literal["postgres", "sqlite"]) -> str:
    """The statement to run instead of ``query``. Raises ``Refusal`` 400 with one of a few fixed reasons."""
    if len(query) > MAX_SQL_CHARS:
        raise sql_refused(SqlReason.TOO_LONG)
    # Its warnings quote what it could not read.
    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)
    try:
        return _check(query, _Sqlite() if dialect == "sqlite" else _Postgres())
    except Refusal:
        raise
    except Exception:
        # A statement that breaks the reader (RecursionError included) is none that can be vouched for.
        raise sql_refused(SqlReason.UNREADABLE) from None


def _check(query: str, target: Dialect) -> str:
    tree = _read(query, _Postgres())
    normalize_identifiers(tree, dialect="postgres")
    _judge(tree)
    written = target.generate(tree, identify=True, comments=False, unsupported_level=ErrorLevel.RAISE)
    # What was written is judged once more as the database will read it.
    _judge(_read(written, target))
    return written


def _read(query: str, dialect: Dialect) -> exp.Expr:
    if _CONTROL.search(query):
        raise sql_refused(SqlReason.CONTROL)
    tokens = dialect.tokenize(query)
    depth = deepest = 0
    for token in tokens:
        if token.token_type in _BRACKETS:
            # Of arrays, which are not allowed anyway.
            raise sql_refused(SqlReason.OTHER)
        depth += (token.token_type is TokenType.L_PAREN) - (token.token_type is TokenType.R_PAREN)
        deepest = max(deepest, depth)
    if deepest > _MAX_DEPTH:
        raise sql_refused(SqlReason.TOO_DEEP)
    statements = [tree for tree in dialect.parser(error_level=ErrorLevel.RAISE).parse(tokens, query) if tree]
    if len(statements) != 1:
        raise sql_refused(SqlReason.SEVERAL)
    return statements[0]


def _judge(tree: exp.Expr) -> None:
    """Raises ``Refusal`` unless every part of the tree is allowed."""
    if type(tree).__name__ not in STATEMENTS:
        raise sql_refused(SqlReason.NO_SELECT)
    for node in tree.walk():
        kind = type(node).__name__
        if kind not in EXPRESSIONS:
            raise sql_refused(_why(node))
        allowed = PARTS.get(kind)
        if allowed is not None and not {key.rstrip("_") for key, value in node.args.items() if value} <= allowed:
            raise sql_refused(_why(node))
        _judge_node(node)


def _judge_node(node: exp.Expr) -> None:
    if isinstance(node, exp.Table):
        _judge_table(node)
    elif isinstance(node, exp.Limit | exp.Offset):
        _judge_count(node.expression)
    elif isinstance(node, exp.Fetch):
        _judge_count(node.args.get("count"))
    elif isinstance(node, exp.Var) and not _WORD.fullmatch(str(node.this)):
        raise sql_refused(SqlReason.UNREADABLE)
    elif isinstance(node, exp.DataType) and getattr(node.this, "value", node.this) not in TYPES:
        raise sql_refused(SqlReason.CAST)
    elif isinstance(node, exp.DataTypeParam):
        _judge_count(node.this, most=_MAX_TYPE_PARAMETER)


def _judge_table(table: exp.Table) -> None:
    schema = table.args.get("db")
    if not isinstance(table.this, exp.Identifier):
        raise sql_refused(SqlReason.FUNCTION)
    if schema is None:
        if table.this.name not in _common_tables(table):
            raise sql_refused(SqlReason.SCHEMA)
    elif schema.name != OMOP:
        raise sql_refused(SqlReason.SCHEMA)


def _judge_count(node: object, most: int | None = None) -> None:
    literal = isinstance(node, exp.Literal) and not node.is_string and node.name.isdecimal()
    if not literal or len(node.name) > _MAX_NUMBER_CHARS or (most is not None and int(node.name) > most):  # type: ignore[attr-defined]
        raise sql_refused(SqlReason.NUMBERS)


def _common_tables(table: exp.Table) -> Iterator[str]:
    """The names of the WITH queries that are visible where ``table`` stands."""
    node: exp.Expr = table
    while node.parent is not None:
        parent = node.parent
        if isinstance(parent, exp.With):
            # Inside one of them, those before it are visible.
            for earlier in parent.expressions:
                if earlier is node:
                    break
                yield earlier.alias
            node = parent.parent or parent
            continue
        for part in parent.args.values():
            if isinstance(part, exp.With):
                yield from (query.alias for query in part.expressions)
        node = parent


def _why(node: exp.Expr) -> SqlReason:
    writes = isinstance(node, exp.DML | exp.DDL | exp.Command) and not isinstance(node, exp.Select)
    if writes or node.args.get("into") or node.args.get("locks"):
        return SqlReason.WRITES
    if isinstance(node, exp.Func | exp.Dot):
        return SqlReason.FUNCTION
    return SqlReason.OTHER
