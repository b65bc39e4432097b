"""``flip-fl hub …`` on a real database and a real port."""

from __future__ import annotations

import hashlib
import signal
import socket
import sqlite3
import stat
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flip_fl.commands.answers import (
    Audit,
    HubKept,
    HubMade,
    HubPruned,
    HubSwept,
    Keys,
    Models,
    Slots,
    Tokens,
    Trusts,
)
from tests.contract.test_cli_json import checked
from tests.support.cli import SCRIPT, environment, flip_fl, installed, served_hub


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder in which a hub with two slots was made."""
    assert flip_fl("hub", "init", "--slots", "2", cwd=tmp_path).exit_code == 0
    return tmp_path


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    """Protects the service key: the hub's files, readable by their owner alone, hold nothing but its hash."""
    first = checked(flip_fl("hub", "init", "--json", cwd=tmp_path).document(), HubMade)
    second = checked(flip_fl("hub", "init", "--json", cwd=tmp_path).document(), HubMade)
    assert (first.created, second.created, second.service_key) == (True, False, None)
    assert first.service_key
    file = tmp_path / "hub" / "hub.env"
    text = file.read_text(encoding="utf-8")
    assert hashlib.sha256(first.service_key.encode()).hexdigest() in text
    assert first.service_key not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "hub" / "hub.sqlite").stat().st_mode) == 0o600


def test_a_key_is_rotated_with_an_overlap_and_revoked(tmp_path: Path) -> None:
    """Protects FL servers while their key is exchanged: both count for a while, a revoked one does not, and nobody has
    to restart the hub."""
    with served_hub(tmp_path) as hub:
        first = hub.server_env()
        answer = checked(flip_fl("hub", "key", "rotate", "--overlap", "1", "--json", cwd=tmp_path).document(), Keys)
        second = hub.server_env(INTERNAL_SERVICE_KEY=str(answer.key))
        time.sleep(2.5)  # a hub that is served asks its database again after two seconds
        for env in (first, second):
            assert flip_fl("doctor", "--hub", cwd=tmp_path, env=env).exit_code == 0
        listed = checked(flip_fl("hub", "key", "list", "--json", cwd=tmp_path).document(), Keys).keys
        assert [(key.source, key.valid, key.ends_at is None) for key in listed] == [
            ("settings", True, False),
            ("database", True, True),
        ]
        old = listed[0].sha256
        refused = flip_fl("hub", "key", "revoke", old, cwd=tmp_path)
        assert (refused.exit_code, "needs --yes" in refused.stderr) == (2, True)
        assert flip_fl("hub", "key", "revoke", old, "--yes", cwd=tmp_path).exit_code == 0
        time.sleep(2.5)
        codes = [flip_fl("doctor", "--hub", cwd=tmp_path, env=env).exit_code for env in (first, second)]
        assert codes == [4, 0]
    files = [path for path in (tmp_path / "hub").iterdir() if path.is_file()]
    assert not any(str(answer.key).encode() in path.read_bytes() for path in files)


