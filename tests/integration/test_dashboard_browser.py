"""The report in a real browser: what it draws, how it is read by pointer, keys and ear, on screen and on paper."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import statistics
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from flip_fl.dashboard import report
from flip_fl.dashboard.story import Plot, Point, Samples, Series, SiteUpdate, Story
from tests.support import dashboard
from tests.support.browser import Browser, chromium

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chromium")]

JS = Path(report.__file__).parent / "assets" / "js"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this file."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every hand-made story as a report."""
    folder = tmp_path_factory.mktemp("pages")
    for name, make in dashboard.ALL.items():
        report.write_report(make(), folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in dashboard.ALL}


def _open(browser: Browser, path: Path, **how: Any) -> None:
    browser.open(path, **how)
    assert browser.js("document.documentElement.dataset.ready") == "true"


def _texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.js(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")
    return found


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("name", dashboard.ALL)
def test_every_story_is_drawn_without_error_and_without_network(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    """No exception, no request but the file itself, no sideways scrolling, from a telephone to a desk."""
    _open(browser, pages[name], width=width)
    assert browser.errors == []
    assert [r for r in browser.requests if not r.startswith("data:")] == [pages[name].as_uri()]
    assert browser.js("document.documentElement.scrollWidth") <= width


def test_scores_against_epsilon_are_there_with_a_script_too(browser: Browser, pages: dict[str, Path]) -> None:
    """The page takes the drawing over as it was written, in its place before the curves, and leads to it."""
    _open(browser, pages["private"])
    assert browser.js("[...document.querySelectorAll('#main section')].map((e) => e.id).join()").startswith(
        "top,models,privacy,curves"
    )
    assert browser.js("document.querySelectorAll('#privacy circle').length") == 5
    assert browser.js("document.querySelector('#privacy svg').getBoundingClientRect().width") > 200
    assert "Scores against epsilon" in _texts(browser, "header nav a")


@pytest.mark.parametrize("name", dashboard.ALL)
def test_the_state_is_said_in_the_first_two_hundred_pixels(browser: Browser, pages: dict[str, Path], name: str) -> None:
    """A glance answers "is it all right?", in the words that the command line uses, too."""
    _open(browser, pages[name])
    story = dashboard.ALL[name]()
    shown = browser.js("document.querySelector('.state .line').innerText").strip()
    expected = "".join(c for c in story.headline.text.replace(" - ", " – ") if c not in "\u202e\x1b")
    assert shown.replace("\\u202e", "").replace("\\x1b", "") == expected
    assert browser.js("document.querySelector('.state .line b').getBoundingClientRect().bottom") < 200
    assert story.headline.word in browser.js("document.title")


def test_hostile_texts_do_nothing(browser: Browser, pages: dict[str, Path]) -> None:
    """Names, labels, tracebacks and addresses from a site are shown as they are and never run."""
    _open(browser, pages["hostile"])
    assert browser.js("window.__pwned === undefined")
    assert browser.js("document.querySelectorAll('img, iframe, object, embed').length") == 0
    assert browser.js("document.querySelectorAll('script').length") == 2
    assert dashboard.CANARY in browser.js("document.querySelector('h1').textContent")
    assert browser.errors == []


def test_twenty_sites_are_told_apart_in_natural_order(browser: Browser, pages: dict[str, Path]) -> None:
    """All sites are shown, Trust_2 before Trust_10, and no two share colour and dash, on any chart."""
    _open(browser, pages["large"])
    slots = [f"Trust_{n}" for n in range(1, 21)]
    assert [t.strip() for t in _texts(browser, ".legend button.site")] == slots
    looks = browser.js(
        """[...document.querySelectorAll('figure svg')].map((svg) => [...svg.querySelectorAll('g.series')].map((g) => {
          const p = g.querySelector('path:not(.nan):not(.leader)');
          return [g.dataset.slot, getComputedStyle(p).stroke, p.getAttribute('stroke-dasharray')]; }))"""
    )
    assert len(looks) == 8
    assert all(sorted(s for s, _, _ in chart) == sorted(slots) for chart in looks)
    assert len({(colour, dash) for _, colour, dash in looks[0]}) == 20
    assert all(chart == looks[0] for chart in looks)


def test_lines_break_where_nothing_was_measured(browser: Browser, pages: dict[str, Path]) -> None:
    """A missed round is a gap with a tick on the axis, a refused value a mark, a lone point a dot."""
    _open(browser, pages["ragged"])
    of = "document.querySelector('figure svg g[data-slot={slot}]')"
    parts = {
        slot: browser.js(
            f"""(() => {{ const g = {of.format(slot=slot)}; return {{
              lines: [...g.querySelectorAll('path:not(.nan):not(.leader)')]
                .map((p) => p.getAttribute('d').split('L').length),
              dots: [...g.querySelectorAll('circle')].filter((c) => c.getAttribute('r') > 3).length,
              nan: g.querySelectorAll('.nan').length, miss: g.querySelectorAll('.miss').length }}; }})()"""
        )
        for slot in ("Trust_2", "Trust_3", "Trust_10")
    }
    assert parts["Trust_3"] == {"lines": [10], "dots": 0, "nan": 0, "miss": 0}
    assert parts["Trust_10"] == {"lines": [3, 2], "dots": 1, "nan": 0, "miss": 4}
    assert parts["Trust_2"] == {"lines": [4, 5], "dots": 0, "nan": 1, "miss": 0}
    summary = _texts(browser, "figure figcaption")[0]
    assert "University College London Hospitals (round 4–6, 8)" in summary
    assert "Not finite: GSTT (round 5)" in summary


def test_final_scores_are_no_curve(browser: Browser, pages: dict[str, Path]) -> None:
    """One value a site is a row a site, not a line of one point."""
    _open(browser, pages["ragged"])
    figure = "[...document.querySelectorAll('figure')].find((f) => f.textContent.includes('test_auc'))"
    assert browser.js(f"{figure}.querySelectorAll('svg.dots circle').length") == 3
    assert browser.js(f"{figure}.querySelectorAll('svg path').length") == 0


def test_equal_failures_are_one_card(browser: Browser, pages: dict[str, Path]) -> None:
    """Seven equal tracebacks are one card with seven names, the app's own frames first, the full text folded."""
    _open(browser, pages["failed"])
    cards = _texts(browser, ".failure")
    assert len(cards) == 2
    assert "All 7 sites" in cards[0]
    assert all(f"Trust_{n}" in cards[0] for n in range(1, 8))
    frames = browser.js("[...document.querySelectorAll('#failure-0 .frames .where')].map((e) => e.textContent)")
    assert frames == ["trainer.py, line 41, in train", "trainer.py, line 22, in step", "models.py, line 19, in forward"]
    assert browser.js("document.querySelector('#failure-0 pre').textContent") == dashboard.OOM_TRACEBACK
    assert browser.js("document.querySelector('#failure-0 details').open") is False


def test_the_grid_adds_up_and_is_walked_by_keys(browser: Browser, pages: dict[str, Path]) -> None:
    """One cell per round and site, each with its state in words; arrows move, Enter tells time and size."""
    _open(browser, pages["ragged"])
    names = browser.js("[...document.querySelectorAll('.rounds .cell')].map((c) => c.getAttribute('aria-label'))")
    assert len(names) == 30
    assert "GSTT, round 9: Failed" in names
    assert "KCH, round 2: Not asked" in names
    assert "KCH, round 7: Late" in names
    assert "University College London Hospitals, round 5: Missed" in names
    assert browser.js("document.querySelectorAll('.rounds .cell[tabindex=\"0\"]').length") == 1
    browser.js("document.querySelector('.rounds .cell').focus()")
    browser.page.keyboard.press("ArrowDown")
    browser.page.keyboard.press("ArrowRight")
    assert browser.js("document.activeElement.getAttribute('aria-label')") == "KCH, round 2: Not asked"
    browser.page.keyboard.press("Enter")
    assert "KCH · round 2 · Not asked" in browser.js("document.querySelector('.picked').textContent")


def test_rounds_are_shown_with_their_stage(browser: Browser, pages: dict[str, Path]) -> None:
    """Two stages are two headings over the grid; a cell, its details and the feed name the stage."""
    _open(browser, pages["staged"])
    heads = browser.js("[...document.querySelectorAll('.stages th')].map((e) => [e.textContent, e.colSpan])")
    assert heads == [["ae", 3], ["dm", 4]]
    names = browser.js("[...document.querySelectorAll('.rounds .cell')].map((c) => c.getAttribute('aria-label'))")
    assert names[3] == "Trust_1, round 4 (dm): Returned"
    browser.js("document.querySelectorAll('.rounds .cell')[3].click()")
    assert "round 4 (dm)" in browser.js("document.querySelector('.picked').textContent")
    assert "dm/loss" in browser.js("document.querySelector('.facts').textContent"), (
        "the last stage's score is the run's"
    )
    assert any("(ae) started" in text for text in _texts(browser, ".feed .text"))
    _open(browser, pages["finished"])
    assert browser.js("document.querySelector('.stages')") is None


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1440])
def test_generated_pictures_are_shown_as_they_were_made(
    browser: Browser, pages: dict[str, Path], width: int, dark: bool
) -> None:
    """Sixteen, each loaded under the page's own policy, told apart by name, large enough to see, and what they are."""
    _open(browser, pages["staged"], width=width, dark=dark)
    found = browser.js(
        """[...document.querySelectorAll('#pictures img')].map((e) => [
          e.complete, e.naturalWidth, e.naturalHeight, e.alt, e.getBoundingClientRect().width,
          getComputedStyle(e).imageRendering])"""
    )
    assert [row[3] for row in found] == [f"Picture {number} of 16" for number in range(1, 17)]
    assert all(row[:3] == [True, 8, 8] and row[4] >= 56 and row[5] == "pixelated" for row in found)
    said = browser.js("document.querySelector('#pictures .head').textContent")
    assert "16 pictures made by the uploaded model, read from no site\u2019s data" in said
    assert browser.errors == []
    assert browser.js("document.documentElement.scrollWidth") <= width


