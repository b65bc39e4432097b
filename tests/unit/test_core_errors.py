"""The catalogue of errors is complete, and an error says what, where, why, fix and explain."""

from __future__ import annotations

import ast
import pickle
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import flip_fl
from flip_fl import errors
from flip_fl.errors import CATALOGUE, MAX_FACT_CHARS, CleanupError, ExitCode, FlipError, ResultsUploadError, printable

PACKAGE = Path(flip_fl.__file__).parent
PARTS = frozenset({"where", "why", "fix"})


@dataclass(frozen=True)
class Raised:
    """One place that makes a ``FlipError`` of a literal code."""

    place: str
    code: str
    keywords: frozenset[str]
    open_ended: bool


def _raised() -> Iterator[Raised]:
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "FlipError" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call) or not _is_flip_error(node.func) or not node.args:
                continue
            code = node.args[0]
            for literal in _literals(code):
                yield Raised(
                    place=f"{path.relative_to(PACKAGE)}:{node.lineno}",
                    code=literal,
                    keywords=frozenset(word.arg for word in node.keywords if word.arg is not None),
                    open_ended=any(word.arg is None for word in node.keywords),
                )


def _is_flip_error(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name == "FlipError"


def _literals(code: ast.expr) -> Iterator[str]:
    """The code, or both of ``"E1" if … else "E2"``."""
    if isinstance(code, ast.Constant) and isinstance(code.value, str):
        yield code.value
    elif isinstance(code, ast.IfExp):
        yield from _literals(code.body)
        yield from _literals(code.orelse)


RAISED = list(_raised())


def _fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_the_scan_sees_the_places_that_raise() -> None:
    """A scan that finds nothing would let every other test here pass."""
    assert len(RAISED) > 40
    assert {"E0401", "E0404", "E0407", "E0704", "E0903"} <= {place.code for place in RAISED}


@pytest.mark.parametrize("place", RAISED, ids=lambda place: f"{place.code}-{place.place}")
def test_every_code_raised_is_in_the_catalogue_and_gets_the_facts_it_asks_for(place: Raised) -> None:
    """A missing fact would turn an error that a user can mend into one of ours."""
    entry = CATALOGUE[place.code]
    needed = _fields(entry.what)
    needed |= set() if "why" in place.keywords else _fields(entry.why)
    needed |= set() if "fix" in place.keywords else _fields(entry.fix)
    if not place.open_ended:
        assert needed <= place.keywords, f"{place.place} lacks facts of {place.code}"
    surplus = place.keywords - PARTS - entry.fields()
    assert not surplus, f"{place.place} gives {place.code} facts that nobody is shown"


def test_a_code_stands_for_one_error() -> None:
    """Of two entries with one code the later would win in silence, and the other's places would show its words."""
    entries = [entry.code for entry in errors._ENTRIES]
    assert sorted(entries) == sorted(CATALOGUE)


def test_every_entry_of_the_catalogue_is_raised_somewhere() -> None:
    """`flip-fl explain` lists what can happen, not what was once planned."""
    assert set(CATALOGUE) - {place.code for place in RAISED} == set()


def test_every_entry_reads_as_promised() -> None:
    """Codes are E and four digits; what is said is one line that ends without a full stop; all can be explained."""
    for code, entry in CATALOGUE.items():
        assert re.fullmatch(r"E\d{4}", code)
        assert entry.code == code
        assert entry.explain, code
        # Ctrl-C is no mistake to mend.
        assert entry.fix or entry.exit_code is ExitCode.INTERRUPTED, code
        for text in (entry.what, entry.why, entry.fix):
            assert "\n" not in text, code
            assert not re.search(r"[^.]\.$", text), code
        assert isinstance(entry.exit_code, ExitCode)
        assert entry.exit_code is not ExitCode.DONE


def test_an_error_is_read_in_five_parts() -> None:
    """What, where, why, fix, explain: a line each, so that a terminal may fold nothing away."""
    error = FlipError("E0704", path="../x.pt", root="/job/custom", where="config.json:4:20")
    assert error.text().splitlines() == [
        "error[FLIP-E0704]: ../x.pt leads out of /job/custom",
        "  --> config.json:4:20",
        "  why: paths given by a job must stay inside their folder",
        "  fix: use a plain relative path without ..",
        "  see: flip-fl explain E0704",
    ]
    assert str(error) == "../x.pt leads out of /job/custom"
    assert error.exit_code is ExitCode.REFUSED


def test_an_error_is_read_by_programs() -> None:
    """`--json` prints the same facts under fixed names."""
    envelope = FlipError("E0403", url="http://x/api", problem="refused", safe="all is kept").envelope()
    assert envelope == {
        "schema": "flip-fl.error/1",
        "status": "error",
        "exit_code": 3,
        "code": "FLIP-E0403",
        "message": "no answer from the hub at http://x/api: refused",
        "where": None,
        "why": "all is kept",
        "fix": "start the hub, or correct FLIP_API_INTERNAL_URL",
        "docs": "flip-fl explain E0403",
        "retryable": True,
    }


def test_the_caller_may_know_better_why_and_how_to_mend_it() -> None:
    """`why` and `fix` replace the entry's own words."""
    error = FlipError("E0704", path="a", root="b", why="because", fix="do this")
    assert (error.why, error.fix) == ("because", "do this")


def test_an_unknown_code_and_a_missing_fact_are_bugs() -> None:
    """They must fail where they are written, not print a half sentence."""
    with pytest.raises(KeyError):
        FlipError("E9999")
    with pytest.raises(KeyError):
        FlipError("E0704", path="x")


def test_facts_cannot_forge_lines_or_colours() -> None:
    """What a user or a site typed is quoted with its control characters shown."""
    error = FlipError("E0704", path="x\n  fix: rm -rf /\x1b[31m", root="r")
    assert len(error.text().splitlines()) == 4
    assert "\x1b" not in error.text()
    assert r"\x1b[31m" in error.text()


@pytest.mark.parametrize("length", [0, 1, MAX_FACT_CHARS - 1, MAX_FACT_CHARS, MAX_FACT_CHARS + 1, 10_000])
def test_facts_are_cut_visibly(length: int) -> None:
    """A fact of any length fits a message, and what was cut shows."""
    shown = printable("x" * length)
    assert len(shown) == min(length, MAX_FACT_CHARS)
    assert shown.endswith("…") == (length > MAX_FACT_CHARS)


@pytest.mark.parametrize("value", ["{0}", "{path}", "%s", "{", "}"])
def test_facts_are_not_templates(value: str) -> None:
    """A fact that looks like a field is text."""
    assert value in str(FlipError("E0704", path=value, root="r"))


def test_an_error_crosses_process_boundaries() -> None:
    """Checks run in child processes: what they raise must arrive whole."""
    error = FlipError("E0704", path="../x", root="r", where="config.json:1:1", fix="other")
    back = pickle.loads(pickle.dumps(error))
    assert (back.text(), back.envelope(), back.facts) == (error.text(), error.envelope(), error.facts)


def test_the_two_plain_errors_have_their_documented_words() -> None:
    """Existing apps and their tests know these sentences."""
    assert str(ResultsUploadError()) == "Unexpected failure uploading results to S3"
    assert str(CleanupError("/x")) == "Failed to clean up path: /x"
