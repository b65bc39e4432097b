"""The one module that imports requests and urllib3: time-outs, no redirects, no bodies in errors.

urllib3 carries what is sent: each study of a cohort is asked for by itself, and most of the time that takes would be
spent inside requests. The errors are those of requests, which apps know.
"""

from __future__ import annotations

import contextlib
import io
import json as json_text
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlencode

import requests
from requests.exceptions import InvalidHeader
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationValueError, NewConnectionError
from urllib3.util import make_headers, parse_url
from urllib3.util.ssl_ import create_urllib3_context

from flip_fl.wire import FIXED_DETAILS

CONNECT_TIMEOUT_S = 5.0
HUB_READ_TIMEOUT_S = 30.0
TRUST_READ_TIMEOUT_S = 600.0
BLOCK_BYTES = 1 << 20
_NOT_SENT = (ConnectTimeoutError, NewConnectionError, LocationValueError, InvalidHeader)
_SENDABLE = re.compile(r"[!-~\x80-\xff][^\r\n\u0100-\U0010ffff]*|")


@dataclass(frozen=True)
class Reply:
    """A service's whole answer. A header is found by its name in any case."""

    status_code: int
    headers: Mapping[str, str] = field(default_factory=CaseInsensitiveDict, repr=False)
    content: bytes = field(default=b"", repr=False)

    def json(self) -> Any:
        """Raises ``ValueError`` for a body that is no JSON."""
        return json_text.loads(self.content)


class HttpStatusError(requests.HTTPError):
    """A service answered with a status that is no success.

    ``response`` carries the status code and the headers but never the body; ``detail`` is the service's own word
    only where it is one of the contract's fixed texts.
    """

    def __init__(self, method: str, route: str, reply: Reply, allowed: frozenset[str]) -> None:
        self.status_code = reply.status_code
        self.detail = _fixed_detail(reply, allowed)
        bare = requests.Response()
        bare.status_code = reply.status_code
        bare.headers = CaseInsensitiveDict(reply.headers)
        bare._content = b""
        text = f"{method} {route}: HTTP {reply.status_code}"
        super().__init__(f"{text}: {self.detail}" if self.detail else text, response=bare)


def status_error(method: str, route: str, status_code: int, detail: object = None) -> HttpStatusError:
    """The error that a service's ``status_code`` would be, where a local source, or another process, stands in for it.

    ``detail`` is shown as a service's own is: only where it is one of the contract's fixed texts.
    """
    body = b"" if detail is None else json_text.dumps({"detail": detail}).encode()
    return HttpStatusError(method, route, Reply(status_code, content=body), FIXED_DETAILS)


class HttpConnectionError(requests.ConnectionError):
    """No usable answer: refused, reset, timed out, cut; or ``answered``, with what is no answer to the question.

    Names the route, never what was sent.
    """

    def __init__(self, method: str, route: str, cause: BaseException) -> None:
        self.answered = not isinstance(cause, (HTTPError, InvalidHeader))
        self.sent = not isinstance(cause, _NOT_SENT)
        self.cause = type(cause).__name__
        super().__init__(_no_answer(method, route, self.cause))


def connection_error(method: str, route: str, cause: str, *, answered: bool) -> HttpConnectionError:
    """The error of a call that another process has made; ``cause`` is the name of what was wrong there."""
    error = HttpConnectionError(method, route, ConnectionError())
    error.answered, error.cause = answered, cause
    error.args = (_no_answer(method, route, cause),)
    return error


def _no_answer(method: str, route: str, cause: str) -> str:
    return f"{method} {route}: no answer ({cause})"


