"""Reporting into the real hub, over real sockets, into real databases."""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flip_fl.hub import admin
from flip_fl.hub.model_service import get_metrics
from flip_fl.reporting import Reporting, open_reporting, sync
from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.sender import Pace, Sender
from flip_fl.reporting.session import SyncState
from flip_fl.settings import ServerSettings, write_settings_file
from flip_fl.values import ModelStatus
from tests.support import warm
from tests.support.hub import RunningHub, World, world
from tests.support.ports import later_port
from tests.support.reporting import metric, put, settings, status, wait_until

QUICK = Pace(flush_s=0.05, heartbeat_s=0.2, request_timeout_s=5.0)
SLOTS = ("Trust_1", "Trust_2")


def to(hub: RunningHub) -> ServerSettings:
    return settings(hub.base, hub.key)


def nowhere() -> ServerSettings:
    """A hub that is not there."""
    return settings("http://127.0.0.1:9/api", "some-key")


def train(reporting: Reporting, rounds: int = 3) -> None:
    """What an engine says of a good run of two sites."""
    run, tell = reporting.lifecycle, reporting.reporter
    run.initiated()
    run.prepared()
    for number in range(1, rounds + 1):
        run.round_started(number, rounds)
        for slot in SLOTS:
            for step in range(20):
                tell.metric(slot, "loss", 1 / (number * 20 + step), number, x_value=number * 20 + step, x_label="Steps")
            tell.metric(slot, "auc", 0.5 + number / 10, number, task="validate")
            run.client_result(slot, number, 4096)
        run.aggregated(number, 2, 2)
    tell.metric("Trust_1", "auc", math.nan, rounds)
    tell.failure("Trust_2", "Traceback (most recent call last):\nValueError: one bad study", rounds)
    run.uploaded("s3://results/x.zip", "ab" * 32, 4096, rounds)
    run.finish()


def plain(document: Any) -> Any:
    """A story without what differs between two equal runs: times, places in the tables, ids, names."""
    volatile = {"at", "cursor", "generated_at", "last_seen", "started_at", "aggregated_at", "seconds", "id", "name"}
    if isinstance(document, dict):
        return {key: plain(value) for key, value in document.items() if key not in volatile}
    return [plain(part) for part in document] if isinstance(document, list) else document


def second_model(hub: RunningHub) -> UUID:
    """Another model of the same trusts at the same hub."""
    filled = hub.world
    with admin.open_session(filled.url) as session:
        return admin.create_model(
            session, "Stroke", "lesions 2", "finds lesions", trusts=[filled.guys, filled.kings]
        ).id


def story(hub: RunningHub, model_id: UUID) -> Any:
    response = hub.call("GET", f"/model/{model_id}/story")
    assert response.status_code == 200, response.text
    return response.json()


def test_a_run_is_told_in_order_and_leaves_nothing_behind(hub: RunningHub, tmp_path: Path) -> None:
    """The ordinary path: every fact once, under its slot and round, the end last; then the file is gone."""
    reporting = open_reporting(to(hub), hub.world.model_id, tmp_path, pace=QUICK)
    train(reporting)
    assert reporting.close()
    told = story(hub, hub.world.model_id)
    assert [step["status"] for step in told["history"] if step["status"] != "PENDING"] == [
        "INITIATED",
        "PREPARED",
        "RUNNING",
        "RESULTS_UPLOADED",
    ]
    assert [(row["number"], row["returned"], row["expected"]) for row in told["rounds"]] == [
        (number, 2, 2) for number in (1, 2, 3)
    ]
    assert told["results"]["sha256"] == "ab" * 32
    losses = next(plot for plot in told["plots"] if plot["label"] == "loss")
    assert [(series["slot"], len(series["points"])) for series in losses["series"]] == [
        ("Trust_1", 60),
        ("Trust_2", 60),
    ]
    assert any("metric 'auc' of round 3 is nan: not stored" in row["text"] for row in told["feed"])
    assert [failure["headline"] for failure in told["failures"] if "bad study" in failure["headline"]]
    assert list((tmp_path / "outbox").iterdir()) == []


def test_a_hub_that_was_down_all_the_run_is_told_the_same_story_later(hub: RunningHub, tmp_path: Path) -> None:
    """Down from before the start until after the end, then up: complete, and identical to a healthy run's."""
    healthy = open_reporting(to(hub), hub.world.model_id, tmp_path / "a", pace=QUICK)
    train(healthy)
    assert healthy.close()
    later = second_model(hub)
    reporting = open_reporting(nowhere(), later, tmp_path / "b", pace=QUICK)
    train(reporting)
    begun = time.monotonic()
    assert not reporting.close()
    assert time.monotonic() - begun <= 8  # of the 10 s that a close may take, 0.5 s for a hub that is known to be away
    (stranded,) = sync([tmp_path / "b"], nowhere(), timeout_s=5)
    assert (stranded.state, stranded.sent, stranded.ok) == (SyncState.UNREACHABLE, 0, False)
    (done,) = sync([tmp_path / "b"], to(hub))
    assert (done.state, done.left, done.removed, done.ok) == (SyncState.DELIVERED, 0, True, True)
    assert plain(story(hub, later)) == plain(story(hub, hub.world.model_id))


