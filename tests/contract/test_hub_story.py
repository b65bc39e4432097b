"""The story of a run as the hub builds it from its rows, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert

from flip_fl.dashboard.story import Story
from flip_fl.data.manifest import Manifest, SkipReason
from flip_fl.hub import admin, database, nets
from flip_fl.hub.story import FEW_POINTS, build_story, headline
from flip_fl.hub.tables import FlLog, FlMetric
from flip_fl.values import ModelStatus
from tests.support.hub import T0, RunningHub, item, metric

TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "trainer.py", line 3, in train\n'
    "    loss.backward()\n"
    "RuntimeError: CUDA out of memory\n"
    "a second line of the message"
)


def _started(number: int, seconds: float, total: int = 3) -> dict[str, Any]:
    return item(
        "event", event_type="ROUND_STARTED", global_round=number, details={"total_rounds": total}, seconds=seconds
    )


def _result(slot: str, number: int, seconds: float, size: int = 1000) -> dict[str, Any]:
    details = {"size_bytes": size}
    return item(
        "event",
        event_type="CLIENT_RESULT_RECEIVED",
        client=slot,
        global_round=number,
        details=details,
        seconds=seconds,
    )


def _told(slot: str, number: int, seconds: float, details: dict[str, Any]) -> dict[str, Any]:
    facts = {"client": slot, "global_round": number, "details": details, "seconds": seconds}
    return item("event", event_type="CLIENT_RESULT_RECEIVED", **facts)


def _aggregated(number: int, seconds: float, returned: int, expected: int = 2) -> dict[str, Any]:
    details = {"returned": returned, "expected": expected}
    return item("event", event_type="ROUND_AGGREGATED", global_round=number, details=details, seconds=seconds)


def _compared(number: int, seconds: float, **details: Any) -> dict[str, Any]:
    return item("event", event_type="UPDATES_COMPARED", global_round=number, details=details, seconds=seconds)


def _story(hub: RunningHub) -> Story:
    return Story.model_validate(hub.read("/story"))


def _cells(story: Story) -> list[list[tuple[str, str]]]:
    return [[(cell.slot, cell.state) for cell in row.cells] for row in story.rounds]


def test_a_whole_run_is_told(hub: RunningHub) -> None:
    """Status, history, rounds, curves, feed and results of a good run, each from its rows."""
    hub.batch(
        item("status", status="INITIATED", seconds=0),
        item("status", status="PREPARED", seconds=1),
        item("status", status="RUNNING", seconds=2),
        _started(1, 3),
        _result("Trust_2", 1, 5, size=2000),
        _result("Trust_1", 1, 7),
        _aggregated(1, 8, 2),
        metric("Trust_1", "loss", 0.5, 1, seconds=9),
        metric("Trust_2", "loss", 0.6, 1, seconds=9),
        item(
            "event",
            event_type="RESULTS_STORED",
            global_round=1,
            details={"address": "s3://b/m/1.zip", "sha256": "ab", "size_bytes": 5},
            seconds=10,
        ),
        item("status", status="RESULTS_UPLOADED", reason="all is well", seconds=11),
    )
    story = _story(hub)
    assert (story.model.name, story.model.project, story.model.id) == ("lesions", "Stroke", str(hub.world.model_id))
    assert (story.status, story.reason, story.total_rounds) == (ModelStatus.RESULTS_UPLOADED, "all is well", 3)
    assert [(change.previous, change.status, change.by) for change in story.history] == [
        (None, ModelStatus.PENDING, "hub"),
        (ModelStatus.PENDING, ModelStatus.INITIATED, "FL server"),
        (ModelStatus.INITIATED, ModelStatus.PREPARED, "FL server"),
        (ModelStatus.PREPARED, ModelStatus.RUNNING, "FL server"),
        (ModelStatus.RUNNING, ModelStatus.RESULTS_UPLOADED, "FL server"),
    ]
    assert [(site.slot, site.trust, site.code) for site in story.sites] == [
        ("Trust_1", "Guy's and St Thomas'", "GSTT"),
        ("Trust_2", "King's College", "KCH"),
    ]
    assert [(site.last_seen - T0).total_seconds() for site in story.sites if site.last_seen] == [9, 9]
    (first,) = story.rounds
    assert (first.number, first.returned, first.expected) == (1, 2, 2)
    assert [(c.slot, c.state, c.size_bytes, c.seconds) for c in first.cells] == [
        ("Trust_1", "returned", 1000, 4.0),
        ("Trust_2", "returned", 2000, 2.0),
    ]
    (plot,) = story.plots
    assert (plot.label, plot.x_label) == ("loss", "Global Rounds")
    assert [(s.slot, s.name, s.points[0].y, s.points[0].round) for s in plot.series] == [
        ("Trust_1", "GSTT", 0.5, 1),
        ("Trust_2", "KCH", 0.6, 1),
    ]
    assert story.results is not None
    assert (story.results.address, story.results.sha256, story.results.size_bytes) == ("s3://b/m/1.zip", "ab", 5)
    kinds = [row.kind for row in story.feed]
    assert kinds == [
        "status",
        "status",
        "status",
        "round",
        "result",
        "result",
        "aggregated",
        "event",
        "status",
        "status",
    ]
    assert story.failures == []


def test_an_empty_run_is_told_too(hub: RunningHub) -> None:
    """A draft has sites that have not been heard of, and nothing else."""
    story = _story(hub)
    assert [(site.slot, site.last_seen) for site in story.sites] == [("Trust_1", None), ("Trust_2", None)]
    assert (story.rounds, story.plots, story.feed, story.failures, story.results) == ([], [], [], [], None)


def test_cells_tell_the_five_states_and_add_up(hub: RunningHub) -> None:
    """Returned, late, failed, missed, and not asked of a round that is still open; one cell per site, always."""
    hub.batch(
        item("status", status="RUNNING"),
        _started(1, 1),
        _result("Trust_1", 1, 2),
        _aggregated(1, 3, 1),
        _result("Trust_2", 1, 4),
        _started(2, 10),
        _result("Trust_1", 2, 11),
        item("log", client="Trust_2", log=TRACEBACK, success=False, global_round=2, seconds=11),
        _aggregated(2, 12, 1),
        _started(3, 20),
        _result("Trust_1", 3, 21),
    )
    assert _cells(_story(hub)) == [
        [("Trust_1", "returned"), ("Trust_2", "late")],
        [("Trust_1", "returned"), ("Trust_2", "failed")],
        [("Trust_1", "returned"), ("Trust_2", "not_asked")],
    ]
    hub.batch(item("status", status="ERROR"))
    assert _cells(_story(hub))[2] == [("Trust_1", "returned"), ("Trust_2", "missed")]


def test_how_the_sites_updates_differ_is_told_by_round(hub: RunningHub) -> None:
    """Of the run's sites, in natural order, from as many events as there are; a round that starts again forgets it."""
    one = {"norm": 0.5, "cosine": 0.25, "examples": 120}
    hub.batch(
        _started(1, 0),
        _compared(1, 1, mean="plain", sites={"Trust_2": {"norm": 0, "examples": "withheld"}, "Nobody": one}),
        _compared(1, 1.5, mean="plain", sites={"Trust_1": one}),
        _aggregated(1, 2, 2),
        _started(2, 3),
        _compared(2, 4, mean="weighted", sites={"Trust_1": one}),
    )
    story = _story(hub)
    first, second = story.rounds
    assert [(each.slot, each.norm, each.cosine, each.examples) for each in first.updates] == [
        ("Trust_1", 0.5, 0.25, 120),
        ("Trust_2", 0.0, None, "withheld"),
    ]
    assert (first.mean, second.mean) == ("plain", "weighted")
    texts = [row.text for row in story.feed if "compared" in row.text]
    assert texts == [f"Round {which} compared" for which in ("1 · updates of 2 sites", "1 · updates", "2 · updates")]
    hub.batch(_started(2, 5))
    assert _story(hub).rounds[1].updates == []


