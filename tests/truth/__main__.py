"""``python -m tests.truth``: run every cell of the truth table, and print it for the documentation.

What a cell gave is kept in ``build/truth-table.json`` and not run again while the code is the same: a run of the table
that was interrupted goes on. Names of cells on the command line restrict it to these, and no table is printed; ``--jobs
N`` runs N at a time; ``--write`` puts the table into CONTRIBUTING.md when every cell has ended as it says. Exit code 1
when one has not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from flip_fl.simulate.processes import terminable
from tests.truth.cells import Cell, cells
from tests.truth.outcome import outcome
from tests.truth.table import markdown

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path("build") / "truth-table.json"
DOCUMENT = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- truth table: written by `make truth-table` -->", "<!-- end of the truth table -->"
_CODE = ("flip_fl", "job_templates", "tests/truth", "tests/support")

Results = dict[str, dict[str, Any]]


def main(arguments: Sequence[str]) -> int:
    """Run what is missing; print the table and what is wrong with it."""
    parser = argparse.ArgumentParser(prog="python -m tests.truth", description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL", help="names of cells, such as abort-upload-flower")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many runs at a time")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    given = parser.parse_args(arguments)
    known = {cell.name: cell for cell in cells()}
    if unknown := [name for name in given.cells if name not in known]:
        parser.error(f"no cell is called {unknown[0]}")
    wanted = [known[name] for name in given.cells] or list(known.values())
    digest = code_digest()
    results = kept(digest)
    with terminable():
        run_missing([cell for cell in wanted if cell.name not in results], results, digest, given.jobs)
    bad = {cell.name: results[cell.name]["problems"] for cell in wanted if results[cell.name]["problems"]}
    table = markdown(dict.fromkeys(bad, " ✗"))
    if not given.cells:
        print(table)
    for name, found in bad.items():
        print(f"✗ {name}: {'; '.join(found)}", file=sys.stderr)
    seconds = [results[cell.name]["seconds"] for cell in wanted]
    print(f"{len(wanted)} cells, {len(bad)} wrong; the longest run took {max(seconds):.0f} s", file=sys.stderr)
    if given.write and not bad and not given.cells:
        write(table)
    return 1 if bad else 0


def run_missing(missing: Sequence[Cell], results: Results, digest: str, jobs: int) -> None:
    """Run ``missing`` and keep what each gave as soon as it is known."""
    if not missing:
        return
    # A process of its own for each run: what one leaves in memory is nobody else's.
    with ProcessPoolExecutor(max(1, jobs), mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(outcome, cell): cell for cell in missing}
        try:
            for number, done in enumerate(as_completed(running), 1):
                cell = running[done]
                results[cell.name] = done.result()
                KEPT.parent.mkdir(exist_ok=True)
                KEPT.write_text(json.dumps({"code": digest, "cells": results}, indent=2), encoding="utf-8")
                mark = "✗" if results[cell.name]["problems"] else "✓"
                took = results[cell.name]["seconds"]
                print(f"{mark} {number}/{len(missing)} {cell.name}: {took:.0f} s", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def code_digest() -> str:
    """A digest of all that decides how a run ends."""
    digest = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = path.read_bytes()
                digest.update(f"{path.relative_to(ROOT)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def kept(digest: str) -> Results:
    """What an earlier run of the same code has kept; a cell that went wrong is run again."""
    if not KEPT.is_file():
        return {}
    content: Mapping[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    if content.get("code") != digest:
        return {}
    return {name: result for name, result in content["cells"].items() if not result["problems"]}


def write(table: str) -> None:
    """Put ``table`` between its marks in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
