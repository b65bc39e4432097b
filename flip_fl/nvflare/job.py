"""Fills a job template: the JSON files are the truth, this writes a job folder that NVFLARE runs. Needs no engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flip_fl.app.travel import check_modules, copy_app
from flip_fl.jobs.templates import JobValues, template_dir
from flip_fl.values import SERVER_NAME

SERVER_CONFIG = Path("app") / "config" / "config_fed_server.json"
CUSTOM = Path("app") / "custom"
CLIENT_CONFIG = Path("app") / "config" / "config_fed_client.json"


def write_job(app_dir: Path, job_type: str, values: JobValues, out: Path) -> Path:
    """Write the job folder ``out`` from the template of ``job_type`` with the app in ``custom/``; returns ``out``.

    ``out`` must not exist. Raises ``FileNotFoundError`` for a job type without a template, ``FlipError`` E0207 for an
    app with a module that the FL server would run.
    """
    check_modules(app_dir)
    shutil.copytree(template_dir("nvflare", job_type), out)
    copy_app(app_dir, out / CUSTOM)
    _edit(out / "meta.json", lambda meta: _fill_meta(meta, values))
    _edit(out / SERVER_CONFIG, lambda config: _fill_server(config, values))
    _edit(out / CLIENT_CONFIG, lambda config: _fill_client(config, values))
    return out


def place_at(job: Path, slots: Sequence[str], **props: str) -> None:
    """Let the job at ``job`` go to the server and to ``slots`` alone; ``props`` join its ``custom_props``."""

    def change(meta: dict[str, Any]) -> None:
        meta["deploy_map"] = {"app": [SERVER_NAME, *slots]}
        meta["custom_props"] |= props

    _edit(job / "meta.json", change)


def _fill_meta(meta: dict[str, Any], values: JobValues) -> None:
    meta["name"] = str(values.model_id)
    meta["min_clients"] = max(values.min_clients, 1)  # NVFLARE has no word for "all of them"
    meta["custom_props"] = {**meta.get("custom_props", {}), "model_id": str(values.model_id)}


def _fill_server(config: dict[str, Any], values: JobValues) -> None:
    controller = _by_id(config["workflows"], "controller")["args"]
    given = {
        "num_rounds": values.num_rounds,
        "min_clients": values.min_clients,
        "ignore_result_error": values.ignore_result_error,
        "best_model_metric": values.best_model_metric,
        "best_model_minimize": values.best_model_minimize,
        "cross_site_validation": values.cross_site_validation,
        "stages": None if values.stages is None else dict(values.stages),
        "server_optimizer": values.server_optimizer,
        "start_timeout_s": values.start_timeout_s,
        "task_timeout_s": values.task_timeout_s,
    }
    # The template says what its controller takes.
    controller.update({name: value for name, value in given.items() if name in controller and value is not None})
    for component in config["components"]:
        if component["id"] == "aggregator":
            component["args"]["aggregation_weights"] = dict(values.aggregation_weights or {})


def _fill_client(config: dict[str, Any], values: JobValues) -> None:
    config["project_id"] = values.project_id
    config["query"] = values.query
    config["local_rounds"] = values.local_rounds


def _by_id(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["id"] == name)


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