def test_what_a_site_says_of_itself_is_told_with_its_result(hub: RunningHub) -> None:
    """Seconds of its work, how often each label is among its examples, and a clock that is off; what is unsound is not
    there, and of counts not a part is taken for the whole."""
    sound = {"size_bytes": 7, "seconds": 9.5, "computed": 7.25, "labels": {"a": 120, "b": "withheld"}}
    hub.batch(
        _started(1, 0),
        _told("Trust_1", 1, 10, {**sound, "clock": [95.0, 97.5]}),
        _told("Trust_2", 1, 10, {"computed": "long", "labels": {"a": 120, "b": -3}, "clock": [95.0]}),
        _compared(1, 11, mean="plain", sites={"Trust_2": {"norm": 0.5}}),
    )
    story = _story(hub)
    assert [(cell.worked, cell.computed) for cell in story.rounds[0].cells] == [(9.5, 7.25), (None, None)]
    assert [(each.slot, each.norm, each.labels) for each in story.rounds[0].updates] == [
        ("Trust_1", None, {"a": 120, "b": "withheld"}),
        ("Trust_2", 0.5, {}),
    ]
    assert [(skew.slot, skew.seconds, skew.proven) for skew in story.skews if skew.slot] == [("Trust_1", 95.0, True)]


def test_a_runs_settings_are_told_and_nonsense_is_not(hub: RunningHub) -> None:
    """Once told they are in the story, the newest count; what is no text is left out, and no other event is one."""
    settings = {"Engine": "NVFLARE 2.9.0", "LOCAL_ROUNDS": "2", "<b>": "<i>"}
    for details in ({"settings": {"old": "1"}}, {"settings": {**settings, "odd": 3}}):
        hub.batch(item("event", event_type="RUN_CONFIGURED", global_round=1, details=details))
    story = _story(hub)
    assert story.model.settings == settings
    assert [row.text for row in story.feed] == [f"The run's settings are known: {n} of them" for n in (1, 3)]
    assert story.rounds == []
    hub.batch(item("event", event_type="RUN_CONFIGURED", global_round=1, details={"settings": "many"}))
    assert _story(hub).model.settings == {}


