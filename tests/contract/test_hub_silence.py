"""Runs whose FL server is not heard of: noticed, told, and ended by a rule if an operator wants that."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update
from sqlmodel import Session, col, select

from flip_fl.dashboard.story import Story
from flip_fl.hub import admin, model_service, nets, presence
from flip_fl.hub.app import look_after
from flip_fl.hub.silence import SilenceRule, silent_runs
from flip_fl.hub.sweep import sweep
from flip_fl.hub.tables import FlLog, FlNet, FlScheduler, HubPresence, Model, NetStatus, StatusHistory, utc_now
from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.sender import Pace, Sender
from flip_fl.settings import HubSettings
from flip_fl.values import ModelStatus
from tests.support.hub import RunningHub, item, metric, outcomes, unlock_history
from tests.support.reporting import settings, wait_until

AFTER = timedelta(seconds=120)


def _model(hub: RunningHub) -> Model:
    return next(row for row in hub.world.rows(Model) if row.id == hub.world.model_id)


def _set(hub: RunningHub, *, silent_s: float, up_s: float = 86_400, seen_s: float = 0) -> datetime:
    """Let the server's last word be ``silent_s`` old, at a hub that is up for ``up_s``; returns when it was."""
    now = utc_now()
    with hub.world.session() as session:
        # The hub may be about to note for the first time that it is there.
        presence.note(session, now)
        session.add(_changed(session.get(Model, hub.world.model_id), heard_at=now - timedelta(seconds=silent_s)))
        there = session.get_one(HubPresence, 1)
        up, seen = now - timedelta(seconds=up_s), now - timedelta(seconds=seen_s)
        session.add(_changed(there, up_since=up, seen_at=seen))
        session.commit()
    return now - timedelta(seconds=silent_s)


def _changed(row: Any, **facts: Any) -> Any:
    for name, value in facts.items():
        setattr(row, name, value)
    return row


def _since(hub: RunningHub) -> str | None:
    since: str | None = hub.read("/status").get("unreachableSince")
    return since


METRIC = {"fl_client_name": "Trust_1", "global_round": 1, "label": "loss", "result": 0.5}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/events", {"items": []}),
        ("POST", "/metrics", METRIC),
        ("POST", "/logs", {"log": "x"}),
        ("PUT", "/status/RUNNING", None),
    ],
    ids=["heartbeat", "metric", "log", "status"],
)
def test_whatever_the_server_posts_shows_that_it_is_there(
    hub: RunningHub, method: str, path: str, body: dict[str, Any] | None
) -> None:
    """A heartbeat and every single post count; a refused key does not, and no row is written twice in seconds."""
    hub.model(method, path, json=body, key="wrong")
    assert _model(hub).heard_at is None
    before = utc_now()
    assert hub.model(method, path, json=body).ok
    heard = _model(hub).heard_at
    assert heard is not None
    assert before <= heard <= utc_now()
    assert hub.model(method, path, json=body).ok
    assert _model(hub).heard_at == heard
    hub.read("/story")
    _set(hub, silent_s=30)
    hub.read("/status")
    assert utc_now() - (_model(hub).heard_at or before) >= timedelta(seconds=30)
    assert hub.model(method, path, json=body).ok
    assert utc_now() - (_model(hub).heard_at or before) < timedelta(seconds=25)


@pytest.mark.parametrize("status", ["INITIATED", "PREPARED", "RUNNING"])
def test_a_silent_run_is_unreachable_and_keeps_its_status(hub: RunningHub, status: str) -> None:
    """It is shown with since when, in the story, the headline and the status; what is stored stays as it is."""
    hub.batch(item("status", status=status), item("event", event_type="ROUND_STARTED", global_round=1))
    since = _set(hub, silent_s=600)
    story = Story.model_validate(hub.read("/story"))
    assert story.unreachable is not None
    assert (story.unreachable.since, story.unreachable.ends_at) == (since, None)
    assert (story.status, story.headline.tone) == (ModelStatus(status), "warn")
    assert "(10 min)" in story.headline.text
    assert hub.read("/status")["status"] == status
    assert datetime.fromisoformat(str(_since(hub))) == since


