"""Flower packages as apps: which folder is the app, by which name its modules import one another, what it declares.

Read from files, never by running them, and without an engine. In such an app the package's own folder is the app's
folder: ``client_app.py`` lies there beside ``config.json`` and ``models.py``.
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flip_fl.app.forms import FLOWER_FILE, FLOWER_PACKAGE, FormKind, form_of

SERVER_FILE = "server_app.py"
PROJECT = "pyproject.toml"
CONFIG_TOML = "config.toml"

Scalar = str | int | float | bool


def is_package(app_dir: Path) -> bool:
    """Whether the app in ``app_dir`` is a Flower package."""
    return form_of(app_dir).kind is FormKind.FLOWER_PACKAGE


def app_folder(folder: Path) -> Path:
    """The app's folder of what a person calls the app: for a Flower package the folder with its ``client_app.py``.

    That is the package that ``pyproject.toml`` names as the ClientApp's, else ``app``; any other folder is itself.
    """
    if (folder / FLOWER_FILE).is_file() or (not is_package(folder) and not _components(folder)):
        return folder
    named = _components(folder).get("clientapp", "").partition(":")[0].split(".")
    for name in (*named[:1], FLOWER_PACKAGE):
        if name and (folder / name / FLOWER_FILE).is_file():
            return folder / name
    return folder


def package_name(app_dir: Path) -> str | None:
    """The name under which the modules of the package in ``app_dir`` import one another; None for any other app.

    The folder may have been renamed on its way: the imports tell, else it is ``app``.
    """
    if not is_package(app_dir):
        return None
    own = {path.stem for path in app_dir.glob("*.py")} | {path.parent.name for path in app_dir.glob("*/__init__.py")}
    found: Counter[str] = Counter()
    for path in sorted(app_dir.glob("*.py")):
        found.update(name for name in _imported_from(path) if name.partition(".")[2].partition(".")[0] in own)
    names = Counter(name.partition(".")[0] for name in found.elements())
    for name, _ in names.most_common():
        if name in (FLOWER_PACKAGE, app_dir.name) or not _installed(name):
            return name
    return FLOWER_PACKAGE


def declared_config(app_dir: Path) -> dict[str, Scalar]:
    """The run config that a package brings: ``[tool.flwr.app.config]`` of its project, and over it its config.toml.

    Flat, as Flower hands it out. What cannot be read declares nothing: the engine's own words come later.
    """
    if not is_package(app_dir):
        return {}
    found: dict[str, Scalar] = {}
    for project in (app_dir.parent, app_dir):
        if project == app_dir or _components(project).get("clientapp", "").partition(".")[0] == app_dir.name:
            found.update(_flat(_section(project).get("config", {})))
    return {**found, **_flat(_toml(app_dir / CONFIG_TOML))}


def _components(folder: Path) -> dict[str, str]:
    found = _section(folder).get("components", {})
    return {name: value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _section(folder: Path) -> dict[str, Any]:
    section: Any = _toml(folder / PROJECT)
    for name in ("tool", "flwr", "app"):
        section = section.get(name, {}) if isinstance(section, dict) else {}
    return section if isinstance(section, dict) else {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def _flat(table: Any, prefix: str = "") -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for key, value in table.items() if isinstance(table, dict) else ():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, str | int | float | bool):
            found[f"{prefix}{key}"] = value
    return found


def _imported_from(path: Path) -> list[str]:
    """``package.module`` of what a file imports absolutely."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return True
