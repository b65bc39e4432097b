"""What a service says of input that it cannot read: where and why, never the input itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

_NONE: Mapping[str, str] = MappingProxyType({})


def public_errors(
    errors: Iterable[Mapping[str, Any]], own_words: Mapping[str, str] = _NONE, *, of: str | None = None
) -> list[dict[str, Any]]:
    """Pydantic's errors without ``input`` and ``ctx``: a NaN in them could not even be written as JSON.

    ``own_words`` replace pydantic's, by the error's type, where those quote what was sent; ``of`` is the part of the
    request that they are about (``body``, ``query``).
    """
    above = [] if of is None else [of]
    return [
        {"type": error["type"], "loc": [*above, *error["loc"]], "msg": own_words.get(error["type"], error["msg"])}
        for error in errors
    ]
