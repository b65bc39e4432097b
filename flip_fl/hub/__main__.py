"""The hub as a process: ``python -m flip_fl.hub --settings FILE --port N --port-file PATH``."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

from flip_fl.services.process import ProcessOptions, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process; returns its exit code."""
    return run("flip_fl.hub", "Serve a FLIP hub on 127.0.0.1.", _serve, arguments)


def _serve(options: ProcessOptions) -> None:
    # Imports leave little to collect and take a seventh longer with it; ``serve`` chooses again when all is loaded.
    gc.set_threshold(50_000)
    from flip_fl.hub.server import serve
    from flip_fl.settings import HubSettings, load

    serve(load(HubSettings, options.settings), port=options.port, port_file=options.port_file)


if __name__ == "__main__":
    sys.exit(main())
