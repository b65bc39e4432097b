"""How long to wait before the next attempt: full jitter, and what ``Retry-After`` asks for."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_WAIT_S = 30.0
MAX_RETRY_AFTER_S = 60.0
# Full jitter may draw zero; a hub that refuses connections would then be asked without a pause.
MIN_WAIT_S = 0.05


class Backoff:
    """Counts failed attempts in a row and draws waits of up to min(30, 2ⁿ) seconds. Not safe for several threads."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self.failures = 0

    def failed(self, retry_after_s: float | None = None) -> float:
        """Count one more failure; return the seconds to wait, at least ``retry_after_s`` (itself cut at 60)."""
        ceiling = min(MAX_WAIT_S, 2.0 ** min(self.failures, 10))
        self.failures += 1
        wait = max(MIN_WAIT_S, self._uniform(0.0, ceiling))
        return wait if retry_after_s is None else max(wait, min(retry_after_s, MAX_RETRY_AFTER_S))

    def succeeded(self) -> None:
        self.failures = 0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that ``Retry-After`` asks for, in either of its forms (seconds, or a date); None without one.

    A date is read against the answer's own ``Date``, so that a wrong clock at either end does not matter.
    """
    value = (headers.get("Retry-After") or "").strip()
    if not value:
        return None
    if value.isdecimal() and value.isascii():
        return min(float(value), MAX_RETRY_AFTER_S)
    until = _date(value)
    if until is None:
        return None
    now = _date(headers.get("Date") or "") or datetime.now(UTC)
    return min(max(0.0, (until - now).total_seconds()), MAX_RETRY_AFTER_S)


def _date(value: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
