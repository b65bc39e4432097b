"""A site's policy around the researcher's code: what it demands holds whatever trainer.py does."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flip_fl.app.calls import Made
from flip_fl.app.config import DIFF
from flip_fl.app.runner import Result, Session, run_task
from flip_fl.app.session import Session as SiteSession
from flip_fl.app.site import Ledger, SiteSpec
from flip_fl.privacy.egress import Egress, EgressPolicy, Rate
from flip_fl.privacy.policy import SitePolicy
from flip_fl.values import Task
from tests.support.app import ARRAYS, CONFIG, TableSource, metrics_of, notes_of, write_app

CLIP = {"filters": {"clipping": {"norm": 0.5}}}
NOISE = {"filters": {"gaussian": {"epsilon": 1.0, "delta": 1e-5, "clipping_norm": 1.0}}}
OPEN = {"egress": {"require_declared": False, "min_cohort": 0}}
DECLARED = {**CONFIG, "METRICS": ["loss"]}
TRAINER = """
import torch

def train(model, site, config):
    site.log("loss", 0.123456789, x_value=1234.5)
    site.log("patient_note", 1.0)
    with torch.no_grad():
        model.weight += 10.0
    return {"num_examples": config.get("count", 40), "loss": 0.98765, "rows": 3.0}

def validate(model, site, config):
    return {"num_examples": config.get("count", 40), "loss": 0.25}
"""


def policy(*parts: dict[str, Any]) -> SitePolicy:
    return SitePolicy.model_validate({key: value for part in parts for key, value in part.items()})


def session(
    folder: Path, given: SitePolicy | None, *, config: dict[str, Any] = DECLARED, state: Path | None = None
) -> Session:
    source = TableSource()
    source.state_dir = state  # type: ignore[assignment]
    published: list[Any] = []
    made = Session(write_app(folder, trainer=TRAINER, config=config), source, published.append, policy=given, job="j1")
    made.told["published"] = published  # type: ignore[assignment]
    return made


def run(at: Session, task: Task = Task.TRAIN, **facts: Any) -> Result:
    spec = SiteSpec(slot="Trust_1", round=facts.pop("round", 1), total_rounds=3, project_id="p", query="q", **facts)
    return run_task(task, {name: array.copy() for name, array in ARRAYS.items()}, spec, at)


def reason(result: Result) -> str:
    assert result.failure is not None
    return result.failure.headline


def test_without_a_policy_nothing_is_different(tmp_path: Path) -> None:
    """Sites that have no policy send what they always sent."""
    result = run(session(tmp_path, None, config=dict(CONFIG)))
    assert result.ok
    assert np.all(result.arrays["weight"] == 10)
    assert {"train_loss", "train_rows", "loss", "patient_note"} <= {label for label, _ in metrics_of(result)}


def test_an_update_is_clipped_outside_of_the_apps_reach(tmp_path: Path) -> None:
    """The filter works on what the app's code gave: the model that was received, and a bounded step from it."""
    at = session(tmp_path, policy(CLIP))
    result = run(at)
    assert result.ok
    length = np.sqrt(sum(float(np.sum((result.arrays[name] - ARRAYS[name]) ** 2)) for name in ARRAYS))
    assert length == pytest.approx(0.5, rel=1e-3)
    assert run(at, Task.VALIDATE).arrays == {}


def test_differences_and_models_that_another_task_sends_are_filtered_too(tmp_path: Path) -> None:
    """Every array that would leave passes the gate, whichever task has made it and in whichever form."""

    def call(spec: SiteSpec, arrays: Any, at: SiteSession, ledger: Ledger) -> Made:
        return Made({"num_examples": 40}, {name: array + 7 for name, array in arrays.items()}, DIFF)

    at = session(tmp_path, policy(CLIP))
    spec = SiteSpec(slot="Trust_1", round=1, total_rounds=3, task=Task.VALIDATE)
    result = run_task(Task.VALIDATE, ARRAYS, spec, at, call)
    assert result.params_type == DIFF
    assert np.sqrt(sum(float(np.sum(each**2)) for each in result.arrays.values())) == pytest.approx(0.5, rel=1e-3)


