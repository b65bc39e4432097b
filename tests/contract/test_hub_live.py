"""What a page is told of a run that goes on: only what is new, from any place, and never twice."""

from __future__ import annotations

import itertools
import json
from typing import Any
from uuid import uuid4

import pytest
import requests

from flip_fl.dashboard.delta import Delta
from flip_fl.dashboard.story import Story
from flip_fl.hub import admin, watches
from flip_fl.hub.access import Principal, Role, viewer
from flip_fl.hub.routes import streams
from tests.support.hub import HubServer, RunningHub, item, metric


def _event(kind: str, number: int, seconds: float, client: str | None = None, **details: Any) -> dict[str, Any]:
    who = {} if client is None else {"client": client}
    return item("event", event_type=kind, global_round=number, details=details, seconds=seconds, **who)


def _scored(slot: str, value: float, number: int, seconds: float) -> dict[str, Any]:
    return metric(slot, "loss", value, number, task="validate", seconds=seconds)


CHAPTERS: list[list[dict[str, Any]]] = [
    [item("status", status=status, seconds=k) for k, status in enumerate(("INITIATED", "PREPARED", "RUNNING"))],
    [_event("ROUND_STARTED", 1, 3, total_rounds=2), _event("CLIENT_RESULT_RECEIVED", 1, 5, "Trust_1", size_bytes=7)],
    [_event("CLIENT_RESULT_RECEIVED", 1, 6, "Trust_2"), _event("ROUND_AGGREGATED", 1, 7, returned=2, expected=2),
     _event("UPDATES_COMPARED", 1, 7, mean="plain", sites={"Trust_1": {"norm": 0.5, "examples": "withheld"}})],
    [_scored("Trust_1", 0.5, 1, 8), _scored("Trust_2", 0.6, 1, 8)],
    [_event("ROUND_STARTED", 2, 9, total_rounds=2)],
    [
        item("log", client="Trust_2", log="ValueError: no", success=False, global_round=2, seconds=10),
        item("log", client="Trust_1", log="metric 'loss' of round 2 (validate) is nan: not stored", success=False,
             global_round=2, seconds=10),
        item("log", log="reporting: 3 metrics were dropped", success=False, seconds=10),
    ],
    [_event("RESULTS_STORED", 2, 12, address="s3://b/1.zip", sha256="ab", size_bytes=5)],
    [item("status", status="ERROR", reason="too few sites", seconds=13)],
]  # fmt: skip


def _story(hub: RunningHub) -> Story:
    return Story.model_validate(hub.read("/story"))


def _changes(hub: RunningHub, place: str | None) -> Any:
    return hub.read(f"/changes?since={place}")


def _delta(hub: RunningHub, place: str | None) -> Delta:
    return Delta.model_validate(_changes(hub, place))


def _agrees(delta: Delta, before: Story, after: Story) -> None:
    """What the delta says, put on top of the story before, is the story after."""
    assert (delta.status, delta.headline, delta.total_rounds) == (after.status, after.headline, after.total_rounds)
    assert delta.reason == after.reason
    rounds = {each.number: each for each in before.rounds} | {each.number: each for each in delta.rounds}
    assert [rounds[number] for number in sorted(rounds)] == after.rounds
    assert [*before.feed, *delta.feed] == after.feed
    for name in ("history", "failures", "losses", "results"):
        told = getattr(delta, name)
        assert (getattr(before, name) if told is None else told) == getattr(after, name)
    points = [(plot.label, one.slot, p.x, p.y) for plot in before.plots for one in plot.series for p in one.points]
    points += [(new.label, new.slot, x, y) for new in delta.points for x, y, _ in new.points]
    assert sorted(points, key=str) == sorted(
        ((plot.label, one.slot, p.x, p.y) for plot in after.plots for one in plot.series for p in one.points), key=str
    )


def test_from_every_place_to_every_later_one_a_delta_is_what_is_missing(hub: RunningHub) -> None:
    """A page that was away for one chapter or for the whole run catches up with one question, nothing lost or twice."""
    stories = [_story(hub)]
    for chapter in CHAPTERS:
        hub.batch(*chapter)
        after = _story(hub)
        for before in stories:
            delta = _delta(hub, before.cursor)
            assert (delta.since, delta.cursor) == (before.cursor, after.cursor)
            _agrees(delta, before, after)
        stories.append(after)
    nothing = _delta(hub, stories[-1].cursor)
    assert (nothing.rounds, nothing.feed, nothing.points, nothing.history) == ([], [], [], None)


