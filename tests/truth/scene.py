"""One run of a cell and the trouble in it: the app that waits at the moment, and what is done to the run then."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from flip_fl.hub import admin
from flip_fl.hub.model_service import update_model_status
from flip_fl.reporting.stats import find_outboxes
from flip_fl.settings import ServerSettings, load
from flip_fl.simulate.faults import AWAY, HUNG, OK, FaultyHub, answers
from flip_fl.simulate.model import Progress
from flip_fl.values import SERVER_NAME, ModelStatus
from tests.support.runs import Trouble, holders, site_processes
from tests.truth.app import GO, START, STARTS_FROM_FILE
from tests.truth.cells import Cell, Column, Engine, Row

VICTIM = "Trust_2"
SITES = 2
ROUNDS = 3
# So many files take a moment to remove: long enough to be seen and to stop whoever removes them.
FILLING = 40_000
MOMENT_TIMEOUT_S = 240.0
# A stop at the hub comes with the answer to the next report, or to the heartbeat.
HEARD_TIMEOUT_S = 15.0
STOP_IS_OBEYED_S = 0.8
_AT_STORE = (Column.UPLOAD, Column.CLEANUP)


class RunIsOver(AssertionError):
    """The run has ended before the moment came in which something was to be done to it."""


@dataclass
class Scene:
    """Give ``watch`` to ``run`` as its progress; ``close`` when the run has returned. ``gate`` is the app's."""

    cell: Cell
    out: Path
    gate: Path
    done: bool = False
    _over: threading.Event = field(default_factory=threading.Event)
    _hub: FaultyHub | None = None
    _store: FaultyHub | None = None
    _trouble: Trouble | None = None

    def watch(self, progress: Progress) -> None:
        """Told of the engine's start: hub and object store get a proxy, and the trouble waits for its moment."""
        if progress.stage == "start" and self._trouble is None:
            self._stand_between()
            self._trouble = Trouble(self._work)
            self._trouble(progress)

    def close(self) -> None:
        """End what stands between; raises what the trouble could not do."""
        self._over.set()
        try:
            if self._trouble is not None:
                self._trouble.end()
        finally:
            for proxy in (self._hub, self._store):
                if proxy is not None:
                    proxy.close()

    # -- before the engine starts -------------------------------------------------------------------------------------

    def _stand_between(self) -> None:
        file = self.out / "state" / "settings" / f"{SERVER_NAME}.env"
        settings = load(ServerSettings, file)
        assert settings.s3_endpoint is not None
        self._hub, self._store = FaultyHub(settings.hub_url), FaultyHub(settings.s3_endpoint)
        self._hub.set(OK)
        # The first thing that is asked of the store is the upload's: it waits there for what comes.
        self._store.set(HUNG if self.cell.column in _AT_STORE else OK)
        text = file.read_text(encoding="utf-8")
        for address, proxy in ((settings.hub_url, self._hub), (settings.s3_endpoint, self._store)):
            assert address in text
            text = text.replace(address, proxy.url)
        file.write_text(text, encoding="utf-8")
        if self.cell.row is Row.MODEL and self.cell.column in STARTS_FROM_FILE:
            (start,) = (self.out / "state" / "checkpoints").rglob(START)
            start.unlink()
            self.done = True

    # -- beside the run -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            if self._needs_nothing():
                return
            self._until(self._reached, f"the moment ({self.cell.column})")
            if self.cell.column is Column.CLEANUP and self.cell.row is not Row.CLEANUP:
                self._in_the_clean_up()
            else:
                self._act()
                self._let_go()
            self.done = True
        finally:
            self._let_go()

    def _needs_nothing(self) -> bool:
        """Whether the app itself does it, or it is done."""
        if self.cell.row is Row.RAISES:
            self.done = True
        return self.done

    def _reached(self) -> bool:
        if self.cell.column in _AT_STORE and self.cell.row is not Row.RAISES:
            assert self._store is not None
            if self.cell.row is not Row.CLEANUP or self.cell.column is Column.CLEANUP:
                return bool(self._store.asked)
        at_server = self.cell.column in (Column.INIT, Column.BETWEEN, Column.UPLOAD)
        return len(list(self.gate.glob("*.reached"))) >= (1 if at_server else SITES)

    def _act(self) -> None:
        acts: dict[Row, Callable[[], None]] = {
            Row.ABORT: self._abort,
            Row.CLIENT: self._kill_client,
            Row.SERVER: lambda: self._server().kill(),
            Row.STORE: lambda: self._set(self._store, answers(403)),
            Row.HUB: lambda: self._set(self._hub, AWAY),
            Row.MODEL: self._remove_model,
            Row.CLEANUP: self._hinder_clean_up,
        }
        acts[self.cell.row]()

    def _let_go(self) -> None:
        (self.gate / GO).touch()
        if self._store is not None and self._store.fault is HUNG:
            self._store.set(OK)

    def _in_the_clean_up(self) -> None:
        """Act while what the run leaves on the server's disk is half removed, its process stopped."""
        much = self._work_folder() / "much"
        much.mkdir()
        for number in range(FILLING):
            os.close(os.open(much / str(number), os.O_CREAT | os.O_WRONLY))
        server, before = self._server(), much.stat().st_mtime_ns
        self._let_go()
        with contextlib.suppress(FileNotFoundError):
            self._until(lambda: much.stat().st_mtime_ns != before, "the clean-up", poll_s=0.001)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            self._until(lambda: server.status() == psutil.STATUS_STOPPED, "the stop")
            assert much.is_dir(), "the clean-up was over before it could be looked at"
            self._act()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGCONT)

    # -- what is done -------------------------------------------------------------------------------------------------

    def _abort(self) -> None:
        with admin.open_session(f"sqlite:///{self.out / 'hub.sqlite'}") as session:
            (model,) = admin.list_models(session)
            update_model_status(model.id, ModelStatus.STOPPED, session, user_id="ada")
            session.commit()
        if self.cell.column is Column.CLEANUP:
            return  # the server's process is stopped, and hears nothing
        assert self._hub is not None
        asked = len(self._hub.asked)
        self._until(lambda: len(self._hub.asked) > asked, "the next report", timeout_s=HEARD_TIMEOUT_S)  # type: ignore[union-attr]
        time.sleep(STOP_IS_OBEYED_S)

    def _kill_client(self) -> None:
        self._until(lambda: site_processes(self.out, VICTIM) != set(), f"the process of {VICTIM}")
        for pid in site_processes(self.out, VICTIM):
            os.kill(pid, signal.SIGKILL)

    def _remove_model(self) -> None:
        """Remove every file of weights on the server's disk, and the bundle made of them."""
        removed = 0
        for folder in (*self._model_folders(), self._work_folder()):
            for pattern in ("*.npz", "*.pt", "*.zip"):
                for path in folder.rglob(pattern):
                    with contextlib.suppress(FileNotFoundError):
                        path.unlink()
                        removed += 1
        assert removed, "there was no model to remove"

    def _hinder_clean_up(self) -> None:
        """Let another place hold the run's folder, behind a link, as somebody short of disk does: it is not followed
        when the folder is removed. No mode and no owner would stop root.
        """
        for folder in self._model_folders():
            elsewhere = self.out.parent / f"elsewhere-{folder.name}"
            if folder.is_dir():
                folder.rename(elsewhere)
            else:
                elsewhere.mkdir()
                folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(elsewhere)

    def _set(self, proxy: FaultyHub | None, fault: Any) -> None:
        assert proxy is not None
        proxy.set(fault)

    # -- where things are ---------------------------------------------------------------------------------------------

    def _server(self) -> psutil.Process:
        (outbox,) = find_outboxes([self.out / "state" / "outbox"])
        (server,) = holders(outbox)
        return server

    def _model_folders(self) -> list[Path]:
        """What the server removes at its end."""
        if self.cell.engine is Engine.FLOWER:
            (outbox,) = find_outboxes([self.out / "state" / "outbox"])
            return [self.out / "state" / "flower" / str(UUID(outbox.stem))]
        (app,) = (self.out / "state" / "engine" / "server").glob("*/app_server")
        return [app / "model"]

    def _work_folder(self) -> Path:
        (folder,) = self._model_folders()
        return folder / "work" if self.cell.engine is Engine.FLOWER else folder.parent.parent / "flip_results"

    def _until(
        self, condition: Callable[[], bool], what: str, timeout_s: float = MOMENT_TIMEOUT_S, poll_s: float = 0.02
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self._over.is_set():
                raise RunIsOver(f"the run was over before {what}")
            assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
            time.sleep(poll_s)
