"""The page's parts as the package carries them: a template, a style sheet, and a script in several files.

Report and live page use the same ones. The script is one closed scope that begins with the words of ``words.table``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from urllib.parse import quote

from flip_fl.dashboard import words

_SLOT = re.compile(r"\{\{(\w+)\}\}")
_ICON_COLOURS: Mapping[words.Tone, str] = {
    "good": "#0b6b4f",
    "active": "#0a58a8",
    "warn": "#8a4b00",
    "bad": "#b3261e",
    "quiet": "#4c5a67",
}


def stylesheet() -> str:
    """The one CSS sheet for screen, dark screen and paper."""
    return _read("page.css")


def script() -> str:
    """The renderer: plain JavaScript without a dependency, ready for a ``<script>`` element."""
    folder = files("flip_fl.dashboard") / "assets" / "js"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".js"))
    parts = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    return f'"use strict";\n(() => {{\nconst WORDS = {json.dumps(words.table())};\n{parts}}})();\n'


def policy(style: str, code: str) -> str:
    """A content security policy under which only this style and this code work, and nothing is fetched."""
    return (
        f"default-src 'none'; script-src '{_digest(code)}'; style-src '{_digest(style)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def icon(tone: words.Tone) -> str:
    """A ``data:`` address of the tab's icon: a disc in the tone's colour."""
    disc = f'<circle cx="8" cy="8" r="7" fill="{_ICON_COLOURS[tone]}"/>'
    return "data:image/svg+xml," + quote(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{disc}</svg>')


def page(slots: Mapping[str, str]) -> str:
    """The template with its ``{{slots}}`` filled, in one pass: what is filled in is not looked at again.

    Raises ``KeyError`` for a slot without a text.
    """
    return _SLOT.sub(lambda match: slots[match[1]], _read("page.html"))


def _read(name: str) -> str:
    return (files("flip_fl.dashboard") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
