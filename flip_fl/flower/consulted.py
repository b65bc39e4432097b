"""What becomes of the sites' replies to a question of the house's own, outside of training and validation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flwr.app import Message, RecordDict

from flip_fl.app.evaluation import BAD_PEER_CONTEXT
from flip_fl.flower.attribution import Told, of_error, of_refused_push, of_rejection, of_restart, of_silence
from flip_fl.flower.identity import in_order, mismatch
from flip_fl.flower.protocol import get_report, malformed
from flip_fl.values import Task

T = TypeVar("T")


@dataclass(frozen=True)
class Asking:
    """In which round, how long answers are waited for, and whether a client that says it is another is refused."""

    number: int
    waited_s: float
    checks_claims: bool


@dataclass(frozen=True)
class Answers(Generic[T]):
    """What each site said that gave something usable, and what is told of each of the others, in slot order."""

    given: dict[str, T] = field(default_factory=dict)
    missing: dict[str, Told] = field(default_factory=dict)


def answers_of(
    asked: Mapping[str, Message],
    taken: Collection[str],
    restarted: Collection[str],
    replies: Collection[Message],
    read: Callable[[str, RecordDict], T],
    about: Asking,
) -> Answers[T]:
    """Sort ``replies`` to what was ``asked`` in a round; ``taken`` are the ids of the messages that were really sent,
    ``restarted`` the slots whose SuperNode was started anew before it had answered.

    ``read`` makes something of a reply's content, or raises ``ValueError``.
    """
    number = about.number
    by_question = {reply.metadata.reply_to_message_id: reply for reply in replies}
    answers: Answers[T] = Answers()
    for slot in in_order(asked):
        question = asked[slot].metadata.message_id
        reply = by_question.get(question)
        if question not in taken:
            answers.missing[slot] = of_refused_push(slot=slot, task=Task.TRAIN, number=number)
        elif reply is None and slot in restarted:
            answers.missing[slot] = of_restart(slot=slot, task=Task.TRAIN, number=number)
        elif reply is None:
            silence = of_silence(slot=slot, task=Task.TRAIN, number=number, waited_s=about.waited_s)
            answers.missing[slot] = silence
        elif (told := _unusable(reply, slot, number, about.checks_claims)) is not None:
            answers.missing[slot] = told
        else:
            try:
                answers.given[slot] = read(slot, reply.content)
            except ValueError as error:
                answers.missing[slot] = of_rejection(str(error), slot=slot, number=number)
    return answers


def _unusable(reply: Message, slot: str, number: int, checks_claims: bool) -> Told | None:
    reason = malformed(reply)
    if reason is not None:
        return of_rejection(reason, slot=slot, number=number)
    report = get_report(reply)
    claim = mismatch(slot, report.claim) if checks_claims else None
    if claim is not None:
        return Told(claim, claim, number or None, BAD_PEER_CONTEXT)
    if reply.has_error():
        return of_error(reply.error, report, slot=slot, task=Task.TRAIN, number=number)
    return None
