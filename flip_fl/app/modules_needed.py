"""Which modules an app imports that are not there; nothing is imported to find out."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from flip_fl.app.packages import package_name
from flip_fl.app.syntax import parsed
from flip_fl.app.travel import travelling

# Found for existing apps where it is not installed.
_ALIASED = "flip"
# What brings a module whose distribution has another name.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "SimpleITK": "SimpleITK",
    "cv2": "opencv-python-headless",
    "flwr": "flip_fl[flower]",
    "nibabel": "flip_fl[imaging]",
    "nvflare": "flip_fl[nvflare]",
    "pydicom": "flip_fl[imaging]",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "sksurv": "scikit-survival",
    "torch": "flip_fl[torch]",
    "yaml": "pyyaml",
}


# As a module's name with a slip in it has it to the one that was meant.
LIKENESS = 0.8


@dataclass(frozen=True)
class Missing:
    """A module that ``file`` imports at ``line``. ``at_once``: when the file itself is imported, and not later, or in
    a ``try``; ``install`` is what brings it, ``meant`` a module of the app that has nearly its name."""

    module: str
    file: str
    line: int
    at_once: bool
    install: str
    meant: str | None = None


def missing_modules(app_dir: Path) -> tuple[Missing, ...]:
    """Modules that the app's files import and that nobody finds, each once: where it is needed at once, if anywhere."""
    own = _own_names(app_dir)
    found: dict[str, Missing] = {}
    for inside in travelling(app_dir):
        tree = parsed(app_dir / inside) if inside.suffix == ".py" else None
        for module, line, at_once in _imports(tree) if tree is not None else ():
            top = module.partition(".")[0]
            known = found.get(top)
            if top in own or (known is not None and (known.at_once or not at_once)) or _is_there(top):
                continue
            # prepare.py is only run where the app brings its own data.
            at_once = at_once and inside.as_posix() != "prepare.py"
            (meant,) = get_close_matches(top, sorted(own), 1, LIKENESS) or (None,)
            found[top] = Missing(top, inside.as_posix(), line, at_once, _DISTRIBUTIONS.get(top, top), meant)
    return tuple(found.values())


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported; it is not."""
    try:
        return module in sys.modules or find_spec(module) is not None
    except (ImportError, ValueError):
        return True


def _is_there(top: str) -> bool:
    return top in sys.stdlib_module_names or top == _ALIASED or is_installed(top)


def _own_names(app_dir: Path) -> frozenset[str]:
    names = {path.stem for path in app_dir.glob("*.py")}
    names |= {path.name for path in app_dir.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    package = package_name(app_dir)
    return frozenset(names | ({package} if package else set()))


def _imports(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Module, line, and whether it is imported with the file."""
    waiting: list[tuple[ast.AST, bool]] = [(node, True) for node in tree.body]
    while waiting:
        node, at_once = waiting.pop(0)
        if isinstance(node, ast.Import):
            yield from ((each.name, node.lineno, at_once) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno, at_once
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Try) or _for_types(node)
        waiting += [(child, at_once and not later) for child in ast.iter_child_nodes(node)]


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
