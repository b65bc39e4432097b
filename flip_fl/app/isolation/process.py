"""The app's process of one job: started behind its walls, handed tasks, listened to, and ended."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flip_fl.app.faults import BadFrame
from flip_fl.app.forks import Fork
from flip_fl.app.isolation import handover
from flip_fl.app.isolation.channel import Channel, Said
from flip_fl.app.isolation.forking import fork_guest
from flip_fl.app.isolation.rules import Isolation, Level
from flip_fl.app.isolation.walls import Walls
from flip_fl.app.session import Session
from flip_fl.app.site import SiteSpec

# An app that says more than is read waits.
MAX_WAITING = 1_000


class GuestProcess:
    """The process. ``channel`` leads to it; ``grant`` lets it read what lies in a folder. ``close`` ends it.

    Raises ``GuestStopped`` where it cannot be had as the site asks for it, and ``OSError``.
    """

    def __init__(
        self, level: Level, wanted: Isolation, session: Session, spec: SiteSpec, environment: Mapping[str, str]
    ) -> None:
        self._said: queue.Queue[Said | str] = queue.Queue(MAX_WAITING)
        self._over = False
        self._problem = ""
        self._walls = Walls(level, wanted, session, spec, environment)
        # What the site keeps of the model is told to a new process once.
        self._fresh = True
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        try:
            with theirs:
                output = 1 if session.show_output else None
                self._fork: Fork = fork_guest(self._walls.home, environment, [theirs.fileno()], output)
            self.channel.say(
                {
                    "rules": self._walls.rules.told(),
                    "app_dir": str(session.app_dir.resolve()),
                    "show_output": session.show_output,
                    "local_rounds": session.config.local_rounds,
                    "asks": "LOCAL_DEV" not in environment,
                    "uploads": str(self._walls.uploads),
                    "derived": None if self._walls.derived is None else str(self._walls.derived),
                }
            )
            self._walls.entered(self.channel, self._fork.pid)
        except BaseException:
            self.close(0.0)
            raise
        self.grant = self._walls.grant
        self._walls.watch(self._fork.pid, self._beyond)
        threading.Thread(target=self._listen, name="flip-guest", daemon=True).start()

    def task(self, number: int, spec: SiteSpec, arrays: Mapping[str, Any], session: Session) -> None:
        """Hand over one task."""
        own = session.local.known() if self._fresh else {}
        self._fresh = False
        memory = [handover.put(each) for each in (arrays, *own.values())]
        try:
            with contextlib.suppress(OSError):  # its end is heard of where its answer is waited for
                self.channel.say({"kind": "task", "number": number, "spec": _facts(spec), "own": list(own)}, memory)
        finally:
            for descriptor in memory:
                os.close(descriptor)

    def work(
        self, number: int, module: str, facts: Mapping[str, Any], blobs: Mapping[str, bytes], spec: SiteSpec
    ) -> None:
        """Hand over what a module of the house shall do there."""
        memory = handover.put(handover.of_bytes(blobs))
        told = {"kind": "task", "number": number, "spec": _facts(spec), "work": module, "facts": facts}
        try:
            with contextlib.suppress(OSError):
                self.channel.say(told, [memory])
        finally:
            os.close(memory)

    def stop(self) -> None:
        """Tell the task that it shall end."""
        with contextlib.suppress(OSError):
            self.channel.say({"kind": "stop"})

    def next(self, timeout_s: float) -> Said | str | None:
        """What it said next, as text how it ended; None when that was nothing for ``timeout_s``."""
        try:
            return self._said.get(timeout=timeout_s)
        except queue.Empty:
            return self._ending() if self._fork.ended() and self._said.empty() else None

    def close(self, grace_s: float) -> None:
        """End the process and all that it started, after ``grace_s`` at the latest."""
        self._over = True
        fork = getattr(self, "_fork", None)
        if fork is not None:
            if grace_s and not fork.ended():
                with contextlib.suppress(OSError):
                    self.channel.say({"kind": "end"})
                fork.wait(grace_s)
            fork.kill()
            fork.close()
        self.channel.close()
        self._walls.close()

    def _beyond(self, problem: str) -> None:
        self._problem = problem
        self._fork.kill()

    def _ending(self) -> str:
        if self._problem:
            return self._problem
        self._fork.wait(1.0)
        code = self._fork.returncode if self._fork.ended() else None
        if code is None:
            return "it closed its channel"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _listen(self) -> None:
        try:
            while (said := self.channel.read()) is not None:
                if not self._put(said):
                    return
        except BadFrame as problem:
            self._put(f"what it said cannot be read: {problem}")
            return
        except OSError:
            pass
        self._put(self._ending() if not self._over else "")

    def _put(self, said: Said | str) -> bool:
        """Queue it, waiting while the queue is full; False when nobody will ever look."""
        while not self._over:
            with contextlib.suppress(queue.Full):
                self._said.put(said, timeout=0.2)
                return True
        return False


def _facts(spec: SiteSpec) -> dict[str, Any]:
    return {**asdict(spec), "task": spec.task.value}
