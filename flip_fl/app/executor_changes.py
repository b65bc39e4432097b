"""What of an executor-style app becomes what of a neutral one, line by line; read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flip_fl.app.syntax import last_name, parsed

FILES = ("trainer.py", "validator.py", "evaluator.py")
MAX_SHOWN = 90

_TASKS = {"trainer.py": "train", "validator.py": "validate", "evaluator.py": "evaluate"}
_LEAVE_OUT = "leave it out: "
_ARRIVES = f"{_LEAVE_OUT}model arrives with the global weights loaded"
_RETURNS = f"{_LEAVE_OUT}train in place, and return a dict of num_examples and numbers"
# A call by the last part of its name.
_CALLS: Mapping[str, str] = {
    "get_dataframe": "site.cohort()",
    "get_by_accession_number": "site.images(cohort), for all studies at once",
    "add_resource": "site.add_resource(accession_id, scan_id, resource_id, files)",
    "send_metrics": "site.log(label, value)",
    "send_metrics_value": "site.log(label, value)",
    "update_status": f"{_LEAVE_OUT}the house tells the hub how the run goes",
    "send_handled_exception": f"{_LEAVE_OUT}let it raise; a failure is reported with its traceback",
    "from_shareable": _ARRIVES,
    "load_state_dict": _ARRIVES,
    "to_shareable": _RETURNS,
    "DXO": _RETURNS,
    "Shareable": _RETURNS,
    "get_model_weights_diff": f'{_RETURNS} ("PARAMS_TYPE": "DIFF" in config.json sends differences)',
    "make_reply": "raise an exception instead: it is reported, and the run ends or goes on as config.json says",
    "get_identity_name": "site.name",
    "get_prop": "site.round, site.total_rounds",
    "get_peer_context": f"{_LEAVE_OUT}site.name, site.round and site.task say where and when this is",
    "log_info": "site.log(label, number) for numbers; texts are withheld",
    "log_error": "raise an exception instead",
    "log_exception": "raise an exception instead",
    "system_panic": "raise an exception instead",
    "fire_event": f"{_LEAVE_OUT}there are no events",
    "ModelLearnable": _RETURNS,
    "PTModelPersistenceFormatManager": f"{_LEAVE_OUT}the server keeps the model",
}
_METHODS: Mapping[str, str] = {
    "__init__": "its arguments become keys of config.json; build the model in get_model() of models.py, and what "
    "lasts from round to round in site.memory",
    "execute": "def {task}(model, site, config) -> dict: …",
    "train": "def {task}(model, site, config) -> dict: …",
    "validate": "def validate(model, site, config) -> dict: …",
    "handle_event": f"{_LEAVE_OUT}there are no events; build data sets at their first use, in site.memory",
    "initialize": f"{_LEAVE_OUT}build data sets at their first use, in site.memory",
    "finalize": f"{_LEAVE_OUT}the house removes the job's images",
    "get_model": f"{_LEAVE_OUT}the server keeps the model",
    "abort": f"{_LEAVE_OUT}ask site.aborted, or loop over site.progress(…)",
}


@dataclass(frozen=True)
class Change:
    """``line`` of ``file``, which reads ``old`` (cut), and what stands in its place."""

    file: str
    line: int
    old: str
    new: str


def changes_of(app_dir: Path) -> tuple[Change, ...]:
    """What to change in an executor-style app, in the order of its lines; one change a line."""
    found: dict[tuple[str, int], Change] = {}
    for file in FILES:
        path = app_dir / file
        tree = parsed(path)
        if tree is None:
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, new in sorted(_changes(tree, file), key=lambda each: each[0]):
            old = lines[number - 1].strip() if number <= len(lines) else ""
            shown = old if len(old) <= MAX_SHOWN else f"{old[: MAX_SHOWN - 1]}…"
            found.setdefault((file, number), Change(file, number, shown, new))
    return tuple(found.values())


def _changes(tree: ast.Module, file: str) -> Iterator[tuple[int, str]]:
    task = _TASKS[file]
    target = "evaluator.py" if task == "evaluate" else "trainer.py"
    moved = "" if file == target else f", in {target}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            if _is_engine(node):
                yield node.lineno, f"{_LEAVE_OUT}a neutral app imports neither nvflare nor flip"
        elif isinstance(node, ast.ClassDef) and node.bases:
            yield node.lineno, f"no class: its methods become functions{moved}"
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name in _METHODS:
                    yield method.lineno, _METHODS[method.name].format(task=task)
        elif isinstance(node, ast.Call) and last_name(node) in _CALLS:
            yield node.lineno, _CALLS[last_name(node)]
        elif isinstance(node, ast.Attribute) and node.attr == "triggered":
            yield node.lineno, "site.aborted"


def _is_engine(node: ast.Import | ast.ImportFrom) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return any(name.partition(".")[0] in ("nvflare", "flip") for name in names)
