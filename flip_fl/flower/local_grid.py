"""Flower's grid on one machine, without a SuperLink and without Ray: over local sites."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Error, Message, RecordDict, UserConfigValue
from flwr.serverapp import Grid

from flip_fl.flower.local_site import CLOSE_GRACE_S, LocalSite
from flip_fl.flower.private import (
    NODE_UNAVAILABLE,
    SERVER_NODE_ID,
    NodeInfo,
    Run,
    be_task,
    new_id,
    new_run,
    node_info,
    number_message,
)

LOCAL_RUN = "flip-local"
# How long nothing can happen at a site before the grid looks at it again without having been woken.
LOOK_AGAIN_S = 0.2


class LocalGrid(Grid):
    """A grid over sites of this machine: nodes are named after their slots, ids are random as in a deployment.

    Making one says that this process is the ServerApp of the run (flwr keeps that per process): one at a time.
    Not for several threads. Replies that nobody asks for are kept until the grid is closed.
    """

    def __init__(
        self,
        sites: Sequence[LocalSite],
        run_config: Mapping[str, UserConfigValue] | None = None,
        *,
        run_id: int | None = None,
    ) -> None:
        self._sites = {site.node_id: site for site in sites}
        self._nodes = [node_info(site.node_id, site.slot) for site in sites]
        self._run = new_run(new_id() if run_id is None else run_id, LOCAL_RUN, run_config or {})
        self._replies: dict[str, Message] = {}
        self._unseen = False
        be_task(run_id=self._run.run_id, node_id=SERVER_NODE_ID, task_id=new_id())

    @property
    def run(self) -> Run:
        return self._run

    def set_run(self, run: Run) -> None:
        self._run = run
        be_task(run_id=run.run_id, node_id=SERVER_NODE_ID, task_id=new_id())

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_nodes(self) -> list[NodeInfo]:
        return list(self._nodes)

    def get_node_ids(self) -> list[int]:
        return list(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand each message to its site. Raises ``ValueError`` for one that answers another, has no time to live, or
        cannot be serialised; one to a node that is not there is answered at once with Flower's own error.
        """
        ids = []
        for message in messages:
            if message.metadata.reply_to_message_id or message.metadata.ttl <= 0 or not message.has_content():
                raise ValueError("the message cannot be sent: it is a reply, an error, or has no time to live")
            message_id = number_message(message)
            site = self._sites.get(message.metadata.dst_node_id)
            if site is None:
                self._keep(Message(Error(NODE_UNAVAILABLE, "no such node"), reply_to=message))
            else:
                site.submit(message)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to ``message_ids`` that are there; each is given once. A site in this process works in here."""
        wanted = list(message_ids)
        if not any(each in self._replies for each in wanted):
            self._collect()
        self._unseen = False
        return [self._replies.pop(each) for each in wanted if each in self._replies]

    def wait(self, timeout_s: float) -> None:
        """Return when a reply may be there, or after ``timeout_s`` seconds: what to call between two pulls."""
        if self._unseen or any(site.ready for site in self._sites.values()):
            return
        with selectors.DefaultSelector() as selector:
            for site in self._sites.values():
                for handle, events in site.handles():
                    selector.register(handle, events)
            if selector.get_map():
                selector.select(min(timeout_s, LOOK_AGAIN_S))
            else:
                time.sleep(timeout_s)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The replies to ``messages`` in the order of their arrival; those that come within ``timeout`` seconds."""
        pending = set(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while pending and (end is None or time.monotonic() < end):
            for reply in self.pull_messages(pending):
                pending.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            if pending:
                self.wait(LOOK_AGAIN_S if end is None else max(0.0, min(LOOK_AGAIN_S, end - time.monotonic())))
        return replies

    def stop(self) -> None:
        """Ask every site's running task to end early."""
        for site in self._sites.values():
            site.stop()

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """End every site; all of them together get ``grace_s`` seconds before they are killed."""
        self.stop()
        for site in self._sites.values():
            site.dismiss()
        end = time.monotonic() + grace_s
        for site in self._sites.values():
            site.close(max(0.0, end - time.monotonic()))
        self._replies.clear()

    def _collect(self) -> None:
        for site in self._sites.values():
            works_here = site.ready and not site.handles()
            reply = site.poll()
            if reply is not None:
                self._keep(reply)
                # A site in this process has taken its time: its reply arrives now, not after the next one's work.
                if works_here:
                    return

    def _keep(self, reply: Message) -> None:
        self._replies[reply.metadata.reply_to_message_id] = reply
        self._unseen = True
