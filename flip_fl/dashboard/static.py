"""The part of the report that needs no script: the run in plain, escaped HTML, with small drawings of the curves.

Mail previews and locked-down viewers run no script. Where one runs, the page replaces all of this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from flip_fl.dashboard import words
from flip_fl.dashboard.marks import number, section, table, text
from flip_fl.dashboard.privacy import privacy
from flip_fl.dashboard.story import BaselineRow, Failure, Plot, Series, Story
from flip_fl.values import ModelStatus, natural_key

NEWEST_ROWS = 40
MOST_BASELINES = 80
WIDTH, HEIGHT, LEFT, BOTTOM = 330, 130, 50, 18
HUES, DASHES = 8, ("", "7 3", "2 3")


def body(story: Story) -> str:
    """The whole run as HTML."""
    parts = [_state(story), _failures(story), _losses(story), _samples(story), _baselines(story)]
    parts += [privacy(story.privacy), _curves(story)]
    parts += [_differences(story), _rounds(story), _results(story)]
    return f'<main id="main" class="wrap static">{"".join(parts)}{_history(story)}{_activity(story)}</main>'


def _state(story: Story) -> str:
    done = sum(r.aggregated_at is not None for r in story.rounds)
    facts = [
        (
            "Models" if story.evaluates else "Rounds",
            f"{done} of {story.total_rounds}" if story.total_rounds else str(done),
        ),
        ("Sites", str(len(story.sites))),
        ("Failures", str(len(story.failures)) if story.failures else "none"),
        *story.model.facts.items(),
    ]
    cells = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts)
    notes = [story.model.description, f"Reason: {story.reason}" if story.reason else ""]
    return (
        f'<section class="card state {story.headline.tone}" aria-label="State of the run">'
        f'<div class="eyebrow"><h1>{text(story.model.name)}</h1><span>{text(story.model.project)}</span>'
        f'<code class="small">{text(story.model.id)}</code></div>'
        f'<div class="line"><p><b>{text(story.headline.text)}</b></p></div>'
        + "".join(f'<p class="more">{text(note)}</p>' for note in notes if note)
        + f'<p class="more">As of {_when(story.generated_at)}. All times are UTC.</p>'
        + f'<dl class="facts">{cells}</dl></section>'
    )


def _failures(story: Story) -> str:
    return section("Failures", "".join(_failure(f) for f in story.failures)) if story.failures else ""


def _failure(failure: Failure) -> str:
    about = [", ".join(failure.slots), f"round {failure.round}" if failure.round else "", failure.task or ""]
    return (
        f'<article class="failure"><h3>{text(failure.headline)}</h3>'
        f'<p class="meta"><span>{text(" · ".join(part for part in about if part))}</span>{_when(failure.at)}</p>'
        f"<details><summary>Full text</summary><pre>{text(failure.detail)}</pre></details></article>"
    )


def _losses(story: Story) -> str:
    lines = "".join(f"<li>{_when(loss.at)} {text(loss.text)}</li>" for loss in story.losses)
    return section("Lost reports", f"<ul>{lines}</ul>") if lines else ""


def _samples(story: Story) -> str:
    samples = story.samples
    if samples is None:
        return ""
    if not samples.pictures:
        return section(words.PICTURES, f'<p class="empty">{text(samples.problem or "There are none.")}</p>')
    size = f'width="{samples.width}" height="{samples.height}"'
    count = len(samples.pictures)
    items = "".join(
        f'<li><img src="{text(picture)}" alt="Picture {number} of {count}" {size}></li>'
        for number, picture in enumerate(samples.pictures, start=1)
    )
    return section(words.PICTURES, f'<p class="soft">{count} {words.PICTURES_NOTE}</p><ul class="made">{items}</ul>')


def _baselines(story: Story) -> str:
    if not story.baselines:
        return ""
    metrics = list(dict.fromkeys(name for row in story.baselines for name in row.metrics))
    shown = sorted(story.baselines, key=lambda row: natural_key(row.scored_on))
    if len(shown) > MOST_BASELINES:
        # every site's model on every other site's patients is a square: only the diagonal is readable as a list
        shown = [row for row in shown if row.model in (f"{row.scored_on} alone", row.scored_on) or not _is_alone(row)]
    rows = [
        [text(row.scored_on), text(row.model), *(number(row.metrics.get(m)) for m in metrics)]
        for row in shown[:MOST_BASELINES]
    ]
    rest = len(story.baselines) - len(rows)
    more = f'<p class="soft">{rest} more scores are shown where scripts may run.</p>' if rest else ""
    drawn = table(["Scored on", "Model", *map(text, metrics)], rows, numbers_from=2)
    return section("Models compared", drawn + more)


def _is_alone(row: BaselineRow) -> bool:
    return row.model.endswith(" alone")


def _curves(story: Story) -> str:
    if not story.plots:
        return section("Curves", '<p class="empty">No metric has arrived.</p>')
    slots = sorted({one.slot for plot in story.plots for one in plot.series}, key=natural_key)
    names = {one.slot: one.name for plot in story.plots for one in plot.series}
    marks = {slot: _identity(slot, index) for index, slot in enumerate(slots)}
    rows = []
    for slot in slots:
        hue, dash = marks[slot]
        key = f'<svg class="swatch c{hue}" viewBox="0 0 18 8"><line x2="18" y1="4" y2="4"{_dash(dash)}/></svg>'
        rows.append([f'<span class="site">{key}<span>{text(names[slot])}</span></span>'])
        rows[-1] += [number(_last(plot, slot)) for plot in story.plots]
    drawn = table(["Last value", *(text(plot.label) for plot in story.plots)], rows, numbers_from=1)
    figures = "".join(_figure(plot, marks) for plot in story.plots)
    return section("Curves", f'<div class="scroll">{drawn}</div><div class="charts" data-cols="3">{figures}</div>')


def _figure(plot: Plot, marks: dict[str, tuple[int, str]]) -> str:
    points = [(p.x, p.y) for one in plot.series for p in one.points if p.y is not None]
    title = plot.label if plot.x_label == "Global Rounds" else f"{plot.label} by {plot.x_label}"
    caption = f"<figcaption><h3>{text(title)}</h3></figcaption>"
    if not points:
        return f'<figure class="chart">{caption}<p class="empty">No finite value arrived.</p></figure>'
    x0, x1 = _range([x for x, _ in points])
    y0, y1 = _range([y for _, y in points])

    def place(x: float, y: float) -> tuple[int, int]:
        right, top = WIDTH - 6, 6
        across = LEFT + (x - x0) / (x1 - x0) * (right - LEFT)
        return round(across), round(HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - BOTTOM - top))

    rounds = {p.round for one in plot.series for p in one.points}
    lines = []
    for one in plot.series:
        hue, dash = marks[one.slot]
        path = "".join(_path([place(x, y) for x, y in run]) for run in runs(one, rounds))
        lines.append(f'<g class="series c{hue}"><path d="{path}"{_dash(dash)}/></g>')
    base = HEIGHT - BOTTOM
    ticks = (
        f'<text x="{LEFT - 6}" y="{base}" text-anchor="end">{y0:.3g}</text>'
        f'<text x="{LEFT - 6}" y="14" text-anchor="end">{y1:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 3}">{x0:g}</text>'
        f'<text x="{WIDTH - 6}" y="{HEIGHT - 3}" text-anchor="end">{x1:g}</text>'
        f'<path class="axis" fill="none" d="M{LEFT} 6V{base}H{WIDTH - 6}"/>'
    )
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">{ticks}{"".join(lines)}</svg>'
    return f'<figure class="chart">{caption}{svg}</figure>'


def runs(series: Series, rounds: Iterable[int]) -> list[list[tuple[float, float]]]:
    """``series`` cut at refused values and where a round that others have is missing."""
    others, out, run = sorted(rounds), [], list[tuple[float, float]]()
    before: int | None = None
    for point in series.points:
        skipped = before is not None and any(before < r < point.round for r in others)
        if (skipped or point.y is None) and run:
            out.append(run)
            run = []
        if point.y is not None:
            run.append((point.x, point.y))
        before = point.round
    return [*out, run] if run else out


def _differences(story: Story) -> str:
    compared = [each for each in story.rounds if each.updates]
    if not compared:
        return ""
    names = {site.slot: site.code or site.trust for site in story.sites}
    newest = max(compared, key=lambda each: each.number)
    total = sum(one.examples for one in newest.updates if isinstance(one.examples, int))
    rows = [
        [
            text(names.get(one.slot, one.slot)),
            text("\u2013" if one.examples is None else one.examples),
            number(one.examples / total) if isinstance(one.examples, int) and total else text(one.examples or "\u2013"),
            number(one.norm),
            number(one.cosine),
        ]
        for one in newest.updates
    ]
    if any(one.labels for one in newest.updates):
        for row, one in zip(rows, newest.updates, strict=True):
            row.append(text(", ".join(f"{label} {count}" for label, count in one.labels.items()) or "\u2013"))
    mean = "mean of all sites alike" if newest.mean == "plain" else "weighted mean"
    heads = ["Site", "Examples", "Share of those told", "Update norm", f"Cosine to the {mean}"]
    if rows and len(rows[0]) > len(heads):
        heads.append("Labels")
    drawn = table(heads, rows, numbers_from=1)
    return section(f"Differences between sites, round {newest.number}", drawn)


def _rounds(story: Story) -> str:
    if not story.rounds:
        return ""
    slots = sorted({cell.slot for r in story.rounds for cell in r.cells}, key=natural_key)
    rows = []
    for slot in slots:
        states = [(r.number, cell.state) for r in story.rounds for cell in r.cells if cell.slot == slot]
        row = [text(slot)]
        for state in words.CELL_WORDS:
            where = [n for n, s in states if s == state]
            row.append(f"{len(where)}" if state == "returned" else text(ranges(where)))
        rows.append(row)
    heads = ["Site", *(w if s == "returned" else f"{w} in round" for s, w in words.CELL_WORDS.items())]
    stages: dict[str, list[int]] = {}
    for each in story.rounds:
        if each.stage:
            stages.setdefault(each.stage, []).append(each.number)
    told = "; ".join(f"{text(stage)}: round {ranges(numbers)}" for stage, numbers in stages.items())
    return section("Rounds", (f'<p class="soft">Stages: {told}.</p>' if told else "") + table(heads, rows))


def _results(story: Story) -> str:
    stored = story.results
    if stored is None:
        return ""
    size = "" if stored.size_bytes is None else f"<dt>Size</dt><dd>{stored.size_bytes:,} bytes</dd>"
    digest = "" if stored.sha256 is None else f"<dt>SHA-256</dt><dd><code>{text(stored.sha256)}</code></dd>"
    where = f"<dt>Address</dt><dd><code>{text(stored.address)}</code></dd>"
    return section("Results", f'<dl class="pairs">{where}{size}{digest}<dt>Stored</dt><dd>{_when(stored.at)}</dd></dl>')


def _history(story: Story) -> str:
    rows = [
        [
            _when(t.at),
            text(_status_word(story, t.status)) + ("" if t.applied else " (ignored: it came too late)"),
            text(t.by),
            text(t.reason or ""),
        ]
        for t in story.history
    ]
    return section("Status history", table(["Time", "State", "By", "Remark"], rows)) if rows else ""


def _status_word(story: Story, status: ModelStatus) -> str:
    return "Evaluating" if status is ModelStatus.RUNNING and story.evaluates else words.status_word(status)


def _activity(story: Story) -> str:
    newest = sorted(story.feed, key=lambda row: (row.at, row.id), reverse=True)
    if not newest:
        return ""
    rows = [
        [_when(row.at), text(words.KINDS.get(row.kind, row.kind)), text(row.slot or ""), text(row.text)]
        for row in newest[:NEWEST_ROWS]
    ]
    rest = len(newest) - len(rows)
    more = f'<p class="soft">{rest} older lines are shown where scripts may run.</p>' if rest else ""
    return section("Activity", table(["Time", "Kind", "Site", "Text"], rows) + more)


def _identity(slot: str, index: int) -> tuple[int, str]:
    trailing = re.search(r"(\d{1,6})$", slot)
    which = (int(trailing[1]) - 1 if trailing else index) % (HUES * len(DASHES))
    return which % HUES, DASHES[which // HUES]


def _dash(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _path(points: list[tuple[int, int]]) -> str:
    (x, y), rest = points[0], points[1:]
    steps: list[tuple[int, int]] = []
    for a, b in rest:
        step, last = (a - x, b - y), steps[-1] if steps else None
        # what goes on straight is one step, which draws the same
        if last is not None and last[0] * step[1] == last[1] * step[0] and min(last[0], step[0]) > 0:
            steps[-1] = (last[0] + step[0], last[1] + step[1])
        else:
            steps.append(step)
        x, y = a, b
    # relative steps are half as long as coordinates: the drawings of a large run stay small
    texts = [f"{across}{'' if down < 0 else ' '}{down}" for across, down in steps or [(0, 0)]]
    path = "".join(text if k == 0 or text.startswith("-") else f" {text}" for k, text in enumerate(texts))
    return f"M{points[0][0]} {points[0][1]}l{path}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _last(plot: Plot, slot: str) -> float | None:
    for one in plot.series:
        if one.slot == slot:
            return next((p.y for p in reversed(one.points) if p.y is not None), None)
    return None


def ranges(numbers: Sequence[int]) -> str:
    """``[4, 5, 6, 9]`` as ``4–6, 9``."""
    out: list[tuple[int, int]] = []
    for n in sorted(numbers):
        if out and n == out[-1][1] + 1:
            out[-1] = (out[-1][0], n)
        else:
            out.append((n, n))
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in out)


def _when(at: datetime) -> str:
    return f'<time class="nowrap" datetime="{at.isoformat()}">{at.day} {at:%b %Y, %H:%M:%S}</time>'
