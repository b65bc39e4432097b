"""The part of the report that needs no script: the run in plain, escaped HTML.

Mail previews and locked-down viewers run no script. Where one runs, the page replaces all of this.
"""

from __future__ import annotations

import re
from html import escape

from flip_fl.dashboard.story import Story

_CONTROL = re.compile("[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def text(value: object) -> str:
    """``value`` as HTML text: markup escaped, control and direction-changing characters shown instead of obeyed."""
    return escape(_CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(value)))


def body(story: Story) -> str:
    """The whole run as HTML."""
    return f'<main id="main" class="wrap static"><h1>{text(story.model.name)}</h1><p>{text(story.headline.text)}</p></main>'
