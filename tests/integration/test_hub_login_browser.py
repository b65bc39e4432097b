"""Logging in with a real browser, by keyboard: the session's cookie is kept, and the form is fit for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest

from flip_fl.hub import admin
from tests.integration.test_dashboard_browser import axe_violations
from tests.support.browser import Browser, chromium
from tests.support.hub import RunningHub, running_hub, world

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this file."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """A hub on SQLite for all tests of this file."""
    url = f"sqlite:///{tmp_path_factory.mktemp('hub') / 'hub.sqlite'}"
    admin.init_database(url)
    with world(url) as filled, running_hub(filled) as hub:
        yield hub


def _type(browser: Browser, text: str) -> None:
    browser.page.keyboard.type(text)
    browser.page.keyboard.press("Enter")


def test_a_person_logs_in_by_keyboard(browser: Browser, served: RunningHub) -> None:
    """No mouse and no script: typed, refused in words, typed again, and then where the link led, logged in."""
    pages = served.base.removesuffix("/api")
    browser.page.goto(f"{pages}/login?next=api%2Fsession")
    browser.wait("document.activeElement?.id === 'token'")
    _type(browser, "wrong")
    browser.wait("document.querySelector('[role=alert]')?.textContent === 'This token is not valid.'")
    browser.errors.clear()  # Chromium's own note of the 401
    browser.wait("document.activeElement?.id === 'token'")
    _type(browser, served.world.token)
    browser.wait("location.pathname === '/api/session' && document.body.textContent.includes('\"name\":\"Ada\"')")
    assert browser.errors == []
    assert all(address.startswith(pages) for address in browser.requests if not address.startswith("data:"))
    assert browser.js("document.cookie") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_the_form_is_fit_for_everybody(
    width: int, scheme: Literal["light", "dark"], browser: Browser, served: RunningHub
) -> None:
    """axe finds nothing, nothing hangs over the edge, and its own policy keeps nothing of it away."""
    browser.errors.clear()
    browser.page.emulate_media(color_scheme=scheme)
    browser.page.set_viewport_size({"width": width, "height": 700})
    browser.page.goto(f"{served.base.removesuffix('/api')}/login")
    browser.wait("document.styleSheets.length === 1 && document.styleSheets[0].cssRules.length > 5")
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    assert axe_violations(browser) == []
