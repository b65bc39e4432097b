"""``flip-fl`` in a process that was forked with everything loaded: what ``tests.support.cli.flip_fl`` runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run the words from the third on; the first two are descriptors: standard output and standard error."""
    from flip_fl.cli import call

    for number, descriptor in enumerate(map(int, argv[:2]), 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = ["flip-fl", *argv[2:]]
    return call(sys.argv[1:])
