"""The machine's own Chromium without a window, led by Playwright; nothing is downloaded.

A machine without Chromium leaves these tests out visibly.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--disable-gpu", "--disable-quic")


class PageError(AssertionError):
    """The page did not do what it must."""


class Browser:
    """One tab. ``requests`` are all addresses that it asked for, ``errors`` all exceptions and complaints in it.

    ``page`` is Playwright's own: keys, emulation, printing and navigation are asked of it.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(error.stack or error.message))
        page.on("console", self._note)

    def open(self, path: Path, *, query: str = "", width: int = 1280, dark: bool = False) -> None:
        """Show ``path`` at ``width`` CSS pixels; waits until the renderer says that it is done."""
        self._go(path.as_uri() + query, "document.documentElement?.dataset.ready", width, 900, dark)

    def visit(self, url: str, *, width: int = 1280, dark: bool = False, ready: str = "true", height: int = 900) -> None:
        """Show a page of a server at ``width`` CSS pixels; waits until it says that it is ``ready``."""
        self._go(url, f"document.documentElement?.dataset.ready === {json.dumps(ready)}", width, height, dark)

    def wait(self, expression: str, timeout: float = 60.0) -> None:
        """Until ``expression`` is truthy in the page. Raises ``PageError`` after ``timeout`` seconds.

        Playwright's own ``wait_for_function`` is a string that the page makes code of: the hub's policy forbids that.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            # a page that is just being replaced cannot answer
            with contextlib.suppress(PlaywrightError):
                if self.js(f"!!({expression})"):
                    return
            self.page.wait_for_timeout(20)
        raise PageError(f"never true within {timeout:g} s: {expression}")

    def js(self, expression: str) -> Any:
        """The value of ``expression`` in the page, promises awaited. Raises Playwright's ``Error`` when it throws."""
        return self.page.evaluate(expression)

    @contextlib.contextmanager
    def tab(self, script: str) -> Iterator[Browser]:
        """Another tab of the same person, in whose pages ``script`` runs before their own."""
        page = self.page.context.new_page()
        page.add_init_script(script)
        try:
            yield Browser(page)
        finally:
            page.close()

    def _go(self, url: str, ready: str, width: int, height: int, dark: bool) -> None:
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.set_viewport_size({"width": width, "height": height})
        # by way of an empty page, so that another fragment or query of the same file is loaded, too
        self.page.goto("about:blank")
        self.requests.clear()
        self.errors.clear()
        self.page.goto(url, wait_until="commit")
        self.wait(ready)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium; skips, visibly, where there is none."""
    executable = next((path for name in NAMES if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip("LEFT OUT: Chromium: not installed, the page is not looked at in a browser")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            yield Browser(running.new_context().new_page())
        finally:
            running.close()
