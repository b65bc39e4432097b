"""Which source a process reads from."""

from __future__ import annotations

from pathlib import Path

from flip_fl.data.sources.base import Source
from flip_fl.settings import ClientSettings, DevSettings, is_dev, load, settings_file


def open_source(slot: str, workspace: Path | None = None, *, imaging: bool = True) -> Source:
    """The source of the site ``slot``: its settings file (``local/flip.env`` of ``workspace``, else
    ``$FLIP_SETTINGS_DIR/<slot>.env``), else the environment, say development or production. ``imaging``: the
    app's IMAGING; when false a development cohort is a table, whatever DEV_TABULAR says.

    Raises ``FlipError`` E0401, E0404 or E0405 naming the setting that is missing, malformed or ambiguous.
    """
    from flip_fl.data.sources.folder import FolderSource
    from flip_fl.data.sources.trust import TrustSource

    file = settings_file(slot, workspace)
    if is_dev(file):
        return FolderSource(load(DevSettings, file) if imaging else load(DevSettings, file, tabular=True))
    return TrustSource(load(ClientSettings, file))
