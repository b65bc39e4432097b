"""Of two who connect as one site, NVFLARE's server keeps who is there, and the other one is refused and told of.

NVFLARE itself lets the newer connection throw the older one out: a kit that runs twice evicts itself again and again,
nobody is told, and the slot takes part in no job. Here whoever has the name is asked for a sign of life first.
A component of the FL server's parent process (``local/resources.json`` of its kit).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.identity import get_param, is_mtls_connection
from nvflare.fuel.f3.drivers.connector_info import Mode
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.constants import HandshakeKeys, Types
from nvflare.fuel.f3.sfm.prefix import Prefix
from nvflare.fuel.f3.sfm.sfm_conn import SfmConnection
from nvflare.fuel.utils.admin_name_utils import is_valid_admin_client_name
from nvflare.widgets.widget import Widget

from flip_fl.nvflare.places import runs_folder
from flip_fl.reporting.site_news import UNKNOWN, SiteNews

logger = logging.getLogger("flip_fl.nvflare")

# For an answer over a link that is slow or full. A site that lost its power waits so long when it comes back.
ANSWER_S = 10.0
POLL_S = 0.05
# Who was refused is known to run beside the holder: it does not get the name because the holder's link stalls, but
# when the connection is gone (the kits' keep-alive ends a dead one within 90 s).
REMEMBERED_S = 300.0

Refused = Callable[[str, str, str], None]
Clock = Callable[[str, float], None]


class OneHolder(Widget):
    """Guards the server's connections from its start on."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type != EventType.SYSTEM_BOOTSTRAP:
            return
        try:
            root = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
            server = fl_ctx.get_prop(FLContextKey.SITE_OBJ)
            news = SiteNews(root / "state", runs_folder(root))
            Door(server.cell.core_cell.communicator.conn_manager, news.refused, news.clock)
        except Exception:
            # NVFLARE swallows what a handler raises: the server runs on as NVFLARE made it, which must be seen.
            logger.exception("copies of a kit are not refused: this NVFLARE is made in another way")


class Door:
    """Looks at each connection's first word to ``manager``.

    ``refused`` is told slot, address and the holder's address; ``clock`` the slot and what time it says it is. This
    stands in the way of one private method of NVFLARE's (2.9), on the thread that NVFLARE gave the frame.
    """

    def __init__(self, manager: ConnManager, refused: Refused, clock: Clock, *, answer_s: float = ANSWER_S) -> None:
        self._manager = manager
        self._refused = refused
        self._clock = clock
        self._answer_s = answer_s
        self._pass_on = manager.process_frame_task
        self._lock = threading.Lock()
        self._asking: set[str] = set()
        self._known: dict[tuple[str, str], float] = {}
        manager.process_frame_task = self._frame

    def _frame(self, connection: SfmConnection, frame: Any) -> None:
        said = self._said(connection, frame)
        if said is None:
            self._pass_on(connection, frame)
            return
        name, now = said
        if not self._admits(name, connection):
            connection.conn.close()
            return
        self._clock(_slot(name), now)
        self._pass_on(connection, frame)

    def _said(self, connection: SfmConnection, frame: Any) -> tuple[str, float] | None:
        """The site's name and time in a first word that NVFLARE would take; None for everything else."""
        if connection.sfm_endpoint is not None:
            return None
        try:
            prefix = Prefix.from_bytes(frame)
            if prefix.type != Types.HELLO or connection.conn.connector.mode != Mode.PASSIVE:
                return None
            said = self._manager.get_dict_payload(prefix, frame)
            name = FQCN.normalize(said[HandshakeKeys.ENDPOINT_NAME])
            if FQCN.validate(name) or is_valid_admin_client_name(name) or _slot(name) == FQCN.ROOT_SERVER:
                return None
            if is_mtls_connection(connection.conn.connector.params):
                holder = get_param(connection.conn.get_conn_properties(), DriverParams.PEER_CN)
                self._manager.identity_resolver.require_match(name, holder, "a connection")
            return str(name), float(said[HandshakeKeys.TIMESTAMP])
        except Exception:
            # Who has no right to the name is NVFLARE's to refuse.
            return None

    def _admits(self, name: str, newcomer: SfmConnection) -> bool:
        address = _address(newcomer)
        with self._lock:
            holders = self._holders(name, newcomer)
            if not holders:
                return True
            held = _address(holders[0])
            self._known = {who: at for who, at in self._known.items() if time.monotonic() - at < REMEMBERED_S}
            known = (name, address) in self._known
            if not known and name in self._asking:
                # Whoever is asked for now answers for this one, too: it comes again in some seconds.
                return False
            self._asking.add(name)
        try:
            alive = known or self._answers(name, holders)
        finally:
            with self._lock:
                self._asking.discard(name)
        if not alive:
            logger.info("%s is at %s now: its connection from %s gives no sign of life", name, address, held)
            return True
        with self._lock:
            self._known[name, address] = time.monotonic()
        self._refused(_slot(name), address, held)
        return False

    def _answers(self, name: str, holders: list[SfmConnection]) -> bool:
        """Whether one of ``holders`` says anything while it is waited for."""
        before = [(holder, holder.last_activity) for holder in holders]
        for holder in holders:
            try:
                holder.send_heartbeat(Types.PING)
            except Exception:
                logger.debug("%s cannot be asked", name)
        deadline = time.monotonic() + self._answer_s
        while time.monotonic() < deadline:
            there = self._holders(name, None)
            if not any(holder in there for holder in holders):
                return False
            if any(holder.last_activity != heard for holder, heard in before if holder in there):
                return True
            time.sleep(POLL_S)
        return False

    def _holders(self, name: str, newcomer: SfmConnection | None) -> list[SfmConnection]:
        endpoint = self._manager.sfm_endpoints.get(name)
        return [each for each in list(endpoint.connections) if each is not newcomer] if endpoint is not None else []


def _slot(name: str) -> str:
    """The site of a cell: a job's cell is called ``Trust_1.<job>``."""
    return str(FQCN.split(name)[0])


def _address(connection: SfmConnection) -> str:
    """Where the other side is, without its port: ``ipv4:10.0.0.5:4711`` as gRPC says it."""
    told = str(get_param(connection.conn.get_conn_properties(), DriverParams.PEER_ADDR) or "")
    host = told.partition(":")[2].rpartition(":")[0] if told.startswith("ip") else told.rpartition(":")[0]
    return host.replace("%5B", "").replace("%5D", "").strip("[]") or UNKNOWN
