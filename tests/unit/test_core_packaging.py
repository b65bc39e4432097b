"""The package's metadata: ranges that resolve beside both engines, and a lock that holds all of them."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def _project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as source:
        return dict(tomllib.load(source)["project"])


def _ours(extras: list[str]) -> list[Requirement]:
    """Our requirements with ``extras``, our own extras unfolded."""
    project = _project()
    found = [Requirement(text) for text in project["dependencies"]]
    waiting, seen = list(extras), set[str]()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            if canonicalize_name(requirement.name) == "flip-fl":
                waiting += requirement.extras
            else:
                found.append(requirement)
    return found


def _lock() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pairs = [line.partition("==") for line in lines if line and not line.startswith("#")]
    assert all(sign for _, sign, _ in pairs), "the lock pins everything exactly"
    return {canonicalize_name(name): version for name, _, version in pairs}


def _unmet(start: list[Requirement]) -> list[str]:
    """What the installed packages do not satisfy, of ``start`` and of everything those need in turn."""
    problems: list[str] = []
    seen: set[tuple[str, str]] = set()
    waiting = [("flip_fl", requirement) for requirement in start]
    while waiting:
        asker, requirement = waiting.pop()
        if (str(requirement), asker) in seen:
            continue
        seen.add((str(requirement), asker))
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{asker} needs {requirement}, which is not installed")
            continue
        if not requirement.specifier.contains(found.version, prereleases=True):
            problems.append(f"{asker} needs {requirement}, installed is {found.version}")
        for text in found.requires or []:
            further = Requirement(text)
            extras = requirement.extras or {""}
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append((requirement.name, further))
    return problems


def test_our_ranges_resolve_beside_both_engines() -> None:
    """flwr caps fastapi, typer, rich and protobuf: one environment must hold everything, engines' needs included."""
    assert _unmet(_ours(["all", "dev"])) == []


def test_the_check_of_ranges_can_fail() -> None:
    """A walk that saw no requirement of flwr's would prove nothing."""
    assert _unmet([Requirement("flwr>=99")]) != []
    assert _unmet([Requirement("no-such-package-anywhere")]) != []
    caps = {Requirement(text).name: Requirement(text).specifier for text in distribution("flwr").requires or []}
    assert not caps["typer"].contains("0.99")


def test_the_lock_is_what_is_installed_and_holds_every_requirement() -> None:
    """An unpinned resolve takes minutes and gives everybody something else."""
    lock = _lock()
    for requirement in _ours(["all", "dev"]):
        name = canonicalize_name(requirement.name)
        assert name in lock, f"{name} is not in the lock: make lock"
        assert requirement.specifier.contains(lock[name], prereleases=True)
        # torch's CPU build has a local version; the lock holds the public part.
        assert distribution(name).version.partition("+")[0] == lock[name]


def test_the_base_install_is_small() -> None:
    """pandas, pydantic-settings, requests with its urllib3, typer, rich and little else."""
    base = {canonicalize_name(Requirement(text).name) for text in _project()["dependencies"]}
    assert base == {"numpy", "pandas", "pydantic", "pydantic-settings", "requests", "rich", "typer", "urllib3"}


@pytest.mark.parametrize(
    "extra", ["nvflare", "flower", "torch", "s3", "hub", "postgres", "privacy", "simulate", "all", "dev"]
)
def test_every_extra_that_errors_name_exists(extra: str) -> None:
    """`pip install 'flip_fl[s3]'` must be something that pip knows."""
    assert extra in _project()["optional-dependencies"]


def test_every_pip_install_that_is_named_is_an_extra() -> None:
    """An error that names a missing extra would send a user in circles."""
    extras = set(_project()["optional-dependencies"])
    for path in (ROOT / "flip_fl").rglob("*.py"):
        for names in re.findall(r"flip_fl\[([a-z0-9,]+)\]", path.read_text()):
            assert set(names.split(",")) <= extras, path


@pytest.mark.xdist_group("packaging")
def test_tests_that_share_an_expensive_fixture_run_in_one_worker(request: pytest.FixtureRequest) -> None:
    """A pytest that pytest-xdist cannot tell groups to starts every federation of the suite once in each worker."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@packaging")
