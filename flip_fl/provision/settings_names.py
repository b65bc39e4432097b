"""Lines of a kit's settings file that nothing reads: a misspelt name would silently have no effect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from flip_fl import settings
from flip_fl.app.spelling import nearest
from flip_fl.privacy import existing_names
from flip_fl.provision.files import Finding
from flip_fl.values import Role

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


def unread_lines(file: Path, told: Path, role: Role) -> Iterator[Finding]:
    """A warning for each line of ``file`` (shown as ``told``) that no process of ``role`` reads; values are not shown.

    Lines are found by the parser that settings are loaded with. A misspelt variable of a site's filter is not among
    them: the policy refuses it.
    """
    with file.open(encoding="utf-8") as stream:
        for binding in parse_stream(stream):
            place = f"{told}:{_line(binding)}"
            if binding.error or (binding.key is not None and binding.value is None):
                fix = "write NAME=value, one in a line; a # before it makes it a comment"
                yield Finding("settings", "warn", f"{place} cannot be read", "the line has no effect", fix)
            elif binding.key is not None and not _reads(binding.key, role):
                # What is no name may be a key that was pasted without one.
                word = binding.key if _NAME.fullmatch(binding.key) else "what stands before the ="
                why = "the line has no effect"
                yield Finding("settings", "warn", f"{place}: nothing reads {word}", why, _fix(binding.key, role))


def _line(binding: Binding) -> int:
    """What precedes a binding, empty lines too, is part of its text."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _reads(name: str, role: Role) -> bool:
    # Settings are found in any case.
    upper = name.upper()
    return upper in settings.names_of(role) or (role is Role.CLIENT and upper.startswith(existing_names.PREFIX))


def _fix(name: str, role: Role) -> str:
    others = [other for other in Role if other is not role and name.upper() in settings.names_of(other)]
    if others:
        return f"take it out: it is the FL {others[0].value}'s"
    known = settings.names_of(role)
    near = nearest(name, known | set(existing_names.KNOWN) if role is Role.CLIENT else known)
    return f"did you mean {' or '.join(near)}?" if near else f"take it out; known are {', '.join(sorted(known))}"
