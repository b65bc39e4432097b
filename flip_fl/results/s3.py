"""Results in object storage: streamed there under a key of their own, never over another run's."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flip_fl.errors import FlipError, ResultsUploadError
from flip_fl.settings import ServerSettings

if TYPE_CHECKING:
    from pydantic import SecretStr

# S3 wants at least 5 MiB a part and at most 10,000 parts: this is good for 160 GB, with one part in memory.
PART_BYTES = 16 << 20
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
ATTEMPTS = 4
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{2,62})/(?P<key>[^/].*)")


@dataclass(frozen=True)
class Stored:
    """Where a bundle lies (``s3://bucket/key``) and what was sent: bytes and their SHA-256 in hexadecimal."""

    address: str
    size_bytes: int
    sha256: str


class ResultsStore:
    """The bucket that ``UPLOADED_FEDERATED_DATA_BUCKET`` names, with the server's own credentials or boto3's."""

    def __init__(self, settings: ServerSettings, *, part_bytes: int = PART_BYTES) -> None:
        """Raises ``FlipError`` E0509 without the extra ``s3``."""
        require_s3()
        self._settings = settings
        self._part_bytes = part_bytes
        bucket, _, prefix = settings.results_bucket.removeprefix("s3://").partition("/")
        self.bucket = bucket
        self._prefix = [part for part in prefix.split("/") if part]

    def upload_zip(self, zip_path: Path, model_id: UUID) -> Stored:
        """Stream the file to ``<prefix>/<model_id>/<YYYYmmdd_HHMMSS>.zip`` (local time); a taken key gets -1, -2, ….

        Raises ``ResultsUploadError`` with the cause chained.
        """
        return self.upload(lambda: _read(zip_path), model_id)

    def upload(self, chunks: Callable[[], Iterable[bytes]], model_id: UUID) -> Stored:
        """As ``upload_zip``, for a zip that ``chunks()`` yields from its beginning each time it is called."""
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
        try:
            client = _client(self._settings)
            for number in itertools.count():
                name = f"{stamp}-{number}.zip" if number else f"{stamp}.zip"
                key = "/".join([*self._prefix, str(model_id), name])
                if self._is_taken(client, key):
                    continue
                stored = self._put(client, key, chunks())
                if stored is not None:
                    return stored
        except Exception as error:
            raise ResultsUploadError from error
        raise AssertionError("unreachable: itertools.count() does not end")

    def download(self, address: str, path: Path) -> Stored:
        """Fetch ``address`` to ``path``, which appears only once it is complete.

        Raises ``FlipError`` E0702 for an address that is none or cannot be fetched.
        """
        parts = _ADDRESS.fullmatch(address)
        if parts is None:
            raise FlipError(
                "E0702", bundle=address, problem="not an address", suggestion="addresses read s3://bucket/key"
            )
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        digest, size = hashlib.sha256(), 0
        try:
            body = _client(self._settings).get_object(Bucket=parts["bucket"], Key=parts["key"])["Body"]
            with partial.open("wb") as out:
                for piece in body.iter_chunks(1 << 20):
                    digest.update(piece)
                    size += out.write(piece)
            partial.replace(path)
        except Exception as error:
            raise FlipError(
                "E0702",
                bundle=address,
                problem=f"it cannot be fetched ({_code(error) or type(error).__name__})",
                suggestion="check the address and the AWS_* settings",
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return Stored(address, size, digest.hexdigest())

    def discard(self, address: str) -> None:
        """Remove a bundle that is nobody's result, as far as these credentials may: never raises."""
        parts = _ADDRESS.fullmatch(address)
        if parts is not None:
            with contextlib.suppress(Exception):
                _client(self._settings).delete_object(Bucket=parts["bucket"], Key=parts["key"])

    def _is_taken(self, client: Any, key: str) -> bool:
        """Whether the key exists, as far as these credentials may know; ``_put`` makes sure where the store can."""
        from botocore.exceptions import ClientError

        try:
            client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            # A role that may only write is answered 403 for a key that is free; a bucket that is missing is told
            # from a key that is by the upload itself.
            if _code(error) in ("404", "NoSuchKey", "NotFound", "NoSuchBucket", "403", "AccessDenied", "Forbidden"):
                return False
            raise
        return True

    def _put(self, client: Any, key: str, chunks: Iterable[bytes]) -> Stored | None:
        """Store the chunks, or return None when somebody else took the key meanwhile."""
        from botocore.exceptions import ClientError

        digest, size = hashlib.sha256(), 0
        parts = _parts(chunks, self._part_bytes)
        part = next(parts, b"")
        following = next(parts, None)
        where = {"Bucket": self.bucket, "Key": key}
        try:
            if following is None:
                digest.update(part)
                size = len(part)
                client.put_object(**where, Body=part, ContentType="application/zip", IfNoneMatch="*")
            else:
                with _Parts(client, where) as upload:
                    for piece in itertools.chain([part, following], parts):
                        digest.update(piece)
                        size += len(piece)
                        upload.add(piece)
                    upload.complete()
        except ClientError as error:
            if _code(error) in _TAKEN:
                return None
            raise
        return Stored(f"s3://{self.bucket}/{key}", size, digest.hexdigest())


class _Parts:
    """An upload in parts that leaves nothing behind unless ``complete`` was reached."""

    def __init__(self, client: Any, where: dict[str, str]) -> None:
        self._client = client
        self._where = where
        self._etags: list[dict[str, Any]] = []
        self._done = False

    def __enter__(self) -> _Parts:
        self._id = self._client.create_multipart_upload(**self._where, ContentType="application/zip")["UploadId"]
        return self

    def add(self, piece: bytes) -> None:
        number = len(self._etags) + 1
        answer = self._client.upload_part(**self._where, UploadId=self._id, PartNumber=number, Body=piece)
        self._etags.append({"PartNumber": number, "ETag": answer["ETag"]})

    def complete(self) -> None:
        self._client.complete_multipart_upload(
            **self._where, UploadId=self._id, MultipartUpload={"Parts": self._etags}, IfNoneMatch="*"
        )
        self._done = True

    def __exit__(self, *exc_info: object) -> None:
        if not self._done:
            self._client.abort_multipart_upload(**self._where, UploadId=self._id)


def make_bucket(endpoint: str, access_key: str, secret_key: str, region: str, bucket: str) -> None:
    """Make ``bucket`` on the S3 server at ``endpoint``. Raises what boto3 raises."""
    import boto3

    boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=region,
        config=_config(path_style=True),
    ).create_bucket(Bucket=bucket)


def require_s3() -> None:
    """Raises ``FlipError`` E0509, naming the ``pip install``, where results cannot be uploaded."""
    if find_spec("boto3") is None:
        raise FlipError(
            "E0509",
            part="object storage (boto3)",
            needed_for="an FL server uploads a run's results; without it the run would fail after training",
            requirement="flip_fl[s3]",
        )


def _client(settings: ServerSettings) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        aws_access_key_id=_secret(settings.s3_access_key),
        aws_secret_access_key=_secret(settings.s3_secret_key),
        aws_session_token=_secret(settings.s3_session_token),
        region_name=settings.s3_region,
        config=_config(path_style=settings.s3_endpoint is not None),
    )


def _config(*, path_style: bool) -> Any:
    from botocore.config import Config

    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        # A server of one's own rarely has a DNS name for every bucket.
        s3={"addressing_style": "path" if path_style else "auto"},
    )


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _code(error: BaseException) -> str:
    answer = getattr(error, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while piece := source.read(1 << 20):
            yield piece


def _parts(chunks: Iterable[bytes], part_bytes: int) -> Iterator[bytes]:
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= part_bytes:
            yield bytes(held[:part_bytes])
            del held[:part_bytes]
    if held:
        yield bytes(held)
