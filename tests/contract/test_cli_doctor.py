"""``flip-fl doctor`` and ``flip-fl sync`` with real outboxes, and a real hub to send to."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from flip_fl.commands.answers import DoctorAnswer, SyncAnswer
from flip_fl.reporting.losses import LossReason
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.records import record_of
from flip_fl.reporting.store import Dead
from flip_fl.values import ModelStatus
from flip_fl.wire import LogItem, StatusItem
from tests.contract.test_cli_json import checked
from tests.support.cli import flip_fl, served_hub

MODEL = UUID("7f3a0000-0000-4000-8000-000000000000")


def fill(state: Path, *, rows: int = 3, model_id: UUID = MODEL, lost: int = 0, paused: str | None = None) -> Path:
    """An outbox as a run leaves it that could not send: ``rows`` log rows."""
    path = state / "outbox" / f"{model_id}.sqlite"
    outbox = Outbox(path)
    outbox.append([record_of(row(number)) for number in range(rows)])
    if lost:
        outbox.lose(LossReason.FULL, lost)
    outbox.note(paused=paused)
    outbox.close()
    return path


def state_of(answer: DoctorAnswer, beginning: str) -> tuple[str, str, str | None, str | None]:
    """State, what, why and fix of the one check whose name begins so."""
    (check,) = [check for check in answer.checks if check.name.startswith(beginning)]
    return check.state, check.what, check.why, check.fix


def test_what_waits_is_told_with_the_command_that_sends_it(tmp_path: Path) -> None:
    """Protects reports that a crashed run left: they are seen, and nothing is written to them by looking."""
    path = fill(tmp_path)
    before = path.read_bytes()
    done = flip_fl("doctor", "--state", ".", "--json", cwd=tmp_path)
    state, what, _, fix = state_of(checked(done.document(), DoctorAnswer), "outbox")
    assert done.exit_code == 0
    assert state == "ok"
    assert what.startswith("3 waiting (3 event), oldest ")
    assert what.endswith("; nothing acknowledged yet")
    assert fix == f"flip-fl sync outbox/{MODEL}.sqlite"
    assert path.read_bytes() == before


def test_losses_are_a_warning_by_reason_and_do_not_fail_the_doctor(tmp_path: Path) -> None:
    """Protects the promise that every loss is counted where a person looks; a warning is no failure."""
    fill(tmp_path / "state", lost=7)
    done = flip_fl("doctor", "--json", cwd=tmp_path, env={"FLIP_STATE_DIR": str(tmp_path / "state")})
    state, _, why, _ = state_of(checked(done.document(), DoctorAnswer), "outbox")
    assert (done.exit_code, state, why) == (0, "warn", "lost: 7 full")


def test_a_live_and_a_dead_outbox_are_told_in_full(tmp_path: Path) -> None:
    """Protects the answer to "what has become of my reports?", while the run goes on and after it was killed."""
    outbox = Outbox(tmp_path / "outbox" / f"{MODEL}.sqlite")
    assert outbox.acquire_sender()
    now = datetime.now(UTC)
    made = [record_of(StatusItem(at=now, status=ModelStatus.RUNNING)), *(record_of(row(n)) for n in range(4))]
    outbox.append(made)
    outbox.settle([made[1].id], [Dead(made[2].id, LossReason.REFUSED, "unknown_client", "who?")])
    outbox.lose(LossReason.FULL, 7)
    outbox.note(last_error="POST: HTTP 500", last_error_ms="1700000000000")
    live = flip_fl("doctor", "--state", ".", "--json", cwd=tmp_path)
    text = flip_fl("doctor", "--state", ".", cwd=tmp_path).stdout
    outbox.close()
    dead = flip_fl("doctor", "--state", ".", "--json", cwd=tmp_path)
    rows = [checked(done.document(), DoctorAnswer).outboxes[0] for done in (live, dead)]
    assert [found.sending for found in rows] == [True, False]
    for found in rows:
        assert (found.state, found.waiting) == ("ok", {"status": 1, "failure": 0, "event": 2, "metric": 0})
        assert (found.losses, found.unreported, found.refused) == ({"full": 7, "refused": 1}, 8, {"unknown_client": 1})
        assert (found.last_error, found.paused) == ("POST: HTTP 500", None)
        assert found.oldest_age_s is not None
        assert found.oldest_age_s < 60
        assert str(found.last_error_at).startswith("2023-11-14")
        assert str(found.last_ack)[:4] == str(now.year)
    assert "3 waiting (1 status, 2 event), oldest " in text
    assert "last acknowledged " in text
    assert "; being sent" in text
    assert "why: lost: 7 full, 1 refused; refused by the hub: 1 unknown_client; last error: POST: HTTP 500 (" in text


def row(number: int) -> LogItem:
    return LogItem(at=datetime.now(UTC), log=f"row {number}")


def test_a_paused_sender_fails_the_doctor(tmp_path: Path) -> None:
    """Protects from a run that reports nothing because its key is refused, while all looks well."""
    fill(tmp_path, paused="the hub refuses the key")
    done = flip_fl("doctor", "--state", ".", cwd=tmp_path)
    assert done.exit_code == 1
    assert "sending is paused: the hub refuses the key" in done.stdout
    assert done.stderr.startswith("error[FLIP-E0801]: 1 of ")
    assert f"failed: outbox {MODEL}" in done.stderr


def test_a_file_that_is_no_outbox_fails_the_doctor(tmp_path: Path) -> None:
    """Protects from "everything was sent" where a file cannot be read."""
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / f"{MODEL}.sqlite").write_bytes(b"no database at all, but long enough to look like one")
    done = flip_fl("doctor", "--state", ".", "--json", cwd=tmp_path)
    assert (done.exit_code, done.document()["code"]) == (1, "FLIP-E0801")


def test_a_run_s_folder_is_searched_without_taking_its_hub_for_an_outbox(tmp_path: Path) -> None:
    """Protects from alarms about the hub's own database, which lies in the same folder."""
    fill(tmp_path / "run" / "state")
    (tmp_path / "run" / "hub.sqlite").write_bytes(b"x")
    checks = checked(flip_fl("doctor", "--state", "run", "--json", cwd=tmp_path).document(), DoctorAnswer).checks
    assert [check.name for check in checks if check.name.startswith("outbox")] == [f"outbox {MODEL}"]


