"""The end of a run that has a model."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import zipfile
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from flip_fl.errors import FlipError, ResultsUploadError
from flip_fl.results import delivery
from flip_fl.results.contents import EVALUATED, TRAINED, Item, Kind
from flip_fl.results.delivery import Delivery, DeliveryStopped, deliver, tidy
from flip_fl.results.model_folder import BEST_MODEL, GLOBAL_MODEL, ModelFolder
from flip_fl.results.verify import verify
from flip_fl.settings import ServerSettings, load
from tests.support.app import ARRAYS, write_app
from tests.support.disks import small_disk

MODEL = UUID("5b1c5a2e-7f2c-4b53-9a3d-2f6f0f7f8a11")
HISTORY = {"validate": {"1": {"Trust_1": {"auc": 0.5}}, "2": {"Trust_1": {"auc": 0.75}}}}


def delivery_of(tmp_path: Path, settings: ServerSettings | None = None, **changes: Any) -> Delivery:
    """The end of a run with a global model and a best one."""
    models = ModelFolder(tmp_path / "models")
    models.save(GLOBAL_MODEL, {name: array + 2 for name, array in ARRAYS.items()})
    models.save(BEST_MODEL, ARRAYS)
    models.save_history(HISTORY)
    app = write_app(tmp_path / "app")
    this = Delivery(models, app, MODEL, 2, tmp_path / "work", tmp_path / "state", settings)
    return dataclasses.replace(this, **changes)


def nowhere() -> ServerSettings:
    """A store whose address nobody answers at."""
    return load(
        ServerSettings,
        None,
        FLIP_API_INTERNAL_URL="http://127.0.0.1:9/api",
        INTERNAL_SERVICE_KEY="k",
        UPLOADED_FEDERATED_DATA_BUCKET="s3://results",
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="a",
        AWS_SECRET_ACCESS_KEY="b",
        AWS_DEFAULT_REGION="us-east-1",
    )


def test_the_models_go_from_the_servers_files_into_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delivering process reads no array: a model may be larger than what memory it has."""
    this = delivery_of(tmp_path)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("the arrays were read"))
    stored = deliver(this, lambda: False)
    assert stored.address == str(tmp_path / "state" / "results" / f"{MODEL}.zip")
    verified = verify(Path(stored.address), TRAINED)
    assert verified.models == ("FL_global_model.pt", "best_FL_global_model.pt")
    with zipfile.ZipFile(stored.address) as archive:
        assert json.loads(archive.read("metrics.json")) == HISTORY
        assert json.loads(archive.read("cross_site_val/cross_val_results.json")) == {
            "Trust_1": {"SRV_FL_global_model.pt": {"auc": 0.75}}
        }
    assert not list((tmp_path / "work").rglob("*.zip"))


def test_an_evaluation_delivers_its_documents_and_no_model(tmp_path: Path) -> None:
    """What a job's contents do not name stays out, a model that lies there included, and is named as left out."""
    files = {item.name: tmp_path / Path(item.name).name for item in EVALUATED.items if item.required}
    scores, failures = files.values()
    scores.write_text('{"Trust_1": {"SRV_net": {"num_examples": 4, "auc": 0.5}}}')
    failures.write_text("[]")
    stored = deliver(delivery_of(tmp_path, contents=EVALUATED, files=files), lambda: False)
    verified = verify(Path(stored.address), EVALUATED)
    assert verified.models == ()
    assert set(files) <= set(verified.manifest.files)
    assert "FL_global_model.pt: not part of the results" in verified.manifest.left_out


@pytest.mark.parametrize(
    ("name", "words"),
    [("FL_global_model_ae.pt", "the server has no FL_global_model_ae.pt"), ("samples/a.png", "there is no samples/a")],
)
def test_what_the_contents_require_must_be_there(tmp_path: Path, name: str, words: str) -> None:
    """A job of two stages that lost one of its models is no success."""
    kind = Kind.MODEL if name.endswith(".pt") else Kind.PICTURE
    contents = TRAINED.plus(Item(name, kind, required=True))
    with pytest.raises(FlipError, match=words) as caught:
        deliver(delivery_of(tmp_path, contents=contents), lambda: False)
    assert caught.value.code == "E0702"


