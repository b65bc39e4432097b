"""Whatever is sent to the hub, it answers with a refusal and stays up; it never breaks."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.hub import RunningHub, item

_text = st.text(st.characters(), max_size=80) | st.sampled_from(["Trust_1", "Trust_99", "a\x00b", "\ud800", ""])
_number = (
    st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from([0, 1, 2**31 - 1, 2**31, 1e308, float("nan"), float("inf")])
)
_scalar = st.none() | st.booleans() | _number | _text
_anything = st.recursive(
    _scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3), max_leaves=8
)
_facts = st.fixed_dictionaries(
    {},
    optional={
        "fl_client_name": _anything,
        "trust": _anything,
        "client": st.just("Trust_1") | _anything,
        "global_round": st.just(1) | _anything,
        "globalRound": _anything,
        "label": st.just("loss") | _anything,
        "result": st.just(0.5) | _anything,
        "x_value": _anything,
        "x_label": _anything,
        "log": _anything,
        "success": st.booleans() | _anything,
        "event_type": st.sampled_from(["ROUND_STARTED", "CLIENT_RESULT_RECEIVED", "RESULTS_STORED"]) | _anything,
        "details": st.dictionaries(_text, _anything, max_size=4) | _anything,
        "status": st.sampled_from(["RUNNING", "ERROR"]) | _anything,
        "reason": _anything,
        "task": _anything,
        "stage": _anything,
        "at": st.datetimes().map(str) | _anything,
    },
)
_quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def _post(hub: RunningHub, path: str, body: Any) -> int:
    # `allow_nan` writes what no JSON writer should, which is what a careless sender does.
    response = hub.model(
        "POST", path, data=json.dumps(body, allow_nan=True), headers={"Content-Type": "application/json"}
    )
    assert response.status_code < 500, response.text
    return response.status_code


@_quick
@given(body=_facts | _anything)
def test_no_body_breaks_the_single_routes(hub: RunningHub, body: Any) -> None:
    """Any JSON at all gets a contract's answer, never a 5xx, and what was stored can be read."""
    for path in ("/metrics", "/logs"):
        assert _post(hub, path, body) in (200, 204, 400, 422)
    for path in ("/metrics", "/logs", "/story"):
        assert hub.model("GET", path).status_code == 200


@_quick
@given(facts=_facts, kind=st.sampled_from(["status", "metric", "log", "event"]))
def test_no_item_breaks_the_batch_route(hub: RunningHub, facts: dict[str, Any], kind: str) -> None:
    """Any item gets an outcome of its own, its neighbour is stored, and what was stored can be read."""
    strange = {**item(kind), **facts}
    neighbour = item("log", log="neighbour")
    body = json.dumps({"items": [strange, neighbour]}, allow_nan=True)
    response = hub.model("POST", "/events", data=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text
    first, second = response.json()["results"]
    assert first["outcome"] in ("stored", "refused")
    assert second["outcome"] == "stored"
    for path in ("/metrics", "/logs", "/story"):
        assert hub.model("GET", path).status_code == 200
