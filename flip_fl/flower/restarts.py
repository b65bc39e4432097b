"""Sites whose SuperNode is started anew while they have something to do: what they were asked is gone."""

from __future__ import annotations

import time

from flip_fl.flower.roster import Roster

# A SuperLink that has lost a node says so in its place, but not when the node is back before it is asked.
LOOK_EVERY_S = 5.0


class Restarts:
    """Looks from time to time whose SuperNode is not the one that was there when this was made."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._before = roster.activations()
        self._look_at = time.monotonic() + LOOK_EVERY_S

    def seen(self) -> set[str]:
        """The slots of such sites; empty where it was looked at a short while ago."""
        if not self._before or time.monotonic() < self._look_at:
            return set()
        self._look_at = time.monotonic() + LOOK_EVERY_S
        self._roster.connected()
        now = self._roster.activations()
        return {slot for slot, since in self._before.items() if now.get(slot, since) != since}
