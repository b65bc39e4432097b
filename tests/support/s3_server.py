"""A real S3 server on loopback for tests: the simulator's own, with what a test wants to ask of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flip_fl.errors import FlipError
from flip_fl.simulate.storage import Storage, find_program, storage


@dataclass(frozen=True)
class S3Server:
    """A running server; ``client`` is boto3's."""

    storage: Storage

    @property
    def endpoint(self) -> str:
        return self.storage.endpoint

    @property
    def access_key(self) -> str:
        return self.storage.access_key

    @property
    def secret_key(self) -> str:
        return self.storage.secret_key

    def client(self, *, secret_key: str | None = None) -> Any:
        """A boto3 client of this server; another ``secret_key`` to be refused."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.storage.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            region_name=self.storage.region,
            config=Config(retries={"total_max_attempts": 2}, s3={"addressing_style": "path"}),
        )

    def make_bucket(self, name: str) -> None:
        self.storage.create_bucket(name)

    def keys(self, bucket: str) -> list[str]:
        """Every key of ``bucket``, sorted."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def environment(self, bucket: str) -> dict[str, str]:
        """The settings that let an FL server store its results here."""
        return self.storage.settings(bucket)


def binary() -> Path | None:
    """The server's program, if it is there."""
    try:
        return find_program()
    except FlipError:
        return None


@contextmanager
def s3_server(data: Path | None = None) -> Iterator[S3Server]:
    """A server that takes and returns objects, until the block ends; its data goes with it, unless it is ``data``."""
    with (
        tempfile.TemporaryDirectory(prefix="flip-s3-test-", ignore_cleanup_errors=True) as folder,
        storage(data or Path(folder, "data"), Path(folder, "weed.log")) as running,
    ):
        yield S3Server(running)
