"""Plots over a real socket: the list of them, one as it is drawn, and every point for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event
from sqlmodel import Session

from flip_fl.hub import database, tallies
from flip_fl.hub.app import look_after
from flip_fl.hub.curves import scored_in, superseded
from flip_fl.hub.model_service import get_metrics
from flip_fl.hub.plots import refused_values, stored_series
from flip_fl.hub.tables import FlMetricBlock, FlMetricSeries
from flip_fl.settings import HubSettings
from tests.support.hub import RunningHub, item, metric, running_hub


def _plot(hub: RunningHub, **query: Any) -> dict[str, Any]:
    response = hub.model("GET", "/plot", params=query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def _not_finite(slot: str, label: str, number: int) -> dict[str, Any]:
    text = f"metric '{label}' of {slot} is nan: not stored"
    return item("log", client=slot, log=text, success=False, global_round=number)


def _rows(hub: RunningHub, **query: Any) -> list[dict[str, str]]:
    response = hub.model("GET", "/metrics.csv", params=query)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(response.content.decode(), newline="")))


def _fill(hub: RunningHub) -> None:
    """Two metrics on two axes, one round missed by Trust_2, and a value that was not finite."""
    hub.batch(
        *(metric("Trust_1", "loss", 1 / n, n) for n in (1, 2, 3, 4)),
        *(metric("Trust_2", "loss", 2 / n, n) for n in (4, 2, 1)),
        metric("Trust_1", "loss", 0.25, 1, x_label="Step", x_value=2.5),
        metric("Trust_1", "dice", 0.1 + 0.2, 1),
        _not_finite("Trust_1", "loss", 5),
        _not_finite("Trust_2", "auc", 1),
    )


def test_plots_are_listed_with_their_size(hub: RunningHub) -> None:
    """A page knows what there is before it loads a point; a refused value counts, it is drawn as a mark."""
    _fill(hub)
    listed = [
        {"label": "auc", "x_label": "Global Rounds", "series": 1, "points": 1},
        {"label": "dice", "x_label": "Global Rounds", "series": 1, "points": 1},
        {"label": "loss", "x_label": "Global Rounds", "series": 2, "points": 8},
        {"label": "loss", "x_label": "Step", "series": 1, "points": 1},
    ]
    assert hub.read("/plots") == listed
    whole = hub.read("/story")["plots"]
    for plot in whole:
        for series in plot["series"]:
            series |= {"points": [], "total": len(series["points"])}
    assert hub.read("/story?plots=listed")["plots"] == whole
    assert hub.read("/story?plots=few")["plots"] == hub.read("/story")["plots"]


def test_a_plot_is_that_of_the_story(hub: RunningHub) -> None:
    """Page and report draw the same points under the same names; gaps and refused values cut the line."""
    _fill(hub)
    for told in hub.read("/story")["plots"]:
        found = _plot(hub, label=told["label"], x_label=told["x_label"])
        breaks = {one["slot"]: one.pop("breaks") for one in found["series"]}
        totals = {one["slot"]: one.pop("total") for one in found["series"]}
        assert totals == {one["slot"]: len(one["points"]) for one in told["series"]}
        for one in told["series"]:
            assert (one.pop("breaks"), one.pop("total")) == ([], None)
        assert found == told
        if (told["label"], told["x_label"]) == ("loss", "Global Rounds"):
            assert breaks == {"Trust_1": [4], "Trust_2": [2]}
            assert found["series"][0]["points"][-1] == {"x": 5.0, "y": None, "round": 5}


def test_a_plot_tells_what_an_earlier_attempt_had_measured(hub: RunningHub) -> None:
    """A round that was begun again is drawn by its last attempt; what the first had measured is beside it, not lost."""
    begun = {"event_type": "ROUND_STARTED", "global_round": 1}
    hub.batch(
        item("event", **begun, seconds=0),
        metric("Trust_1", "loss", 0.9, 1, seconds=1),
        item("event", **begun, seconds=2),
        metric("Trust_1", "loss", 0.8, 1, seconds=3),
    )
    (series,) = _plot(hub, label="loss")["series"]
    assert series["points"] == [{"x": 1.0, "y": 0.8, "round": 1}]
    assert series["earlier"] == [{"x": 1.0, "y": 0.9, "round": 1}]
    (told,) = hub.read("/story")["plots"]
    assert told["series"][0]["earlier"] == series["earlier"]


@pytest.mark.parametrize(
    ("read", "index"), [(superseded, "ix_fl_logs_starts"), (refused_values, "ix_fl_logs_failures")]
)
def test_what_a_page_waits_for_is_read_from_an_index(
    hub: RunningHub, read: Callable[[UUID, Session], object], index: str
) -> None:
    """A run of a hundred sites has a hundred thousand lines: its page shows no plot later for them.

    The databases use an index of some rows only for a query that is spelt as it is.
    """
    _fill(hub)
    asked: list[tuple[str, Any]] = []

    def note(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if "FROM fl_logs" in statement:
            asked.append((statement, parameters))

    engine = hub.world.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        with database.reading(engine) as session:
            read(hub.world.model_id, session)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    ((statement, parameters),) = asked
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            # Of a table of ten rows it would read all.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
        plan = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
    assert index in str(plan), plan


def test_a_long_plot_keeps_its_spike_and_says_how_much_it_shows(hub: RunningHub) -> None:
    """Above the number of points that is asked for: extremes and ends, each a stored point; a window gives them raw."""
    for first in range(0, 3000, 500):
        hub.batch(
            *(
                metric("Trust_1", "loss", 9e9 if n == 1234 else math.sin(n), 1, x_label="Step", x_value=float(n))
                for n in range(first, first + 500)
            )
        )
    (series,) = _plot(hub, label="loss", x_label="Step", points=100)["series"]
    assert series["total"] == 3000
    assert len(series["points"]) <= 100
    assert {"x": 1234.0, "y": 9e9, "round": 1} in series["points"]
    assert (series["points"][0]["x"], series["points"][-1]["x"]) == (0.0, 2999.0)
    assert all(point["y"] in (9e9, math.sin(point["x"])) for point in series["points"])
    (part,) = _plot(hub, label="loss", x_label="Step", points=100, **{"from": 1230, "to": 1240})["series"]
    assert [point["x"] for point in part["points"]] == [float(n) for n in range(1229, 1242)]
    assert (part["before"], part["total"], part["after"]) == (1229, 13, 3000 - 1242)


def test_two_trusts_that_held_a_slot_in_turn_are_two_series(hub: RunningHub) -> None:
    """The curve of one hospital is not continued with another's values."""
    from sqlalchemy import text

    hub.batch(metric("Trust_1", "loss", 0.5, 1))
    with hub.world.engine.begin() as connection:
        for slot, number in (("Trust_1", 9), ("Trust_2", 1), ("Trust_9", 2)):
            connection.execute(
                text("UPDATE fl_kit_slot SET slot_name = :to, slot_number = :n WHERE slot_name = :slot"),
                {"slot": slot, "to": f"Trust_{number}", "n": number + 100},
            )
    hub.batch(metric("Trust_1", "loss", 0.4, 2))
    assert [(one["slot"], one["name"], len(one["points"])) for one in _plot(hub, label="loss")["series"]] in (
        [("Trust_1", "GSTT", 1), ("Trust_1", "KCH", 1)],
        [("Trust_1", "KCH", 1), ("Trust_1", "GSTT", 1)],
    )
    assert len(hub.read("/story")["plots"][0]["series"]) == 2


