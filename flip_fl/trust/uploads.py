"""Files of a net's clients, stored as a resource of a study: never over another, all of a request or none.

``IMAGES_ROOT/<net>/upload/<file>`` → ``archive/<accession>/<resource>/<scan>/<file>``. Two scans of a study may have
resources of one name with files of one name, so the scan is a folder of its own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from flip_fl.data.paths import UPLOAD, inside
from flip_fl.errors import FlipError
from flip_fl.trust import files, names, refusal

_logger = logging.getLogger(__name__)


class Uploads:
    """Stores what clients of a net put into its upload folder. Thread-safe."""

    def __init__(self, archive: Path, images_root: Path) -> None:
        self._archive = archive
        self._root = images_root

    def store(self, net: str, accession_id: str, scan_id: str, resource_id: str, given: Sequence[str]) -> list[str]:
        """Store the files; returns where each lies below the scan's resource, in order.

        ``net`` and ``accession_id`` have been checked. Raises ``Refusal``: 400 for a name that is none or a path that
        leads out of the upload folder, 404 for a study that is not there, 500 for a file that is missing or stored
        already, and when the storage fails.
        """
        names.check_names(scan_id, resource_id)
        wanted = [names.relative_parts(file) for file in given]
        try:
            study = self._archive / accession_id
            if not files.is_folder(str(study)):
                # An archive that is not there has no studies to miss.
                os.stat(self._archive)
                raise refusal.no_study()
            self._store(net, study / resource_id / scan_id, wanted)
        except (OSError, ValueError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
            _logger.error("an upload could not be stored (%s)", reason)
            raise refusal.storage_fault() from None
        return [str(PurePosixPath(*parts)) for parts in wanted]

    def _store(self, net: str, target: Path, wanted: Sequence[tuple[str, ...]]) -> None:
        with files.workspace(self._archive / names.PARTIAL) as space:
            for number, parts in enumerate(wanted):
                self._fetch(net, parts, space / str(number))
            stored: list[Path] = []
            try:
                for number, parts in enumerate(wanted):
                    place = target.joinpath(*parts)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    # A link is made only where nothing stands: no two requests can both store a name.
                    os.link(space / str(number), place)
                    stored.append(place)
            except BaseException as error:
                for place in stored:
                    place.unlink(missing_ok=True)
                if isinstance(error, FileExistsError | NotADirectoryError):
                    raise refusal.file_present() from None
                raise

    def _fetch(self, net: str, parts: tuple[str, ...], copy: Path) -> None:
        """A copy of the client's file. Links may lead about in the upload folder, and nowhere else."""
        uploads = self._root / net / UPLOAD
        try:
            real = inside(uploads, Path(*parts)).relative_to(uploads.resolve()).parts
        except FlipError:
            raise refusal.traversal() from None
        except (OSError, RuntimeError):
            # Links that lead in a circle.
            raise refusal.file_missing() from None
        try:
            with contextlib.ExitStack() as stack:
                folder = stack.enter_context(files.opened_folder(self._root))
                for part in (net, UPLOAD):
                    folder = stack.enter_context(files.opened_folder(part, below=folder))
                # Opened without following any link: one that was put there since leads nowhere.
                descriptor = stack.enter_context(files.opened_file(folder, real))
                with open(descriptor, "rb", closefd=False) as source, copy.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                    sink.flush()
                    os.fsync(sink.fileno())
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR):
                raise refusal.file_missing() from None
            if error.errno == errno.ELOOP:
                raise refusal.traversal() from None
            raise
