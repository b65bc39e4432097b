"""The three FL routes over a real socket, in both dialects, on both databases."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from flip_fl.hub.tables import EventLedger, FlLog, FlMetric, Model, ModelsAudit, StatusHistory
from flip_fl.hub.words import STATUS_SENTENCES
from flip_fl.values import HubDialect, ModelStatus
from flip_fl.wire import log_body, metric_body
from tests.support.hub import RunningHub

OLDER = {"trust": "Trust_1", "globalRound": 2, "label": "loss", "result": 0.5}
CURRENT = {"fl_client_name": "Trust_1", "global_round": 2, "label": "loss", "result": 0.5}


class TestStatus:
    def test_a_status_is_set_and_told_in_one_sentence(self, hub: RunningHub) -> None:
        """Each status is stored, answered word for word, and written once as a row of the hub's own."""
        response = hub.model("PUT", "/status/INITIATED")
        assert (response.status_code, response.json()) == (200, {"success": "status set"})
        assert hub.read("/status") == {"status": "INITIATED", "deleted": False}
        (row,) = hub.world.rows(FlLog)
        assert (row.log, row.trust_id, row.fl_client_name) == (STATUS_SENTENCES[ModelStatus.INITIATED], None, None)

    @pytest.mark.parametrize("spelling", ["RUNNING", "TRAINING_STARTED"])
    def test_both_spellings_of_running_are_one(self, hub: RunningHub, spelling: str) -> None:
        """An older sender's TRAINING_STARTED is stored as RUNNING."""
        assert hub.model("PUT", f"/status/{spelling}").status_code == 200
        assert hub.read("/status")["status"] == "RUNNING"

    @pytest.mark.parametrize("status", list(ModelStatus))
    def test_success_says_whether_it_is_a_good_end(self, hub: RunningHub, status: ModelStatus) -> None:
        """ERROR, STOPPED and RESULTS_UPLOAD_FAILED are failures in the feed; PENDING writes no row at all."""
        if status is ModelStatus.PENDING:
            hub.model("PUT", "/status/INITIATED")
        hub.model("PUT", f"/status/{status}")
        last = hub.world.rows(FlLog)[-1]
        if status is ModelStatus.PENDING:
            assert last.status is ModelStatus.INITIATED
        else:
            assert last.status is status
            bad = (ModelStatus.ERROR, ModelStatus.STOPPED, ModelStatus.RESULTS_UPLOAD_FAILED)
            assert last.success is (status not in bad)

    def test_an_unknown_model_is_404(self, hub: RunningHub) -> None:
        """The sender learns that nobody will ever read this run."""
        absent = uuid4()
        response = hub.call("PUT", f"/model/{absent}/status/RUNNING")
        assert (response.status_code, response.json()["detail"]) == (404, f"Model ID: {absent} does not exist")

    @pytest.mark.parametrize("status", ["running", "DONE", "RESULTS_UPLOADED%20"])
    def test_an_unknown_status_is_422(self, hub: RunningHub, status: str) -> None:
        """A status the hub does not know, lower case included, changes nothing."""
        assert hub.model("PUT", f"/status/{status}").status_code == 422
        assert hub.read("/status")["status"] == "PENDING"

    def test_a_model_id_that_is_no_uuid_is_422(self, hub: RunningHub) -> None:
        """A malformed id never reaches the database."""
        assert hub.call("PUT", "/model/nonsense/status/RUNNING").status_code == 422

    @pytest.mark.parametrize("late", ["PREPARED", "RUNNING", "ERROR", "RESULTS_UPLOADED", "RESULTS_UPLOAD_FAILED"])
    def test_after_stopped_a_late_status_is_200_and_nothing_else(self, hub: RunningHub, late: str) -> None:
        """A late report is no error for its sender, and leaves no log, audit or history row."""
        hub.model("PUT", "/status/STOPPED")
        before = [len(hub.world.rows(table)) for table in (FlLog, ModelsAudit, StatusHistory)]
        response = hub.model("PUT", f"/status/{late}")
        assert (response.status_code, response.json()) == (200, {"success": "status set"})
        assert hub.read("/status")["status"] == "STOPPED"
        assert [len(hub.world.rows(table)) for table in (FlLog, ModelsAudit, StatusHistory)] == before

    def test_a_repeated_status_is_told_once(self, hub: RunningHub) -> None:
        """A status sent again after a lost answer does not double its sentence."""
        for _ in range(3):
            assert hub.model("PUT", "/status/RUNNING").status_code == 200
        assert len(hub.logs()) == 1

    def test_a_deleted_model_is_400(self, hub: RunningHub) -> None:
        """What is deleted takes no more reports."""
        assert hub.model("DELETE").status_code == 204
        assert hub.model("PUT", "/status/RUNNING").status_code == 400
        assert hub.read("/status") == {"status": "PENDING", "deleted": True}


