"""The page's parts as the package carries them: templates, a style sheet, and a script in several files.

Report and live pages use the same ones. A script is one closed scope that begins with the words of ``words.table``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import quote

from flip_fl.dashboard import words

# What the hub's pages may do: their own files, pictures that are part of the data, and drawings to be saved.
SERVED_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_SLOT = re.compile(r"\{\{(\w+)\}\}")


def stylesheet() -> str:
    """The report's CSS sheet for screen, dark screen and paper."""
    return _tight(_unindented(_read("page.css")))


def hub_stylesheet() -> str:
    """The sheet of the pages that a hub serves: the report's, and what only they have."""
    return stylesheet() + _tight(_unindented(_read("hub.css")))


def script() -> str:
    """The report's script: plain JavaScript without a dependency, ready for a ``<script>`` element."""
    return _scope([*_folder("js"), _read("report.js")])


def run_script() -> str:
    """The script of a run's page."""
    return _scope([*_folder("js"), *map(_read, ("stream.js", "frame.js", "run.js")), _begin("runPage")])


def lists_script() -> str:
    """The script of the pages with lists, and of the comparison."""
    return _scope([*_folder("js"), _read("frame.js"), *_folder("lists"), _begin("listPage")])


def worker_script() -> str:
    """What holds one stream for all tabs of a browser."""
    return _scope([_read("stream.js"), _read("worker.js")])


@dataclass(frozen=True)
class Served:
    """One file below ``/assets``; its name holds a digest of it, so that it never changes."""

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True)
class ServedAssets:
    """What a hub's pages ask for."""

    style: Served
    run: Served
    lists: Served
    worker: Served

    def named(self, name: str) -> Served | None:
        """The file of this name; None if there is none."""
        return next((each for each in (self.style, self.run, self.lists, self.worker) if each.name == name), None)


def served() -> ServedAssets:
    """Style, scripts and worker as a hub serves them."""
    return ServedAssets(
        _hashed("app", "css", "text/css; charset=utf-8", hub_stylesheet()),
        _hashed("run", "js", "text/javascript; charset=utf-8", run_script()),
        _hashed("lists", "js", "text/javascript; charset=utf-8", lists_script()),
        _hashed("worker", "js", "text/javascript; charset=utf-8", worker_script()),
    )


def policy(style: str, code: str) -> str:
    """A content security policy under which only this style and this code work, and nothing is fetched."""
    return (
        f"default-src 'none'; script-src '{_digest(code)}'; style-src '{_digest(style)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def icon(tone: words.Tone) -> str:
    """A ``data:`` address of the tab's icon."""
    return "data:image/svg+xml," + quote(icon_svg(tone))


def icon_svg(tone: words.Tone) -> str:
    """The tab's icon: a disc in the tone's colour."""
    disc = f'<circle cx="8" cy="8" r="7" fill="{words.TONE_COLOURS[tone]}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{disc}</svg>'


def page(slots: Mapping[str, str], template: str = "page.html") -> str:
    """The template with its ``{{slots}}`` filled, in one pass: what is filled in is not looked at again.

    Raises ``KeyError`` for a slot without a text.
    """
    return _SLOT.sub(lambda match: slots[match[1]], _read(template))


def _folder(name: str) -> list[str]:
    folder = files("flip_fl.dashboard") / "assets" / name
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".js"))
    return [(folder / entry).read_text(encoding="utf-8") for entry in names]


def _begin(make: str) -> str:
    return _read("begin.js").replace("PAGE_MAKER", make)


def _scope(parts: Sequence[str]) -> str:
    kept = _unindented("\n".join(parts))
    return '"use strict";\n(() => {\nconst WORDS = ' + json.dumps(words.table()) + ";\n" + kept + "\n})();\n"


def _unindented(text: str) -> str:
    """What only its authors need does not travel: whole lines of comment, and how lines are indented."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(("//", "/*"))) + "\n"


def _tight(sheet: str) -> str:
    """A sheet without the spaces that mean nothing in CSS; ours has no text in which they would."""
    return re.sub(r":\s+", ":", re.sub(r"\s*([{};,])\s*", r"\1", sheet)).replace(";}", "}")


def _hashed(stem: str, ending: str, media_type: str, text: str) -> Served:
    content = text.encode("utf-8")
    return Served(f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.{ending}", media_type, content)


def _read(name: str) -> str:
    return (files("flip_fl.dashboard") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
