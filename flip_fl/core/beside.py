"""A process of a site's that has neither settings nor keys of its own, and asks the one beside it for the data."""

from __future__ import annotations

from flip_fl.core.standard import FLIPStandardProd
from flip_fl.data.sources.base import Source
from flip_fl.values import Role

# One process is one script of one site, as one interpreter has one sys.path.
_given: list[Source] = []


def give(source: Source) -> None:
    """From now on ``FLIP()`` in this process reads from ``source``."""
    _given[:] = [source]


def given() -> Source | None:
    """What was given to this process."""
    return _given[0] if _given else None


class FLIPBeside(FLIPStandardProd):
    """The client of a trust whose services somebody else asks. What is a server's raises as there."""

    def __init__(self, source: Source) -> None:
        super(FLIPStandardProd, self).__init__()
        self.role = Role.CLIENT
        self._source = source
        self._hub = None
