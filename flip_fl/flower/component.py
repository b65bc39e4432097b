"""A Flower app on disk: what its pyproject.toml says, and the two components that it names."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import UserConfigValue
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from flip_fl.errors import FlipError

PROJECT = "pyproject.toml"
T = TypeVar("T")


@dataclass(frozen=True)
class FlowerApp:
    """The parts of ``pyproject.toml`` that running it takes: ``module:attribute`` of each component, the run config.

    ``run_config`` is flat, as Flower hands it out: nested tables become keys with dots.
    """

    job_dir: Path
    serverapp: str
    clientapp: str
    run_config: Mapping[str, UserConfigValue] = field(default_factory=dict)


def read_app(job_dir: Path) -> FlowerApp:
    """What ``job_dir`` holds. Raises ``FlipError`` E0530 where it is not a Flower app."""
    path = job_dir / PROJECT
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FlipError("E0530", where=str(path), folder=job_dir, problem=f"no readable {PROJECT}") from error
    except tomllib.TOMLDecodeError as error:
        raise FlipError("E0530", where=str(path), folder=job_dir, problem=f"{PROJECT} is not TOML: {error}") from None
    section: Any = content
    for name in ("tool", "flwr", "app"):
        section = section.get(name, {}) if isinstance(section, dict) else {}
    components = section.get("components", {}) if isinstance(section, dict) else {}
    named = {}
    for kind in ("serverapp", "clientapp"):
        reference = components.get(kind) if isinstance(components, dict) else None
        if not isinstance(reference, str) or not all(reference.partition(":")):
            problem = f"[tool.flwr.app.components] has no {kind} of the form module:attribute"
            raise FlipError("E0530", where=str(path), folder=job_dir, problem=problem)
        named[kind] = reference
    config = section.get("config", {})
    return FlowerApp(job_dir, named["serverapp"], named["clientapp"], dict(_flat(config, path, job_dir)))


def _flat(table: Any, path: Path, job_dir: Path, prefix: str = "") -> Iterator[tuple[str, UserConfigValue]]:
    if not isinstance(table, dict):
        raise FlipError("E0530", where=str(path), folder=job_dir, problem="[tool.flwr.app.config] is not a table")
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, path, job_dir, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}", value
        else:
            problem = f"{prefix}{key} in [tool.flwr.app.config] is a {type(value).__name__}; Flower takes text, numbers"
            raise FlipError("E0530", where=str(path), folder=job_dir, problem=f"{problem} and true or false")


def load_client_app(job_dir: Path) -> ClientApp:
    """The job's ClientApp, imported for good: for a process that serves one site.

    Raises ``FlipError`` E0530, and whatever the app's own import raises.
    """
    app = read_app(job_dir)
    sys.path.insert(0, str(job_dir))
    return _load(app, app.clientapp, ClientApp)


@contextmanager
def server_app_of(app: FlowerApp) -> Iterator[ServerApp]:
    """The job's ServerApp; its modules are importable while the block runs, and forgotten after it.

    Two jobs of one process may have packages of the same name. Raises as ``load_client_app``.
    """
    root = str(app.job_dir)
    before = set(sys.modules)
    sys.path.insert(0, root)
    try:
        yield _load(app, app.serverapp, ServerApp)
    finally:
        sys.path.remove(root)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).is_relative_to(app.job_dir):
                del sys.modules[name]


def _load(app: FlowerApp, reference: str, kind: type[T]) -> T:
    module, _, attribute = reference.partition(":")
    importlib.invalidate_caches()
    component: Any = importlib.import_module(module)
    for name in attribute.split("."):
        component = getattr(component, name, None)
    if not isinstance(component, kind):
        problem = f"{reference} is a {type(component).__name__}; it must be a {kind.__name__}"
        raise FlipError("E0530", where=str(app.job_dir / PROJECT), folder=app.job_dir, problem=problem)
    return component
