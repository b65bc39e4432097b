"""A Flower deployment under test: the simulator's own SuperLink with TLS and registered nodes, and what befalls it.

Everything is a real process on loopback, and nothing needs a network. Keys are made and registered here.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from flip_fl.simulate import flower_deployment
from flip_fl.simulate.flower_deployment import AT_ONCE, Node
from flip_fl.simulate.flower_link import CONNECTION, listens, program
from flip_fl.simulate.processes import Child, descendants, start, wait_until

START_TIMEOUT_S = 90.0
ONLINE = "SuperNode ID:"


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
class Deployment:
    """A SuperLink that is up, its nodes, and Flower's own commands against it."""

    inner: flower_deployment.Deployment
    superlink: Child
    children: list[Child] = field(default_factory=list)
    _nodes: dict[Path, Child] = field(default_factory=dict)

    def add_nodes(self, *names: str, only: Mapping[str, Mapping[str, str]] | None = None) -> list[Node]:
        """Make a key for each name, register it under that name and start its SuperNode; they are online then.

        ``only`` holds by name what is added to the environment of that node.
        """
        keys = [f"{name}-{len(self._nodes) + number}" for number, name in enumerate(names)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            nodes = list(pool.map(self.inner.register, names, keys))
            list(pool.map(lambda node: self.start_node(node, **(only or {}).get(node.name, {})), nodes))
        for node in nodes:
            self.wait_online(node)
        return nodes

    def register(self, name: str) -> Node:
        """A key registered under ``name`` whose node is not started."""
        return self.inner.register(name, f"{name}-idle")

    def start_node(self, node: Node, *, claim: str | None = None, **environment: str) -> None:
        """Start the SuperNode of a registered key, with ``claim`` as the slot that its operator writes down for it."""
        said = node if claim is None else replace(node, name=claim)
        child = self.inner.start_node(said, **environment)
        self._nodes[node.key] = child
        self.children.append(child)

    def wait_online(self, node: Node) -> None:
        """Return when the SuperLink has accepted the node."""
        child = self._nodes[node.key]
        wait_until(child, lambda: ONLINE in child.log.read_text(errors="replace"), START_TIMEOUT_S)

    def kill_node(self, node: Node) -> None:
        """SIGKILL for a SuperNode and all that it started, as when its host is lost."""
        child = self._nodes[node.key]
        kill(child)
        child.log.rename(child.log.with_suffix(".killed.log"))

    def unregister(self, node: Node) -> None:
        """Take the node's key out of the SuperLink."""
        self.flwr("supernode", "unregister", node.node_id)

    def kill_superlink(self) -> None:
        """SIGKILL for the SuperLink and all that it started, the ServerApps too, as when its host is lost."""
        kill(self.superlink)

    def restart_superlink(self) -> None:
        """Start it again on the same port and database."""
        before = self.inner.superlink
        words = before.child.process.args
        assert isinstance(words, list)
        home, log = self.inner.home, before.child.log
        self.superlink = start("the SuperLink again", words, log, cwd=self.inner.folder, env=home.environment)
        self.children.append(self.superlink)
        wait_until(self.superlink, lambda: listens(before.port), START_TIMEOUT_S)

    def submit(self, job: Path, **config: str | int | float | bool) -> str:
        """``flwr run`` of a job's folder; the run's id. Underscores of a key stand for dashes."""
        words = ["run", str(job), CONNECTION]
        for key, value in config.items():
            words += ["--run-config", f"{key.replace('_', '-')}={json.dumps(value)}"]
        return str(self.flwr(*words)["run-id"])

    def stop_run(self, run_id: str) -> None:
        """``flwr stop``."""
        self.flwr("stop", run_id)

    def run(self, run_id: str) -> Run:
        """The run as ``flwr ls`` tells it now."""
        (told,) = self.flwr("ls", "--run-id", run_id)["runs"]
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
        command = [program("flwr"), "log", run_id, CONNECTION, "--show"]
        environment = dict(self.inner.home.environment)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout

    def flwr(self, *words: str) -> Any:
        """One of Flower's commands; its answer as JSON."""
        return self.inner.home.flwr(*words)

    def close(self) -> None:
        """End every process of this deployment, also those that lost their parent."""
        _kill_all(self.inner.home.processes())
        for child in [self.superlink, *self.children]:
            child.process.wait()


@contextlib.contextmanager
def deployment(folder: Path, **environment: str) -> Iterator[Deployment]:
    """A SuperLink of its own in ``folder`` without nodes; ``environment`` is added to that of all its processes."""
    with flower_deployment.deployment(folder / "flower", folder / "logs", cwd=None, **environment) as inner:
        there = Deployment(inner, inner.superlink.child)
        try:
            yield there
        finally:
            there.close()


def kill(child: Child) -> None:
    """SIGKILL for ``child`` and all that it started."""
    family = descendants(child.process.pid)
    child.process.kill()
    _kill_all(family)
    child.process.wait()


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
