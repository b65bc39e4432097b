"""Jobs of two stages in whole runs on both engines: what is handed over, what is told, and how they fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from flip_fl.errors import FlipError
from flip_fl.simulate.model import ENGINES, RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import ModelStatus
from tests.support.bundles import bundle_of, weights_of
from tests.support.runs import EITHER_ENGINE, SERVER, OnEngines, Told, told
from tests.support.staged_app import APART, write_staged_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.xdist_group("diffusion")]

SLOTS = ("Trust_1", "Trust_2")
STAGES = {1: "ae", 2: "ae", 3: "dm", 4: "dm"}
APPLIED = ["PENDING", "INITIATED", "PREPARED", "RUNNING", "RESULTS_UPLOADED"]
# Stage 1 ends without a result of Trust_2; stage 2 ends with none at all.
FAILING = """
    if (site.round, site.name) in ((1, "Trust_2"), (3, "Trust_1"), (3, "Trust_2")):
        raise ValueError("a site's own trouble")
"""


def runs(app: Path, folder: Path) -> dict[str, RunOutcome]:
    return OnEngines(
        lambda engine: run(RunOptions(app=app, engine=engine, sites=2, out=folder / engine), lambda _: None)
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunOutcome]:
    """Two rounds of each stage, the best model kept."""
    folder = tmp_path_factory.mktemp("whole")
    app = write_staged_app(folder / "app", BEST_MODEL_METRIC="loss", BEST_MODEL_METRIC_MINIMIZE=True)
    return runs(app, folder)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunOutcome]:
    """One round of stage 1 and two of stage 2, in which sites fail."""
    folder = tmp_path_factory.mktemp("failing")
    quorum = {"IGNORE_RESULT_ERROR": True, "MIN_CLIENTS": 1}
    return runs(write_staged_app(folder / "app", in_train=FAILING.strip(), GLOBAL_ROUNDS_AE=1, **quorum), folder)


@pytest.fixture(params=EITHER_ENGINE)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stored(outcome: RunOutcome) -> Told:
    return told(outcome.folder / "hub.sqlite", UUID(outcome.story.model.id))


def values(outcome: RunOutcome, label: str) -> dict[str, dict[int, float | None]]:
    """A metric by slot and round."""
    (plot,) = [each for each in outcome.story.plots if each.label == label]
    return {series.slot: {point.round: point.y for point in series.points} for series in plot.series}


class TestWhole:
    def test_a_job_of_two_stages_finishes(self, whole: dict[str, RunOutcome], engine: str) -> None:
        """Each round is told with its stage and has both sites; the page's words name the stage."""
        outcome = whole[engine]
        assert outcome.exit_code == 0, outcome.reason
        story = outcome.story
        assert {each.number: each.stage for each in story.rounds} == STAGES
        assert [(each.returned, each.expected) for each in story.rounds] == [(2, 2)] * 4
        assert story.total_rounds == 4
        lines = {(row.kind, row.round): row.text for row in story.feed if row.kind in ("round", "aggregated")}
        assert lines["round", 3] == "Round 3 of 4 (dm) started"
        assert lines["aggregated", 2] == "Round 2 (ae) aggregated: 2 of 2 sites returned"

    def test_the_status_never_goes_backwards_between_the_stages(
        self, whole: dict[str, RunOutcome], engine: str
    ) -> None:
        """Each status once and in order, nothing that the hub had to ignore."""
        assert [str(each[1]) for each in stored(whole[engine]).statuses] == APPLIED
        assert stored(whole[engine]).not_applied == 0

    def test_every_metric_is_told_once_with_its_stages_name(self, whole: dict[str, RunOutcome], engine: str) -> None:
        """What a stage measures is named after it, stands in its rounds alone, and is stored once."""
        metrics = stored(whole[engine]).metrics
        assert set(metrics) == set(SLOTS)
        for points in metrics.values():
            counts = Counter(point[:6] for point in points)
            assert set(counts.values()) == {1}
            for number, _, stage, label, _, _ in counts:
                assert (stage, label.split("/")[0]) == (STAGES[number], STAGES[number])
            of_dm = sorted(label for number, _, _, label, _, _ in counts if number == 4)
            ordinary = ["code_is_there", "held", "loss", "received", "tasks_so_far", "train_loss"]
            assert of_dm == sorted([*(f"dm/{name}" for name in ordinary), *["dm/step_loss"] * 3])

    def test_stage_two_starts_from_what_the_engine_has_stored_of_stage_one(
        self, whole: dict[str, RunOutcome], engine: str
    ) -> None:
        """The autoencoder that training in stage 2 begins with is, to the bit, the one that stage 1 has ended with."""
        held, received = values(whole[engine], "ae/held"), values(whole[engine], "dm/received")
        assert held["Trust_1"][1] != held["Trust_1"][2], "stage 1 trains"
        for slot in SLOTS:
            assert received[slot][3] == held["Trust_1"][2]

    def test_what_stage_two_freezes_stays_bit_identical(self, whole: dict[str, RunOutcome], engine: str) -> None:
        """Through averaging, the store and the bundle; the denoiser beside it learns."""
        outcome = whole[engine]
        trained = values(outcome, "ae/held")["Trust_1"][2]
        for slot in SLOTS:
            assert set(values(outcome, "dm/held")[slot].values()) == {trained}
        weights = weights_of(bundle_of(outcome))
        assert set(weights) == {f"autoencoder.{part}.{kind}" for part in ("encoder", "decoder")
                                for kind in ("weight", "bias")} | {"denoiser.weight", "denoiser.bias"}  # fmt: skip
        losses = values(outcome, "dm/train_loss")
        assert all(losses[slot][4] < losses[slot][3] for slot in SLOTS)  # type: ignore[operator]

    def test_the_best_model_is_one_of_the_last_stage(self, whole: dict[str, RunOutcome], engine: str) -> None:
        """A good score of the autoencoder's does not keep a model that can generate nothing."""
        best = weights_of(bundle_of(whole[engine]), "best_FL_global_model.pt")
        assert "denoiser.weight" in best

    def test_the_live_jobs_code_is_there_in_both_stages(self, whole: dict[str, RunOutcome], engine: str) -> None:
        """Nothing is cleaned up between the stages: stage 2 imports a module first, sites remember."""
        outcome = whole[engine]
        for stage, rounds in (("ae", (1, 2)), ("dm", (3, 4))):
            for slot in SLOTS:
                assert values(outcome, f"{stage}/code_is_there")[slot] == dict.fromkeys(rounds, 1.0)
                assert values(outcome, f"{stage}/tasks_so_far")[slot] == {number: number for number in rounds}

    def test_the_report_shows_what_the_uploaded_model_generates(
        self, whole: dict[str, RunOutcome], engine: str
    ) -> None:
        """Pictures of generate() are in story.json and in the report, the same on both engines."""
        made = whole[engine].story.samples
        assert made is not None
        assert (made.problem, made.width, made.height, len(made.pictures)) == (None, 3, 4, 16)
        assert made.pictures[0] in whole[engine].report.read_text(encoding="utf-8")
        assert len(set(made.pictures)) == 16

    @pytest.mark.soak
    def test_the_engines_agree(self, whole: dict[str, RunOutcome]) -> None:
        """Same app, seed and data: the weights differ by 1e-6 at the most."""
        one, other = (weights_of(bundle_of(outcome)) for outcome in (whole[engine] for engine in ENGINES))
        assert max(float((one[name] - other[name]).abs().max()) for name in one) <= 1e-6