def test_for_whom_a_run_waits_is_told_while_it_does(hub: RunningHub) -> None:
    """The newest word counts, until the run is prepared; what cannot be read is none."""

    def awaited(details: dict[str, Any]) -> None:
        hub.batch(item("event", event_type="SITES_AWAITED", global_round=1, details=details))

    hub.batch(item("status", status="INITIATED"))
    awaited({"there": [], "awaited": ["Trust_1", "Trust_2"], "needs": 1})
    awaited({"there": ["Trust_1"], "awaited": ["Trust_2"], "needs": 1, "until": "2026-11-22T13:30:00+00:00"})
    waiting = _story(hub).awaited
    assert waiting is not None
    assert (waiting.there, waiting.awaited, waiting.needs) == (["Trust_1"], ["Trust_2"], 1)
    assert _story(hub).feed[-1].text == "The run waits for its sites: 1 connected, 1 needed"
    awaited({"there": "everybody"})
    assert _story(hub).awaited is None
    awaited({"there": ["Trust_1"], "awaited": ["Trust_2"], "needs": 1})
    hub.batch(item("status", status="PREPARED"))
    assert _story(hub).awaited is None


def test_no_time_is_after_the_hub_has_heard_of_it(hub: RunningHub) -> None:
    """An FL server whose clock is an hour ahead: times, durations and "last seen" are by the hub's clock, and it is
    said whose clock is off."""
    now = datetime.now(UTC)
    ahead = now + timedelta(hours=1)
    begun = [item("status", status=status) for status in ("INITIATED", "PREPARED", "RUNNING")]
    result = _told("Trust_1", 1, 0, {"seconds": 1.0})
    for each in (*begun, _started(1, 0), result, metric("Trust_2", "loss", 0.5, 1)):
        hub.batch(each | {"at": ahead.isoformat()})
    story = _story(hub)
    late = datetime.now(UTC) + timedelta(seconds=1)
    times = [change.at for change in story.history] + [row.at for row in story.feed]
    times += [at for site in story.sites if (at := site.last_seen) is not None]
    times += [at for each in story.rounds for cell in each.cells if (at := cell.at) is not None]
    assert len(times) >= 10
    assert all(at <= late for at in times)
    assert all(site.last_seen is not None and site.last_seen > now - timedelta(minutes=5) for site in story.sites)
    assert [(skew.slot, skew.seconds > 3500) for skew in story.skews] == [(None, True)]


def test_no_sound_number_of_an_update_is_no_number(hub: RunningHub) -> None:
    """Whatever a sender writes there, the story stays readable."""
    odd: list[Any] = [None, "much", True, -3, {}, [1], 10**400]
    for number, value in enumerate(odd, start=1):
        hub.batch(
            _started(number, number),
            _compared(number, number, sites={"Trust_1": dict.fromkeys(("norm", "cosine"), value), "Trust_2": value}),
            _compared(number, number, sites=value, mean=value),
        )
    for row in _story(hub).rounds:
        assert [(each.slot, each.norm, each.cosine) for each in row.updates][:1] == [("Trust_1", None, None)]


