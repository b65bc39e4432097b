"""The process of one local site: loads the job's ClientApp once and answers messages until the grid is gone.

    --slot SLOT CONNECTION LIFELINE FORKS      (numbers of inherited descriptors)

Forked by ``ProcessSite`` only. Its output is the site's log; messages have a socket of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from flip_fl.app.forks import ForkServer
from flip_fl.app.isolation.forking import servers
from flip_fl.flower.local_pipe import receive_frame, send_frame

LOOK_AT_PARENT_S = 1.0
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main(argv: Sequence[str]) -> int:
    """Serve one site; returns when the grid closes the connection."""
    parser = argparse.ArgumentParser(prog="flip_fl.flower.local_worker")
    parser.add_argument("--slot", required=True)
    parser.add_argument("connection", type=int)
    parser.add_argument("lifeline", type=int)
    parser.add_argument("forks", type=int)
    given = parser.parse_args(argv)
    # What the app starts must not hold the connection: the grid would take it for this process.
    for descriptor in (given.connection, given.lifeline, given.forks):
        os.set_inheritable(descriptor, False)
    servers.use(ForkServer.joined(socket.socket(fileno=given.forks)))
    faulthandler.enable()
    with socket.socket(fileno=given.connection) as connection:
        hello = receive_frame(connection)
        if hello is None:
            return 0
        facts: dict[str, Any] = json.loads(hello)
        end_with(facts["parent"], given.lifeline)
        _stop_on_terminate(Path(facts["node_config"]["stop-file"]))
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
        # Processes that were forked look alike to ps.
        logging.getLogger(__name__).info("%s is process %d", given.slot, os.getpid())
        with contextlib.suppress(ConnectionError):
            _serve(connection, facts)
    return 0


def _serve(connection: socket.socket, facts: dict[str, Any]) -> None:
    # Imported behind the watch for the parent: it takes a second, in which the parent may die.
    from flwr.app import Context, RecordDict

    from flip_fl.flower.component import load_client_app
    from flip_fl.flower.local_site import answer, failed
    from flip_fl.flower.private import be_task, message_from_bytes, message_to_bytes, new_id, settle_flower_log

    settle_flower_log(colours=False)
    slot, node_id, job_dir = facts["slot"], facts["node_id"], Path(facts["job_dir"])
    app = broken = context = None
    try:
        app = load_client_app(job_dir)
    except (Exception, SystemExit) as error:
        logging.getLogger(__name__).exception("the ClientApp cannot be loaded")
        broken = error
    while (frame := receive_frame(connection)) is not None:
        message = message_from_bytes(frame)
        run_id = message.metadata.run_id
        be_task(run_id=run_id, node_id=node_id, task_id=new_id())
        # Flower keeps a node's state from message to message of one run, and no longer.
        if context is None or context.run_id != run_id:
            context = Context(run_id, node_id, dict(facts["node_config"]), RecordDict(), dict(facts["run_config"]))
        if app is None:
            assert broken is not None
            reply = message_to_bytes(failed(message, slot, broken, job_dir))
        else:
            reply = answer(app, message, context, slot, job_dir)
        del frame, message
        _flush()
        send_frame(connection, reply)


def end_with(parent: int, lifeline: int) -> None:
    """End this process and all that it started as soon as ``parent`` is gone, also in the middle of a task."""

    def watch() -> None:
        # The pipe tells at once. A forked child of the parent may hold it open, though, so its id is looked at, too.
        while not select.select([lifeline], [], [], LOOK_AT_PARENT_S)[0] and os.getppid() == parent:
            continue
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="flip-parent-watch", daemon=True).start()


def _stop_on_terminate(stop_file: Path) -> None:
    """SIGTERM asks the task to end early: it leaves the stop file, which ``site.aborted`` looks at."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            stop_file.touch()

    signal.signal(signal.SIGTERM, stop)
    # Ctrl-C is the server's: it says what becomes of the sites.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
