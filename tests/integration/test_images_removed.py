"""A job's images at its trust, however the job ends: gone, and another job's are not. The trust's own services, whole
runs on each engine.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from flip_fl.app.runner import Session
from flip_fl.data.index import ImageIndex
from flip_fl.data.sources.trust import TrustSource
from flip_fl.hub import admin
from flip_fl.hub.model_service import update_model_status
from flip_fl.settings import ClientSettings, load
from flip_fl.simulate.model import ENGINES, RunOptions
from flip_fl.simulate.run import run
from flip_fl.values import ModelStatus, ResourceType
from tests.support.flower_plain import until
from tests.support.runs import Trouble, processes_of, site_processes, studies_in, wait_for
from tests.support.studies import write_slice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]

SLOT = "Trust_1"
STUDIES = [f"S{number:02d}" for number in range(12)]
# Two that this job uses, too, and one that it has never heard of.
OTHERS = ["S00", "S01", "T00"]
TRAINER = """
import os
import time


def _images(site):
    return site.images(site.cohort(), resource_type=["DICOM"])


def train(model, site, config):
    studies = _images(site)
    if config["then"] == "raise":
        raise RuntimeError("no such backend")
    while config["then"] == "wait" and not site.aborted:
        time.sleep(0.05)
    return {"num_examples": len(studies), "loss": 0.5}


def validate(model, site, config):
    return {"num_examples": len(_images(site)), "loss": 0.5}
"""


def stop_at_hub(out: Path) -> None:
    with admin.open_session(f"sqlite:///{out / 'hub.sqlite'}") as session:
        (model,) = admin.list_models(session)
        update_model_status(UUID(str(model.id)), ModelStatus.STOPPED, session, user_id="ada")
        session.commit()


def press_ctrl_c(out: Path) -> None:
    signal.raise_signal(signal.SIGINT)


def kill_the_site(out: Path) -> None:
    killed = site_processes(out, SLOT)
    assert len(killed) == 1
    for pid in killed:
        os.kill(pid, signal.SIGKILL)


ENDS: dict[str, tuple[str, Callable[[Path], None] | None, ModelStatus | None]] = {
    "success": ("return", None, ModelStatus.RESULTS_UPLOADED),
    "exception": ("raise", None, ModelStatus.ERROR),
    "stop": ("wait", stop_at_hub, ModelStatus.STOPPED),
    "Ctrl-C": ("wait", press_ctrl_c, None),
    "kill -9": ("wait", kill_the_site, ModelStatus.ERROR),
}


# What a person's Ctrl-C kills is removed by whoever started it, whatever the engine.
ROWS = [(engine, end) for engine in ENGINES for end in ENDS if (engine, end) != ("flower", "Ctrl-C")]
# The hardest way of each engine; `make soak` runs them all.
ORDINARY = {("nvflare", "kill -9"), ("flower", "stop")}


@pytest.mark.parametrize(
    ("engine", "end"), [pytest.param(*row, marks=[] if row in ORDINARY else [pytest.mark.soak]) for row in ROWS]
)
def test_a_jobs_images_go_with_it_and_another_jobs_stay(
    engine: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a job ends, its studies' folders are gone from the trust, after kill -9 of the site's process once the
    next job starts there; what a live job of the same site has claimed stays, and nothing else of the trust is touched.
    """
    then, trouble_of, status = ENDS[end]
    if end != "Ctrl-C":
        # The sites themselves are looked at, not who comes after them.
        monkeypatch.setattr("flip_fl.simulate.trusts.tidy", lambda client: None)
    out = tmp_path / "run"
    state = out / "state" / "sites" / SLOT
    images = state / "trust" / "shared" / "simulated"
    lay: list[str] = []

    def beside() -> None:
        other = claim_for_another_job(state / "images", images)
        others.append(other)
        wait_for(lambda: len(other.read("SELECT accession FROM study", ())) == len(STUDIES), "the studies", 240)
        lay.extend(studies_in(images))
        if trouble_of is not None:
            trouble_of(out)

    others: list[ImageIndex] = []
    trouble = Trouble(beside)
    cohort, folder = write_studies(tmp_path / "data")
    app = write_app(tmp_path / "app", then)
    options = RunOptions(app, engine, 1, data=cohort, images=folder, out=out, production=True)
    try:
        if status is None:
            with pytest.raises(KeyboardInterrupt):
                run(options, trouble)
        else:
            outcome = run(options, trouble)
            assert outcome.status is status, outcome.reason
        trouble.end()
        assert lay == sorted({*STUDIES, *OTHERS})
        assert processes_of(out) == []
        if end == "kill -9":
            assert studies_in(images) == lay
            start_next_job(app, out / "state" / "settings")
        assert studies_in(images) == OTHERS
        assert sorted(path.name for path in (state / "trust" / "archive").glob("[!.]*")) == STUDIES
    finally:
        for other in others:
            other.release()
    assert studies_in(images) == []


def claim_for_another_job(folder: Path, images: Path) -> ImageIndex:
    """A live job of the same site: it uses two studies of this one's, and one of its own, which lies there."""
    index = ImageIndex(folder, images, "another job")
    studies = index.of("another project", (ResourceType.DICOM,))
    studies.claim(OTHERS)
    (images / OTHERS[-1] / "DICOM").mkdir(parents=True)
    (images / OTHERS[-1] / "DICOM" / "1.dcm").write_bytes(b"pixels")
    studies.found(OTHERS[-1], {ResourceType.DICOM: images / OTHERS[-1]})
    return index


def start_next_job(app: Path, settings: Path) -> None:
    """What a job does when its first task comes to the site, with the site's own settings."""
    source = TrustSource(load(ClientSettings, settings / f"{SLOT}.env"))
    session = Session(app, source, job="next")
    until(lambda: studies_in(source.images_root) == OTHERS)
    session.release()


def write_studies(folder: Path) -> tuple[Path, Path]:
    """A cohort of a dozen persons with a study each, and the folder of the studies."""
    for name in STUDIES:
        write_slice(folder / "images" / name / "1.dcm", np.zeros((4, 4), dtype=np.uint16))
    rows = [f"P{number},{name},{number % 2}" for number, name in enumerate(STUDIES)]
    (folder / "cohort.csv").write_text("\n".join(["person_id,accession_id,label", *rows]))
    return folder / "cohort.csv", folder / "images"


def write_app(folder: Path, then: str) -> Path:
    """An app that asks for its images in every task, and then returns, raises or waits."""
    folder.mkdir()
    (folder / "trainer.py").write_text(TRAINER)
    (folder / "models.py").write_text("import torch\n\n\ndef get_model():\n    return torch.nn.Linear(1, 1)\n")
    config = {"job_type": "standard", "GLOBAL_ROUNDS": 1, "LEARNING_RATE": 0.1, "then": then}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
