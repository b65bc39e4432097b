"""What a run is worth under differential privacy, drawn: each score against the spent ε, and without noise beside it.

It is the same in the plain report and on the page: the page keeps the drawing as it stands here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from flip_fl.dashboard.marks import number, section, table, text
from flip_fl.dashboard.story import PrivacyCurve, PrivacyPoint
from flip_fl.values import natural_key

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 190, 50, 352, 8, 34
TITLE = "Scores against epsilon"
NOT_FINITE = (
    "A score that is missing was no finite number at some site: noise makes a batch-norm layer\u2019s running variance "
    "negative. With FEDBN these statistics stay at the sites."
)


def privacy(curve: PrivacyCurve | None) -> str:
    """The section; empty where no curve was asked for."""
    if curve is None:
        return ""
    metrics = sorted({*curve.without, *(name for point in curve.points for name in point.metrics)}, key=natural_key)
    figures = "".join(figure(curve, metric) for metric in metrics)
    rows = [_row(point, metrics) for point in curve.points]
    rows.append(["without noise", "–", *(number(curve.without.get(metric)) for metric in metrics)])
    drawn = table(["Epsilon asked for", "Spent", *map(text, metrics)], rows, numbers_from=1, label=TITLE)
    failed = "".join(
        f"<p>Epsilon {point.asked:g}: {text(point.problem)}</p>" for point in curve.points if point.problem
    )
    note = (
        f"The run again, whole, for each epsilon: each update clipped to the norm {curve.clipping_norm:.3g}, with "
        f"noise for that epsilon over all {curve.rounds} rounds, at delta {curve.delta:g}, where one site is replaced. "
        "Spent is what the sites\u2019 accounts say. Scores are means over the sites after the last round; each point "
        "is one draw of the noise. The norm and these scores were chosen and measured without privacy."
    )
    if any(curve.without.keys() - point.metrics.keys() for point in curve.points if point.problem is None):
        note += f" {NOT_FINITE}"
    inner = f'<p class="soft">{note}</p><div class="charts" data-cols="3">{figures}</div>{drawn}{failed}'
    return section(TITLE, inner, ident="privacy", more="static")


def figure(curve: PrivacyCurve, metric: str) -> str:
    """One metric: a dot for each run, a line through the means of those with one ε, a dashed one without noise."""
    name = f'<figure class="chart" aria-label="{text(metric)}"><figcaption><h3>{text(metric)}</h3></figcaption>'
    found = [(point.spent, point.metrics.get(metric)) for point in curve.points]
    dots = [(x, y) for x, y in found if x is not None and y is not None]
    if not dots:
        return f'{name}<p class="empty">No run gave one.</p></figure>'
    return f"{name}{drawing(dots, curve.without.get(metric), metric)}</figure>"


def drawing(dots: Sequence[tuple[float, float]], without: float | None, title: str) -> str:
    """The picture alone, ε along a logarithmic axis."""
    x0, x1 = _range([math.log10(x) for x, _ in dots])
    y0, y1 = _range([*(y for _, y in dots), *([] if without is None else [without])])

    def place(x: float, y: float) -> str:
        across = LEFT + 12 + (math.log10(x) - x0) / (x1 - x0) * (RIGHT - LEFT - 30)
        return f"{across:.0f} {down(y):.0f}"

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - BOTTOM - TOP)

    base = HEIGHT - BOTTOM
    path = "L".join(place(x, y) for x, y in means(dots))
    circles = "".join('<circle cx="{}" cy="{}" r="3"/>'.format(*place(x, y).split()) for x, y in dots)
    level = "" if without is None else f'<path class="rule" d="M{LEFT} {down(without):.0f}H{RIGHT}"/>'
    ticks = "".join(
        f'<text x="{place(x, y0).split()[0]}" y="{base + 14}" text-anchor="middle">{_short(x)}</text>'
        for x in _ticks(dots)
    )
    said = f"{title} against epsilon" + ("" if without is None else f"; without noise {without:.4g}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(said)}">'
        f'<text x="{LEFT - 6}" y="{base}" text-anchor="end">{y0:.3g}</text>'
        f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{y1:.3g}</text>{ticks}'
        f'<text x="{RIGHT}" y="{HEIGHT - 4}" text-anchor="end">spent epsilon; dashed: without noise</text>'
        f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{base}H{RIGHT}"/>{level}'
        f'<g class="series c0"><path d="M{path}"/>{circles}</g></svg>'
    )


def means(dots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The dots by rising ε, those with one ε as their mean."""
    by_epsilon: dict[float, list[float]] = {}
    for x, y in sorted(dots):
        by_epsilon.setdefault(float(f"{x:.6g}"), []).append(y)
    return [(x, fmean(ys)) for x, ys in by_epsilon.items()]


def _ticks(dots: Sequence[tuple[float, float]]) -> list[float]:
    """Where a number fits beside the last one."""
    xs = [x for x, _ in means(dots)]
    apart = 0.12 * (math.log10(xs[-1]) - math.log10(xs[0]))
    shown = xs[:1]
    for x in xs[1:]:
        if math.log10(x) - math.log10(shown[-1]) >= apart:
            shown.append(x)
    return shown


def _short(x: float) -> str:
    """Three digits that count, and never a power of ten: 67.2, 4,210."""
    return f"{x:.3g}" if x < 1000 else f"{float(f'{x:.3g}'):,.0f}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _row(point: PrivacyPoint, metrics: Sequence[str]) -> list[str]:
    scores: Mapping[str, float | None] = point.metrics
    return [f"{point.asked:g}", number(point.spent), *(number(scores.get(metric)) for metric in metrics)]
