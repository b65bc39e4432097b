"""What server and sites say to each other for secure aggregation, beside the masked numbers: keys and shares."""

from __future__ import annotations

from typing import TypeVar

from flwr.app import ConfigRecord, RecordDict
from pydantic import BaseModel, ConfigDict, ValidationError

from flip_fl.flower.protocol import SECURE_RECORD


class Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class PublicKeys(Said):
    """A site's: for the masks that it has in common with each other one, and for what is sealed to it."""

    masks: bytes
    seals: bytes


class AllKeys(Said):
    """The public keys of all who take part in the round, by slot."""

    keys: dict[str, PublicKeys]


class Sealed(Said):
    """Encrypted shares by slot: on the way to the server the receiver's, from there the sender's."""

    shares: dict[str, bytes]


class Ask(Said):
    """Which sites' masked updates are in the sum, and which of those that have sealed shares are not."""

    returned: list[str]
    lost: list[str]


class Shares(Said):
    """What one site tells: its shares of the seeds of who returned, and of the keys of who was lost."""

    seeds: dict[str, bytes]
    keys: dict[str, bytes]


_Kind = TypeVar("_Kind", bound=Said)


def put_secure(content: RecordDict, said: Said) -> None:
    """Add ``said`` to a message's content."""
    content[SECURE_RECORD] = ConfigRecord({"json": said.model_dump_json()})


def get_secure(content: RecordDict, kind: type[_Kind]) -> _Kind:
    """What ``put_secure`` added. Raises ``ValueError`` for anything else; its text shows no value."""
    record = content.get(SECURE_RECORD)
    text = record.get("json") if isinstance(record, ConfigRecord) else None
    try:
        return kind.model_validate_json(text if isinstance(text, str) else "")
    except ValidationError:
        raise ValueError(f"its {kind.__name__} of secure aggregation cannot be read") from None
