"""A whole federation from kits: hub, object store, and the kits' own start scripts, on either engine."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import psutil

from flip_fl.hub import admin, tokens
from flip_fl.hub.roles import Role
from flip_fl.simulate.hub import PROJECT, SimulatedHub
from flip_fl.simulate.processes import Child, descendants, free_ports, kill_all, start, wait_until
from tests.support.cli import Finished, environment, flip_fl
from tests.support.federation import SLOTS, Federation, federation
from tests.support.runs import wait_for
from tests.support.small_apps import write_app

# What each engine's programs in a kit say when they are ready, and where they say it.
_READY = {"nvflare": ("out.log", "Server started"), "flower": ("out.log", "the SuperLink answers sites")}
_JOBS = {"nvflare": "worker_process", "flower": "flwr-clientapp"}
_FOREGROUND = {"nvflare": ["startup/sub_start.sh"], "flower": ["startup/start.sh"]}
_SETTINGS = {"nvflare": "flip.env", "flower": "{name}.env"}


@dataclass
class RunningKits:
    """Kits of a server and its sites; ``around`` is the hub and the store that they report to.

    ``places``: what a site's commands are put behind, so that they run where the site is; ``environments``: what they
    find beside the ordinary environment, from their next start on.
    """

    engine: str
    folder: Path
    around: Federation
    database: Path
    port: int
    slots: Sequence[str] = SLOTS
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    environments: dict[str, Mapping[str, str]] = field(default_factory=dict)
    parts: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def control(self) -> Path:
        """The kit that jobs are submitted with."""
        return self.folder / ("server" if self.engine == "flower" else "admin")

    def call(self, *words: str, timeout_s: float = 600.0) -> Finished:
        """``flip-fl``, in the folder above the kits."""
        return flip_fl(*words, cwd=self.folder.parent, timeout_s=timeout_s)

    def new_model(self) -> UUID:
        """Another model of both trusts at the hub."""
        with admin.open_session(f"sqlite:///{self.database}") as session:
            names = [f"Simulated hospital {number}" for number, _ in enumerate(self.slots, 1)]
            return admin.create_model(session, PROJECT, "another", "", trusts=names).id

    def token(self, role: Role) -> str:
        """A new login token for the hub."""
        with admin.open_session(f"sqlite:///{self.database}") as session:
            return tokens.issue(session, f"a {role.value}", role).secret

    def hub(self, model_id: UUID) -> SimulatedHub:
        """The hub as it tells of this model."""
        return replace(self.around.hub, model_id=model_id)

    def app(self, name: str, **config: object) -> Path:
        """A small app beside the kits."""
        return write_app(self.folder.parent / name, **config)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def started(self, name: str) -> Iterator[Child]:
        """A kit's own start script, until the block ends; a second start writes a log of its own."""
        kit = self.folder / name
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = environment(PATH=path, FLIP_PYTHON=sys.executable, **self.environments.get(name, {}))
        command = [*self.places.get(name, ()), "/bin/bash", *_FOREGROUND[self.engine]]
        child = start(f"the kit {name}", command, kit / "out.log", cwd=kit, env=env)
        try:
            yield child
        finally:
            child.stop(20.0)

    def start(self, name: str) -> Child:
        """A kit's own start script, until all kits are stopped. Returns when a server takes sites."""
        name_of_log, words = _READY[self.engine]
        log = self.folder / name / name_of_log
        begun = log.stat().st_size if log.exists() else 0
        child = self.children[name] = self.parts.enter_context(self.started(name))
        if name == "server":
            wait_until(child, lambda: words in log.read_bytes()[begun:].decode(errors="replace"), 180)
        return child

    def kill(self, name: str) -> None:
        """kill -9 of all processes of a kit at once, as when its machine loses power."""
        child = self.children[name]
        kill_all([*descendants(child.process.pid), psutil.Process(child.process.pid)])
        child.process.wait()

    def kill_job(self, name: str) -> None:
        """kill -9 of the process in which a site works on its job; its kit runs on."""
        found = [each for each in descendants(self.children[name].process.pid) if _JOBS[self.engine] in _words(each)]
        assert found, f"{name} works on no job"
        kill_all(found)

    def start_anew(self, name: str, **env: str) -> None:
        """Stop a kit as a service manager does, and start it with this environment."""
        self.children[name].stop(20.0)
        self.environments[name] = env
        self.start(name)

    def copy(self, name: str) -> str:
        """A copy of a kit under another folder's name, which is returned; nothing of what ran in it is in there."""
        copied = f"copy-of-{name}"
        left = shutil.ignore_patterns("*.fl", "*.log", "log*.txt", "state")
        shutil.copytree(self.folder / name, self.folder / copied, ignore=left)
        return copied

    def wait_sites(self, *slots: str) -> None:
        """Return when exactly these are connected, as whoever submits sees them."""
        from flip_fl.commands.job_engines import controlling_kit, engine_of

        engine = engine_of(controlling_kit(self.control))
        try:
            wait_for(lambda: engine.sites() == list(slots), f"{', '.join(slots)} are connected", 180)
        finally:
            engine.close()


def _words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@contextlib.contextmanager
def running_kits(
    engine: str,
    base: Path,
    *,
    slots: Sequence[str] = SLOTS,
    host: str = "localhost",
    port: int | None = None,
    places: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[RunningKits]:
    """Kits of ``slots``, provisioned and filled in by their documents alone, all running and connected."""
    port = port or free_ports(1)[0]
    server = f"{{host: {host}, port: {port}}}"
    written = f"net: oncology\nengine: {engine}\nserver: {server}\nslots: {len(slots)}\n"
    (base / "federation.yaml").write_text(written, encoding="utf-8")
    done = flip_fl("provision", "federation.yaml", cwd=base)
    assert done.exit_code == 0, done.stderr
    app = write_app(base / "app")
    with federation(base, app, slots) as around, contextlib.ExitStack() as parts:
        kits = RunningKits(engine, base / "kits", around, base / "run" / "hub.sqlite", port, slots, places or {})
        kits.parts = parts
        for name in ("server", *slots):
            target = kits.folder / name / "local" / _SETTINGS[engine].format(name=name)
            shutil.copyfile(around.settings / f"{name}.env", target)
        for name in ("server", *slots):
            kits.start(name)
        kits.wait_sites(*slots)
        yield kits
