"""``flip-fl privacy status``: what a site's engineer sees of what is spent."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter

from flip_fl.commands.answers import PrivacyStatus
from flip_fl.privacy.account import Account, Release
from tests.support.cli import flip_fl

POLICY = """
[filters.gaussian]
epsilon = 1.0
delta = 1e-5
clipping_norm = 1.0
[budget]
epsilon = 4.0
delta = 1e-5
"""


def test_a_site_sees_what_its_projects_have_spent_and_what_is_left(tmp_path: Path) -> None:
    """Rounds, jobs and cohorts of each project add up to one figure beside the budget of the site's own policy."""
    state = tmp_path / "state"
    for number, job in ((1, "a"), (2, "a"), (1, "b")):
        Account(state).spend(Release("oncology", f"cohort {job}", job, "train", number, None, 3.7306), 1e-5, None)
    local = tmp_path / "local"
    local.mkdir()
    (local / "flip.env").write_text(f"FLIP_STATE_DIR={state}\n", encoding="utf-8")
    (local / "policy.toml").write_text(POLICY, encoding="utf-8")
    done = flip_fl("privacy", "status", cwd=tmp_path)
    assert done.exit_code == 0
    header, row, last = done.stdout.splitlines()
    assert header.split()[:5] == ["project", "rounds", "jobs", "cohorts", "spent"]
    assert row.split()[:4] == ["oncology", "3", "2", "2"]
    assert last == "epsilon at delta 1e-05"
    told = json.loads(flip_fl("privacy", "status", "--json", cwd=tmp_path).stdout)["data"]
    answer = TypeAdapter(PrivacyStatus).validate_python(told)
    (spent,) = answer.projects
    assert 1.5 < spent.epsilon < 3.0
    assert spent.left == 4.0 - spent.epsilon
    # The other place to look at, and nothing is made by looking.
    other = flip_fl("privacy", "status", "--state", str(tmp_path / "other"), cwd=tmp_path)
    assert (other.exit_code, other.stdout.startswith("nothing is spent")) == (0, True)
    assert not (tmp_path / "other").exists()


def test_a_policy_with_a_mistake_and_a_damaged_account_are_told(tmp_path: Path) -> None:
    """Neither is taken for nothing spent."""
    local = tmp_path / "local"
    local.mkdir()
    (local / "flip.env").write_text("", encoding="utf-8")
    (local / "policy.toml").write_text("[budgt]\n", encoding="utf-8")
    wrong = flip_fl("privacy", "status", cwd=tmp_path)
    assert (wrong.exit_code, "FLIP-E0970" in wrong.stderr) == (2, True)
    (local / "policy.toml").unlink()
    (tmp_path / "privacy.sqlite").write_bytes(b"no database " * 200)
    broken = flip_fl("privacy", "status", "--state", str(tmp_path), cwd=tmp_path)
    assert (broken.exit_code, "FLIP-E0977" in broken.stderr) == (1, True)
