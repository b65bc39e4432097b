"""``python -m tests.benchmarks``: measure everything, print the table, write ``build/bench.json``.

Names of sections on the command line restrict it to these, and write no file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flip_fl.simulate.processes import terminable
from tests.benchmarks import (
    data,
    demo,
    flower_engines,
    flower_large_model,
    flower_wrapping,
    hub_load,
    hub_page,
    hub_page_big,
    hub_read,
    hub_trusts,
    isolation,
    privacy_filters,
    reporting_close,
    reporting_drain,
    reporting_emit,
    reporting_nvflare,
    results,
    start_up,
)
from tests.benchmarks.figures import Figure, table, write

SECTIONS: Mapping[str, Callable[[], list[Figure]]] = {
    "start_up": start_up.measure,
    "demo": demo.measure,
    "flower_engines": flower_engines.measure,
    "flower_wrapping": flower_wrapping.measure,
    "flower_large_model": flower_large_model.measure,
    "reporting_emit": reporting_emit.measure,
    "reporting_drain": reporting_drain.measure,
    "reporting_close": reporting_close.measure,
    "reporting_nvflare": reporting_nvflare.measure,
    "hub_load": hub_load.measure,
    "hub_read": hub_read.measure,
    "hub_trusts": hub_trusts.measure,
    "hub_page": hub_page.measure,
    "hub_page_big": hub_page_big.measure,
    "data": data.measure,
    "results": results.measure,
    "isolation": isolation.measure,
    "privacy_filters": privacy_filters.measure,
}


def main(names: Sequence[str]) -> None:
    figures: list[Figure] = []
    with terminable():
        for name in names or SECTIONS:
            begun = time.monotonic()
            figures += SECTIONS[name]()
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    print(table(figures))
    if not names:
        write(figures, Path("build") / "bench.json")


if __name__ == "__main__":
    main(sys.argv[1:])
