"""Production's source: a trust's data-access and imaging services."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl import wire
from flip_fl.data.paths import Root
from flip_fl.data.sources.base import check_study, check_upload
from flip_fl.data.tables import accepted, read_table
from flip_fl.http import HttpClient, HttpConnectionError
from flip_fl.settings import ClientSettings
from flip_fl.values import ResourceType

if TYPE_CHECKING:
    from pandas import DataFrame

ROUTE_COHORT = "/cohort/dataframe"
ROUTE_DOWNLOAD = "/download/images/{net}"
ROUTE_UPLOAD = "/upload/images/{net}"
_FOLDER = "the imaging service's folder of a study"
_SHARED = "set IMAGES_DIR to the folder in which the service puts the studies of NET_ID ({net}), as it is seen here"


class TrustSource:
    """A ``Source`` over the two services of one trust."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._data_access = self._service(settings.data_access_url)
        self._imaging = self._service(settings.imaging_url)
        self._images = Root(settings.images_dir)

    @property
    def images_root(self) -> Path:
        return self._settings.images_dir

    @property
    def state_dir(self) -> Path | None:
        return self._settings.state_dir

    @property
    def in_flight(self) -> int:
        return self._settings.in_flight

    def dataframe(self, project_id: str, query: str) -> DataFrame:
        """The cohort that the trust serves; an empty result has columns and no rows.

        Arrow where the service offers it and pyarrow is installed, else JSON; read column by column either way.
        Raises ``HttpStatusError`` (403: too small, or no approved snapshot) and ``HttpConnectionError`` (no answer, one
        that was cut, or one that is no table).
        """
        body = wire.CohortRequest(encrypted_project_id=project_id, query=query)
        with self._data_access.stream(
            "POST",
            ("cohort", "dataframe"),
            route=ROUTE_COHORT,
            json=body.model_dump(),
            headers={"Accept": accepted()},
        ) as answer:
            try:
                return read_table(answer, answer.content_type)
            except ValueError as error:
                raise HttpConnectionError("POST", ROUTE_COHORT, error) from None

    def resources(self, project_id: str, accession_id: str, types: Sequence[ResourceType]) -> dict[ResourceType, Path]:
        """One request a type. The folders lie on a file system that the trust's service shares with this process.

        Raises as ``Source.resources``, and ``FlipError`` E0704 for an answer outside ``IMAGES_DIR``.
        """
        check_study(accession_id, types)
        return {kind: self._resource(project_id, accession_id, kind) for kind in types}

    def add_resource(
        self, project_id: str, accession_id: str, scan_id: str, resource_id: str, files: Sequence[str]
    ) -> None:
        check_upload(accession_id, files)
        body = wire.UploadRequest(
            encrypted_central_hub_project_id=project_id,
            accession_id=accession_id,
            scan_id=scan_id,
            resource_id=resource_id,
            files=list(files),
        )
        self._imaging.request(
            "PUT", ("upload", "images", self._settings.net_id), route=ROUTE_UPLOAD, json=body.model_dump()
        )

    def close(self) -> None:
        self._data_access.close()
        self._imaging.close()

    def _resource(self, project_id: str, accession_id: str, kind: ResourceType) -> Path:
        body = wire.ImageRequest(encrypted_central_hub_project_id=project_id, accession_id=accession_id)
        assessor = "assessor" if kind is ResourceType.SEGMENTATION else "scan"
        response = self._imaging.request(
            "POST",
            ("download", "images", self._settings.net_id),
            route=ROUTE_DOWNLOAD,
            json=body.model_dump(),
            params={"assessor_type": assessor, "resource_type": kind.value},
        )
        try:
            path = json.loads(response.content)["path"]
            if not isinstance(path, str) or not path or "\0" in path:
                raise TypeError("path must be text")
        except (ValueError, KeyError, TypeError) as error:
            raise HttpConnectionError("POST", ROUTE_DOWNLOAD, error) from None
        return self._images.inside(path, called=_FOLDER, fix=_SHARED.format(net=self._settings.net_id))

    def _service(self, url: str) -> HttpClient:
        return HttpClient(
            url,
            key_header=self._settings.trust_key_header,
            key=self._settings.trust_key.get_secret_value(),
            read_timeout_s=self._settings.read_timeout_s,
        )
