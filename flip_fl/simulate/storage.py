"""A real S3 server on this machine, for simulated runs and tests: SeaweedFS from the package index."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.simulate.processes import free_ports, running, start, wait_until

START_TIMEOUT_S = 60.0
REGION = "us-east-1"
_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")


@dataclass(frozen=True)
class Storage:
    """Where the server listens and who may use it."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = REGION


@contextlib.contextmanager
def storage(folder: Path, log: Path) -> Iterator[Storage]:
    """Run an S3 server on 127.0.0.1 with random credentials, its data in ``folder``, until the block ends.

    Raises ``FlipError`` E0509 when the server is not installed, E0506 when it does not start.
    """
    program = find_program()
    ports = free_ports(len(_PORTS) + 2)
    s3_port, s3_grpc = ports[-2:]
    access, secret = secrets.token_hex(10), secrets.token_hex(20)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = folder / "identities.json"
    descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        identity = {
            "name": "flip",
            "credentials": [{"accessKey": access, "secretKey": secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        json.dump({"identities": [identity]}, out)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    command = [
        str(program),
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
        "-iam=false",
        f"-s3.port={s3_port}",
        f"-s3.port.grpc={s3_grpc}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={config}",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        "-master.telemetry=false",
        *(f"-{name}={port}" for name, port in zip(_PORTS, ports, strict=False)),
    ]
    # What the run stored has been read back by then: the server need not flush in peace.
    with running(start("the object store", command, log, cwd=folder), grace_s=0.2) as child:
        wait_until(child, lambda: _listens(s3_port), START_TIMEOUT_S)
        yield Storage(f"http://127.0.0.1:{s3_port}", access, secret)


def find_program() -> Path:
    """The SeaweedFS program of this environment. Raises ``FlipError`` E0509 when there is none."""
    beside = Path(sys.executable).parent / "weed"
    found = beside if beside.is_file() else shutil.which("weed")
    if not found:
        raise FlipError(
            "E0509",
            part="a local S3 server (SeaweedFS)",
            needed_for="a simulated run stores its results as a production run does",
            requirement="flip_fl[simulate]",
        )
    return Path(found)


def create_bucket(where: Storage, bucket: str) -> None:
    """Make ``bucket`` once the server's S3 side answers."""
    from flip_fl.results.s3 import make_bucket

    make_bucket(where.endpoint, where.access_key, where.secret_key, where.region, bucket)


def _listens(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
