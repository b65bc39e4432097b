"""How far this machine's clock is off, by the Date that a web server puts on any answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from flip_fl.errors import FlipError
from flip_fl.http import HttpClient, HttpConnectionError, HttpStatusError

TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Clock:
    """This clock against another: seconds it is ahead (negative: behind), and whose Date it was compared with."""

    ahead_s: float
    reference: str


def compare(url: str) -> Clock | str:
    """Ask ``url`` once; any answer will do. A str says why there is no comparison.

    Raises ``FlipError`` E0102 for something that is no http(s) address.
    """
    if not url.startswith(("http://", "https://")):
        problem = f"--clock is '{url}'; it must be an http:// or https:// address"
        raise FlipError("E0102", problem=problem, usage="give any web server whose clock is right")
    client = HttpClient(url, read_timeout_s=TIMEOUT_S)
    begun = time.time()
    try:
        headers = client.request("GET", (), route="/", timeout_s=TIMEOUT_S).headers
    except HttpStatusError as error:
        headers = error.response.headers
    except HttpConnectionError:
        return f"no answer from {url}"
    finally:
        client.close()
    now = (begun + time.time()) / 2
    date = headers.get("Date")
    try:
        # The Date is cut to whole seconds.
        told = parsedate_to_datetime(date or "").timestamp() + 0.5
    except ValueError:
        return f"{url} does not tell the time"
    return Clock(now - told, url)


def difference(ahead_s: float) -> str:
    """``14 min ahead``, ``3 h behind``."""
    size = abs(ahead_s)
    amount = f"{size:.0f} s" if size < 120 else f"{size / 60:.0f} min" if size < 7200 else f"{size / 3600:.0f} h"
    return f"{amount} {'ahead' if ahead_s > 0 else 'behind'}"
