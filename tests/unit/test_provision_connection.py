"""What ``status.sh`` says of a site's connection: by the engines' own lines, as they write them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flip_fl.provision.connection import CONNECTION, Connection, Lines, SuperNodeLog, connection_words, followed
from flip_fl.provision.connection_nvflare import ClientLog
from flip_fl.provision.kit import Kit, KitRole
from tests.support.runs import wait_for

_AT = "2026-11-29 23:49:47,403 - "
STARTING = _AT + "conn_manager - INFO - Connector [CH00001 ACTIVE grpc://localhost:39929] is starting"
LISTENING = _AT + "conn_manager - INFO - Connector [CH00002 PASSIVE tcp://127.0.0.1:6996] is starting"
TRIED = _AT + "GrpcDriver - INFO - created secure channel at localhost:39929"
REGISTERED = _AT + "FederatedClient - INFO - Successfully registered client:Trust_2 for project oncology."
LOST = _AT + "GrpcDriver - INFO - CLIENT: finished connection [CN00116 Not Connected]"
REFUSED = _AT + "Communicator - INFO - Failed to send heartbeat. Will try again. Exception: FLCommunicationError"


def test_a_supernode_is_connected_from_its_activation_on_and_again_after_a_break() -> None:
    """An engineer must not take a site that is tried in vain for one that is there."""
    log = SuperNodeLog(1.0)
    told = []
    for now, line in enumerate(
        [
            "\x1b[92mINFO \x1b[0m:      Starting Flower SuperNode",
            "\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 0.56 seconds",
            "\x1b[92mINFO \x1b[0m:      Connection successful after 0.80 seconds and 2 tries.",
            "\x1b[92mINFO \x1b[0m:      SuperNode ID: 9157339841427",
            "\x1b[92mINFO \x1b[0m:      Receiving: train message (ID: e5c2)",
            "\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 20.00 seconds",
        ],
        2,
    ):
        log.read(line, float(now))
        told.append((log.connected(now), log.tried_at))
    assert told == [(False, 2.0), (False, 3.0), (True, 3.0), (True, 3.0), (True, 3.0), (False, 7.0)]


def test_nvflares_client_is_connected_when_it_is_registered_and_the_system_holds_the_connection() -> None:
    """NVFLARE tells a try before it is made, and never that a later one worked: neither line alone is believed."""
    there = [True]
    log = ClientLog(0.0, lambda: there[0])
    told = []
    for now, line in enumerate([STARTING, LISTENING, TRIED, REGISTERED, LOST, TRIED], 1):
        log.read(line, float(now))
        told.append(log.connected(now))
    assert told == [False, False, False, True, False, True]
    assert log.tried_at == 6.0
    there[0] = False  # it is tried, and nobody has answered yet
    assert not log.connected(7.0)
    there[0] = True
    log.read(REFUSED, 100.0)
    assert not log.connected(130.0)
    assert log.connected(161.0)
    log.read(STARTING, 170.0)
    log.read(TRIED, 171.0)
    assert not log.connected(171.0)  # a new process is not registered yet


def test_a_connection_keeps_its_beginning_and_a_lost_one_says_when() -> None:
    """'connected since' must not move with each look, and a loss is later than the try that once worked."""
    first = Connection(connected=False, at=0.0).then(False, 3.0, 4.0)
    up = first.then(True, 3.0, 5.0)
    assert (first, up, up.then(True, 3.0, 9.0)) == (Connection(False, 3.0), Connection(True, 5.0), up)
    assert up.then(False, 3.0, 60.0) == Connection(False, 60.0)
    assert up.then(False, 3.0, 60.0).then(False, 70.0, 71.0) == Connection(False, 70.0)


def test_a_log_is_read_from_its_end_on_and_when_it_begins_anew(tmp_path: Path) -> None:
    """What an earlier start wrote is of no account; NVFLARE puts a long log aside, an engineer may empty one."""
    path = tmp_path / "log.txt"
    path.write_text("old\n")
    lines = Lines(path)
    assert list(lines.new()) == []
    with path.open("a") as out:
        out.write("one\ntw")
    assert list(lines.new()) == ["one"]
    with path.open("a") as out:
        out.write("o\nthree\n")
    path.rename(tmp_path / "log.txt.1")
    path.write_text("four\n")
    assert list(lines.new()) == ["two", "three", "four"]
    path.write_text("")
    assert list(lines.new()) == []
    path.write_text("five\n")
    assert list(lines.new()) == ["five"]
    lines.close()
    missing = Lines(tmp_path / "later.txt")
    assert list(missing.new()) == []
    (tmp_path / "later.txt").write_text("six\n")
    assert list(missing.new()) == ["six"]
    missing.close()


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    (tmp_path / "state").mkdir()
    return Kit(tmp_path, KitRole.SITE, "Trust_1", "net", "fl.example.org", None)


def test_what_is_kept_is_what_is_said_while_the_site_runs(kit: Kit) -> None:
    """Whoever asks is another process: the file is true while the log is followed, and gone with who followed it."""
    log, kept = kit.folder / "log", kit.folder / "state" / CONNECTION
    with followed(kit, log, SuperNodeLog(time.time())):
        wait_for(kept.exists, "the first look", 20)
        assert connection_words(kit, "log").startswith("not connected to fl.example.org: last tried ")
        log.write_text("INFO: SuperNode ID: 1\n")
        wait_for(lambda: json.loads(kept.read_text())["connected"], "it is noticed", 20)
        since = datetime.fromtimestamp(json.loads(kept.read_text())["at"], UTC)
        assert connection_words(kit, "log") == f"connected to fl.example.org since {since:%Y-%m-%d %H:%M:%S} UTC"
    assert connection_words(kit, "log") == "connection to fl.example.org unknown; see log"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"connected": true, "at": "x"}', '{"connected": true, "at": 1e300}'])
def test_a_torn_file_is_no_connection(text: str, kit: Kit) -> None:
    """What cannot be read is said to be unknown, with the log that knows more."""
    (kit.folder / "state" / CONNECTION).write_text(text)
    assert connection_words(kit, "log.txt") == "connection to fl.example.org unknown; see log.txt"