def test_a_failure_in_another_task_does_not_undo_a_result(hub: RunningHub) -> None:
    """A site that returned weights and then failed to validate has returned."""
    hub.batch(
        _started(1, 1),
        _result("Trust_1", 1, 2),
        item("log", client="Trust_1", log=TRACEBACK, success=False, global_round=1, seconds=3),
    )
    assert _cells(_story(hub))[0][0] == ("Trust_1", "returned")


def test_a_round_that_starts_again_forgets_its_first_attempt(hub: RunningHub) -> None:
    """A run that is queued anew shows the rounds of its last attempt."""
    hub.batch(_started(1, 1), _result("Trust_1", 1, 2), _result("Trust_2", 1, 3), _aggregated(1, 4, 2))
    hub.batch(_started(1, 101), _result("Trust_2", 1, 105))
    (first,) = _story(hub).rounds
    assert first.aggregated_at is None
    assert [(cell.state, cell.seconds) for cell in first.cells] == [("not_asked", None), ("returned", 4.0)]


def test_a_round_that_starts_again_keeps_the_newest_of_each_point(hub: RunningHub) -> None:
    """A server that was lost in mid-round has told some of the round's numbers already: none is drawn twice, none of
    another round is dropped, whatever order they arrive in."""
    hub.batch(_started(1, 1), _started(2, 11), metric("Trust_1", "loss", 0.9, 1, seconds=2))
    hub.batch(_started(2, 101), metric("Trust_1", "loss", 0.4, 2, seconds=102))
    hub.batch(metric("Trust_1", "loss", 0.5, 2, seconds=12), metric("Trust_2", "loss", 0.6, 2, seconds=12))
    (plot,) = _story(hub).plots
    assert [[(point.round, point.y) for point in series.points] for series in plot.series] == [
        [(1, 0.9), (2, 0.4)],
        [(2, 0.6)],
    ]


def test_a_round_that_starts_again_keeps_several_points_of_one_place(hub: RunningHub) -> None:
    """An app that logs a number for every batch without a coordinate has many points at one place: all of the attempt
    that counts stay, and those of a round that is begun once a stage are no restart."""
    hub.batch(_started(1, 1), metric("Trust_1", "loss", 0.9, 1, seconds=2))
    hub.batch(_started(1, 101), *(metric("Trust_1", "loss", y, 1, seconds=102 + y) for y in (0.3, 0.4)))
    (plot,) = _story(hub).plots
    assert [point.y for point in plot.series[0].points] == [0.3, 0.4]


def test_the_stages_of_a_job_are_no_restart(hub: RunningHub) -> None:
    """A two-stage job begins each round number once a stage."""
    for stage, seconds in (("ae", 1), ("dm", 101)):
        event = _started(1, seconds)
        hub.batch({**event, "details": {**event["details"], "stage": stage}})
        hub.batch(metric("Trust_1", "loss", seconds / 1000, 1, seconds=seconds + 1, stage=stage))
    (plot,) = _story(hub).plots
    assert len(plot.series[0].points) == 2


def test_a_round_that_ran_once_keeps_every_point(hub: RunningHub) -> None:
    """Two numbers at one place are two measurements."""
    hub.batch(
        _started(1, 1), metric("Trust_1", "loss", 0.9, 1, seconds=2), metric("Trust_1", "loss", 0.8, 1, seconds=3)
    )
    (plot,) = _story(hub).plots
    assert [point.y for point in plot.series[0].points] == [0.9, 0.8]


def test_equal_failures_are_one_entry(hub: RunningHub) -> None:
    """Seven sites with one bug are one card with seven names, headed by the exception itself."""
    hub.batch(
        item("log", client="Trust_2", log=TRACEBACK, success=False, global_round=1, seconds=5),
        item("log", client="Trust_1", log=TRACEBACK, success=False, global_round=1, seconds=3),
        item("log", client="Trust_1", log="something else", success=False, global_round=2, seconds=9),
    )
    first, second = _story(hub).failures
    assert first.headline == "RuntimeError: CUDA out of memory"
    assert (first.detail, first.slots, first.round) == (TRACEBACK, ["Trust_1", "Trust_2"], 1)
    assert (first.at - T0).total_seconds() == 3
    assert (second.headline, second.slots, second.round) == ("something else", ["Trust_1"], 2)


def test_an_unattributed_failure_is_a_failure_of_nobody(hub: RunningHub) -> None:
    """A report that names nobody we know is shown, with whom it claimed in its text."""
    hub.batch(item("log", client="Trust_99", log=TRACEBACK, success=False))
    (failure,) = _story(hub).failures
    assert failure.slots == []
    assert failure.detail.startswith("[unattributed client 'Trust_99' — unknown FL kit slot] Traceback")
    assert failure.headline == "RuntimeError: CUDA out of memory"


