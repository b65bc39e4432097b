"""An exception, and what led to it, as plain data: so that a process that ran foreign code can tell of it to another.

Nothing here may leave a trust: texts hold values. ``app.redact`` says what may.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

MAX_CHAIN = 8
MAX_PLACES = 200
MAX_TEXT_CHARS = 8_000
_HOUSE = Path(__file__).resolve().parents[1]
# What stands between the engine and the app: the same in every traceback.
_OF_THE_SEAM = ("flip_fl.app.runner", "flip_fl.app.functions", "flip_fl.app.isolation.", "flip_fl.flower.guest_work")
CAUSE, CONTEXT = "cause", "context"


@dataclass(frozen=True)
class Place:
    """One frame. ``code`` is known in the process that raised, else found again where it is needed."""

    file: str
    line: int
    name: str
    code: CodeType | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Unparsed:
    """Where a ``SyntaxError`` says that it is; ``message`` is the parser's."""

    file: str | None
    line: int | None
    message: str


@dataclass(frozen=True)
class Raised:
    """One exception. ``text`` is None where its own code failed; ``ours``: the house wrote and raised it.

    ``link``: how the next one of the chain led to this one; empty for the last.
    """

    type: str
    text: str | None
    places: tuple[Place, ...] = ()
    lookup: bool = False
    ours: bool = False
    unparsed: Unparsed | None = None
    link: str = ""


def raised(error: BaseException) -> tuple[Raised, ...]:
    """``error`` and what led to it, the last one first."""
    chain: list[Raised] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < MAX_CHAIN:
        seen.add(id(current))
        link, following = "", None
        if current.__cause__ is not None:
            link, following = CAUSE, current.__cause__
        elif current.__context__ is not None and not current.__suppress_context__:
            link, following = CONTEXT, current.__context__
        goes_on = following is not None and id(following) not in seen and len(seen) < MAX_CHAIN
        chain.append(_one(current, link if goes_on else ""))
        current = following if goes_on else None
    return tuple(chain)


def told(chain: Sequence[Raised]) -> list[dict[str, Any]]:
    """``chain`` as JSON takes it."""
    return [
        {
            "type": each.type,
            "text": None if each.text is None else each.text[:MAX_TEXT_CHARS],
            "places": [[place.file, place.line, place.name] for place in each.places[-MAX_PLACES:]],
            "lookup": each.lookup,
            "ours": each.ours,
            "unparsed": None if (at := each.unparsed) is None else [at.file, at.line, at.message],
            "link": each.link,
        }
        for each in chain
    ]


def whole_text(chain: Sequence[Raised]) -> str:
    """The traceback as Python lays it out, values included."""
    blocks = []
    for each in reversed(chain):
        frames = [f'  File "{place.file}", line {place.line}, in {place.name}' for place in each.places]
        head = ["Traceback (most recent call last):", *frames] if frames else []
        blocks.append("\n".join([*head, f"{each.type}: {each.text}" if each.text else each.type]))
    return "\n\n".join(blocks)


def heard(given: Any) -> tuple[Raised, ...]:
    """What ``told`` has made, from whoever sends it. Raises ``ValueError`` for anything else."""
    if not isinstance(given, list) or not 0 < len(given) <= MAX_CHAIN:
        raise ValueError("no exceptions are told")
    return tuple(_heard(each) for each in given)


def _heard(given: Any) -> Raised:
    try:
        text, unparsed, places = given["text"], given["unparsed"], given["places"]
        return Raised(
            type=_str(given["type"]),
            text=None if text is None else _str(text)[:MAX_TEXT_CHARS],
            places=tuple(Place(_str(file), _int(line), _str(name)) for file, line, name in places[:MAX_PLACES]),
            lookup=given["lookup"] is True,
            ours=given["ours"] is True,
            unparsed=None if unparsed is None else _unparsed(*unparsed),
            link=given["link"] if given["link"] in (CAUSE, CONTEXT) else "",
        )
    except (KeyError, TypeError, IndexError) as problem:
        raise ValueError(f"an exception is not told as it must be ({type(problem).__name__})") from None


def _unparsed(file: Any, line: Any, message: Any) -> Unparsed:
    return Unparsed(None if file is None else _str(file), None if line is None else _int(line), _str(message))


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is no text")
    return value


def _int(value: Any) -> int:
    if type(value) is not int:
        raise ValueError("a line is no number")
    return value


def _one(error: BaseException, link: str) -> Raised:
    try:
        text: str | None = str(error)
    except Exception:
        text = None
    unparsed = None
    if isinstance(error, SyntaxError):
        unparsed = Unparsed(error.filename, error.lineno, str(error.msg))
    frames = list(traceback.walk_tb(error.__traceback__))
    return Raised(
        type=plain_type(type(error)),
        text=text,
        places=tuple(
            Place(frame.f_code.co_filename, line or 0, frame.f_code.co_name, frame.f_code)
            for frame, line in frames
            if not str(frame.f_globals.get("__name__")).startswith(_OF_THE_SEAM)
        ),
        lookup=isinstance(error, LookupError),
        ours=_is_ours(error, frames),
        unparsed=unparsed,
        link=link,
    )


def _is_ours(error: BaseException, frames: list[Any]) -> bool:
    """Whether the house wrote and raised it: its messages hold no data by rule, the app may not borrow them."""
    if not type(error).__module__.startswith("flip_fl."):
        return False
    return bool(frames) and Path(frames[-1][0].f_code.co_filename).resolve().is_relative_to(_HOUSE)


def plain_type(kind: type[BaseException]) -> str:
    """The type's name, or that of its nearest base that a module really defines: a made-up name could hold a value."""
    for base in kind.__mro__:
        owner: object = sys.modules.get(base.__module__)
        for name in base.__qualname__.split("."):
            owner = getattr(owner, name, None)
        if owner is base:
            return base.__name__ if base.__module__ == "builtins" else f"{base.__module__}.{base.__qualname__}"
    return "Exception"
