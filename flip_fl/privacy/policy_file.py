"""Reading a site's policy file (TOML): every mistake is told with its line, and nothing is guessed."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from flip_fl.errors import FlipError
from flip_fl.privacy.policy import SitePolicy

POLICY_FILE = "policy.toml"
_HEADER = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=")
_AT_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)$")


def read_policy(path: Path) -> SitePolicy:
    """The policy in ``path``. Raises ``FlipError`` E0970 naming the file, the line and what is wrong there."""
    text, document = read_toml(path)
    return checked(document, path, text)


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of ``path`` and what it says. Raises ``FlipError`` E0970 for what is no TOML."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise refused(path, None, "there is no such file") from None
    except OSError as error:
        raise refused(path, None, f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise refused(path, None, "it is not UTF-8 text") from None
    try:
        return text, tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        said = str(error)
        at = _AT_LINE.search(said)
        line = int(at.group(1)) if at else len(text.splitlines()) or 1
        problem = _lower(_AT_LINE.sub("", said).replace(" (at end of document)", ", and the file ends"))
        raise refused(path, line, problem) from None


def checked(document: Mapping[str, Any], path: Path, text: str) -> SitePolicy:
    """``document``, read from ``text`` of ``path``, as a policy. Raises ``FlipError`` E0970."""
    try:
        return SitePolicy.model_validate(dict(document))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        lines = [line_of(text, [str(part) for part in each["loc"]]) for each in found]
        # A misspelt key explains a missing one; else the first in the file, and last what has no place of its own.
        order = [
            (each["type"] != "extra_forbidden", line or len(text)) for each, line in zip(found, lines, strict=True)
        ]
        number = order.index(min(order))
        raise refused(path, lines[number], _problem(found[number])) from None


def refused(path: Path, line: int | None, problem: str) -> FlipError:
    """The refusal of a policy file. ``line`` counts from 1; None: of the file as a whole."""
    where = f"{path}:{line}" if line else str(path)
    place = f"{path.name}, line {line}" if line else path.name
    return FlipError("E0970", where=where, place=place, problem=problem)


def line_of(text: str, location: Sequence[str]) -> int | None:
    """The line (from 1) on which the key at ``location`` stands in TOML ``text``: the longest part of it that does."""
    places: dict[tuple[str, ...], int] = {}
    section: tuple[str, ...] = ()
    for number, row in enumerate(text.splitlines(), 1):
        header = _HEADER.match(row)
        if header is not None:
            section = _parts(header.group(1))
            for length in range(1, len(section) + 1):
                places.setdefault(section[:length], number)
            continue
        key = _KEY.match(row)
        if key is not None:
            parts = _parts(key.group(1))
            for length in range(1, len(parts) + 1):
                places.setdefault(section + parts[:length], number)
    return next(
        (
            places[tuple(location[:length])]
            for length in range(len(location), 0, -1)
            if tuple(location[:length]) in places
        ),
        None,
    )


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in name.split("."))


def _problem(error: Mapping[str, Any]) -> str:
    """What pydantic found, in the words of the file."""
    location = [str(part) for part in error["loc"]]
    name, section = (location[-1] if location else ""), ".".join(location[:-1])
    where = f"[{section}]" if section else "the policy"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, _known(location[:-1]), 1)
        known = ", ".join(_known(location[:-1]))
        return f"'{name}' is not known in {where}: " + (f"did you mean '{near[0]}'?" if near else f"it has {known}")
    if error["type"] == "missing":
        return f"{where} lacks '{name}'"
    said = _lower(str(error["msg"]).removeprefix("Value error, "))
    return f"'{name}' of {where}: {said}" if name else said


def _known(location: Sequence[str]) -> list[str]:
    """The keys that the section at ``location`` has."""
    section: Any = SitePolicy
    for part in location:
        field = section.model_fields.get(part) if _is_section(section) else None
        if field is None:
            return []
        kinds = getattr(field.annotation, "__args__", (field.annotation,))
        section = next((kind for kind in kinds if _is_section(kind)), None)
    return list(section.model_fields) if _is_section(section) else []


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
