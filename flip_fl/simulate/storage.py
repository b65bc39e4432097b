"""A real S3 server on this machine, for simulated runs and tests: SeaweedFS from the package index."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.results.s3 import make_bucket, takes_objects
from flip_fl.simulate.processes import free_ports, running, start, wait_until

# A start that has not taken an object by then has lost a port on the way; the next one has others.
START_TIMEOUT_S = 30.0
ATTEMPTS = 3
REGION = "us-east-1"
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
class Storage:
    """Where the server listens and who may use it."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = REGION

    def create_bucket(self, bucket: str) -> None:
        """Make ``bucket``. Raises ``ResultsUploadError`` when the server refuses it."""
        make_bucket(self.endpoint, self.access_key, self.secret_key, self.region, bucket)

    def settings(self, bucket: str) -> dict[str, str]:
        """The settings that let an FL server store its results in ``bucket``."""
        return {
            "UPLOADED_FEDERATED_DATA_BUCKET": f"s3://{bucket}",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }


@contextlib.contextmanager
def storage(folder: Path, log: Path) -> Iterator[Storage]:
    """Run an S3 server on 127.0.0.1 with random credentials, its data in ``folder``, until the block ends.

    It has taken an object and given it back before the block begins. Raises ``FlipError`` E0509 when the server is not
    installed, E0506 when it does not start.
    """
    program = find_program()
    server = Storage("", secrets.token_hex(10), secrets.token_urlsafe(30))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = _write_identity(folder, server)
    # A unix socket's name has at most 107 bytes: a run's folder may be deeper than that.
    with tempfile.TemporaryDirectory(prefix="flip-s3-", ignore_cleanup_errors=True) as home:
        for attempt in range(ATTEMPTS):
            ports = dict(zip(_LISTENERS, free_ports(len(_LISTENERS)), strict=True))
            command = [str(program), "server", *_options(ports, folder, config, Path(home))]
            # Its own folder as home: the program looks for configuration there.
            environment = {"PATH": os.defpath, "HOME": home, "TMPDIR": home}
            child = start("the object store", command, log, cwd=folder, env=environment)
            # A polite end takes more than ten seconds, and what the run stored has been read back by then.
            with contextlib.ExitStack() as leftovers, running(child, grace_s=0.0):
                leftovers.callback(_remove_sockets, ports)
                running_at = replace(server, endpoint=f"http://127.0.0.1:{ports['s3.port']}")
                try:
                    wait_until(child, partial(_takes_objects, running_at), START_TIMEOUT_S)
                except FlipError:
                    if attempt + 1 < ATTEMPTS:
                        continue  # somebody else took one of the ports meanwhile
                    raise
                yield running_at
                return


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


def _write_identity(folder: Path, server: Storage) -> Path:
    identity = {
        "name": "flip",
        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    path = folder / "identities.json"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        json.dump({"identities": [identity]}, out)
    return path


def _options(ports: dict[str, int], folder: Path, config: Path, home: Path) -> list[str]:
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
        "s3.localSocket": home / "s3.sock",
        "filer.localSocket": home / "filer.sock",
        # Every bucket takes several volumes of its own.
        "volume.max": 1000,
        "volume.preStopSeconds": 0,
        "volume.minFreeSpace": "0",
        "master.volumeSizeLimitMB": 64,
        "master.telemetry": "false",
    }
    return [f"-{name}={value}" for name, value in options.items()]


def _takes_objects(server: Storage) -> bool:
    # The gateway listens before a volume is there to write to, and goes on listening where the filer or the volume
    # server behind it lost its port: only an object that came back counts.
    port = int(server.endpoint.rpartition(":")[2])
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(0.2)
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return False
    return takes_objects(server.endpoint, server.access_key, server.secret_key, server.region)


def _remove_sockets(ports: dict[str, int]) -> None:
    """Remove the sockets that the program names itself, outside its folder."""
    for port in ports.values():
        for path in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):
            path.unlink(missing_ok=True)
