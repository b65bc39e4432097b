"""The three routes of a trust's services, word for word as clients know them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flip_fl.trust import names, refusal
from flip_fl.trust.cohort import media_type_for, read_cohort, statement_of
from flip_fl.trust.endpoints import endpoint
from flip_fl.values import ResourceType
from flip_fl.wire import CohortRequest, ImageRequest, UploadRequest, Wire

if TYPE_CHECKING:
    from flip_fl.trust.app import Services


class AssessorType(StrEnum):
    """Segmentations are kept apart from scans."""

    SCAN = "scan"
    ASSESSOR = "assessor"


class NoParameters(Wire):
    """A route without parameters; those that are sent are ignored."""


class DownloadParameters(Wire):
    """``POST /download/images/{net}?assessor_type=&resource_type=``."""

    assessor_type: AssessorType
    resource_type: ResourceType


def routes() -> list[Route]:
    """The routes, each behind the trust's key."""
    return [
        Route("/cohort/dataframe", endpoint(CohortRequest, NoParameters, cohort), methods=["POST"]),
        Route("/download/images/{net:path}", endpoint(ImageRequest, DownloadParameters, download), methods=["POST"]),
        Route("/upload/images/{net:path}", endpoint(UploadRequest, NoParameters, upload), methods=["PUT"]),
    ]


def cohort(request: Request, body: CohortRequest, _parameters: NoParameters) -> Response:
    """The project's cohort, column by column: JSON, or an Arrow IPC stream where ``Accept`` asks for it."""
    services: Services = request.app.state.services
    name = services.envelope.open(body.encrypted_project_id)
    project = services.register.project(name)
    statement = statement_of(project, body.query, services.database, frozen=services.frozen)
    sent = read_cohort(services.database, statement, services.rule, media_type_for(request.headers.get("accept")))
    headers = {"Content-Length": str(sent.length), "Vary": "Accept"}
    return StreamingResponse(sent.blocks, media_type=sent.media_type, headers=headers)


def download(request: Request, body: ImageRequest, parameters: DownloadParameters) -> Response:
    """Put the study's files of one type into the net's folder; where the study lies there."""
    services: Services = request.app.state.services
    net: str = request.path_params["net"]
    _require_study(services, net, body.encrypted_central_hub_project_id, body.accession_id)
    assessor = parameters.assessor_type is AssessorType.ASSESSOR
    folder = services.downloads.folder(net, body.accession_id, parameters.resource_type, assessor=assessor)
    return JSONResponse({"path": str(folder)})


def upload(request: Request, body: UploadRequest, _parameters: NoParameters) -> Response:
    """Store files of the net's upload folder as a resource of a scan; where each is kept."""
    services: Services = request.app.state.services
    net: str = request.path_params["net"]
    _require_study(services, net, body.encrypted_central_hub_project_id, body.accession_id)
    stored = services.uploads.store(net, body.accession_id, body.scan_id, body.resource_id, body.files)
    place = "/".join(
        quote(part, safe="")
        for part in ("data", "experiments", body.accession_id, "scans", body.scan_id, "resources", body.resource_id)
    )
    return JSONResponse([f"{request.base_url}{place}/files/{quote(file)}" for file in stored])


def _require_study(services: Services, net: str, sealed: str, accession_id: str) -> None:
    """Raises ``Refusal``: 400 for an envelope or a name that is none, 404 unless the project may have the study."""
    name = services.envelope.open(sealed)
    names.check_net(net)
    names.check_study(accession_id)
    project = services.register.project(name)
    if project is None:
        raise refusal.no_project()
    if not services.register.may_have(project, accession_id):
        raise refusal.no_study()
