"""What belongs into a results bundle: plain data, given by whoever has it built and repeated in its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

GLOBAL_MODEL = "FL_global_model.pt"
BEST_MODEL = "best_FL_global_model.pt"
METRICS = "metrics.json"
CROSS_VALIDATION = "cross_site_val/cross_val_results.json"
EVALUATION = "evaluation_results/evaluation_results.json"
EVALUATION_FAILURES = "evaluation_results/evaluation_failures.json"


class Kind(StrEnum):
    """What a file is, and so what is asked of it."""

    MODEL = "model"  # weights, which load strictly into the app's own model
    SCORES = "scores"  # {client: {model: {name: number}}}
    FAILURES = "failures"  # [{model, client, return_code}]
    DOCUMENT = "document"  # any JSON
    PICTURE = "picture"  # a PNG

    @property
    def suffix(self) -> str:
        """How the names of such files end."""
        return {Kind.MODEL: ".pt", Kind.PICTURE: ".png"}.get(self, ".json")


@dataclass(frozen=True)
class Item:
    """One file of a bundle, by its name in it.

    ``stage``: which of the app's models a MODEL is (``get_model(stage)``). ``absent``: what the manifest says when it
    is not there. Raises ``ValueError`` for a name that no such file may have.
    """

    name: str
    kind: Kind
    required: bool = False
    stage: str | None = None
    absent: str | None = None

    def __post_init__(self) -> None:
        if not is_plain(self.name) or not self.name.endswith(self.kind.suffix) or self.name in _RESERVED:
            raise ValueError(f"a {self.kind.value} of a bundle cannot be called {self.name!r}")


@dataclass(frozen=True)
class Contents:
    """The files of a bundle beside the app's code, its config and the manifest; the first MODEL is the job's result.

    Raises ``ValueError`` when two have the same name.
    """

    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.items):
            raise ValueError("two files of a bundle have the same name")

    def plus(self, *items: Item) -> Contents:
        """These and ``items``."""
        return Contents((*self.items, *items))

    @property
    def names(self) -> frozenset[str]:
        return frozenset(item.name for item in self.items)

    @property
    def models(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.kind is Kind.MODEL)

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.items if item.required)

    @classmethod
    def from_json(cls, data: Any) -> Contents:
        """What ``dataclasses.asdict`` made of one. Raises ``ValueError``."""
        if not isinstance(data, Mapping) or not isinstance(data.get("items"), list):
            raise ValueError("contents is not a list of items")
        return cls(tuple(_item(each) for each in data["items"]))


def is_plain(name: str) -> bool:
    """Whether ``name`` is a plain path below a folder (``a/b.json``), on any system."""
    path = PurePosixPath(name)
    climbs = path.is_absolute() or ".." in path.parts or path.as_posix() != name
    return bool(path.parts) and not climbs and "\\" not in name and name.isprintable()


def _item(data: Any) -> Item:
    if not isinstance(data, Mapping):
        raise ValueError("an item of contents is not an object")
    name, stage, absent = data.get("name"), data.get("stage"), data.get("absent")
    if not isinstance(name, str) or not all(isinstance(text, str | None) for text in (stage, absent)):
        raise ValueError("an item of contents lacks its name")
    return Item(name, Kind(str(data.get("kind"))), data.get("required") is True, stage, absent)


_RESERVED = frozenset({"config.json", "manifest.json"})

TRAINED = Contents(
    (
        Item(GLOBAL_MODEL, Kind.MODEL, required=True),
        Item(BEST_MODEL, Kind.MODEL, absent="no round was kept as the best (BEST_MODEL_METRIC)"),
        Item(METRICS, Kind.DOCUMENT),
        Item(CROSS_VALIDATION, Kind.SCORES),
        Item(EVALUATION, Kind.SCORES),
        Item(EVALUATION_FAILURES, Kind.FAILURES),
    )
)
EVALUATED = Contents(
    (
        Item(EVALUATION, Kind.SCORES, required=True),
        Item(EVALUATION_FAILURES, Kind.FAILURES, required=True),
        Item(METRICS, Kind.DOCUMENT),
    )
)
