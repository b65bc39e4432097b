"""Studies for a net's clients: copied from the archive into the net's folder, whole or not at all.

The archive is the trust's; ``IMAGES_ROOT/<net>`` belongs to a client, who deletes what it has used and may put there
whatever it likes. So files are copies, nothing is written through a link, and what lies there is compared each time.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from flip_fl.trust import files, names, refusal
from flip_fl.trust.files import Listing
from flip_fl.values import ResourceType

_logger = logging.getLogger(__name__)

_LOCKS = 64
_ATTEMPTS = 5
_PLACINGS = 100


class Downloads:
    """``archive/<accession>/<TYPE>/…`` → ``images_root/<net>/<accession>/<TYPE>/…``. Thread-safe."""

    def __init__(self, archive: Path, images_root: Path) -> None:
        self._archive = str(archive)
        self._root = images_root
        self._partial = images_root / names.PARTIAL
        # Two requests for one study: the second waits, and finds it there. Few locks for many studies.
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def folder(self, net: str, accession_id: str, kind: ResourceType, *, assessor: bool) -> Path:
        """Make sure that the study's files of ``kind`` lie in the net's folder, and return the study's folder there.

        All types of a study share it. Segmentations are assessors, everything else is not. ``net`` and
        ``accession_id`` have been checked. Raises ``Refusal``: 404 for a study or data that are not there, 500 when
        the storage fails.
        """
        try:
            return self._folder(net, accession_id, kind, assessor=assessor)
        except (OSError, ValueError) as error:
            _logger.error("a study could not be copied from the archive (%s)", _reason(error))
            raise refusal.storage_fault() from None

    def _folder(self, net: str, accession_id: str, kind: ResourceType, *, assessor: bool) -> Path:
        study = f"{self._archive}/{accession_id}"
        target = f"{self._root}/{net}/{accession_id}"
        types = self._types_of(study) if kind is ResourceType.ALL else [kind.value]
        wanted: dict[str, Listing] = {}
        for name in types:
            found = files.listing(f"{study}/{name}")
            if found:
                wanted[name] = found
        if not wanted or assessor != (kind is ResourceType.SEGMENTATION):
            self._missing(study)
        for name, found in wanted.items():
            if not _is_there(f"{target}/{name}", found):
                self._bring(f"{study}/{name}", net, accession_id, name, found)
        return Path(target)

    def _types_of(self, study: str) -> list[str]:
        if not files.is_folder(study):
            self._missing(study)
        with os.scandir(study) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )

    def _missing(self, study: str) -> None:
        if files.is_folder(study):
            raise refusal.no_data()
        # An archive that is not there has no studies to miss.
        os.stat(self._archive)
        raise refusal.no_study()

    def _bring(self, source: str, net: str, accession_id: str, name: str, found: Listing | None) -> None:
        target = f"{self._root}/{net}/{accession_id}/{name}"
        lock = self._locks[hash(target) % _LOCKS]
        # Who had to wait may find it there.
        waited = not lock.acquire(blocking=False)
        if waited:
            lock.acquire()
        try:
            for attempt in range(_ATTEMPTS):
                if waited or attempt:
                    found = files.listing(source)
                    if not found:
                        raise refusal.no_data()
                    if _is_there(target, found):
                        return
                assert found is not None
                with files.draft(self._partial) as fresh:
                    try:
                        files.copy_tree(source, fresh, found)
                    except FileNotFoundError:
                        # Another version of the study took its place just now.
                        if attempt == _ATTEMPTS - 1:
                            raise
                    else:
                        self._place(fresh, net, accession_id, name)
                        return
        finally:
            lock.release()

    def _place(self, fresh: Path, net: str, accession_id: str, name: str) -> None:
        for attempt in range(_PLACINGS):
            try:
                with (
                    files.opened_folder(self._root) as root,
                    files.opened_folder(net, below=root, make=True) as of_net,
                    files.opened_folder(accession_id, below=of_net, make=True) as study,
                ):
                    files.put_in_place(fresh, study, name)
                    return
            except FileNotFoundError:
                # The client removed one of the folders just now.
                if attempt == _PLACINGS - 1:
                    raise


def _is_there(target: str, wanted: Listing) -> bool:
    try:
        return files.listing(target) == wanted
    except OSError:
        return False


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
