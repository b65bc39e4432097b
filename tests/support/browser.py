"""A real Chromium without a window, spoken to through a pipe: no port, no driver, no further package.

A machine without Chromium leaves these tests out visibly.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class PageError(AssertionError):
    """The page raised, or did something that it must not."""


class Browser:
    """One Chromium with one tab. ``requests`` are all addresses the tab asked for, ``errors`` all exceptions in it."""

    def __init__(self, executable: str, profile: Path) -> None:
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()

        def plumb() -> None:
            # Chromium reads commands from descriptor 3 and answers on 4
            os.dup2(to_child, 100)
            os.dup2(from_child, 101)
            os.dup2(100, 3)
            os.dup2(101, 4)

        command = [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            command,
            preexec_fn=plumb,
            close_fds=False,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._buffer = b""
        self._next = 0
        self._session: str | None = None
        self._heard: dict[str, Callable[[dict[str, Any]], None]] = {}
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, *, timeout: float = 30.0, **params: Any) -> dict[str, Any]:
        """One command and its answer. Raises ``PageError`` when Chromium refuses it or does not answer."""
        self._next += 1
        message: dict[str, Any] = {"id": self._next, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._read(deadline, method)
            if answer.get("id") == self._next:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def open(self, path: Path, *, query: str = "", width: int = 1280, dark: bool = False, ready: bool = True) -> None:
        """Show ``path`` at ``width`` CSS pixels; waits until the renderer says that it is done."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        # by way of an empty page, so that the state of an earlier visit to the same file is never read
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank' && document.readyState === 'complete'")
        self.requests.clear()
        self.errors.clear()
        self.call("Page.navigate", url=path.as_uri() + query)
        done = "document.documentElement?.dataset.ready" if ready else "document.readyState === 'complete'"
        self.wait(f"location.href.startsWith('file:') && {done}")

    def visit(self, url: str, *, width: int = 1280, dark: bool = False, ready: str = "true", height: int = 900) -> None:
        """Show a page of a server at ``width`` CSS pixels; waits until it says that it is ``ready``."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank' && document.readyState === 'complete'")
        self.requests.clear()
        self.errors.clear()
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith('http') && document.documentElement.dataset.ready === {json.dumps(ready)}")

    def picture(self, *, whole: bool = True) -> bytes:
        """The page as a PNG, all of it or what is in view."""
        asked: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            asked["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", timeout=60.0, **asked)["data"])

    def wait(self, expression: str, timeout: float = 20.0) -> None:
        """Until ``expression`` is truthy in the page. Raises ``PageError`` after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            # a page that is just being replaced cannot answer; an element comes out of the page as an empty object
            with contextlib.suppress(PageError):
                if self.js(f"!!({expression})"):
                    return
            time.sleep(0.02)
        raise PageError(f"never true within {timeout:g} s: {expression}")

    def js(self, expression: str, *, timeout: float = 30.0) -> Any:
        """The value of ``expression`` in the page, promises awaited. Raises ``PageError`` when it throws."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", timeout=timeout, **asked)
        if "exceptionDetails" in result:
            raise PageError(json.dumps(result["exceptionDetails"].get("exception", {}).get("description", "")))
        return result["result"].get("value")

    def key(self, name: str, code: int) -> None:
        """Press and release one key in the focused element."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def pdf(self) -> bytes:
        """The page as printed."""
        result = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False, timeout=60.0)
        return base64.b64decode(result["data"])

    def listen(self, event: str, heard: Callable[[dict[str, Any]], None]) -> None:
        """Call ``heard`` with what Chromium tells of each ``event``, when the next command is answered."""
        self._heard[event] = heard

    def close(self) -> None:
        """End Chromium and everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)
        os.close(self._in)
        os.close(self._out)

    def _read(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._in, 1 << 20) if ready else b""
            if not chunk:
                raise PageError(f"no answer to {what}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method in self._heard:
            self._heard[method](params)
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details.get("text", ""))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(str([a.get("description") or a.get("value") for a in params["args"]]))


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium; skips, visibly, where there is none."""
    executable = next((path for name in NAMES if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip("LEFT OUT: Chromium: not installed, the page is not looked at in a browser")
    profile = Path(tempfile.mkdtemp(prefix="page-"))
    browser = Browser(executable, profile)
    try:
        yield browser
    finally:
        browser.close()
        shutil.rmtree(profile, ignore_errors=True)
