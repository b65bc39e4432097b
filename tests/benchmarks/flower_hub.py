"""A real hub, and ways to it that are slow or hung.

Each is a process of its own: none shares an interpreter lock with what is measured.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from flip_fl.hub import admin
from flip_fl.settings import ServerSettings
from flip_fl.simulate.faults import HubFault, faulty_hub
from flip_fl.simulate.folder import RunFolder, claim
from flip_fl.simulate.hub import PROJECT, SimulatedHub, simulated_hub

SLOW = HubFault.parse("hub-slow=0.05s")
HUNG = HubFault.parse("hub-hung")


@dataclass(frozen=True)
class BenchHub:
    """A hub in which every slot from ``Trust_1`` on takes part in each new model."""

    inner: SimulatedHub
    folder: RunFolder
    slots: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key that lets an FL server in."""
        return self.inner.key

    def new_model(self, name: str) -> UUID:
        """Another model, nothing reported on it yet."""
        trusts = [f"Simulated hospital {number}" for number in range(1, len(self.slots) + 1)]
        with admin.open_session(f"sqlite:///{self.folder.database}") as session:
            return admin.create_model(session, PROJECT, name, trusts=trusts).id

    def settings(self, url: str) -> ServerSettings:
        """What an FL server needs to report to this hub at ``url``."""
        return ServerSettings(hub_url=url, service_key=self.key, results_bucket="s3://none", _env_file=None)

    @contextlib.contextmanager
    def behind(self, fault: HubFault) -> Iterator[str]:
        """The address of this hub as a server far away sees it."""
        with behind(self.inner.url, fault) as url:
            yield url


@contextlib.contextmanager
def behind(url: str, fault: HubFault) -> Iterator[str]:
    """The address of a proxy, in a process of its own, through which the hub at ``url`` is as ``fault`` says."""
    command = [sys.executable, "-m", "tests.benchmarks.flower_hub", url, str(fault)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.kill()


@contextlib.contextmanager
def bench_hub(folder: Path, sites: int) -> Iterator[BenchHub]:
    """A hub with ``sites`` slots, its files in ``folder``, until the block ends."""
    slots = tuple(f"Trust_{number}" for number in range(1, sites + 1))
    with (
        claim(folder, folder) as room,
        simulated_hub(room, "benchmark", "", slots, slots_total=sites) as inner,
    ):
        yield BenchHub(inner, room, slots)


if __name__ == "__main__":
    with faulty_hub(sys.argv[1], HubFault.parse(sys.argv[2])) as proxy:
        print(proxy.url, flush=True)
        sys.stdin.read()
