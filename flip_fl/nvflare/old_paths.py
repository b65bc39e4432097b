"""Classes that a job's JSON calls by FLIP's own paths (``flip.nvflare.components.…``)."""

from __future__ import annotations

import logging

from flip_fl.compat import alias

logger = logging.getLogger("flip_fl.nvflare")


def accept_old_paths() -> None:
    """From now on such a path is flip_fl's class in this process, where no real ``flip`` is installed.

    Our workflows and our executor call this when NVFLARE builds them: its config names them before any filter.
    """
    alias.install(logger.warning)
