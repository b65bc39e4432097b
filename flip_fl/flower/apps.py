"""The two apps of a job: what a job template's ``server_app.py`` and ``client_app.py`` consist of."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flip_fl.aggregate.optimizers import ServerOptimizer, read_optimizer
from flip_fl.app.config import AppConfig
from flip_fl.flower.average import SlotOrderFedAvg
from flip_fl.flower.client import client_app
from flip_fl.flower.run_config import JOB_DIR
from flip_fl.flower.secure_average import SecureAverage
from flip_fl.flower.server import run_app
from flip_fl.values import JobType

__all__ = ["client_app", "server_app"]


def server_app(app_dir: Path) -> ServerApp:
    """The ServerApp of the app in ``app_dir``, as its job type says; everything is reported to the hub.

    What trains is FedAvg as on every engine, or the ServerApp that a Flower package brings.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        given = context.run_config.get(JOB_DIR)
        folder = Path(str(given)) if given else app_dir
        run_app(house_strategy, grid, context, folder)

    return app


def house_strategy(config: AppConfig) -> SlotOrderFedAvg:
    """The same aggregation as on every other engine, as ``config`` wants it."""
    optimizer = None
    if config.job_type is JobType.FED_OPT:
        optimizer = ServerOptimizer(read_optimizer(config.server_optimizer))
    if config.secure_aggregation:
        return SecureAverage(config.secure_aggregation_range, optimizer)
    return SlotOrderFedAvg(config.aggregation_weights, optimizer)
