"""The hub's pages in a real browser: watched while a run goes on, cut off, filtered, by keyboard, at two widths."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from fastapi import Request
from sqlalchemy import insert

from flip_fl.hub import admin, tokens
from flip_fl.hub.cursor import Cursor
from flip_fl.hub.roles import Role
from flip_fl.hub.routes import live, streams
from flip_fl.hub.tables import FlMetric
from flip_fl.values import DEFAULT_X_LABEL
from tests.integration.test_dashboard_browser import NAMELESS, axe_violations
from tests.support.browser import Browser, chromium
from tests.support.ports import later_port
from tests.support.reporting import wait_until
from tests.support.watched import WatchedHub, WatchedRun, hub_with_pages, watched_hub

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this file."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def served(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedHub]:
    """One hub for all tests of this file."""
    with watched_hub(_sqlite_template, tmp_path_factory.mktemp("watched")) as running:
        yield running


@pytest.fixture
def hub(served: WatchedHub, browser: Browser) -> WatchedHub:
    """The hub, where the browser is logged in; a cookie is for all ports of a machine, so it may be another hub's."""
    served.log_in(browser)
    return served


def _under_way(hub: WatchedHub, name: str, rounds: int = 3, ago: float = 0.0) -> WatchedRun:
    run = hub.run(name)
    run.clock = datetime.now(UTC) - timedelta(seconds=ago + 45 * rounds)
    run.begin()
    for number in range(1, rounds + 1):
        run.round(number, 6)
    return run