def test_an_outage_is_over_with_the_next_word_and_leaves_one_row(hub: RunningHub) -> None:
    """Who reads the story later sees that nothing was heard for ten minutes, once, before what came then."""
    hub.batch(item("status", status="RUNNING"))
    _set(hub, silent_s=600)
    hub.batch(item("log", log="back"))
    hub.batch()
    assert _since(hub) is None
    assert Story.model_validate(hub.read("/story")).unreachable is None
    assert hub.logs() == [
        "The sites have started to work.",
        "No news from the FL server for 10 min; it reports again.",
        "back",
    ]


@pytest.mark.parametrize(
    ("silent_s", "up_s", "seen_s"),
    [(100, 86_400, 0), (600, 100, 0), (600, 86_400, 3600)],
    ids=["a pause", "the hub was away until now", "the hub is away"],
)
def test_who_could_not_report_is_not_silent(hub: RunningHub, silent_s: float, up_s: float, seen_s: float) -> None:
    """A short pause is none, and time in which the hub itself was away is not the server's: no word, no row, no end."""
    hub.batch(item("status", status="RUNNING"))
    _set(hub, silent_s=silent_s, up_s=up_s, seen_s=seen_s)
    assert _since(hub) is None
    with hub.world.session() as session:
        assert sweep(session, AFTER, utc_now()) == []
    hub.batch()
    assert hub.logs() == ["The sites have started to work."]


@pytest.mark.parametrize("status", ["STOPPED", "ERROR", "RESULTS_UPLOADED", "RESULTS_UPLOAD_FAILED"])
def test_a_run_that_is_over_owes_no_word(hub: RunningHub, status: str) -> None:
    """A run that has ended is not waited for, and its late reports make no outage."""
    hub.batch(item("status", status="RUNNING"), item("status", status=status))
    _set(hub, silent_s=86_000)
    assert _since(hub) is None
    rows = len(hub.logs())
    hub.batch()
    assert len(hub.logs()) == rows


def test_a_deleted_run_owes_no_word(hub: RunningHub) -> None:
    """Nobody is told of, and no rule ends, what a person has thrown away."""
    hub.batch(item("status", status="RUNNING"))
    assert hub.model("DELETE").status_code == 204
    _set(hub, silent_s=86_000)
    assert _since(hub) is None


def test_a_run_in_the_queue_is_awaited_from_its_first_word_on(hub: RunningHub) -> None:
    """Hours in a queue are no silence, not even after an earlier attempt; a net that works on it owes reports."""
    hub.batch(item("status", status="RUNNING"), item("status", status="STOPPED"))
    _set(hub, silent_s=600)
    with hub.world.session() as session:
        model_service.update_model_status(hub.world.model_id, ModelStatus.INITIATED, session, "ada")
    assert _model(hub).heard_at is None
    assert _since(hub) is None
    with hub.world.session() as session:
        nets.add("net", session)
        nets.occupy("net", hub.world.model_id, [hub.world.guys], session)
        assert silent_runs(session, AFTER, utc_now()) == []
        (run,) = silent_runs(session, timedelta(0), utc_now() + timedelta(seconds=1))
    assert run.model_id == hub.world.model_id


def test_an_idle_sender_keeps_its_run_from_falling_silent(hub: RunningHub, tmp_path: Path) -> None:
    """The real sender, with nothing to send, is heard of all the same."""
    hub.batch(item("status", status="RUNNING"))
    _set(hub, silent_s=600)
    outbox = Outbox(tmp_path / "outbox.sqlite")
    sender = Sender(outbox, HubClient(settings(hub.base, hub.key)), hub.world.model_id, pace=Pace(0.1, heartbeat_s=0.1))
    sender.start()
    wait_until(lambda: _since(hub) is None)
    sender.close(30)
    outbox.close()


