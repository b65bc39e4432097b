"""``Utils``: two questions about texts."""

from __future__ import annotations

from flip_fl.core.base import parse_model_id


class Utils:
    """Static helpers of existing apps."""

    @staticmethod
    def is_valid_uuid(val: object) -> bool:
        """Whether ``val`` is a UUID, or reads as one."""
        return parse_model_id(val if isinstance(val, str) else str(val)) is not None

    @staticmethod
    def is_string_empty(val: str) -> bool:
        """Whether there is nothing but white space in ``val``."""
        return not val.strip()