def test_a_hub_that_starts_anew_tells_the_same(hub: RunningHub) -> None:
    """What was folded is made from the rows alone: a process that has never seen the run tells the same of it."""
    first = _story(hub)
    for chapter in CHAPTERS:
        hub.batch(*chapter)
    _agrees(_delta(hub, first.cursor), first, _story(hub))


def test_a_round_that_starts_again_is_read_anew(hub: RunningHub) -> None:
    """What a first attempt said cannot be taken back by adding: the page is asked to read the story again."""
    for chapter in CHAPTERS[:4]:
        hub.batch(*chapter)
    before = _story(hub)
    _changes(hub, before.cursor)
    hub.batch(_event("ROUND_STARTED", 1, 50, total_rounds=2))
    assert _changes(hub, before.cursor) == {"again": True}
    place = _story(hub).cursor
    hub.batch(_scored("Trust_1", 0.4, 1, 52))
    (new,) = _delta(hub, place).points
    assert (new.again, new.points) == (True, [(1.0, 0.4, 1)])
    story = _story(hub)
    assert [each.attempt for each in story.rounds] == [2]
    (one, other) = story.plots[0].series
    assert ([p.y for p in one.earlier], [p.y for p in one.points]) == ([0.5], [0.4])
    assert ([p.y for p in other.earlier], [p.y for p in other.points]) == ([], [0.6])


def test_a_late_status_is_told(hub: RunningHub) -> None:
    """What came after a stop and was ignored writes no row, and reaches the page all the same."""
    hub.batch(*CHAPTERS[0], item("status", status="STOPPED", seconds=5))
    place = _story(hub).cursor
    hub.batch(item("status", status="ERROR", seconds=6))
    history = _delta(hub, place).history
    assert history is not None
    assert [(step.status, step.applied) for step in history[-1:]] == [("ERROR", False)]


@pytest.mark.parametrize("place", ["x", "1.2", "1.2.3.4", "-1.0.0", "1.1.99999999999999999999", "٣.0.0"])
def test_a_place_that_no_hub_has_given_is_refused(hub: RunningHub, place: str) -> None:
    """Half a cursor is not taken for the beginning."""
    assert hub.model("GET", f"/changes?since={place}").status_code == 400
    assert hub.model("GET", f"/stream?since={place}").status_code == 400


def test_a_place_from_the_future_is_read_anew(hub: RunningHub) -> None:
    """After a database was put back, a page is ahead of it: it reads the story again."""
    assert _changes(hub, "999999.0.0") == {"again": True}


def _events(response: requests.Response) -> Any:
    kind, place = "", ""
    for line in response.iter_lines(decode_unicode=True):
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("id: "):
            place = line.removeprefix("id: ")
        elif line.startswith("data: "):
            yield kind, place, json.loads(line.removeprefix("data: "))


def _stream(hub: RunningHub, place: str, **headers: str) -> requests.Response:
    return hub.model("GET", f"/stream?since={place}", headers=headers, stream=True)


def test_a_stream_tells_what_comes_and_resumes_where_it_was_cut(hub: RunningHub) -> None:
    """Each event's id is the place to go on from, as a browser does by itself; the run's deletion ends the stream."""
    before = _story(hub)
    with _stream(hub, str(before.cursor)) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Accel-Buffering"] == "no"
        events = _events(response)
        kind, place, first = next(events)
        assert (kind, place, first["feed"]) == ("delta", before.cursor, [])
        hub.batch(*CHAPTERS[0])
        _, place, told = next(events)
        assert [row["kind"] for row in told["feed"]] == ["status", "status", "status"]
    hub.batch(*CHAPTERS[1])
    with _stream(hub, "0.0.0", **{"Last-Event-ID": place}) as response:
        events = _events(response)
        _, place, told = next(events)
        assert (told["since"], [row["kind"] for row in told["feed"]]) == (place_of(told), ["round", "result"])
        assert hub.model("DELETE").status_code == 204
        assert [kind for kind, _, _ in itertools.islice(events, 1)] == ["gone"]
    assert hub.model("GET", "/changes?since=0.0.0").status_code == 400


