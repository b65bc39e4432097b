"""What a run has to show for itself at the end: its measurements, its baselines, where everything lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flip_fl.commands.answers import Baseline, Measurement, PrivatePoint, RunAnswer, Skipped
from flip_fl.commands.table import number, table
from flip_fl.errors import printable
from flip_fl.values import DEFAULT_X_LABEL, SKIPPING, natural_key

if TYPE_CHECKING:
    from flip_fl.dashboard.story import Story
    from flip_fl.simulate.model import RunOutcome

# A table longer than a screen hides what came before it; the report has every round.
MAX_ROUNDS_SHOWN = 20


def answer(outcome: RunOutcome) -> RunAnswer:
    """The facts of a finished run, from its story."""
    story = outcome.story
    return RunAnswer(
        model_id=story.model.id,
        status=outcome.status.value,
        words=story.headline.text,
        reason=outcome.reason,
        folder=outcome.folder,
        report=outcome.report,
        results=outcome.results,
        sha256=story.results.sha256 if story.results else None,
        pictures=pictures(story),
        rounds=measurements(story),
        baselines=[Baseline(row.model, row.scored_on, dict(row.metrics)) for row in story.baselines],
        skipped=skipped(story),
        privacy=privacy(story),
    )


def privacy(story: Story) -> list[PrivatePoint]:
    """The points of the privacy curve, and the run itself beside them."""
    if story.privacy is None:
        return []
    points = [PrivatePoint(each.asked, each.spent, dict(each.metrics), each.problem) for each in story.privacy.points]
    return [*points, PrivatePoint(None, None, dict(story.privacy.without))]


def skipped(story: Story) -> list[Skipped]:
    """What each site has skipped, as it said it last."""
    names = {site.slot: site.trust for site in story.sites}
    last = {row.slot: row.text for row in story.feed if row.slot is not None and SKIPPING.match(row.text)}
    return [Skipped(slot, names.get(slot, slot), last[slot]) for slot in sorted(last, key=natural_key)]


def pictures(story: Story) -> str | None:
    """What came of the app's ``generate``; None where it has none, or the run did not get that far."""
    if story.samples is None:
        return None
    return story.samples.problem or f"{len(story.samples.pictures)} made by the uploaded model, in the report"


def measurements(story: Story) -> list[Measurement]:
    """One row a site and round: the plots over rounds, turned. Plots over another axis are in the report only.

    In an evaluation each round is a model, and its name is no part of the labels.
    """
    models = {each.number: each.stage for each in story.rounds} if story.evaluates else {}
    cells: dict[tuple[str, int], dict[str, float | None]] = {}
    names: dict[str, str] = {site.slot: site.trust for site in story.sites}
    for plot in story.plots:
        if plot.x_label != DEFAULT_X_LABEL:
            continue
        for series in plot.series:
            names.setdefault(series.slot, series.name)
            for point in series.points:
                label = plot.label.removeprefix(f"{models.get(point.round)}/")
                cells.setdefault((series.slot, point.round), {})[label] = point.y
    ordered = sorted(cells, key=lambda cell: (natural_key(cell[0]), cell[1]))
    return [
        Measurement(slot, names[slot], number_, cells[slot, number_], models.get(number_)) for slot, number_ in ordered
    ]


def text(told: RunAnswer) -> str:
    """The tables and the last lines, for people."""
    parts = [_rounds_table(told.rounds), _baselines_table(told.baselines), _privacy_table(told.privacy)]
    parts = [part for part in parts if part]
    last = [f"status   {printable(told.words)}", f"results  {printable(told.results or 'none')}"]
    if told.sha256:
        last.append(f"sha256   {printable(told.sha256)}")
    bundle = told.folder / "results" / f"{told.model_id}.zip"
    if bundle.is_file():
        # The object store of a simulated run ends with it: the copy that was fetched and checked is what stays.
        last.append(f"bundle   {bundle}")
    for each in told.skipped:
        last.append(f"skipped  {printable(each.slot)}: {printable(each.text)}")
    if told.pictures:
        last.append(f"pictures {printable(told.pictures)}")
    last.append(f"report   {told.report}")
    return "\n\n".join([*parts, "\n".join(last)])


def _rounds_table(rows: list[Measurement]) -> str:
    if not rows:
        return ""
    labels = _labels([row.metrics for row in rows])
    last = max(row.round for row in rows)
    shown = [row for row in rows if row.round > last - MAX_ROUNDS_SHOWN]
    body = [
        # A value that is there but was refused as not finite reads differently from one that never came.
        [row.slot, *([row.trust] if _named(rows) else []), row.model or str(row.round)]
        + [
            "nan" if label in row.metrics and row.metrics[label] is None else number(row.metrics.get(label))
            for label in labels
        ]
        for row in shown
    ]
    evaluated = any(row.model for row in rows)
    header = ["site", *(["trust"] if _named(rows) else []), "model" if evaluated else "round", *labels]
    first_number = len(header) - len(labels) - (0 if evaluated else 1)
    drawn = table(header, body, right=frozenset(range(first_number, len(header))))
    if len(shown) < len(rows):
        drawn += f"\n(the last {MAX_ROUNDS_SHOWN} of {last} rounds; all are in the report)"
    return drawn


def _baselines_table(rows: list[Baseline]) -> str:
    if not rows:
        return ""
    labels = _labels([{**row.metrics} for row in rows])
    body = [[row.model, row.scored_on, *(number(row.metrics.get(label)) for label in labels)] for row in rows]
    header = ["model", "scored on", *labels]
    return table(header, body, right=frozenset(range(2, len(header))))


def _privacy_table(rows: list[PrivatePoint]) -> str:
    """``rows``: as ``privacy`` gives them, the run without noise last."""
    if not rows:
        return ""
    from flip_fl.dashboard.privacy import NOT_FINITE

    labels = _labels([row.metrics for row in rows])
    body = [
        [
            "without noise" if row.asked is None else f"{row.asked:g}",
            number(row.spent),
            *(number(row.metrics.get(label)) for label in labels),
        ]
        for row in rows
    ]
    drawn = table(["epsilon", "spent", *labels], body, right=frozenset(range(1, len(labels) + 2)))
    *private, without = rows
    if any(without.metrics.keys() - row.metrics.keys() for row in private if row.problem is None):
        return f"{drawn}\n{NOT_FINITE}"
    return drawn


def _named(rows: list[Measurement]) -> bool:
    return any(row.trust != row.slot for row in rows)


def _labels(metrics: list[dict[str, float | None]]) -> list[str]:
    return sorted({label for row in metrics for label in row}, key=natural_key)
