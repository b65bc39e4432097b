"""What loads what: `import flip_fl` is light, no engine-neutral module loads an engine, and the linter says so."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "flip_fl"
# torch's own base class cannot be had later; nothing else imports this module at its top
DATASET = PACKAGE / "data" / "dataset.py"
ENGINES = {"nvflare", "flwr", "ray", "torch"}
NEUTRAL = ("core", "reporting", "data", "privacy", "app", "aggregate", "results", "dashboard", "hub")


def _loaded(code: str) -> set[str]:
    """The top-level packages that ``code`` leaves loaded in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    """A command line that shows its help, and an app that imports FLIP, must not wait for pandas or an engine."""
    loaded = _loaded("import flip_fl; flip_fl.ModelStatus; flip_fl.FlipError; flip_fl.__version__")
    assert "flip_fl" in loaded
    assert loaded.isdisjoint(
        ENGINES | {"pandas", "numpy", "pydantic", "pydantic_settings", "requests", "typer", "rich"}
    )


def test_the_development_client_loads_no_engine_and_no_torch() -> None:
    """`FLIP()` in dev mode once needed torch, which is an extra."""
    loaded = _loaded("import os; os.environ['LOCAL_DEV'] = 'true'; import flip_fl; flip_fl.FLIP()")
    assert "pydantic" in loaded
    assert loaded.isdisjoint(ENGINES | {"pandas", "boto3", "sqlalchemy", "fastapi"})


def test_no_engine_neutral_module_loads_an_engine_or_torch() -> None:
    """Each of them must work where only the other engine, or none, is installed."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in NEUTRAL
        for path in sorted((PACKAGE / room).rglob("*.py"))
        if path.name != "__main__.py" and path != DATASET and not {"migrations"} & set(path.parts)
    ]
    assert len(modules) > 20
    loaded = _loaded("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in modules))
    assert loaded.isdisjoint(ENGINES)


def test_torch_is_imported_inside_functions_only() -> None:
    """A server process imports the package and must never load torch with it; data sets are made at sites only."""
    at_import = []
    for path in set(PACKAGE.rglob("*.py")) - {DATASET}:
        for node in _executed_at_import(ast.parse(path.read_text()).body):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            if any(name.partition(".")[0] == "torch" for name in names):
                at_import.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert at_import == []


def _executed_at_import(body: list[ast.stmt]) -> list[ast.Import | ast.ImportFrom]:
    found: list[ast.Import | ast.ImportFrom] = []
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found += _executed_at_import(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "orelse", "finalbody", "handlers"):
                found += _executed_at_import(getattr(node, part, []))
    return found


def test_the_public_face_exports_what_it_names() -> None:
    """Lazy exports are only found out when somebody uses them."""
    import flip_fl

    for name in flip_fl.__all__:
        assert getattr(flip_fl, name) is not None
        assert name in dir(flip_fl)
    with pytest.raises(AttributeError, match="no attribute 'NotThere'"):
        flip_fl.NotThere  # noqa: B018


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "lint-imports"
    return subprocess.run([str(program), "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_every_part_imports_only_what_it_may() -> None:
    """The contracts of the architecture hold."""
    run = _lint(ROOT)
    assert run.returncode == 0, run.stdout[-3000:]
    assert "0 broken" in run.stdout


PLANTED = {
    "values.py": "from flip_fl import http",
    "core/planted.py": "import nvflare",
    "nvflare/planted.py": "import flwr\nimport torch",
    "flower/planted.py": "import nvflare",
    "hub/planted.py": "import flip_fl.reporting.hub_client",
    "dashboard/planted.py": "import flip_fl.results.s3",
    "privacy/planted.py": "import flip_fl.http",
    "app/planted.py": "import urllib3",
    "simulate/planted.py": "import boto3",
    "reporting/planted.py": "import sqlalchemy",
    "trust/planted.py": "import flip_fl.hub.admin",
    "commands/planted.py": "import flip_fl.compat.utils",
    "compat/planted.py": "import torch",
}


def test_every_contract_of_the_linter_can_be_broken(tmp_path: Path) -> None:
    """A contract that holds whatever is imported protects nothing."""
    shutil.copytree(PACKAGE, tmp_path / "flip_fl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, code in PLANTED.items():
        path = tmp_path / "flip_fl" / name
        path.write_text((path.read_text() if path.exists() else "") + f"\n{code}\n")
    run = _lint(tmp_path)
    assert run.returncode != 0
    contracts = (ROOT / "pyproject.toml").read_text().count("[[tool.importlinter.contracts]]")
    assert f"Contracts: 0 kept, {contracts} broken." in run.stdout, run.stdout[-4000:]
