"""A trust's services as a process: ``python -m flip_fl.trust --settings FILE --port N --port-file PATH``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flip_fl.services.process import ProcessOptions, run
from flip_fl.settings import TrustSettings, load
from flip_fl.trust.server import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process; returns its exit code."""
    return run("flip_fl.trust", "Serve a trust's services on 127.0.0.1.", _serve, arguments)


def _serve(options: ProcessOptions) -> None:
    serve(load(TrustSettings, options.settings), port=options.port, port_file=options.port_file)


if __name__ == "__main__":
    sys.exit(main())