def test_a_round_that_began_again_is_drawn_once_and_exported_twice(hub: RunningHub) -> None:
    """What was measured again replaces the first attempt on the page; the CSV has every row, with its attempt."""
    started = [item("event", event_type="ROUND_STARTED", global_round=2, seconds=s) for s in (10, 30)]
    hub.batch(
        metric("Trust_1", "loss", 0.9, 1, seconds=5),
        started[0],
        metric("Trust_1", "loss", 0.8, 2, seconds=20),
        started[1],
        metric("Trust_1", "loss", 0.7, 2, seconds=40),
    )
    assert [p["y"] for p in _plot(hub, label="loss")["series"][0]["points"]] == [0.9, 0.7]
    assert [p["yValue"] for p in hub.read("/metrics")[0]["metrics"][0]["data"]] == [0.9, 0.7]
    assert hub.read("/plots")[0]["points"] == 2
    assert [(row["value"], row["attempt"]) for row in _rows(hub)] == [("0.9", "1"), ("0.8", "1"), ("0.7", "2")]


def test_streamed_metrics_are_those_of_the_service(hub: RunningHub) -> None:
    """The route builds its text by itself, number by number: it says exactly what `get_metrics` returns."""
    _fill(hub)
    values = [0.1 + 0.2, 1e-320, -1.7e308, 2.0**53 + 2, 5e-324, 1 / 3, -0.0, 123456789.123456789]
    hub.batch(*(metric("Trust_2", 'we"ird\n', value, n) for n, value in enumerate(values)))
    text = hub.model("GET", "/metrics").text
    with hub.world.session() as session:
        expected = [plot.model_dump(mode="json") for plot in get_metrics(hub.world.model_id, session)]
    assert json.loads(text) == expected
    (odd,) = [plot for plot in expected if plot["yLabel"] == 'we"ird\n']
    assert [point["yValue"] for point in odd["metrics"][0]["data"]] == values


