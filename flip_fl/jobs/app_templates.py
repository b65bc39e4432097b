"""New apps: each is made of layers, the folders of ``job_templates/apps``, by its job type and its kind of data.

Of a file that several layers have the first one's is taken; JSON objects are merged, and Markdown is joined, in the
layers' order. ``$name`` in Markdown is the app's name.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from string import Template
from typing import Any

from flip_fl.app.config import CONFIG_FILE
from flip_fl.errors import FlipError
from flip_fl.jobs.templates import template_dir
from flip_fl.values import JobType

README = "README.md"


def layers_of(job_type: JobType, imaging: bool) -> tuple[str, ...]:
    """The names of the layers, the most special first."""
    data = "imaging" if imaging else "table"
    if job_type is JobType.EVALUATION:
        return (job_type.value, f"{job_type.value}_{data}", data)
    return (job_type.value, *(("training",) if job_type is not JobType.DIFFUSION else ()), data)


def write_new_app(target: Path, job_type: JobType, *, imaging: bool) -> tuple[str, ...]:
    """Write a neutral app to ``target``, whole or not at all; the names of its files.

    Raises ``FlipError`` E0219 when something is there already, E0220 when it cannot be written.
    """
    if os.path.lexists(target):
        raise FlipError("E0219", path=target)
    layers = [template_dir("apps", name) for name in layers_of(job_type, imaging)]
    names = sorted({path.name for layer in layers for path in layer.iterdir() if path.is_file()})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".flip-fl-new-", dir=target.parent) as folder:
            app = Path(folder, target.name)
            app.mkdir()
            for name in names:
                _write(app / name, [layer / name for layer in layers if (layer / name).is_file()], target.name)
            app.rename(target)
    except OSError as error:
        raise FlipError(
            "E0220", path=target, problem=error.strerror or type(error).__name__, suggestion="choose another place"
        ) from None
    return tuple(names)


def _write(out: Path, sources: list[Path], name: str) -> None:
    if out.name == CONFIG_FILE:
        merged: dict[str, Any] = {}
        for source in sources:
            merged |= json.loads(source.read_text(encoding="utf-8"))
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in merged.items()]
        out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    elif out.name == README:
        text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
        out.write_text(Template(text).substitute(name=name), encoding="utf-8")
    else:
        shutil.copyfile(sources[0], out)