def test_only_declared_names_and_rounded_numbers_leave(tmp_path: Path) -> None:
    """Neither a name nor the digits of a number carry data out; what is refused is counted and told."""
    at = session(tmp_path, policy({"egress": {"decimals": 2}}))
    result = run(at)
    assert metrics_of(result) == [("loss", 0.12), ("train_loss", 0.99)]
    assert result.metrics == {"loss": 0.99}
    assert [event["x_value"] for event in result.events if event["kind"] == "metric"] == [1200.0, None]
    assert sum("METRICS does not declare" in note for note in notes_of(result)) == 1
    undeclared = run(session(tmp_path / "none", policy({}), config=dict(CONFIG)))
    assert metrics_of(undeclared) == []


def test_nothing_leaves_of_a_small_cohort(tmp_path: Path) -> None:
    """A metric of nine patients is about nine patients: no result, no model, no metric that was logged before."""
    at = session(tmp_path, policy({}), config={**DECLARED, "count": 9})
    for task in (Task.TRAIN, Task.VALIDATE):
        result = run(at, task)
        assert not result.ok
        assert (result.arrays, metrics_of(result)) == ({}, [])
        assert "worked on fewer than 10 examples: nothing of it leaves" in reason(result)
        assert not re.search(r"\b9\b", reason(result) + "".join(notes_of(result)))
    time.sleep(1.2)
    assert at.told["published"] == []
    assert run(session(tmp_path / "enough", policy({}), config={**DECLARED, "count": 10})).ok


def test_a_task_that_fails_takes_its_metrics_with_it(tmp_path: Path) -> None:
    """Without a number of examples nobody knows how few they were."""
    at = session(tmp_path, policy({}), config={**DECLARED, "count": -1})
    result = run(at)
    assert "num_examples" in reason(result)
    assert metrics_of(result) == []
    assert result.made == len(result.events)


def test_each_round_is_accounted_for_and_told(tmp_path: Path) -> None:
    """What a project has spent is known at the hub, under a name of the house that no job can forge."""
    at = session(tmp_path, policy(NOISE), state=tmp_path / "state", config={**DECLARED, "METRICS": ["privacy_epsilon"]})
    told = [dict(metrics_of(run(at, round=number)))["privacy_epsilon"] for number in (1, 2)]
    assert told[0] == pytest.approx(1.0, rel=0.01)
    assert told[0] < told[1] < 2 * told[0]
    ledger = Egress("round 1 (train)", EgressPolicy(declared=frozenset({"privacy_epsilon"})))
    assert not ledger.number("privacy_epsilon", 0.1)
    assert ledger.number("privacy_epsilon", 0.1, house=True)


def test_a_round_beyond_the_budget_does_not_even_start(tmp_path: Path) -> None:
    """The app is not called, nothing is spent, and the reason says what was needed and what was allowed."""
    budget = {"budget": {"epsilon": 1.2, "delta": 1e-5}}
    at = session(tmp_path, policy(NOISE, budget), state=tmp_path / "state")
    assert run(at, round=1).ok
    calls: list[SiteSpec] = []

    def call(spec: SiteSpec, arrays: Any, at: SiteSession, ledger: Ledger) -> Made:
        calls.append(spec)
        return Made({"num_examples": 40})

    spec = SiteSpec(slot="Trust_1", round=2, total_rounds=3, project_id="p", query="q")
    result = run_task(Task.TRAIN, ARRAYS, spec, at, call)
    assert calls == []
    assert re.search(r"budget does not allow round 2 \(train\): epsilon would be 1\.\d+ of 1\.2", reason(result))
    # Another job on the same cohort meets the same budget; a validation spends nothing.
    again = session(tmp_path / "other", policy(NOISE, budget), state=tmp_path / "state")
    assert "budget" in reason(run(again))
    assert run(again, Task.VALIDATE).ok


