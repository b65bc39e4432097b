"""The job's sites as they come and go: read from the grid, waited for with an end, and told of once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from flwr.serverapp import Grid

from flip_fl.flower.identity import Node, RollCall, Unfit, Unused, call_roll, in_order, not_connected
from flip_fl.flower.phase import Patience, Quorum, RoundFailed
from flip_fl.flower.private import NodeInfo
from flip_fl.flower.simulated import SimulatedNames
from flip_fl.reporting.reporter import Reporter
from flip_fl.reporting.sites_awaited import SitesAwaited

logger = logging.getLogger("flip_fl.flower")

SIMULATION = "flwr-simulation"
DEPLOYMENT = "flwr-serverapp"
NO_SLOTS = (
    "flip-slots is empty, and in a deployment nobody else says which sites the job has: name them in the run config, as"
    ' in flip-slots = "Trust_1,Trust_2", or say with flip-min-clients how many of the connected sites are enough'
)
Pause = Callable[[float], None]


class Roster:
    """Which nodes are the job's sites: those of ``slots``.

    ``slots`` empty: whoever is there when the run starts, and nobody else later. A local or a simulated grid has all
    its nodes by then, and all of them are needed; in a deployment the quorum must say how many are.

    In a deployment a node is who the SuperLink says it is (the name registered for its key). In Flower's simulation
    nodes have no names: there, and only there, a client is believed. ``pause`` waits some seconds, or raises.
    """

    def __init__(
        self, inner: Grid, reporter: Reporter, slots: Sequence[str], quorum: Quorum, patience: Patience, pause: Pause
    ) -> None:
        self.slots = in_order(slots)
        self._inner = inner
        self._reporter = reporter
        self._quorum = quorum
        self._patience = patience
        self._pause = pause
        self._last: list[NodeInfo] = []
        self._call: RollCall | None = None
        self._called: tuple[list[tuple[int, str]], list[str]] = ([], [])
        self._slot_of: dict[int, str] = {}
        self._told: set[tuple[Unfit, int]] = set()
        simulated = inner.run.primary_task_type == SIMULATION
        self._claims = SimulatedNames(inner, pause, patience.poll_s) if simulated else None

    @property
    def checks_claims(self) -> bool:
        """Whether a client that says it is another site than the grid says is to be refused."""
        return self._claims is None or not self._claims.assigned

    @property
    def known(self) -> dict[int, str]:
        """The nodes that have been the job's sites, with their slots."""
        return dict(self._slot_of)

    def activations(self) -> dict[str, str]:
        """Since when each site's SuperNode is there, as the SuperLink said last; without those of which it does not."""
        return {
            self._slot_of[node.node_id]: str(node.last_activated_at)
            for node in self._last
            if node.node_id in self._slot_of and node.last_activated_at
        }

    def slot_of(self, node_id: int) -> str:
        """The site behind a node that was a participant once. Raises ``RoundFailed`` for any other."""
        slot = self._slot_of.get(node_id)
        if slot is None:
            raise RoundFailed("the strategy sends a message to a node that is not one of the job's sites")
        return slot

    def start(self) -> list[str]:
        """The sites once they are all connected, in slot order; after ``start_timeout_s`` those that are, if enough.

        Raises ``RoundFailed`` naming who is missing, who is there and which nodes are not used; and in a deployment
        at once when neither slots nor a quorum are given.
        """
        needed = self._needed()
        if self.slots and needed > len(self.slots):
            named = ", ".join(self.slots)
            raise RoundFailed(f"the job needs {needed} sites and has {len(self.slots)}: {named}")
        awaited = SitesAwaited(self._reporter, needed, self._patience.start_timeout_s)
        call = self._wait_for(len(self.slots) or needed, needed, awaited)
        missing = call.missing(self.slots)
        if missing:
            waited = f"{self._patience.start_timeout_s:g} s"
            logger.warning("going on without %s, not connected after %s", ", ".join(missing), waited)
        self.slots = self.slots or list(call.sites)
        return list(call.sites)

    def nodes(self) -> list[NodeInfo]:
        """The nodes of the sites that are connected, in slot order; waits for the quorum as ``start`` does."""
        needed = self._needed()
        call = self._wait_for(needed, needed)
        by_id = {node.node_id: node for node in self._last}
        return [by_id[node_id] for node_id in call.sites.values()]

    def present(self, slots: Collection[str]) -> dict[str, int]:
        """Who of ``slots`` is connected, with the node's id, in slot order; waits for all as long as for the start."""
        deadline = time.monotonic() + self._patience.start_timeout_s
        while True:
            self._pause(0)
            found = {slot: node_id for slot, node_id in self.connected().sites.items() if slot in slots}
            left = deadline - time.monotonic()
            if len(found) == len(slots) or left <= 0:
                return found
            self._pause(min(self._patience.poll_s, left))

    def connected(self) -> RollCall:
        """Who is there now."""
        self._last = list(self._inner.get_nodes())
        named = [(int(node.node_id), str(node.name)) for node in self._last]
        if self._claims is None and self._call is not None and self._called == (named, self.slots):
            # Strategies ask several times a round, and nearly always nobody has come or gone.
            return self._call
        nodes = [Node(*each) for each in named]
        if self._claims is None:
            call = call_roll(nodes, self.slots)
        else:
            claimed = self._claims.names([node.node_id for node in nodes], self.slots, self._patience.start_timeout_s)
            nodes = [Node(node.node_id, claimed.get(node.node_id, "")) for node in nodes]
            call = call_roll(nodes, self.slots, Unfit.SILENT)
        self._slot_of.update({node_id: slot for slot, node_id in call.sites.items()})
        self._tell(call.unused)
        self._call, self._called = call, (named, list(self.slots))
        return call

    def _needed(self) -> int:
        needed = self._quorum.needed(len(self.slots))
        if needed:
            return needed
        if self._inner.run.primary_task_type == DEPLOYMENT:
            # Whoever connects first would train alone.
            raise RoundFailed(NO_SLOTS)
        return len(list(self._inner.get_nodes())) or 1

    def _wait_for(self, wanted: int, needed: int, awaited: SitesAwaited | None = None) -> RollCall:
        deadline = time.monotonic() + self._patience.start_timeout_s
        while True:
            self._pause(0)
            call = self.connected()
            if len(call.sites) >= wanted:
                return call
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if awaited is not None:
                awaited.look(list(call.sites), self.slots)
            self._pause(min(self._patience.poll_s, left))
        if len(call.sites) < needed:
            raise RoundFailed(not_connected(call, self.slots, needed, self._patience.start_timeout_s))
        return call

    def _tell(self, unused: Iterable[Unused]) -> None:
        for each in unused:
            new = tuple(node_id for node_id in each.node_ids if (each.why, node_id) not in self._told)
            if not new:
                continue
            self._told |= {(each.why, node_id) for node_id in new}
            # Of two that bear a name both are meant, although one was there before.
            fresh = each if each.why is Unfit.DUPLICATE else Unused(each.why, each.name, new)
            logger.warning("%s", fresh.sentence)
            # Sites of other jobs are no fault of this run; a node that nobody can name is.
            self._reporter.log(fresh.sentence, success=each.why in (Unfit.UNEXPECTED, Unfit.SILENT))
