"""The migration page cannot rot: every name in its tables is looked up where the page says that it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flip_fl import settings
from flip_fl.app.rules import PLATFORM_KEYS
from flip_fl.app.site import Site
from flip_fl.core.base import FLIPBase

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "MIGRATION.md"
GONE = "–"


class Row(NamedTuple):
    """The first two cells of a row, without their code marks."""

    old: str
    new: str


@cache
def tables() -> dict[str, list[Row]]:
    """Each table by the first cell of its head."""
    found: dict[str, list[Row]] = {}
    rows: list[Row] | None = None
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if not cells:
            rows = None
        elif rows is None:
            rows = found.setdefault(f"{section}: {cells[0]}", [])
        elif not set(cells[0]) <= {"-", " "}:
            rows.append(Row(cells[0], cells[1]))
    return found


def table(name: str) -> list[Row]:
    rows = tables()[name]
    assert len(rows) > 3
    return rows


def resolve(path: str) -> Any:
    """The object at a dotted path: the longest module, then attributes."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        try:
            found = import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(error.name or "?"):
                raise
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(path)


def test_the_page_has_the_tables_that_are_tested() -> None:
    """A table under a new heading would be a table that nothing looks at."""
    assert set(tables()) == {
        "Python names: old",
        "Python names: gone",
        "What an app calls: FLIP().…",
        "config.json: old",
        "NVFLARE job templates: old path",
        "NVFLARE job templates: id",
        "Settings: old",
        "Flower run config: old",
    }


def test_every_old_python_name_is_found_and_is_the_new_one() -> None:
    """Both columns name one object, the old one by the alias that existing apps meet."""
    pairs = [(row.old, row.new) for row in table("Python names: old")]
    program = f"""
import json, sys
from importlib import import_module
from flip_fl.compat import alias
alias.install(lambda note: None)
def get(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
print(json.dumps([[old, new] for old, new in {pairs!r} if get(old) is not get(new)]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_no_name_that_existing_apps_may_import_is_left_out() -> None:
    """Whatever ``flip_fl.compat`` offers stands in the table, with its submodule's name."""
    named = {row.old for row in table("Python names: old")}
    offered = set()
    folder = ROOT / "flip_fl" / "compat"
    for path in folder.rglob("*.py"):
        inside = path.relative_to(folder)
        if inside.name == "alias.py":
            continue
        parts = [part for part in inside.with_suffix("").parts if part != "__init__"]
        module = import_module(".".join(["flip_fl.compat", *parts]))
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        public = [
            name for name in getattr(module, "__all__", own) if name[0] != "_" and callable(getattr(module, name))
        ]
        offered |= {".".join(["flip", *parts, name]) for name in public}
    constants = {"flip.constants.FlipConstants", "flip.constants.flip_constants.FlipConstants"}
    assert offered | constants == named


def test_what_is_gone_is_gone_and_what_takes_its_place_is_there() -> None:
    """A name that came back must not stand among those that did not."""
    rows = table("Python names: gone") + table("NVFLARE job templates: old path")
    for row in rows:
        with pytest.raises((ModuleNotFoundError, AttributeError)):
            resolve(row.old.replace("flip.", "flip_fl.compat.", 1))
        if row.new != GONE:
            assert callable(resolve(row.new)), row


def test_calls_of_flip_and_of_site_exist() -> None:
    """Every operation of the client has its row, and each new word is one that ``site`` has."""
    rows = table("What an app calls: FLIP().…")
    operations = {name for name in vars(FLIPBase) if name[0] != "_" and callable(getattr(FLIPBase, name))}
    assert {row.old for row in rows} == operations
    assert all(row.new == GONE or callable(getattr(Site, row.new)) for row in rows)


def test_keys_of_config_are_the_platform_s() -> None:
    """Every key that is checked has its row, and no row names another."""
    rows = table("config.json: old")
    assert {row.new for row in rows} == set(PLATFORM_KEYS)
    assert all(row.old in (row.new, GONE) for row in rows)


def test_ids_of_the_standard_template_are_where_the_page_says() -> None:
    """FLIP's FL API edits by id: each is in the template, with this path."""
    config = json.loads((ROOT / "job_templates/nvflare/standard/app/config/config_fed_server.json").read_text())
    paths = {part["id"]: part["path"] for part in config["components"] + config["workflows"]}
    for row in table("NVFLARE job templates: id"):
        assert paths.get(row.old, GONE) == row.new


def test_settings_are_those_that_are_read() -> None:
    """Every name is an alias of a role's setting."""
    aliases = {
        field.alias
        for each in vars(settings).values()
        if isinstance(each, type) and issubclass(each, settings.RoleSettings)
        for field in each.model_fields.values()
    }
    rows = table("Settings: old")
    assert {row.new for row in rows} <= aliases
    assert all(row.old in (row.new, GONE) for row in rows)


def test_keys_of_flower_s_run_config_are_declared() -> None:
    """Flower takes only keys that the template declares; the table has all of them."""
    project = tomllib.loads((ROOT / "job_templates/flower/standard/pyproject.toml").read_text())
    rows = table("Flower run config: old")
    assert {row.new for row in rows} == set(project["tool"]["flwr"]["app"]["config"])
    assert all(row.old in (row.new, GONE) for row in rows)


def test_commands_and_files_of_the_page_exist() -> None:
    """What the page tells people to type or to open is there."""
    text = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:examples|job_templates)/[\w/]+)`", text):
        assert (ROOT / path).exists(), path
    assert set(re.findall(r"`flip-fl (\w+)", text)) == {"check", "new"}