@pytest.mark.parametrize(
    ("env", "state", "word"),
    [
        ({}, "ok", "development"),
        ({"LOCAL_DEV": "false", "FLIP_ROLE": "server"}, "fail", "FLIP_API_INTERNAL_URL, INTERNAL_SERVICE_KEY"),
        ({"INTERNAL_SERVICE_KEY": "canary"}, "fail", "development or production"),
        ({"LOCAL_DEV": "maybe"}, "fail", "LOCAL_DEV is 'maybe'"),
    ],
)
def test_settings_that_would_stop_a_start_fail_the_doctor(
    env: dict[str, str], state: str, word: str, tmp_path: Path
) -> None:
    """Protects a deployment from finding out at the first run what the doctor can see now."""
    done = flip_fl("doctor", cwd=tmp_path, env=env)
    line = next(line for line in done.stdout.splitlines() if "  settings  " in line)
    assert line.startswith(state)
    assert word in line
    assert done.exit_code == (1 if state == "fail" else 0)
    assert "canary" not in done.stdout + done.stderr


def test_every_setting_is_listed_with_its_source_and_what_it_hides(tmp_path: Path) -> None:
    """Protects the answer to "which of my two values is it?"."""
    file = tmp_path / "flip.env"
    file.write_text("LOCAL_DEV='true'\nNET_ID='net-1'\n", encoding="utf-8")
    words = ("doctor", "--config", "--settings", "flip.env")
    text = flip_fl(*words, cwd=tmp_path, env={"NET_ID": "net-2", "INTERNAL_SERVICE_KEY_HASH": "ab" * 32}).stdout
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["NET_ID"][1:] == ["net-1", "flip.env:2", "env"]
    assert rows["LOCAL_DEV"][1:] == ["true", "flip.env:1"]


def test_the_doctor_is_offline_and_quick(tmp_path: Path) -> None:
    """Protects a machine whose hub hangs: without --hub nothing is asked of it, whatever is set."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        address = f"http://127.0.0.1:{hung.getsockname()[1]}"
        env = {"LOCAL_DEV": "true", "FLIP_API_INTERNAL_URL": f"{address}/api", "INTERNAL_SERVICE_KEY": "k"}
        env |= {"UPLOADED_FEDERATED_DATA_BUCKET": "s3://bucket", "AWS_ENDPOINT_URL": address}
        assert flip_fl("doctor", cwd=tmp_path, env=env).exit_code == 0
        # Whoever had asked would be waiting here now.
        hung.setblocking(False)
        with pytest.raises(BlockingIOError):
            hung.accept()


def test_sync_keeps_all_while_the_hub_is_away_and_sends_all_when_it_is_there(tmp_path: Path) -> None:
    """Protects what a crashed run left: nothing is lost by trying, and the hub has it in the end."""
    path = fill(tmp_path / "state", rows=5)
    with served_hub(tmp_path) as hub:
        made = flip_fl("hub", "model", "add", "Model", "--json", cwd=tmp_path).document()["data"]["models"][0]
        path = path.rename(path.with_name(f"{made['id']}.sqlite"))
        refused = flip_fl("sync", "state", cwd=tmp_path, env=hub.server_env(INTERNAL_SERVICE_KEY="canary-wrong"))
        assert refused.exit_code == 4
        assert refused.stderr.startswith("error[FLIP-E0411]: ")
        assert "canary-wrong" not in refused.stdout + refused.stderr
        away = hub.server_env(FLIP_API_INTERNAL_URL="http://127.0.0.1:9/api")
        silent = flip_fl("sync", "state", "--timeout", "2", "--json", cwd=tmp_path, env=away)
        envelope = silent.document()
        assert (silent.exit_code, envelope["code"], envelope["retryable"]) == (3, "FLIP-E0403", True)
        assert envelope["why"] == "5 events kept in the outbox; nothing is lost"
        sent = flip_fl("sync", "state", "--json", cwd=tmp_path, env=hub.server_env())
        (outbox,) = checked(sent.document(), SyncAnswer).outboxes
        assert (sent.exit_code, outbox.state, outbox.sent, outbox.left) == (0, "delivered", 5, 0)
        again = flip_fl("sync", "state", cwd=tmp_path, env=hub.server_env(FLIP_STATE_DIR="state"))
        assert again.exit_code == 0


def test_sync_without_a_path_uses_the_state_folder_or_says_what_it_needs(tmp_path: Path) -> None:
    """Protects from an answer of "nothing to send" where nobody knows where to look."""
    env = {"FLIP_API_INTERNAL_URL": "http://127.0.0.1:9/api", "INTERNAL_SERVICE_KEY": "k"}
    env["UPLOADED_FEDERATED_DATA_BUCKET"] = "s3://bucket"
    assert flip_fl("sync", cwd=tmp_path, env=env).stderr.startswith("error[FLIP-E0102]: flip-fl sync needs a PATH\n")
    (tmp_path / "state").mkdir()
    done = flip_fl("sync", cwd=tmp_path, env={**env, "FLIP_STATE_DIR": "state"})
    assert (done.exit_code, done.stdout) == (0, "nothing waits to be sent\n")