def test_a_servers_own_traceback_is_a_failure_and_its_notes_are_not(hub: RunningHub) -> None:
    """What broke at the server is a failure; that it lost two metrics is a line of the feed."""
    hub.batch(
        item("log", log=TRACEBACK, success=False), item("log", log="2 metrics were dropped: queue full", success=False)
    )
    story = _story(hub)
    assert [failure.slots for failure in story.failures] == [[]]
    assert [row.kind for row in story.feed] == ["failure", "log"]


def test_a_few_skipped_studies_are_no_failure(hub: RunningHub) -> None:
    """The site that skipped less than it may is not the cause of a run's end; what it says stays in the feed."""
    said = str(Manifest({"A": None, "B": SkipReason.NOT_FOUND}, unnamed=1))
    hub.batch(item("log", client="Trust_1", log=said, success=False, global_round=1))
    story = _story(hub)
    assert story.failures == []
    assert [(row.kind, row.success, row.slot, row.text) for row in story.feed] == [("log", False, "Trust_1", said)]


@pytest.mark.parametrize(
    "text",
    [
        "metric 'auc' of round 2 (validate) is nan: not stored",
        "metric 'auc' of round 2 (validate) is -inf: not stored (3 times)",
    ],
)
def test_a_number_that_was_not_finite_is_a_mark_in_its_curve(hub: RunningHub, text: str) -> None:
    """A NaN is neither drawn nor forgotten: it is a point without a value, a feed row, and no failed site."""
    hub.batch(
        _started(2, 0),
        metric("Trust_1", "auc", 0.8, 1),
        metric("Trust_1", "auc", 0.9, 3),
        item("log", client="Trust_1", log=text, success=False, global_round=2),
    )
    story = _story(hub)
    (plot,) = story.plots
    assert [(point.x, point.y) for point in plot.series[0].points] == [(1.0, 0.8), (2.0, None), (3.0, 0.9)]
    assert story.failures == []
    assert [(row.kind, row.success) for row in story.feed if row.slot] == [("log", False)]
    assert _cells(story)[0][0][1] != "failed"


def test_a_curve_of_nothing_but_nan_is_still_there(hub: RunningHub) -> None:
    """A site whose every value was refused has its series, so that nobody takes it for absent."""
    text = "metric 'auc' of round 1 (train) is nan: not stored"
    hub.batch(item("log", client="Trust_2", log=text, success=False, global_round=1))
    (plot,) = _story(hub).plots
    assert [(s.slot, s.name, s.points[0].y) for s in plot.series] == [("Trust_2", "KCH", None)]


def test_a_late_status_is_in_the_history_as_ignored(hub: RunningHub) -> None:
    """After a stop the reader sees what else came and that it did not count; the reason stays the stop's."""
    hub.batch(item("status", status="STOPPED", reason="stopped by a person", seconds=5))
    hub.batch(item("status", status="ERROR", reason="aborted", seconds=9))
    story = _story(hub)
    assert [(t.status, t.applied) for t in story.history][-2:] == [
        (ModelStatus.STOPPED, True),
        (ModelStatus.ERROR, False),
    ]
    assert (story.status, story.reason) == (ModelStatus.STOPPED, "stopped by a person")


def test_a_reason_that_comes_after_its_status_is_kept(hub: RunningHub) -> None:
    """A stop that a person wrote first gets its reason from the server's later report of the same."""
    hub.model("PUT", "/status/STOPPED")
    hub.batch(item("status", status="STOPPED", reason="stopped in round 2"))
    story = _story(hub)
    assert story.reason == "stopped in round 2"
    assert [t.status for t in story.history] == [ModelStatus.PENDING, ModelStatus.STOPPED]
    assert hub.logs() == ["The run was stopped.", "stopped in round 2"]


def test_the_feed_is_in_the_order_of_what_happened(hub: RunningHub) -> None:
    """Lanes are sent one after the other; the feed follows the clock of the origin."""
    hub.batch(item("log", log="second", seconds=2), item("log", log="third", seconds=3))
    hub.batch(item("log", log="first", seconds=1))
    assert [row.text for row in _story(hub).feed] == ["first", "second", "third"]