def test_the_next_run_delivers_what_an_earlier_one_has_left(hub: RunningHub, tmp_path: Path) -> None:
    """A run that ended without its hub is complete as soon as anything reports from that machine again."""
    first = open_reporting(nowhere(), hub.world.model_id, tmp_path, pace=QUICK)
    train(first)
    first.close(0.5)
    second = open_reporting(to(hub), second_model(hub), tmp_path, pace=QUICK)
    second.lifecycle.initiated()
    wait_until(lambda: not (tmp_path / "outbox" / f"{hub.world.model_id}.sqlite").exists(), 20, "delivery")
    second.close()
    assert hub.read("/status")["status"] == "RESULTS_UPLOADED"


def test_a_killed_runs_cause_is_told_by_who_comes_next(hub: RunningHub, tmp_path: Path) -> None:
    """A process that died between its failure and its end: the run ends all the same, with the reason."""
    pid = os.fork()
    if pid == 0:
        reporting = Reporting(nowhere(), hub.world.model_id, tmp_path, pace=QUICK)
        reporting.lifecycle.round_started(1, 5)
        reporting.lifecycle.fail("Trust_2: out of memory")
        os._exit(9)
    os.waitpid(pid, 0)
    (result,) = sync([tmp_path], to(hub))
    assert result.state is SyncState.DELIVERED
    assert hub.read("/status")["status"] == "ERROR"
    assert any("Trust_2: out of memory" in line for line in hub.logs())


def test_a_live_outbox_is_left_to_its_own_sender(hub: RunningHub, tmp_path: Path) -> None:
    """``flip-fl sync`` beside a live run must not send anything twice."""
    reporting = open_reporting(to(hub), hub.world.model_id, tmp_path, pace=QUICK)
    wait_until(lambda: Outbox.stats(reporting.path).sending)
    (result,) = sync([tmp_path], to(hub))
    assert (result.state, result.ok) == (SyncState.LIVE, True)
    reporting.close()


def test_sync_says_what_it_cannot_do(hub: RunningHub, tmp_path: Path) -> None:
    """A wrong key, a foreign file and a missing one each have a state and words, and nothing is lost."""
    path = tmp_path / f"{hub.world.model_id}.sqlite"
    box = Outbox(path)
    put(box, status(ModelStatus.INITIATED), metric())
    box.close()
    (tmp_path / "notes.sqlite").write_text("x")
    paths = [tmp_path, tmp_path / "notes.sqlite", tmp_path / "gone.sqlite"]
    results = {result.path.name: result for result in sync(paths, settings(hub.base, "canary-wrong-key"))}
    assert results[path.name].state is SyncState.UNAUTHORISED
    assert results[path.name].left == 2
    assert results["notes.sqlite"].state is SyncState.UNUSABLE
    assert results["gone.sqlite"].state is SyncState.UNUSABLE
    assert "canary" not in str(results)


def test_a_stop_at_the_hub_reaches_the_run_and_is_not_overwritten(hub: RunningHub, tmp_path: Path) -> None:
    """STOPPED is the truth; a late RUNNING once overwrote it."""
    reporting = open_reporting(to(hub), hub.world.model_id, tmp_path, pace=QUICK)
    reporting.lifecycle.initiated()
    reporting.lifecycle.round_started(1, 5)
    wait_until(lambda: hub.read("/status")["status"] == "RUNNING")
    assert not reporting.stop_requested
    assert hub.model("PUT", "/status/STOPPED").status_code == 200
    wait_until(lambda: reporting.stop_requested)
    reporting.lifecycle.stop("stopped at the hub")
    reporting.lifecycle.fail("Trust_1: aborted")
    reporting.lifecycle.finish()
    assert reporting.close()
    assert hub.read("/status")["status"] == "STOPPED"


