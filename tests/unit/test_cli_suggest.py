"""What is suggested for a mistyped word."""

from __future__ import annotations

import pytest

from flip_fl.commands.suggest import did_you_mean, edit_distance, nearest


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("run", "run", 0), ("rnu", "run", 1), ("provsion", "provision", 1), ("Trust_03", "Trust_3", 1), ("a", "bcd", 3)],
)
def test_a_swap_of_neighbours_counts_as_one_slip(one: str, other: str, distance: int) -> None:
    """Protects the distance by which words are near: letters swapped are one slip, far words are just far."""
    assert edit_distance(one, other) == distance
    assert edit_distance(other, one) == distance


def test_at_most_three_words_nearest_first_in_natural_order() -> None:
    """Protects the reader from a list as long as the one she could have read herself."""
    assert nearest("Trust_", [f"Trust_{n}" for n in (10, 2, 1, 3)]) == ["Trust_1", "Trust_2", "Trust_3"]


def test_only_the_nearest_words_are_suggested() -> None:
    """Protects somebody who wrote Trust_03 from being offered every slot there is."""
    assert nearest("Trust_03", ["Trust_1", "Trust_2", "Trust_3"]) == ["Trust_3"]


def test_nothing_is_suggested_for_a_word_that_is_near_to_nothing() -> None:
    """Protects from a guess that only misleads, such as a short command for any two letters."""
    assert nearest("Guys", ["Trust_1", "Trust_2"]) == []
    assert nearest("xy", ["ab"]) == []
    assert did_you_mean("zebra", ["run"]) is None


def test_case_is_no_slip() -> None:
    """Protects somebody who writes a slot in lower case."""
    assert did_you_mean("trust_2", ["Trust_2"]) == "did you mean Trust_2?"
