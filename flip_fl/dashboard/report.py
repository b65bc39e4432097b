"""A run's report: one HTML file that needs no network, and no script to be read."""

from __future__ import annotations

import base64
import gzip
import json
import os
import tempfile
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flip_fl.dashboard import assets, static
from flip_fl.dashboard.marks import text
from flip_fl.dashboard.story import Story

FILE_MODE = 0o644
# Four digits of RFC 1924's base 85 mean something in HTML; others stand for them.
NO_MARKUP = bytes.maketrans(b"&<>`", b"./:[")


def render(story: Story) -> str:
    """The page with ``story`` inlined: a pure function of the document, at most 150 KB before the data.

    The data travels compressed and in base 85, so that no text of a site stands in the page's source as anything but
    escaped text.
    """
    style, code = assets.stylesheet(), assets.script()
    packed = gzip.compress(_data(story).encode("utf-8"), 9, mtime=0)
    return assets.page(
        {
            "policy": escape(assets.policy(style, code)),
            "version": escape(_version()),
            "title": text(f"{story.model.name} - {story.headline.text}"),
            "icon": assets.icon(story.headline.tone),
            "style": style,
            "body": static.body(story),
            "story": base64.b85encode(packed).translate(NO_MARKUP).decode("ascii"),
            "script": code,
        }
    )


def write_report(story: Story, path: Path) -> None:
    """Write the report to ``path``, making its folder; a reader sees the old file or the new one, never a part.

    Raises ``OSError`` when the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    page = render(story)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as out:
            out.write(page)
        os.chmod(name, FILE_MODE)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _data(story: Story) -> str:
    """The story as JSON; of the points, which are most of it, only the numbers: ``[x, y, round]``."""
    data = story.model_dump(mode="json")
    for plot in data["plots"]:
        for one in plot["series"]:
            for name in ("points", "earlier"):
                one[name] = [[point["x"], point["y"], point["round"]] for point in one[name]]
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _version() -> str:
    try:
        return version("flip_fl")
    except PackageNotFoundError:
        return "unknown"