def test_a_trusts_display_name_is_no_client_and_its_failure_is_kept(hub: RunningHub, tmp_path: Path) -> None:
    """A display name once lost every metric in silence; now each is set aside and counted, tracebacks are kept."""
    reporting = open_reporting(to(hub), hub.world.model_id, tmp_path, pace=QUICK)
    reporting.reporter.metric("King's College", "loss", 0.5, 1)
    reporting.reporter.metric("Trust_1", "loss", 0.5, 1)
    reporting.reporter.failure("King's College", "Traceback: boom")
    wait_until(lambda: any("refused by the hub" in line for line in hub.logs()))
    logs = hub.logs()
    assert any("unattributed client 'King's College'" in line and "boom" in line for line in logs)
    assert any(line.startswith("reporting: 1 refused by the hub and set aside") for line in logs)
    stats = Outbox.stats(reporting.path)
    assert stats.losses == {"refused": 1}
    assert sum(stats.dead.values()) == 1
    reporting.close()
    assert [row["xLabel"] for row in hub.read("/metrics")] == ["Global Rounds"]


def test_single_posts_are_stored_once_by_their_keys(hub: RunningHub, tmp_path: Path) -> None:
    """Our hub keeps an idempotency key once, also for a sender that has no batch route in mind."""
    items = [metric(float(n), round_=n) for n in range(1, 6)]
    for attempt in range(2):
        box = Outbox(tmp_path / f"{attempt}.sqlite")
        put(box, status(ModelStatus.RUNNING), *items)
        sender = Sender(box, HubClient(to(hub)), hub.world.model_id)
        sender._transmitter.single = True
        assert sender.drain(20) is None
        assert box.is_empty()
        box.close()
    (plot,) = hub.read("/metrics")
    (series,) = plot["metrics"]
    assert [point["yValue"] for point in series["data"]] == [1, 2, 3, 4, 5]


def test_a_forked_worker_reports_and_its_end_disturbs_nothing(hub: RunningHub, tmp_path: Path) -> None:
    """Engines fork workers; one that closes reporting in its copy must not close the parent's."""
    reporting = open_reporting(to(hub), hub.world.model_id, tmp_path, pace=QUICK)
    reporting.lifecycle.initiated()
    pid = os.fork()
    if pid == 0:
        kept = reporting.reporter.metric("Trust_1", "loss", 0.25, 1)
        reporting.close()
        os._exit(0 if kept else 1)
    assert os.waitpid(pid, 0)[1] == 0
    reporting.reporter.metric("Trust_2", "loss", 0.5, 1)
    reporting.lifecycle.stop("done")
    reporting.lifecycle.finish()
    assert reporting.close()
    (plot,) = hub.read("/metrics")
    assert len(plot["metrics"]) == 2


# -- a hub process that is killed ----------------------------------------------------------------------------------


@pytest.fixture
def sqlite_world(tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    admin.init_database(url)
    with world(url) as filled:
        yield filled


def is_drained(path: Path) -> bool:
    return Outbox.stats(path).pending == 0


@contextmanager
def hub_process(filled: World, tmp_path: Path, fingerprint: str, port: int) -> Iterator[Any]:
    """The hub as a process of its own, on that port."""
    conf, port_file = tmp_path / "hub.env", tmp_path / "port"
    write_settings_file(conf, {"FLIP_HUB_DATABASE_URL": filled.url, "INTERNAL_SERVICE_KEY_HASH": fingerprint})
    port_file.unlink(missing_ok=True)
    with contextlib.closing(warm.hub(conf, "--port", str(port), "--port-file", str(port_file))) as process:
        wait_until(port_file.exists, 60, "the hub's start")
        yield process
        process.kill()
        process.wait(30)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.soak)])
def test_a_hub_that_is_killed_again_and_again_has_everything_once(
    sqlite_world: World, tmp_path: Path, kills: int
) -> None:
    """Killed in the middle of batches and restarted: stored = reported, each once, in order."""
    key, fingerprint = admin.new_service_key()
    state = tmp_path / "state"
    # one that nobody else is given while the hub is away
    number, port = 0, later_port()
    reporting: Reporting | None = None
    dice = random.Random(kills)
    for attempt in range(kills + 1):
        with hub_process(sqlite_world, tmp_path, fingerprint, port) as process:
            if reporting is None:
                conf = settings(f"http://127.0.0.1:{port}/api", key)
                reporting = open_reporting(conf, sqlite_world.model_id, state, pace=QUICK)
            until = time.monotonic() + dice.uniform(0.1, 0.6)
            while time.monotonic() < until or number <= 100 * (attempt + 1):
                number += 1
                reporting.reporter.metric("Trust_1", "loss", float(number), 1, x_value=number, x_label="Steps")
            if attempt < kills:
                process.kill()
                process.wait(30)
                continue
            wait_until(partial(is_drained, reporting.path), 120, "delivery")
            reporting.close()
    assert number > 100 * kills
    with sqlite_world.session() as session:
        (plot,) = get_metrics(sqlite_world.model_id, session)
        (series,) = plot.metrics
        assert [point.yValue for point in series.data] == [float(n) for n in range(1, number + 1)]
