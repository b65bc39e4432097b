"""The work of a run that trains: a strategy's rounds, stage by stage, checkpointed, and the delivery of its model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import Result, Strategy

from flip_fl.aggregate.best import BestModel
from flip_fl.app import weights
from flip_fl.app.checkpoints import find_checkpoint
from flip_fl.app.config import AppConfig
from flip_fl.app.plan import Stage
from flip_fl.app.secure import secure_site_problems
from flip_fl.app.settings_told import settings_told
from flip_fl.app.travel import travelling
from flip_fl.app.weights import StartingModel
from flip_fl.flower.compare import measure_of
from flip_fl.flower.handling import DirectHandling, Handling
from flip_fl.flower.host import Home, Host
from flip_fl.flower.phase import RoundFailed
from flip_fl.flower.quarantine import ReplyCheck
from flip_fl.flower.rounds import Rounds
from flip_fl.flower.run_config import RunFacts
from flip_fl.flower.secure_average import MaskedQuarantine, SecureAverage
from flip_fl.flower.strategy import EvaluateFn, ObservedStrategy
from flip_fl.reporting.local import LocalReporting
from flip_fl.reporting.session import Reporting


@dataclass(frozen=True)
class How:
    """What the caller of ``run`` gives on to the strategy and to the grid."""

    arrays: ArrayRecord | None = None
    train_config: ConfigRecord | None = None
    evaluate_config: ConfigRecord | None = None
    evaluate_fn: EvaluateFn | None = None
    check: ReplyCheck | None = None


def train(strategy: Strategy | Callable[[AppConfig], Strategy], host: Host, facts: RunFacts, how: How) -> Result:
    """Run ``strategy`` (or what it makes of the app's config) and deliver its model."""
    chosen = strategy if isinstance(strategy, Strategy) else strategy(facts.app)
    rounds, result = conduct(DirectHandling(chosen), host, facts, how)
    host.deliver(rounds.keep(), facts.app_dir, rounds.done)
    return result


def conduct(handling: Handling, host: Host, facts: RunFacts, how: How) -> tuple[Rounds, Result]:
    """Run the strategy: the rounds that are done, and what it returned."""
    lifecycle = host.reporting.lifecycle
    secure = facts.app.secure_aggregation
    if secure and not isinstance(handling.strategy, SecureAverage):
        raise RoundFailed(f"SECURE_AGGREGATION is flip_fl's own average: {handling.name} would need each site's update")
    rounds = _rounds(facts, host, handling, how)
    result = Result()
    resumed = rounds.resume()
    if resumed:
        lifecycle.resumed(rounds.done)
    else:
        lifecycle.initiated()
        lifecycle.configured(settings_told(facts.app.raw, "Flower", "flwr"))
        # Before the sites are waited for: an app that cannot be imported is told at once.
        if how.arrays is not None:
            rounds.record = how.arrays
        else:
            rounds.begin(facts.stages[0], _starting(facts, host.home))
    if unkept := rounds.state.unkept():
        text = f"a restart of this run would forget what the strategy holds in {', '.join(unkept)}"
        host.reporting.reporter.log(text, success=True)
    if rounds.done < rounds.total:
        sites = rounds.grid.await_sites()
        for error in secure_site_problems(facts.app, sites):
            raise error
        if problem := handling.unsatisfiable(len(sites)):
            raise RoundFailed(problem)
        rounds.expected = len(sites)
        lifecycle.prepared()
    for stage in facts.stages:
        if rounds.done >= stage.last:
            continue
        if stage.first > 1 and rounds.done == stage.first - 1:
            rounds.begin(stage, _next(facts, host.home, stage, rounds))
        else:
            rounds.stage = stage
        result = _train(handling, rounds, stage, facts, how)
    if rounds.best is not None and (unfound := rounds.best.unfound) is not None:
        host.reporting.reporter.log(unfound, success=False)
    if facts.app.cross_site_validation:
        _cross_validate(rounds, host.reporting)
    return rounds, result


def _train(handling: Handling, rounds: Rounds, stage: Stage, facts: RunFacts, how: How) -> Result:
    """The rounds of ``stage`` that are not done yet."""
    trainable = rounds.frame.trainable if rounds.frame is not None else frozenset(rounds.record)
    handling.begin_stage(trainable, anew=rounds.done == stage.first - 1)
    return ObservedStrategy(handling.strategy, rounds, offset=rounds.done).start(
        rounds.grid,
        rounds.record,
        num_rounds=stage.last - rounds.done,
        timeout=facts.phase_timeout_s,
        train_config=how.train_config,
        evaluate_config=how.evaluate_config,
        evaluate_fn=how.evaluate_fn,
    )


def _starting(facts: RunFacts, home: Home) -> StartingModel:
    """What the run starts from. Raises ``FlipError`` E0205, E0210."""
    checkpoint = None
    if facts.app.server_checkpoint is not None:
        checkpoint = find_checkpoint(facts.app.server_checkpoint, home.checkpoint_folders(facts.app_dir))
    return weights.starting_model(facts.app_dir, facts.stages[0].name, checkpoint=checkpoint, walls=home.walls)


def _next(facts: RunFacts, home: Home, stage: Stage, rounds: Rounds) -> StartingModel:
    """What a later stage starts from. Raises ``FlipError`` E0205."""
    return weights.starting_model(facts.app_dir, stage.name, previous=rounds.whole, walls=home.walls)


def _cross_validate(rounds: Rounds, reporting: Reporting | LocalReporting) -> None:
    if rounds.updates:
        rounds.cross_validate()
    else:
        text = "no cross-site validation: the sites' own models of the last round went with the server's process"
        reporting.reporter.log(text, success=False)


def _rounds(facts: RunFacts, host: Host, handling: Handling, how: How) -> Rounds:
    lifecycle = host.reporting.lifecycle
    if handling.noises or facts.app.secure_aggregation:
        # What hides the single site lets nobody know of one.
        lifecycle.counts = replace(lifecycle.counts, told=False)
    secure = facts.app.secure_aggregation
    check = MaskedQuarantine() if secure else how.check
    # Of masked updates nobody can tell how they differ.
    measure = None if secure else measure_of(handling, facts.app.aggregation_weights or None)
    return Rounds(
        grid=host.open_grid(facts, check=check, weighted_by=handling.weight_key),
        lifecycle=lifecycle,
        folder=host.home.folder,
        total=facts.num_rounds,
        state=handling.state,
        identity=identity(facts, handling.name, how.arrays),
        best=BestModel(facts.best_metric, facts.best_minimize) if facts.best_metric else None,
        keep_updates=facts.app.cross_site_validation,
        measure=measure,
    )


def identity(facts: RunFacts, strategy: str, arrays: ArrayRecord | None = None) -> str:
    """A digest of what makes two starts of one model the same job: code, sites, rounds, strategy, starting model."""
    digest = hashlib.sha256()
    for path in sorted(travelling(facts.app_dir)):
        content = (facts.app_dir / path).read_bytes()
        digest.update(f"{path.as_posix()}\0{len(content)}\0".encode() + content)
    told = (facts.num_rounds, facts.slots, facts.best_metric, facts.best_minimize, strategy)
    digest.update(repr(told).encode())
    for name, array in (arrays or {}).items():
        digest.update(name.encode() + array.data)
    return digest.hexdigest()