def test_several_runs_are_judged_each_by_itself(hub: RunningHub) -> None:
    """One silent run does not make another one silent."""
    with hub.world.session() as session:
        other = admin.create_model(session, "Stroke", "other", trusts=[hub.world.guys]).id
    for model_id in (hub.world.model_id, other):
        hub.call("POST", f"/model/{model_id}/events", json={"items": [item("status", status="RUNNING")]})
    since = _set(hub, silent_s=600)
    with hub.world.session() as session:
        assert [(run.model_id, run.since) for run in silent_runs(session, AFTER, utc_now())] == [
            (hub.world.model_id, since)
        ]


def _busy(hub: RunningHub) -> None:
    """A run under way on a net."""
    with hub.world.session() as session:
        nets.add("net", session)
        nets.occupy("net", hub.world.model_id, [hub.world.guys, hub.world.kings], session)
    hub.batch(item("status", status="RUNNING"))


def test_the_rule_ends_a_silent_run_and_frees_its_net(hub: RunningHub) -> None:
    """ERROR with the rule and since when as the reason, once; the net can take the next job."""
    _busy(hub)
    since = _set(hub, silent_s=4000)
    with hub.world.session() as session:
        assert [run.since for run in sweep(session, timedelta(hours=1), utc_now(), dry_run=True)] == [since]
        assert hub.read("/status")["status"] == "RUNNING"
        assert sweep(session, timedelta(hours=2), utc_now()) == []
        assert [run.model_id for run in sweep(session, timedelta(hours=1), utc_now())] == [hub.world.model_id]
        assert sweep(session, timedelta(hours=1), utc_now()) == []
        assert session.exec(select(FlScheduler.status).join(FlNet, col(FlNet.id) == FlScheduler.net_id)).all() == [
            NetStatus.AVAILABLE
        ]
    story = Story.model_validate(hub.read("/story"))
    assert (story.status, story.unreachable) == (ModelStatus.ERROR, None)
    assert story.history[-1].by == "hub's rule for silent runs"
    assert story.reason is not None
    assert story.reason.startswith("no news from the FL server since ")
    assert story.reason.endswith("for 1 h (FLIP_HUB_STALE_ERROR_AFTER_S)")
    assert hub.logs()[-2:] == ["The run has failed.", story.reason]


def test_a_run_that_was_ended_and_reports_again_has_the_last_word(hub: RunningHub) -> None:
    """Its reports are kept, the story says that it is back, and its own end is the truth; another run keeps the net."""
    _busy(hub)
    _set(hub, silent_s=4000)
    with hub.world.session() as session:
        sweep(session, timedelta(hours=1), utc_now())
        other = admin.create_model(session, "Stroke", "other", trusts=[hub.world.guys]).id
        nets.occupy("net", other, [hub.world.guys], session)
    assert outcomes(hub.batch(metric("Trust_1", "loss", 0.5, 1))) == ["stored"]
    with hub.world.session() as session:
        # Half a minute passes; what was told is not told again.
        unlock_history(session)
        session.exec(update(StatusHistory).values(at=utc_now() - timedelta(seconds=300)))
        session.commit()
    _set(hub, silent_s=30)
    hub.batch()
    said = [text for text in hub.logs() if "reports again" in text]
    assert said == ["The FL server reports again, after 1 h 6 min: the run had been ended, its reports are kept."]
    answer = hub.batch(item("status", status="RESULTS_UPLOADED"))
    assert answer["results"][0]["applied"] is True
    assert hub.read("/status")["status"] == "RESULTS_UPLOADED"
    with hub.world.session() as session:
        assert session.exec(select(FlScheduler.status)).all() == [NetStatus.BUSY]


