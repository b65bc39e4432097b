"""``flip-fl`` in a process that was forked with everything loaded: what ``tests.support.cli.flip_fl`` runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# What the commands import when they are called; torch and the engines are no part of it.
LOADED = (
    __name__,
    "flip_fl.cli",
    "flip_fl.commands.checks",
    "flip_fl.commands.hub_probe",
    "flip_fl.dashboard.report",
    "flip_fl.hub.admin",
    "flip_fl.hub.sweep",
    "flip_fl.jobs.watch",
    "flip_fl.provision.make",
    "flip_fl.provision.verify",
    "flip_fl.reporting.session",
    "flip_fl.results.s3",
    "flip_fl.simulate.run",
)


def main(argv: Sequence[str]) -> int:
    """Run the words from the third on; the first two are descriptors: standard output and standard error."""
    from flip_fl.cli import call

    for number, descriptor in enumerate(map(int, argv[:2]), 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = ["flip-fl", *argv[2:]]
    return call(sys.argv[1:])
