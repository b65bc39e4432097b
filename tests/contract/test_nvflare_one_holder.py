"""The door of NVFLARE's server, with NVFLARE's own connections over TCP: who keeps a name that two claim."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgpack
import pytest
from nvflare.fuel.f3.communicator import Communicator
from nvflare.fuel.f3.endpoint import Endpoint
from nvflare.fuel.f3.message import Message, MessageReceiver
from nvflare.fuel.f3.sfm.conn_manager import Mode
from nvflare.fuel.f3.sfm.constants import Types
from nvflare.fuel.f3.sfm.prefix import PREFIX_LEN, Prefix

from flip_fl.nvflare.one_holder import Door
from tests.support.ports import later_port
from tests.support.runs import wait_for

APP = 7
ANSWER_S = 1.0


class Inbox(MessageReceiver):
    """Keeps what came."""

    def __init__(self) -> None:
        self.got: list[object] = []

    def process_message(self, endpoint: Endpoint, connection: object, app_id: int, message: Message) -> None:
        self.got.append(bytes(message.payload))


@dataclass
class Server:
    """A server with our door; what the door told."""

    communicator: Communicator
    inbox: Inbox
    port: int
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    clocks: dict[str, float] = field(default_factory=dict)

    def holders(self, name: str) -> list[object]:
        endpoint = self.communicator.conn_manager.sfm_endpoints.get(name)
        return [] if endpoint is None else list(endpoint.connections)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(Communicator(Endpoint("server")), Inbox(), later_port())
    made.communicator.register_message_receiver(APP, made.inbox)
    made.communicator.add_connector(f"tcp://127.0.0.1:{made.port}", Mode.PASSIVE)
    manager = made.communicator.conn_manager
    Door(manager, lambda *what: made.refused.append(what), made.clocks.__setitem__, answer_s=ANSWER_S)
    made.communicator.start()
    yield made
    made.communicator.stop()


@contextlib.contextmanager
def site(server: Server, name: str) -> Iterator[Communicator]:
    """A site of that name, which connects again and again as NVFLARE's sites do."""
    made = Communicator(Endpoint(name))
    made.register_message_receiver(APP, Inbox())
    made.add_connector(f"tcp://127.0.0.1:{server.port}", Mode.ACTIVE)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def silent(server: Server, name: str) -> Iterator[socket.socket]:
    """A connection that said its name and answers nothing: what is left of a machine without power."""
    said = msgpack.packb({"endpoint_name": name, "timestamp": time.time() + 3600})
    hello = bytearray(PREFIX_LEN + len(said))
    Prefix(len(hello), 0, Types.HELLO, 0, 0, 0, 1, 1).to_buffer(hello, 0)
    hello[PREFIX_LEN:] = said
    with socket.create_connection(("127.0.0.1", server.port)) as made:
        made.sendall(hello)
        wait_for(lambda: bool(server.holders(name)), f"{name} is connected", 5)
        yield made


def say(server: Server, communicator: Communicator, text: bytes) -> None:
    """Send ``text`` and wait until it is there."""
    communicator.send(communicator.find_endpoint("server"), APP, Message({}, text))
    wait_for(lambda: text in server.inbox.got, "the message is there", 5)


def test_who_is_there_keeps_the_name_and_a_copy_is_refused(server: Server) -> None:
    """NVFLARE alone lets the two throw each other out for ever; the holder must not notice anything."""
    with site(server, "Trust_1") as first:
        wait_for(lambda: bool(server.holders("Trust_1")), "the first is connected", 5)
        (connection,) = server.holders("Trust_1")
        with site(server, "Trust_1") as second:
            # It tries again after 1, 2 and 4 s.
            wait_for(lambda: len(server.refused) >= 3, "the copy was refused three times", 15)
            assert server.holders("Trust_1") == [connection]
            assert second.find_endpoint("server") is None
        say(server, first, b"still here")
        assert server.refused[0] == ("Trust_1", "127.0.0.1", "127.0.0.1")
    assert abs(server.clocks["Trust_1"] - time.time()) < 60


def test_a_copy_takes_over_when_the_holder_is_gone(server: Server) -> None:
    """A site that was refused in its own place, because an old process still ran, gets in when that one ends."""
    with contextlib.ExitStack() as second, contextlib.ExitStack() as first:
        first.enter_context(site(server, "Trust_1"))
        wait_for(lambda: bool(server.holders("Trust_1")), "the first is connected", 5)
        copy = second.enter_context(site(server, "Trust_1"))
        wait_for(lambda: bool(server.refused), "the copy was refused", 10)
        first.close()
        wait_for(lambda: copy.find_endpoint("server") is not None, "it is in", 15)
        say(server, copy, b"in")


def test_a_site_that_comes_back_from_a_power_cut_gets_in(server: Server) -> None:
    """Its old connection still stands at the server, for TCP knows nothing of the cut: nobody answers on it."""
    with silent(server, "Trust_1"), site(server, "Trust_1") as back:
        wait_for(lambda: back.find_endpoint("server") is not None, "it is in", 5 * ANSWER_S)
        say(server, back, b"back")
        assert server.refused == []
    assert server.clocks["Trust_1"] == pytest.approx(time.time(), abs=60)


def test_other_names_and_the_server_s_own_are_let_in(server: Server) -> None:
    """Two sites, and each job's own connection, never stand in each other's way."""
    names = ("Trust_1", "Trust_2", "Trust_1.5b1c")
    with contextlib.ExitStack() as parts:
        for name in names:
            parts.enter_context(site(server, name))
        for name in names:
            wait_for(lambda name=name: bool(server.holders(name)), f"{name} is connected", 5)
    assert server.refused == []
