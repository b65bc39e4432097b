"""What is said of a site that gave no usable reply: for every way of failing its own words, and no value of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flwr.app import Error

from flip_fl.app.evaluation import EXECUTION_EXCEPTION, EXECUTION_RESULT_ERROR, NO_REPLY, TASK_ABORTED
from flip_fl.flower.protocol import ABORTED, FAILED, LOST, REJECTED, TOO_LARGE, SiteReport
from flip_fl.values import Task

MESSAGE_GONE, REPLY_GONE, NODE_GONE = 3, 4, 5
ABORTED_AT_SITE = "the task was aborted at the site"

# Reasons in free text are not shown, whatever the code, which anybody can write: they may hold a patient's row, as that
# of Flower's code 2 does, which quotes the exception's message. What our own code has to say is a report in JSON.
_WORDS: Mapping[int, str] = MappingProxyType(
    {
        0: "Flower reports an unknown error",
        1: "the ClientApp could not be loaded; the SuperNode's log says why",
        MESSAGE_GONE: "the message has expired, or the SuperLink has lost it",
        REPLY_GONE: "the reply has expired, or was not uploaded completely",
        NODE_GONE: "the node is not connected any more (its SuperNode has ended, is offline or was unregistered)",
        6: "a Flower mod at the site refused the task; the SuperNode's log says why",
        7: "the SuperNode refused the app (FAB)",
        8: "the ClientApp's process died (killed, or out of memory)",
        FAILED: "the app failed and its report cannot be read; the site's log has the traceback",
        REJECTED: "the result was rejected",
        ABORTED: ABORTED_AT_SITE,
        TOO_LARGE: "the reply is larger than the site allows",
        LOST: "the site's process died",
    }
)
_CODES: Mapping[int, str] = MappingProxyType(
    {
        **dict.fromkeys((MESSAGE_GONE, REPLY_GONE, NODE_GONE, 8, LOST), NO_REPLY),
        **dict.fromkeys((6, REJECTED, TOO_LARGE), EXECUTION_RESULT_ERROR),
        ABORTED: TASK_ABORTED,
    }
)
_RAISED = 2
_TYPE = re.compile(r"<class '(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)'>")


@dataclass(frozen=True)
class Told:
    """A failure in words: ``why`` fits the run's reason, ``text`` is the site's row at the hub, in ``round``.

    ``code`` is the return code, in the words of every engine.
    """

    why: str
    text: str
    round: int | None
    code: str = EXECUTION_EXCEPTION


def of_error(error: Error, report: SiteReport, *, slot: str, task: Task, number: int) -> Told:
    """What an error reply of ``slot`` means. With the client's own report in it: as on every other engine."""
    failure = report.failure
    code = _CODES.get(error.code, EXECUTION_EXCEPTION)
    if failure is not None:
        return Told(failure.headline, failure.text, failure.round or None, code)
    if report.aborted:
        return _told(_WORDS[ABORTED], slot, task, number, TASK_ABORTED)
    if error.code == _RAISED:
        found = _TYPE.match(error.reason or "")
        what = f"{found[1] if found else 'an exception'} in the ClientApp"
        return _told(f"{what}; the SuperNode's log has the traceback", slot, task, number, code)
    return _told(_WORDS.get(error.code, f"error code {error.code}"), slot, task, number, code)


def of_silence(*, slot: str, task: Task, number: int, waited_s: float) -> Told:
    """A site that did not reply within its time."""
    text = f"{slot} in {task.value}, round {number}: no reply within {waited_s:g} s"
    return Told(f"no reply (waited at most {waited_s:g} s)", text, number or None, NO_REPLY)


def of_restart(*, slot: str, task: Task, number: int) -> Told:
    """A site whose SuperNode was started anew while it had a task: the message is gone with the one before."""
    return _told("the site was started anew in the middle of its task", slot, task, number)


def of_delay(*, slot: str, task: Task, number: int, took_s: float) -> Told:
    """A reply that came after its phase had ended."""
    return _told(f"replied after {took_s:.0f} s, too late: dropped", slot, task, number)


def of_rejection(reason: str, *, slot: str, number: int) -> Told:
    """A reply that cannot be aggregated."""
    text = f"the result of {slot} is rejected: {reason}"
    return Told(f"result rejected: {reason}", text, number or None, EXECUTION_RESULT_ERROR)


def of_refused_push(*, slot: str, task: Task, number: int) -> Told:
    """A message that the SuperLink did not take."""
    return _told("the SuperLink did not take the message", slot, task, number, NO_REPLY)


def _told(words: str, slot: str, task: Task, number: int, code: str = NO_REPLY) -> Told:
    return Told(words, f"{slot} in {task.value}, round {number}: {words}", number or None, code)
