"""A run's scores against epsilon: whole runs with the sites' own filter, accounts and servers."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from flip_fl.commands import summary
from flip_fl.dashboard.story import PrivacyCurve, Story
from flip_fl.privacy.account import Account
from flip_fl.privacy.policy_file import read_policy
from flip_fl.simulate.model import RunOptions, RunOutcome
from flip_fl.simulate.run import run
from tests.support.small_apps import write_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290), pytest.mark.xdist_group("privacy curve")]
# As little privacy as makes no difference, so much that nothing is learnt, and more than the app goes along with.
ASKED = (1_000_000.0, 0.1, 0.0001)
# Between what an epsilon of 0.1 makes of a weight (some tens) and what one of 0.0001 does (some ten thousands).
FAR_OFF = "if model.weight.abs().max() > 1_000: raise ArithmeticError('far off')"
ROUNDS, SITES = 2, ("Trust_1", "Trust_2")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> RunOutcome:
    """One run with a curve of three points, the last of which fails."""
    folder = tmp_path_factory.mktemp("curve")
    app = write_app(folder / "app", in_train=FAR_OFF, GLOBAL_ROUNDS=ROUNDS, LOCAL_ROUNDS=5)
    options = RunOptions(app, "flower", 2, out=folder / "run", privacy_curve=ASKED)
    return run(options, lambda _: None)


@pytest.fixture(scope="module")
def curve(outcome: RunOutcome) -> PrivacyCurve:
    """The curve in its story."""
    assert outcome.story.privacy is not None
    return outcome.story.privacy


def test_each_point_is_a_whole_run_with_that_noise(outcome: RunOutcome, curve: PrivacyCurve) -> None:
    """A point's scores are those that its own run told its hub, under a policy with the curve's norm, at the same sites
    on the same patients.
    """
    assert [point.asked for point in curve.points] == list(ASKED)
    for number, point in enumerate(curve.points[:2], start=1):
        place = outcome.folder / point.folder
        story = Story.model_validate_json((place / "story.json").read_text())
        assert story.status.value == "RESULTS_UPLOADED"
        (loss,) = [plot for plot in story.plots if plot.label == "loss"]
        assert point.metrics["loss"] == fmean(series.points[-1].y or 0 for series in loss.series)
        policy = read_policy(outcome.folder / "state" / "privacy" / f"{number}.toml")
        assert policy.filters.gaussian is not None
        assert policy.filters.gaussian.clipping_norm == curve.clipping_norm
        for slot in SITES:
            own, first = (folder / "state" / "sites" / slot / "cohort.csv" for folder in (place, outcome.folder))
            assert own.read_bytes() == first.read_bytes()


def test_what_is_spent_is_what_the_sites_accounts_say(outcome: RunOutcome, curve: PrivacyCurve) -> None:
    """The ε of a point comes of the account that the sites kept of its rounds, and is the one that was asked for (for a
    large one some percent more: Rényi accounting is looser)."""
    for point in curve.points[:2]:
        for slot in SITES:
            account = Account(outcome.folder / point.folder / "state" / "sites" / slot)
            (project,) = account.projects(curve.delta)
            assert project.rounds == ROUNDS == curve.rounds
            assert project.epsilon == pytest.approx(point.spent)
        assert point.spent is not None
        assert point.asked * 0.999 < point.spent < point.asked * 1.1


def test_much_noise_costs_what_little_does_not(curve: PrivacyCurve) -> None:
    """With hardly any noise the model is about as good as without; with an ε of 0.1 it is worse than at the start."""
    without, (little, much) = curve.without["loss"], (point.metrics["loss"] for point in curve.points[:2])
    assert without is not None
    assert little is not None
    assert much is not None
    assert little == pytest.approx(without, abs=0.1)
    assert much > 2 * without


def test_a_point_that_cannot_be_had_says_why_and_costs_no_other(outcome: RunOutcome, curve: PrivacyCurve) -> None:
    """The run keeps its model, its report and the other points; it does not pass for a success without a word."""
    assert [point.problem is None for point in curve.points] == [True, True, False]
    failed = curve.points[-1]
    assert "ArithmeticError" in (failed.problem or "")
    assert failed.metrics == {}
    assert (outcome.status.value, outcome.exit_code) == ("RESULTS_UPLOADED", 1)
    assert outcome.reason == f"the run with epsilon 0.0001 failed: {failed.problem}"


def test_the_report_and_the_terminal_show_the_curve(outcome: RunOutcome, curve: PrivacyCurve) -> None:
    """The report draws a dot for each run, and the line without noise; the terminal has the same numbers."""
    page = outcome.report.read_text()
    assert "Scores against epsilon" in page
    assert page.count(' r="3"/>') == 2 * len(curve.without)
    assert f"loss against epsilon; without noise {curve.without['loss']:.4g}" in page
    kept = json.loads((outcome.folder / "story.json").read_text())["privacy"]
    assert PrivacyCurve.model_validate(kept) == curve
    told = summary.answer(outcome)
    assert [(row.asked, row.spent) for row in told.privacy] == [(p.asked, p.spent) for p in curve.points] + [
        (None, None)
    ]
    assert "without noise" in summary.text(told)