def test_pictures_that_could_not_be_made_say_why(browser: Browser, tmp_path: Path) -> None:
    """A report without them names the reason in their place; one of a run without generate() has no such part."""
    problem = "the app's generate() made no pictures: its values go from -3 to 9; they must be from 0 to 1"
    report.write_report(
        dashboard.staged().model_copy(update={"samples": Samples(problem=problem)}), tmp_path / "a.html"
    )
    _open(browser, tmp_path / "a.html")
    assert problem in browser.js("document.querySelector('#pictures').textContent")
    report.write_report(dashboard.staged().model_copy(update={"samples": None}), tmp_path / "b.html")
    _open(browser, tmp_path / "b.html")
    assert browser.js("document.querySelector('#pictures')") is None


def test_a_chart_is_read_by_keys(browser: Browser, pages: dict[str, Path]) -> None:
    """Arrow keys say each round's values, so that a chart can be read without seeing it."""
    _open(browser, pages["finished"])
    browser.js("document.querySelector('.plot').focus()")
    browser.page.keyboard.press("Home")
    browser.page.keyboard.press("ArrowRight")
    story = dashboard.finished()
    values = {one.slot: one.points[1].y for one in story.plots[0].series}
    said = browser.js("document.activeElement.getAttribute('aria-valuetext')")
    assert said.startswith("Round 2: ")
    for slot, value in values.items():
        assert value is not None
        assert f"{slot} {value:.4f}" in said


def test_a_chart_is_a_table_too(browser: Browser, pages: dict[str, Path]) -> None:
    """Every chart has its numbers as a real table, 25 rows a page."""
    _open(browser, pages["large"])
    browser.js("document.querySelector('figure .chart-foot button').click()")
    assert browser.js("document.querySelectorAll('figure tbody tr').length") == 25
    assert "rows 1 to 25 of 100" in browser.js("document.querySelector('figure .acts').textContent")
    browser.js("[...document.querySelectorAll('figure .acts button')].at(-1).click()")
    assert browser.js("document.querySelector('figure tbody th').textContent") == "26"


def _saved(browser: Browser, button: str) -> str:
    """What a click on the first chart's ``button`` saves, as text."""
    browser.js(
        "void (window.saved = new Promise((done) => { URL.createObjectURL = (b) => { done(b); return '#'; }; }))"
    )
    browser.js(
        f"[...document.querySelectorAll('.chart-foot button')].find((b) => b.textContent === '{button}').click()"
    )
    text: str = browser.js("window.saved.then((b) => b.text())")
    return text


