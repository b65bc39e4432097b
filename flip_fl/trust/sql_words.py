"""The kinds of nodes that a client's SQL may consist of, by the names that sqlglot gives them. All else is refused.

Functions are here only if they do nothing but compute from their arguments, and cannot make much out of little (no
``repeat``, ``lpad``, ``generate_series``, ``string_agg``). What is not known to sqlglot by a name of its own is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STATEMENTS = frozenset({"Select", "Union", "Intersect", "Except", "Subquery"})

_STRUCTURE = """
Alias All Any Boolean CTE Case Column Distinct Except Exists Fetch Filter From Group Having Identifier If Intersect
Join Limit LimitOptions Literal Null Offset Order Ordered Paren Select Star Subquery Table TableAlias Tuple Union
Values Var Where Window WindowSpec With WithinGroup
"""
_OPERATORS = """
Add And Between Div DPipe EQ Escape GT GTE ILike In IntDiv Interval Is LT LTE Like Mod Mul NEQ Neg Not NullSafeEQ
NullSafeNEQ Or Pow RegexpILike RegexpLike SimilarTo Sub
"""
_FUNCTIONS = """
Abs Avg Cast Cbrt Ceil Coalesce Concat ConcatWs Corr Count CovarPop CovarSamp CumeDist CurrentDate CurrentTimestamp
DataType DataTypeParam DateFromParts DenseRank Exp Extract FirstValue Floor Greatest Initcap Lag LastValue Lead Least
Left Length Ln Log LogicalAnd LogicalOr Lower Max Min Mode NthValue Ntile Nullif PercentRank PercentileCont
PercentileDisc Rank RegexpReplace Replace Right Round RowNumber Sign SplitPart Sqrt Stddev StddevPop StddevSamp
StrPosition StrToDate StrToTime Substring Sum TimestampTrunc TimeToStr Trim Trunc Upper Variance VariancePop
"""
EXPRESSIONS = _words(f"{_STRUCTURE} {_OPERATORS} {_FUNCTIONS}")

# Parts of a node that are no nodes themselves, or that are allowed elsewhere only.
PARTS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "Select": _words("distinct expressions from group having joins limit offset order where windows with"),
        **dict.fromkeys(
            ("Union", "Intersect", "Except"),
            _words("this expression distinct order limit offset with"),
        ),
        "Subquery": _words("this alias joins order limit offset with"),
        "Table": frozenset({"this", "db", "alias", "joins"}),
        "Column": frozenset({"this", "table", "db"}),
        "Star": frozenset(),
        "With": frozenset({"expressions"}),
        "CTE": frozenset({"this", "alias", "materialized"}),
        "Join": frozenset({"this", "side", "kind", "method", "on", "using"}),
        "Group": frozenset({"expressions"}),
        "Limit": frozenset({"expression"}),
        "Offset": frozenset({"expression"}),
        "Fetch": frozenset({"count", "direction", "limit_options"}),
    }
)

TYPES = _words(
    "BIGINT BOOLEAN CHAR DATE DECIMAL DOUBLE FLOAT INT INTERVAL SMALLINT TEXT TIME TIMESTAMP TIMESTAMPTZ VARCHAR"
)
