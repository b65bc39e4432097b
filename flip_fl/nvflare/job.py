"""Fills a job template: the JSON files are the truth, this writes a job folder that NVFLARE runs. Needs no engine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

from flip_fl.errors import FlipError

SERVER_CONFIG = Path("app") / "config" / "config_fed_server.json"
CLIENT_CONFIG = Path("app") / "config" / "config_fed_client.json"
# Only code and config travel to the sites; data, settings and keys that lie beside an app stay where they are.
TRAVELLING_SUFFIX = ".py"
TRAVELLING_FILES = frozenset({"config.json"})
# Python imports the first two by itself in every process that finds them on its path, NVFLARE the third: the FL
# server, which holds the hub's key, would run them.
REFUSED_MODULES = frozenset({"sitecustomize", "usercustomize", "nvflare_decomposers"})


@dataclass(frozen=True)
class JobValues:
    """What a standard job needs to know beyond the app's code."""

    model_id: UUID
    num_rounds: int
    min_clients: int
    ignore_result_error: bool = False
    best_model_metric: str = ""
    best_model_minimize: bool = False
    aggregation_weights: Mapping[str, float] | None = None
    local_rounds: int = 1
    project_id: str = ""
    query: str = ""


def template_dir(engine: str, job_type: str) -> Path:
    """Where a template lies: in the installed package, or beside it in a checkout."""
    installed = Path(str(files("flip_fl") / "_job_templates"))
    root = installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "job_templates"
    return root / engine / job_type


def write_job(app_dir: Path, job_type: str, values: JobValues, out: Path) -> Path:
    """Write the job folder ``out`` from the template of ``job_type`` with the app in ``custom/``; returns ``out``.

    ``out`` must not exist. Raises ``FileNotFoundError`` for a job type without a template, ``FlipError`` E0207 for an
    app with a module that the FL server would run.
    """
    check_modules(app_dir)
    shutil.copytree(template_dir("nvflare", job_type), out)
    copy_app(app_dir, out / "app" / "custom")
    _edit(out / "meta.json", lambda meta: _fill_meta(meta, values))
    _edit(out / SERVER_CONFIG, lambda config: _fill_server(config, values))
    _edit(out / CLIENT_CONFIG, lambda config: _fill_client(config, values))
    return out


def check_modules(app_dir: Path) -> None:
    """Raises ``FlipError`` E0207 for a module that is run wherever it is found."""
    for path in sorted(app_dir.iterdir()):
        if path.name.partition(".")[0].lower() in REFUSED_MODULES:
            raise FlipError("E0207", where=str(path), name=path.name)


def copy_app(app_dir: Path, target: Path) -> None:
    """Copy the app's code and config.json; links, data and everything else stay."""
    for folder, folders, names in os.walk(app_dir):
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        for name in names:
            source = Path(folder, name)
            travels = source.suffix == TRAVELLING_SUFFIX or source.relative_to(app_dir).as_posix() in TRAVELLING_FILES
            if travels and not source.is_symlink():
                copy = target / source.relative_to(app_dir)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)


def _fill_meta(meta: dict[str, Any], values: JobValues) -> None:
    meta["name"] = str(values.model_id)
    meta["min_clients"] = values.min_clients
    meta["custom_props"] = {**meta.get("custom_props", {}), "model_id": str(values.model_id)}


def _fill_server(config: dict[str, Any], values: JobValues) -> None:
    controller = _by_id(config["workflows"], "controller")["args"]
    controller["num_rounds"] = values.num_rounds
    controller["min_clients"] = values.min_clients
    controller["ignore_result_error"] = values.ignore_result_error
    controller["best_model_metric"] = values.best_model_metric
    controller["best_model_minimize"] = values.best_model_minimize
    _by_id(config["components"], "aggregator")["args"]["aggregation_weights"] = dict(values.aggregation_weights or {})


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