def test_the_csv_has_every_stored_point(browser: Browser, pages: dict[str, Path]) -> None:
    """The file holds each point at full precision, refused ones as empty, whatever is on screen."""
    _open(browser, pages["ragged"], query="?hide=0")
    rows = [line.split(",") for line in _saved(browser, "CSV").strip().split("\r\n")]
    plot = dashboard.ragged().plots[0]
    assert rows[0] == ["slot", "site", "metric", "x_label", "x", "round", "value", "superseded"]
    stored = [
        (one.slot, p.x, p.round, p.y) for one in sorted(plot.series, key=lambda s: int(s.slot[6:])) for p in one.points
    ]
    assert [(r[0], float(r[4]), int(r[5]), float(r[6]) if r[6] else None) for r in rows[1:]] == stored


def test_a_csv_cell_is_never_a_formula(browser: Browser, tmp_path: Path) -> None:
    """A site's label that a spreadsheet would run is written as text."""
    story = dashboard.finished()
    plot = dashboard.curve(["Trust_1"], 2, "=cmd|'/c calc'!A1", lambda k, n: -1.5)
    report.write_report(story.model_copy(update={"plots": [plot]}), tmp_path / "a.html")
    _open(browser, tmp_path / "a.html")
    row = _saved(browser, "CSV").split("\r\n")[1].split(",")
    assert row[2] == "'=cmd|'/c calc'!A1"
    assert row[6] == "-1.5"


def test_a_saved_drawing_stands_alone_in_light_colours(browser: Browser, pages: dict[str, Path]) -> None:
    """An SVG for a paper carries its own colours and letters, even when saved from the dark page."""
    _open(browser, pages["finished"], dark=True)
    svg = _saved(browser, "SVG")
    assert svg.startswith("<svg")
    assert "class=" not in svg
    assert "var(" not in svg
    assert "rgb(11, 73, 184)" in svg
    assert browser.js("document.documentElement.dataset.theme") == "dark"
    assert (
        browser.js(f"new DOMParser().parseFromString({json.dumps(svg)}, 'image/svg+xml').querySelector('parsererror')")
        is None
    )


def test_a_picture_can_be_saved(browser: Browser, pages: dict[str, Path]) -> None:
    """PNG works under the page's own security policy."""
    _open(browser, pages["finished"])
    browser.js(
        "void (window.saved = new Promise((done) => { const make = URL.createObjectURL;"
        " URL.createObjectURL = (b) => { if (b.type === 'image/png') done(b); return make(b); }; }))"
    )
    browser.js("[...document.querySelectorAll('.chart-foot button')].find((b) => b.textContent === 'PNG').click()")
    head = browser.js("window.saved.then((b) => b.arrayBuffer()).then((a) => [...new Uint8Array(a.slice(0, 4))])")
    assert bytes(head) == b"\x89PNG"
    assert browser.errors == []


def test_hiding_a_site_is_said_and_kept_in_the_address(browser: Browser, pages: dict[str, Path]) -> None:
    """Nothing is hidden by default; what a person hid is counted, undone by one click, and travels with the link."""
    _open(browser, pages["large"])
    assert browser.js("document.querySelectorAll('.legend button[aria-pressed=false]').length") == 0
    browser.js("[...document.querySelectorAll('.legend button.site')].slice(0, 3).forEach((b) => b.click())")
    assert "3 of 20 hidden" in browser.js("document.querySelector('.legend').textContent")
    assert browser.js("document.querySelector('figure svg').querySelectorAll('g.series').length") == 17
    query = browser.js("location.search")
    assert len(query) < 300
    _open(browser, pages["large"], query=query)
    assert "3 of 20 hidden" in browser.js("document.querySelector('.legend').textContent")
    browser.js("[...document.querySelectorAll('.legend button')].at(-1).click()")
    assert browser.js("document.querySelector('figure svg').querySelectorAll('g.series').length") == 20
    assert browser.js("location.search") == ""


def test_focusing_a_site_fades_the_others(browser: Browser, pages: dict[str, Path]) -> None:
    """Keyboard focus on a name brings that site's line to the front of every chart."""
    _open(browser, pages["large"])
    browser.js("document.querySelectorAll('.legend button.site')[6].focus()")
    assert browser.js(
        "[...document.querySelectorAll('figure svg')].every((s) => s.classList.contains('focusing')"
        " && [...s.querySelectorAll('g.series')].at(-1).dataset.slot === 'Trust_7')"
    )


def test_smoothing_keeps_the_raw_line_and_says_so(browser: Browser, pages: dict[str, Path]) -> None:
    """Off by default; when on, the measured values stay visible and the chart says that it is smoothed."""
    _open(browser, pages["large"])
    assert browser.js("document.querySelectorAll('path.raw').length") == 0
    _open(browser, pages["large"], query="?smooth=0.6")
    assert browser.js("document.querySelectorAll('figure:first-of-type path.raw').length") >= 20
    assert "smoothed 0.6" in _texts(browser, "figure")[0]


def test_smoothing_goes_on_from_what_is_left_of_the_view(browser: Browser, pages: dict[str, Path]) -> None:
    """Zoomed in, the smoothed line is that of all points: it does not begin anew at the first round shown."""
    starts = (
        "(() => { const g = document.querySelector('#plot-0 g.series');"
        " return [...g.querySelectorAll('path:not(.leader)')].slice(0, 2).map((p) => p.getAttribute('d').split('L')[0])"
        "; })()"
    )
    _open(browser, pages["finished"], query="?smooth=0.9")
    raw, smoothed = browser.js(starts)
    assert raw == smoothed
    _open(browser, pages["finished"], query="?smooth=0.9&from=4")
    raw, smoothed = browser.js(starts)
    assert raw != smoothed


def test_dark_follows_the_system_live_and_can_be_overridden(browser: Browser, pages: dict[str, Path]) -> None:
    """Page and charts change colour without a reload; a person's choice wins."""
    look = (
        "[getComputedStyle(document.body).backgroundColor, "
        "getComputedStyle(document.querySelector('g.series path')).stroke]"
    )
    _open(browser, pages["finished"])
    light = browser.js(look)
    for scheme in ("dark", "light"):
        browser.page.emulate_media(color_scheme=scheme)
        browser.wait(f"document.documentElement.dataset.theme === '{scheme}'")
        now = browser.js(look)
        assert (now == light) is (scheme == "light")
        assert scheme == "light" or (now[0] != light[0] and now[1] != light[1])
    _open(browser, pages["finished"], query="?theme=dark")
    assert browser.js(look)[0] != light[0]


