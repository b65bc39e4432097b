"""``python -m tests.benchmarks``: measure everything, print the table, write ``build/bench.json``."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import demo, start_up
from tests.benchmarks.figures import table, write


def main() -> None:
    figures = [*start_up.measure(), *demo.measure()]
    print(table(figures))
    write(figures, Path("build") / "bench.json")


if __name__ == "__main__":
    main()
