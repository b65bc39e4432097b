"""Fills a job template: its TOML is the truth, this writes a job folder that Flower runs. Needs no engine."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from flip_fl.app.travel import check_modules, copy_app, travelling
from flip_fl.errors import FlipError
from flip_fl.flower import run_config
from flip_fl.jobs.templates import JobValues, template_dir

APP = "app"
PROJECT = "pyproject.toml"
# What Flower leaves out of a bundle by name, of all that travels here: code and config.json.
_DROPPED_NAME = re.compile(r"test_.*\.py|.*_test\.py|.*\.egg")
# Folders below the bundle's own; deeper ones make Flower refuse it.
MAX_DEPTH = 10

ConfigValue = str | int | float | bool


def write_job(app_dir: Path, job_type: str, values: JobValues, out: Path) -> Path:
    """Write the job folder ``out`` from the template of ``job_type`` with the app in ``app/``; returns ``out``.

    ``out`` must not exist. Raises ``FileNotFoundError`` for a job type without a template, ``FlipError`` E0207 for an
    app with a module that the FL server would run, E0208 for one with modules that Flower would not send to the sites.
    """
    check_modules(app_dir)
    check_bundled(app_dir)
    shutil.copytree(template_dir("flower", job_type), out, ignore=shutil.ignore_patterns("__pycache__"))
    copy_app(app_dir, out / APP)
    project = out / PROJECT
    declared = read_config(out)
    # The template says what its run config has; what a package declares beyond that, its ClientApp reads by name.
    given = {**_own(values.run_config), **{key: value for key, value in _config(values).items() if key in declared}}
    text = with_keys(project.read_text(encoding="utf-8"), {key: given[key] for key in given if key not in declared})
    project.write_text(with_config(text, {key: given[key] for key in given if key in declared}), encoding="utf-8")
    return out


def with_version(text: str, version: str) -> str:
    """The project file ``text`` as that of another version."""
    return re.sub(r'^version = ".*"$', f'version = "{version}"', text, count=1, flags=re.MULTILINE)


def _own(run_config: Mapping[str, ConfigValue]) -> dict[str, ConfigValue]:
    """What of a package's run config is not about who takes part and what is reported."""
    return {key: value for key, value in run_config.items() if not key.startswith("flip-")}


def with_keys(text: str, values: Mapping[str, ConfigValue]) -> str:
    """The project file ``text`` with further keys at the end of its run config, the last table in it."""
    lines = [f"{'.'.join(map(_key, key.split('.')))} = {_toml(value)}\n" for key, value in values.items()]
    return text if not lines else text.rstrip("\n") + "\n# The app's own.\n" + "".join(lines)


def _key(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else _toml(part)


def check_bundled(app_dir: Path) -> None:
    """Raises ``FlipError`` E0208 naming every file of the app that travels and that Flower's bundle would not hold."""
    travels = [PurePosixPath(path.as_posix()) for path in travelling(app_dir)]
    dropped = [path for path in travels if any(_DROPPED_NAME.fullmatch(part) for part in path.parts)]
    deep = [path for path in travels if len(path.parts) > MAX_DEPTH and path not in dropped]
    if dropped:
        raise FlipError(
            "E0208",
            where=str(app_dir / dropped[0]),
            names=", ".join(map(str, dropped)),
            reason="names like test_….py and …_test.py are tests to it",
            suggestion="rename what the app imports, and keep its tests beside the app's folder",
        )
    if deep:
        raise FlipError(
            "E0208",
            where=str(app_dir / deep[0]),
            names=", ".join(map(str, deep)),
            reason=f"it takes {MAX_DEPTH} folders inside one another, app/ included",
            suggestion="move it up",
        )


def with_config(text: str, values: Mapping[str, ConfigValue]) -> str:
    """The project file ``text`` with other values in ``[tool.flwr.app.config]``; everything else stays as it is.

    Raises ``KeyError`` for a key that it does not declare.
    """
    before, header, section = text.partition("[tool.flwr.app.config]\n")
    lines = section.splitlines()
    places = {line.partition(" = ")[0]: number for number, line in enumerate(lines) if " = " in line}
    for key, value in values.items():
        lines[places[key]] = f"{key} = {_toml(value)}"
    return before + header + "\n".join(lines) + "\n"


def read_config(job: Path) -> dict[str, Any]:
    """The run config that a job folder declares."""
    project = tomllib.loads((job / PROJECT).read_text(encoding="utf-8"))
    config = project["tool"]["flwr"]["app"]["config"]
    return dict(config)


def _config(values: JobValues) -> dict[str, ConfigValue]:
    waits = {run_config.START_TIMEOUT: values.start_timeout_s, run_config.PHASE_TIMEOUT: values.task_timeout_s}
    return {
        **{key: seconds for key, seconds in waits.items() if seconds is not None},
        run_config.MODEL_ID: str(values.model_id),
        run_config.PROJECT_ID: values.project_id,
        run_config.QUERY: values.query,
        run_config.SLOTS: ",".join(values.slots),
        run_config.NUM_ROUNDS: values.num_rounds,
        run_config.MIN_CLIENTS: values.min_clients,
        run_config.BEST_METRIC: values.best_model_metric,
        run_config.BEST_MINIMIZE: values.best_model_minimize,
    }


def _toml(value: ConfigValue) -> str:
    """A value on one line. JSON's strings are TOML's, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