def test_a_token_is_made_rotated_and_revoked_and_the_audit_says_by_whom(made: Path) -> None:
    """Protects the way in for people: shown once, listed without its secret, replaced, taken away; each act audited."""
    flip_fl("hub", "project", "add", "Stroke", cwd=made)
    words = ("hub", "token", "add", "Ada", "--role", "operator", "--project", "Stroke", "--json")
    first = checked(flip_fl(*words, cwd=made).document(), Tokens)
    assert [(row.name, row.role, row.projects, row.state) for row in first.tokens] == [
        ("Ada", "operator", ["Stroke"], "valid")
    ]
    second = checked(flip_fl("hub", "token", "rotate", "Ada", "--json", cwd=made).document(), Tokens)
    assert first.token
    assert second.token
    assert first.token != second.token
    assert second.tokens[0].projects == ["Stroke"]
    listed = flip_fl("hub", "token", "list", cwd=made).stdout
    assert listed.count("Ada") == 2
    assert flip_fl("hub", "token", "revoke", "Ada", cwd=made).exit_code == 2
    assert flip_fl("hub", "token", "revoke", "Ada", "--yes", cwd=made).exit_code == 0
    assert flip_fl("hub", "token", "list", cwd=made).stdout == "no tokens yet\n"
    ended = checked(flip_fl("hub", "token", "list", "--ended", "--json", cwd=made).document(), Tokens)
    assert [row.state for row in ended.tokens] == ["revoked", "revoked"]
    again = flip_fl("hub", "token", "rotate", first.tokens[0].id, cwd=made)
    assert (again.exit_code, again.stderr.startswith("error[FLIP-E1002]")) == (2, True)
    audited = flip_fl("hub", "audit", "list", "--json", cwd=made)
    rows = checked(audited.document(), Audit).rows
    assert [row.action for row in rows] == [
        *("token.revoked", "token.revoked", "token.rotated", "token.issued", "token.issued"),
        *("project.created", "slots.seeded"),
    ]
    assert {row.actor_kind for row in rows} == {"cli"}
    for secret in (first.token, second.token):
        assert secret not in audited.stdout + listed
        assert secret.encode() not in (made / "hub" / "hub.sqlite").read_bytes()


def test_a_model_is_deleted_and_a_slot_released_by_name(made: Path) -> None:
    """Protects what others use: both are asked for, or --yes; a name that two models have decides nothing."""
    flip_fl("hub", "trust", "add", "Kings", cwd=made)
    flip_fl("hub", "slot", "assign", "Kings", cwd=made)
    assert flip_fl("hub", "slot", "release", "Trust_1", cwd=made).exit_code == 2
    released = flip_fl("hub", "slot", "release", "Trust_1", "--yes", "--json", cwd=made)
    assert [(slot.slot, slot.trust) for slot in checked(released.document(), Slots).slots] == [("Trust_1", None)]
    for words in ((), ("--new",)):
        flip_fl("hub", "model", "add", "Breast cancer", *words, cwd=made)
    twice = flip_fl("hub", "model", "delete", "Breast cancer", "--yes", cwd=made)
    assert (twice.exit_code, "2 models are called" in twice.stderr) == (2, True)
    models = checked(flip_fl("hub", "model", "list", "--json", cwd=made).document(), Models).models
    assert flip_fl("hub", "model", "delete", str(models[0].id), "--yes", cwd=made).exit_code == 0
    assert flip_fl("hub", "model", "delete", "Breast cancer", "--yes", cwd=made).exit_code == 0
    assert flip_fl("hub", "model", "list", cwd=made).stdout == "no models yet\n"


def test_who_takes_part_is_said_in_three_steps(made: Path) -> None:
    """Protects the path from an empty hub to a model that two trusts take part in."""
    for name, code in (("Guys and St Thomas", "GSTT"), ("Kings", "KCH")):
        added = checked(flip_fl("hub", "trust", "add", name, "--code", code, "--json", cwd=made).document(), Trusts)
        assert [(t.name, t.code, t.slot) for t in added.trusts] == [(name, code, None)]
        assert flip_fl("hub", "slot", "assign", name, cwd=made).exit_code == 0
    slots = checked(flip_fl("hub", "slot", "list", "--json", cwd=made).document(), Slots).slots
    assert [(slot.slot, slot.trust) for slot in slots] == [("Trust_1", "Guys and St Thomas"), ("Trust_2", "Kings")]
    added = flip_fl("hub", "model", "add", "Breast cancer", "--project", "Pathology", "--json", cwd=made)
    (model,) = checked(added.document(), Models).models
    assert (model.name, model.project, model.status) == ("Breast cancer", "Pathology", "PENDING")
    assert model.trusts == ["Guys and St Thomas", "Kings"]
    listed = flip_fl("hub", "model", "list", cwd=made).stdout
    assert "Draft" in listed
    assert "PENDING" not in listed


