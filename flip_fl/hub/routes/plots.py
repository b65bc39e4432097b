"""A model's measurements: which plots there are, one as it is drawn, and all points for programs."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from flip_fl.dashboard.story import Plot
from flip_fl.hub import database
from flip_fl.hub.access import Viewer, visible_model
from flip_fl.hub.curves import IModelMetrics, PlotKey
from flip_fl.hub.export import metrics_csv, metrics_json
from flip_fl.hub.plots import ListedPlot, list_plots, plot_json
from flip_fl.hub.points import PlotCache
from flip_fl.hub.roles import Principal
from flip_fl.hub.routes.dependencies import Reading, live_status
from flip_fl.values import DEFAULT_X_LABEL

router = APIRouter(prefix="/model/{model_id}", tags=["models"])

MOST_POINTS = 100_000
Label = Annotated[str, Query(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]
XLabel = Annotated[str, Query(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
_CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


@router.get("/plots")
def read_plots(model_id: UUID, session: Reading, who: Viewer) -> list[ListedPlot]:
    """The plots of the model, with how many series and points each has. 404 if absent, 400 if deleted."""
    visible_model(model_id, who, session)
    live_status(model_id, session)
    return list_plots(model_id, session)


@router.get("/plot", response_model=Plot)
def read_plot(
    model_id: UUID,
    request: Request,
    session: Reading,
    who: Viewer,
    label: Label,
    x_label: XLabel = DEFAULT_X_LABEL,
    points: Annotated[int, Query(ge=2, le=MOST_POINTS)] = 2000,
    low: Annotated[float | None, Query(alias="from", allow_inf_nan=False)] = None,
    high: Annotated[float | None, Query(alias="to", allow_inf_nan=False)] = None,
) -> Response:
    """One plot as it is drawn. A series of more than `points` is shown by the extremes of fixed buckets.

    First, last and both sides of every gap stay. `total` says how many points there are, from `from` to `to` on the
    x-axis if these are given (and one more on either side), `before` and `after` how many lie beyond, `breaks` before
    which of them the line is cut. 404 if the model is absent or has no such plot, 400 if deleted.
    """
    visible_model(model_id, who, session)
    live_status(model_id, session)
    cache: PlotCache = request.app.state.plots
    found = plot_json(model_id, PlotKey(label, x_label), session, points=points, low=low, high=high, cache=cache)
    if found is None:
        raise HTTPException(404, "no such plot")
    return Response(found, media_type="application/json")


@router.get("/metrics", response_model=list[IModelMetrics])
async def read_metrics(model_id: UUID, request: Request, who: Viewer) -> Response:
    """Every point of the model, by plot and trust. 404 if absent, 400 if deleted."""
    await run_in_threadpool(_require, model_id, request, who)
    return StreamingResponse(metrics_json(model_id, request.app.state.engine), media_type="application/json")


@router.get("/metrics.csv", response_class=StreamingResponse, responses=_CSV)
async def read_metrics_csv(
    model_id: UUID, request: Request, who: Viewer, label: Label | None = None, x_label: XLabel = DEFAULT_X_LABEL
) -> Response:
    """Every stored value as CSV, oldest first; of one plot only if `label` is given. 404 if absent, 400 if deleted."""
    await run_in_threadpool(_require, model_id, request, who)
    plot = None if label is None else PlotKey(label, x_label)
    return StreamingResponse(
        metrics_csv(model_id, request.app.state.engine, plot),
        media_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="metrics-{model_id}.csv"'},
    )


def _require(model_id: UUID, request: Request, who: Principal) -> None:
    with database.reading(request.app.state.engine) as session:
        visible_model(model_id, who, session)
        live_status(model_id, session)
