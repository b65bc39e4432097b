"""Names that become parts of paths: nets, accession numbers, scans, resources, and the files of an upload."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from flip_fl.data.paths import UPLOAD, check_accession, check_relative
from flip_fl.errors import FlipError
from flip_fl.trust import refusal

PARTIAL = ".partial"
_NET = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def check_net(net: str) -> None:
    """Raises ``Refusal`` 400 unless ``net`` is a plain name, as ``NET_ID`` is."""
    if not _NET.fullmatch(net):
        raise refusal.traversal()


def check_names(*names: str) -> None:
    """Raises ``Refusal`` 400 unless each could be a folder's plain name. A hidden one is the services' own."""
    for name in names:
        try:
            check_accession(name)
        except FlipError:
            raise refusal.traversal() from None
        if name.startswith("."):
            raise refusal.traversal()


def check_study(accession_id: str) -> None:
    """``check_names`` for what becomes a folder beside the net's upload folder."""
    check_names(accession_id)
    if accession_id == UPLOAD:
        raise refusal.traversal()


def relative_parts(file: str) -> tuple[str, ...]:
    """The parts of a plain relative path. Raises ``Refusal`` 400 for any other."""
    try:
        check_relative(file, root="", called="")
    except FlipError:
        raise refusal.traversal() from None
    parts = PurePosixPath(file).parts
    if not parts or "\\" in file or not file.isprintable() or any(part.startswith(".") for part in parts):
        raise refusal.traversal()
    return parts