def test_a_repeat_says_so_and_changes_nothing(made: Path) -> None:
    """Protects scripts that run twice: the same trust and the same model, exit code 0."""
    for words in (("trust", "add", "Kings"), ("slot", "assign", "Kings"), ("model", "add", "Breast cancer")):
        first = flip_fl("hub", *words, "--json", cwd=made)
        again = flip_fl("hub", *words, "--json", cwd=made)
        assert (first.exit_code, again.exit_code) == (0, 0)
        key = words[0] + "s"
        assert [row.get("id") for row in first.document()["data"][key]] == [
            row.get("id") for row in again.document()["data"][key]
        ]
    assert flip_fl("hub", "trust", "add", "Kings", cwd=made).stderr == "already there\n"
    assert flip_fl("hub", "model", "add", "Breast cancer", cwd=made).stderr == "already there\n"
    flip_fl("hub", "model", "add", "Breast cancer", "--new", cwd=made)
    models = checked(flip_fl("hub", "model", "list", "--json", cwd=made).document(), Models).models
    assert len(models) == 2


@pytest.mark.parametrize(
    ("words", "exit_code", "code"),
    [
        (("slot", "assign", "Nobody"), 2, "E1002"),
        (("model", "add", "x" * 76), 2, "E1005"),
        (("model", "add", "x", "--trust", "Nobody"), 2, "E1002"),
        (("slot", "seed", "0"), 2, "E0102"),
        (("trust", "list", "--dir", "elsewhere"), 3, "E1001"),
    ],
)
def test_what_the_hub_refuses_is_an_error_of_the_catalogue(
    words: tuple[str, ...], exit_code: int, code: str, made: Path
) -> None:
    """Protects people from a database's own words."""
    done = flip_fl("hub", *words, cwd=made)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.startswith(f"error[FLIP-{code}]: ")
    assert not (made / "elsewhere").exists()


def test_no_slot_is_free(made: Path) -> None:
    """Protects a third hospital from sharing a slot: the rule refuses, with the command that adds one."""
    for name in ("A", "B", "C"):
        flip_fl("hub", "trust", "add", name, cwd=made)
        last = flip_fl("hub", "slot", "assign", name, cwd=made)
    assert last.exit_code == 5
    assert "  fix: flip-fl hub init --slots 3" in last.stderr.splitlines()
    assert flip_fl("hub", "init", "--slots", "3", cwd=made).exit_code == 0
    assert flip_fl("hub", "slot", "assign", "C", cwd=made).stdout.splitlines()[1].split() == ["Trust_3", "C"]


