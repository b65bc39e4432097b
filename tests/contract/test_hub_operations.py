"""What operators and their tools see of a hub: ready or not, its meters, its log."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from flip_fl.hub.observed import REQUESTS, JsonLines
from tests.support.hub import RunningHub, item, metric
from tests.support.reporting import wait_until

CANARY = "canary-7f3a"


def _root(hub: RunningHub) -> str:
    return hub.base.removesuffix("/api")


def _meters(hub: RunningHub) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = hub.root("GET", "/metrics")
    assert response.status_code == 200, response.text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_it_is_ready_while_its_database_fits(hub: RunningHub) -> None:
    """Traffic goes to a hub that can work; one whose database is of another version says so, without its address."""
    assert hub.root("GET", "/ready").json() == {"status": "ready"}
    with hub.world.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    answer = hub.root("GET", "/ready")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json() == {"detail": "The database cannot be used (E1001)."}


@pytest.mark.parametrize("path", ["/ready", "/metrics"])
def test_nobody_without_a_key_is_told(hub: RunningHub, path: str) -> None:
    """Only that the hub is there is open to everybody."""
    assert requests.get(f"{_root(hub)}{path}", timeout=10).status_code == 401
    assert requests.get(f"{_root(hub)}/health", timeout=10).status_code == 200


def test_meters_count_what_happens(hub: RunningHub) -> None:
    """Requests by route (never by address), events by outcome (each metric of an item of several), models by status."""
    before = _meters(hub)
    again = metric("Trust_1", "loss", 0.5, 1)
    two = item("metrics", client="Trust_1", global_round=1, labels=["a", "b"], results=[0.5, 0.25])
    hub.batch(item("status", status="RUNNING"), again, again, metric("Nobody", "loss", 0.5, 1), two)
    after = _meters(hub)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0) - before.get(key, 0)

    route = "/api/model/{model_id}/events"

    def counted() -> bool:
        nonlocal after
        after = _meters(hub)
        return grown("flip_hub_request_seconds_count", method="POST", route=route) > 0

    # a request is counted when its answer is out already
    wait_until(counted)
    assert grown("flip_hub_requests_total", method="POST", route=route, status="200") == 1
    assert grown("flip_hub_request_seconds_count", method="POST", route=route) == 1
    outcomes = {name: grown("flip_hub_events_total", outcome=name) for name in ("stored", "duplicate", "refused")}
    assert outcomes == {"stored": 4, "duplicate": 1, "refused": 1}
    assert after["flip_hub_models", (("status", "RUNNING"),)] == 1
    assert after["flip_hub_database_bytes", ()] > 10_000
    assert not [labels for _, labels in after if str(hub.world.model_id) in str(labels)]


def test_paths_that_are_no_routes_are_one_meter(hub: RunningHub) -> None:
    """Whoever tries a thousand addresses does not fill the memory of the hub."""
    for number in range(20):
        hub.call("GET", f"/nothing/{number}")
    assert not [labels for _, labels in _meters(hub) if "/nothing" in str(labels)]


def test_a_request_is_one_line_of_json_without_what_was_sent(hub: RunningHub, caplog: pytest.LogCaptureFixture) -> None:
    """A log may be read by many: no body, query, key or header is in it, and no line can be made up."""
    caplog.set_level(logging.INFO, logger=REQUESTS)
    hub.model("POST", f"/logs?x={CANARY}", json={"log": CANARY}, headers={"X-Other": CANARY})
    hub.call("GET", f"/plain%0a%22injected%22/{'x' * 500}")

    def told() -> dict[str, str]:
        lines = [JsonLines().format(record) for record in caplog.records if record.name == REQUESTS]
        return {json.loads(line)["path"]: line for line in lines}

    # a line is written when its answer is out already, so neither need be there, nor in the order of the requests
    logs = f"/api/model/{hub.world.model_id}/logs"
    wait_until(lambda: logs in told() and any("/plain" in path for path in told()))
    lines = told()
    assert not [line for line in lines.values() if CANARY in line or hub.key in line or "\n" in line]
    stored = json.loads(lines[logs])
    (odd,) = (json.loads(line) for path, line in lines.items() if "/plain" in path)
    assert (stored["method"], stored["status"]) == ("POST", 200)
    assert (odd["status"], len(odd["path"])) == (404, 200)


def test_an_exception_is_logged_by_type_and_place() -> None:
    """A library's own text may quote a row or a password."""
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "f", 1, "it failed", (), (type(error), error, error.__traceback__)
        )
    line: dict[str, Any] = json.loads(JsonLines().format(record))
    assert (line["exception"], line["message"]) == ("ValueError", "it failed")
    assert re.search(r"test_hub_operations.py:\d+$", line["raised_at"])
    assert CANARY not in json.dumps(line)
