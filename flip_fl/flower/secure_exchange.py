"""Secure aggregation at the server: the steps around a round's training, and the sum without its masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, Message, RecordDict

from flip_fl.aggregate.fixed_point import Vector
from flip_fl.app.secure import MIN_SITES, threshold
from flip_fl.flower.grid import FlipGrid
from flip_fl.flower.identity import in_order
from flip_fl.flower.phase import RoundFailed
from flip_fl.flower.protocol import QUERY_KEYS, QUERY_SEAL, QUERY_TELL
from flip_fl.flower.secure_masks import check_keys, unmask
from flip_fl.flower.secure_messages import AllKeys, Ask, PublicKeys, Said, Sealed, Shares, get_secure, put_secure

TOO_FEW = "secure aggregation needs {least} sites to the end of a round, so that none is known by the others"


@dataclass(frozen=True)
class Exchange:
    """One round: whose keys are known, who has sealed shares for whom, and at which nodes they are."""

    grid: FlipGrid
    number: int
    nodes: Mapping[str, int]
    keys: Mapping[str, PublicKeys]
    sealed: Mapping[str, Sealed]

    @property
    def least(self) -> int:
        """How many sites must be there to the end."""
        return threshold(len(self.keys))

    def given_to(self, slot: str) -> Sealed:
        """What the others have sealed for ``slot``."""
        return Sealed(shares={other: each.shares[slot] for other, each in self.sealed.items() if other != slot})

    def sum_of(self, masked: Mapping[str, Vector]) -> Vector:
        """The sum of what the sites sent, without masks; uses up the first of ``masked``. Raises ``RoundFailed``."""
        if len(masked) < self.least:
            phase = self.grid.phase
            words = phase.words if phase is not None else ""
            there = ", ".join(masked) or "nobody"
            raise RoundFailed(f"{TOO_FEW.format(least=self.least)}; in round {self.number} there is {there}; {words}")
        ask = Ask(returned=list(masked), lost=[slot for slot in in_order(self.sealed) if slot not in masked])

        def read(slot: str, content: RecordDict) -> Shares:
            told = get_secure(content, Shares)
            if set(told.seeds) != set(ask.returned) or set(told.keys) != set(ask.lost):
                raise ValueError("its shares are not those that it was asked for")
            return told

        told = self.grid.consult(
            _questions(QUERY_TELL, self.nodes, dict.fromkeys(masked, ask)),
            self.number,
            "the shares for the sum of secure aggregation",
            read,
            least=self.least,
        )
        first, *others = masked.values()
        total = first.copy()
        for each in others:
            np.add(total, each, out=total)
        try:
            unmask(total, self.keys, told.values(), ask)
        except ValueError as error:
            raise RoundFailed(f"the sum of round {self.number} cannot be unmasked: {error}") from None
        return total


def begin_exchange(grid: FlipGrid, number: int) -> Exchange:
    """Ask the job's sites for keys, then for shares sealed to each other. Raises ``RoundFailed``, ``RunStopped``."""
    nodes = {grid.roster.slot_of(node): node for node in grid.get_node_ids()}

    def read_keys(slot: str, content: RecordDict) -> PublicKeys:
        keys = get_secure(content, PublicKeys)
        check_keys(keys)
        return keys

    questions = [Message(RecordDict(), node, QUERY_KEYS) for node in nodes.values()]
    keys = grid.consult(questions, number, "the keys of secure aggregation", read_keys, least=MIN_SITES)

    def read_sealed(slot: str, content: RecordDict) -> Sealed:
        sealed = get_secure(content, Sealed)
        if set(sealed.shares) != set(keys) - {slot}:
            raise ValueError("it has not sealed one share for each other site")
        return sealed

    questions = _questions(QUERY_SEAL, nodes, dict.fromkeys(keys, AllKeys(keys=keys)))
    what = "the shares of secure aggregation"
    sealed = grid.consult(questions, number, what, read_sealed, least=threshold(len(keys)))
    return Exchange(grid, number, nodes, keys, sealed)


def vector_of(array: Array) -> Vector:
    """The masked numbers of a reply that the quarantine has let through."""
    found: Vector = array.numpy()
    return found


def _questions(kind: str, nodes: Mapping[str, int], said: Mapping[str, Said]) -> list[Message]:
    questions = []
    for slot, each in said.items():
        content = RecordDict()
        put_secure(content, each)
        questions.append(Message(content, nodes[slot], kind))
    return questions
