"""A network of its own for each site of a federation on one machine, whose links can be cut. Needs root and ``ip``.

The server stays where it is. Each site has a network namespace with one link to it, and its own idea of where the
server's name leads to.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CLONE_NEWNET = 0x40000000


class NoNamespaces(Exception):
    """This machine permits none; the text says what it answers."""


@dataclass
class Network:
    """The bridge at ``address``, where the server is reached, and a namespace for each site."""

    name: str
    address: str
    host: str
    sites: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)

    def inside(self, site: str) -> list[str]:
        """What a command is put behind so that it runs at ``site``."""
        return ["ip", "netns", "exec", self.sites[site]]

    def cut(self, site: str) -> None:
        """Nothing more goes over the site's link, and nobody is told: as when a cable is pulled."""
        _ip("link", "set", f"{self.sites[site]}h", "down")

    def join(self, site: str) -> None:
        """The link is there again."""
        _ip("link", "set", f"{self.sites[site]}h", "up")

    def lead(self, site: str, address: str) -> None:
        """From now on the server's name leads there, as seen from ``site``."""
        # Written over, not replaced: the namespace's processes see this very file.
        hosts = Path("/etc/netns", self.sites[site], "hosts")
        hosts.parent.mkdir(parents=True, exist_ok=True)
        hosts.write_text(f"127.0.0.1 localhost\n{address} {self.host}\n", encoding="ascii")

    def beside(self, number: int) -> str:
        """Another address of the bridge's network."""
        return f"{self.address.rpartition('.')[0]}.{number}"

    def add(self, address: str) -> None:
        """The server's machine has this address, too."""
        _ip("addr", "add", f"{address}/24", "dev", self.name)

    def move(self, address: str) -> None:
        """The server is at another address now, and no longer at its old one."""
        self.add(address)
        _ip("addr", "del", f"{self.address}/24", "dev", self.name)
        self.address = address


@contextlib.contextmanager
def network(sites: Sequence[str]) -> Iterator[Network]:
    """A network of ``sites``, until the block ends. Raises ``NoNamespaces``."""
    number = os.getpid() % 250
    made = Network(f"flip{number}", f"10.77.{number}.1", socket.gethostname())
    try:
        _ip("link", "add", made.name, "type", "bridge")
        _ip("addr", "add", f"{made.address}/24", "dev", made.name)
        _ip("link", "set", made.name, "up")
        # A second address outlives the first.
        Path("/proc/sys/net/ipv4/conf", made.name, "promote_secondaries").write_text("1", encoding="ascii")
        for place, site in enumerate(sites, 10):
            space = made.sites[site] = f"f{number}n{place}"
            made.lead(site, made.address)
            _ip("netns", "add", space)
            _ip("link", "add", f"{space}h", "type", "veth", "peer", "name", "up0", "netns", space)
            _ip("link", "set", f"{space}h", "master", made.name, "up")
            made.addresses[site] = f"10.77.{number}.{place}"
            for words in (
                ("addr", "add", f"{made.addresses[site]}/24", "dev", "up0"),
                ("link", "set", "up0", "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", space, *words)
        yield made
    finally:
        for space in made.sites.values():
            with contextlib.suppress(NoNamespaces):
                _ip("netns", "del", space)
            with contextlib.suppress(OSError):
                Path("/etc/netns", space, "hosts").unlink()
                Path("/etc/netns", space).rmdir()
        with contextlib.suppress(NoNamespaces):
            _ip("link", "del", made.name)


@contextlib.contextmanager
def slow_link(net: Network, relay: str, port: int, delay_s: float, loss: float) -> Iterator[None]:
    """In the namespace ``relay``, a relay to the server's ``port`` that brings everything ``delay_s`` late, each way.

    ``loss`` is the share of pieces that TCP would have had to send again: those, and what comes behind them, take
    twice as long once more. Queueing disciplines that lose packets are not in every kernel.
    """
    over, there = threading.Event(), threading.Event()

    def accept() -> None:
        # This thread alone is in there: every socket that it makes.
        with open(f"/run/netns/{net.sites[relay]}", encoding="ascii") as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        with socket.create_server(("0.0.0.0", port)) as listening:
            listening.settimeout(0.2)
            there.set()
            while not over.is_set():
                with contextlib.suppress(TimeoutError, ConnectionError):
                    client, _ = listening.accept()
                    server = socket.create_connection((net.address, port))
                    for source, sink in ((client, server), (server, client)):
                        threading.Thread(target=_late, args=(source, sink, delay_s, loss), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    assert there.wait(10), "the relay does not listen"
    try:
        yield
    finally:
        over.set()
        thread.join()


def _late(source: socket.socket, sink: socket.socket, delay_s: float, loss: float) -> None:
    waiting: list[tuple[float, bytes]] = []
    there = threading.Condition()

    def deliver() -> None:
        while True:
            with there:
                there.wait_for(lambda: bool(waiting))
                due, data = waiting.pop(0)
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                sink.sendall(data)
            except OSError:
                return
            if not data:
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return

    threading.Thread(target=deliver, daemon=True).start()
    pieces, last = 0, 0.0
    while True:
        try:
            data = source.recv(1400)
        except OSError:
            data = b""
        pieces += 1
        lost = loss > 0 and pieces % round(1 / loss) == 0
        last = max(last, time.monotonic() + delay_s * (3 if lost else 1))
        with there:
            waiting.append((last, data))
            there.notify()
        if not data:
            return


def _ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise NoNamespaces("the program ip is not there") from None
    except subprocess.CalledProcessError as refused:
        raise NoNamespaces(f"ip {' '.join(words)}: {refused.stderr.strip()}") from None
