"""What FLIP's FL API does to a job folder of NVFLARE's before it submits it, as the contract describes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from flip_fl.jobs.templates import template_dir

OLD_COMPONENTS = "flip.nvflare.components"
SELECTOR = "nvflare.app_common.widgets.intime_model_selector.IntimeModelSelector"


@dataclass(frozen=True)
class Submission:
    """What a researcher submits at ``trusts`` (slots); the API has the rest from the app's config.json."""

    model_id: UUID
    trusts: Sequence[str]
    project_id: str = "sealed project"
    query: str = "SELECT * FROM omop.person"
    local_rounds: int = 1
    num_rounds: int = 1
    ignore_result_error: bool = False
    aggregator: str = "InTimeAccumulateWeightedAggregator"
    aggregation_weights: dict[str, float] = field(default_factory=dict)
    aggregate_only_regex: str | None = None
    best_model_metric: str | None = None
    best_model_minimize: bool = False


def submitted_job(job_type: str, app: Path, what: Submission, out: Path) -> Path:
    """The template of ``job_type`` with the app's files in ``custom/`` and the API's edits; nothing else."""
    shutil.copytree(template_dir("nvflare", job_type), out)
    shutil.copytree(app, out / "app" / "custom")
    config = out / "app" / "config"
    _edit(config / "config_fed_client.json", lambda content: _client(content, what))
    _edit(config / "config_fed_server.json", lambda content: _server(content, what))
    (config / "environment.json").write_text(json.dumps({"APP_CKPT_DIR": "model"}))
    meta = {
        "name": str(what.model_id),
        "resource_spec": {},
        "deploy_map": {"app": ["server", *what.trusts]},
        "min_clients": len(what.trusts),
        "mandatory_clients": list(what.trusts),
        "custom_props": {"model_id": str(what.model_id)},
    }
    (out / "meta.json").write_text(json.dumps(meta))
    return out


def _client(config: dict[str, Any], what: Submission) -> None:
    config["project_id"], config["query"] = what.project_id, what.query
    config["local_rounds"] = what.local_rounds
    if what.aggregate_only_regex:
        keep = _old("keep_only_trainable_vars", "KeepOnlyVars", include_vars=what.aggregate_only_regex)
        _chain(config["task_result_filters"], ["train"]).insert(0, keep)
        whole = _old("reconstruct_full_model", "ReconstructFullModelForEval")
        config["task_data_filters"].insert(0, {"tasks": ["train", "validate"], "filters": [whole]})


def _server(config: dict[str, Any], what: Submission) -> None:
    config["model_id"] = str(what.model_id)
    config["global_rounds"], config["min_clients"] = what.num_rounds, len(what.trusts)
    for workflow in config["workflows"]:
        _set_if_there(workflow["args"], "ignore_result_error", what.ignore_result_error)
        _set_if_there(workflow["args"], "participating_clients", list(what.trusts))
        for key, value in (("num_rounds", what.num_rounds), ("min_clients", len(what.trusts))):
            if isinstance(workflow["args"].get(key), int):  # a literal; "{placeholders}" are left alone
                workflow["args"][key] = value
    for component in config["components"]:
        if "aggregator" in component["id"]:
            component["name"] = what.aggregator
            component["args"]["aggregation_weights"] = dict(what.aggregation_weights)
    if what.aggregate_only_regex:
        for tasks, name in ((["train"], "TrimBroadcastVars"), (["validate"], "TrimEvalBroadcastVars")):
            trim = _old(f"trim_{tasks[0]}", name, include_vars=what.aggregate_only_regex)
            _chain(config["task_data_filters"], tasks).append(trim)
    if what.best_model_metric:
        args = {"key_metric": what.best_model_metric, "negate_key_metric": what.best_model_minimize}
        config["components"].append({"id": "model_selector", "path": SELECTOR, "args": args})


def _old(name: str, cls: str, **args: str) -> dict[str, Any]:
    return {"id": name, "path": f"{OLD_COMPONENTS}.{cls}", "args": args}


def _chain(chains: list[dict[str, Any]], tasks: list[str]) -> list[dict[str, Any]]:
    """The filters of the chain over exactly ``tasks``, made where there is none."""
    for chain in chains:
        if chain["tasks"] == tasks:
            break
    else:
        chain = {"tasks": tasks, "filters": []}
        chains.append(chain)
    filters: list[dict[str, Any]] = chain["filters"]
    return filters


def _set_if_there(args: dict[str, Any], key: str, value: Any) -> None:
    if key in args:
        args[key] = value


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
