"""What ``flip-fl run`` tells at the end."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from flip_fl.commands import summary
from flip_fl.commands.answers import ErrorEnvelope, RunAnswer
from flip_fl.commands.common import Common
from flip_fl.commands.output import Output
from flip_fl.commands.run import finish
from flip_fl.dashboard.privacy import NOT_FINITE
from flip_fl.dashboard.story import BaselineRow, Plot, Point, PrivacyCurve, PrivacyPoint, Series, Story
from flip_fl.simulate.model import RunOutcome
from flip_fl.values import DEFAULT_X_LABEL, ModelStatus
from tests.support import dashboard


def ended(story: Story, exit_code: int = 0, results: str | None = "s3://bucket/key.zip") -> RunOutcome:
    """An outcome around a story."""
    folder = Path("runs/demo")
    return RunOutcome(story.status, story.reason, exit_code, folder, folder / "report.html", results, story)


def told(outcome: RunOutcome, **common: bool) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of telling ``outcome``."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        code = finish(Output(Common(**common)), outcome)
    return code, out.getvalue(), errors.getvalue()


def test_every_site_and_round_has_a_row_with_every_metric() -> None:
    """Protects hospitals from being averaged away: each site's own numbers, sites in natural order."""
    story = dashboard.large(12, 3, 2)
    rows = summary.measurements(story)
    assert [(row.slot, row.round) for row in rows] == [(f"Trust_{n}", r) for n in range(1, 13) for r in (1, 2, 3)]
    labels = {plot.label for plot in story.plots if plot.x_label == DEFAULT_X_LABEL}
    assert all(set(row.metrics) == labels for row in rows)


def test_curves_over_another_axis_are_not_mixed_into_the_rounds() -> None:
    """Protects a table of rounds from values of single steps."""
    points = [Point(x=1, y=0.5, round=1)]
    series = [Series(slot="Trust_1", name="Trust_1", points=points)]
    plots = [
        Plot(label="loss", x_label=DEFAULT_X_LABEL, series=series),
        Plot(label="step", x_label="Step", series=series),
    ]
    rows = summary.measurements(dashboard.finished().model_copy(update={"plots": plots}))
    assert [row.metrics for row in rows] == [{"loss": 0.5}]


def test_a_value_that_was_not_finite_is_not_a_missing_one() -> None:
    """Protects from reading a refused NaN as a round that a site missed."""
    series = [
        Series(slot="Trust_1", name="Trust_1", points=[Point(x=1, y=None, round=1), Point(x=2, y=0.5, round=2)]),
        Series(slot="Trust_2", name="Trust_2", points=[Point(x=2, y=0.25, round=2)]),
    ]
    other = [Series(slot="Trust_2", name="Trust_2", points=[Point(x=1, y=1.0, round=1)])]
    plots = [
        Plot(label="auc", x_label=DEFAULT_X_LABEL, series=series),
        Plot(label="loss", x_label=DEFAULT_X_LABEL, series=other),
    ]
    story = dashboard.finished().model_copy(update={"plots": plots, "baselines": []})
    text = summary.text(summary.answer(ended(story)))
    rows = [line.split() for line in text.splitlines()[1:5]]
    assert [row[-3:] for row in rows] == [
        ["1", "nan", "-"],
        ["2", "0.5000", "-"],
        ["1", "-", "1.0000"],
        ["2", "0.2500", "-"],
    ]


def test_a_long_run_shows_its_last_rounds_and_says_so() -> None:
    """Protects the end of the table, the part that matters, from scrolling away; nothing is cut in silence."""
    text = summary.text(summary.answer(ended(dashboard.large(2, 100, 1).model_copy(update={"baselines": []}))))
    assert "(the last 20 of 100 rounds; all are in the report)" in text
    assert len([line for line in text.splitlines() if line.startswith("Trust_")]) == 40


def test_the_global_model_stands_beside_the_others() -> None:
    """Protects the comparison that a federated run is made for."""
    rows = [
        BaselineRow(model="global model", scored_on="Trust_1", metrics={"auc": 0.9}),
        BaselineRow(model="Trust_1 alone", scored_on="Trust_1", metrics={"auc": 0.8}),
    ]
    text = summary.text(summary.answer(ended(dashboard.finished().model_copy(update={"baselines": rows}))))
    assert "global model   Trust_1    0.9000" in text
    assert "Trust_1 alone  Trust_1    0.8000" in text


def test_a_score_that_noise_has_destroyed_is_explained_where_it_is_missing() -> None:
    """A dash in the table of epsilons makes people look for their own mistake; a failed run has its reason already."""

    def text(scored: dict[str, float], problem: str | None = None) -> str:
        point = PrivacyPoint(asked=64, spent=67.2, metrics=scored, problem=problem)
        without = {"accuracy": 0.9, "loss": 0.1}
        curve = PrivacyCurve(delta=1e-5, clipping_norm=1, rounds=3, without=without, points=[point])
        return summary.text(summary.answer(ended(dashboard.finished().model_copy(update={"privacy": curve}))))

    lost = text({"accuracy": 0.6})
    assert ["64", "67.2000", "0.6000", "-"] in [line.split() for line in lost.splitlines()]
    assert NOT_FINITE in lost
    assert NOT_FINITE not in text({"accuracy": 0.6, "loss": 0.7})
    assert NOT_FINITE not in text({}, "a site failed")


def test_a_finished_run_ends_with_status_results_and_report() -> None:
    """Protects the last lines: the state in words, the address, the page to open."""
    code, out, errors = told(ended(dashboard.finished()))
    lines = out.splitlines()
    assert (code, errors) == (0, "")
    assert "status   Finished - results ready" in lines
    assert "results  s3://bucket/key.zip" in lines
    assert lines[-1] == "report   runs/demo/report.html"


@pytest.mark.parametrize(
    ("story", "outcome_code", "code"), [(dashboard.failed(), 1, "FLIP-E0507"), (dashboard.stopped(), 6, "FLIP-E0511")]
)
def test_a_run_that_did_not_succeed_is_an_error_with_what_it_measured(
    story: Story, outcome_code: int, code: str
) -> None:
    """Protects scripts and people alike: the exit code of the run's end, and the tables all the same."""
    exit_code, out, errors = told(ended(story, outcome_code, None))
    assert exit_code == outcome_code
    assert "results  none" in out
    assert errors.startswith(f"error[{code}]: ")
    exit_code, out, errors = told(ended(story, outcome_code, None), json=True)
    document = json.loads(out)
    assert (exit_code, errors, document["exit_code"]) == (outcome_code, "", outcome_code)
    TypeAdapter(RunAnswer).validate_python(document.pop("data"))
    TypeAdapter(ErrorEnvelope).validate_python(document)


def test_what_sites_call_things_is_only_text() -> None:
    """Protects the terminal from markup and control characters in labels and names of sites."""
    code, out, _ = told(ended(dashboard.hostile(), 0))
    assert code == 0
    assert all(character.isprintable() or character == "\n" for character in out)


def test_a_status_that_is_machine_word_never_stands_alone() -> None:
    """Protects readers from RESULTS_UPLOAD_FAILED and its like; JSON keeps them."""
    story = dashboard.finished().model_copy(update={"status": ModelStatus.RESULTS_UPLOAD_FAILED})
    assert "RESULTS_UPLOAD" not in summary.text(summary.answer(ended(story)))
    assert summary.answer(ended(story)).status == "RESULTS_UPLOAD_FAILED"
