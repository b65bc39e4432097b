"""The pages that people open: shells that fetch what they show. Addresses in them are relative, so any prefix works."""

from __future__ import annotations

import gzip
from functools import lru_cache
from html import escape
from typing import Literal
from uuid import UUID

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from sqlmodel import col, select

from flip_fl import __version__
from flip_fl.dashboard import assets
from flip_fl.dashboard.assets import ServedAssets
from flip_fl.hub.access import PageViewer, visible_model
from flip_fl.hub.roles import Principal
from flip_fl.hub.routes.dependencies import Reading
from flip_fl.hub.tables import Model

router = APIRouter(include_in_schema=False)

Page = Literal["runs", "run", "trusts", "compare", "error"]
_NO_SCRIPT = (
    '<noscript><p class="empty">This page needs JavaScript. A run\'s report, report.html in its folder, does not.</p>'
    "</noscript>"
)
# What a run's page shows first. It is on its way before the script that asks for it is.
_STORY = "model/{}/story?plots=few&amp;feed=2000&amp;rows=few"
_EARLY = '<link rel="preload" as="fetch" crossorigin href="{root}api/{story}">\n'
_YEAR = "public, max-age=31536000, immutable"


@router.get("/")
def runs_page(request: Request, who: PageViewer) -> HTMLResponse:
    """All runs, with filters."""
    return _page(request, who, "runs", "Runs")


@router.get("/trusts")
def trusts_page(request: Request, who: PageViewer) -> HTMLResponse:
    """Slots, who holds them, last seen."""
    return _page(request, who, "trusts", "Trusts")


@router.get("/compare")
def compare_page(request: Request, who: PageViewer) -> HTMLResponse:
    """Two to five runs beside one another; which ones says the address."""
    return _page(request, who, "compare", "Compare runs")


@router.get("/models/{model_id}")
def run_page(model_id: str, request: Request, who: PageViewer, session: Reading) -> HTMLResponse:
    """One run, live. 404 for one that is not there, 410 for one that was deleted."""
    try:
        wanted = UUID(model_id)
        visible_model(wanted, who, session)
    except (ValueError, HTTPException):
        return _page(
            request, who, "error", "No such run", _GONE.format("No run has this address."), depth=1, status=404
        )
    name, deleted = session.exec(select(Model.name, Model.deleted).where(col(Model.id) == wanted)).one()
    if deleted:
        told = _GONE.format(f"{escape(name)} was deleted. What was recorded of it is kept for the audit.")
        return _page(request, who, "error", "Run deleted", told, depth=1, status=410)
    return _page(request, who, "run", name, depth=1, model=wanted)


@router.get("/assets/{name}")
def asset(name: str, request: Request) -> Response:
    """Style and scripts. Open to everybody; 404 for a name that this version does not have."""
    found = _assets(request).named(name)
    if found is None:
        raise HTTPException(404, "no such file in this version of the hub: load the page again")
    headers = {"Cache-Control": _YEAR, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            _packed(found.content), media_type=found.media_type, headers=headers | {"Content-Encoding": "gzip"}
        )
    return Response(found.content, media_type=found.media_type, headers=headers)


@router.get("/favicon.ico")
def favicon() -> Response:
    """The icon of what says of none, as JSON and downloads do: browsers ask for it here. Open to everybody."""
    return Response(assets.icon_svg("quiet"), media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


_GONE = (
    '<p class="empty">{} Perhaps it belongs to a project that this login does not reach, or its address was cut: ask '
    'whoever gave it to you. <a href="../">All runs</a></p>'
)


def _page(
    request: Request,
    who: Principal,
    page: Page,
    title: str,
    body: str = _NO_SCRIPT,
    *,
    depth: int = 0,
    model: UUID | None = None,
    status: int = 200,
) -> HTMLResponse:
    found = _assets(request)
    text = assets.page(
        {
            "version": escape(__version__),
            "title": escape(title),
            "icon": assets.icon("quiet"),
            "root": "../" * depth,
            "style": found.style.name,
            "script": (found.run if page == "run" else found.lists).name,
            "worker": found.worker.name,
            "page": page,
            "who": escape(who.name),
            "kind": who.kind,
            "early": "" if model is None else _EARLY.format(root="../" * depth, story=_STORY.format(model)),
            "facts": "" if model is None else f' data-model="{model}" data-story="{_STORY.format(model)}"',
            "heading": "shown" if page == "error" else "sr",
            "body": body,
        },
        "app.html",
    )
    return HTMLResponse(text, status_code=status)


def _assets(request: Request) -> ServedAssets:
    found: ServedAssets = request.app.state.assets
    return found


@lru_cache(maxsize=8)
def _packed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)
