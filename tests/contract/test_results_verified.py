"""The end of a run that has a model, against a real S3 server: what is stored is what was verified, or nothing is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from flip_fl.app import weights
from flip_fl.errors import FlipError
from flip_fl.results.delivery import Delivery, DeliveryStopped, deliver
from flip_fl.results.model_folder import GLOBAL_MODEL, ModelFolder
from flip_fl.results.verify import verify
from flip_fl.settings import ServerSettings, load
from tests.support.s3_server import S3Server
from tests.support.small_apps import write_app

MODEL = UUID("5b1c5a2e-7f2c-4b53-9a3d-2f6f0f7f8a11")


@pytest.fixture
def delivery(server: S3Server, bucket: str, tmp_path: Path) -> Delivery:
    """A small app's starting model, to be delivered."""
    app, models = write_app(tmp_path / "app"), ModelFolder(tmp_path / "models")
    models.save(GLOBAL_MODEL, weights.initial_arrays(app))
    values = {"FLIP_API_INTERNAL_URL": "http://127.0.0.1:9/api", "INTERNAL_SERVICE_KEY": "k"}
    settings = load(ServerSettings, None, **values, **server.environment(bucket))
    return Delivery(models, app, MODEL, 1, tmp_path / "work", tmp_path / "state", settings)


def at_question(number: int, act: Callable[[], bool]) -> Callable[[], bool]:
    """A stop that is asked for again and again, and does ``act`` the ``number``-th time: its answer is the stop's."""
    asked = []

    def stopped() -> bool:
        asked.append(1)
        return act() if len(asked) == number else False

    return stopped


# How often a stop was asked for when the bundle has been verified.
VERIFIED = 3


def test_what_is_delivered_loads(server: S3Server, bucket: str, delivery: Delivery, tmp_path: Path) -> None:
    """The one object of the bucket is a bundle whose model loads, at the address that is told."""
    stored = deliver(delivery, lambda: False)
    (key,) = server.keys(bucket)
    assert stored.address == f"s3://{bucket}/{key}"
    fetched = tmp_path / "fetched.zip"
    fetched.write_bytes(server.client().get_object(Bucket=bucket, Key=key)["Body"].read())
    assert verify(fetched).models == ("FL_global_model.pt",)


def test_a_bundle_that_changes_after_it_was_verified_is_no_success_and_does_not_stay(
    server: S3Server, bucket: str, delivery: Delivery
) -> None:
    """What is compared is what was verified, not what lies on the disk when it is sent: a bad disk is told."""

    def spoil() -> bool:
        path = delivery.work / "contents" / "FL_global_model.pt"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        return False

    with pytest.raises(FlipError, match="was changed before it was stored") as error:
        deliver(delivery, at_question(VERIFIED, spoil))
    assert error.value.code == "E0702"
    assert server.keys(bucket) == []


def test_a_bundle_that_goes_before_it_is_stored_is_a_missing_model_and_no_failed_upload(
    server: S3Server, bucket: str, delivery: Delivery
) -> None:
    """RESULTS_UPLOAD_FAILED says that there is a model: where its last copy is gone, that would not be true."""

    def lose() -> bool:
        (delivery.work / "contents" / "FL_global_model.pt").unlink()
        return False

    with pytest.raises(FlipError, match="went before it was stored") as error:
        deliver(delivery, at_question(VERIFIED, lose))
    assert error.value.code == "E0702"
    assert server.keys(bucket) == []


def test_a_run_that_is_stopped_when_all_is_stored_leaves_nothing_in_the_bucket(
    server: S3Server, bucket: str, delivery: Delivery
) -> None:
    """A stopped run has no results: what was stored a moment before is removed."""
    there: list[str] = []

    def stopped() -> bool:
        there.extend(server.keys(bucket))
        return bool(there)

    with pytest.raises(DeliveryStopped):
        deliver(delivery, stopped)
    assert len(set(there)) == 1
    assert server.keys(bucket) == []
