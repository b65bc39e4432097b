"""What federated learning is measured against: each site's model on its own data, and one on all data in one place.

``python -m flip_fl.simulate.baselines SPEC OUT`` trains them with the app's own functions for as many rounds as the
federated run, and scores each model on every site's validation patients.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flip_fl.aggregate.differences import restored
from flip_fl.app.arrays import Arrays
from flip_fl.app.checkpoints import find_checkpoint
from flip_fl.app.config import DIFF, AppConfig, load_config
from flip_fl.app.forms import FormKind, form_of
from flip_fl.app.plan import Stage, stages_in
from flip_fl.app.runner import Result, Session, run_task
from flip_fl.app.site import SiteSpec
from flip_fl.app.weights import StartingModel, starting_model
from flip_fl.dashboard.story import BaselineRow
from flip_fl.data.sources import open_source
from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.processes import Child, start
from flip_fl.values import Task

CENTRAL = "all data in one place"
CENTRAL_SLOT = "central"


@dataclass(frozen=True)
class BaselineSpec:
    """The app, its rounds by stage (as ``rounds_of``), and the slots.

    Each slot and ``CENTRAL_SLOT`` have local data in ``$FLIP_SETTINGS_DIR``.
    """

    app_dir: str
    rounds: Mapping[str, int]
    slots: tuple[str, ...]


def alone(slot: str) -> str:
    """What the model that a site trains by itself is called."""
    return f"{slot} alone"


def check_comparable(config: AppConfig) -> None:
    """Raises ``FlipError`` E0303 for a job whose result is not one model that can be scored everywhere, E0102 for an
    app whose training is no function that can be called elsewhere.
    """
    form = form_of(config.app_dir)
    if form.kind is not FormKind.NEUTRAL:
        problem = f"--baselines trains with the functions of a neutral app, and this one is none ({form.evidence})"
        raise FlipError("E0102", problem=problem, usage="the run without --baselines")
    if config.fedbn:
        raise FlipError(
            "E0303",
            where=config.place("FEDBN"),
            why="--baselines scores one model at every site, and here each site has batch-norm layers of its own",
            key="FEDBN",
            value="true",
            expected="false with --baselines",
            fix="run it without --baselines",
        )


def start_baselines(spec: BaselineSpec, folder: RunFolder, settings: Path) -> Child:
    """Start the baselines in a process of their own; ``read_baselines`` has the rows once it ended with 0."""
    spec_path = folder.state / "baselines-spec.json"
    spec_path.write_text(json.dumps(asdict(spec)), encoding="utf-8")
    command = [sys.executable, "-m", "flip_fl.simulate.baselines", str(spec_path), str(_rows_file(folder))]
    environment = scrubbed(FLIP_SETTINGS_DIR=str(settings), OMP_NUM_THREADS="1")
    return start("the baselines", command, folder.logs / "baselines.log", env=environment)


def read_baselines(folder: RunFolder) -> list[BaselineRow]:
    """The rows that the process wrote."""
    return [BaselineRow.model_validate(row) for row in json.loads(_rows_file(folder).read_text(encoding="utf-8"))]


def _rows_file(folder: RunFolder) -> Path:
    return folder.state / "baselines.json"


def compute(spec: BaselineSpec) -> list[BaselineRow]:
    """Train and score every baseline. Raises ``FlipError`` E0506 when the app's own functions fail."""
    app_dir = Path(spec.app_dir)
    config = load_config(app_dir)
    stages = stages_in(spec.rounds)
    checkpoint = find_checkpoint(config.server_checkpoint, [app_dir]) if config.server_checkpoint else None
    first = starting_model(app_dir, stages[0].name, checkpoint=checkpoint)

    def session(slot: str) -> Session:
        return Session(app_dir=app_dir, source=open_source(slot), publish=lambda _: None, aborted=lambda: False)

    def site_spec(slot: str, number: int, stage: Stage) -> SiteSpec:
        return SiteSpec(slot, number, stages[-1].last, stage=stage.name, seed=config.seed, query=config.query)

    def trained(slot: str, trainer: Session) -> Arrays:
        start = first
        for stage in stages:
            if stage is not stages[0]:
                start = starting_model(app_dir, stage.name, previous=start.arrays)
            sent = start.sent
            for number in range(stage.first, stage.last + 1):
                result = _usable(run_task(Task.TRAIN, sent, site_spec(slot, number, stage), trainer))
                sent = restored(sent, result.arrays) if result.params_type == DIFF else result.arrays
            start = StartingModel(sent, start.frame)
        return start.sent

    sessions = {slot: session(slot) for slot in spec.slots}
    trainers = {alone(slot): (slot, sessions[slot]) for slot in spec.slots}
    trainers[CENTRAL] = (CENTRAL_SLOT, session(CENTRAL_SLOT))
    rows = []
    for model, (slot, trainer) in trainers.items():
        arrays, last = trained(slot, trainer), stages[-1]
        for judge, at_site in sessions.items():
            scored = _usable(run_task(Task.VALIDATE, arrays, site_spec(judge, last.last, last), at_site))
            rows.append(BaselineRow(model=model, scored_on=judge, metrics=dict(scored.metrics)))
    return rows


def _usable(result: Result) -> Result:
    if result.failure is not None:
        raise FlipError("E0506", problem="a baseline failed", reason=result.failure.headline, log="the baselines' log")
    return result


def main(spec_path: Path, out: Path) -> None:
    """Read the spec, compute, write the rows as JSON."""
    spec = BaselineSpec(**json.loads(spec_path.read_text(encoding="utf-8")))
    rows = compute(spec)
    out.write_text(json.dumps([row.model_dump(mode="json") for row in rows]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
