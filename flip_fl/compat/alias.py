"""``flip`` for existing apps: answers its imports with ``flip_fl.compat``, and only where no real ``flip`` is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, util
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import Any

OLD = "flip"
NEW = "flip_fl.compat"
Note = Callable[[str], None]

_FILTERS = (
    "KeepOnlyVars",
    "ReconstructFullModel",
    "ReconstructFullModelForEval",
    "TrimBroadcastVars",
    "TrimEvalBroadcastVars",
)
_VALUES = ("JobType", "ModelStatus", "ResourceType")
# Where a name is imported from today; what is not here has no other place than `flip_fl.compat`.
NEW_PLACES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("FLIP", "FLIPBase", "ResultsUploadError", *_VALUES), "flip_fl"),
        "FlipFedAvg": "flip_fl.flower",
        "flip_local_dp_mod": "flip_fl.flower:local_dp_mod",
        **dict.fromkeys(_FILTERS, "flip_fl.nvflare.filters"),
    }
)


def install(note: Note) -> None:
    """From now on ``import flip`` finds ``flip_fl.compat`` in this process, unless a real ``flip`` can be imported.

    ``note`` is told the new import of each name, once, when the name is first used. To install twice does nothing.
    """
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder(note))


def new_import(module: str, name: str) -> str:
    """The statement that takes the place of ``from <module> import <name>``, ``module`` being one of ``flip``."""
    place = NEW_PLACES.get(name, NEW + module.removeprefix(OLD))
    where, _, other = place.partition(":")
    return f"from {where} import {other} as {name}" if other else f"from {where} import {name}"


class _AliasFinder(MetaPathFinder):
    def __init__(self, note: Note) -> None:
        self._note = note
        self._said: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != OLD and not fullname.startswith(f"{OLD}."):
            return None
        if fullname == OLD:
            if self._real_is_there(path, target):
                return None
        elif not isinstance(sys.modules.get(OLD), _Alias):
            return None
        new = NEW + fullname.removeprefix(OLD)
        if new == __name__ or util.find_spec(new) is None:
            return None
        return ModuleSpec(fullname, _AliasLoader(new, self._say), is_package=True)

    def _real_is_there(self, path: Sequence[str] | None, target: ModuleType | None) -> bool:
        """Whether anybody else finds ``flip``: a package or a module, not a mere folder of that name."""
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(OLD, path, target) if find is not None and finder is not self else None
            if spec is not None and spec.origin is not None:
                return True
        return False

    def _say(self, module: str, name: str) -> None:
        # A name that two modules have is still one name.
        if name not in self._said:
            self._said.add(name)
            self._note(f"{module}.{name} is flip_fl's here; write: {new_import(module, name)}")


class _AliasLoader(Loader):
    def __init__(self, new: str, say: Callable[[str, str], None]) -> None:
        self._new = new
        self._say = say

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Alias(spec.name, self._new, self._say)

    def exec_module(self, module: ModuleType) -> None:
        return


class _Alias(ModuleType):
    """A module of ``flip``: what it has is ``new``'s, looked up and said when it is used."""

    def __init__(self, name: str, new: str, say: Callable[[str, str], None]) -> None:
        super().__init__(name, import_module(new).__doc__)
        self.__dict__["_new"], self.__dict__["_say"] = new, say
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        new = self.__dict__["_new"]
        try:
            found = getattr(import_module(new), name)
        except AttributeError:
            if util.find_spec(f"{new}.{name}") is not None:
                return import_module(f"{self.__name__}.{name}")
            raise AttributeError(
                f"{self.__name__} has no {name} here; README, 'Existing apps', says what has"
            ) from None
        if isinstance(found, ModuleType):
            return import_module(f"{self.__name__}.{name}")
        self.__dict__["_say"](self.__name__, name)
        return found