def test_a_jobs_trusts_are_its_sites(hub: RunningHub) -> None:
    """A job that was given to one of the model's trusts has one site."""
    with hub.world.session() as session:
        nets.add("net-1", session)
        nets.occupy("net-1", hub.world.model_id, [hub.world.kings], session)
    assert [site.slot for site in _story(hub).sites] == ["Trust_2"]


def test_a_released_slot_stays_in_the_story(hub: RunningHub) -> None:
    """What a site did is told under the name it had, also after it gave the name back."""
    hub.batch(metric("Trust_1", "loss", 0.5, 1))
    with hub.world.session() as session:
        admin.release_slot(session, "Trust_1")
    sites = {site.slot: site.trust for site in _story(hub).sites}
    assert sites == {"Trust_1": "Guy's and St Thomas'", "Trust_2": "King's College"}


def test_sites_are_in_natural_order(hub: RunningHub) -> None:
    """Trust_2 stands before Trust_10."""
    with hub.world.session() as session:
        admin.seed_slots(session, 11)
        for number in range(4, 12):
            trust = admin.create_trust(session, f"hospital {number}")
            admin.assign_slot(session, trust.id)
            admin.associate_trusts(session, hub.world.model_id, [trust.id])
    slots = [site.slot for site in _story(hub).sites]
    assert slots == ["Trust_1", "Trust_2", *(f"Trust_{number}" for number in range(4, 12))]


def test_details_of_a_wrong_kind_do_no_harm(hub: RunningHub) -> None:
    """A sender's nonsense in the details costs the numbers, not the story."""
    hub.batch(
        item("event", event_type="ROUND_STARTED", global_round=1, details={"total_rounds": "many"}),
        item(
            "event",
            event_type="CLIENT_RESULT_RECEIVED",
            client="Trust_1",
            global_round=1,
            details={"size_bytes": {"a": -1}},
        ),
        item("event", event_type="ROUND_AGGREGATED", global_round=1, details={"returned": -1, "expected": True}),
        item("event", event_type="RESULTS_STORED", global_round=1, details={"address": 5}),
        item("event", event_type="RESULTS_STORED", global_round=1),
    )
    story = _story(hub)
    assert story.total_rounds is None
    assert (story.rounds[0].returned, story.rounds[0].expected, story.rounds[0].cells[0].size_bytes) == (None,) * 3
    assert story.results is None


def test_the_story_of_an_absent_model_is_none(hub: RunningHub) -> None:
    """None means absent."""
    with database.reading(hub.world.engine) as session:
        assert build_story(uuid4(), session) is None


def test_a_story_reads_one_moment(hub: RunningHub) -> None:
    """What is written while a story is read is not half in it: a reading session sees one snapshot."""
    with database.reading(hub.world.engine) as session:
        before = build_story(hub.world.model_id, session)
        hub.batch(metric("Trust_1", "loss", 0.5, 1), item("status", status="RUNNING"))
        session.expire_all()
        again = build_story(hub.world.model_id, session)
    assert before is not None
    assert again is not None
    assert (again.status, again.plots) == (before.status, before.plots)
    assert len(hub.world.rows(FlMetric)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TRACEBACK, "RuntimeError: CUDA out of memory"),
        ("ValueError: no\n", "ValueError: no"),
        ("one\ntwo\n\n", "two"),
        ("Traceback (most recent call last):\n  File x\n", "File x"),
        ("  \n", "no text"),
    ],
)
def test_the_headline_says_what_happened(text: str, expected: str) -> None:
    """The exception's own line stands first, whatever surrounds it."""
    assert headline(text) == expected


def test_readers_of_a_big_run_share_the_story_that_is_being_made(hub: RunningHub) -> None:
    """Each for himself they would keep the hub busy for as many stories; the next reader is told what came since."""
    with hub.world.session() as session:
        rows = [
            {
                "model_id": hub.world.model_id,
                "log": f"line {number}",
                "success": True,
                "occurred_at": T0,
                "log_date": T0,
                "details": "{}",
            }
            for number in range(FEW_POINTS + 1)
        ]
        session.execute(insert(FlLog), rows)
        session.commit()
    with ThreadPoolExecutor(8) as readers:
        told = list(readers.map(lambda _: hub.model("GET", "/story?feed=5").json(), range(8)))
    assert len({story["generated_at"] for story in told}) < len(told)
    assert all(len(story["feed"]) == 5 for story in told)
    hub.batch(item("log", log="what came since"))
    assert hub.read("/story?feed=5")["feed"][-1]["text"] == "what came since"
    assert hub.read("/story?rows=few&feed=5")["partial"] is True