class TestMetrics:
    @pytest.mark.parametrize("body", [OLDER, CURRENT, OLDER | CURRENT], ids=["older", "current", "both"])
    def test_every_spelling_stores_the_same_metric(self, hub: RunningHub, body: dict[str, Any]) -> None:
        """A sender of either dialect, or of both at once, is understood."""
        response = hub.model("POST", "/metrics", json=body)
        assert (response.status_code, response.content) == (204, b"")
        (row,) = hub.world.rows(FlMetric)
        assert (row.trust_id, row.fl_client_name) == (hub.world.guys, "Trust_1")
        assert (row.global_round, row.label, row.result) == (2, "loss", 0.5)
        assert (row.x_label, row.x_value) == ("Global Rounds", 2.0)

    @pytest.mark.parametrize("dialect", list(HubDialect))
    def test_what_our_own_sender_writes_is_understood(self, hub: RunningHub, dialect: HubDialect) -> None:
        """Both ends of the wire are held together by one test."""
        body = metric_body(dialect, client="Trust_2", global_round=1, label="auc", result=0.9)
        assert hub.model("POST", "/metrics", json=body).status_code == 204
        assert [row.trust_id for row in hub.world.rows(FlMetric)] == [hub.world.kings]

    def test_an_own_axis_is_kept(self, hub: RunningHub) -> None:
        """x_label and x_value are the plot's coordinate; the round stays as provenance."""
        assert hub.model("POST", "/metrics", json=CURRENT | {"x_label": "epoch", "x_value": 7.5}).status_code == 204
        (row,) = hub.world.rows(FlMetric)
        assert (row.x_label, row.x_value, row.global_round) == ("epoch", 7.5, 2)

    def test_round_zero_is_outside_any_round(self, hub: RunningHub) -> None:
        """A final evaluation counts as round 0."""
        assert hub.model("POST", "/metrics", json=CURRENT | {"global_round": 0}).status_code == 204

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
    @pytest.mark.parametrize("key", ["result", "x_value"])
    def test_what_is_not_finite_is_422_without_an_echo(self, hub: RunningHub, key: str, number: str) -> None:
        """A NaN is refused as 422, never a 500, and the answer does not repeat what was sent."""
        start = '{"fl_client_name": "Trust_1", "global_round": 1, "label": "canary-label", "result": 0.5'
        body = f'{start}, "{key}": {number}}}'
        response = hub.model("POST", "/metrics", data=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422
        assert key in response.text
        for echoed in (number, "canary", "nan", "inf", "input"):
            assert echoed not in response.text.replace("finite", "")
        assert hub.world.rows(FlMetric) == []

    @pytest.mark.parametrize(
        "change",
        [
            {"global_round": -1},
            {"x_label": ""},
            {"x_label": "x" * 65},
            {"label": "a\x00b"},
            {"result": "text"},
            {"result": None},
            {"fl_client_name": None},
        ],
        ids=str,
    )
    def test_values_outside_the_contract_are_422(self, hub: RunningHub, change: dict[str, Any]) -> None:
        """Bounds of the contract are kept at the hub, so that every reader can rely on them."""
        assert hub.model("POST", "/metrics", json=CURRENT | change).status_code == 422

    def test_an_x_label_of_64_characters_passes(self, hub: RunningHub) -> None:
        """The longest permitted axis name is stored whole."""
        assert hub.model("POST", "/metrics", json=CURRENT | {"x_label": "x" * 64}).status_code == 204

    def test_a_display_name_is_no_client_in_the_current_dialect(self, hub: RunningHub) -> None:
        """Slot names only: a trust's own name must not pass as `fl_client_name`."""
        name = "King's College"
        response = hub.model("POST", "/metrics", json=CURRENT | {"fl_client_name": name})
        expected = f"FL client '{name}' could not be resolved to a trust (model: {hub.world.model_id})"
        assert (response.status_code, response.json()["detail"]) == (400, expected)

    @pytest.mark.parametrize(("trust", "who"), [("Trust_2", "kings"), ("King's College", "kings")])
    def test_an_older_trust_is_a_slot_else_a_trusts_name(self, hub: RunningHub, trust: str, who: str) -> None:
        """Older senders say the slot or the trust's own name; both are understood."""
        assert hub.model("POST", "/metrics", json=OLDER | {"trust": trust}).status_code == 204
        assert [row.trust_id for row in hub.world.rows(FlMetric)] == [getattr(hub.world, who)]

    def test_a_slot_wins_over_a_trust_of_that_name(self, hub: RunningHub) -> None:
        """Where a trust is named like another one's slot, the slot decides."""
        from flip_fl.hub import admin

        with hub.world.session() as session:
            admin.create_trust(session, "Trust_2")
        assert hub.model("POST", "/metrics", json=OLDER | {"trust": "Trust_2"}).status_code == 204
        assert [row.trust_id for row in hub.world.rows(FlMetric)] == [hub.world.kings]

    @pytest.mark.parametrize("client", ["Trust_4", "Trust_99"])
    def test_an_unassigned_or_unknown_slot_is_400(self, hub: RunningHub, client: str) -> None:
        """A slot nobody holds is nobody."""
        response = hub.model("POST", "/metrics", json=CURRENT | {"fl_client_name": client})
        assert response.status_code == 400
        assert "could not be resolved to a trust" in response.json()["detail"]

    def test_a_trust_that_takes_no_part_is_400(self, hub: RunningHub) -> None:
        """A hospital outside of the model cannot add to its curves."""
        response = hub.model("POST", "/metrics", json=CURRENT | {"fl_client_name": "Trust_3"})
        expected = f"The trust: Outsider is not associated with model: {hub.world.model_id}"
        assert (response.status_code, response.json()["detail"]) == (400, expected)

    def test_an_unknown_model_reads_as_not_associated(self, hub: RunningHub) -> None:
        """The contract's answer for a model that is not there."""
        absent = uuid4()
        response = hub.call("POST", f"/model/{absent}/metrics", json=CURRENT)
        assert response.status_code == 400
        assert response.json()["detail"].endswith(f"is not associated with model: {absent}")

    def test_a_deleted_model_is_400(self, hub: RunningHub) -> None:
        """What is deleted takes no more metrics."""
        hub.model("DELETE")
        assert hub.model("POST", "/metrics", json=CURRENT).status_code == 400
        assert hub.world.rows(FlMetric) == []

    def test_two_posts_without_a_key_are_two_points(self, hub: RunningHub) -> None:
        """Only a key tells a copy from a second measurement."""
        for _ in range(2):
            hub.model("POST", "/metrics", json=CURRENT)
        assert len(hub.world.rows(FlMetric)) == 2


class TestLogs:
    def test_a_row_of_a_client(self, hub: RunningHub) -> None:
        """Free text of a client is stored under its trust and answered word for word."""
        response = hub.model("POST", "/logs", json={"fl_client_name": "Trust_1", "log": "hello"})
        assert (response.status_code, response.json()) == (200, {"detail": "Created"})
        (row,) = hub.read("/logs")
        assert (row["trustName"], row["trustCode"], row["log"], row["success"]) == (
            "Guy's and St Thomas'",
            "GSTT",
            "hello",
            True,
        )

    def test_a_row_of_the_hub(self, hub: RunningHub) -> None:
        """Without a client the row is the hub's own."""
        hub.model("POST", "/logs", json={"log": "hello", "success": False})
        (row,) = hub.read("/logs")
        assert (row["trustName"], row["success"]) == (None, False)

    @pytest.mark.parametrize("dialect", list(HubDialect))
    def test_what_our_own_sender_writes_is_a_failure_report(self, hub: RunningHub, dialect: HubDialect) -> None:
        """In every dialect a failure report stays a failure of its client."""
        hub.model("POST", "/logs", json=log_body(dialect, client="Trust_1", log="boom", success=False))
        (row,) = hub.world.rows(FlLog)
        assert (row.success, row.trust_id, row.log) == (False, hub.world.guys, "boom")

    @pytest.mark.parametrize("trust", ["Trust_2", "King's College"])
    def test_an_older_body_is_a_failure_report(self, hub: RunningHub, trust: str) -> None:
        """`{trust, log}` is what its only sender means: a failure of that client, not a successful row of nobody."""
        assert hub.model("POST", "/logs", json={"trust": trust, "log": "boom"}).status_code == 200
        (row,) = hub.world.rows(FlLog)
        assert (row.success, row.trust_id, row.log) == (False, hub.world.kings, "boom")

    @pytest.mark.parametrize(
        ("client", "why"),
        [("Trust_99", "unknown FL kit slot"), ("Trust_3", "not associated with this model")],
    )
    def test_an_unattributed_failure_is_kept(self, hub: RunningHub, client: str, why: str) -> None:
        """A traceback is never thrown away: it becomes a row of the model that says whose it claimed to be."""
        body = {"fl_client_name": client, "log": "Traceback…", "success": False}
        assert hub.model("POST", "/logs", json=body).status_code == 200
        (row,) = hub.world.rows(FlLog)
        assert (row.trust_id, row.fl_client_name, row.success) == (None, None, False)
        assert row.log == f"[unattributed client '{client}' — {why}] Traceback…"

    @pytest.mark.parametrize("client", ["Trust_99", "Trust_3"])
    def test_an_unattributed_success_is_400(self, hub: RunningHub, client: str) -> None:
        """Only failures are worth keeping from somebody who cannot be named."""
        assert hub.model("POST", "/logs", json={"fl_client_name": client, "log": "fine"}).status_code == 400

    @pytest.mark.parametrize("client", ["Trust_99", "Trust_3"])
    def test_a_typed_event_of_an_unattributed_client_is_400(self, hub: RunningHub, client: str) -> None:
        """An event drives the page, so it needs a participant; success false does not help it."""
        body = {"fl_client_name": client, "event_type": "CLIENT_RESULT_RECEIVED", "global_round": 1, "success": False}
        assert hub.model("POST", "/logs", json=body).status_code == 400
        assert hub.world.rows(FlLog) == []

    def test_an_unknown_model_is_404(self, hub: RunningHub) -> None:
        """A row, failure or not, needs a model."""
        absent = uuid4()
        for body in ({"log": "x"}, {"log": "x", "success": False, "fl_client_name": "Trust_1"}):
            assert hub.call("POST", f"/model/{absent}/logs", json=body).status_code == 404

    def test_a_deleted_model_is_400(self, hub: RunningHub) -> None:
        """What is deleted takes no more rows."""
        hub.model("DELETE")
        for body in ({"log": "x"}, {"trust": "Trust_1", "log": "x"}, {"fl_client_name": "Trust_1", "log": "x"}):
            assert hub.model("POST", "/logs", json=body).status_code == 400

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"log": "x", "event_type": "E", "global_round": 1},
            {"event_type": " ", "global_round": 1},
            {"event_type": "E" * 65, "global_round": 1},
            {"event_type": "ROUND_STARTED"},
            {"event_type": "ROUND_STARTED", "global_round": 0},
            {"event_type": "ROUND_STARTED", "global_round": 2**31},
            {"event_type": "QUEUE_POSITION", "details": {"position": 1}},
            {"event_type": "E", "global_round": 1, "details": [1]},
            {"event_type": "E", "global_round": 1, "details": {"a": "x" * 8192}},
        ],
        ids=lambda body: str(body)[:60],
    )
    def test_bodies_outside_the_contract_are_422(self, hub: RunningHub, body: dict[str, Any]) -> None:
        """Exactly one of log and event_type, a round where one is needed, bounded details."""
        response = hub.model("POST", "/logs", json=body)
        assert response.status_code == 422
        assert "input" not in response.json()["detail"][0]

    def test_details_of_exactly_8192_bytes_pass(self, hub: RunningHub) -> None:
        """The bound is the contract's, to the byte."""
        details = {"a": "x" * (8192 - len('{"a":""}'))}
        body = {"event_type": "E", "global_round": 1, "details": details}
        assert hub.model("POST", "/logs", json=body).status_code == 200

    def test_events_are_worded_when_they_are_served(self, hub: RunningHub) -> None:
        """The sender reports facts; people read sentences."""
        for body in (
            {"event_type": "ROUND_STARTED", "global_round": 1, "details": {"total_rounds": 5}},
            {
                "event_type": "CLIENT_RESULT_RECEIVED",
                "global_round": 1,
                "fl_client_name": "Trust_1",
                "details": {"size_bytes": 2_300_000},
            },
            {"event_type": "ROUND_AGGREGATED", "global_round": 1, "details": {"returned": 2, "expected": 2}},
            {
                "event_type": "JOB_WAITING_FOR_RESOURCES",
                "fl_client_name": "Trust_2",
                "details": {"attempt": 1, "max_attempts": 3, "final": False, "requested": {"gpu": 1}},
            },
            {"event_type": "SOMETHING_NEW", "global_round": 4, "details": {"a": 1}},
        ):
            assert hub.model("POST", "/logs", json=body).status_code == 200
        assert hub.logs() == [
            "Round 1 of 5 started",
            "Round 1 · GSTT returned weights, 2.3 MB",
            "Round 1 aggregated: 2 of 2 sites returned",
            'Waiting for resources at KCH, attempt 1 of 3 (requested: {"gpu": 1})',
            'SOMETHING_NEW · round 4 · {"a": 1}',
        ]


