"""A program behind walls from its first import on.

    python -m flip_fl.app.isolation.front GATE MODULE [ARGUMENT]...      (GATE: the number of an inherited socket)

Walls hold one thread, and libraries start others when they are imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from flip_fl.app.isolation.gate import passed


def main(argv: Sequence[str]) -> int:
    """``main`` of the module, with the arguments; 1 where the walls cannot be had."""
    gate, module, *arguments = argv
    return int(importlib.import_module(module).main(arguments)) if passed(int(gate)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
