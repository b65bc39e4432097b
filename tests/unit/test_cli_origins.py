"""Where a setting's value comes from, and what is said of keys."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flip_fl.commands.hub_probe import key_problems, refusal_reason
from flip_fl.commands.origins import Origins, fingerprint
from flip_fl.settings import write_settings_file

KEY = "canary-key-4711"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.env"
    write_settings_file(path, {"NET_ID": "net-1", "INTERNAL_SERVICE_KEY": KEY})
    return path


def test_the_file_comes_before_the_environment_and_says_what_it_hides(file: Path) -> None:
    """Protects from the wrong belief that an exported value is in force."""
    origin = Origins(file, {"NET_ID": "net-2"}).get("NET_ID")
    assert origin is not None
    assert (origin.value, origin.source, origin.overrides) == ("net-1", f"{file}:1", ("env",))


def test_a_key_is_only_ever_a_fingerprint(file: Path) -> None:
    """Protects keys: six digits of their hash tell two apart, nothing gives one away."""
    origins = Origins(file, {"TRUST_INTERNAL_SERVICE_KEY": KEY + "x"})
    digits = hashlib.sha256(KEY.encode()).hexdigest()[:6]
    assert fingerprint(KEY) == digits
    assert origins.describe("INTERNAL_SERVICE_KEY") == f"set (file {file}:2, sha256 {digits})"
    assert KEY not in str(origins.table())


def test_a_password_in_an_address_is_not_shown() -> None:
    """Protects the database's password from `flip-fl doctor --config`."""
    rows = Origins(None, {"FLIP_HUB_DATABASE_URL": "postgresql://ada:s3cret@db/flip"}).table()
    shown = next(row for row in rows if row.name == "FLIP_HUB_DATABASE_URL")
    assert shown.value == "postgresql://…@db/flip"
    assert shown.source == "env"


def test_defaults_are_told_as_defaults() -> None:
    """Protects from the question whether a value was set or just happens to be there."""
    rows = {row.name: row for row in Origins(None, {}).table()}
    assert (rows["NET_ID"].value, rows["NET_ID"].source) == ("default", "default")
    assert "INTERNAL_SERVICE_KEY" not in rows


def test_a_blank_value_counts_as_not_set() -> None:
    """Protects from `export KEY=` passing for a key."""
    assert Origins(None, {"INTERNAL_SERVICE_KEY": ""}).describe("INTERNAL_SERVICE_KEY") == "not set"


def test_why_a_key_is_refused_is_only_said_where_it_is_proved() -> None:
    """Protects from a confident wrong diagnosis of a refused key."""
    same = {"INTERNAL_SERVICE_KEY": KEY, "TRUST_INTERNAL_SERVICE_KEY": KEY}
    assert refusal_reason(Origins(None, same), None) == "it equals TRUST_INTERNAL_SERVICE_KEY of this shell"
    other = {"INTERNAL_SERVICE_KEY": KEY, "TRUST_INTERNAL_SERVICE_KEY": "x"}
    assert "TRUST_INTERNAL" not in refusal_reason(Origins(None, other), None)
    wrong_hash = {"INTERNAL_SERVICE_KEY": KEY, "INTERNAL_SERVICE_KEY_HASH": "ab" * 32}
    assert refusal_reason(Origins(None, wrong_hash), None).startswith("its hash is not the hub's")
    right_hash = {**wrong_hash, "INTERNAL_SERVICE_KEY_HASH": hashlib.sha256(KEY.encode()).hexdigest()}
    assert refusal_reason(Origins(None, right_hash), None) == "the hub keeps the hash of another key"


def test_both_keys_in_one_shell_are_only_a_problem_without_a_role() -> None:
    """Protects from a false alarm on a machine that says which role each process has."""
    both = {"INTERNAL_SERVICE_KEY": "a", "TRUST_INTERNAL_SERVICE_KEY": "b"}
    assert key_problems(Origins(None, both)) is not None
    assert key_problems(Origins(None, {**both, "FLIP_ROLE": "server"})) is None
