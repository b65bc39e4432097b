"""What of an app's folder travels in a job: code and config.json, nothing that the server would run by itself."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from flip_fl.app.config import CONFIG_FILE
from flip_fl.app.packages import is_package
from flip_fl.errors import FlipError

# Only code and config travel to the sites; data, settings and keys that lie beside an app stay where they are.
TRAVELLING_SUFFIX = ".py"
TRAVELLING_FILES = frozenset({CONFIG_FILE})
# A Flower package reads settings of its own that lie among its code; Flower itself would send these, too.
PACKAGE_SUFFIXES = frozenset({TRAVELLING_SUFFIX, ".json", ".toml"})
# Python imports the first two by itself in every process that finds them on its path, NVFLARE the third: the FL
# server, which holds the hub's key, would run them.
REFUSED_MODULES = frozenset({"sitecustomize", "usercustomize", "nvflare_decomposers"})


def check_modules(app_dir: Path) -> None:
    """Raises ``FlipError`` E0207 for a module that is run wherever it is found."""
    for path in sorted(app_dir.iterdir()):
        if path.name.partition(".")[0].lower() in REFUSED_MODULES:
            raise FlipError("E0207", where=str(path), name=path.name)


def travelling(app_dir: Path) -> Iterator[Path]:
    """The files of the app that travel, relative to its folder: its code and config.json, no links.

    Of a Flower package its other JSON and TOML files, too.
    """
    suffixes = PACKAGE_SUFFIXES if is_package(app_dir) else frozenset({TRAVELLING_SUFFIX})
    for folder, folders, names in os.walk(app_dir):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        for name in sorted(names):
            path = Path(folder, name)
            inside = path.relative_to(app_dir)
            travels = path.suffix in suffixes or inside.as_posix() in TRAVELLING_FILES
            if travels and not path.is_symlink():
                yield inside


def copy_app(app_dir: Path, target: Path) -> None:
    """Copy the app's code and config.json; links, data and everything else stay."""
    for inside in travelling(app_dir):
        copy = target / inside
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(app_dir / inside, copy)


def digests(app_dir: Path) -> dict[str, str]:
    """What of an app travels, but for config.json: path → SHA-256."""
    return {
        path.as_posix(): hashlib.sha256((app_dir / path).read_bytes()).hexdigest()
        for path in travelling(app_dir)
        if path.as_posix() != CONFIG_FILE
    }
