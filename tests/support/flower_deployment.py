"""A Flower deployment for tests: a SuperLink with TLS and node authentication, SuperNodes with keys, on loopback.

Everything is a real process with its own FLWR_HOME and free ports, and nothing needs a network. The keys are made and
registered here as a person would do it with ``ssh-keygen`` and ``flwr supernode register``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flip_fl.simulate.environment import scrubbed
from flip_fl.simulate.processes import Child, descendants, free_ports, start, wait_until

BIN = Path(sys.executable).parent
OFFLINE = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
}
START_TIMEOUT_S = 90.0
ONLINE = "SuperNode ID:"
_MARK = "FLIP_TEST_DEPLOYMENT"


def eventually(ready: Callable[[], Any], timeout_s: float, what: str, poll_s: float = 0.1) -> Any:
    """The first true answer of ``ready``; an assertion that says ``what`` did not happen when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not (answer := ready()):
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(poll_s)
    return answer


@dataclass(frozen=True)
class Run:
    """A run as ``flwr ls`` tells it: ``status`` such as ``finished:failed``, ``details`` the reason."""

    run_id: str
    status: str
    details: str


@dataclass
class Node:
    """One SuperNode: the name that its key was registered with (empty: none), its id and its process."""

    name: str
    node_id: int
    key: Path
    child: Child | None = None


@dataclass
class Deployment:
    """A SuperLink that is up, its nodes, and Flower's own commands against it."""

    folder: Path
    port: int
    environment: Mapping[str, str]
    superlink: Child | None = None
    nodes: list[Node] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def home(self) -> Path:
        """The FLWR_HOME of the person who types the commands."""
        return self.folder / "home"

    def start_superlink(self) -> None:
        """Start the SuperLink, or start it again on the same database; returns when it answers."""
        tls = self.folder / "tls"
        command = [str(BIN / "flower-superlink"), "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--ssl-ca-certfile", str(tls / "ca.crt"), "--ssl-certfile", str(tls / "server.crt")]
        command += ["--ssl-keyfile", str(tls / "server.key"), "--enable-supernode-auth"]
        command += ["--database", str(self.folder / "superlink.db"), "--disable-runtime-dependency-installation"]
        self.superlink = self._start("superlink", command)
        wait_until(self.superlink, self._answers, START_TIMEOUT_S, poll_s=0.2)

    def kill_superlink(self) -> None:
        """SIGKILL for the SuperLink and all that it started, the ServerApps too, as when its host is lost."""
        assert self.superlink is not None
        _kill(self.superlink)

    def add_nodes(self, *names: str, only: Mapping[str, Mapping[str, str]] | None = None) -> list[Node]:
        """Make a key for each name, register it under that name (empty: under none) and start its SuperNode.

        ``only`` holds by name what is added to the environment of that node.
        """
        with ThreadPoolExecutor(len(names)) as pool:
            registered = list(pool.map(self.register, names))
        for node in registered:
            self.start_node(node, **(only or {}).get(node.name, {}))
        for node in registered:
            self.wait_online(node)
        return registered

    def start_node(self, node: Node, **environment: str) -> None:
        """Start the SuperNode of a registered key; ``wait_online`` says when it is there."""
        port = free_ports(1)[0]
        label = node.key.name
        command = [str(BIN / "flower-supernode"), "--superlink", f"127.0.0.1:{self.port}"]
        command += ["--root-certificates", str(self.folder / "tls" / "ca.crt"), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--auth-supernode-private-key", str(node.key)]
        node.child = self._start(label, command, **environment)
        if node not in self.nodes:
            self.nodes.append(node)

    def wait_online(self, node: Node) -> None:
        """Return when the SuperLink has accepted the node."""
        child = node.child
        assert child is not None
        wait_until(child, lambda: ONLINE in child.log.read_text(errors="replace"), START_TIMEOUT_S)

    def kill_node(self, node: Node) -> None:
        """SIGKILL for a SuperNode and all that it started, as when its host is lost."""
        assert node.child is not None
        _kill(node.child)

    def unregister(self, node: Node) -> None:
        """Take the node's key out of the SuperLink."""
        self.flwr("supernode", "unregister", str(node.node_id), "tls")

    def submit(self, job: Path, **config: str | int | float | bool) -> str:
        """``flwr run`` of a job's folder; the run's id. Underscores of a key stand for dashes."""
        words = ["run", str(job), "tls"]
        for key, value in config.items():
            words += ["--run-config", f"{key.replace('_', '-')}={json.dumps(value)}"]
        return str(self.flwr(*words)["run-id"])

    def stop_run(self, run_id: str) -> None:
        """``flwr stop``."""
        self.flwr("stop", run_id, "tls")

    def run(self, run_id: str) -> Run:
        """The run as ``flwr ls`` tells it now."""
        (told,) = self.flwr("ls", "tls", "--run-id", run_id)["runs"]
        return Run(run_id, told["status"], told["status-details"] or "")

    def wait_finished(self, run_id: str, timeout_s: float) -> Run:
        """The run when it is over. Each look costs a second of processor time: wait for something cheaper before."""

        def finished() -> Run | None:
            told = self.run(run_id)
            return told if told.status.startswith("finished") else None

        run: Run = eventually(finished, timeout_s, f"the end of run {run_id}", poll_s=1.0)
        return run

    def log(self, run_id: str) -> str:
        """What the ServerApp wrote, for the message of a failed assertion."""
        return self._command("log", run_id, "tls", "--show").stdout

    def flwr(self, *words: str) -> Any:
        """One of Flower's commands; its answer as JSON. Fails with what the command said."""
        done = self._command(*words, "--format", "json")
        said = f"flwr {' '.join(words)}: {done.stdout}{done.stderr}"
        assert done.returncode == 0, said
        answer = json.loads(done.stdout[done.stdout.index("{") :])
        assert answer["success"], said
        return answer

    def close(self) -> None:
        """End every process of this deployment, also those that lost their parent."""
        _kill_all([each for each in psutil.process_iter() if _marked(each, str(self.folder))])
        for child in [*(node.child for node in self.nodes), self.superlink]:
            if child is not None:
                child.process.wait()

    def _command(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "flwr"), *words]
        environment = self._environment("home")
        return subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )

    def register(self, name: str) -> Node:
        """A new key, registered under ``name`` (empty: under none); its node is not started."""
        key = self._key(name)
        words = ["--name", name] if name else []
        answer = self.flwr("supernode", "register", f"{key}.pub", "tls", *words)
        return Node(name, int(answer["node-id"]), key)

    def _key(self, name: str) -> Path:
        folder = self.folder / "keys"
        folder.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP384R1())
        path = folder / f"{name or 'unnamed'}-{next(self._numbers)}"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        Path(f"{path}.pub").write_bytes(public)
        return path

    def _environment(self, name: str, **added: str) -> dict[str, str]:
        own = {"FLWR_HOME": str(self.folder / name), _MARK: str(self.folder), "PYTHONUNBUFFERED": "1"}
        path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
        return scrubbed(**{"PATH": path, "OMP_NUM_THREADS": "1", **OFFLINE, **self.environment, **added, **own})

    def _start(self, name: str, command: Sequence[str], **added: str) -> Child:
        log = self.folder / "logs" / f"{name}.log"
        cwd = self.folder / name
        cwd.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)
        return start(name, command, log, cwd=cwd, env=self._environment(name, **added))

    def _answers(self) -> bool:
        try:
            url = f"https://127.0.0.1:{self.port}/health"
            return requests.get(url, verify=str(self.folder / "tls" / "ca.crt"), timeout=5).ok
        except requests.ConnectionError:
            return False


