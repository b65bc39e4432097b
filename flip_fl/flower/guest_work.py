"""A Flower package's own ClientApp in the app's process: one message in, one reply out, as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from flip_fl.app.faults import AppError
from flip_fl.app.output import withheld
from flip_fl.app.seeds import derived_seed, seed_everything
from flip_fl.app.session import Session
from flip_fl.app.site import Ledger, SiteSpec
from flip_fl.flower.private import acting_as, message_from_bytes, message_to_bytes, new_id

COMPONENT = "app"
MODULE = "client_app"
MESSAGE, STATE = "message", "state"

Blobs = dict[str, bytes]


def work(
    facts: Mapping[str, Any], blobs: Mapping[str, bytes], spec: SiteSpec, session: Session, ledger: Ledger
) -> tuple[dict[str, Any], Blobs]:
    """The reply of the app to the message in ``blobs``, and its state afterwards. Raises whatever the app raises."""
    message = message_from_bytes(blobs[MESSAGE])
    state = message_from_bytes(blobs[STATE]).content
    context = Context(facts["run_id"], facts["node_id"], dict(facts["node_config"]), state, dict(facts["run_config"]))
    with acting_as(run_id=context.run_id, node_id=context.node_id, task_id=new_id()):
        reply = called(message, context, spec, session, ledger)
    return {}, {MESSAGE: message_to_bytes(reply), STATE: state_bytes(context.state, message)}


def state_bytes(state: RecordDict, message: Message) -> bytes:
    """What a node remembers, in the form of a message."""
    return message_to_bytes(Message(state, reply_to=message))


def called(message: Message, context: Context, spec: SiteSpec, session: Session, ledger: Ledger) -> Message:
    """Call the app in this process; what it prints is counted. Raises whatever it raises, and ``AppError``."""
    with withheld(session.app_dir, active=not session.show_output) as output:
        try:
            return _called(message, context, spec, session)
        finally:
            session.tell_withheld(output.lines, spec, ledger)


def _called(message: Message, context: Context, spec: SiteSpec, session: Session) -> Message:
    seed = derived_seed(spec.seed, spec.slot, spec.round, spec.task.value)
    seed_everything(seed)
    app = getattr(session.loader.module(MODULE), COMPONENT, None)
    if not isinstance(app, ClientApp):
        raise AppError(f"{MODULE}.py has no ClientApp called {COMPONENT}, it is a {type(app).__name__}")
    # An import that draws numbers must not shift those of the task.
    seed_everything(seed)
    reply: Any = app(message, context)
    if not isinstance(reply, Message):
        raise AppError(f"the ClientApp of {MODULE}.py returned a {type(reply).__name__}; it must return a Message")
    return reply