def test_the_csv_has_every_row_and_no_formula(hub: RunningHub) -> None:
    """Numbers come back as they were; what a site calls its metric is not run by a spreadsheet."""
    _fill(hub)
    hub.batch(metric("Trust_2", '=cmd|"/c calc"!A1', 0.1 + 0.2, 7, task="validate"))
    rows = _rows(hub)
    assert len(rows) == 10
    assert rows[0] == {
        "label": "loss",
        "x_label": "Global Rounds",
        "slot": "Trust_1",
        "trust": "Guy's and St Thomas'",
        "round": "1",
        "x_value": "1.0",
        "value": "1.0",
        "occurred_at": "2026-03-01T12:00:00+00:00",
        "attempt": "1",
        "task": "",
        "stage": "",
    }
    assert (rows[-1]["label"], float(rows[-1]["value"]), rows[-1]["task"]) == (
        '\'=cmd|"/c calc"!A1',
        0.1 + 0.2,
        "validate",
    )
    assert [row["label"] for row in _rows(hub, label="loss", x_label="Step")] == ["loss"]


@pytest.mark.parametrize("path", ["/plots", "/plot?label=loss", "/metrics", "/metrics.csv"])
def test_absent_and_deleted_models_are_told_apart(hub: RunningHub, path: str) -> None:
    """404 in the contract's words for what never was, 400 for what is deleted, also where an answer is streamed."""
    absent = uuid4()
    response = hub.call("GET", f"/model/{absent}{path}")
    assert (response.status_code, response.json()["detail"]) == (404, f"Model ID: {absent} does not exist")
    hub.model("DELETE")
    assert hub.model("GET", path).status_code == 400


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("label=none", 404),
        ("label=loss&points=1", 422),
        ("label=loss&points=100001", 422),
        ("label=loss&from=nan", 422),
        ("label=", 422),
        ("", 422),
        ("label=loss%00", 422),
    ],
)
def test_a_plot_that_is_not_there_and_a_question_that_is_none(hub: RunningHub, query: str, status: int) -> None:
    """Whatever is asked for is answered with a reason, never with a failure of the hub."""
    hub.batch(metric("Trust_1", "loss", 0.5, 1))
    assert hub.model("GET", f"/plot?{query}").status_code == status


