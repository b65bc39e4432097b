"""Who counts as a site, and what is said of those who do not."""

from __future__ import annotations

import itertools

import pytest

from flip_fl.flower.identity import Node, Unfit, call_roll, in_order, mismatch, not_connected, shown

SLOTS = ["Trust_1", "Trust_2", "Trust_10"]


def test_sites_are_the_named_nodes_in_natural_order_whatever_order_they_came_in() -> None:
    """The order of aggregation must not depend on who connected first, nor put Trust_10 before Trust_2."""
    nodes = [Node(number, slot) for number, slot in enumerate(SLOTS, 1)]
    for order in itertools.permutations(nodes):
        call = call_roll(order, SLOTS)
        assert list(call.sites.items()) == [("Trust_1", 1), ("Trust_2", 2), ("Trust_10", 3)]
        assert call.unused == ()
        assert call.missing(SLOTS) == []


def test_nobody_is_used_whose_name_does_not_say_which_one_site_it_is() -> None:
    """An unnamed node, two keys under one name, and another project's site must never be counted as a site."""
    nodes = [Node(1, "Trust_1"), Node(2, ""), Node(3, "Trust_2"), Node(4, "Trust_2"), Node(5, "Trust_9"), Node(6, "")]
    call = call_roll(nodes, SLOTS)
    assert dict(call.sites) == {"Trust_1": 1}
    assert [(each.why, each.node_ids) for each in call.unused] == [
        (Unfit.UNNAMED, (2, 6)),
        (Unfit.DUPLICATE, (3, 4)),
        (Unfit.UNEXPECTED, (5,)),
    ]
    assert call.missing(SLOTS) == ["Trust_2", "Trust_10"]


def test_without_a_list_every_node_with_a_name_of_its_own_is_a_site() -> None:
    """A job that names no slots still never uses a node that nobody registered, nor a doubled name."""
    nodes = [Node(1, "Trust_1"), Node(2, ""), Node(3, "Trust_2"), Node(4, "Trust_2")]
    assert dict(call_roll(nodes, []).sites) == {"Trust_1": 1}


def test_what_is_said_of_unused_nodes_names_the_fix() -> None:
    """Whoever runs the network must know which key to register, or to unregister, from the row alone."""
    nodes = [Node(77701, ""), Node(77702, "Trust_2"), Node(77703, "Trust_2"), Node(77704, "Trust_9")]
    unnamed, doubled, unexpected = (each.sentence for each in call_roll(nodes, SLOTS).unused)
    assert "a node without a registered name" in unnamed
    assert "flwr supernode register KEY.pub --name SLOT" in unnamed
    assert "2 nodes that are both Trust_2" in doubled
    assert "flwr supernode unregister" in doubled
    assert unexpected == "connected and not used: Trust_9, which is not one of the job's sites"
    # Who knows a node's id and its message's can answer in its name.
    assert "777" not in unnamed + doubled + unexpected


def test_a_run_that_cannot_start_says_who_is_missing_there_and_not_used() -> None:
    """ "Waiting for nodes" for ever once was all that anybody learned."""
    call = call_roll([Node(1, "Trust_1"), Node(2, ""), Node(3, "")], SLOTS)
    assert not_connected(call, SLOTS, 3, 600.0) == (
        "Trust_2, Trust_10 not connected after 600 s; 3 of the job's sites needed, connected: Trust_1;"
        " not used: 2 nodes without a registered name"
    )
    assert not_connected(call_roll([], []), [], 1, 5) == (
        "too few sites connected after 5 s; 1 of the job's sites needed, connected: none"
    )


@pytest.mark.parametrize("claim", [None, "Trust_2"])
def test_no_claim_and_the_true_one_are_accepted(claim: str | None) -> None:
    """A ClientApp that is not ours claims nothing."""
    assert mismatch("Trust_2", claim) is None


def test_a_false_claim_is_told_without_repeating_whatever_it_says() -> None:
    """A claim is the client's own text: it must not carry a row of data to the hub."""
    assert mismatch("Trust_2", "Trust_1") == "Trust_2 claims to be Trust_1: refused"
    for claim in ("id;name\n7;A. Smith", "John SMITH", "943 476 5919"):
        assert mismatch("Trust_2", claim) == "Trust_2 claims to be somebody else: refused"
    assert shown("x" * 129) == "a name that cannot be shown"


def test_slots_are_taken_once_each_in_natural_order() -> None:
    """A slot that is listed twice is one site."""
    assert in_order(["Trust_10", "Trust_2", "Trust_10"]) == ["Trust_2", "Trust_10"]