def test_sweeps_at_the_same_moment_end_a_run_once(hub: RunningHub) -> None:
    """Every worker of a hub, and cron beside them, may sweep: one of them ends the run, with one set of rows."""
    _busy(hub)
    _set(hub, silent_s=4000)
    barrier = Barrier(8)

    def run(_: int) -> list[UUID]:
        with hub.world.session() as session:
            barrier.wait()
            return [run.model_id for run in sweep(session, timedelta(hours=1), utc_now())]

    with ThreadPoolExecutor(8) as pool:
        ended = [model for found in pool.map(run, range(8)) for model in found]
    assert ended == [hub.world.model_id]
    assert [row.status for row in hub.world.rows(StatusHistory)].count(ModelStatus.ERROR) == 1


def test_a_report_at_the_last_moment_saves_the_run(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the sweep's look and its lock the server may report, and then nothing is ended."""
    from flip_fl.hub import sweep as module

    _busy(hub)
    _set(hub, silent_s=4000)
    lock = module.lock_model

    def late(model_id: UUID, session: Session) -> Model | None:
        hub.batch()
        return lock(model_id, session)

    monkeypatch.setattr(module, "lock_model", late)
    with hub.world.session() as session:
        assert sweep(session, timedelta(hours=1), utc_now()) == []
    assert hub.read("/status")["status"] == "RUNNING"


def _settings(hub: RunningHub, **facts: Any) -> HubSettings:
    return HubSettings(database_url=hub.world.url, _env_file=None, **facts)


def test_the_rule_is_off_unless_an_operator_sets_it(hub: RunningHub) -> None:
    """A hub by itself ends nothing; with the rule set it does, also when its database is away in between."""
    _busy(hub)
    _set(hub, silent_s=80_000)
    look_after(hub.world.engine, _settings(hub))
    assert hub.read("/status")["status"] == "RUNNING"
    look_after(hub.world.engine, _settings(hub, stale_error_after_s=3600))
    assert hub.read("/status")["status"] == "ERROR"
    assert SilenceRule.of(_settings(hub, stale_error_after_s=60)).error_after == AFTER


def test_a_hub_knows_since_when_it_is_there(hub: RunningHub) -> None:
    """Notes without a break keep the beginning; after a break it begins anew, and without notes the hub is away."""
    start = utc_now() + timedelta(days=1)
    with hub.world.session() as session:
        presence.note(session, start)
        for seconds in (10, 25, 60):
            presence.note(session, start + timedelta(seconds=seconds))
        assert presence.up_since(session, start + timedelta(seconds=70)) == start
        assert presence.up_since(session, start + timedelta(seconds=101)) is None
        back = start + timedelta(seconds=200)
        presence.note(session, back)
        assert presence.up_since(session, back) == back


def test_the_story_says_when_the_rule_will_end_the_run(hub: RunningHub) -> None:
    """The next automatic step is told with its time."""
    from flip_fl.hub import database
    from flip_fl.hub.story import build_story

    hub.batch(item("status", status="RUNNING"))
    _set(hub, silent_s=600)
    rule = SilenceRule(AFTER, timedelta(seconds=3600))
    with database.reading(hub.world.engine) as session:
        story = build_story(hub.world.model_id, session, rule=rule)
    assert story is not None
    assert story.unreachable is not None
    assert story.unreachable.ends_at is not None
    assert 2990 < (story.unreachable.ends_at - story.generated_at).total_seconds() <= 3000
    assert "unless it reports, the run ends as failed at" in story.headline.text


def test_lost_reports_are_in_the_story(hub: RunningHub) -> None:
    """What a sender or a site counted as lost is told in a place of its own, and fails nobody."""
    hub.batch(
        item("log", log="reporting: 37 dropped because the outbox was full", success=False, global_round=2),
        item("log", client="Trust_1", log="reporting: 12 reports never came", success=False, global_round=3),
        item("log", log="reporting: all is well"),
    )
    story = Story.model_validate(hub.read("/story"))
    assert [(loss.text, loss.slot, loss.round) for loss in story.losses] == [
        ("37 dropped because the outbox was full", None, 2),
        ("12 reports never came", "Trust_1", 3),
    ]
    assert story.failures == []
    assert len(hub.world.rows(FlLog)) == 3
