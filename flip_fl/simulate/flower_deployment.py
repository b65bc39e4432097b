"""A Flower deployment on this machine: a SuperLink with TLS and node authentication, a SuperNode for each slot.

The real programs, as at a hub and in its trusts; only the keys are made here, for this one deployment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flip_fl.simulate.flower_keys import TlsFiles, make_node_key, make_tls
from flip_fl.simulate.flower_link import HOST, Home, SuperLink, program, start_listening, start_superlink
from flip_fl.simulate.processes import Child

SUPERLINK_LOG = "superlink.log"
# Each start of a program keeps a core busy for some seconds.
AT_ONCE = 2


@dataclass(frozen=True)
class Node:
    """A key that the SuperLink has registered under ``name`` (empty: under none)."""

    name: str
    node_id: str
    key: Path


@dataclass(frozen=True)
class Deployment:
    """A SuperLink that answers, and what joins it. ``folder`` holds its state and keys, ``logs`` its logs."""

    folder: Path
    logs: Path
    home: Home
    tls: TlsFiles
    superlink: SuperLink

    def register(self, name: str, key: str = "") -> Node:
        """Make a key pair (its file is called ``key``, else ``name``) and register it under ``name``.

        Raises ``FlipError`` E0506 when the SuperLink refuses it.
        """
        private, public = make_node_key(self.folder / "keys", key or name)
        named = ["--name", name] if name else []
        answer = self.home.flwr("supernode", "register", str(public), *named)
        return Node(name, str(answer["node-id"]), private)

    def start_node(self, node: Node, **environment: str) -> Child:
        """Start the SuperNode of ``node``; ``environment`` is added to its own. It has its log in ``logs``.

        Raises ``FlipError`` E0506 when it ends at its start.
        """

        def command(port: int) -> list[str]:
            words = [program("flower-supernode"), "--superlink", f"{HOST}:{self.superlink.port}"]
            words += ["--root-certificates", str(self.tls.ca), "--host", HOST, "--port", str(port)]
            words += ["--auth-supernode-private-key", str(node.key)]
            return words + (["--node-config", f'slot="{node.name}"'] if node.name else [])

        own = self.home.within(node.key.name, **environment)
        log = self.logs / f"{node.key.name}.log"
        return start_listening(f"the SuperNode of {node.key.name}", command, log, home=own, cwd=self.folder)[0]

    def start_nodes(self, slots: Sequence[str]) -> dict[str, Child]:
        """Register a key for each slot and start its SuperNode. Raises ``FlipError`` E0506."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            nodes = list(pool.map(self.register, slots))
            return dict(zip(slots, pool.map(self.start_node, nodes), strict=True))


@contextlib.contextmanager
def deployment(folder: Path, logs: Path, *, cwd: Path | None = None, **environment: str) -> Iterator[Deployment]:
    """A SuperLink with TLS and node authentication on a free port of 127.0.0.1 until the block ends.

    ``folder`` becomes its own: keys, database, FLWR_HOME. ``environment`` is added to that of all its processes, which
    are all ended with the block, daemons included. Raises ``FlipError`` E0506 when it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    home = Home.make(folder / "home", **environment)
    with contextlib.ExitStack() as parts:
        parts.callback(home.end_all)
        tls = make_tls(folder / "tls")
        options = ["--enable-supernode-auth", "--database", str(folder / "superlink.db")]
        link = start_superlink(home, logs / SUPERLINK_LOG, options, tls=tls, cwd=cwd or folder)
        parts.callback(link.child.stop)
        # Nothing here is worth a polite end: all at once takes a second, one after another several.
        parts.callback(home.end_all)
        yield Deployment(folder, logs, home, tls, link)
