"""What a finished run left in the object store, fetched back and checked against what was reported."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flip_fl.app.config import AppConfig
from flip_fl.app.forms import FormKind, form_of
from flip_fl.app.plan import final_stage
from flip_fl.dashboard.png import data_address
from flip_fl.dashboard.story import BaselineRow, Samples, Story
from flip_fl.errors import FlipError
from flip_fl.results.evaluation import NUM_EXAMPLES, SERVER_MODEL
from flip_fl.results.s3 import ResultsStore
from flip_fl.results.verify import generated, read_evaluation, reproduce, verify
from flip_fl.settings import ServerSettings
from flip_fl.values import DEFAULT_X_LABEL

PICTURES = 16
GLOBAL = "global model"
# The site's own process and this one may add floats in another order.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Checked:
    """Models scored on every site, what does not hold (None: all does), and what the stored model generates."""

    rows: list[BaselineRow]
    problem: str | None
    samples: Samples | None = None


def fetch_and_check(
    story: Story,
    settings: ServerSettings,
    target: Path,
    cohorts: Mapping[str, Path],
    images: Path | None,
    config: AppConfig,
) -> Checked:
    """Fetch the bundle to ``target``, load its model, score it on each site's cohort, compare with the hub's story.

    What is not neutral is only loaded.
    With FEDBN it is only loaded and run: what the sites scored has batch-norm layers that never left them.
    """
    try:
        if problem := _fetch(story, settings, target):
            return Checked([], problem)
        if form_of(config.app_dir).kind is not FormKind.NEUTRAL:
            verify(target)  # its validation runs in a job only
            return Checked([], None, drawn(target))
        # Checks every digest and loads the model strictly before it scores it: `verify` would do that twice.
        scores = reproduce(target, cohorts, images=images)
    except FlipError as error:
        return Checked([], error.sentence)
    samples = drawn(target)
    if config.fedbn:
        return Checked([], None, samples)
    rows = [BaselineRow(model=GLOBAL, scored_on=slot, metrics=dict(metrics)) for slot, metrics in scores.items()]
    return Checked(rows, difference(story, scores, validated_names(target), final_stage(config)), samples)


def drawn(bundle: Path) -> Samples | None:
    """Pictures that the bundle's model makes, where its app has a ``generate``. What goes wrong is said in it."""
    try:
        pixels = generated(bundle, PICTURES)
    except FlipError as error:
        return Samples(problem=error.what)
    if pixels is None:
        return None
    height, width = pixels.shape[1:3]
    return Samples(width=width, height=height, pictures=[data_address(picture) for picture in pixels])


def fetch_and_compare(story: Story, settings: ServerSettings, target: Path) -> Checked:
    """Fetch the bundle of an evaluation to ``target``; each score in it must be the one that the hub was told."""
    try:
        if problem := _fetch(story, settings, target):
            return Checked([], problem)
        results = read_evaluation(target)
    except FlipError as error:
        return Checked([], error.sentence)
    return Checked([], evaluation_difference(story, results))


def evaluation_difference(story: Story, results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str | None:
    """What the hub and the ``results`` (client → ``SRV_<model>`` → values) of an evaluation do not agree on."""
    told = {
        (series.slot, plot.label): [point.y for point in series.points if point.y is not None]
        for plot in story.plots
        if plot.x_label == DEFAULT_X_LABEL
        for series in plot.series
    }
    for slot, models in results.items():
        for model, values in models.items():
            for name, value in values.items():
                if name == NUM_EXAMPLES or not isinstance(value, int | float):
                    continue  # lists and dictionaries are in the file only
                label = f"{model.removeprefix(SERVER_MODEL)}/{name}"
                reported = told.get((slot, label), [])
                if not any(math.isclose(value, each, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for each in reported):
                    hub = f"{reported[-1]:.6f}" if reported else "nothing"
                    return f"the results say {label} {value:.6f} at {slot}, the hub was told {hub}"
    return None


def _fetch(story: Story, settings: ServerSettings, target: Path) -> str | None:
    """Why there is no bundle at ``target``; None when it was fetched. Raises ``FlipError``."""
    if story.results is None:
        return "the hub knows no results"
    stored = ResultsStore(settings).download(story.results.address, target)
    if story.results.sha256 not in (None, stored.sha256):
        return "the stored bundle is not the one that was sent: its digest differs"
    return None


def validated_names(bundle: Path) -> dict[str, frozenset[str]]:
    """The names that each site's last validation returned, as the bundle tells it: slot → names."""
    with zipfile.ZipFile(bundle) as archive:
        rounds = json.loads(archive.read("metrics.json")).get("validate") or {}
    last = rounds[max(rounds, key=int)] if rounds else {}
    return {slot: frozenset(metrics) for slot, metrics in last.items()}


def reported_scores(
    story: Story, names: Mapping[str, Collection[str]], stage: str | None = None
) -> dict[str, dict[str, list[float]]]:
    """What the hub was told in the last round (of ``stage``) under each site's ``names``: slot → label → values.

    Several where the app has logged one under the same name and coordinate, too.
    """
    last = story.rounds[-1].number if story.rounds else 0
    found: dict[str, dict[str, list[float]]] = {}
    for plot in story.plots:
        if plot.x_label != DEFAULT_X_LABEL:
            continue
        label = plot.label.removeprefix(f"{stage}/") if stage else plot.label
        for series in plot.series:
            for point in series.points:
                if point.round == last and point.y is not None and label in names.get(series.slot, ()):
                    found.setdefault(series.slot, {}).setdefault(label, []).append(point.y)
    return found


def difference(
    story: Story,
    scores: Mapping[str, Mapping[str, float]],
    names: Mapping[str, Collection[str]],
    stage: str | None = None,
) -> str | None:
    """What the reported scores and the stored model's do not agree on; a score that is missing is a difference.

    ``names``: what each site's last validation returned. What an app logs by itself is no score of the stored model.
    """
    reported = reported_scores(story, names, stage)
    if not reported:
        return "the hub has no validation score of the last round to compare the stored model with"
    for slot, metrics in reported.items():
        for label, values in metrics.items():
            stored = scores.get(slot, {}).get(label)
            if stored is None:
                return f"the stored model gives no {label} at {slot}, the hub was told {values[-1]:.6f}"
            if not any(math.isclose(stored, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for value in values):
                return f"the stored model scores {label} {stored:.6f} at {slot}, the hub was told {values[-1]:.6f}"
    return None
