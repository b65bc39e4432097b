"""flip_fl in another version, for one program and all that it starts: this one's code under another number."""

from __future__ import annotations

import shutil
from pathlib import Path

import flip_fl

# Each is imported at a site that takes part in a run, on its engine.
_USED = ("nvflare/executor.py", "flower/client.py")


def other_version(folder: Path, version: str) -> dict[str, str]:
    """The environment in which ``import flip_fl`` finds ``version``, made in ``folder``."""
    place = folder / f"flip_fl-{version}"
    shutil.copytree(Path(flip_fl.__file__).parent, place / "flip_fl", ignore=shutil.ignore_patterns("__pycache__"))
    for name in _USED:
        with (place / "flip_fl" / name).open("a", encoding="utf-8") as module:
            module.write('\nopen(__file__ + ".used", "w").close()\n')
    facts = place / f"flip_fl-{version}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flip_fl\nVersion: {version}\n", encoding="utf-8")
    return {"PYTHONPATH": str(place)}


def was_used(folder: Path, version: str) -> bool:
    """Whether a site has taken part with this version."""
    return any((folder / f"flip_fl-{version}").rglob("*.used"))