def test_a_bundle_that_no_store_takes_is_kept_here(tmp_path: Path) -> None:
    """What took days to train outlives a bucket that is away, and the reason says where it is."""
    with pytest.raises(ResultsUploadError, match=f"keeps them in its state folder, results/{MODEL}.zip") as caught:
        deliver(delivery_of(tmp_path, nowhere(), waits_s=()), lambda: False)
    assert "EndpointConnectionError" in repr(caught.value.__cause__)
    assert verify(tmp_path / "state" / "results" / f"{MODEL}.zip").models[0] == "FL_global_model.pt"
    assert list((tmp_path / "state" / "results").iterdir()) == [tmp_path / "state" / "results" / f"{MODEL}.zip"]


def test_a_run_that_is_stopped_keeps_nothing(tmp_path: Path) -> None:
    """A person who stops a run does not want its results: none is stored, none is kept."""
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(DeliveryStopped):
        deliver(delivery_of(tmp_path, nowhere()), stopped)
    assert not (tmp_path / "state").exists()


def test_a_model_that_went_before_it_was_stored_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was checked is what is stored: a file that changes in between ends the run with that reason."""
    looked = delivery.check

    def and_then_it_changes(bundle: Any, **how: Any) -> None:
        looked(bundle, **how)
        path = tmp_path / "work" / "contents" / "FL_global_model.pt"
        path.write_bytes(path.read_bytes()[:-1] + b"x")

    monkeypatch.setattr(delivery, "check", and_then_it_changes)
    with pytest.raises(FlipError, match=r"copy of FL_global_model\.pt was changed before it was stored"):
        deliver(delivery_of(tmp_path), lambda: False)
    assert list((tmp_path / "state" / "results").iterdir()) == []


def test_a_full_disk_on_the_server_is_told_as_such(tmp_path: Path) -> None:
    """Not as a mistake in the researcher's models.py."""
    with small_disk(tmp_path / "disk", kib=16) as disk:
        models = "import torch\n\ndef get_model():\n    return torch.nn.Linear(100, 100)\n"
        this = delivery_of(tmp_path, work=disk / "work", app_dir=write_app(tmp_path / "large", models=models))
        arrays = {"weight": np.zeros((100, 100), np.float32), "bias": np.zeros(100, np.float32)}
        for name in (GLOBAL_MODEL, BEST_MODEL):
            this.models.save(name, arrays)
        with pytest.raises(FlipError, match="the server cannot write the model") as caught:
            deliver(this, lambda: False)
        assert caught.value.code == "E0702"
        assert not list(disk.rglob("*.pt*"))


def test_a_failing_clean_up_is_told_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder that cannot be removed is a sentence beside the outcome, never an exception.

    The failing removal is simulated: the tests may run as root, whom no file mode stops.
    """

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "work").mkdir()
    monkeypatch.setattr(shutil, "rmtree", refuse)
    problems = tidy([tmp_path / "work", tmp_path / "not there"])
    assert problems == ["clean-up: work could not be removed (Permission denied)"]


def test_a_link_in_place_of_a_folder_is_told_and_not_followed(tmp_path: Path) -> None:
    """Somebody who moved the folder to another disk reads why it is still there; what it leads to is not touched."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.npz").touch()
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere")
    assert tidy([tmp_path / "model"]) == [
        "clean-up: model could not be removed (Cannot call rmtree on a symbolic link)"
    ]
    assert (tmp_path / "elsewhere" / "model.npz").is_file()


def test_what_somebody_else_removes_meanwhile_leaves_nothing_behind(tmp_path: Path) -> None:
    """A cleaner that runs beside the server's own clean-up does not keep it from removing the rest."""
    folder = tmp_path / "work"
    folder.mkdir()
    for number in range(3_000):
        (folder / str(number)).touch()

    def remove_too() -> None:
        for number in range(3_000):
            (folder / str(number)).unlink(missing_ok=True)

    other = threading.Thread(target=remove_too)
    other.start()
    problems = tidy([folder])
    other.join()
    assert problems == []
    assert not folder.exists()
