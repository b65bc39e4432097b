"""The report as a file: safe, self-contained, small, readable without a script."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from flip_fl.dashboard import assets, report, static
from flip_fl.dashboard.story import Story
from tests.support import dashboard


class _Outline(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._raw = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("name", dashboard.ALL)
def test_the_page_carries_the_whole_story(name: str) -> None:
    """Nothing is rounded or left out on the way into the file."""
    story = dashboard.ALL[name]()
    assert Story.model_validate_json(dashboard.inlined(report.render(story))) == story


def test_rendering_is_a_pure_function() -> None:
    """The same story gives the same bytes, so that two reports can be compared."""
    assert report.render(dashboard.finished()) == report.render(dashboard.finished())


def test_the_sizes_hold() -> None:
    """At most 150 KB before the data, and 500 KB for 20 sites, 100 rounds and 8 metrics."""
    assert len(report.render(dashboard.empty()).encode()) <= 150_000
    large = dashboard.large()
    assert (len(large.sites), len(large.rounds), len(large.plots)) == (20, 100, 8)
    assert len(report.render(large).encode()) <= 500_000


def test_pictures_and_stages_are_read_without_a_script() -> None:
    """Mail previews run none: the pictures stand in the page itself, with their names, and rounds with their stages."""
    story = dashboard.staged()
    assert story.samples is not None
    page = _Outline(static.body(story))
    shown = [(each["src"], each["alt"]) for each in page.named("img")]
    assert shown == [(src, f"Picture {n} of 16") for n, src in enumerate(story.samples.pictures, start=1)]
    assert "16 pictures made by the uploaded model" in page.text
    assert "Stages: ae: round 1\u20133; dm: round 4\u20137." in page.text


def test_scores_against_epsilon_are_read_without_a_script() -> None:
    """A dot for each run that gave the score, a line through the mean of those with one ε, one level without noise; a
    run that failed says why, and a score that was no number what does that.
    """
    html = static.body(dashboard.private())
    page = _Outline(html)
    assert [each["aria-label"] for each in page.named("svg") if "epsilon" in str(each.get("aria-label"))] == [
        "auc against epsilon; without noise 0.996",
        "loss against epsilon; without noise 0.1",
    ]
    assert html.count("<circle") == 3 + 2
    assert html.count('<path class="rule"') == 2
    auc, loss = re.findall(r'<g class="series c0"><path d="(M[^"]*)"', html)[:2]
    assert (auc.count("L"), loss.count("L")) == (1, 0)
    assert "8 8 0.6 3 8 8 0.8 2 64 67.25 0.9 \u2013 4096 4213 \u2013 \u2013 without noise \u2013 0.996 0.1" in page.text
    assert "Epsilon 4096: Trust_1: <b>disk</b> full" in page.text
    assert "<b>disk" not in html
    assert "With FEDBN these statistics stay at the sites." in page.text


def test_how_the_sites_differ_is_read_without_a_script() -> None:
    """The newest round's table stands in the page itself; of a count that is withheld the share is, too."""
    text = _Outline(static.body(dashboard.ragged())).text
    assert "Differences between sites, round 10" in text
    assert "Cosine to the mean of all sites alike Labels GSTT withheld withheld" in text


def test_hostile_texts_stay_text() -> None:
    """No text of a site or a person becomes markup, an attribute, a template's slot or an address."""
    html = report.render(dashboard.hostile())
    page = _Outline(html)
    assert [dict(s) for s in page.named("script")] == [
        {"type": "application/octet-stream", "id": "story", "data-encoding": "gzip+base85"},
        {},
    ]
    assert not page.named("img")
    assert not page.named("iframe")
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert dashboard.CANARY not in html
    assert dashboard.CANARY in page.text
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert "\\x1b[31m" in page.text
    assert "{{style}}" in page.text