def test_the_feed_is_filtered(browser: Browser, pages: dict[str, Path]) -> None:
    """Failures, sites and words can be singled out; newest first; a long feed says how much it shows."""
    _open(browser, pages["failed"])
    times = browser.js("[...document.querySelectorAll('.feed time')].map((t) => Date.parse(t.dateTime))")
    assert times == sorted(times, reverse=True)
    browser.js("document.querySelector('#activity input[type=checkbox]').click()")
    assert browser.js("document.querySelectorAll('.feed li').length") == 8
    browser.js(
        "(() => { const s = document.querySelector('#activity input[type=search]'); s.value = 'trust_3';"
        " s.dispatchEvent(new Event('input')); })()"
    )
    assert browser.js("document.querySelectorAll('.feed li').length") == 1
    _open(browser, pages["large"])
    total = len(dashboard.large().feed)
    assert f"newest 200 of {total} lines" in browser.js("document.querySelector('#activity').textContent")


def test_a_late_status_is_shown_as_ignored(browser: Browser, pages: dict[str, Path]) -> None:
    """Who looks later sees that the error came after the stop and did not count."""
    _open(browser, pages["stopped"])
    rows = _texts(browser, "#history tbody tr")
    assert "A. Smith" in rows[-2]
    assert "ignored: the run was stopped" in rows[-1]


def test_every_transition_is_a_row(browser: Browser, pages: dict[str, Path]) -> None:
    """When, from what to what, by whom, for how long: still there when the run is over."""
    _open(browser, pages["finished"])
    assert _cells(browser, "#history table") == [
        ["Time (UTC)", "State", "By", "For", "Remark"],
        ["13:03:20", "Draft", "simulator", "", ""],
        ["13:03:21", "Draft → Queued", "FL server", "4.0 s", ""],
        ["13:03:25", "Queued → Preparing", "FL server", "2.0 s", ""],
        ["13:03:27", "Preparing → Training", "FL server", "38 s", ""],
        ["13:04:05", "Training → Finished", "FL server", "", ""],
    ]


def test_a_chart_says_how_far_it_has_come(browser: Browser, tmp_path: Path) -> None:
    """The last value, what five rounds have changed, the best round and since when nothing was better: numbers, and no
    verdict without them."""
    falling = [0.9, 0.5, 0.3, 0.2, 0.25, 0.26, 0.27, 0.28, 0.29, 0.3]
    story = dashboard.finished()
    plot = dashboard.curve(["Trust_1", "Trust_2"], 10, "loss", lambda k, n: falling[n - 1] + 0.01 * k)
    report.write_report(story.model_copy(update={"plots": [plot]}), tmp_path / "flat.html")
    _open(browser, tmp_path / "flat.html")
    assert browser.js("document.querySelector('#plot-0 figcaption p').textContent") == (
        "Round 10: 0.3100 to 0.3200, median 0.3150. +0.0500 since round 5. "
        "Best 0.2150 in round 4; no improvement for 6 rounds."
    )


def test_results_are_told_whole_or_with_why_there_are_none(browser: Browser, pages: dict[str, Path]) -> None:
    """Name, size, digest, time and the one command that fetches them; without results the reason in their place."""
    _open(browser, pages["finished"])
    stored = dashboard.finished().results
    assert stored is not None
    told = browser.js("[...document.querySelectorAll('#results dd')].map((e) => e.textContent)")
    assert told[0] == "20261122_130405.zip"
    assert told[1].startswith(stored.address)
    assert told[2:] == ["48.2 kB", stored.sha256, "22 Nov 2026, 13:04:04 UTC"]
    assert browser.js("document.querySelector('#results .command code').textContent") == (
        f"flip-fl results get {dashboard.MODEL_ID}"
    )
    _open(browser, pages["ragged"])
    told = browser.js("document.querySelector('#results').textContent")
    assert "Not uploaded: the bucket refused the upload (403)." in told
    assert "flip-fl results get" not in told


def test_a_long_activity_is_scrolled_to_its_end(browser: Browser, tmp_path: Path) -> None:
    """10,000 lines can all be reached, and each has a link of its own; rounds are marked on charts by steps."""
    story = dashboard.ragged()
    rows = [dashboard.feed(story.rounds)[k % 40].model_copy(update={"id": k + 1}) for k in range(10_000)]
    report.write_report(story.model_copy(update={"feed": rows}), tmp_path / "long.html")
    _open(browser, tmp_path / "long.html")
    more = "[...document.querySelectorAll('#activity button')].find((b) => b.textContent === 'Show more')"
    for _ in range(12):
        browser.js(f"{more}.hidden || {more}.click()")
    links = browser.js("[...document.querySelectorAll('#activity .feed li > a')].map((a) => a.getAttribute('href'))")
    assert len(set(links)) == 10_000
    browser.js("(() => { const f = document.querySelector('#activity .feed'); f.scrollTop = f.scrollHeight; })()")
    assert browser.js(
        "(() => { const f = document.querySelector('#activity .feed').getBoundingClientRect(),"
        " last = document.querySelector('#activity .feed li:last-child').getBoundingClientRect();"
        " return last.bottom <= f.bottom + 1 && last.top > f.top; })()"
    )
    assert browser.js("document.querySelectorAll('#plot-1 .rule.turn').length") == 9


def test_who_is_awaited_is_named(browser: Browser, pages: dict[str, Path]) -> None:
    """An open round says whom it waits for, and the cell is not called missed yet."""
    _open(browser, pages["running"])
    assert "Waiting for Trust_2 (1 of 2 in)" in browser.js("document.querySelector('.state').textContent")
    assert browser.js("document.querySelectorAll('.rounds .cell.awaited').length") == 1
    assert browser.js("document.querySelectorAll('.rounds .cell.missed').length") == 0


def test_a_silent_server_and_lost_reports_are_told(browser: Browser, pages: dict[str, Path]) -> None:
    """A page that looks alive says that nothing was heard, since when, what happens next, and what was lost."""
    _open(browser, pages["running"])
    line = browser.js("document.querySelector('.state .line').textContent")
    assert "round 2 of 5 – no news from the FL server since 13:03 UTC (5 min); unless it reports, the run ends" in line
    assert browser.js("document.querySelector('.state').classList.contains('warn')") is True
    assert "12 of Trust_1's reports" in browser.js("document.querySelector('#losses').textContent")


