"""Files that a model made, stored one by one: what became of each is known, whatever became of the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from flip_fl.app.faults import TaskAborted
from flip_fl.data.uploads import upload
from flip_fl.errors import FlipError
from tests.support.app import TableSource, metrics_of, run, write_app
from tests.support.imaging import Imaging, imaging
from tests.support.recording_server import Answer

CANARY = "ACC-CANARY-0001"
ANSWERS = {
    "stored": Answer(200, ["http://x/stored"]),
    "stored-too": Answer(201, ["http://x/stored"]),
    "out": Answer(400, {"detail": "canary-body"}),
    "key": Answer(401),
    "gone": Answer(404, {"detail": "canary-body"}),
    "there": Answer(500, {"detail": "canary-body"}),
    "teapot": Answer(418),
    "away": Answer(hang_up=True),
}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Imaging]:
    """A service that answers each file as ``ANSWERS`` says."""
    with imaging(tmp_path) as running:
        running.server.answer = lambda request: ANSWERS[Path(request.json["files"][0]).stem]
        yield running


def test_each_file_has_an_outcome_of_its_own(service: Imaging, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal keeps no other file from being stored, says why in our words, and nothing shown names a file."""
    files = [f"{CANARY}/{name}.nii" for name in ANSWERS]
    outcomes = upload(service.source, "project", CANARY, "1", "SEG", files)
    assert [request.json["files"] for request in service.server.requests] == [[file] for file in files]
    assert [outcome.file for outcome in outcomes] == files
    assert [outcome.problem for outcome in outcomes] == [
        None,
        None,
        "refused: it leads out of the upload folder",
        "the key was refused",
        "no such project or study",
        "the file is missing, or one of that name is there already",
        "HTTP 418",
        "no answer: it may be stored or not",
    ]
    assert [outcome.stored for outcome in outcomes] == [True, True, *[False] * 6]
    assert "canary" not in f"{outcomes} {caplog.text}".lower()


@pytest.mark.parametrize(("study", "file"), [("a/b", "x.nii"), (CANARY, "../x.nii"), (CANARY, "/etc/x.nii")])
def test_what_leads_out_is_refused_before_anything_is_stored(service: Imaging, study: str, file: str) -> None:
    """Half of the files of a study stored and the rest refused for a typing mistake would be hard to mend."""
    with pytest.raises(FlipError) as refused:
        upload(service.source, "project", study, "1", "SEG", ["stored.nii", file])
    assert "CANARY" not in refused.value.text()
    assert service.server.requests == []


def test_a_run_that_is_stopped_stores_nothing_more(service: Imaging) -> None:
    """Between two files, not after the last of a thousand."""

    def check() -> None:
        if service.server.requests:
            raise TaskAborted

    with pytest.raises(TaskAborted):
        upload(service.source, "project", CANARY, "1", "SEG", ["stored.nii", "stored-too.nii"], check=check)
    assert len(service.server.requests) == 1


def test_an_app_stores_what_its_model_made(tmp_path: Path) -> None:
    """``site.add_resource`` takes the job's project, and the app sees which files were stored."""
    stored: list[tuple[object, ...]] = []

    class Storing(TableSource):
        def add_resource(self, *given: object) -> None:
            stored.append(given)

    trainer = """
        def train(model, site, config):
            outcomes = site.add_resource("0001", "1", "SEG", ["a.nii.gz", "b.nii.gz"])
            site.log("stored", sum(outcome.stored for outcome in outcomes))
            return {"num_examples": 1}
    """
    source = Storing(pd.DataFrame({"accession_id": ["0001"]}))
    result = run(write_app(tmp_path / "app", trainer=trainer), source=source)
    assert result.failure is None
    assert ("stored", 2) in metrics_of(result)
    assert stored == [("", "0001", "1", "SEG", ["a.nii.gz"]), ("", "0001", "1", "SEG", ["b.nii.gz"])]


def test_files_are_named_from_the_upload_folder_wherever_an_app_has_put_them(tmp_path: Path) -> None:
    """The path that an app wrote to is the name that the service takes; a path elsewhere is refused before anything."""
    stored: list[object] = []

    class Storing(TableSource):
        def add_resource(self, *given: object) -> None:
            stored.append(given[-1])

    trainer = """
        def train(model, site, config):
            made = site.upload_dir / "1" / "a.nii.gz"
            made.parent.mkdir()
            made.write_text("a mask")
            site.add_resource("0001", "1", "SEG", [made, str(made), "1/a.nii.gz"])
            try:
                site.add_resource("0001", "1", "SEG", [made.parents[2] / "elsewhere.nii.gz"])
            except Exception as error:
                site.log("refused", float(error.code == "E0704"))
            return {"num_examples": 1}
    """
    source = Storing(pd.DataFrame({"accession_id": ["0001"]}))
    (tmp_path / "state").mkdir()
    source.state_dir = tmp_path / "state"  # type: ignore[assignment]
    result = run(write_app(tmp_path / "app", trainer=trainer), source=source)
    assert result.failure is None
    assert stored == [["1/a.nii.gz"]] * 3
    assert ("refused", 1) in metrics_of(result)
    assert (tmp_path / "state" / "upload" / "1" / "a.nii.gz").read_text() == "a mask"