def test_a_served_hub_ends_quietly_with_ctrl_c(made: Path) -> None:
    """Protects the ordinary end of a hub: Ctrl-C is how one stops it, no failure and no traceback."""
    child = subprocess.Popen(
        [str(SCRIPT), "hub", "serve", "--port", "0"],
        cwd=made,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    assert child.stderr.readline().startswith("the hub in hub answers at http://127.0.0.1:")
    child.send_signal(signal.SIGINT)
    out, errors = child.communicate(timeout=120)
    assert (child.returncode, out) == (0, "")
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_told(made: Path) -> None:
    """Protects somebody who starts a hub twice."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = flip_fl("hub", "serve", "--port", str(port), "--json", cwd=made)
    envelope = done.document()
    assert (envelope["code"], done.exit_code) == ("FLIP-E1006", envelope["exit_code"])
    assert done.exit_code != 0


def test_the_key_that_init_showed_opens_the_hub(tmp_path: Path) -> None:
    """Protects the whole way from `hub init` to a hub that takes exactly that key."""
    with served_hub(tmp_path) as hub:
        done = flip_fl("doctor", "--hub", cwd=tmp_path, env=hub.server_env())
        assert done.exit_code == 0, done.stdout + done.stderr


def test_silent_runs_are_listed_and_ended_only_when_told_to(made: Path) -> None:
    """Protects runs from an operator's look: listing and a dry run change nothing, the rule ends and says which."""
    flip_fl("hub", "trust", "add", "Kings", cwd=made)
    flip_fl("hub", "model", "add", "Breast cancer", cwd=made)
    away = flip_fl("hub", "sweep", "--error-after", "600", "--json", cwd=made)
    assert (away.exit_code, away.document()["code"]) == (3, "FLIP-E1007")
    _silent_for(made / "hub" / "hub.sqlite", timedelta(seconds=3965))
    listed = flip_fl("hub", "model", "list", cwd=made).stdout
    assert "Training (no news since " in listed
    (model,) = checked(flip_fl("hub", "model", "list", "--json", cwd=made).document(), Models).models
    assert (model.status, model.unreachable_since is not None) == ("RUNNING", True)
    looked = flip_fl("hub", "sweep", cwd=made)
    assert "(1 h 6 min)" in looked.stdout
    assert "no rule is set" in looked.stderr
    for words, status in ((("--dry-run",), "RUNNING"), ((), "ERROR")):
        done = flip_fl("hub", "sweep", "--error-after", "3600", *words, "--json", cwd=made)
        answer = checked(done.document(), HubSwept)
        assert [(row.id, row.due) for row in answer.silent] == [(model.id, True)]
        (after,) = checked(flip_fl("hub", "model", "list", "--json", cwd=made).document(), Models).models
        assert after.status == status
    assert flip_fl("hub", "sweep", "--error-after", "3600", cwd=made).stdout == "every run under way reports\n"


def _silent_for(database: Path, silence: timedelta) -> None:
    """A run under way whose server's last word is that old, at a hub that is there."""
    now = datetime.now(UTC).replace(tzinfo=None)
    with sqlite3.connect(database) as connection:
        heard, long_ago = str(now - silence), str(now - timedelta(days=1))
        connection.execute("UPDATE model SET status = 'RUNNING', heard_at = ?", [heard])
        # A hub that is up says so again and again: this one is there until the last of the test's commands has run.
        seen = str(now + timedelta(minutes=10))
        connection.execute("INSERT INTO fl_hub_presence VALUES (1, ?, ?)", [long_ago, seen])


def test_a_hub_is_backed_up_restored_copied_and_pruned(made: Path) -> None:
    """Protects what operators do in the night: each command says what it counted, and none writes over anything."""
    flip_fl("hub", "model", "add", "Breast cancer", cwd=made)
    kept = flip_fl("hub", "backup", "kept.sqlite", "--json", cwd=made)
    rows = checked(kept.document(), HubKept).rows
    assert (rows["model"], rows["fl_kit_slot"]) == (1, 2)
    again = flip_fl("hub", "backup", "kept.sqlite", "--json", cwd=made)
    assert (again.exit_code, again.document()["code"]) == (5, "FLIP-E1020")
    restored = flip_fl("hub", "restore", "kept.sqlite", "--dir", "restored", "--json", cwd=made)
    assert checked(restored.document(), HubKept).rows == rows
    copied = flip_fl("hub", "copy", "--to", "copied", "--json", cwd=made)
    assert checked(copied.document(), HubKept).rows == rows
    keys = [
        [line for line in (made / hub / "hub.env").read_text().splitlines() if "KEY_HASH" in line]
        for hub in ("hub", "copied")
    ]
    assert keys[0] == keys[1] != []
    for hub in ("restored", "copied"):
        listed = flip_fl("hub", "model", "list", "--dir", hub, "--json", cwd=made)
        assert [model.name for model in checked(listed.document(), Models).models] == ["Breast cancer"]
    # Where nothing is loaded yet, as at a shell.
    fresh = installed("hub", "backup", "fresh.sqlite", "--json", cwd=made)
    assert checked(fresh.document(), HubKept).rows == rows
    unsaid = flip_fl("hub", "prune", "--older-than", "30", cwd=made)
    assert (unsaid.exit_code, "say either --dry-run or --yes" in unsaid.stderr) == (2, True)
    pruned = flip_fl("hub", "prune", "--older-than", "30", "--yes", "--json", cwd=made)
    assert checked(pruned.document(), HubPruned).runs == []