def test_only_what_validation_measured_scores_a_rounds_model(hub: RunningHub) -> None:
    """A site that logs while it trains and is lost before it has validated is still waited for, and found missing."""
    hub.batch(
        metric("Trust_1", "loss", 0.5, 1, task="validate"),
        metric("Trust_2", "loss", 0.5, 1, task="train"),
        metric("Trust_2", "train_loss", 0.5, 1, task="train"),
        metric("Trust_2", "loss", 0.5, 1),
        metric("Trust_2", "loss", 0.5, 2, task="validate"),
    )
    with hub.world.session() as session:
        assert scored_in(hub.world.model_id, session) == {1: {"Trust_1"}, 2: {"Trust_2"}}


def test_counts_are_those_of_the_rows_however_much_was_counted_before(hub: RunningHub) -> None:
    """Most rows are counted once and for all, the newest when somebody asks: the sum is what there is."""
    for number in range(1, 4):
        for slot in ("Trust_1", "Trust_2"):
            hub.batch(*(metric(slot, label, 0.5, number, task="validate") for label in ("loss", "dice")))
        with hub.world.session() as session:
            if number < 3:
                assert not tallies.roll(hub.world.model_id, session, least=5)
                assert tallies.roll(hub.world.model_id, session, least=4)
                assert not tallies.roll(hub.world.model_id, session, least=1)
            assert [plot["points"] for plot in hub.read("/plots")] == [2 * number] * 2
            counted = {(one.plot.label, one.slot): one.points for one in stored_series(hub.world.model_id, session)}
            assert counted == {(label, slot): number for label in ("loss", "dice") for slot in ("Trust_1", "Trust_2")}
            assert set(scored_in(hub.world.model_id, session)) == set(range(1, number + 1))
    assert all(row.points == 2 for row in hub.world.rows(FlMetricSeries))
    assert len(hub.read("/metrics")) == 2


@pytest.mark.parametrize("most", [3, 1000])
def test_what_is_drawn_and_exported_is_the_same_however_much_was_packed(
    most: int, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks hold the very numbers, trusts and slots; a page that is open, one that is opened, and exports agree."""
    monkeypatch.setattr(tallies, "_BLOCK_ROWS", most)
    _fill(hub)
    begun = {"event_type": "ROUND_STARTED", "global_round": 2}
    hub.batch(item("event", **begun, seconds=0), metric("Trust_1", "loss", 0.1 + 0.2, 2, seconds=1))
    hub.batch(item("event", **begun, seconds=2), metric("Trust_1", "loss", 1e-320, 2, seconds=3))
    for more in range(3):
        hub.batch(metric("Trust_2", "loss", -1.7e308, 6 + more))
        told = _all_of(hub)
        with hub.world.session() as session:
            while tallies.roll(hub.world.model_id, session, least=1):
                pass
        assert _all_of(hub) == told
        with running_hub(hub.world) as opened_later:
            assert _all_of(opened_later) == told
    sizes = sorted(block.last_id - block.first_id + 1 for block in hub.world.rows(FlMetricBlock))
    assert sizes == ([1, 1, 3, 3, 3, 3] if most == 3 else [1, 1, 12])


def _all_of(hub: RunningHub) -> list[Any]:
    plots = [_plot(hub, label="loss"), _plot(hub, label="loss", x_label="Step"), _plot(hub, label="dice")]
    return [*plots, hub.read("/metrics"), _rows(hub), hub.read("/story")["plots"]]


def test_a_hub_counts_by_itself(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does every few seconds includes the runs that were just heard of."""
    monkeypatch.setattr(tallies.roll, "__kwdefaults__", {"least": 1})
    hub.batch(metric("Trust_1", "loss", 0.5, 1))
    look_after(hub.world.engine, HubSettings(_env_file=None))
    assert [row.points for row in hub.world.rows(FlMetricSeries)] == [1]
