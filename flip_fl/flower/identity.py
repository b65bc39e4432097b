"""Who is who: which of the nodes that a SuperLink knows are the job's sites. No network, no Flower types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from flip_fl.privacy.egress import sane_name
from flip_fl.values import natural_key

_SHOWABLE = re.compile(r"[\w.\- ]{1,128}")


class Unfit(StrEnum):
    """Why a node is not used."""

    UNNAMED = "unnamed"
    DUPLICATE = "duplicate"
    UNEXPECTED = "unexpected"
    SILENT = "silent"


@dataclass(frozen=True)
class Node:
    """A connected node and the name that is believed of it; "" where there is none."""

    node_id: int
    name: str


@dataclass(frozen=True)
class Unused:
    """Nodes that take no part, all for the same reason and under the same name."""

    why: Unfit
    name: str
    node_ids: tuple[int, ...]

    @property
    def words(self) -> str:
        """A phrase for the end of a sentence: ``a node without a registered name``."""
        count = len(self.node_ids)
        match self.why:
            case Unfit.UNNAMED:
                return "a node without a registered name" if count == 1 else f"{count} nodes without a registered name"
            case Unfit.DUPLICATE:
                return f"{count} nodes that are both {self.name}" if count == 2 else f"{count} nodes named {self.name}"
            case Unfit.UNEXPECTED:
                return f"{self.name}, which is not one of the job's sites"
            case Unfit.SILENT:
                which = "a simulated node" if count == 1 else f"{count} simulated nodes"
                return f"{which} that named no site"

    @property
    def sentence(self) -> str:
        """What the hub is told, with the fix."""
        match self.why:
            case Unfit.UNNAMED:
                fix = "register its key under its slot's name: flwr supernode register KEY.pub --name SLOT"
                return f"connected and not used: {self.words} ({fix})"
            case Unfit.DUPLICATE:
                fix = "unregister the one that is not the site's: flwr supernode unregister"
                return f"connected and not used: {self.words}; nobody can tell which is the site's ({fix})"
            case _:
                return f"connected and not used: {self.words}"


@dataclass(frozen=True)
class RollCall:
    """The job's sites that are connected (slot → node id, in natural slot order), and who is not used."""

    sites: Mapping[str, int]
    unused: tuple[Unused, ...] = ()

    def missing(self, slots: Sequence[str]) -> list[str]:
        """Those of ``slots`` that are not connected."""
        return [slot for slot in slots if slot not in self.sites]


def call_roll(nodes: Iterable[Node], slots: Sequence[str], nameless: Unfit = Unfit.UNNAMED) -> RollCall:
    """Match ``nodes`` to ``slots``; without slots every named node is a site. ``nameless``: what a node without is.

    A name that two nodes bear belongs to neither: a name is not unique in a SuperLink's registry, and a second key
    under a slot's name must not be counted as that site.
    """
    by_name: dict[str, list[int]] = {}
    wanted = frozenset(slots)
    for node in nodes:
        by_name.setdefault(node.name, []).append(node.node_id)
    sites: dict[str, int] = {}
    unused: list[Unused] = []
    for name in sorted(by_name, key=natural_key):
        ids = by_name[name]
        if not name:
            unused.append(Unused(nameless, "", tuple(ids)))
        elif wanted and name not in wanted:
            unused.append(Unused(Unfit.UNEXPECTED, shown(name), tuple(ids)))
        elif len(ids) > 1:
            unused.append(Unused(Unfit.DUPLICATE, shown(name), tuple(ids)))
        else:
            sites[name] = ids[0]
    return RollCall(sites, tuple(unused))


def in_order(slots: Iterable[str]) -> list[str]:
    """Each slot once, in natural order."""
    return sorted(dict.fromkeys(slots), key=natural_key)


def shown(name: str) -> str:
    """A name that somebody else made up, fit for a row at the hub."""
    return name if _SHOWABLE.fullmatch(name) else "a name that cannot be shown"


def mismatch(slot: str, claim: str | None) -> str | None:
    """What to tell of a client at ``slot`` that claims to be ``claim``; None when it claims nothing, or the truth."""
    if claim is None or claim == slot:
        return None
    # A client's own word goes on to the hub: only what could be a slot's name.
    return f"{slot} claims to be {claim if sane_name(claim) and ' ' not in claim else 'somebody else'}: refused"


def not_connected(call: RollCall, slots: Sequence[str], needed: int, waited_s: float) -> str:
    """Why a run cannot start or go on: who is missing, who is there, and which nodes do not count."""
    missing = call.missing(slots)
    who = f"{', '.join(missing)} not connected" if missing else "too few sites connected"
    there = ", ".join(call.sites) or "none"
    text = f"{who} after {waited_s:g} s; {needed} of the job's sites needed, connected: {there}"
    if call.unused:
        text += f"; not used: {', '.join(each.words for each in call.unused)}"
    return text
