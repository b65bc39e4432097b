"""A Client-API script's process, forked with ``DESCRIPTOR GATE OUTPUT DATA SCRIPT ARGUMENTS…``

What GATE says is applied before anything of the script is read. OUTPUT is ``withheld`` or ``shown``; DATA ``files``, or
``asks`` where the site is asked for it.

Runs ``SCRIPT`` as ``__main__`` in the app's folder, once a job. Whatever ends it early is told to the site with a
traceback without values; what it prints is counted and goes nowhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl.app.isolation.channel import Channel as GateChannel
from flip_fl.app.isolation.gate import pass_gate, tensors_by_value
from flip_fl.app.output import Counter
from flip_fl.app.raised import raised, told
from flip_fl.app.script_process import ASKS, WITHHELD

if TYPE_CHECKING:
    from flip_fl.nvflare.script_api import Channel


def main(argv: Sequence[str]) -> int:
    """0 when the script came to its end, or when it was told what stopped it."""
    descriptor, gate, shown, data, name, *arguments = argv
    output = Counter()
    folder = Path.cwd()
    # Loaded before the walls, where every file that is opened is asked for.
    from nvflare.client.api_spec import CLIENT_API_KEY  # noqa: F401
    from nvflare.fuel.data_event.data_bus import DataBus  # noqa: F401

    from flip_fl.app.script_data import AskedSource
    from flip_fl.core import beside
    from flip_fl.nvflare.script_api import Channel

    uses_torch = any(b"torch" in path.read_bytes() for path in folder.rglob("*.py"))
    if uses_torch:
        tensors_by_value()
    with contextlib.closing(GateChannel(socket.socket(fileno=int(gate)))) as way:
        if pass_gate(way) is None:
            return 1
    channel = Channel(int(descriptor), lambda: output.lines)
    if shown == WITHHELD:
        sys.stdout = sys.stderr = output
        warnings.showwarning = output.warned
    if data == ASKS:
        beside.give(AskedSource(channel.ask))
    problem: BaseException | None = None
    try:
        _run(folder / name, arguments, channel, output.reset)
    except SystemExit as left:
        if left.code not in (None, 0):
            problem = left
    except BaseException as error:
        problem = error
    if not channel.own:
        os._exit(0)  # a forked copy that came to the script's end
    if problem is not None:
        with contextlib.suppress(OSError):
            _tell(problem, channel)
    return 0


def _run(script: Path, arguments: Sequence[str], channel: Channel, started: Callable[[], None]) -> None:
    from nvflare.client.api_spec import CLIENT_API_KEY
    from nvflare.fuel.data_event.data_bus import DataBus

    from flip_fl.app.seeds import seed_everything
    from flip_fl.compat import alias
    from flip_fl.nvflare.script_api import ScriptAPI

    first = channel.task()
    if first is None:
        return
    DataBus().put_data(CLIENT_API_KEY, ScriptAPI(channel, seed_everything, first))
    alias.install(lambda text: channel.say("note", text=text))
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(script.parent)]
    sys.argv = [str(script), *arguments]
    module = types.ModuleType("__main__")
    module.__file__ = str(script)
    sys.modules["__main__"] = module
    seed_everything(first[0]["seed"])
    started()
    exec(compile(script.read_bytes(), str(script), "exec"), module.__dict__)


def _tell(error: BaseException, channel: Channel) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    error.__traceback__ = trace
    channel.say("failed", raised=told(raised(error)))
