"""The lifecycle under every order of what an engine may say."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import given, settings

from flip_fl.reporting.lifecycle import Lifecycle
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.reporter import Reporter

RANK = {"INITIATED": 1, "PREPARED": 2, "RUNNING": 3, "ERROR": 4, "STOPPED": 4, "RESULTS_UPLOADED": 4}
RANK["RESULTS_UPLOAD_FAILED"] = 4

CALLS: dict[str, Callable[[Lifecycle], object]] = {
    "initiated": lambda run: run.initiated(),
    "prepared": lambda run: run.prepared(),
    "round 1": lambda run: run.round_started(1, 2),
    "round 2": lambda run: run.round_started(2, 2),
    "result": lambda run: run.client_result("Trust_1", 1, 10),
    "aggregated": lambda run: run.aggregated(1, 1, 1),
    "fail": lambda run: run.fail("boom"),
    "stop": lambda run: run.stop("enough"),
    "upload failed": lambda run: run.upload_failed("no bucket"),
    "uploaded": lambda run: run.uploaded("s3://results/x.zip", "ab", 1, 2),
    "finish": lambda run: run.finish(),
}
ENDS = {"fail": "ERROR", "stop": "STOPPED", "upload failed": "RESULTS_UPLOAD_FAILED", "uploaded": "RESULTS_UPLOADED"}


@given(st.lists(st.sampled_from(sorted(CALLS)), max_size=14))
@settings(max_examples=150)
def test_every_run_ends_once_forwards_and_for_its_first_cause(names: list[str]) -> None:
    """Whatever an engine fires, and how often: one end, of the first cause, with a reason unless it is a success."""
    box = Outbox(":memory:")
    run = Lifecycle(Reporter(box))
    for name in names:
        CALLS[name](run)
    final = run.finish()
    told = [record.item() for record in box.collect(release=True)]
    statuses = [item for item in told if item["kind"] == "status"]
    ranks = [RANK[item["status"]] for item in statuses]
    assert ranks == sorted(set(ranks))
    assert ranks.count(4) == 1
    assert statuses[-1]["status"] == final.value
    until = names[: names.index("finish")] if "finish" in names else names
    causes = [ENDS[name] for name in until if name in ENDS]
    assert final.value == (causes[0] if causes else "ERROR")
    if final.value != "RESULTS_UPLOADED":
        assert statuses[-1]["reason"]
    facts = [(item["event_type"], item["global_round"]) for item in told if item["kind"] == "event"]
    assert len(facts) == len(set(facts))
    first = next((n for n, name in enumerate(until) if name in ENDS), len(until))
    rounds = {name for name in until[:first] if name.startswith("round")}
    assert sum(kind == "ROUND_STARTED" for kind, _ in facts) == len(rounds)
