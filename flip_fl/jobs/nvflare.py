"""Jobs of an NVFLARE federation, by an administrator's kit."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from flip_fl.errors import FlipError
from flip_fl.jobs.decide import EngineRun, EngineState
from flip_fl.jobs.engine import EngineJob
from flip_fl.values import natural_key

ANSWER_TIMEOUT_S = 60.0
PROBE_S = 10.0
# The program that speaks to the server; by its name, for nothing here may import the engine.
SESSION = "flip_fl.nvflare.session"
MODEL_ID, DIGEST = "model_id", "flip_digest"
_STATES: Mapping[str, EngineState] = {
    "SUBMITTED": EngineState.WAITING,
    "APPROVED": EngineState.WAITING,
    "DISPATCHED": EngineState.WAITING,
    "RUNNING": EngineState.RUNNING,
    "FINISHED:COMPLETED": EngineState.COMPLETED,
    "FINISHED:ABORTED": EngineState.STOPPED,
}
_AWAY = frozenset({"NoConnection", "SessionClosed", "NoReply", "ConnectionError", "TimeoutError", "NoAnswer"})
_NO_JOB = "JobNotFound"
_ACTS = {
    "sites": "list the sites",
    "jobs": "list the jobs",
    "meta": "look the job up",
    "submit": "take the job",
    "abort": "end the job",
    "logs": "show the log",
    "disable": "keep the slot out",
}


class NvflareJobs:
    """See ``engine.FederationJobs``. ``user`` is the administrator's name in ``kit``, ``address`` where the server is.

    ``close`` ends the session's process; one that hangs is killed and another one started.
    """

    engine = "NVFLARE"
    server = "the FL server"

    def __init__(
        self, kit: Path, user: str, address: tuple[str, int] | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self.kit = kit
        self.connection = str(kit)
        self._user = user
        self._address = address
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[bytes] | None = None

    def sites(self) -> list[str]:
        return sorted(self._order("sites"), key=natural_key)

    def jobs(self) -> list[EngineJob]:
        rows = [_job(row) for row in self._order("jobs")]
        return sorted(rows, key=lambda row: str(row.submitted_at or ""), reverse=True)

    def submit(self, folder: Path, token: str) -> str:
        return str(self._order("submit", str(folder), token))

    def abort(self, job: str) -> None:
        self._order("abort", job)

    def logs(self, job: str) -> str:
        return str(self._order("logs", job))

    def disable(self, slot: str) -> None:
        """Refuse ``slot`` from now on, also after a start of the server."""
        self._order("disable", slot)

    def look(self, run: str) -> EngineRun:
        """See ``decide.EngineRuns``."""
        try:
            found = _job(self._meta(run))
        except FlipError as error:
            if error.facts.get("kind") == _NO_JOB:
                return EngineRun(EngineState.UNKNOWN, "the server has no such job")
            away = error.code == "E0545"
            return EngineRun(EngineState.UNREACHABLE if away else EngineState.REFUSED, str(error.facts["problem"]))
        return EngineRun(found.state, found.details)

    def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _meta(self, job: str) -> dict[str, Any]:
        return dict(self._order("meta", job))

    def _order(self, verb: str, *args: str) -> Any:
        try:
            answer = self._ask(json.dumps({"verb": verb, "args": args}))
        except (OSError, ValueError) as error:
            self.close()
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            answer = {"error": "NoAnswer", "text": text[:1].lower() + text[1:]}
        if "error" not in answer:
            return answer["value"]
        kind = str(answer["error"])
        code = "E0545" if kind in _AWAY else "E0546"
        problem = f"{answer['text'] or kind}"
        raise FlipError(code, server=self.server, kit=self.kit, problem=problem, kind=kind, act=_ACTS[verb])

    def _ask(self, order: str) -> dict[str, Any]:
        if self._child is None and self._address is not None:
            # NVFLARE itself tries for many seconds, in a process that takes some to start.
            with socket.create_connection(self._address, PROBE_S):
                pass
        child = self._child = self._child or _started(self.kit, self._user)
        assert child.stdin is not None
        child.stdin.write(order.encode() + b"\n")
        child.stdin.flush()
        answer: dict[str, Any] = json.loads(_line(child, self._timeout_s))
        return answer


def _started(kit: Path, user: str) -> subprocess.Popen[bytes]:
    # What NVFLARE prints is of no use to whoever reads our answer.
    return subprocess.Popen(
        [sys.executable, "-m", SESSION, str(kit.resolve()), user],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _line(child: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """One line of the child's. Raises ``TimeoutError`` without one in time, ``OSError`` when the child is gone."""
    assert child.stdout is not None
    handle, deadline, text = child.stdout.fileno(), time.monotonic() + timeout_s, b""
    with selectors.DefaultSelector() as ready:
        ready.register(handle, selectors.EVENT_READ)
        while not text.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not ready.select(left):
                raise TimeoutError(f"no answer within {timeout_s:.0f} s")
            read = os.read(handle, 1 << 16)
            if not read:
                raise OSError("the session's process has ended; is nvflare installed?")
            text += read
    return text


def _job(meta: Mapping[str, Any]) -> EngineJob:
    status = str(meta.get("status"))
    props = meta.get("custom_props") or {}
    return EngineJob(
        job=str(meta["job_id"]),
        state=_STATES.get(status, EngineState.FAILED if status.startswith("FINISHED") else EngineState.WAITING),
        details="" if status in _STATES else status.partition(":")[2].replace("_", " ").lower(),
        model_id=_uuid(props.get(MODEL_ID)) or _uuid(meta.get("name")),
        digest=str(props[DIGEST]) if props.get(DIGEST) else None,
        submitted_at=_time(meta.get("submit_time_iso")),
        seconds=_seconds(meta.get("duration")),
    )


def _uuid(text: object) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _seconds(text: object) -> float | None:
    """``1 day, 1:02:03.5`` as seconds; None for anything else, ``N/A`` among it."""
    days, _, clock = str(text).rpartition(", ")
    try:
        hours, minutes, seconds = (float(part) for part in clock.split(":"))
        return float(days.partition(" ")[0] or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds
    except ValueError:
        return None
