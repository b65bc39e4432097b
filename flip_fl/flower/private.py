"""The one module that imports what flwr does not publish: task identity, serialisation, node and run records.

A later flwr may move any of it; what breaks then, breaks here.
"""

from __future__ import annotations

import logging
import secrets
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy

from flwr.app import Array, ArrayRecord, Message, RecordDict, UserConfigValue
from flwr.app.message import make_message
from flwr.client.mod.utils import make_ffn
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import ServerApp
from flwr.supercore.logger import LOGGER_NAME, update_console_handler
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError, EncodeError

__all__ = [
    "NODE_UNAVAILABLE",
    "SERVER_NODE_ID",
    "NodeInfo",
    "Run",
    "acting_as",
    "be_task",
    "bytes_to_private_key",
    "bytes_to_public_key",
    "combine_shares",
    "create_shares",
    "decrypt",
    "encrypt",
    "envelope",
    "generate_key_pairs",
    "generate_shared_key",
    "has_main",
    "make_ffn",
    "message_from_bytes",
    "message_from_parts",
    "message_to_bytes",
    "message_to_parts",
    "name_message",
    "new_id",
    "new_run",
    "node_info",
    "number_message",
    "private_key_to_bytes",
    "public_key_to_bytes",
    "settle_flower_log",
    "share_keys_plaintext_concat",
    "share_keys_plaintext_separate",
    "task_identity",
]

_LENGTH = struct.Struct(">Q")

# The id of whatever runs a ServerApp, and flwr's own code for a message to a node that is not there.
SERVER_NODE_ID = int(SUPERLINK_NODE_ID)
NODE_UNAVAILABLE = int(ErrorCode.NODE_UNAVAILABLE)


def be_task(*, run_id: int, node_id: int, task_id: int) -> None:
    """Say whose messages this process makes; flwr refuses to build a ``Message`` before that is known."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, task_id


def task_identity() -> tuple[int, int, int]:
    """Whose messages this process makes: run, node, task. Raises ``RuntimeError`` before ``be_task``."""
    return TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id


@contextmanager
def acting_as(*, run_id: int, node_id: int, task_id: int) -> Iterator[None]:
    """The identity of ``be_task`` for one block; what was set before, nothing included, is set again after it."""
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    be_task(run_id=run_id, node_id=node_id, task_id=task_id)
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def number_message(message: Message) -> str:
    """Give ``message`` a new id in place, as a grid does when it sends it; returns the id (64 hex digits).

    A SuperLink's id is the content's SHA-256; a random one is as unique, and costs nothing for a large model.
    """
    return name_message(message, secrets.token_hex(32))


def name_message(message: Message, message_id: str) -> str:
    """Give ``message`` the id under which it was sent, in place; returns the id."""
    message.metadata.__dict__["_message_id"] = message_id
    return message_id


def envelope(message: Message) -> Message:
    """``message`` with only its config records: enough to answer it, whatever becomes of the message itself."""
    records = message.content.config_records if message.has_content() else {}
    return make_message(copy(message.metadata), RecordDict(dict(records)))


def message_to_parts(message: Message) -> tuple[bytes, list[bytes]]:
    """``message``, its id included: flwr's own protobuf form, and the data of its arrays, not copied.

    The data stay out of the protobuf: it would copy them several times, and holds no more than 2 GiB.
    Raises ``ValueError`` for what has no such form: a value of a type that records do not hold.
    """
    data: list[bytes] = []
    try:
        content = _without_data(message.content, data) if message.has_content() else None
        light = make_message(message.metadata, content, message.error if message.has_error() else None)
        return bytes(message_to_proto(light).SerializeToString()), data
    except (EncodeError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the message cannot be serialised ({type(error).__name__})") from error


def message_from_parts(head: bytes, take: Callable[[int], bytes]) -> Message:
    """The message of ``message_to_parts``; ``take`` gives the data of the next array, of so many bytes.

    Raises ``ValueError`` for anything else.
    """
    try:
        proto = ProtoMessage.FromString(head)
        if proto.HasField("content") == proto.HasField("error"):
            raise ValueError("it holds neither content nor an error, or both")
        message = message_from_proto(proto)
        if message.has_content():
            message.content = _with_data(message.content, take)
    except (DecodeError, TypeError, ValueError, KeyError, AttributeError, struct.error) as error:
        raise ValueError(f"not a message: {type(error).__name__}") from error
    return message


def message_to_bytes(message: Message) -> bytes:
    """The parts of ``message`` in one: the head's length, the head, the data. Raises ``ValueError``."""
    head, data = message_to_parts(message)
    return b"".join([_LENGTH.pack(len(head)), head, *data])


def message_from_bytes(data: bytes | bytearray) -> Message:
    """The message that ``message_to_bytes`` made ``data`` of. Raises ``ValueError`` for anything else."""
    with memoryview(data) as view:
        if len(view) < _LENGTH.size:
            raise ValueError("not a message: it is cut off")
        (length,) = _LENGTH.unpack_from(view)
        place = _LENGTH.size + length

        def take(count: int) -> bytes:
            nonlocal place
            if place + count > len(view):
                raise ValueError("its arrays are cut off")
            place += count
            return bytes(view[place - count : place])

        message = message_from_parts(bytes(view[_LENGTH.size : place]), take)
        if place != len(view):
            raise ValueError("not a message: there is more than its arrays")
    return message


def _without_data(content: RecordDict, data: list[bytes]) -> RecordDict:
    """``content`` with each array's length in the place of its data, which are appended to ``data``."""
    light = RecordDict(dict(content.items()))
    for name, record in content.array_records.items():
        data += [array.data for array in record.values()]
        light[name] = ArrayRecord(
            {key: Array(a.dtype, a.shape, a.stype, _LENGTH.pack(len(a.data))) for key, a in record.items()}
        )
    return light


def _with_data(light: RecordDict, take: Callable[[int], bytes]) -> RecordDict:
    content = RecordDict(dict(light.items()))
    for name, record in light.array_records.items():
        arrays = {}
        for key, array in record.items():
            (length,) = _LENGTH.unpack(array.data)
            arrays[key] = Array(array.dtype, array.shape, array.stype, take(length))
        content[name] = ArrayRecord(arrays)
    return content


def new_id() -> int:
    """A random id of 64 bits for a run or a node; never 0, nor the server's."""
    while (number := secrets.randbits(64)) in (0, SERVER_NODE_ID):
        continue
    return number


def new_run(run_id: int, task_type: str, run_config: Mapping[str, UserConfigValue]) -> Run:
    """What ``Grid.run`` says of a run outside a SuperLink."""
    run = Run.create_empty(run_id)
    run.primary_task_type = task_type
    run.override_config = dict(run_config)
    return run


def node_info(node_id: int, name: str) -> NodeInfo:
    """What ``Grid.get_nodes`` says of a node that is there."""
    return NodeInfo(node_id=node_id, name=name, status="online")


def has_main(app: ServerApp) -> bool:
    """Whether the ServerApp has a function of its own, ``@app.main()``; the older form has components instead."""
    return app._main is not None


def settle_flower_log(*, colours: bool) -> None:
    """Keep Flower from writing each line twice beside a root handler; without ``colours`` it writes plain text."""
    logging.getLogger(LOGGER_NAME).propagate = False
    update_console_handler(colored=colours)