@contextlib.contextmanager
def deployment(folder: Path, **environment: str) -> Iterator[Deployment]:
    """A SuperLink of its own in ``folder`` without nodes; ``environment`` is added to that of all its processes."""
    folder.mkdir(parents=True, exist_ok=True)
    there = Deployment(folder, free_ports(1)[0], environment)
    _write_certificates(folder / "tls")
    there.home.mkdir()
    config = f'[superlink.tls]\naddress = "127.0.0.1:{there.port}"\nroot-certificates = "{folder}/tls/ca.crt"\n'
    (there.home / "config.toml").write_text(config)
    try:
        there.start_superlink()
        yield there
    finally:
        there.close()


def write_app(folder: Path, server_app: str, client_app: str, **config: str | int | float | bool) -> Path:
    """A job's folder for ``flwr run`` with two modules and the keys of its run config, Flower's own means only."""
    package = folder / "engine_app"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "server_app.py").write_text(server_app)
    (package / "client_app.py").write_text(client_app)
    (folder / "LICENSE").write_text("Apache-2.0\n")
    lines = [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in config.items()]
    (folder / "pyproject.toml").write_text(_PROJECT + "\n".join(lines) + "\n")
    return folder


_PROJECT = """[project]
name = "engine-app"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41.0"]

[tool.flwr.app]
publisher = "tests"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "engine_app.server_app:app"
clientapp = "engine_app.client_app:app"

[tool.flwr.app.config]
"""


def _kill(child: Child) -> None:
    family = descendants(child.process.pid)
    child.process.kill()
    _kill_all(family)
    child.process.wait()


def _kill_all(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    # what lost its parent may stay a zombie where nobody collects it: dead is enough
    eventually(lambda: not any(_alive(each) for each in processes), 10, "the end of killed processes")


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _marked(process: psutil.Process, folder: str) -> bool:
    try:
        return process.environ().get(_MARK) == folder
    except psutil.Error:
        return False


def _write_certificates(folder: Path) -> None:
    folder.mkdir()
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    ca = _certificate(ca_name, ca_key, ca_name, ca_key, x509.BasicConstraints(ca=True, path_length=0), critical=True)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
    server = _certificate(server_name, server_key, ca_name, ca_key, names, critical=False)
    (folder / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "server.crt").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "server.key").write_bytes(server_key.private_bytes(encoding, form, serialization.NoEncryption()))


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
    *,
    critical: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    built = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    built = built.serial_number(x509.random_serial_number()).add_extension(extension, critical=critical)
    built = built.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    return built.sign(issuer_key, hashes.SHA256())
