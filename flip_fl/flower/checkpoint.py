"""A run's state after a round in one file: weights, round, what the strategy has learnt. Written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy

from flip_fl.app.arrays import Arrays, read_arrays, replace_arrays
from flip_fl.errors import FlipError

META = "meta"
WEIGHTS = "weights/"
STATE = "state/"
VERSION = 3


@dataclass(frozen=True)
class Checkpoint:
    """``round`` of ``total_rounds`` is done. ``facts`` is JSON-able: what the run itself must remember.

    ``state`` is what ``StrategyState.changed`` gave, ``history_bytes`` what ``History.save`` did.
    """

    round: int
    total_rounds: int
    arrays: Arrays
    state: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    history_bytes: int = 0


def write_checkpoint(path: Path, this: Checkpoint) -> None:
    """Put ``this`` in the place of the older one: a reader sees one or the other, also after a power cut."""
    stored: Arrays = {f"{WEIGHTS}{name}": array for name, array in this.arrays.items()}
    state = _to_json(this.state, stored)
    meta = {
        "version": VERSION,
        "round": this.round,
        "total_rounds": this.total_rounds,
        "names": list(this.arrays),
        "state": state,
        "facts": dict(this.facts),
        "history_bytes": this.history_bytes,
    }
    stored[META] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    replace_arrays(path, stored)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """The last checkpoint, or None when there is none. Raises ``FlipError`` E0521 for one that cannot be read."""
    if not path.is_file():
        return None
    try:
        stored = read_arrays(path)
        meta = json.loads(stored[META].tobytes())
        if meta["version"] != VERSION:
            raise ValueError(f"version {meta['version']}")
        return Checkpoint(
            round=int(meta["round"]),
            total_rounds=int(meta["total_rounds"]),
            arrays={name: stored[f"{WEIGHTS}{name}"] for name in meta["names"]},
            state=_from_json(meta["state"], stored),
            facts=meta["facts"],
            history_bytes=int(meta["history_bytes"]),
        )
    except Exception as error:
        raise FlipError("E0521", path=path, problem=f"{type(error).__name__}") from None


class StrategyState:
    """What a strategy has learnt since it was made: momenta, clipping norms, spent privacy, those of wrapped ones too.

    What its constructor was given stays the constructor's: a restarted run may be configured anew.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._first = {name: _fingerprint(value) for name, value in _attributes(strategy).items()}
        self._nested = {
            name: StrategyState(value) for name, value in vars(strategy).items() if isinstance(value, Strategy)
        }

    def changed(self) -> dict[str, Any]:
        """Attribute → value, for those that are not what they were at first."""
        now = {
            name: value
            for name, value in _attributes(self._strategy).items()
            if _fingerprint(value) != self._first.get(name)
        }
        inner = {name: state.changed() for name, state in self._nested.items()}
        return {"own": now, "inner": inner}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Give a newly made strategy what ``changed`` has kept."""
        for name, value in state.get("own", {}).items():
            held = getattr(self._strategy, name, None)
            if held is not None and _has_state(held):
                held.load_state_dict(value)
            else:
                setattr(self._strategy, name, value)
        for name, inner in state.get("inner", {}).items():
            if name in self._nested:
                self._nested[name].restore(inner)

    def unkept(self) -> list[str]:
        """Attributes that are neither numbers, texts, arrays nor functions: nobody can say whether they change."""
        own = [
            name
            for name, value in vars(self._strategy).items()
            if not isinstance(value, Strategy) and not callable(value) and not _has_state(value) and not _plain(value)
        ]
        return sorted([*own, *(f"{name}.{each}" for name, state in self._nested.items() for each in state.unkept())])


def _attributes(strategy: Strategy) -> dict[str, Any]:
    values = {name: value for name, value in vars(strategy).items() if not isinstance(value, Strategy)}
    kept = {name: value.state_dict() if _has_state(value) else value for name, value in values.items()}
    return {name: value for name, value in kept.items() if _plain(value)}


def _has_state(value: Any) -> bool:
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str | np.ndarray | np.generic | ArrayRecord)


def _fingerprint(value: Any) -> Any:
    arrays: Arrays = {}
    tree = json.dumps(_to_json(value, arrays), sort_keys=True)
    return tree, [(array.dtype.str, array.shape, array.tobytes()) for array in arrays.values()]


def _to_json(value: Any, arrays: Arrays) -> Any:
    """``value`` as JSON with a mark on whatever JSON has no word for; arrays go into ``arrays`` by number."""
    if isinstance(value, np.ndarray | np.generic):
        key = f"{STATE}{len(arrays)}"
        arrays[key] = np.asarray(value)
        return {"array": key, "scalar": isinstance(value, np.generic)}
    if isinstance(value, ArrayRecord):
        return {"record": {name: _to_json(array.numpy(), arrays) for name, array in value.items()}}
    if isinstance(value, Mapping):
        return {"dict": {key: _to_json(each, arrays) for key, each in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [_to_json(each, arrays) for each in value]}
    if isinstance(value, list):
        return [_to_json(each, arrays) for each in value]
    return value


def _from_json(tree: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(tree, list):
        return [_from_json(each, arrays) for each in tree]
    if not isinstance(tree, dict):
        return tree
    ((mark, held), *_) = tree.items()
    match mark:
        case "array":
            return arrays[held][()] if tree["scalar"] else arrays[held]
        case "record":
            return ArrayRecord({name: Array(_from_json(each, arrays)) for name, each in held.items()})
        case "dict":
            return {key: _from_json(each, arrays) for key, each in held.items()}
        case "tuple":
            return tuple(_from_json(each, arrays) for each in held)
        case _:
            raise ValueError(f"an unknown mark {mark!r}")
