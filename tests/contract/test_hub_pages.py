"""The hub's pages and the lists that they show, as a browser without eyes gets them."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest
import requests

from flip_fl.dashboard import assets
from flip_fl.hub import admin
from tests.support.hub import RunningHub, item

MOST_BYTES = 150_000


def _page(hub: RunningHub, path: str) -> requests.Response:
    return hub.call("GET", f"/../{path}")


PAGES = ["", "trusts", "compare", "models/{id}"]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_nothing_from_elsewhere_and_no_inline_code(hub: RunningHub, path: str) -> None:
    """The policy forbids inline code and other hosts, and the page obeys it; its addresses work below any prefix."""
    page = _page(hub, path.format(id=hub.world.model_id))
    assert page.status_code == 200
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", page.text)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert addresses
    assert [a for a in addresses if re.match(r"^(?:[a-z]+:)?//|^/", a)] == []
    assert page.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_weighs_little_before_its_data(hub: RunningHub, path: str) -> None:
    """Page, style and script together stay below 150 KB uncompressed, in three requests; files never change."""
    page = _page(hub, path.format(id=hub.world.model_id))
    files = re.findall(r'(?:src|href)="(?:\.\./)?(assets/[^"]+)"', page.text)
    assert len(files) == 2
    answers = [requests.get(hub.base.removesuffix("api") + name, timeout=30) for name in files]
    assert all("immutable" in answer.headers["Cache-Control"] for answer in answers)
    assert all(answer.headers["Content-Encoding"] == "gzip" for answer in answers)
    assert len(page.content) + sum(len(answer.content) for answer in answers) <= MOST_BYTES
    assert {answer.headers["Content-Type"].split(";")[0] for answer in answers} == {"text/css", "text/javascript"}
    assert requests.get(hub.base.removesuffix("api") + "assets/app.0.js", timeout=30).status_code == 404


def test_a_browser_that_asks_for_an_icon_gets_one(hub: RunningHub) -> None:
    """JSON opened in a tab names none: browsers then ask at the root, and the hub logged a 404 for each."""
    answer = requests.get(hub.base.removesuffix("api") + "favicon.ico", timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/svg+xml"
    assert answer.text.startswith("<svg")


def test_no_script_makes_markup_of_text() -> None:
    """The pages' scripts know no way from a string to markup or code."""
    for script in (assets.run_script(), assets.lists_script(), assets.worker_script()):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)


def test_a_run_that_is_not_there_is_said_with_cause_and_next_step(hub: RunningHub) -> None:
    """404 for an unknown address and for half of one, 410 for a deleted run: text, cause, a way on."""
    for address in (f"models/{uuid4()}", "models/123"):
        page = _page(hub, address)
        assert page.status_code == 404
        assert "No such run" in page.text
        assert 'href="../"' in page.text
    assert hub.model("DELETE").status_code == 204
    page = _page(hub, f"models/{hub.world.model_id}")
    assert page.status_code == 410
    assert "lesions was deleted" in page.text


def test_a_name_is_text_in_the_page(hub: RunningHub) -> None:
    """Markup in a run's name stays a name."""
    with admin.open_session(hub.world.url) as session:
        model = admin.create_model(session, "Stroke", "</title><script>x</script>", "", trusts=[])
    page = _page(hub, f"models/{model.id}")
    assert page.text.count("<script") == 1


def test_runs_are_listed_newest_first_with_their_state_in_words(hub: RunningHub) -> None:
    """State, round, sites and times of a run; the words are those of the page."""
    hub.batch(
        *(item("status", status=status, seconds=k) for k, status in enumerate(("INITIATED", "PREPARED", "RUNNING"))),
        item("event", event_type="ROUND_STARTED", global_round=3, details={"total_rounds": 9}, seconds=4),
    )
    with admin.open_session(hub.world.url) as session:
        admin.create_model(session, "Stroke", "a draft", "", trusts=[])
    found = hub.call("GET", "/runs").json()
    assert [(run["name"], run["headline"]["text"]) for run in found["runs"]] == [
        ("a draft", "Draft"),
        ("lesions", "Training, round 3 of 9"),
    ]
    run = found["runs"][1]
    assert (run["round"], run["total_rounds"], run["sites"], run["project"]) == (3, 9, 2, "Stroke")
    assert (found["more"], found["projects"]) == (False, ["Stroke"])


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("state=draft", ["100% done_", "lesions"]),
        ("state=live", []),
        ("text=LESION", ["lesions"]),
        ("text=0%25", ["100% done_"]),
        ("text=%25", ["100% done_"]),
        ("text=_", ["100% done_"]),
        ("project=Stroke", ["lesions"]),
        ("project=Other", ["100% done_"]),
        ("trust=Trust_1", ["lesions"]),
        ("trust=GSTT", ["lesions"]),
        ("trust=nobody", []),
        ("count=1", ["100% done_"]),
    ],
)
def test_the_list_is_filtered(hub: RunningHub, query: str, names: list[str]) -> None:
    """Each filter does what it says, and a text is searched for as it is written."""
    with admin.open_session(hub.world.url) as session:
        admin.create_project(session, "Other")
        admin.create_model(session, "Other", "100% done_", "", trusts=[])
    assert [run["name"] for run in hub.call("GET", f"/runs?{query}").json()["runs"]] == names


def test_the_list_is_read_page_by_page(hub: RunningHub) -> None:
    """Older runs are asked for by the last one that is known; each comes once."""
    with admin.open_session(hub.world.url) as session:
        for number in range(5):
            admin.create_model(session, "Stroke", f"run {number}", "", trusts=[])
    names: list[str] = []
    before = ""
    while True:
        found = hub.call("GET", f"/runs?count=2{before}").json()
        names += [run["name"] for run in found["runs"]]
        before = f"&before={found['runs'][-1]['id']}"
        if not found["more"]:
            break
    assert names == ["run 4", "run 3", "run 2", "run 1", "run 0", "lesions"]


def test_slots_tell_who_holds_them_and_when_he_was_seen(hub: RunningHub) -> None:
    """In the order of their numbers: held, seen and at work, held only, and free."""
    hub.batch(
        item("status", status="RUNNING"),
        item("event", event_type="CLIENT_RESULT_RECEIVED", client="Trust_1", global_round=1, details={}),
    )
    slots = hub.call("GET", "/sites").json()["slots"]
    told = [(slot["slot"], slot["code"], slot["seen_at"] is not None, slot["live_runs"]) for slot in slots]
    assert told == [
        ("Trust_1", "GSTT", True, 1),
        ("Trust_2", "KCH", False, 1),
        ("Trust_3", "OUT", False, 0),
        ("Trust_4", None, False, 0),
    ]
