"""The benchmark of the filters runs, and compares like with like."""

from __future__ import annotations

import pytest

from tests.benchmarks import privacy_filters


@pytest.mark.slow
def test_the_filters_are_measured_beside_both_engines_own() -> None:
    """Protects the benchmark from an engine's next version: each filter has its figures, and the rivals theirs."""
    figures = privacy_filters.measure(numbers=400_000, repeats=1)
    assert len(figures) == 10
    assert all(figure.value > 0 for figure in figures)
    assert sum(figure.rival is not None for figure in figures) == 4