def test_nothing_is_fetched() -> None:
    """The file names no other host and no other file: it opens offline and in a locked-down viewer."""
    page = _Outline(report.render(dashboard.finished()))
    addresses = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href", "action")]
    assert addresses
    assert all(a and a.startswith(("data:image/svg+xml,", "#")) for a in addresses)
    assert "@import" not in assets.stylesheet()
    assert "url(" not in assets.stylesheet()
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|import)\s*\(", assets.script())


def test_the_policy_lets_in_this_script_and_style_alone() -> None:
    """The content security policy carries the digests of what stands in the page, and allows nothing else."""
    html = report.render(dashboard.finished())
    policy = next(a["content"] for a in _Outline(html).named("meta") if a.get("http-equiv"))
    assert policy is not None
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    code = html.rsplit("<script>", 1)[1].split("</script>", 1)[0]
    assert style is not None
    for directive, text in (("style-src", style[1]), ("script-src", code)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_no_text_is_ever_parsed_as_markup() -> None:
    """The renderer has no way to turn a string into elements or code."""
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", assets.script()
    )


def test_without_a_script_the_run_can_be_read() -> None:
    """State, scores, curves, rounds, failures and results stand in the file itself, in natural order."""
    finished = _Outline(report.render(dashboard.finished()))
    for words in ("Finished - results ready", "Trust_2", "0.9968", "s3://flip-results/", "3f9c21d0", "5 of 5"):
        assert words in finished.text
    assert len([s for s in finished.named("svg") if s.get("role") == "img"]) == 4
    failed = _Outline(report.render(dashboard.failed())).text
    assert "all 7 sites: RuntimeError: CUDA out of memory" in failed
    assert 'File "trainer.py", line 41, in train' in failed
    large = _Outline(static.body(dashboard.large())).text
    assert large.index("Trust_2 ") < large.index("Trust_10 ")
    assert "41–59" in large


def test_the_static_curves_break_where_nothing_was_measured() -> None:
    """A line drawn across a missed round or a refused value would show what nobody measured."""
    plot = dashboard.ragged().plots[0]
    rounds = {p.round for one in plot.series for p in one.points}
    cut = {one.slot: [[x for x, _ in run] for run in static.runs(one, rounds)] for one in plot.series}
    assert cut["Trust_10"] == [[1, 2, 3], [7], [9, 10]]
    assert cut["Trust_2"] == [[1, 2, 3, 4], [6, 7, 8, 9, 10]]
    assert cut["Trust_3"] == [list(range(1, 11))]


def test_a_metric_measured_every_third_round_has_no_gaps() -> None:
    """Only a round in which another site was measured counts as missed."""
    plot = dashboard.curve(["Trust_1", "Trust_2"], 9, "auc", lambda k, n: 0.5 if n % 3 == 0 else None)
    rounds = {p.round for one in plot.series for p in one.points}
    assert [len(static.runs(one, rounds)) for one in plot.series] == [1, 1]


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([4], "4"), ([4, 5, 6, 9], "4–6, 9"), ([9, 1, 2], "1–2, 9")])
def test_ranges(numbers: list[int], text: str) -> None:
    """Missed rounds are named briefly and completely."""
    assert static.ranges(numbers) == text


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A reader never sees half a page, the folder is made, and no temporary file stays."""
    path = tmp_path / "runs" / "demo" / "report.html"
    report.write_report(dashboard.empty(), path)
    report.write_report(dashboard.finished(), path)
    assert path.read_text(encoding="utf-8") == report.render(dashboard.finished())
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    blocked = tmp_path / "folder.html"
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match=r"folder\.html"):
        report.write_report(dashboard.finished(), blocked)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.html", "runs"]


def test_a_template_slot_without_a_text_is_an_error() -> None:
    """A forgotten slot is found at once, not as braces on the page."""
    with pytest.raises(KeyError):
        assets.page({"title": "only this"})


def _themes() -> dict[str, dict[str, str]]:
    sheet = assets.stylesheet()
    light = re.search(r":root *\{(.*?)\}", sheet, re.DOTALL)
    dark = re.search(r':root\[data-theme="dark"\] *\{(.*?)\}', sheet, re.DOTALL)
    assert light is not None
    assert dark is not None
    themes = {"light": light[1], "dark": dark[1]}
    return {name: dict(re.findall(r"--([\w-]+): *(#[0-9a-f]{6})", text)) for name, text in themes.items()}


def _contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_can_be_read(theme: str) -> None:
    """Text has a contrast of 4.5, lines and cells of 3, against whatever they stand on."""
    colours = _themes()[theme]
    pairs = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("bg", "card", "sunk")]
    pairs += [("faint", "card")] + [(f"s{n}", "card") for n in range(8)]
    pairs += [
        (tone, ground) for tone in ("good", "active", "warn", "bad", "quiet") for ground in ("card", f"{tone}-bg")
    ]
    poor = {pair: _contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}
    for shape in ("cell", "bad", "warn", "faint"):
        assert _contrast(colours[shape], colours["card"]) >= 3


# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB
_VISION = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
_TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]


def _seen(colour: str, vision: str) -> np.ndarray:
    """``colour`` in CIELAB, as an eye of this kind sees it."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(_TO_XYZ) @ np.clip(np.array(_VISION[vision]) @ linear, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", _VISION)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_eight_hues_differ_for_every_eye(theme: str, vision: str) -> None:
    """No two sites' colours are alike, for colour-blind readers either."""
    seen = [_seen(_themes()[theme][f"s{n}"], vision) for n in range(8)]
    nearest = min(float(np.linalg.norm(a - b)) for k, a in enumerate(seen) for b in seen[k + 1 :])
    assert nearest >= (35 if vision == "normal" else 15)
