"""``flip-fl explain CODE``: what an error code means, without a network."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from flip_fl.commands.answers import Explained, Explanation
from flip_fl.commands.common import EXIT_WORDS, guided
from flip_fl.commands.output import Output
from flip_fl.commands.suggest import nearest
from flip_fl.errors import CATALOGUE, Entry, FlipError


def register(app: typer.Typer) -> None:
    app.command("explain", cls=guided("flip-fl explain E0312", "flip-fl explain"))(explain)


def explain(
    context: typer.Context,
    code: Annotated[str | None, typer.Argument(metavar="[CODE]", help="As shown, e.g. E0312 or FLIP-E0312.")] = None,
) -> Any:
    """Explain an error code, or list them all."""
    out = Output.of(context)
    entries = list(CATALOGUE.values()) if code is None else [_entry(code)]
    answer = Explained([_told(entry) for entry in entries])
    if code is None:
        out.answer(answer, "\n".join(f"{e.code}  {e.what}" for e in answer.errors))
    else:
        out.answer(answer, _text(answer.errors[0]))
    return 0


def _entry(code: str) -> Entry:
    wanted = code.upper().removeprefix("FLIP-")
    if wanted not in CATALOGUE:
        found = nearest(wanted, CATALOGUE)
        raise FlipError(
            "E0102",
            problem=f"no error has the code '{code}'",
            usage="   or   ".join(f"flip-fl explain {near}" for near in found) or "flip-fl explain",
        )
    return CATALOGUE[wanted]


def _told(entry: Entry) -> Explanation:
    words = {name: f"<{name}>" for name in entry.fields()}
    return Explanation(
        code=entry.code,
        what=entry.what.format_map(words),
        why=entry.why.format_map(words) or None,
        # A fix that consists of nothing but a fact is written where the error is raised.
        fix=None if re.fullmatch(r"\{\w+\}", entry.fix) else entry.fix.format_map(words) or None,
        explain=entry.explain or None,
        exit_code=int(entry.exit_code),
        retryable=entry.retryable,
    )


def _text(told: Explanation) -> str:
    lines = [f"FLIP-{told.code}: {told.what}"]
    lines += [f"  {name}: {value}" for name, value in (("why", told.why), ("fix", told.fix)) if value]
    if told.explain:
        lines.append(f"  {told.explain}")
    meaning = next(words for code, words in EXIT_WORDS.items() if code == told.exit_code)
    lines.append(f"  exit code: {told.exit_code} ({meaning})")
    if told.retryable:
        lines.append("  trying again helps")
    return "\n".join(lines)
