"""A whole Flower job on one machine: its ServerApp in this process, each site in a process of its own."""

from __future__ import annotations

import os
import signal
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType

from flwr.app import Context, RecordDict, UserConfigValue

from flip_fl.app.forks import ForkServer
from flip_fl.app.isolation.forking import guest_environment
from flip_fl.errors import ExitCode, FlipError
from flip_fl.flower.component import FlowerApp, read_app, server_app_of
from flip_fl.flower.local_grid import LocalGrid
from flip_fl.flower.local_process import ProcessSite
from flip_fl.flower.local_site import LocalSite
from flip_fl.flower.local_warm import site_forks
from flip_fl.flower.private import SERVER_NODE_ID
from flip_fl.flower.protocol import MAX_SLOT_CHARS
from flip_fl.flower.run_config import SLOTS, names_in
from flip_fl.settings import site_environment

DEFAULT_SLOTS = ("Trust_1", "Trust_2")
# Whoever stopped the run waits for its end: a task that does not see the stop is not waited for much longer.
STOP_GRACE_S = 3.0


def run_job(
    job_dir: Path,
    slots: Sequence[str] = (),
    *,
    run_config: Mapping[str, UserConfigValue] | None = None,
    log_dir: Path | None = None,
    env: Mapping[str, str] | None = None,
    forks: ForkServer | None = None,
) -> None:
    """Run the Flower app in ``job_dir`` with one site per slot; returns when its ServerApp does.

    ``slots``: default ``flip-slots`` of the run config, else two. ``run_config``: values for keys that the app
    declares. ``log_dir``: where ``<slot>.log`` are written, default ``logs`` in the job. ``env``: the sites' whole
    environment, default this process's without secrets. ``forks``: where the sites' processes come from, started
    earlier to save time. A site's node config has ``slot``, ``partition-id`` and
    ``num-partitions``. In the main thread SIGTERM stops the sites' tasks and raises ``SystemExit`` in the ServerApp.

    Raises ``FlipError`` E0530 for what is no Flower app, E0531 for a run config that it does not take, E0303 for
    unusable slots, E0506 when a site cannot be started, and whatever the ServerApp raises.
    """
    app = read_app(job_dir.resolve())
    config = _with_overrides(app, run_config or {})
    named = tuple(slots) or names_in(config.get(SLOTS, "")) or DEFAULT_SLOTS
    _check_slots(named)
    if SLOTS in config:
        config[SLOTS] = ",".join(named)
    logs = (log_dir or app.job_dir / "logs").resolve()
    environment = site_environment(os.environ) if env is None else dict(env)
    with ExitStack() as stack:
        if forks is None:
            forks = stack.enter_context(closing(site_forks(app.job_dir, guest_environment(environment))))
        sites: list[LocalSite] = []
        for number, slot in enumerate(named):
            node_config = {"partition-id": number, "num-partitions": len(named)}
            site = ProcessSite(slot, app.job_dir, config, node_config, forks=forks, env=environment, log_dir=logs)
            stack.callback(site.close, 0.0)
            sites.append(site)
        grid = LocalGrid(sites, config)
        stack.callback(grid.close, STOP_GRACE_S)
        stack.enter_context(_terminable(grid))
        server_app = stack.enter_context(server_app_of(app))
        server_app(grid, Context(grid.run.run_id, SERVER_NODE_ID, {}, RecordDict(), dict(config)))


def parsed(text: str, app: FlowerApp) -> tuple[str, UserConfigValue]:
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
