"""Orders to a running NVFLARE server, given with an administrator's kit: a process of its own, a JSON line an order.

A session of NVFLARE's prints, and leaves threads behind that keep its interpreter alive; whoever starts
``python -m flip_fl.nvflare.session KIT USER`` has neither. An order is ``{"verb": …, "args": […]}`` on stdin, its
answer ``{"value": …}`` or ``{"error": <type>, "text": …}`` on stdout. The process ends when stdin does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

CONNECT_S = 20.0


def _sites(session: Session) -> list[str]:
    return [str(client.name) for client in session.get_system_info().client_info]


def _jobs(session: Session) -> list[dict[str, Any]]:
    return list(session.list_jobs(detailed=True))


def _meta(session: Session, job: str) -> dict[str, Any]:
    return dict(session.get_job_meta(job))


def _submit(session: Session, folder: str, token: str) -> str:
    return str(session.submit_job(folder, submit_token=token))


def _abort(session: Session, job: str) -> None:
    session.abort_job(job)


def _logs(session: Session, job: str) -> str:
    return str(session.get_job_logs(job, target="server").get("logs", {}).get("server", ""))


def _disable(session: Session, slot: str) -> None:
    session.disable_client(slot)


ORDERS: Mapping[str, Callable[..., Any]] = {
    "sites": _sites,
    "jobs": _jobs,
    "meta": _meta,
    "submit": _submit,
    "abort": _abort,
    "logs": _logs,
    "disable": _disable,
}


def main(kit: str, user: str) -> None:
    """Obey until stdin ends, then end the process, whatever threads there are."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session: Session | None = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            session = session or new_secure_session(user, kit, timeout=CONNECT_S)
            answer = {"value": ORDERS[order["verb"]](session, *order["args"])}
        except BaseException as error:
            # A session that failed once may be closed for good: the next order opens another one.
            session = None
            answer = {"error": type(error).__name__, "text": str(error)}
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