def test_privacy_that_cannot_be_accounted_for_is_not_spent(tmp_path: Path) -> None:
    """A site without a folder for its account sends no noised update: nobody could say what it costs."""
    assert "privacy account cannot be kept" in reason(run(session(tmp_path, policy(NOISE))))


def test_a_model_of_other_names_or_with_nan_stays(tmp_path: Path) -> None:
    """What a filter cannot bound does not leave, and the thing is named."""
    at = session(tmp_path, policy(CLIP))
    spec = SiteSpec(slot="Trust_1", round=1, total_rounds=3)
    for arrays, words in (
        ({"weight": np.full((1, 2), np.nan, np.float32), "bias": np.zeros(1, np.float32)}, "NaN or infinity"),
        ({"weight": np.zeros((1, 2), np.float32)}, "other names"),
        ({"weight": np.zeros((2, 2), np.float32), "bias": np.zeros(1, np.float32)}, "'weight' has another shape"),
    ):
        result = run_task(Task.TRAIN, ARRAYS, spec, at, lambda *_, a=arrays: Made({"num_examples": 40}, dict(a)))  # type: ignore[misc]
        assert words in reason(result)
        assert result.arrays == {}


def test_only_the_projects_that_a_site_allows_run_there(tmp_path: Path) -> None:
    """A job of another project is refused before its code is imported."""
    refused = run(session(tmp_path, policy({"projects": {"allow": ["other"]}})))
    assert "the site's policy refuses round 1 (train): its project is not among those" in reason(refused)
    assert run(session(tmp_path / "b", policy({"projects": {"allow": ["p"]}}))).ok


@pytest.mark.parametrize(
    ("job", "stage", "words"),
    [
        ("diffusion_model", None, "its job has two stages and it names none"),
        ("diffusion_model", "xy", "it names a stage for which there are no filters"),
        ("standard", "dm", "it names a stage and has none"),
    ],
)
def test_a_stage_that_is_missing_or_unknown_closes_the_gate(
    job: str, stage: str | None, words: str, tmp_path: Path
) -> None:
    """A filter of a stage is never bypassed by leaving the stage out."""
    at = session(tmp_path, policy(CLIP), config={**DECLARED, "job_type": job})
    assert words in reason(run(at, stage=stage))


def test_a_stage_has_its_own_filters(tmp_path: Path) -> None:
    """A two-stage job may be bounded differently in each stage."""
    given = policy({"filters": {"clipping": {"norm": 0.5}, "stage": {"dm": {"clipping": {"norm": 0.25}}}}})
    for stage, norm in (("ae", 0.5), ("dm", 0.25)):
        at = session(tmp_path / stage, given, config={**DECLARED, "job_type": "diffusion_model"})
        spec = SiteSpec(slot="Trust_1", round=1, total_rounds=3, stage=stage)
        made = {name: array + 9 for name, array in ARRAYS.items()}
        result = run_task(Task.TRAIN, ARRAYS, spec, at, lambda *_, m=made: Made({"num_examples": 40}, m))  # type: ignore[misc]
        assert np.sqrt(sum(float(np.sum(each**2)) for each in result.arrays.values())) == pytest.approx(norm, rel=1e-3)


def test_metrics_have_a_rate_over_all_tasks() -> None:
    """A job cannot make up in number what each metric may not hold."""
    now = [0.0]
    rate = Rate(2, clock=lambda: now[0])
    egress = Egress("round 1 (train)", EgressPolicy(rate=rate))
    assert [egress.number("loss", 1.0) for _ in range(3)] == [True, True, False]
    other = Egress("round 2 (train)", EgressPolicy(rate=rate))
    assert not other.number("loss", 1.0)
    now[0] = 61.0
    assert other.number("loss", 1.0)
    assert "more metrics a minute than this site lets leave" in egress.refusals()[0]