def test_models_are_compared_by_site(browser: Browser, pages: dict[str, Path]) -> None:
    """Every model stands beside the others on each site; the best is marked in words, not by colour alone."""
    _open(browser, pages["finished"])
    heads = _texts(browser, "#models thead tr:last-child th")
    assert heads == ["Scored on"] + ["Global model", "Trust_1 alone", "Trust_2 alone", "All data in one place"] * 3
    row = browser.js("[...document.querySelector('#models tbody tr').children].map((c) => c.textContent)")
    assert row[:5] == ["Trust_1", "0.0712", "0.0934", "0.1004", "0.0688 (best)"]
    assert row[5:9] == ["0.9737 (best)", "0.9649", "0.9561", "0.9737 (best)"]


def test_many_models_fold_into_own_and_others(browser: Browser, pages: dict[str, Path]) -> None:
    """With twenty sites a site's own model and the median of the others stay readable beside the global one."""
    _open(browser, pages["large"])
    heads = _texts(browser, "#models thead tr:last-child th")
    assert heads[:5] == [
        "Scored on",
        "Global model",
        "Own model",
        "Other sites’ models (median)",
        "All data in one place",
    ]
    rows = [r for r in dashboard.large().baselines if r.scored_on == "Trust_3"]
    losses = {r.model: r.metrics["loss"] or 0.0 for r in rows}
    others = statistics.median(v for m, v in losses.items() if m.endswith(" alone") and m != "Trust_3 alone")
    row = browser.js("[...document.querySelectorAll('#models tbody tr')[2].children].map((c) => c.textContent)")
    expected = [losses["global model"], losses["Trust_3 alone"], others]
    assert [cell.replace(" (best)", "") for cell in row[1:4]] == [f"{value:.4f}" for value in expected]


def test_names_that_every_object_has_are_only_names(browser: Browser, pages: dict[str, Path]) -> None:
    """A kind, a model or a metric called like a built-in of the language is shown as that word."""
    _open(browser, pages["hostile"])
    assert "native code" not in browser.js("document.body.textContent.replace(document.scripts[1].textContent, '')")
    assert "constructor" in " ".join(_texts(browser, ".feed li"))


def test_the_weakest_site_is_named(browser: Browser, pages: dict[str, Path]) -> None:
    """Averages hide hospitals: the page says who is worst, and by how much, in a chosen round."""
    _open(browser, pages["finished"])
    plot = dashboard.finished().plots[0]
    last = {one.slot: one.points[-1].y or 0.0 for one in plot.series}
    worst = max(last, key=lambda slot: last[slot])
    assert f"Weakest by loss: {worst} with {last[worst]:.4f}" in browser.js(
        "document.querySelector('#sites').textContent"
    )
    browser.js(
        "(() => { const r = document.querySelector('#sites input[type=range]'); r.value = 0;"
        " r.dispatchEvent(new Event('input')); })()"
    )
    first = max(one.points[0].y or 0.0 for one in plot.series)
    assert f"{first:.4f}" in browser.js("document.querySelector('#sites').textContent")


def _cells(browser: Browser, table: str) -> list[list[str]]:
    """The texts of a table, row by row, as they are seen."""
    found: list[list[str]] = browser.js(
        f"[...document.querySelectorAll('{table} tr')].map((r) => [...r.cells].filter((c) => !c.hidden)"
        ".map((c) => c.textContent.trim()))"
    )
    return found


def test_the_weighted_mean_stands_beside_the_median(browser: Browser, pages: dict[str, Path]) -> None:
    """By the examples that may be told, with n beside a site; over whom it is, where not all of them may."""
    _open(browser, pages["finished"])
    story = dashboard.finished()
    heads, first, *_ = _cells(browser, "#sites table")
    assert heads[2:] == ["Best*", "Median", "Weighted mean", "Worst*", "Gap"]
    count = {each.slot: each.examples for each in story.rounds[-1].updates}
    last = {one.slot: one.points[-1].y or 0.0 for one in story.plots[0].series}
    numbers = {slot: each for slot, each in count.items() if isinstance(each, int)}
    mean = sum(last[slot] * n for slot, n in numbers.items()) / sum(numbers.values())
    assert len(numbers) == 2
    assert first[4] == f"{mean:.4f}"
    worst = max(last, key=lambda slot: last[slot])
    assert first[5] == f"{last[worst]:.4f} {worst} n = {count[worst]}"
    _open(browser, pages["ragged"])
    told = _cells(browser, "#sites table")[1]
    assert "of 2 of 3 sites" in told[4]
    assert not any("GSTT n =" in cell for cell in told)


@pytest.mark.parametrize("width", [360, 1440])
def test_the_sites_updates_are_a_table_of_a_chosen_round(browser: Browser, pages: dict[str, Path], width: int) -> None:
    """The newest round first, others by keys; natural order; a small count reads as withheld, its share too."""
    _open(browser, pages["ragged"], width=width)
    story = dashboard.ragged()
    names = ["GSTT", "KCH", "University College London Hospitals"]
    heads, *rows = _cells(browser, "#differences table")
    assert heads[:5] == ["Site", "Examples", "Share of those told", "Update norm", "Cosine to the mean"]
    assert heads[5:] == ["Label benign", "Label malignant"]
    assert [row[0] for row in rows] == names
    assert rows[0][1:3] == ["withheld", "withheld"]
    counts = [each.examples for each in story.rounds[-1].updates if isinstance(each.examples, int)]
    assert [row[1] for row in rows[1:]] == [str(count) for count in counts]
    assert [row[2] for row in rows[1:]] == [f"{100 * count / sum(counts):.1f} %" for count in counts]
    assert [row[4] for row in rows] == [f"{each.cosine:.3f}" for each in story.rounds[-1].updates]
    assert rows[0][5:] == ["withheld", "withheld"]
    for row, update in zip(rows[1:], story.rounds[-1].updates[1:], strict=True):
        mix = [n for n in update.labels.values() if isinstance(n, int)]
        assert row[5:] == [f"{100 * n / sum(mix):.1f} % n = {n}" for n in mix]
    said = browser.js("document.querySelector('#differences .head').textContent")
    assert f"Farthest from the mean: {names[-1]}, cosine {rows[-1][4]}." in said
    assert "that of all sites alike" in browser.js("document.querySelector('#differences').textContent")
    browser.js("document.querySelector('#differences input').focus()")
    browser.page.keyboard.press("Home")
    assert _cells(browser, "#differences table")[-1][4] == f"{story.rounds[0].updates[-1].cosine:.3f}"
    assert browser.js("document.querySelector('#differences output').textContent") == "round 1"
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.errors == []


