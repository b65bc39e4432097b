"""A whole Flower job on one machine: its ServerApp in this process, each site in a process of its own.

    python -m flip_fl.flower.local JOB_DIR [--slots A,B] [--log-dir DIR] [--run-config key=value]...

No SuperLink, no SuperNode, no Ray: less than a second a round besides the work itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import tomllib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from flwr.app import Context, RecordDict, UserConfigValue

from flip_fl.errors import ExitCode, FlipError
from flip_fl.flower.component import FlowerApp, read_app, server_app_of
from flip_fl.flower.local_grid import LOCAL_RUN, LocalGrid
from flip_fl.flower.local_process import ProcessSite
from flip_fl.flower.local_site import DirectSite, LocalSite
from flip_fl.flower.local_worker import LOG_FORMAT
from flip_fl.flower.private import SERVER_NODE_ID, settle_flower_log
from flip_fl.flower.run_config import SLOTS
from flip_fl.settings import site_environment

__all__ = ["LOCAL_RUN", "DirectSite", "LocalGrid", "LocalSite", "ProcessSite", "run_job"]

DEFAULT_SLOTS = ("Trust_1", "Trust_2")
# Whoever stopped the run waits for its end: a task that does not see the stop is not waited for much longer.
STOP_GRACE_S = 3.0
MAX_SLOT_CHARS = 128


def run_job(
    job_dir: Path,
    slots: Sequence[str] = (),
    *,
    run_config: Mapping[str, UserConfigValue] | None = None,
    log_dir: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run the Flower app in ``job_dir`` with one site per slot; returns when its ServerApp does.

    ``slots``: default ``flip-slots`` of the run config, else two. ``run_config``: values for keys that the app
    declares. ``log_dir``: where ``<slot>.log`` are written, default ``logs`` in the job. ``env``: the sites' whole
    environment, default this process's without secrets. A site's node config has ``slot``, ``partition-id`` and
    ``num-partitions``. In the main thread SIGTERM stops the sites' tasks and raises ``SystemExit`` in the ServerApp.

    Raises ``FlipError`` E0530 for what is no Flower app, E0531 for a run config that it does not take, E0303 for
    unusable slots, E0506 when a site cannot be started, and whatever the ServerApp raises.
    """
    app = read_app(job_dir.resolve())
    config = _with_overrides(app, run_config or {})
    named = tuple(slots) or _names(config.get(SLOTS, "")) or DEFAULT_SLOTS
    _check_slots(named)
    if SLOTS in config:
        config[SLOTS] = ",".join(named)
    logs = (log_dir or app.job_dir / "logs").resolve()
    environment = site_environment(os.environ) if env is None else dict(env)
    with ExitStack() as stack:
        sites: list[LocalSite] = []
        for number, slot in enumerate(named):
            node_config = {"partition-id": number, "num-partitions": len(named)}
            site = ProcessSite(slot, app.job_dir, config, node_config, env=environment, log_dir=logs)
            stack.callback(site.close, 0.0)
            sites.append(site)
        grid = LocalGrid(sites, config)
        stack.callback(grid.close, STOP_GRACE_S)
        stack.enter_context(_terminable(grid))
        server_app = stack.enter_context(server_app_of(app))
        server_app(grid, Context(grid.run.run_id, SERVER_NODE_ID, {}, RecordDict(), dict(config)))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; its exit code is 0 only if the ServerApp has returned."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    settle_flower_log(colours=sys.stderr.isatty())
    try:
        declared = read_app(given.job_dir.resolve())
        overrides = dict(_parsed(text, declared) for text in given.run_config)
        run_job(given.job_dir, _names(given.slots), run_config=overrides, log_dir=given.log_dir)
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


def _parsed(text: str, app: FlowerApp) -> tuple[str, UserConfigValue]:
    """``key=value`` with a TOML value; text needs no quotes where the app declares text."""
    key, equals, written = text.partition("=")
    key, written = key.strip(), written.strip()
    if not equals:
        raise FlipError("E0531", given=text, problem="it is not of the form key=value", fix="--run-config key=value")
    try:
        return key, tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        if isinstance(app.run_config.get(key), str):
            return key, written
        raise FlipError(
            "E0531", given=text, problem="its value is not TOML", fix=f"--run-config '{key}=\"{written}\"'"
        ) from None


def _with_overrides(app: FlowerApp, overrides: Mapping[str, UserConfigValue]) -> dict[str, UserConfigValue]:
    config = dict(app.run_config)
    for key, value in overrides.items():
        if key not in config:
            known = ", ".join(sorted(config)) or "none"
            raise FlipError("E0531", given=key, problem="the app does not declare it", fix=f"declared keys: {known}")
        wanted = type(config[key])
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            problem = f"{key} is a {type(value).__name__}; the app declares a {wanted.__name__}"
            raise FlipError("E0531", given=f"{key}={value}", problem=problem, fix=f"give {key} a {wanted.__name__}")
        config[key] = value
    return config


def _names(text: object) -> tuple[str, ...]:
    return tuple(name.strip() for name in str(text).split(",") if name.strip())


def _check_slots(slots: Sequence[str]) -> None:
    for slot in slots:
        bad = not slot or slot.startswith(".") or not slot.isprintable() or "/" in slot or "\\" in slot
        if bad or len(slot) > MAX_SLOT_CHARS or list(slots).count(slot) > 1:
            raise FlipError(
                "E0303",
                key="slots",
                value=repr(slot),
                expected=f"different names of at most {MAX_SLOT_CHARS} characters that can be names of files",
                fix="--slots Trust_1,Trust_2",
            )


@contextmanager
def _terminable(grid: LocalGrid) -> Iterator[None]:
    """While the block runs, the first SIGTERM stops the sites' tasks and ends the ServerApp by ``SystemExit``."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # A second one would break what the ServerApp does at its end; who is in a hurry has SIGKILL.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        grid.stop()
        raise SystemExit(int(ExitCode.STOPPED))

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
