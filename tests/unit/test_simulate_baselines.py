"""What a federated run is compared with: trained as the run trains, whatever its options."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flip_fl.app.config import load_config
from flip_fl.app.plan import rounds_of
from flip_fl.app.weights import initial_arrays
from flip_fl.errors import FlipError
from flip_fl.settings import write_settings_file
from flip_fl.simulate.baselines import CENTRAL, CENTRAL_SLOT, BaselineSpec, check_comparable, compute
from flip_fl.simulate.prepare import prepare
from tests.support.small_apps import write_app
from tests.support.staged_app import write_staged_app

SLOTS = ("Trust_1", "Trust_2")


@pytest.fixture(autouse=True)
def _own_modules() -> Iterator[None]:
    """The apps' modules are imported in this process, and forgotten again."""
    yield
    for name in ("models", "trainer", "denoising"):
        sys.modules.pop(name, None)


def rows_of(app: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], dict[str, float | None]]:
    """Every baseline's scores: (model, scored on) → metrics. All slots have the same patients."""
    (folder / "data").mkdir(parents=True)
    prepare(app, folder / "data")
    for slot in (*SLOTS, CENTRAL_SLOT):
        values = {"LOCAL_DEV": "true", "DEV_DATAFRAME": str(folder / "data" / "cohort.csv"), "DEV_TABULAR": "true"}
        write_settings_file(folder / "settings" / f"{slot}.env", values)
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(folder / "settings"))
    config = load_config(app)
    rows = compute(BaselineSpec(str(app), rounds_of(config), SLOTS))
    return {(row.model, row.scored_on): dict(row.metrics) for row in rows}


def test_each_model_goes_through_both_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second stage starts from its own first one's result, which then stays; scored is the last stage's model."""
    seen = tmp_path / "seen.txt"
    note = f"open({str(seen)!r}, 'a').write(f'{{site.name}} {{site.stage}} {{site.round}} {{digest(model)}}\\n')"
    app = write_staged_app(tmp_path / "app", in_train=note.replace("{", "{{").replace("}", "}}").format())
    rows = rows_of(app, tmp_path, monkeypatch)
    assert set(rows) == {(model, slot) for model in ("Trust_1 alone", "Trust_2 alone", CENTRAL) for slot in SLOTS}
    assert all(set(metrics) == {"loss"} for metrics in rows.values())
    lines = [line.split() for line in seen.read_text().splitlines()]
    by_slot = {slot: [line[1:] for line in lines if line[0] == slot] for slot in (*SLOTS, CENTRAL_SLOT)}
    for steps in by_slot.values():
        assert [(stage, number) for stage, number, _ in steps] == [("ae", "1"), ("ae", "2"), ("dm", "3"), ("dm", "4")]
        first, second, third, fourth = (digest for _, _, digest in steps)
        assert len({first, second, third}) == 3, "each round of stage 1 has moved the autoencoder"
        assert third == fourth, "stage 2 leaves it as it is"


def test_what_travels_and_how_changes_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences instead of weights, and a part that stays as it was: trained and scored as in the run."""
    whole = rows_of(write_app(tmp_path / "app"), tmp_path / "a", monkeypatch)
    changed = rows_of(write_app(tmp_path / "app-diff", PARAMS_TYPE="DIFF"), tmp_path / "b", monkeypatch)
    for place, metrics in whole.items():
        assert changed[place] == pytest.approx(metrics, abs=1e-6)
    part = rows_of(write_app(tmp_path / "app-part", AGGREGATE_ONLY_REGEX="bias"), tmp_path / "c", monkeypatch)
    assert all(metrics["loss"] != whole[place]["loss"] for place, metrics in part.items())


def test_training_starts_where_the_run_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SERVER_CHECKPOINT is the comparison's start, too: a run must not win by a better one."""
    import torch

    app = write_app(tmp_path / "app", GLOBAL_ROUNDS=1, SERVER_CHECKPOINT="start.pt")
    far = {name: torch.from_numpy(array + 100) for name, array in initial_arrays(app).items()}
    torch.save(far, app / "start.pt")
    rows = rows_of(app, tmp_path, monkeypatch)
    assert min(metrics["loss"] or 0 for metrics in rows.values()) > 5


def test_a_job_without_one_model_has_nothing_to_compare(tmp_path: Path) -> None:
    """With FEDBN each site scores another model: --baselines is refused before anything starts."""
    with pytest.raises(FlipError) as refused:
        check_comparable(load_config(write_app(tmp_path / "app", FEDBN=True)))
    assert refused.value.code == "E0303"
    assert "FEDBN is true; it must be false with --baselines" in refused.value.what
    check_comparable(load_config(write_app(tmp_path / "other")))
