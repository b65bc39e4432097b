"""The one module that imports requests: a session with time-outs, without redirects, without bodies in errors."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import requests

from flip_fl.wire import FIXED_DETAILS

CONNECT_TIMEOUT_S = 5.0
HUB_READ_TIMEOUT_S = 30.0
TRUST_READ_TIMEOUT_S = 600.0


class HttpStatusError(requests.HTTPError):
    """A service answered with a status that is no success.

    ``response`` carries the status code and the headers but never the body; ``detail`` is the service's own word
    only where it is one of the contract's fixed texts.
    """

    def __init__(self, method: str, route: str, response: requests.Response, allowed: frozenset[str]) -> None:
        self.status_code = response.status_code
        self.detail = _fixed_detail(response, allowed)
        bare = requests.Response()
        bare.status_code = response.status_code
        bare.headers = response.headers
        bare._content = b""
        text = f"{method} {route}: HTTP {response.status_code}"
        super().__init__(f"{text}: {self.detail}" if self.detail else text, response=bare)


def status_error(method: str, route: str, status_code: int) -> HttpStatusError:
    """The error that a service's ``status_code`` would be, where a local source stands in for that service."""
    answer = requests.Response()
    answer.status_code = status_code
    return HttpStatusError(method, route, answer, frozenset())


class HttpConnectionError(requests.ConnectionError):
    """No usable answer: refused, reset, timed out. Names the route, never what was sent."""

    def __init__(self, method: str, route: str, cause: BaseException) -> None:
        self.sent = not isinstance(cause, requests.ConnectTimeout) and not _refused(cause)
        super().__init__(f"{method} {route}: no answer ({type(cause).__name__})")


class HttpClient:
    """One service: base URL, key header, one kept-alive session. Not safe for several threads."""

    def __init__(
        self,
        base_url: str,
        *,
        key_header: str | None = None,
        key: str | None = None,
        read_timeout_s: float = HUB_READ_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout = (connect_timeout_s, read_timeout_s)
        self._session = requests.Session()
        # A proxy or .netrc of the host must not redirect or re-authenticate hospital traffic.
        self._session.trust_env = False
        if key_header and key is not None:
            self._session.headers[key_header] = key

    def request(
        self,
        method: str,
        segments: tuple[str, ...],
        *,
        route: str,
        json: Any = None,
        written: bytes | None = None,
        meanwhile: Callable[[], object] | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        show_details: frozenset[str] = FIXED_DETAILS,
    ) -> requests.Response:
        """Send one request to ``base_url/segment/…`` (each segment percent-encoded) and return a 2xx answer.

        ``route`` is the path's pattern for messages; ``timeout_s`` shortens both time-outs; ``written`` is a body that
        is JSON already; once it is sent, ``meanwhile`` is called, while the service works on it. Raises
        ``HttpStatusError`` for any other status, redirects included, ``HttpConnectionError`` for no answer, and
        ``ValueError`` for a segment that would make it another path.
        """
        if any(segment in ("", ".", "..") for segment in segments):
            raise ValueError(f"{method} {route}: a part of the address is empty or climbs")
        url = "/".join([self.base_url, *(quote(segment, safe="") for segment in segments)])
        connect, read = self._timeout
        timeout = (connect, read) if timeout_s is None else (min(connect, timeout_s), min(read, timeout_s))
        if written is not None:
            headers = {"Content-Type": "application/json", **(headers or {})}
        try:
            response = self._session.request(
                method,
                url,
                data=written if written is None or meanwhile is None else _Body(written, meanwhile),
                json=json,
                params=params,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            # The library's own text names the host and port; `from None` keeps what was sent out of tracebacks.
            raise HttpConnectionError(method, route, error) from None
        if not 200 <= response.status_code < 300:
            raise HttpStatusError(method, route, response, show_details)
        return response

    def close(self) -> None:
        self._session.close()


class _Body:
    """A request's body as requests reads it. It is asked for more once everything is sent: the moment for ``then``."""

    def __init__(self, written: bytes, then: Callable[[], object]) -> None:
        self._length = len(written)
        self._rest = io.BytesIO(written)
        self._then: Callable[[], object] | None = then

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        block = self._rest.read(size)
        if not block and self._then is not None:
            then, self._then = self._then, None
            then()
        return block


def _refused(cause: BaseException) -> bool:
    seen: BaseException | None = cause
    while seen is not None:
        if isinstance(seen, ConnectionRefusedError) or "NewConnectionError" in repr(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _fixed_detail(response: requests.Response, allowed: frozenset[str]) -> str | None:
    try:
        detail = response.json().get("detail")
    except (ValueError, AttributeError):
        return None
    return detail if isinstance(detail, str) and detail in allowed else None