def _text(browser: Browser, selector: str) -> str:
    found: str = browser.js(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''")
    return found


def _foreign(browser: Browser, hub: WatchedHub) -> list[str]:
    mine = urlsplit(hub.pages).netloc
    return [r for r in browser.requests if not r.startswith(("data:", "blob:")) and urlsplit(r).netloc != mine]


def test_a_run_is_watched_to_its_end(browser: Browser, hub: WatchedHub) -> None:
    """From the first 200 pixels to the end: what is said, what is drawn, the tab, no reload and no other host."""
    run = _under_way(hub, "watched")
    run.start(4, 6)
    run.returned("Trust_1", 4)
    browser.visit(run.page, width=1440)
    assert len(browser.requests) <= 5, browser.requests
    assert "Waiting for KCH, UCLH, BARTS and ICHT (1 of 5 in), since" in _text(browser, "#top")
    said = browser.js(
        "[...document.querySelectorAll('.state .line p, .state .more')].slice(0, 3)"
        ".map((e) => [e.getBoundingClientRect().bottom, e.textContent])"
    )
    assert [bottom <= 200 for bottom, _ in said] == [True, True, True]
    assert said[0][1] == "Training, round 4 of 6"
    assert "Last news" in said[2][1]
    assert "Next: their results are averaged when they are in." in said[2][1]
    loaded = len(browser.requests)

    for slot in ("Trust_2", "Trust_3", "Trust_4"):
        run.returned(slot, 4)
    browser.wait("document.querySelector('#top').textContent.includes('Waiting for ICHT (4 of 5 in)')")
    assert browser.js("document.querySelectorAll('.cell.awaited[aria-label]').length") == 1
    run.returned("Trust_5", 4)
    run.aggregated(4, 5)
    run.scores(4)
    browser.wait("document.querySelector('#plot-1 figcaption').textContent.includes('Round 4:')")
    run.fail("Trust_2", 5)
    browser.wait("document.querySelector('#alarm').textContent.includes('CUDA out of memory')")
    run.status("ERROR", "a site failed")
    browser.wait("document.title.startsWith('✕')")
    assert "Failed in round 4 – Trust_2: RuntimeError" in _text(browser, "#top")
    assert _text(browser, ".link") == "Over"
    assert len(browser.requests) == loaded, browser.requests[loaded:]
    assert _foreign(browser, hub) == []
    assert browser.errors == []


def test_an_update_moves_nothing_that_somebody_reads(browser: Browser, hub: WatchedHub) -> None:
    """Focus, scroll, unfolded texts, a marked text, the chosen point and the zoom stay when news comes; pause holds."""
    run = _under_way(hub, "calm")
    run.fail("Trust_2", 2)
    browser.visit(run.page + "?from=1&to=3", width=1440)
    browser.js(
        "(() => { document.querySelector('details').open = true; const feed = document.querySelector('.feed');"
        " feed.scrollTop = 90; const line = feed.querySelectorAll('li')[6];"
        " window.offset = () => line.getBoundingClientRect().top - feed.getBoundingClientRect().top;"
        " window.before = offset(); document.querySelector('#plot-0 .plot').focus();"
        " getSelection().selectAllChildren(document.querySelector('#failures .where')); })()"
    )
    browser.page.keyboard.press("ArrowLeft")
    chosen = browser.js("document.querySelector('#plot-0 .plot').getAttribute('aria-valuetext')")
    run.round(4, 6)
    # The round's scores come after its start, which the headline tells already.
    browser.wait("document.querySelector('#plot-0 .edge')?.textContent === '5 ▸'")
    assert "4 of 6" in _text(browser, "#top")
    assert browser.js("document.activeElement.closest('figure').id") == "plot-0"
    assert browser.js("document.querySelector('#plot-0 .plot').getAttribute('aria-valuetext')") == chosen
    assert browser.js("document.querySelector('details').open")
    assert browser.js("getSelection().toString()") == "trainer.py, line 41, in train"
    assert browser.js("Math.abs(offset() - before) < 2")
    assert "from=1&to=3" in browser.js("location.search")

    browser.js("document.querySelector('.pause').click()")
    run.round(5, 6)
    time.sleep(1.5)
    assert "4 of 6" in _text(browser, "#top")
    browser.js("document.querySelector('.pause').click()")
    browser.wait("document.querySelector('#top').textContent.includes('5 of 6')")
    assert browser.errors == []


def test_a_site_that_falls_silent_is_named(browser: Browser, hub: WatchedHub) -> None:
    """Three of its own usual rounds without a sign: the page says who, for how long and what is usual; status stays."""
    run = _under_way(hub, "stalled", ago=200.0)
    run.start(4, 6)
    for slot in ("Trust_1", "Trust_2", "Trust_3", "Trust_5"):
        run.returned(slot, 4)
    browser.visit(run.page)
    browser.wait("document.querySelector('.stall')")
    assert _text(browser, ".stall").startswith("No news from BARTS for 3 min")
    assert "(usual round" in _text(browser, ".stall")
    assert _text(browser, ".state .line b") == "Training"
    assert browser.js("document.title.startsWith('!') && document.title.includes('BARTS silent')")
    before = browser.js("[document.querySelector('.stall').textContent, 0][0]")
    asked = len(browser.requests)
    time.sleep(2.2)
    browser.wait(f"document.querySelector('.stall').textContent !== {json.dumps(before)}")
    assert len(browser.requests) == asked


@pytest.fixture
def address(_sqlite_template: Path, tmp_path: Path) -> str:
    """A database of its own for a hub that is started twice."""
    (tmp_path / "hub.sqlite").write_bytes(_sqlite_template.read_bytes())
    return f"sqlite:///{tmp_path / 'hub.sqlite'}"


def test_a_page_catches_up_after_the_hub_was_away(browser: Browser, address: str) -> None:
    """It says since when it is not connected, and afterwards shows every row once."""
    port = later_port()
    with hub_with_pages(address, port) as first:
        first.log_in(browser)
        run = _under_way(first, "away")
        browser.visit(run.page)
        browser.wait("document.querySelector('.link').textContent === 'Live'")
    browser.wait("!document.querySelector('.banner').hidden")
    told = _text(browser, ".banner")
    assert told.startswith("Not connected since ")
    assert "showing data up to" in told
    with hub_with_pages(address, port) as second:
        run.hub = second
        run.round(4, 6)
        browser.wait(
            "document.querySelector('.banner').hidden && document.querySelector('#top').textContent.includes('4 of 6')"
        )
        stored = browser.js("fetch(`../api/model/${document.body.dataset.model}/feed`).then((r) => r.json())")["rows"]
        browser.wait(f"document.querySelectorAll('.feed li').length >= {len(stored)}")
        rows = browser.js("[...document.querySelectorAll('.feed li')].map((e) => e.id)")
        assert sorted(rows) == sorted(f"feed-{row['id']}" for row in stored)
        browser.page.goto("about:blank")


@pytest.mark.parametrize("proxy", ["cuts", "holds back"])
def test_where_no_stream_comes_through_the_hub_is_asked(browser: Browser, hub: WatchedHub, proxy: str) -> None:
    """A proxy that cuts streams, or keeps what it should pass on: the page asks with the same place, and says so."""
    run = _under_way(hub, "polled")
    cut = (
        "delete window.SharedWorker; window.EventSource = class { addEventListener() {} close() {}"
        f" constructor() {{ {'setTimeout(() => this.onerror(), 1);' if proxy == 'cuts' else ''} }} }};"
    )
    with browser.tab(cut) as tab:
        tab.visit(run.page)
        tab.wait("document.querySelector('.link').textContent === 'Asking'")
        run.round(4, 6)
        tab.wait("document.querySelector('#top').textContent.includes('4 of 6')")
        ids = tab.js("[...document.querySelectorAll('.feed li')].map((e) => e.id)")
        assert len(ids) == len(set(ids))


def test_a_page_waits_for_a_hub_that_does_not_answer(browser: Browser, hub: WatchedHub) -> None:
    """What is wrong, why that may be and what comes next, instead of an empty page; then the run, by itself."""
    run = _under_way(hub, "cut off", rounds=1)
    with browser.tab("") as tab:
        tab.page.route("**/api/**", lambda route: route.abort())
        tab.visit(run.page, ready="refused")
        assert _text(tab, "h1") == "The hub does not answer"
        assert "This page asks again every few seconds." in _text(tab, "main")
        tab.page.unroute("**/api/**")
        tab.wait("document.documentElement.dataset.ready === 'true' && document.querySelector('#plot-0 svg')")


def test_news_is_drawn_and_said_at_a_calm_pace(browser: Browser, hub: WatchedHub) -> None:
    """However much comes: at most two redraws a second, the screen reader hears at most a sentence in ten seconds, and
    who wants no motion gets none."""
    run = _under_way(hub, "busy", rounds=1)
    browser.page.emulate_media(reduced_motion="reduce")
    browser.visit(run.page)
    browser.wait("document.querySelector('.link').textContent === 'Live'")
    assert browser.js("getComputedStyle(document.querySelector('.lines')).transitionDuration") == "0s"
    browser.js(
        "(() => { window.said = 0; performance.clearMarks();"
        " const heard = new MutationObserver(() => { said += 1; });"
        " heard.observe(document.getElementById('said'), { childList: true }); })()"
    )
    begun = time.monotonic()
    for number in range(2, 6):
        run.round(number, 6)
        time.sleep(0.4)
    browser.wait("document.querySelector('#top').textContent.includes('5 of 6')")
    drawn = browser.js("performance.getEntriesByName('drawn').length")
    assert 1 <= drawn <= 2 * (time.monotonic() - begun) + 1
    assert browser.js("said") <= 1
    browser.page.emulate_media(reduced_motion="no-preference")


def test_a_view_is_there_again_after_going_back(browser: Browser, hub: WatchedHub) -> None:
    """What was chosen stands in the address: another page and back, or the link in another tab, show the same."""
    run = _under_way(hub, "permanent", rounds=3)
    browser.visit(run.page, width=1440)
    browser.js(
        "(() => { const [a] = document.querySelectorAll('.bounds input'); a.value = 2;"
        " a.dispatchEvent(new Event('change')); document.querySelectorAll('.legend button')[1].click(); })()"
    )
    where = browser.js("location.href")
    assert "hide=1" in where
    assert "from=2" in where
    shown = "document.querySelectorAll('#plot-0 .series').length === 4 && document.querySelector('#plot-0 .edge')"
    browser.wait(shown)
    browser.page.click("a.mark")
    browser.wait("document.body?.dataset.page === 'runs' && document.documentElement.dataset.ready === 'true'")
    browser.page.go_back()
    browser.wait(f"document.querySelector('#plot-0') && {shown}")
    assert browser.js("location.href") == where
    with browser.tab("") as tab:
        tab.visit(where, width=1440)
        tab.wait(shown)


def test_a_person_asks_to_be_told_of_the_end(browser: Browser, hub: WatchedHub) -> None:
    """One notice of the browser, in the headline's words, when the run is over, and only where it was asked for."""
    run = _under_way(hub, "notified", rounds=1)
    told = (
        "window.notices = []; window.Notification = class { static requestPermission() { return 'granted'; }"
        " constructor(title, { body }) { notices.push([title, body]); } };"
    )
    with browser.tab(told) as tab, browser.tab(told) as quiet:
        for each in (tab, quiet):
            each.visit(run.page)
            each.wait("document.querySelector('.link').textContent === 'Live'")
        bell = "[...document.querySelectorAll('.bar button')].find((b) => b.textContent === 'Tell me')"
        tab.js(f"{bell}.click()")
        tab.wait(f"{bell}.getAttribute('aria-pressed') === 'true'")
        run.round(2, 6)
        run.status("RESULTS_UPLOADED")
        tab.wait("notices.length")
        quiet.wait("document.title.startsWith('✓')")
        assert tab.js("notices") == [["notified", "Finished - results ready"]]
        assert quiet.js("notices") == []


def test_the_csv_of_a_live_chart_has_every_stored_row(browser: Browser, hub: WatchedHub) -> None:
    """It comes from the hub, whole, whatever part of it is on screen: both attempts of a round that was begun again."""
    run = _under_way(hub, "exported", rounds=2)
    run.wait(60)
    run.round(2, 6)
    browser.visit(run.page + "?from=2&to=2", width=1440)
    with browser.page.expect_download() as coming:
        browser.js("document.querySelector('#plot-0 [aria-label$=\"as CSV\"]').click()")
    lines = Path(coming.value.path()).read_text().splitlines()
    assert {"round", "attempt", "value"} <= set(lines[0].split(","))
    assert len(lines) == 1 + 3 * 5


def test_all_tabs_of_a_browser_share_one_stream(
    browser: Browser, hub: WatchedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tabs, two runs: one connection stays open for all, each tab gets the news of its run, a tab that is closed
    takes nothing from the others, and a run that is deleted ends for its tabs alone."""
    open_now: list[int] = []
    whole = streams._events

    async def counted(request: Request, places: Mapping[UUID, Cursor], refused: Mapping[UUID, int]) -> Any:
        open_now.append(len(places))
        try:
            async for text in whole(request, places, refused):
                yield text
        finally:
            open_now.remove(len(places))

    monkeypatch.setattr(streams, "_events", counted)
    one, other = _under_way(hub, "shared one"), _under_way(hub, "shared two")
    told = "document.querySelector('#top').textContent.includes('4 of 6')"
    with browser.tab("") as second, browser.tab("") as third:
        for tab, run in ((browser, one), (second, other), (third, one)):
            tab.visit(run.page)
            tab.wait("document.querySelector('.link').textContent === 'Live'")
        wait_until(lambda: open_now == [2])
        one.round(4, 6)
        browser.wait(told)
        third.wait(told)
        assert not second.js(told)
        third.page.goto("about:blank")
        other.round(4, 6)
        second.wait(told)
        with admin.open_session(hub.url) as session:
            admin.delete_model(session, other.id)
        second.wait("document.documentElement.dataset.ready === 'refused'")
        one.round(5, 6)
        browser.wait("document.querySelector('#top').textContent.includes('5 of 6')")
        assert len(open_now) == 1
        assert browser.errors == []
    browser.page.goto("about:blank")
    wait_until(lambda: open_now == [])


def test_a_resumed_run_shows_both_attempts(browser: Browser, hub: WatchedHub) -> None:
    """A rule marks where the run went on; what was measured before stays, faint; no line runs backwards."""
    run = _under_way(hub, "resumed")
    browser.visit(run.page)
    run.wait(100)
    run.round(3, 6)
    run.round(4, 6)
    browser.wait("document.querySelector('#plot-0 text.rule')")
    assert _text(browser, "#plot-0 text.rule").startswith("resumed ")
    assert browser.js("document.querySelectorAll('#plot-0 circle.raw, #plot-0 path.raw').length") == 5
    paths = browser.js(
        "[...document.querySelectorAll('#plot-0 .series path:not(.raw):not(.leader)')].map((p) => p.getAttribute('d'))"
    )
    for path in paths:
        xs = [float(pair.split(" ")[0]) for pair in path.removeprefix("M").split("L")]
        assert all(a < b for a, b in itertools.pairwise(xs))
    assert "Started again: round 3." in _text(browser, "#rounds .head p")


def test_a_run_that_waits_says_for_whom(browser: Browser, hub: WatchedHub) -> None:
    """Before the first round: who is not there, how many are needed, until when it waits; a draft awaits nothing."""
    run = hub.run("waiting")
    browser.visit(run.page)
    assert "Nothing is awaited" in _text(browser, "#top")
    run.status("INITIATED")
    told = "Waiting for GSTT, KCH, UCLH and 2 more (0 of 5 heard of)"
    browser.wait(f"document.querySelector('#top').textContent.includes('{told}')")
    assert "the first is awaited at the end of round 1" in _text(browser, "#curves")
    until = datetime.now(UTC) + timedelta(minutes=30)
    waits = {"there": ["Trust_1", "Trust_2"], "awaited": ["Trust_3", "Trust_4", "Trust_5"], "needs": 4}
    run.say(run.event("SITES_AWAITED", 1, details={**waits, "until": until.isoformat()}))
    told = "Waiting for UCLH, BARTS and ICHT (2 of 5 connected, needs 4), since "
    browser.wait(f"document.querySelector('#top').textContent.includes('{told}')")
    assert f"; gives up at {until:%H:%M} UTC." in _text(browser, "#top")
    run.say(run.event("SITES_AWAITED", 1, details={**waits, "there": run.slots[:4], "awaited": ["Trust_5"]}))
    browser.wait("document.querySelector('#top').textContent.includes('Waiting for ICHT (4 of 5 connected')")
    run.status("PREPARED")
    browser.wait("!document.querySelector('#top').textContent.includes('connected')")


def test_a_run_that_is_deleted_while_it_is_watched(browser: Browser, hub: WatchedHub) -> None:
    """The page says what happened and leads on; it is never an empty box."""
    run = _under_way(hub, "deleted", rounds=1)
    browser.visit(run.page)
    forbidden = "fetch(`../api/model/${document.body.dataset.model}`, {method: 'DELETE'}).then((a) => a.status)"
    assert browser.js(forbidden) == 403
    with admin.open_session(hub.url) as session:
        admin.delete_model(session, run.id)
    browser.wait("document.documentElement.dataset.ready === 'refused'")
    assert _text(browser, "h1") == "This run was deleted"
    browser.visit(run.page)
    assert "was deleted" in _text(browser, "main")


def test_a_person_logs_out(browser: Browser, hub: WatchedHub) -> None:
    """The button of every page ends the session at the hub: the run is not shown any more, and a login leads back."""
    run = _under_way(hub, "private", rounds=1)
    browser.visit(run.page)
    browser.js("[...document.querySelectorAll('.bar button')].find((b) => b.textContent === 'Log out').click()")
    browser.wait("location.pathname === '/login' && document.getElementById('token')")
    browser.page.goto(run.page)
    browser.wait("location.pathname === '/login' && document.querySelector('input[name=next]')?.value")
    assert browser.js("document.querySelector('input[name=next]').value") == f"models/{run.id}"


def test_a_person_logs_out_on_a_telephone(browser: Browser, hub: WatchedHub) -> None:
    """The way out is in sight on a small screen, too, and nothing hangs over its edge for it."""
    browser.visit(hub.pages, width=360)
    out = "[...document.querySelectorAll('.bar button')].find((b) => b.textContent === 'Log out')"
    assert browser.js(f"{out}.getBoundingClientRect().right <= innerWidth && {out}.offsetWidth > 0")
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    browser.js(f"{out}.click()")
    browser.wait("location.pathname === '/login' && document.getElementById('token')")


def test_a_finished_run_without_an_address_does_not_wait_for_one(browser: Browser, hub: WatchedHub) -> None:
    """What is over is not told as coming: an FL server may say that it has stored results, and not where."""
    run = _under_way(hub, "stored somewhere", rounds=1)
    run.status("RESULTS_UPLOADED")
    browser.visit(run.page)
    assert "it has not said where" in _text(browser, "#results")
    assert "Not yet" not in _text(browser, "#results")


def test_a_session_that_ends_while_a_run_is_watched_says_so(
    browser: Browser, hub: WatchedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is let go sees nothing more: what is open says that the session is over, and how to come back."""
    monkeypatch.setattr(live, "ASK_AGAIN_S", 0.0)
    run = _under_way(hub, "ended", rounds=1)
    browser.visit(run.page)
    with admin.open_session(hub.url) as session:
        (mine,) = tokens.listed(session)
        tokens.revoke(session, mine.id)
        again = tokens.issue(session, "Ada Lovelace", Role.VIEWER).secret
    run.round(2, 6)
    browser.wait("document.documentElement.dataset.ready === 'refused'")
    assert _text(browser, "h1") == "You are not logged in any more"
    hub.token = again


def test_axes_and_scale_are_chosen_and_kept_in_the_link(browser: Browser, hub: WatchedHub) -> None:
    """Rounds, time and clock along the axis, a logarithmic scale: each redraws, and a link shows the same."""
    run = _under_way(hub, "axes")
    browser.visit(run.page + "?x=clock&log=1", width=1440)
    shown = browser.js("[...document.querySelectorAll('#plot-1 svg text')].map((t) => t.textContent)")
    assert "time, UTC" in shown
    assert "logarithmic" in _text(browser, "#plot-1 .note")
    browser.js(
        "(() => { const s = [...document.querySelectorAll('#curves select')][1]; s.value = 'elapsed';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    shown = browser.js("[...document.querySelectorAll('#plot-1 svg text')].map((t) => t.textContent)")
    assert "time since the start" in shown
    assert browser.js("location.search") == "?x=elapsed&log=1"
    assert len(browser.js("location.href")) < 300


def test_sites_with_other_epochs_are_aligned_by_round(browser: Browser, hub: WatchedHub) -> None:
    """Along rounds a site with two steps a round and one with four end each round at the same place."""
    run = _under_way(hub, "epochs", rounds=1)
    for slot, steps in (("Trust_1", 2), ("Trust_2", 4)):
        for number in (1, 2):
            run.say(
                *(
                    run.metric(slot, "step_loss", 1 / (k + 1), number, x_label="Step", x_value=(number - 1) * steps + k)
                    for k in range(steps)
                )
            )
    ends = (
        "(() => { const f = [...document.querySelectorAll('figure.chart')]"
        ".find((e) => e.textContent.includes('step_loss')); return [...f.querySelectorAll('.series > path')]"
        ".filter((p) => !p.classList.contains('leader')).map((p) => p.getAttribute('d').slice(1).split('L')"
        ".map((pair) => Number(pair.split(' ')[0]))); })()"
    )
    browser.visit(run.page, width=1440)
    own = browser.js(ends)
    assert own[0][-1] != own[1][-1]
    browser.visit(f"{run.page}?x=rounds", width=1440)
    two, four = browser.js(ends)
    assert (len(two), len(four)) == (4, 8)
    assert (two[1], two[3]) == (four[3], four[7])


def test_a_long_run_is_smoothed_from_all_its_points(browser: Browser, hub: WatchedHub) -> None:
    """What the hub thins is fetched whole before it is smoothed; until then, and without it, the raw line is shown."""
    run = _under_way(hub, "long", rounds=1)
    for first in range(0, 21_000, 500):
        steps = range(first, first + 500)
        run.say(*(run.metric("Trust_1", "step_loss", k % 7, 1, x_label="Step", x_value=k, task="train") for k in steps))
    note = (
        "[...document.querySelectorAll('figure.chart')].find((e) => e.textContent.includes('step_loss'))"
        "?.querySelector('.note').textContent ?? ''"
    )
    browser.visit(run.page, width=1440)
    browser.wait(f"/^showing \\d+ of 21000 points$/.test({note})")
    assert sum("label=step_loss" in asked for asked in browser.requests) == 1
    # The shell has asked for the story already, and the script takes that.
    assert sum("/story?" in asked for asked in browser.requests) == 1
    browser.visit(f"{run.page}?smooth=0.6", width=1440)
    browser.wait(f"({note}).startsWith('smoothed 0.6, showing')")
    whole = [asked for asked in browser.requests if "label=step_loss" in asked and "points=100000" in asked]
    assert len(whole) == 1


def test_a_long_curve_is_looked_into_down_to_its_points(browser: Browser, hub: WatchedHub) -> None:
    """One round of 21,000 local steps: what is drawn says how much of it is there; a part that is dragged holds every
    stored point, the rest is counted at the edges, the link shows the same, and one click leads back."""
    run = _under_way(hub, "deep", rounds=1)
    for first in range(0, 21_000, 500):
        steps = range(first, first + 500)
        spike = {7_777: 99.0}
        run.say(*(run.metric("Trust_1", "step_loss", spike.get(k, k % 7), 1, x_label="Step", x_value=k) for k in steps))
    chart = "[...document.querySelectorAll('figure.chart')].find((e) => e.textContent.includes('step_loss'))"
    note = f"{chart}?.querySelector('.note').textContent ?? ''"
    browser.visit(run.page, width=1440)
    browser.wait(f"/^showing \\d+ of 21000 points$/.test({note})")
    assert int(browser.js(note).split()[1]) <= 2000
    plot = f"{chart}.querySelector('.plot')"
    browser.js(f"{plot}.focus()")
    read = f"{plot}.getAttribute('aria-valuetext')"
    told = set()
    for _ in range(40):
        browser.page.keyboard.press("PageDown")
        told.add(browser.js(read))
    for text in told:
        x, value = re.fullmatch(r"Step (\d+): GSTT ([\d.]+)", text).groups()  # type: ignore[union-attr]
        assert float(value) == (99.0 if x == "7777" else int(x) % 7), "a value that nobody measured"

    box = browser.js(
        f"(() => {{ {plot}.scrollIntoView({{ block: 'center' }}); const b = {plot}.getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]; })()"
    )
    y = box[1] + box[3] / 2
    browser.page.mouse.move(box[0] + box[2] * 0.40, y)
    browser.page.mouse.down()
    browser.page.mouse.move(box[0] + box[2] * 0.45, y, steps=4)
    browser.page.mouse.up()
    browser.wait(f"({note}) === '' && {chart}.querySelectorAll('.edge').length === 2")
    low, high = (float(n) for n in browser.js("new URLSearchParams(location.search).get('span')").split("_")[1:])
    assert len(browser.js("location.href")) < 300
    count = f"(({chart}.querySelector('.series path').getAttribute('d').match(/L/g)) ?? []).length + 1"
    inside = int(high - low) + 1
    assert 100 < inside <= 2000
    browser.wait(f"{count} === {inside}")
    edges = browser.js(f"[...{chart}.querySelectorAll('.edge')].map((e) => Number(e.textContent.match(/\\d+/)[0]))")
    assert edges == [int(low), 20_999 - int(high)]
    link = browser.js("location.href")
    browser.visit(link, width=1440)
    browser.wait(f"{chart} && {count} === {inside}")
    browser.js("[...document.querySelectorAll('#curves button')].find((b) => b.textContent === 'all rounds').click()")
    browser.wait(f"/^showing \\d+ of 21000 points$/.test({note})")
    assert browser.errors == []


def _fill(hub: WatchedHub, run: WatchedRun, labels: int, rounds: int) -> None:
    """Each site's metrics of ``rounds`` rounds, more than a test can send."""
    with admin.open_session(hub.url) as session:
        holders = {trust.slot: trust.id for trust in admin.list_trusts(session)}
        for label in range(labels):
            facts = {"model_id": run.id, "label": f"metric_{label:02}", "x_label": DEFAULT_X_LABEL}
            rows = [
                facts
                | {"trust_id": holders[slot], "fl_client_name": slot, "global_round": number, "x_value": number}
                | {"result": (number * 7 + place) % 11 + label, "occurred_at": run.clock}
                for place, slot in enumerate(run.slots)
                for number in range(1, rounds + 1)
            ]
            session.execute(insert(FlMetric), rows)
        session.commit()


def test_a_plot_of_many_long_lines_that_rests_in_view_has_every_point(browser: Browser, hub: WatchedHub) -> None:
    """Up to 2,000 points a line all are drawn: of many lines few at first, the others when the chart rests in view; one
    long out of view goes back to few, and is whole again when somebody returns."""
    run, sites, rounds = hub.run("many long lines", sites=21), 21, 960
    run.begin()
    _fill(hub, run, labels=14, rounds=rounds)
    browser.visit(run.page, width=1440, height=2400)
    note = "document.querySelectorAll('figure.chart')[%d].querySelector('.note').textContent"
    whole = (
        "(([f]) => f.querySelector('.note').textContent === '' && f.querySelector('svg') !== null"
        " && [...f.querySelectorAll('.series')].map((g) => g.querySelector('path').getAttribute('d').split('L').length)"
        f".join() === Array({sites}).fill({rounds}).join())([document.querySelectorAll('figure.chart')[%d]])"
    )
    browser.wait(f"/^showing \\d+ of 20160 points$/.test({note % 0})")
    asked = (
        "performance.getEntriesByType('resource').filter((e) => e.name.includes('label=metric_%02d&')"
        " && e.name.endsWith('points=%d')).length"
    )

    for place in range(14):
        browser.js(f"document.querySelectorAll('figure.chart')[{place}].scrollIntoView({{ behavior: 'instant' }})")
        browser.wait(whole % place)
    assert [browser.js(asked % (label, 2000)) for label in range(14)] == [1] * 14
    browser.wait(f"{asked % (0, 300)} === 2 && {asked % (1, 300)} === 2")
    browser.js("window.scrollTo({ top: 0, behavior: 'instant' })")
    browser.wait(f"{asked % (0, 2000)} === 2 && {whole % 0}")
    assert browser.errors == []


def test_a_clock_that_is_off_is_told(browser: Browser, hub: WatchedHub) -> None:
    """More than 30 s off the hub's, by what the FL server measures or by a report from the future: the page says whose,
    in the headline and at the site's own row, and takes it back when the clock is set right."""
    run = _under_way(hub, "skewed", rounds=1)
    browser.visit(run.page)
    assert "clock is" not in _text(browser, "#top")
    run.clock = datetime.now(UTC) + timedelta(seconds=95)
    run.say({"kind": "log", "client": "Trust_2", "log": "epoch 1", "global_round": 1})
    browser.wait("document.querySelector('#top').textContent.includes('KCH\u2019s clock is at least 1 min')")
    assert "ahead of the hub\u2019s" in _text(browser, "#top")
    run.start(2, 6)
    browser.wait("document.querySelector('#top').textContent.includes('The FL server\u2019s clock is at least 1 min')")
    assert "KCH\u2019s clock" not in _text(browser, "#top")

    measured = _under_way(hub, "measured", rounds=1)
    browser.visit(measured.page)
    row = "[...document.querySelectorAll('#rounds tbody th')].map((e) => e.querySelector('.skew')?.textContent ?? '')"
    measured.start(2, 6)
    measured.returned("Trust_3", 2, clock=[-131.0, -62.5])
    browser.wait(f"{row}.join('|') === '||clock 1 min 3 s behind||'")
    assert "UCLH\u2019s clock is at least 1 min 3 s behind the hub\u2019s." in _text(browser, "#top")
    assert browser.js("document.querySelector('#rounds td.seen time').title").endswith(("Z", "+00:00"))
    measured.start(3, 6)
    measured.returned("Trust_3", 3, clock=[-0.2, 1.5])
    browser.wait(f"{row}.join('') === ''")


def test_each_site_says_when_it_was_heard_of(browser: Browser, hub: WatchedHub) -> None:
    """Every row of the grid ages on screen by itself; a moment's title is ISO 8601 with its zone."""
    run = _under_way(hub, "aging")
    run.start(4, 6)
    run.returned("Trust_1", 4)
    browser.visit(run.page, width=1440)
    cells = "[...document.querySelectorAll('#rounds tbody td.seen')].map((e) => e.textContent)"
    before = browser.js(cells)
    assert len(before) == 5
    assert all(text.endswith(" ago") for text in before)
    titles = browser.js("[...document.querySelectorAll('#rounds td.seen time')].map((e) => e.title)")
    assert all(datetime.fromisoformat(title).utcoffset() == timedelta(0) for title in titles)
    asked = len(browser.requests)
    time.sleep(2.2)
    told = f"{cells}.map((text, k) => [text, {json.dumps(before)}[k]])"
    browser.wait(f"{told}.every(([now, then]) => now !== then || !then.endsWith(' s ago'))")
    browser.wait(f"{told}.some(([now, then]) => now !== then)")
    assert len(browser.requests) == asked


def test_the_tab_says_how_a_run_ended(browser: Browser, hub: WatchedHub) -> None:
    """A finished run counts its rounds behind a tick, a failed one names the site; the icon changes with it."""
    run = _under_way(hub, "tabbed", rounds=6)
    browser.visit(run.page)
    icon = "document.querySelector('link[rel=icon]').href"
    under_way = browser.js(icon)
    run.status("RESULTS_UPLOADED")
    browser.wait("document.title.startsWith('✓ 6/6')")
    assert browser.js(icon) != under_way
    failed = _under_way(hub, "tabbed failure", rounds=1)
    failed.fail("Trust_2", 1)
    failed.status("ERROR", "a site failed")
    browser.visit(failed.page)
    assert browser.js("document.title").startswith("✕ 1/6 KCH failed – tabbed failure")


def test_the_list_is_live_filtered_and_used_by_keyboard(browser: Browser, hub: WatchedHub) -> None:
    """A run's progress appears by itself, filters stand in the address, two runs are compared without a mouse."""
    one, other = _under_way(hub, "listed one"), _under_way(hub, "listed two", rounds=2)
    browser.visit(hub.pages + "?text=listed")
    names = "[...document.querySelectorAll('.runs tbody th a')].map((a) => a.textContent)"
    assert browser.js(names) == ["listed two", "listed one"]
    one.status("STOPPED", "wrong cohort")
    browser.wait("document.querySelector('.runs').textContent.includes('Stopped in round 3 – wrong cohort')")
    browser.js(
        "(() => { const s = document.querySelector('[aria-label=State]'); s.value = 'live';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    browser.wait(f"{names}.length === 1")
    assert browser.js("new URLSearchParams(location.search).get('state')") == "live"
    browser.visit(hub.pages + "?text=listed")
    for name in ("listed one", "listed two"):
        browser.js(f"document.querySelector('[aria-label=\"Compare {name}\"]').focus()")
        browser.page.keyboard.press("Space")
    browser.js("[...document.querySelectorAll('button')].find((b) => b.textContent === 'Compare 2 runs').click()")
    browser.wait("document.body?.dataset.page === 'compare' && document.documentElement.dataset.ready === 'true'")
    rows = browser.js("[...document.querySelectorAll('.differ tbody th')].map((e) => e.textContent)")
    assert {"State", "Rounds"} <= set(rows)
    assert "Sites" not in rows
    assert browser.js("document.querySelectorAll('.band').length") == 4
    assert str(other.id) in browser.js("location.search")


def test_runs_are_compared_by_what_differs_and_round_by_round(browser: Browser, hub: WatchedHub) -> None:
    """Of five runs' settings those that differ are the table, those that are the same are folded; each metric is one
    chart with a line a run, by the median and the range of its sites or by one site's values; a sixth is said."""
    runs = [hub.run(f"compared {k}") for k in range(6)]
    for k, run in enumerate(runs):
        run.clock = datetime.now(UTC) - timedelta(minutes=10)
        run.begin(LEARNING_RATE=str(0.1 * (k % 2)), LOCAL_ROUNDS="2", **({"FEDPROX_MU": "0.5"} if k == 2 else {}))
        for number in (1, 2):
            run.round(number, 2)
        for step in range(4 * (k + 1)):
            place = {"x_label": "Step", "x_value": step}
            run.say(run.metric("Trust_1", "step_loss", step, 1 + step // (2 * (k + 1)), task="train", **place))
    browser.visit(f"{hub.pages}compare?runs={','.join(str(run.id) for run in runs)}", width=1440)
    rows = browser.js("[...document.querySelectorAll('.differ tr')].map((r) => [...r.cells].map((c) => c.textContent))")
    table = {name: cells for name, *cells in rows}
    assert table[""] == [f"compared {k}" for k in range(5)]
    assert table["LEARNING_RATE"] == ["0.0", "0.1", "0.0", "0.1", "0.0"]
    assert table["FEDPROX_MU"] == ["–", "–", "0.5", "–", "–"]
    assert not {"LOCAL_ROUNDS", "Rounds", "Sites", "Project"} & set(table)
    assert "LOCAL_ROUNDS" in _text(browser, "main details")
    assert "At most 5 runs are compared: 1 other of the link left out." in _text(browser, "main .head")
    titles = browser.js("[...document.querySelectorAll('figure h3')].map((e) => e.textContent)")
    assert titles == ["auc", "loss", "step_loss by round"]
    assert (
        browser.js("[...document.querySelectorAll('#plot-0 .series')].map((g) => g.querySelectorAll('.band').length)")
        == [1] * 5
    )
    ends = browser.js(
        "[...document.querySelectorAll('#plot-2 .series')].map((g) => g.querySelector('path:not(.band):not(.leader)')"
        ".getAttribute('d').split('L').at(-1).split(' ')[0])"
    )
    assert len(set(ends)) == 1, "every run's last step is the end of its second round"
    select = "document.querySelector('[aria-label=\"Whose values\"]')"
    browser.js(f"(() => {{ {select}.value = 'Trust_3'; {select}.dispatchEvent(new Event('change')); }})()")
    assert browser.js("document.querySelectorAll('.band').length") == 0
    assert browser.js("document.querySelectorAll('#plot-0 .series').length") == 5
    assert "site=Trust_3" in browser.js("location.search")
    browser.visit(runs[2].page)
    assert _text(browser, "#settings summary") == "3 settings"
    assert "FEDPROX_MU0.5" in _text(browser, "#settings dl")
    assert browser.errors == []


def test_news_of_a_run_takes_no_focus_from_the_list(browser: Browser, hub: WatchedHub) -> None:
    """Whoever goes through the list by keyboard is where he was after a row has changed and a new one has come."""
    quiet, busy = _under_way(hub, "steady one", rounds=1), _under_way(hub, "steady two", rounds=1)
    browser.visit(hub.pages + "?text=steady")
    browser.js("document.querySelector('[aria-label=\"Compare steady one\"]').focus()")
    browser.js("window.here = document.activeElement")
    busy.status("STOPPED", "wrong cohort")
    _under_way(hub, "steady three", rounds=1)
    browser.wait("document.querySelector('.runs').textContent.includes('Stopped in round 1')")
    browser.wait("document.querySelectorAll('.runs tbody tr').length === 3")
    assert browser.js("document.activeElement === here && document.body.contains(here)")
    quiet.status("STOPPED", "also wrong")
    browser.wait("document.querySelector('.runs').textContent.includes('also wrong')")
    assert browser.js("document.activeElement.getAttribute('aria-label')") == "Compare steady one"


@pytest.mark.parametrize(
    ("dark", "width"), [pytest.param(False, 360, id="light-360"), pytest.param(True, 1440, id="dark-1440")]
)
@pytest.mark.parametrize("name", ["live", "stalled", "failed", "draft", "runs", "trusts", "compare", "absent"])
def test_axe_finds_nothing_on_any_page(browser: Browser, hub: WatchedHub, name: str, dark: bool, width: int) -> None:
    """The accessibility checker finds no violation, everything has a name, and nothing scrolls sideways."""
    browser.visit(_pages(hub)[name], width=width, dark=dark)
    if name == "stalled":
        browser.wait("document.querySelector('.stall')")
    assert axe_violations(browser) == []
    assert browser.js(NAMELESS) == []
    assert browser.js("document.documentElement.scrollWidth") <= width


_MADE: dict[str, str] = {}


def _pages(hub: WatchedHub) -> dict[str, str]:
    if not _MADE:
        live, stalled = _under_way(hub, "axe live"), _under_way(hub, "axe stalled", ago=300.0)
        for run in (live, stalled):
            run.start(4, 6)
            run.returned("Trust_1", 4)
        failed = _under_way(hub, "axe failed", rounds=1)
        failed.fail("Trust_2", 1)
        failed.status("ERROR", "a site failed")
        _MADE.update(live=live.page, stalled=stalled.page, failed=failed.page, draft=hub.run("axe draft").page)
        _MADE.update(runs=hub.pages, trusts=f"{hub.pages}trusts", absent=f"{hub.pages}models/none")
        _MADE["compare"] = f"{hub.pages}compare?runs={live.id},{failed.id}"
    return _MADE