def test_of_labels_that_are_partly_told_no_share_is(browser: Browser, tmp_path: Path) -> None:
    """A number beside withheld ones is that number alone: a share would be of a whole that nobody told. A label that
    only another site has is a dash, and labels need no comparison of updates."""
    story = dashboard.finished()
    mixes = ({"benign": 120, "malignant": "withheld", "unclear": "withheld"}, {"benign": 90, "malignant": 30})
    names = ("Trust_1", "Trust_2")
    told = [SiteUpdate.model_validate({"slot": s, "labels": mix}) for s, mix in zip(names, mixes, strict=True)]
    last = story.rounds[-1].model_copy(update={"updates": told})
    path = tmp_path / "mix.html"
    report.write_report(story.model_copy(update={"rounds": [*story.rounds[:-1], last]}), path)
    _open(browser, path, width=360)
    assert _cells(browser, "#differences table") == [
        ["Site", "Label benign", "Label malignant", "Label unclear"],
        ["Trust_1", "120", "withheld", "withheld"],
        ["Trust_2", "75.0 % n = 90", "25.0 % n = 30", "–"],
    ]
    assert "beside a small number one more is withheld" in browser.js(
        "document.querySelector('#differences').innerText"
    )
    assert browser.js("document.documentElement.scrollWidth") <= 360


def test_a_long_reason_is_read_on_a_phone_without_scrolling(browser: Browser, tmp_path: Path) -> None:
    """At 360 px a status's reason has a line of its own below it: beside four columns it was a letter a line."""
    story = dashboard.failed()
    reason = "Trust_2: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 7.79 GiB total capacity)"
    last = story.history[-1].model_copy(update={"reason": reason})
    path = tmp_path / "reason.html"
    report.write_report(story.model_copy(update={"history": [*story.history[:-1], last]}), path)
    _open(browser, path, width=360)
    assert browser.js("(n => n.scrollWidth <= n.clientWidth)(document.querySelector('#history .scroll'))")
    assert browser.js("document.querySelector('#history tbody tr:last-child').offsetHeight") < 150
    assert browser.js("document.querySelector('#history tbody tr:last-child').innerText").endswith(reason)


def test_the_time_of_each_site_is_computing_sending_and_waiting(browser: Browser, pages: dict[str, Path]) -> None:
    """A bar a site, in one round or as the median: its parts add up to the round, and the slowest is named with how
    many times the median it took."""
    _open(browser, pages["large"])
    said = browser.js("document.querySelector('#times .head p').textContent")
    story = dashboard.large()
    usual = {c.slot: c.seconds for c in story.rounds[0].cells}
    assert re.fullmatch(r"Slowest: Trust_20, [\d.]+ s a round, 1\.\d times the median\.", said), said
    key = _texts(browser, "#times .key li")
    assert key == ["not asked yet", "computes", "model on its way, there and back", "waits for the others"]
    browser.js("document.querySelector('#times input').focus()")
    browser.page.keyboard.press("ArrowRight")
    assert browser.js("document.querySelector('#times output').textContent") == "round 1"
    rows = browser.js(
        "[...document.querySelectorAll('#times tbody tr')].map((r) => [r.querySelector('.site').textContent,"
        " r.querySelector('svg.bars').getAttribute('aria-label'), [...r.querySelectorAll('rect')].map((b) =>"
        " [b.getAttribute('class'), parseFloat(b.getAttribute('width'))])])"
    )
    assert [row[0] for row in rows] == sorted(usual, key=lambda slot: usual[slot] or 0, reverse=True)
    cells = {c.slot: c for c in story.rounds[0].cells}
    whole = 31.0 * 0.9
    for name, words, bars in rows:
        cell, parts = cells[name], dict(bars)
        assert cell.seconds is not None
        assert cell.worked is not None
        assert cell.computed is not None
        assert list(parts) == ["before", "worked", "sent", "after"]
        assert parts["worked"] == pytest.approx(100 * cell.computed / whole, abs=0.1)
        assert parts["sent"] == pytest.approx(100 * (cell.worked - cell.computed) / whole, abs=0.1)
        assert sum(parts.values()) == pytest.approx(100, abs=0.1)
        assert f"computed {round(cell.computed)} s" in words or f"computed {cell.computed:.1f} s" in words


def test_a_sites_clock_that_is_off_stands_at_its_row(browser: Browser, pages: dict[str, Path]) -> None:
    """Whose times are to be read with care is said where they are read and in the headline, and of nobody else."""
    _open(browser, pages["running"])
    rows = browser.js("[...document.querySelectorAll('#rounds tbody th')].map((e) => e.textContent)")
    assert ["clock 1 min 35 s behind" in text for text in rows] == [False, True]
    assert "Trust_2’s clock is at least 1 min 35 s behind the hub’s." in browser.js(
        "document.querySelector('#top').textContent"
    )


def test_without_counts_there_are_no_columns_of_them(browser: Browser, tmp_path: Path) -> None:
    """A server that tells none leaves no empty cells behind, and no mean that is weighted by nothing."""
    story = dashboard.finished()
    bare = [
        each.model_copy(update={"updates": [one.model_copy(update={"examples": None}) for one in each.updates]})
        for each in story.rounds
    ]
    report.write_report(story.model_copy(update={"rounds": bare}), tmp_path / "bare.html")
    _open(browser, tmp_path / "bare.html")
    heads = _cells(browser, "#differences table")[0]
    assert heads == ["Site", "Update norm", "Cosine to the mean", "Label benign", "Label malignant"]
    assert "Weighted mean" not in _cells(browser, "#sites table")[0]
    report.write_report(
        story.model_copy(update={"rounds": [each.model_copy(update={"updates": []}) for each in story.rounds]}),
        tmp_path / "none.html",
    )
    _open(browser, tmp_path / "none.html")
    assert browser.js("document.querySelector('#differences')") is None


def test_paper_gets_everything_in_light(browser: Browser, pages: dict[str, Path]) -> None:
    """Printed from the dark page: light colours, folded texts opened, charts at paper's width, afterwards as before."""
    _open(browser, pages["failed"], dark=True, width=1440)
    browser.js(
        "window.addEventListener('beforeprint', () => { window.printed ="
        " [document.querySelector('details').open, document.querySelector('figure svg').getAttribute('width')]; })"
    )
    pdf = browser.page.pdf(prefer_css_page_size=True)
    assert browser.js("window.printed") == [True, "340"]
    assert browser.js(
        "[document.querySelector('details').open, document.querySelector('figure svg').getAttribute('width')]"
    ) != [
        True,
        "340",
    ]
    fills = [
        zlib.decompress(m)
        for m in re.findall(rb"FlateDecode.*?stream\r?\n(.*?)endstream", pdf, re.DOTALL)
        if m[:1] == b"x"
    ]
    assert any(b" rg" in content for content in fills)
    # the dark page's ground, #0d1217, must not be painted anywhere
    assert not any(re.search(rb"\.0509\d* \.0705\d* \.0901\d* rg", content) for content in fills)


