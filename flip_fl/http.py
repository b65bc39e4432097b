"""The one module that imports requests: a session with time-outs, without redirects, without bodies in errors."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import requests

from flip_fl.wire import FIXED_DETAILS

CONNECT_TIMEOUT_S = 5.0
HUB_READ_TIMEOUT_S = 30.0
TRUST_READ_TIMEOUT_S = 600.0
BLOCK_BYTES = 1 << 20


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
    """No usable answer: refused, reset, timed out, cut; or ``answered``, with what is no answer to the question.

    Names the route, never what was sent.
    """

    def __init__(self, method: str, route: str, cause: BaseException) -> None:
        self.answered = not isinstance(cause, requests.RequestException)
        self.sent = not isinstance(cause, requests.ConnectTimeout) and not _refused(cause)
        super().__init__(f"{method} {route}: no answer ({type(cause).__name__})")


class HttpClient:
    """One service: base URL, key header, kept-alive connections: as many as requests were under way at once."""

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
        self._headers = {key_header: key} if key_header and key is not None else {}
        self._idle: list[requests.Session] = []
        self._closed = False

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
        with self._session() as session:
            return self._send(
                session,
                method,
                segments,
                route,
                json=json,
                data=written if written is None or meanwhile is None else _Body(written, meanwhile),
                params=params,
                headers=headers if written is None else {"Content-Type": "application/json", **(headers or {})},
                timeout=self._timeouts(timeout_s),
                show_details=show_details,
            )

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        segments: tuple[str, ...],
        *,
        route: str,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        show_details: frozenset[str] = FIXED_DETAILS,
    ) -> Iterator[Answer]:
        """As ``request``, for an answer that is read bit by bit and never lies in memory as a whole."""
        with (
            self._session() as session,
            self._send(
                session,
                method,
                segments,
                route,
                json=json,
                headers=headers,
                timeout=self._timeout,
                stream=True,
                show_details=show_details,
            ) as response,
        ):
            yield Answer(method, route, response)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _timeouts(self, timeout_s: float | None) -> tuple[float, float]:
        connect, read = self._timeout
        return (connect, read) if timeout_s is None else (min(connect, timeout_s), min(read, timeout_s))

    @contextlib.contextmanager
    def _session(self) -> Iterator[requests.Session]:
        """A session that nobody else uses meanwhile: requests promises nothing about shared ones."""
        try:
            session = self._idle.pop()
        except IndexError:
            session = requests.Session()
            # A proxy or .netrc of the host must not redirect or re-authenticate hospital traffic.
            session.trust_env = False
            session.headers.update(self._headers)
        try:
            yield session
        finally:
            self._idle.append(session)
            if self._closed:
                self.close()

    def _send(
        self,
        session: requests.Session,
        method: str,
        segments: tuple[str, ...],
        route: str,
        *,
        show_details: frozenset[str],
        stream: bool = False,
        **arguments: Any,
    ) -> requests.Response:
        if any(segment in ("", ".", "..") for segment in segments):
            raise ValueError(f"{method} {route}: a part of the address is empty or climbs")
        url = "/".join([self.base_url, *(quote(segment, safe="") for segment in segments)])
        try:
            response = session.request(method, url, allow_redirects=False, stream=stream, **arguments)
            if stream and not 200 <= response.status_code < 300:
                _ = response.content
        except requests.RequestException as error:
            # The library's own text names the host and port; `from None` keeps what was sent out of tracebacks.
            raise HttpConnectionError(method, route, error) from None
        if not 200 <= response.status_code < 300:
            raise HttpStatusError(method, route, response, show_details)
        return response


class Answer(io.RawIOBase):
    """A streamed answer's body as a file to read from; ``content_type`` without parameters, in lower case.

    Reading raises ``HttpConnectionError`` when the answer is cut, or stands still for longer than the time-out.
    """

    def __init__(self, method: str, route: str, response: requests.Response) -> None:
        self._names = (method, route)
        self._blocks = response.iter_content(BLOCK_BYTES)
        self._rest = memoryview(b"")
        self.content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            try:
                self._rest = memoryview(next(self._blocks, b""))
            except requests.RequestException as error:
                raise HttpConnectionError(*self._names, error) from None
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


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
