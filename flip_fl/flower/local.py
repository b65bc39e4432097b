"""The command that runs a whole Flower job on one machine.

    python -m flip_fl.flower.local JOB_DIR [--slots A,B] [--log-dir DIR] [--run-config key=value]...

No SuperLink, no SuperNode, no Ray: less than a second a round besides the work itself.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from flip_fl.app.child import servers
from flip_fl.app.forks import ForkServer
from flip_fl.app.isolation.forking import guest_environment
from flip_fl.app.leaving import leave
from flip_fl.errors import ExitCode, FlipError
from flip_fl.flower.local_warm import is_neutral, site_forks
from flip_fl.flower.local_worker import LOG_FORMAT


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; its exit code is 0 only if the ServerApp has returned."""
    # What is imported from here on leaves little to collect, and takes longer with it.
    gc.set_threshold(50_000)
    given = _parser().parse_args(argv)
    job_dir = given.job_dir.resolve()
    try:
        # Before all that takes time to import, settings included: what it loads is what the run waits for.
        with contextlib.closing(site_forks(job_dir, guest_environment(os.environ))) as forks:
            if is_neutral(job_dir / "app"):
                servers.use(forks)
            _run(given, job_dir, forks)
    except FlipError as error:
        sys.stderr.write(f"{error.text()}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) and ending.code else ExitCode.FAILED
    except Exception:
        traceback.print_exc()
        return ExitCode.FAILED
    return ExitCode.DONE


def _run(given: argparse.Namespace, job_dir: Path, forks: ForkServer) -> None:
    # The sites' modules are loaded meanwhile, and take longer: this costs nothing now, and at the end it would.
    with contextlib.suppress(ImportError):
        importlib.import_module("boto3")
    from flip_fl.flower.component import read_app
    from flip_fl.flower.local_job import parsed, run_job
    from flip_fl.flower.private import settle_flower_log
    from flip_fl.flower.run_config import names_in

    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    settle_flower_log(colours=sys.stderr.isatty())
    declared = read_app(job_dir)
    overrides = dict(parsed(text, declared) for text in given.run_config)
    run_job(job_dir, names_in(given.slots), run_config=overrides, log_dir=given.log_dir, forks=forks)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flip_fl.flower.local",
        description="Run a Flower app on this machine, each site in a process of its own, without SuperLink and Ray.",
    )
    parser.add_argument("job_dir", type=Path, help="the folder with the app's pyproject.toml")
    parser.add_argument("--slots", default="", help="the sites, as Trust_1,Trust_2 (default: flip-slots, else two)")
    parser.add_argument("--log-dir", type=Path, help="where each site's log is written (default: JOB_DIR/logs)")
    parser.add_argument(
        "--run-config", action="append", default=[], metavar="KEY=VALUE", help="a value for a key that the app declares"
    )
    return parser


if __name__ == "__main__":
    leave(main())
