"""Scripts and style sheets without what only their authors read: comments, indentation, spaces between signs.

A script's line ends stay, so its own rules of where a statement ends do, and an error names a line that can be found.
"""

from __future__ import annotations

import re
from functools import lru_cache

_TOKEN = re.compile(
    r"""(?P<lines>[^\S\n]*\n\s*)|(?P<space>[^\S\n]+)|(?P<comment>//[^\n]*|/\*.*?\*/)"""
    r"""|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<word>[\w$]+)|(?P<sign>.)""",
    re.DOTALL,
)
_REGEX = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\[\n])+/[a-z]*")
# Behind these a slash divides; behind anything else it begins a regular expression.
_VALUE_ENDS = re.compile(r"[\w$)\]\"'`]$")
_BEFORE_A_VALUE = frozenset({"return", "typeof", "case", "in", "of", "delete", "void", "throw", "new", "else"})
# Two signs that would become one, or two words.
_APART = re.compile(r"\+\+|--|[\w$][\w$]")
_CSS_TEXT = re.compile(r'("(?:\\.|[^"\\])*")')


@lru_cache(maxsize=64)
def script(text: str) -> str:
    """JavaScript that does the same. Its comments are whole lines or stand where a space may."""
    out: list[str] = []
    _code(text, 0, out)
    return "".join(out).strip("\n") + "\n"


@lru_cache(maxsize=8)
def style(text: str) -> str:
    """A style sheet that says the same; what stands in double quotes stays as it is."""
    bare = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    parts = _CSS_TEXT.split("\n".join(line.strip() for line in bare.splitlines() if line.strip()))
    # Before a colon a space means something: it stands between two selectors.
    parts[::2] = [re.sub(r"\s*([{};,])\s*|(?<=:) +", lambda found: found[1] or "", part) for part in parts[::2]]
    return "".join(parts) + "\n"


def _code(text: str, at: int, out: list[str]) -> int:
    """Squeeze from ``at`` to the end, or to the brace that closes the hole of a template; where that is."""
    last, gap, depth = "", "", 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        assert found is not None
        token, kind = found[0], found.lastgroup
        if kind == "sign" and token == "/" and (last in _BEFORE_A_VALUE or not _VALUE_ENDS.search(last)):
            regex = _REGEX.match(text, at)
            assert regex is not None, text[at : at + 80]
            token = regex[0]
        at += len(token)
        if kind in ("lines", "space", "comment"):
            gap = "\n" if "\n" in token or gap == "\n" else " "
            continue
        if token == "}" and depth == 0:
            return at - 1
        depth += (token == "{") - (token == "}")
        if gap == "\n" or (gap and _APART.fullmatch(last[-1:] + token[0])):
            out.append(gap)
        out.append(token)
        if token == "`":
            at = _template(text, at, out)
        last, gap = token, ""
    return at


def _template(text: str, at: int, out: list[str]) -> int:
    """Copy a template's text and squeeze its holes; the place behind its end."""
    while text[at] != "`":
        if text.startswith("${", at):
            out.append("${")
            at = _code(text, at + 2, out)
            out.append("}")
            at += 1
        else:
            size = 2 if text[at] == "\\" else 1
            out.append(text[at : at + size])
            at += size
    out.append("`")
    return at + 1
