"""What the FL server's own process tells beside its runs, into the real hub: lost runs, copied kits, sites' clocks."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from flip_fl.hub import admin
from flip_fl.jobs.lost_runs import STARTED_ANEW, end_lost_runs
from flip_fl.reporting import Reporting, open_reporting
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.sender import Pace
from flip_fl.reporting.session import OUTBOX_FOLDER
from flip_fl.reporting.site_news import SiteNews, read
from flip_fl.settings import ServerSettings
from flip_fl.values import ModelStatus
from tests.support.hub import RunningHub, running_hub, world
from tests.support.reporting import put, settings, wait_until
from tests.support.reporting import status as status_item

QUICK = Pace(flush_s=0.05, heartbeat_s=0.2, request_timeout_s=5.0)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    admin.init_database(url)
    with world(url) as filled, running_hub(filled) as running:
        yield running


def to(hub: RunningHub) -> ServerSettings:
    return settings(hub.base, hub.key)


def another_model(hub: RunningHub) -> UUID:
    filled = hub.world
    with admin.open_session(filled.url) as session:
        return admin.create_model(session, "Stroke", "lesions 2", "", trusts=[filled.guys, filled.kings]).id


def killed(hub: RunningHub, model_id: UUID, state: Path, cause: str | None = None) -> None:
    """A run in its second round, whose process is killed; ``cause``: it knew why it was going to end."""
    pid = os.fork()
    if pid == 0:
        reporting = Reporting(to(hub), model_id, state, pace=QUICK)
        reporting.lifecycle.initiated()
        reporting.lifecycle.round_started(2, 5)
        if cause is not None:
            reporting.lifecycle.fail(cause)
        os._exit(9)
    os.waitpid(pid, 0)


@contextlib.contextmanager
def going_on(hub: RunningHub, state: Path) -> Iterator[Reporting]:
    """A run in its first round, until the block ends."""
    reporting = open_reporting(to(hub), hub.world.model_id, state, pace=QUICK)
    reporting.lifecycle.round_started(1, 1)
    yield reporting
    reporting.close()


def status(hub: RunningHub, model_id: UUID) -> str:
    return str(hub.call("GET", f"/model/{model_id}/status").json()["status"])


def feed(hub: RunningHub, model_id: UUID) -> str:
    return "\n".join(row["text"] for row in hub.call("GET", f"/model/{model_id}/story").json()["feed"])


def test_runs_that_went_down_with_their_server_are_ended_by_the_next_one(hub: RunningHub, tmp_path: Path) -> None:
    """Else the hub shows them as running for ever. Who knew why it would end has its own reason."""
    first, second = hub.world.model_id, another_model(hub)
    killed(hub, first, tmp_path)
    killed(hub, second, tmp_path, cause="Trust_2: out of memory")
    assert end_lost_runs(tmp_path, to(hub), STARTED_ANEW, stop=threading.Event()) == [first]
    assert [status(hub, each) for each in (first, second)] == ["ERROR", "ERROR"]
    assert STARTED_ANEW in feed(hub, first)
    assert "Trust_2: out of memory" in feed(hub, second)
    assert STARTED_ANEW not in feed(hub, second)
    assert list((tmp_path / OUTBOX_FOLDER).iterdir()) == []


def test_a_run_that_ended_while_the_hub_was_away_keeps_its_end(hub: RunningHub, tmp_path: Path) -> None:
    """Its last word still waits to be delivered: a server that starts must not make a failure of a success."""
    pid = os.fork()
    if pid == 0:
        away = settings("http://127.0.0.1:9/api", hub.key)
        reporting = Reporting(away, hub.world.model_id, tmp_path, pace=QUICK)
        reporting.lifecycle.round_started(1, 1)
        reporting.lifecycle.uploaded("s3://results/x.zip", "ab" * 32, 4096, 1)
        reporting.lifecycle.finish()
        os._exit(0)
    os.waitpid(pid, 0)
    assert end_lost_runs(tmp_path, to(hub), STARTED_ANEW, stop=threading.Event()) == []
    assert status(hub, hub.world.model_id) == "RESULTS_UPLOADED"
    # Of one of which only the last word is left, too.
    second = another_model(hub)
    only = Outbox(tmp_path / OUTBOX_FOLDER / f"{second}.sqlite")
    put(only, status_item(ModelStatus.RESULTS_UPLOADED))
    only.close()
    assert end_lost_runs(tmp_path, to(hub), STARTED_ANEW, stop=threading.Event()) == []
    assert status(hub, second) == "RESULTS_UPLOADED"


def test_a_run_whose_process_lives_has_its_own_word(hub: RunningHub, tmp_path: Path) -> None:
    """A run's process may outlive its server for a while; what it says in the end is the truth."""
    reporting = open_reporting(to(hub), hub.world.model_id, tmp_path, pace=QUICK)
    reporting.lifecycle.round_started(1, 1)
    ended: list[UUID] = []
    waiting = threading.Thread(
        target=lambda: ended.extend(end_lost_runs(tmp_path, to(hub), STARTED_ANEW, stop=threading.Event()))
    )
    waiting.start()
    time.sleep(1.5)
    assert waiting.is_alive()
    reporting.lifecycle.stop("by its own process")
    reporting.lifecycle.finish()
    assert reporting.close()
    waiting.join(20)
    assert (ended, status(hub, hub.world.model_id)) == ([], "STOPPED")


def test_a_refused_copy_is_told_to_the_runs_going_on_and_kept(hub: RunningHub, tmp_path: Path) -> None:
    """Once a run and address, however often it tries; how often it was stands in the server's file."""
    news = SiteNews(tmp_path, tmp_path / OUTBOX_FOLDER)
    news.refused("Trust_2", "10.0.0.9", "10.0.0.7")
    words = "a second copy of the kit of Trust_2 is refused: it connects from 10.0.0.9, while the slot is held from"
    with going_on(hub, tmp_path):
        for _ in range(3):
            news.refused("Trust_2", "10.0.0.9", "10.0.0.7")
        wait_until(lambda: f"{words} 10.0.0.7" in feed(hub, hub.world.model_id), 20, "the hub is told")
        news.refused("Trust_2", "10.0.0.10", "10.0.0.7")
        wait_until(lambda: "from 10.0.0.10" in feed(hub, hub.world.model_id), 20, "the hub is told of another")
    assert feed(hub, hub.world.model_id).count(words) == 1
    assert [(one.address, one.times) for one in read(tmp_path).second_holders] == [("10.0.0.9", 4), ("10.0.0.10", 1)]


def test_a_site_s_clock_that_is_off_is_kept_until_it_is_right(tmp_path: Path) -> None:
    """For `doctor --federation`, whether a run is on or not; runs tell of it by themselves."""
    news = SiteNews(tmp_path, None)
    news.clock("Trust_1", time.time() - 5)
    news.clock("Trust_2", time.time() + 3600)
    wait_until(lambda: [one.slot for one in read(tmp_path).clocks] == ["Trust_2"], 5, "it is kept")
    news.clock("Trust_2", time.time())
    wait_until(lambda: read(tmp_path).clocks == [], 5, "it is forgotten")
