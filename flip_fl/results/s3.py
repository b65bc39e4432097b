"""Results in object storage: streamed there under a key of their own, never over another run's."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flip_fl.errors import FlipError, ResultsUploadError
from flip_fl.results.lanes import Lane, settled
from flip_fl.results.parts import Buffers, Check, Digest, PartsUpload, cut
from flip_fl.settings import ServerSettings

if TYPE_CHECKING:
    from pydantic import SecretStr

# What is in memory is WORKERS + 1 parts. S3 takes at most 10,000 of them, and all but the last must be equally long.
PART_BYTES = 8 << 20
MAX_PARTS = 9_000
WORKERS = 2
READ_BYTES = 1 << 20
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
ATTEMPTS = 4
# A stopped run ends within seconds, whatever the store does.
DISCARD_S = 5.0
_UPLOAD = "flip-upload"
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409", "NoSuchUpload"})
_PASSING = frozenset({"RequestTimeout", "SlowDown", "BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"})
_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{2,62})/(?P<key>[^/].*)")


@dataclass(frozen=True)
class Stored:
    """Where a bundle lies (``s3://bucket/key``) and what was sent: bytes and their SHA-256 in hexadecimal.

    ``token``: what its upload was marked with, by which it is told from another's under the same key.
    """

    address: str
    size_bytes: int
    sha256: str
    token: str = field(default="", compare=False, repr=False)


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

    def upload(
        self,
        chunks: Callable[[], Iterable[bytes]],
        model_id: UUID,
        *,
        size_bytes: int = 0,
        check: Check = lambda: None,
    ) -> Stored:
        """As ``upload_zip``, for a zip that ``chunks()`` yields from its beginning each time it is called.

        ``size_bytes``: about how large it is, where that is known. ``check`` is asked all the while, and may raise.
        """
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
        key, token = "", secrets.token_hex(16)
        try:
            with self._at_work(check) as at:
                for number in itertools.count():
                    name = f"{stamp}-{number}.zip" if number else f"{stamp}.zip"
                    key = "/".join([*self._prefix, str(model_id), name])
                    if self._is_taken(at, key):
                        continue
                    part_bytes = max(self._part_bytes, -(-size_bytes // MAX_PARTS))
                    stored = self._put(at, key, token, chunks(), part_bytes)
                    if stored is not None:
                        return stored
        except Exception as error:
            if not isinstance(error, _boto_errors()):
                # Stopped from here, maybe in the moment in which the store had it all.
                self._discard_own({"Bucket": self.bucket, "Key": key}, token)
            raise ResultsUploadError from error
        raise AssertionError("unreachable: itertools.count() does not end")

    def confirm(self, stored: Stored, check: Check = lambda: None) -> None:
        """Read what is stored back and compare it with what was sent; what differs is removed again.

        Some stores look for a taken key and write it in two steps, so that of two uploads at one instant the later
        one lies there: that is another run's, and stays.
        Raises ``ResultsUploadError``, with the cause chained when it cannot be read.
        """
        from botocore.exceptions import FlexibleChecksumError

        try:
            with self._at_work(check) as at:
                digest, where = Digest(at.hashing), _where(stored.address)
                with contextlib.suppress(FlexibleChecksumError):
                    for piece in _pieces(at, where):
                        digest.update(piece)
                    same = (digest.size_bytes, digest.hexdigest()) == (stored.size_bytes, stored.sha256)
                    if same and _token_at(at, where) == stored.token:
                        return
                if _token_at(at, where) == stored.token:
                    at.ask("delete_object", **where)
        except Exception as error:
            raise ResultsUploadError from error
        raise ResultsUploadError("the stored results are not the bytes that were sent")

    def download(self, address: str, path: Path) -> Stored:
        """Fetch ``address`` to ``path``, which appears only once it is complete.

        Raises ``FlipError`` E0702 for an address that is none or cannot be fetched.
        """
        where = _where(address)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with self._at_work(lambda: None) as at, partial.open("wb") as out:
                digest = Digest(at.hashing)
                for piece in _pieces(at, where):
                    digest.update(piece)
                    out.write(piece)
                fetched = Stored(address, digest.size_bytes, digest.hexdigest())
            partial.replace(path)
        except Exception as error:
            reason = _code(error) or getattr(error, "strerror", None) or type(error).__name__
            raise FlipError(
                "E0702",
                bundle=address,
                problem=f"it cannot be fetched ({reason})",
                suggestion="check the address and the AWS_* settings",
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return fetched

    def discard(self, stored: Stored) -> None:
        """Remove a bundle that is nobody's result, as far as these credentials may; gives up soon, never raises."""
        with contextlib.suppress(Exception):
            self._discard_own(_where(stored.address), stored.token)

    @cached_property
    def _client(self) -> Any:
        import boto3

        settings = self._settings
        return boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            aws_access_key_id=_secret(settings.s3_access_key),
            aws_secret_access_key=_secret(settings.s3_secret_key),
            aws_session_token=_secret(settings.s3_session_token),
            region_name=settings.s3_region,
            config=_config(path_style=settings.s3_endpoint is not None),
        )

    @contextlib.contextmanager
    def _at_work(self, check: Check) -> Iterator[_AtWork]:
        with Lane(WORKERS) as requests, Lane() as hashing:
            yield _AtWork(self._client, requests, hashing, check)

    def _is_taken(self, at: _AtWork, key: str) -> bool:
        """Whether the key exists, as far as these credentials may know; ``_put`` makes sure where the store can."""
        from botocore.exceptions import ClientError

        try:
            at.ask("head_object", Bucket=self.bucket, Key=key)
        except ClientError as error:
            # A role that may only write is answered 403 for a key that is free; a bucket that is missing is told
            # from a key that is by the upload itself.
            if _code(error) in ("404", "NoSuchKey", "NotFound", "NoSuchBucket", "403", "AccessDenied", "Forbidden"):
                return False
            raise
        return True

    def _discard_own(self, where: dict[str, str], token: str) -> None:
        with contextlib.suppress(Exception), self._at_work(_for(DISCARD_S)) as at:
            if self._is_from(at, where, token):
                at.ask("delete_object", **where)

    def _put(self, at: _AtWork, key: str, token: str, chunks: Iterable[bytes], part_bytes: int) -> Stored | None:
        """Store the chunks, or return None when somebody else took the key meanwhile."""
        from botocore.exceptions import ClientError

        digest, buffers = Digest(at.hashing), Buffers(WORKERS + 1, part_bytes)
        parts = cut(chunks, buffers, digest, at.check)
        first, second = next(parts, None), next(parts, None)
        where = {"Bucket": self.bucket, "Key": key}
        facts: dict[str, Any] = {"ContentType": "application/zip", "Metadata": {_UPLOAD: token}}
        try:
            if second is None:
                at.ask("put_object", **where, **facts, Body=b"" if first is None else first.body, IfNoneMatch="*")
            else:
                with PartsUpload(at.client, where, buffers, at.requests, at.check) as upload:
                    upload.begin(**facts)
                    for part in itertools.chain([first, second], parts):
                        if part is not None:
                            upload.add(part)
                    upload.complete(IfNoneMatch="*")
        except ClientError as error:
            if _code(error) not in _TAKEN:
                raise
            # A request whose answer was lost is made again, and then finds its own object in the way.
            if not self._is_from(at, where, token):
                if _code(error) == "NoSuchUpload":
                    raise
                return None
        return Stored(f"s3://{self.bucket}/{key}", digest.size_bytes, digest.hexdigest(), token)

    def _is_from(self, at: _AtWork, where: dict[str, str], token: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            return _token_at(at, where) == token
        except ClientError:
            return False


def is_passing(error: ResultsUploadError) -> bool:
    """Whether the same upload may well succeed a little later: the store was away, busy, or got something else."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, IncompleteReadError, SSLError

    cause = error.__cause__
    if cause is None:
        return True  # what was stored was not what was sent
    if isinstance(cause, ClientError):
        status = int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status >= 500 or status == 429 or _code(cause) in _PASSING
    return isinstance(cause, ConnectionError | HTTPClientError | IncompleteReadError) and not isinstance(
        cause, SSLError
    )


def _for(seconds: float) -> Check:
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise TimeoutError

    return check


def _boto_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError


def make_bucket(endpoint: str, access_key: str, secret_key: str, region: str, bucket: str) -> None:
    """Make ``bucket`` on the S3 server at ``endpoint``. Raises what boto3 raises."""
    _client_of(endpoint, access_key, secret_key, region, _config(path_style=True)).create_bucket(Bucket=bucket)


def takes_objects(endpoint: str, access_key: str, secret_key: str, region: str) -> bool:
    """Whether the S3 server at ``endpoint`` gives an object back; asked once, nothing is left there."""
    from botocore.config import Config

    once = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5, s3={"addressing_style": "path"})
    client = _client_of(endpoint, access_key, secret_key, region, once)
    bucket, key, body = "ready-check", "probe", b"ready"
    try:
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key=key, Body=body)
        if client.get_object(Bucket=bucket, Key=key)["Body"].read() != body:
            return False
        client.delete_object(Bucket=bucket, Key=key)
        client.delete_bucket(Bucket=bucket)
    except _boto_errors():
        return False
    return True


def _client_of(endpoint: str, access_key: str, secret_key: str, region: str, config: Any) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=region,
        config=config,
    )


def require_s3() -> None:
    """Raises ``FlipError`` E0509, naming the ``pip install``, where results cannot be uploaded."""
    if find_spec("boto3") is None:
        raise FlipError(
            "E0509",
            part="object storage (boto3)",
            needed_for="an FL server uploads a run's results; without it the run would fail after training",
            requirement="flip_fl[s3]",
        )


@dataclass(frozen=True)
class _AtWork:
    """A client, and the threads that its requests are made and its digests computed in."""

    client: Any
    requests: Lane
    hashing: Lane
    check: Check

    def ask(self, operation: str, **request: Any) -> Any:
        """Make a request; ``check`` may end the wait for it."""
        return settled(self.requests.submit(getattr(self.client, operation), **request), self.check)


def _config(*, path_style: bool) -> Any:
    from botocore.config import Config

    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        # Each request carries a checksum of its body among the headers that are signed, and what was stored is read
        # back. To sign the body, too, would be another SHA-256 of every byte, as boto3 does only without TLS.
        request_checksum_calculation="when_supported",
        s3={"addressing_style": "path" if path_style else "auto", "payload_signing_enabled": False},
    )


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _code(error: BaseException) -> str:
    answer = getattr(error, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


def _where(address: str) -> dict[str, str]:
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise FlipError("E0702", bundle=address, problem="not an address", suggestion="addresses read s3://bucket/key")
    return {"Bucket": parts["bucket"], "Key": parts["key"]}


def _token_at(at: _AtWork, where: dict[str, str]) -> str | None:
    """What the upload of an object was marked with. Raises boto3's ``ClientError`` where there is none."""
    token: str | None = at.ask("head_object", **where)["Metadata"].get(_UPLOAD)
    return token


def _pieces(at: _AtWork, where: dict[str, str]) -> Iterator[bytes]:
    """The bytes of a stored object."""
    body = at.ask("get_object", **where)["Body"]
    while piece := settled(at.requests.submit(body.read, READ_BYTES), at.check):
        yield piece


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while piece := source.read(1 << 20):
            yield piece