class TestIdempotency:
    def _send(self, hub: RunningHub, what: str, key: str) -> Any:
        headers = {"Idempotency-Key": key}
        if what == "status":
            return hub.model("PUT", "/status/RUNNING", headers=headers)
        body = CURRENT if what == "metrics" else {"fl_client_name": "Trust_1", "log": "boom", "success": False}
        return hub.model("POST", f"/{what}", json=body, headers=headers)

    @pytest.mark.parametrize("what", ["status", "metrics", "logs"])
    @pytest.mark.parametrize("key", [str(uuid4()), "any text"], ids=["uuid", "text"])
    def test_a_key_is_stored_once_and_echoed_every_time(self, hub: RunningHub, what: str, key: str) -> None:
        """A re-sent post is answered like the first, stores nothing, and its sender sees that keys are honoured."""
        first, second = self._send(hub, what, key), self._send(hub, what, key)
        assert first.status_code == second.status_code < 300
        assert first.content == second.content
        assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] == key
        assert len(hub.world.rows(FlMetric)) + len(hub.world.rows(FlLog)) == 1
        assert len(hub.world.rows(EventLedger)) == 1

    def test_without_a_key_nothing_is_echoed(self, hub: RunningHub) -> None:
        """A sender must not believe that its posts are kept once when they are not."""
        response = hub.model("POST", "/metrics", json=CURRENT)
        assert "Idempotency-Key" not in response.headers

    def test_a_refused_post_keeps_its_key_free(self, hub: RunningHub) -> None:
        """What was refused can be sent again, mended, under the same key."""
        headers = {"Idempotency-Key": "k"}
        refused = hub.model("POST", "/metrics", json=CURRENT | {"fl_client_name": "Trust_99"}, headers=headers)
        assert refused.status_code == 400
        assert hub.model("POST", "/metrics", json=CURRENT, headers=headers).status_code == 204
        assert len(hub.world.rows(FlMetric)) == 1

    def test_the_other_spelling_may_follow_under_the_same_key(self, hub: RunningHub) -> None:
        """A sender that gets 422 for one spelling of RUNNING sends the other under its key, and it counts."""
        headers = {"Idempotency-Key": "k"}
        assert hub.model("PUT", "/status/TRAINING_BEGUN", headers=headers).status_code == 422
        assert hub.model("PUT", "/status/TRAINING_STARTED", headers=headers).status_code == 200
        assert hub.read("/status")["status"] == "RUNNING"

    def test_one_key_on_two_models_is_two_events(self, hub: RunningHub) -> None:
        """A run cannot swallow another run's events."""
        from flip_fl.hub import admin

        with hub.world.session() as session:
            other = admin.create_model(session, "Stroke", "other")
        headers = {"Idempotency-Key": "k"}
        hub.model("PUT", "/status/RUNNING", headers=headers)
        hub.call("PUT", f"/model/{other.id}/status/RUNNING", headers=headers)
        assert {row.status for row in hub.world.rows(Model)} == {ModelStatus.RUNNING}

    def test_a_late_status_keeps_its_key_in_the_ledger(self, hub: RunningHub) -> None:
        """What came too late is remembered as such and not applied when the run is queued again."""
        hub.model("PUT", "/status/STOPPED")
        headers = {"Idempotency-Key": "k"}
        assert hub.model("PUT", "/status/RUNNING", headers=headers).status_code == 200
        (entry,) = hub.world.rows(EventLedger)
        assert (entry.applied, entry.status) == (False, ModelStatus.RUNNING)
        hub.model("PUT", "/status/INITIATED")
        hub.model("PUT", "/status/RUNNING", headers=headers)
        assert hub.read("/status")["status"] == "INITIATED"

    @pytest.mark.parametrize("key", ["k" * 256])
    def test_an_overlong_key_is_422(self, hub: RunningHub, key: str) -> None:
        """A key is a name, not a payload."""
        assert hub.model("POST", "/metrics", json=CURRENT, headers={"Idempotency-Key": key}).status_code == 422