def test_paper_says_how_much_of_a_long_feed_it_shows(browser: Browser, pages: dict[str, Path]) -> None:
    """A run of 2,000 events prints its newest lines and their number, not fifty pages."""
    _open(browser, pages["large"])
    browser.js(
        "window.addEventListener('beforeprint',"
        " () => { window.feed = document.querySelector('#activity .head').textContent; })"
    )
    pdf = browser.page.pdf(prefer_css_page_size=True)
    assert f"newest 60 of {len(dashboard.large().feed)} lines" in browser.js("window.feed")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
    assert "newest 200 of" in browser.js("document.querySelector('#activity .head').textContent")


def test_a_traceback_stands_once(browser: Browser, tmp_path: Path) -> None:
    """The feed's line of a failure says what happened and leads to the full text among the failures."""
    story = dashboard.failed()
    row = story.feed[-2].model_copy(update={"text": dashboard.OOM_TRACEBACK})
    report.write_report(story.model_copy(update={"feed": [row]}), tmp_path / "a.html")
    _open(browser, tmp_path / "a.html")
    line = browser.js("document.querySelector('.feed li .text').textContent")
    assert line == f"Failure: {story.failures[0].headline} 12 lines"
    assert browser.js("document.querySelector('.feed li .text a').hash") == "#failure-0"


