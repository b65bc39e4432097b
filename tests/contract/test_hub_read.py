"""The read side over a real socket: status, logs, metrics, edit, delete."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import text

from flip_fl.hub.tables import Model, ModelsAudit
from flip_fl.values import ModelAuditAction
from tests.support.hub import RunningHub, item, metric


@pytest.mark.parametrize("path", ["/metrics", "/logs", "/status", "/story"])
def test_an_absent_model_is_404(hub: RunningHub, path: str) -> None:
    """A reader is told that there is no such model, in the contract's words."""
    absent = uuid4()
    response = hub.call("GET", f"/model/{absent}{path}")
    assert (response.status_code, response.json()["detail"]) == (404, f"Model ID: {absent} does not exist")


@pytest.mark.parametrize("path", ["/metrics", "/logs", "/story"])
def test_a_deleted_model_is_400(hub: RunningHub, path: str) -> None:
    """What is deleted is not shown; only its status still says so."""
    hub.model("DELETE")
    assert hub.model("GET", path).status_code == 400
    assert hub.read("/status")["deleted"] is True


def test_log_rows_have_the_contracts_fields(hub: RunningHub) -> None:
    """Readers depend on these very names."""
    hub.batch(item("log", client="Trust_1", log="hello", global_round=3))
    (row,) = hub.read("/logs")
    needed = {"id", "modelId", "logDate", "success", "trustName", "trustCode", "globalRound", "log"}
    assert needed <= set(row)
    assert row["modelId"] == str(hub.world.model_id)
    assert row["globalRound"] == 3
    assert row["logDate"].endswith(("Z", "+00:00"))


@pytest.mark.parametrize("column", ["details", "status"])
def test_one_bad_row_degrades_and_never_fails_the_feed(hub: RunningHub, column: str) -> None:
    """A row that this version cannot read is shown as such; its neighbours stay readable."""
    hub.batch(
        item("log", log="before"),
        item("event", event_type="ROUND_STARTED", global_round=1, details={"total_rounds": 2}),
        item("log", log="after"),
    )
    with hub.world.engine.begin() as connection:
        connection.execute(text(f"UPDATE fl_logs SET {column} = 'not of this version' WHERE event_type IS NOT NULL"))
    assert hub.logs() == ["before", "[this row cannot be shown]", "after"]
    assert [row["text"] for row in hub.read("/story")["feed"]].count("[this row cannot be shown]") == 1


def test_metrics_have_the_contracts_shape(hub: RunningHub) -> None:
    """The plot, its axis, a series per trust, points in x order."""
    hub.batch(metric("Trust_2", "loss", 0.4, 2), metric("Trust_1", "loss", 0.5, 1), metric("Trust_2", "loss", 0.6, 1))
    assert hub.read("/metrics") == [
        {
            "yLabel": "loss",
            "xLabel": "Global Rounds",
            "metrics": [
                {"seriesLabel": "GSTT", "data": [{"xValue": 1.0, "yValue": 0.5}]},
                {"seriesLabel": "KCH", "data": [{"xValue": 1.0, "yValue": 0.6}, {"xValue": 2.0, "yValue": 0.4}]},
            ],
        }
    ]


def test_no_metrics_is_an_empty_list(hub: RunningHub) -> None:
    """A run that has not measured anything is no error."""
    assert hub.read("/metrics") == []


class TestEdit:
    def test_a_draft_may_be_edited(self, hub: RunningHub) -> None:
        """Name and description change together, with an audit row."""
        assert hub.model("PUT", json={"name": "n" * 75, "description": "d" * 250}).status_code == 200
        (model,) = hub.world.rows(Model)
        assert (model.name, model.description) == ("n" * 75, "d" * 250)
        assert [row.action for row in hub.world.rows(ModelsAudit)] == [ModelAuditAction.EDIT]

    @pytest.mark.parametrize(
        "body", [{"name": "n" * 76}, {"name": ""}, {"name": "n", "description": "d" * 251}, {"description": "d"}]
    )
    def test_texts_that_do_not_fit_are_422(self, hub: RunningHub, body: dict[str, str]) -> None:
        """Bounds are kept before the database is asked."""
        assert hub.model("PUT", json=body).status_code == 422

    def test_a_run_that_has_begun_is_400(self, hub: RunningHub) -> None:
        """What was run under a name keeps it."""
        hub.model("PUT", "/status/INITIATED")
        assert hub.model("PUT", json={"name": "other"}).status_code == 400
        assert hub.world.rows(Model)[0].name == "lesions"

    def test_deleted_and_absent_models_are_told_apart(self, hub: RunningHub) -> None:
        """400 for what was there, 404 for what never was."""
        assert hub.call("PUT", f"/model/{uuid4()}", json={"name": "x"}).status_code == 404
        hub.model("DELETE")
        assert hub.model("PUT", json={"name": "x"}).status_code == 400


def test_a_delete_is_flagged_once(hub: RunningHub) -> None:
    """Rows stay, the flag is set, and the second time there is nothing to delete."""
    assert hub.model("DELETE").status_code == 204
    assert hub.world.rows(Model)[0].deleted is True
    assert hub.model("DELETE").status_code == 400
    assert hub.call("DELETE", f"/model/{uuid4()}").status_code == 404
    assert [row.action for row in hub.world.rows(ModelsAudit)] == [ModelAuditAction.DELETE]
