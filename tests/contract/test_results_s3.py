"""Results in object storage, against a real S3 server that checks secrets."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from flip_fl import FLIP
from flip_fl.errors import FlipError, ResultsUploadError
from flip_fl.results import s3
from flip_fl.results.sending import send
from flip_fl.results.zipped import zip_chunks
from flip_fl.settings import ServerSettings, load
from tests.support.core import clean_environment, server_values, settings_at
from tests.support.s3_server import S3Server

MODEL = UUID("5b1c5a2e-7f2c-4b53-9a3d-2f6f0f7f8a11")


def _settings(server: S3Server, bucket: str, **overrides: object) -> ServerSettings:
    values: dict[str, object] = {
        "FLIP_API_INTERNAL_URL": "http://127.0.0.1:9/api",
        "INTERNAL_SERVICE_KEY": "k",
        **server.environment(bucket),
    }
    return load(ServerSettings, None, **(values | overrides))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("FL_global_model.pt", b"weights")
    return path


def test_a_bundle_is_stored_whole_under_model_and_local_time(server: S3Server, bucket: str, bundle: Path) -> None:
    """The address, size and digest that the hub is told are those of the object that lies in the bucket."""
    stored = s3.ResultsStore(_settings(server, bucket)).upload_zip(bundle, MODEL)
    (key,) = server.keys(bucket)
    assert re.fullmatch(rf"{MODEL}/\d{{8}}_\d{{6}}\.zip", key)
    assert stored.address == f"s3://{bucket}/{key}"
    body = server.client().get_object(Bucket=bucket, Key=key)["Body"].read()
    assert body == bundle.read_bytes()
    assert (stored.size_bytes, stored.sha256) == (len(body), hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize(
    ("given", "prefix"),
    [("", ""), ("/", ""), ("/runs", "runs/"), ("/runs/", "runs/"), ("//a///b//", "a/b/")],
)
def test_no_key_begins_with_a_slash_or_holds_an_empty_part(
    server: S3Server, bucket: str, bundle: Path, given: str, prefix: str
) -> None:
    """A bare bucket once gave keys with a leading slash, which no client could list."""
    settings = _settings(server, bucket, UPLOADED_FEDERATED_DATA_BUCKET=f"s3://{bucket}{given}")
    s3.ResultsStore(settings).upload_zip(bundle, MODEL)
    (key,) = server.keys(bucket)
    assert key.startswith(f"{prefix}{MODEL}/")


def test_a_taken_key_is_never_overwritten(
    server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two uploads within one second used to end under one key, the second over the first."""
    monkeypatch.setattr(s3, "datetime", _Stopped)
    store = s3.ResultsStore(_settings(server, bucket))
    addresses = []
    for number in range(3):
        path = tmp_path / f"{number}.zip"
        path.write_bytes(b"PK run %d" % number)
        addresses.append(store.upload_zip(path, MODEL).address)
    stem = f"s3://{bucket}/{MODEL}/20260102_030405"
    assert addresses == [f"{stem}.zip", f"{stem}-1.zip", f"{stem}-2.zip"]
    for number, address in enumerate(addresses):
        store.download(address, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"PK run %d" % number


@pytest.mark.parametrize("size", [10, 11 << 20], ids=["one request", "parts"])
def test_two_uploads_at_the_same_instant_both_survive(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Looking first is not enough: whoever comes second must be refused by the store, and take another key.

    The store here looks and writes in two steps when parts are joined: now and then both are told that they have the
    key. Who reads back what is another's comes again.
    """
    monkeypatch.setattr(s3, "datetime", _Stopped)
    settings = _settings(server, bucket)
    gate = threading.Barrier(2, timeout=60)

    def upload(letter: bytes) -> s3.Stored:
        first = [True]

        def chunks() -> Iterator[bytes]:
            # Both have found the key free before either sends a byte.
            if first.pop() if first else False:
                gate.wait()
            yield letter * size

        return send(s3.ResultsStore(settings, part_bytes=5 << 20), chunks, MODEL, waits_s=(0.1, 0.1))

    with ThreadPoolExecutor(2) as pool:
        stored = dict(zip((b"a", b"b"), pool.map(upload, (b"a", b"b")), strict=True))
    assert {item.address.rpartition("_")[2] for item in stored.values()} == {"030405.zip", "030405-1.zip"}
    for letter, item in stored.items():
        assert item.sha256 == hashlib.sha256(letter * size).hexdigest()
        key = item.address.removeprefix(f"s3://{bucket}/")
        assert server.client().get_object(Bucket=bucket, Key=key)["Body"].read() == letter * size


def test_a_key_that_went_to_another_is_left_alone(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that writes over a taken key gives it to the later upload: removing that would lose another's results."""
    monkeypatch.setattr(s3, "datetime", _Stopped)
    store = s3.ResultsStore(_settings(server, bucket))
    ours = store.upload(lambda: [b"ours"], MODEL)
    where = {"Bucket": bucket, "Key": ours.address.removeprefix(f"s3://{bucket}/")}
    server.client().put_object(**where, Body=b"theirs", Metadata={"flip-upload": "another"})
    with pytest.raises(ResultsUploadError):
        store.confirm(ours)
    store.discard(ours)
    assert server.client().get_object(**where)["Body"].read() == b"theirs"
    again = send(store, lambda: [b"ours"], MODEL, waits_s=())
    assert again.address.endswith("-1.zip")


def test_a_large_bundle_goes_in_parts_and_comes_back_whole(server: S3Server, bucket: str, tmp_path: Path) -> None:
    """The server's memory holds one part of a bundle, whatever its size."""
    path = tmp_path / "large.zip"
    path.write_bytes(bytes(range(256)) * (48 << 10))  # 12 MiB
    store = s3.ResultsStore(_settings(server, bucket), part_bytes=5 << 20)
    stored = store.upload_zip(path, MODEL)
    fetched = store.download(stored.address, tmp_path / "fetched.zip")
    assert (tmp_path / "fetched.zip").read_bytes() == path.read_bytes()
    assert fetched == stored
    head = server.client().head_object(Bucket=bucket, Key=server.keys(bucket)[0])
    assert head["ETag"].strip('"').endswith("-3"), "it went in one piece"


def test_an_upload_that_breaks_in_the_middle_leaves_nothing_behind(server: S3Server, bucket: str) -> None:
    """Half a bundle under a final key would be taken for results; half-sent parts would be paid for."""

    def broken() -> Iterator[bytes]:
        yield b"x" * (6 << 20)
        raise OSError("the disk went away")

    with pytest.raises(ResultsUploadError) as caught:
        s3.ResultsStore(_settings(server, bucket), part_bytes=5 << 20).upload(broken, MODEL)
    assert isinstance(caught.value.__cause__, OSError)
    assert server.keys(bucket) == []
    assert not server.client().list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_a_wrong_secret_is_refused(server: S3Server, bucket: str, bundle: Path) -> None:
    """A store that took anybody's secret would prove nothing about our credentials."""
    settings = _settings(server, bucket, AWS_SECRET_ACCESS_KEY="not-the-secret")
    with pytest.raises(ResultsUploadError, match="Unexpected failure uploading results to S3") as caught:
        s3.ResultsStore(settings).upload_zip(bundle, MODEL)
    cause = caught.value.__cause__
    assert cause is not None
    text = f"{caught.value} {cause}"
    assert server.secret_key not in text
    assert "not-the-secret" not in text
    assert server.keys(bucket) == []


def test_a_missing_bucket_is_an_error_with_its_cause(server: S3Server, bundle: Path) -> None:
    """The researcher sees one fixed sentence; whoever runs the server finds the reason behind it."""
    with pytest.raises(ResultsUploadError, match="Unexpected failure uploading results to S3") as caught:
        s3.ResultsStore(_settings(server, "no-such-bucket")).upload_zip(bundle, MODEL)
    assert "NoSuchBucket" in repr(caught.value.__cause__)


def test_an_absent_store_is_an_error_with_its_cause(bundle: Path, server: S3Server) -> None:
    """A store that does not answer ends the upload; it does not hang it."""
    settings = _settings(server, "results-bucket", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    with pytest.raises(ResultsUploadError) as caught:
        s3.ResultsStore(settings).upload_zip(bundle, MODEL)
    assert "EndpointConnectionError" in repr(caught.value.__cause__)
    assert s3.is_passing(caught.value)


@pytest.mark.parametrize(
    "address", ["", "results.zip", "s3://bucket", "s3://bucket/", "s3://bucket//key", "https://x/y"]
)
def test_what_is_no_address_is_not_fetched(server: S3Server, bucket: str, tmp_path: Path, address: str) -> None:
    """An address comes from a hub's row: it is read strictly before anybody is asked."""
    with pytest.raises(FlipError) as caught:
        s3.ResultsStore(_settings(server, bucket)).download(address, tmp_path / "x.zip")
    assert caught.value.code == "E0702"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_object_leaves_no_file(server: S3Server, bucket: str, tmp_path: Path) -> None:
    """A file appears only once it is complete."""
    with pytest.raises(FlipError, match="cannot be fetched"):
        s3.ResultsStore(_settings(server, bucket)).download(f"s3://{bucket}/gone.zip", tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_streamed_as_a_zip_with_everything_at_its_root(
    server: S3Server, bucket: str, tmp_path: Path
) -> None:
    """All of the folder's contents, tensors stored as they are, without a second copy on the disk."""
    folder = tmp_path / "results"
    (folder / "cross_site_val").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "FL_global_model.pt").write_bytes(bytes(100_000))
    (folder / "cross_site_val" / "cross_val_results.json").write_text("{}" * 5000)
    (folder / ".hidden").write_text("also")
    s3.ResultsStore(_settings(server, bucket)).upload(lambda: zip_chunks(folder), MODEL)
    body = server.client().get_object(Bucket=bucket, Key=server.keys(bucket)[0])["Body"].read()
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
        assert archive.read("cross_site_val/cross_val_results.json") == b"{}" * 5000
        assert archive.read("FL_global_model.pt") == bytes(100_000)
    assert set(kinds) == {"FL_global_model.pt", "cross_site_val/cross_val_results.json", ".hidden", "empty/"}
    assert kinds["FL_global_model.pt"] == zipfile.ZIP_STORED
    assert kinds["cross_site_val/cross_val_results.json"] == zipfile.ZIP_DEFLATED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


def test_the_client_uploads_all_of_a_folder_and_leaves_no_copy(
    server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`upload_results_to_s3` through the real store; neither key appears in what it logs."""
    clean_environment(monkeypatch)
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "FL_global_model.pt").write_bytes(b"weights")
    (folder / ".env").write_text("what to leave out is the bundle builder's business")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    values = server_values("http://127.0.0.1:9/api", **server.environment(bucket))
    flip = FLIP(role="server", settings_file=settings_at(tmp_path / "settings", values))
    assert flip.upload_results_to_s3(str(folder), str(MODEL).upper()) is None  # type: ignore[func-returns-value]
    (key,) = server.keys(bucket)
    assert key.startswith(f"{MODEL}/")
    body = server.client().get_object(Bucket=bucket, Key=key)["Body"].read()
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == [".env", "FL_global_model.pt"]
    logged = capsys.readouterr().err
    assert f"s3://{bucket}/{key}" in logged
    assert server.secret_key not in logged
    assert server.access_key not in logged


@pytest.mark.parametrize("target", ["/etc/hostname", "/etc", "../secret"])
def test_a_link_out_of_the_folder_is_not_uploaded(server: S3Server, bucket: str, tmp_path: Path, target: str) -> None:
    """A job's code could else put any file of the server into its results."""
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "link").symlink_to(target)
    with pytest.raises(ResultsUploadError) as caught:
        s3.ResultsStore(_settings(server, bucket)).upload(lambda: zip_chunks(folder), MODEL)
    assert isinstance(caught.value.__cause__, FlipError)
    assert caught.value.__cause__.code == "E0704"
    assert server.keys(bucket) == []


def test_links_within_the_folder_are_stored_as_what_they_point_to(tmp_path: Path) -> None:
    """And a folder that is linked to itself does not go round in circles."""
    folder = tmp_path / "results"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "model.pt").write_bytes(b"weights")
    (folder / "best.pt").symlink_to("sub/model.pt")
    (folder / "sub" / "loop").symlink_to("..")
    with zipfile.ZipFile(io.BytesIO(b"".join(zip_chunks(folder)))) as archive:
        assert archive.namelist() == ["best.pt", "sub/model.pt"]
        assert archive.read("best.pt") == b"weights"


def test_make_bucket_makes_a_bucket_that_can_be_written_to(server: S3Server, bundle: Path) -> None:
    """The simulator prepares its own store with nothing but this."""
    name = f"made-{uuid4().hex[:12]}"
    s3.make_bucket(server.endpoint, server.access_key, server.secret_key, "us-east-1", name)
    assert s3.ResultsStore(_settings(server, name)).upload_zip(bundle, MODEL).size_bytes == bundle.stat().st_size


class _Stopped:
    """A clock that stands still."""

    @staticmethod
    def now() -> _Stopped:
        return _Stopped()

    @staticmethod
    def strftime(layout: str) -> str:
        assert layout == "%Y%m%d_%H%M%S"
        return "20260102_030405"