class TestFailing:
    def test_a_stage_that_ended_with_fewer_results_does_not_end_the_next(
        self, failing: dict[str, RunOutcome], engine: str
    ) -> None:
        """What was missing in the finished stage counts no more: stage 2 begins with both sites."""
        rounds = failing[engine].story.rounds
        assert [(each.stage, each.returned, each.expected) for each in rounds[:2]] == [("ae", 1, 2), ("dm", 2, 2)]

    def test_a_failure_in_stage_two_is_told_with_its_stage(self, failing: dict[str, RunOutcome], engine: str) -> None:
        """ERROR, once, with site, round and stage in reason, state and failure; nothing is uploaded."""
        outcome = failing[engine]
        assert (outcome.status, outcome.results) == (ModelStatus.ERROR, None)
        assert outcome.reason is not None
        for slot in SLOTS:
            assert f"{slot} in train, round 3 (dm): ValueError" in outcome.reason
        assert outcome.story.headline.text.startswith("Failed in round 3 (dm)")
        assert [str(each[1]) for each in stored(outcome).statuses] == [*APPLIED[:-1], "ERROR"]
        for slot in SLOTS:
            texts = [row[-1] for row in stored(outcome).rows[slot] if "Traceback" in row[-1]]
            assert sum(text.startswith("In train, round 3 (dm):\n") for text in texts) == 1
        assert SERVER in stored(outcome).rows


def test_a_model_without_stage_ones_inside_is_refused_before_the_start(engine: str, tmp_path: Path) -> None:
    """Stage 2 would start from nothing that stage 1 has learnt: refused by name, before any folder is made."""
    app = write_staged_app(tmp_path / "app", models=APART)
    with pytest.raises(FlipError, match="stage dm does not contain the one of the stage before") as caught:
        run(RunOptions(app=app, engine=engine, sites=2, out=tmp_path / "out"), lambda _: None)
    assert caught.value.code == "E0205"
    assert not (tmp_path / "out").exists()