def test_one_stream_tells_of_several_runs(hub: RunningHub) -> None:
    """Each from its own place; of a run that is not there, and of one that is deleted, it says so and goes on with the
    others; a place that no hub has given is refused."""
    start, absent = str(_story(hub).cursor), uuid4()
    with hub.world.session() as session:
        second = admin.create_model(session, "Stroke", "second", "").id
        gone = admin.create_model(session, "Stroke", "gone", "").id
        admin.delete_model(session, gone)
    runs = [hub.world.model_id, second, absent, gone]
    query = "&".join(f"run={run}@{start if run == hub.world.model_id else '0.0.0'}" for run in runs)
    headers = {"Authorization": f"Bearer {hub.world.token}"}
    with requests.get(f"{hub.base}/stream?{query}", headers=headers, stream=True, timeout=60) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        events = _events(response)
        first = [next(events) for _ in range(4)]
        assert {(kind, told["model"]) for kind, _, told in first} == {
            ("refused", str(absent)),
            ("gone", str(gone)),
            ("delta", str(second)),
            ("delta", str(hub.world.model_id)),
        }
        hub.batch(*CHAPTERS[0])
        kind, place, told = next(events)
        assert (kind, told["model"], told["news"]["since"]) == ("delta", str(hub.world.model_id), start)
        assert place == f"{hub.world.model_id}@{told['news']['cursor']}"
        with hub.world.session() as session:
            admin.delete_model(session, second)
        kind, _, told = next(events)
        assert (kind, told["model"]) == ("gone", str(second))
        assert hub.model("DELETE").status_code == 204
        assert [kind for kind, _, _ in events] == ["gone"]
    for wrong in ("", "?run=7", f"?run={absent}@soon", f"?run={absent}@1.2", "?run=" + "x" * 36 + "@1.2.3"):
        answer = requests.get(f"{hub.base}/stream{wrong}", headers=headers, timeout=60)
        assert answer.status_code in (400, 422), wrong


@pytest.mark.parametrize("of_all", [False, True], ids=["run", "all runs"])
def test_a_silent_stream_comments(hub: RunningHub, monkeypatch: pytest.MonkeyPatch, of_all: bool) -> None:
    """Every 15 s, so that no proxy takes a stream in which nothing comes for dead."""
    assert watches.COMMENT_EVERY_S == 15.0
    monkeypatch.setattr(watches, "COMMENT_EVERY_S", 0.3)
    monkeypatch.setattr(streams, "_SPOKE_S", 0.1)
    where = f"/stream?run={hub.world.model_id}@0.0.0" if of_all else f"/model/{hub.world.model_id}/stream"
    headers = {"Authorization": f"Bearer {hub.world.token}"}
    with requests.get(hub.base + where, headers=headers, stream=True, timeout=60) as response:
        lines = (line for line in response.iter_lines(decode_unicode=True) if line and not line.startswith("retry"))
        kinds = [line.partition(" ")[0] for line in itertools.islice(lines, 5)]
    assert kinds == ["event:", "id:", "data:", ":", ":"]


def place_of(told: dict[str, Any]) -> str:
    """The place that a resumed stream went on from: before its first new row."""
    return f"{told['feed'][0]['id'] - 1}.{told['since'].split('.', 1)[1]}"


def test_older_lines_are_asked_for(hub: RunningHub) -> None:
    """A long activity is read from its end, page by page, without a line missing or twice."""
    for chapter in CHAPTERS:
        hub.batch(*chapter)
    all_rows = hub.read("/feed")["rows"]
    assert len(all_rows) == len(_story(hub).feed)
    read: list[Any] = []
    before = ""
    while True:
        found = hub.read(f"/feed?count=4{before}")
        read = found["rows"] + read
        before = f"&before={read[0]['id']}"
        if not found["more"]:
            break
    assert read == all_rows
    short = Story.model_validate(hub.read("/story?feed=3"))
    assert (len(short.feed), short.feed_more) == (3, True)


def test_a_stranger_to_a_project_sees_no_run_of_it(
    hub: RunningHub,
    _hub_server: HubServer,  # noqa: PT019 - the one that `hub` shares, for its application
) -> None:
    """Stream, changes, activity and list answer a stranger as if there were no such run."""

    async def stranger() -> Principal:
        return Principal("Eve", Role.VIEWER, frozenset(), "token")

    _hub_server.app.dependency_overrides[viewer] = stranger
    try:
        for path in ("/stream", "/changes?since=0.0.0", "/feed"):
            assert hub.model("GET", path).status_code == 404
        assert hub.call("GET", "/runs").json()["runs"] == []
    finally:
        del _hub_server.app.dependency_overrides[viewer]
