"""What a run would be worth under differential privacy: the same run again, a whole one for each ε."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from flip_fl.app.config import AppConfig
from flip_fl.dashboard.story import PrivacyCurve, PrivacyPoint, Story
from flip_fl.errors import FlipError
from flip_fl.privacy.calibration import round_epsilon
from flip_fl.privacy.egress import EPSILON_METRIC
from flip_fl.privacy.policy import Filters, Gaussian, SitePolicy
from flip_fl.privacy.site_policy import check_installed
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.model import Progress, RunOptions, RunOutcome
from flip_fl.simulate.sites import Data
from flip_fl.values import DEFAULT_X_LABEL, ModelStatus

FOLDER = "privacy"
DELTA = 1e-5
NO_NORM = "the FL server told no norms of updates to clip by; --clipping-norm gives one"
_TRAINING = "train_"
# The run is a developer's own: there are no walls around it, and rules for metrics have no part in a curve.
_POLICY = """\
[isolation]
level = "none"

[filters.gaussian]
epsilon = {epsilon!r}
delta = {delta!r}
clipping_norm = {norm!r}

[egress]
require_declared = false
min_cohort = 0
"""


def check_curve(options: RunOptions, config: AppConfig) -> None:
    """Whether the runs of a curve can be had. Raises ``FlipError`` E0102, E0509."""
    if config.secure_aggregation and options.clipping_norm is None:
        problem = "--privacy-curve: with SECURE_AGGREGATION nobody knows the norm of a site's update"
        raise FlipError("E0102", problem=problem, usage="the run with --clipping-norm")
    if options.site_policy is not None:
        problem = "--privacy-curve: its runs have policies of their own, with a noise for each epsilon"
        raise FlipError("E0102", problem=problem, usage="the run without --site-policy")
    noise = Gaussian(epsilon=1.0, delta=DELTA, clipping_norm=1.0)
    check_installed(SitePolicy(filters=Filters(gaussian=noise)))


def write_policy(path: Path, epsilon: float, norm: float) -> Path:
    """A site's policy with so much noise each round, on updates of at most ``norm``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_POLICY.format(epsilon=float(epsilon), delta=DELTA, norm=float(norm)), encoding="utf-8")
    return path


def run_curve(
    options: RunOptions,
    story: Story,
    data: Data,
    folder: RunFolder,
    run: Callable[[RunOptions, Callable[[Progress], None]], RunOutcome],
    tell: Callable[[Progress], None],
) -> PrivacyCurve:
    """Run the app again for each ε of ``options.privacy_curve``, on the same data, at the same sites.

    ``story`` is of the run without noise. Each further run is whole, lies in a folder below the run's own, and has the
    Gaussian filter in its sites' policy; what it has spent is what its sites' accounts say.
    """
    norm = options.clipping_norm or usual_norm(story)
    if norm is None:
        points = [PrivacyPoint(asked=epsilon, problem=NO_NORM) for epsilon in options.privacy_curve]
        return PrivacyCurve(delta=DELTA, clipping_norm=0, rounds=0, without=last_scores(story), points=points)
    rounds = max((each.number for each in story.rounds), default=1)
    points = []
    for number, epsilon in enumerate(options.privacy_curve, start=1):
        place = folder.root / FOLDER / f"{number}-epsilon-{epsilon:g}"
        policy = write_policy(folder.state / FOLDER / f"{number}.toml", round_epsilon(epsilon, DELTA, rounds), norm)
        # Each a stage of its own: a display without a terminal tells changes.
        stage = f"privacy {number}/{len(options.privacy_curve)}"
        tell(Progress(stage, text=f"training again with epsilon {epsilon:g}"))
        again = replace(
            options,
            data=data.cohort,
            images=data.images,
            out=place,
            baselines=False,
            production=False,
            trust_database="sqlite",
            hub_fault=None,
            site_policy=policy,
            privacy_curve=(),
            clipping_norm=None,
        )
        points.append(_point(epsilon, run(again, lambda _: None), place.relative_to(folder.root)))
    return PrivacyCurve(delta=DELTA, clipping_norm=norm, rounds=rounds, without=last_scores(story), points=points)


def usual_norm(story: Story) -> float | None:
    """The median norm of the sites' updates: a clip at it leaves half of them as they are. None: none was told."""
    norms = [one.norm for each in story.rounds for one in each.updates if one.norm]
    return float(f"{median(norms):.3g}") if norms else None


def last_scores(story: Story) -> dict[str, float]:
    """The mean over the sites of what each measured in the last round, by name; what training itself said left out."""
    found = {}
    for plot in story.plots:
        name = plot.label.rpartition("/")[2]
        if plot.x_label != DEFAULT_X_LABEL or name == EPSILON_METRIC or name.startswith(_TRAINING):
            continue
        last = [each.points[-1].y for each in plot.series if each.points]
        values = [value for value in last if value is not None and math.isfinite(value)]
        if values and len(values) == len(last):
            found[plot.label] = fmean(values)
    return found


def spent(story: Story) -> float | None:
    """The largest ε that a site's account has at the end."""
    told = [
        each.points[-1].y
        for plot in story.plots
        if plot.label.rpartition("/")[2] == EPSILON_METRIC
        for each in plot.series
        if each.points
    ]
    return max((value for value in told if value is not None), default=None)


def problems(points: Sequence[PrivacyPoint]) -> str | None:
    """Why the curve lacks a point, in words."""
    failed = [point for point in points if point.problem is not None]
    if not failed:
        return None
    return f"the run with epsilon {failed[0].asked:g} failed: {failed[0].problem}"


def _point(asked: float, outcome: RunOutcome, place: Path) -> PrivacyPoint:
    succeeded = outcome.status is ModelStatus.RESULTS_UPLOADED
    return PrivacyPoint(
        asked=asked,
        spent=spent(outcome.story),
        metrics=last_scores(outcome.story) if succeeded else {},
        folder=place.as_posix(),
        problem=None if succeeded else outcome.reason or "no reason given",
    )
