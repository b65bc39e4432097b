"""Which kit slot a Flower client says it is, and the settings that its site has for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flip_fl.errors import FlipError
from flip_fl.flower.protocol import MAX_SLOT_CHARS
from flip_fl.settings import ClientSettings, DevSettings, development_environment, is_dev, load, settings_file

SLOT = "slot"
PARTITION = "partition-id"
SLOTS = "flip-slots"
NAME_VARIABLE = "SUPERNODE_NAME"


@dataclass(frozen=True)
class SiteFacts:
    """A site's own folder, and the variables by which an app's ``FLIP()`` finds its data in development."""

    state_dir: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def claimed_slot(node_config: Mapping[str, Any], run_config: Mapping[str, Any], told: str = "") -> str:
    """The slot that this client is by its own account; the server compares it with the key's registered name.

    ``node_config["slot"]``, else SUPERNODE_NAME, else in a simulation the entry of flip-slots at the partition's place
    (without flip-slots: ``Trust_<partition + 1>``), else what the server has ``told``. Raises ``FlipError`` E0551.
    """
    named = str(node_config.get(SLOT) or os.environ.get(NAME_VARIABLE) or "").strip()
    found = named or _of_partition(node_config, run_config) or told
    if not found:
        raise FlipError("E0551", problem="nothing names it")
    if len(found) > MAX_SLOT_CHARS or not found.isprintable():
        raise FlipError("E0551", problem=f"a slot has 1 to {MAX_SLOT_CHARS} printable characters, this is {found!r}")
    return found


def site_facts(slot: str, *, imaging: bool = True) -> SiteFacts:
    """What the settings of ``slot`` say for an app with this IMAGING.

    Raises ``FlipError`` E0401, E0404 or E0405 as ``settings.load`` does.
    """
    file = settings_file(slot)
    if not is_dev(file):
        return SiteFacts(load(ClientSettings, file).state_dir)
    return SiteFacts(load(DevSettings, file).state_dir, development_environment(file, imaging=imaging))


@contextlib.contextmanager
def exported(variables: Mapping[str, str]) -> Iterator[None]:
    """The process's environment with ``variables``; afterwards it is as before: the next task may be another site's."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _of_partition(node_config: Mapping[str, Any], run_config: Mapping[str, Any]) -> str:
    partition = node_config.get(PARTITION)
    if partition is None:
        return ""
    slots = [name.strip() for name in str(run_config.get(SLOTS) or "").split(",") if name.strip()]
    if isinstance(partition, bool) or not isinstance(partition, int) or partition < 0:
        raise FlipError("E0551", problem=f"{PARTITION} is {partition!r}, not a whole number from 0")
    if not slots:
        return f"Trust_{partition + 1}"
    if partition >= len(slots):
        raise FlipError("E0551", problem=f"it is partition {partition}, and {SLOTS} names {len(slots)} slots")
    return slots[partition]
