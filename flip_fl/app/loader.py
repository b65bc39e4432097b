"""Importing the researcher's modules from the app's folder."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from flip_fl.app.faults import AppError
from flip_fl.app.packages import package_name
from flip_fl.compat import alias

logger = logging.getLogger("flip_fl.app")


class _AppPath(str):
    """An entry of ``sys.path`` that a loader put there, so that the next one can take it away."""

    __slots__ = ()


class AppLoader:
    """The modules of one app. One process runs one app at a time: its names (``models``, ``trainer``) are top level.

    Those of a Flower package are its package's (``app.models``), whatever the folder is called where it lies now.
    """

    def __init__(self, app_dir: Path) -> None:
        self.app_dir = app_dir.resolve()
        self._package = package_name(self.app_dir)
        self._modules: dict[str, ModuleType] = {}

    def module(self, name: str) -> ModuleType:
        """The app's module ``name``, imported once.

        Raises ``AppError`` when the app has no such file, and whatever the module raises.
        """
        if not (self.app_dir / f"{name}.py").is_file():
            raise AppError(f"the app has no {name}.py")
        with _no_bytecode():
            self.activate()
            full = f"{self._package}.{name}" if self._package else name
            if full not in self._modules:
                self._be_package()
                self._modules[full] = importlib.import_module(full)
        return self._modules[full]

    def function(self, module: str, name: str) -> Callable[..., Any]:
        """A function of the app. Raises ``AppError`` when the module does not define it."""
        found = getattr(self.module(module), name, None)
        if not callable(found):
            raise AppError(f"{module}.py has no function {name}")
        return found  # type: ignore[no-any-return]

    def activate(self) -> None:
        """Make the app's folder the first place to import from, and forget modules of its names from elsewhere.

        ``flip``, which existing apps import, is ``flip_fl.compat`` from now on where no real one is installed.
        """
        alias.install(logger.warning)
        sys.path[:] = [entry for entry in sys.path if not isinstance(entry, _AppPath)]
        if self._package is None:
            sys.path.insert(0, _AppPath(self.app_dir))
        importlib.invalidate_caches()
        own = self._own_names()
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in own and not self._is_ours(module):
                del sys.modules[name]
        sys.modules.update(self._modules)

    def _be_package(self) -> None:
        """Import the app's folder as the package that its modules take it for."""
        if self._package is None or self._package in sys.modules:
            return
        init = self.app_dir / "__init__.py"
        places = [str(self.app_dir)]
        if init.is_file():
            spec = importlib.util.spec_from_file_location(self._package, init, submodule_search_locations=places)
        else:
            spec = ModuleSpec(self._package, None, is_package=True)
            spec.submodule_search_locations = places
        assert spec is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[self._package] = package
        try:
            if spec.loader is not None:
                spec.loader.exec_module(package)
        except BaseException:
            del sys.modules[self._package]
            raise
        self._modules[self._package] = package

    def _own_names(self) -> set[str]:
        if self._package is not None:
            return {self._package}
        names = {path.stem for path in self.app_dir.glob("*.py")}
        names |= {path.parent.name for path in self.app_dir.glob("*/__init__.py")}
        return names - set(sys.stdlib_module_names) - {"__init__", "__main__"}

    def _is_ours(self, module: ModuleType | None) -> bool:
        file = getattr(module, "__file__", None)
        places = [file] if file is not None else list(getattr(module, "__path__", ()))
        return any(Path(place).resolve().is_relative_to(self.app_dir) for place in places)


@contextlib.contextmanager
def _no_bytecode() -> Iterator[None]:
    """The researcher's folder stays as it was: no ``__pycache__`` in it."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