def test_a_long_series_keeps_its_spike_and_its_old_points(browser: Browser, tmp_path: Path) -> None:
    """Down-sampling says that it happened, never loses an extreme, and never re-picks old points when new ones come."""

    def points(count: int) -> list[Point]:
        return [Point(x=n, y=99.0 if n == 4711 else (n * 37 % 101) / 101, round=1 + n // 100) for n in range(count)]

    plot = Plot(label="loss", x_label="step", series=[Series(slot="Trust_1", name="Trust_1", points=points(10_000))])
    report.write_report(dashboard.finished().model_copy(update={"plots": [plot]}), tmp_path / "long.html")
    _open(browser, tmp_path / "long.html")
    assert re.search(r"showing \d+ of 10000 points", _texts(browser, "figure")[0])

    for name in ("1_dom.js", "2_format.js", "3_model.js"):
        browser.js((JS / name).read_text(encoding="utf-8") + "\n;undefined")
    chosen = {
        count: set(
            browser.js(f"sample({json.dumps([p.model_dump() for p in points(count)])}, {count}).map((p) => p.x)")
        )
        for count in (10_000, 10_007)
    }
    assert 4711 in chosen[10_000]
    assert len(chosen[10_000]) <= 2002
    # the last bucket is still open, so only its picks may change
    closed = 9_984
    assert {x for x in chosen[10_000] if x < closed} == {x for x in chosen[10_007] if x < closed}


def test_many_charts_cost_nothing_until_they_are_near(browser: Browser, tmp_path: Path) -> None:
    """Of forty charts only those near the view are drawn; paper gets them all."""
    story = dashboard.large(site_count=5, round_count=20, label_count=8)
    plots = [p.model_copy(update={"label": f"{p.label}_{k}"}) for k in range(5) for p in story.plots]
    report.write_report(story.model_copy(update={"plots": plots}), tmp_path / "many.html")
    _open(browser, tmp_path / "many.html")
    # the browser says which charts are near when it has laid out the page, some frames after the page is ready
    browser.wait("document.querySelectorAll('figure svg').length > 0")
    assert browser.js("document.querySelectorAll('figure svg').length") < 30
    browser.js(
        "window.addEventListener('beforeprint',"
        " () => { window.drawn = document.querySelectorAll('figure svg').length; })"
    )
    browser.page.pdf(prefer_css_page_size=True)
    assert browser.js("window.drawn") == 40


def test_many_points_are_drawn_some_thousand_at_a_time(browser: Browser, tmp_path: Path) -> None:
    """A chart of a hundred sites comes in pieces, so that who scrolls is answered in between; all of it comes."""
    points = [[Point(x=n, y=float((n * k) % 17), round=n) for n in range(300)] for k in range(1, 101)]
    series = [Series(slot=f"Trust_{k}", name=f"Trust_{k}", points=p) for k, p in enumerate(points, start=1)]
    plot = Plot(label="loss", x_label="step", series=series)
    report.write_report(dashboard.finished().model_copy(update={"plots": [plot]}), tmp_path / "wide.html")
    watch = (
        "window.most = 0; new MutationObserver((seen) => { for (const one of seen) { let points = 0;"
        " for (const g of one.addedNodes) for (const p of g.querySelectorAll?.('g.series path[d]') ?? [])"
        " points += p.getAttribute('d').split('L').length; window.most = Math.max(window.most, points); } })"
        ".observe(document, { childList: true, subtree: true });"
    )
    with browser.tab(watch) as tab:
        tab.open(tmp_path / "wide.html")
        tab.wait("document.querySelectorAll('#plot-0 g.series').length === 100")
        drawn = "[...document.querySelectorAll('#plot-0 g.series path:not(.leader)')]"
        assert tab.js(f"{drawn}.map((p) => p.getAttribute('d').split('L').length)") == [300] * 100
        assert 300 <= tab.js("window.most") <= 6000
        assert tab.js("document.querySelector('#plot-0 .note').textContent") == ""


def test_what_is_out_of_view_is_not_laid_out(browser: Browser, tmp_path: Path) -> None:
    """Charts and long tables below the view cost no layout; their room is kept: nothing moves when they come."""
    story = dashboard.large(site_count=20, round_count=20, label_count=8)
    plots = [p.model_copy(update={"label": f"{p.label}_{k}"}) for k in range(5) for p in story.plots]
    report.write_report(story.model_copy(update={"plots": plots}), tmp_path / "many.html")
    _open(browser, tmp_path / "many.html")
    browser.wait("document.querySelectorAll('figure svg').length > 0")
    seen = "((id) => document.querySelector(id).checkVisibility({ contentVisibilityAuto: true }))"
    assert [browser.js(f"{seen}('{part} ')") for part in ("#plot-0 svg", "#rounds table", "#sites table")] == [
        True,
        False,
        False,
    ]
    height = browser.js("document.documentElement.scrollHeight")
    browser.js("document.querySelector('#plot-39').scrollIntoView({ behavior: 'instant' })")
    browser.wait("document.querySelector('#plot-39 svg g.series')")
    for part in ("#rounds", "#sites"):
        browser.js(f"document.querySelector('{part}').scrollIntoView({{ behavior: 'instant' }})")
        browser.wait(f"{seen}('{part} table')")
    assert abs(browser.js("document.documentElement.scrollHeight") - height) < height / 20


def test_a_small_run_is_whole_in_a_picture_of_the_page(browser: Browser, pages: dict[str, Path]) -> None:
    """A picture of all of the page has no empty boxes in it: of a small run nothing waits to be scrolled to."""
    _open(browser, pages["finished"], width=360)
    parts = ("#plot-3 svg", ".strip circle", "#rounds table", "#sites table", "#times table")
    seen = "((id) => document.querySelector(id).checkVisibility({ contentVisibilityAuto: true }))"
    assert {part: browser.js(f"{seen}('{part}')") for part in parts} == dict.fromkeys(parts, True)


def test_a_hundred_names_stay_in_their_chart(browser: Browser, tmp_path: Path) -> None:
    """Where not every line's end can be named, the names that are shown lie inside the chart, none on another."""
    story = dashboard.large(site_count=100, round_count=10, label_count=1)
    report.write_report(story, tmp_path / "hundred.html")
    _open(browser, tmp_path / "hundred.html", width=1440)
    inside = browser.js(
        "(() => { const svg = document.querySelector('#plot-0 svg'), box = svg.getBoundingClientRect();"
        " const ys = [...svg.querySelectorAll('g.series text')].map((t) => t.getBoundingClientRect())"
        ".map((r) => [r.top - box.top, box.bottom - r.bottom]); return ys; })()"
    )
    assert 20 < len(inside) < 100
    assert all(top > -4 and bottom > -4 for top, bottom in inside)
    tops = sorted(top for top, _ in inside)
    assert all(b - a > 11 for a, b in itertools.pairwise(tops))


def test_without_a_script_the_page_stays_readable(browser: Browser, pages: dict[str, Path]) -> None:
    """A viewer that runs no script shows the run all the same, and nothing overflows."""
    running = browser.page.context.browser
    assert running is not None
    with running.new_context(java_script_enabled=False, viewport={"width": 360, "height": 900}) as context:
        page = context.new_page()
        page.goto(pages["failed"].as_uri())
        expect(page.locator(".wrap.static")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


NAMELESS = """[...document.querySelectorAll(
    'button, select, input, a[href], [role=slider], [role=img], [role=group], figure, section, nav')]
  .filter((e) => e.getClientRects().length)
  .filter((e) => !(e.getAttribute('aria-label') || e.labels?.[0]?.textContent.trim()
    || (e.matches('button, a') && e.textContent.trim())
    || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("name", dashboard.ALL)
def test_everything_that_can_be_used_has_a_name(browser: Browser, pages: dict[str, Path], name: str) -> None:
    """Controls, charts and sections are named, ids unique, headings without a jump, one h1 and one main."""
    _open(browser, pages[name])
    assert browser.js(NAMELESS) == []
    ids = browser.js("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    levels = [int(t[1]) for t in browser.js("[...document.querySelectorAll('h1, h2, h3')].map((e) => e.tagName)")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert browser.js("document.querySelectorAll('main').length") == 1


def axe_violations(browser: Browser) -> list[object]:
    """What axe-core, all its rules, finds wrong with the page that is shown; skips, visibly, where there is none."""
    axe = _axe()
    if axe is None:
        pytest.skip("LEFT OUT: axe-core: neither is axe-core-python installed nor does AXE_CORE_JS name an axe.min.js")
    browser.js(axe.read_text(encoding="utf-8") + "\n;undefined")
    rules = "axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]))"
    found: list[object] = browser.js(rules)
    return found


def _axe() -> Path | None:
    package = importlib.util.find_spec("axe_core_python")
    places = [Path(os.environ["AXE_CORE_JS"])] if "AXE_CORE_JS" in os.environ else []
    if package is not None and package.submodule_search_locations:
        places.append(Path(package.submodule_search_locations[0]) / "axe.min.js")
    return next((place for place in places if place.is_file()), None)


# Every story, both themes and both widths are looked at every day; each with each, and the largest story whole, which
# takes the checker a quarter of a minute, for the soak.
AXE_LOOKS = [
    pytest.param(False, 360, id="light-360"),
    pytest.param(True, 1440, id="dark-1440"),
    pytest.param(True, 360, id="dark-360", marks=pytest.mark.soak),
    pytest.param(False, 1440, id="light-1440", marks=pytest.mark.soak),
]
AXE_STORIES = [pytest.param(name, marks=[pytest.mark.soak] if name == "large" else []) for name in dashboard.ALL]
AXE_STORIES.append(pytest.param("twenty sites"))


@pytest.mark.parametrize(("dark", "width"), AXE_LOOKS)
@pytest.mark.parametrize("name", AXE_STORIES)
def test_axe_finds_nothing(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, dark: bool, width: int
) -> None:
    """The accessibility checker axe-core, all its rules, finds no violation, in both themes, on telephone and desk."""
    path = pages.get(name, tmp_path / "twenty.html")
    if name not in pages:
        report.write_report(dashboard.large(round_count=12, label_count=2), path)
    _open(browser, path, dark=dark, width=width)
    assert axe_violations(browser) == []


def test_a_broken_page_keeps_what_was_written_into_it(browser: Browser, tmp_path: Path) -> None:
    """If the inlined data cannot be read, the static run stays and nothing is blank."""
    path = tmp_path / "broken.html"
    html = report.render(dashboard.finished())
    data = html.split('data-encoding="gzip+base85">', 1)[1].split("</script>", 1)[0]
    path.write_text(html.replace(data, "AAAA"), encoding="utf-8")
    browser.open(path)
    assert browser.js("document.documentElement.dataset.ready") == "failed"
    assert "Finished - results ready" in browser.js("document.body.innerText")


def test_a_story_of_only_names_is_drawn(browser: Browser, tmp_path: Path) -> None:
    """A story that lacks everything optional still gives a page, for every status."""
    base = dashboard.empty()
    for status in type(base.status):
        story = Story(generated_at=base.generated_at, model=base.model, status=status)
        report.write_report(story, tmp_path / "bare.html")
        _open(browser, tmp_path / "bare.html")
        assert browser.errors == []
