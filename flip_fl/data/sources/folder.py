"""Development's source: ``DEV_DATAFRAME``, a CSV, and ``DEV_IMAGES_DIR``, a folder per accession number."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl.data.cohort import ACCESSION_ID, read_cohort
from flip_fl.data.paths import inside
from flip_fl.data.sources.base import check_study, check_upload
from flip_fl.errors import FlipError
from flip_fl.http import status_error
from flip_fl.settings import DevSettings
from flip_fl.values import ResourceType

if TYPE_CHECKING:
    from pandas import DataFrame

NO_ACCESSION_ID = "The provided dataframe does not contain an 'accession_id' column."
_DOWNLOAD_ROUTE = "/download/images/{net}"


class FolderSource:
    """A ``Source`` over local files. What it would have logged at a service it logs to ``logger``."""

    def __init__(self, settings: DevSettings, logger: logging.Logger | None = None) -> None:
        self._settings = settings
        self._logger = logger or logging.getLogger(__name__)

    @property
    def images_root(self) -> None:
        return None

    @property
    def state_dir(self) -> Path | None:
        return self._settings.state_dir

    @property
    def in_flight(self) -> int:
        # The folder is looked up, not fetched: threads would only wait for each other.
        return 1

    def dataframe(self, project_id: str, query: str) -> DataFrame:
        """The CSV, whatever is asked. ``accession_id`` is text: a leading zero is part of the number.

        Raises ``FlipError`` E0901 (no CSV named), E0902 (unreadable), and ``ValueError`` when an imaging cohort
        has no ``accession_id``.
        """
        path = self._settings.dataframe
        if path is None:
            raise FlipError("E0901", problem="DEV_DATAFRAME is not set", suggestion="set DEV_DATAFRAME to a CSV file")
        frame = read_cohort(path)
        if ACCESSION_ID not in frame.columns and not self._settings.tabular:
            raise ValueError(NO_ACCESSION_ID)
        self._logger.info("cohort of %d rows and %d columns from DEV_DATAFRAME", len(frame), len(frame.columns))
        return frame

    def resources(self, project_id: str, accession_id: str, types: Sequence[ResourceType]) -> dict[ResourceType, Path]:
        """``DEV_IMAGES_DIR/<accession_id>`` for every type.

        A study without a folder gets an empty one and a warning, or is the error of a service's 404 where
        ``DEV_MISSING_STUDY`` is ``error``. Raises ``FlipError`` E0901 when ``DEV_IMAGES_DIR`` is not set.
        """
        check_study(accession_id, types)
        root = self._settings.images_dir
        if root is None:
            raise FlipError("E0901", problem="DEV_IMAGES_DIR is not set", suggestion="set DEV_IMAGES_DIR to a folder")
        study = inside(root, accession_id, called="the folder of a study")
        if not study.is_dir():
            if self._settings.missing_study == "error":
                raise status_error("POST", _DOWNLOAD_ROUTE, 404)
            study.mkdir(parents=True, exist_ok=True)
            self._logger.warning("a study is not in DEV_IMAGES_DIR: an empty folder stands in for it")
        return dict.fromkeys(types, study)

    def add_resource(
        self, project_id: str, accession_id: str, scan_id: str, resource_id: str, files: Sequence[str]
    ) -> None:
        """Nothing is stored anywhere in development; what was asked is logged."""
        check_upload(accession_id, files)
        self._logger.info("add_resource: %d files of a study are not uploaded in development", len(files))