class HttpClient:
    """One service: base URL, key header, kept-alive connections: as many as requests were under way at once.

    Safe for several threads. A forked process begins with connections of its own: two processes on one would read each
    other's answers. A proxy or .netrc of the host neither redirects nor re-authenticates hospital traffic.
    """

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
        self._headers = {"User-Agent": "flip-fl", "Accept": "*/*", **make_headers(accept_encoding=True)}
        if key_header and key is not None:
            self._headers[key_header] = key
        self._service: _Service | None = None
        self._idle: list[HTTPConnectionPool] = []
        self._process = os.getpid()
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
    ) -> Reply:
        """Send one request to ``base_url/segment/…`` (each segment percent-encoded) and return a 2xx answer.

        ``route`` is the path's pattern for messages; ``timeout_s`` shortens both time-outs; ``written`` is a body that
        is JSON already; once it is sent, ``meanwhile`` is called, while the service works on it. Raises
        ``HttpStatusError`` for any other status, redirects included, ``HttpConnectionError`` for no answer, and
        ``ValueError`` for a segment that would make it another path, or a body that JSON cannot carry.
        """
        body = _written(method, route, json) if written is None else written
        with self._connection(method, route) as connection:
            response = self._send(
                connection, method, segments, route, body, headers, params=params, timeout_s=timeout_s, then=meanwhile
            )
        reply = Reply(response.status, response.headers, response.data)
        if not _is_success(response):
            raise HttpStatusError(method, route, reply, show_details)
        return reply

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
        body = _written(method, route, json)
        with self._connection(method, route) as connection:
            response = self._send(connection, method, segments, route, body, headers, whole=False)
            try:
                if not _is_success(response):
                    with _named(method, route):
                        reply = Reply(response.status, response.headers, response.data)
                    raise HttpStatusError(method, route, reply, show_details)
                yield Answer(method, route, response)
            finally:
                # What was not read to its end could not be told from the next answer.
                response.close()
                response.release_conn()

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    @contextlib.contextmanager
    def _connection(self, method: str, route: str) -> Iterator[HTTPConnectionPool]:
        """A connection that nobody else uses meanwhile, as a pool of one: urllib3 opens it anew where it was closed."""
        if self._process != os.getpid():
            # Letting go of the parent's closes this process's copies of them only.
            self._idle, self._process = [], os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            with _named(method, route):
                self._service = self._service or _Service.at(self.base_url)
                connection = self._service.connection()
        try:
            yield connection
        finally:
            self._idle.append(connection)
            if self._closed:
                self.close()

    def _send(
        self,
        connection: HTTPConnectionPool,
        method: str,
        segments: tuple[str, ...],
        route: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        *,
        params: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        then: Callable[[], object] | None = None,
        whole: bool = True,
    ) -> BaseHTTPResponse:
        if any(segment in ("", ".", "..") for segment in segments):
            raise ValueError(f"{method} {route}: a part of the address is empty or climbs")
        assert self._service is not None  # there is a connection to it
        path = "/".join([self._service.path, *(quote(segment, safe="") for segment in segments)]) or "/"
        sent = {**self._headers, **self._service.headers, **(headers or {})}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
            sent["Content-Length"] = str(len(body))
        connect, read = self._timeout if timeout_s is None else (min(timeout_s, part) for part in self._timeout)
        with _named(method, route):
            if not all(_SENDABLE.fullmatch(value) for value in sent.values()):
                raise InvalidHeader
            return connection.urlopen(
                method,
                f"{path}?{urlencode(params)}" if params else path,
                body=body if body is None or then is None else _followed(body, then),
                headers=sent,
                timeout=Timeout(connect=connect, read=read),
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=whole,
            )


class Answer(io.RawIOBase):
    """A streamed answer's body as a file to read from; ``content_type`` without parameters, in lower case.

    Reading raises ``HttpConnectionError`` when the answer is cut, or stands still for longer than the time-out.
    """

    def __init__(self, method: str, route: str, response: BaseHTTPResponse) -> None:
        self._names = (method, route)
        self._blocks = response.stream(BLOCK_BYTES, decode_content=True)
        self._rest = memoryview(b"")
        self.content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            with _named(*self._names):
                self._rest = memoryview(next(self._blocks, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


@dataclass(frozen=True)
class _Service:
    """Where requests go: what stands before their paths, and how a connection to there is made."""

    scheme: str
    host: str
    port: int | None
    path: str
    headers: Mapping[str, str]
    context: ssl.SSLContext | None

    @classmethod
    def at(cls, base_url: str) -> _Service:
        """Raises ``LocationValueError`` for what is no http(s) address."""
        url = parse_url(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise LocationValueError
        # One for all connections: reading the authorities takes longer than a request.
        context = create_urllib3_context() if url.scheme == "https" else None
        if context is not None:
            context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        headers = make_headers(basic_auth=unquote(url.auth)) if url.auth else {}
        return cls(url.scheme, url.host, url.port, url.request_uri.rstrip("/"), headers, context)

    def connection(self) -> HTTPConnectionPool:
        if self.context is None:
            return HTTPConnectionPool(self.host, self.port)
        return HTTPSConnectionPool(self.host, self.port, cert_reqs=ssl.CERT_REQUIRED, ssl_context=self.context)


@contextlib.contextmanager
def _named(method: str, route: str) -> Iterator[None]:
    """No answer, whatever the reason, under the route's name."""
    try:
        yield
    except (HTTPError, InvalidHeader) as error:
        # The library's own text names the host and port; `from None` keeps what was sent out of tracebacks.
        raise HttpConnectionError(method, route, error) from None


def _written(method: str, route: str, json: Any) -> bytes | None:
    try:
        return None if json is None else json_text.dumps(json, allow_nan=False).encode()
    except ValueError:
        raise ValueError(f"{method} {route}: JSON cannot carry what is to be sent") from None


def _followed(body: bytes, then: Callable[[], object]) -> Iterator[bytes]:
    """A request's body, part by part. It is asked for another part once all is sent: the moment for ``then``."""
    yield body
    then()


def _is_success(response: BaseHTTPResponse) -> bool:
    return 200 <= response.status < 300


def _fixed_detail(reply: Reply, allowed: frozenset[str]) -> str | None:
    try:
        detail = reply.json().get("detail")
    except (ValueError, AttributeError, RecursionError):
        return None
    return detail if isinstance(detail, str) and detail in allowed else None
