"""The neutral form: the app's functions are called in the site's own process."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flip_fl.aggregate.differences import difference
from flip_fl.app.calls import Made
from flip_fl.app.config import DIFF, AppConfig
from flip_fl.app.faults import AppError
from flip_fl.app.needs import fitting, model_call
from flip_fl.app.output import withheld
from flip_fl.app.parts import Parts, freeze, merged, parts_of
from flip_fl.app.proximal import proximal
from flip_fl.app.seeds import derived_seed, initial_seed, seed_everything
from flip_fl.app.session import Session
from flip_fl.app.site import Ledger, Site, SiteSpec
from flip_fl.app.tensors import Arrays, load_into, to_arrays
from flip_fl.values import JobType, Task

if TYPE_CHECKING:
    import torch

MODULES = {Task.TRAIN: "trainer", Task.VALIDATE: "trainer", Task.EVALUATE: "evaluator"}


def call_functions(spec: SiteSpec, arrays: Mapping[str, Any], session: Session, ledger: Ledger) -> Made:
    """Run the app's function for the task in this process. Raises whatever it raises, and ``AppError``."""
    with withheld(session.app_dir, active=not session.show_output) as output:
        try:
            return _call(spec, arrays, session, ledger, session.config)
        finally:
            session.tell_withheld(output.lines, spec, ledger)


def _call(spec: SiteSpec, arrays: Mapping[str, Any], session: Session, ledger: Ledger, config: AppConfig) -> Made:
    # Seeded twice: an import or get_model() that draws numbers must not shift those of the task.
    seed_everything(derived_seed(spec.seed, spec.slot, spec.round, spec.task.value))
    function = session.loader.function(MODULES[spec.task], spec.task.value)
    site = Site(
        spec,
        source=session.source,
        ledger=ledger,
        aborted=session.aborted,
        memory=session.memory,
        max_skipped=config.max_skipped,
        index=session.index,
        told=session.told,
        fetch=session.fetch,
        uploads=session.uploads,
    )
    model, parts = site_model(spec, arrays, session, config)
    model.to(site.device)
    seed_everything(derived_seed(spec.seed, spec.slot, spec.round, spec.task.value))
    trains = spec.task is Task.TRAIN
    with proximal(model, config.fedprox_mu if trains else None):
        returned = function(model, site, copy.deepcopy(dict(config.raw)))
    if not isinstance(returned, Mapping):
        raise AppError(
            f"{spec.task.value}() returned {type(returned).__name__}; it must return a dict of num_examples and numbers"
        )
    sent = _sent(model, parts, arrays, spec, session, config) if trains else {}
    return Made(returned, sent, config.params_type)


def site_model(
    spec: SiteSpec, arrays: Mapping[str, Any], session: Session, config: AppConfig
) -> tuple[torch.nn.Module, Parts | None]:
    """The app's model with what the server has sent, and with what of it is the site's own. Raises ``AppError``.

    Parts is None where all of the model travels.
    """
    partly = config.aggregate_only_regex is not None or config.fedbn
    if partly:
        # What does not travel must be what the server started from.
        seed_everything(initial_seed(spec.seed))
    model = _built(spec, session, config)
    if not partly:
        load_into(model, arrays)
        return model, None
    base = to_arrays(model)
    parts = parts_of(model, config)
    unlike = sorted({*parts.travelling} ^ {*arrays})
    if unlike:
        raise AppError(f"the server and this site differ in which parameters travel: {', '.join(unlike[:3])}")
    own = session.local.read(session.local.key(spec))
    load_into(model, merged(merged(base, {name: own[name] for name in parts.local if name in own}), arrays))
    freeze(model, parts)
    return model, parts


def _built(spec: SiteSpec, session: Session, config: AppConfig) -> torch.nn.Module:
    part = spec.model if config.job_type is JobType.EVALUATION else spec.stage
    if config.job_type is JobType.EVALUATION and part not in config.models:
        raise AppError("the server asks for a model that this site's config.json does not name in models")
    function, arguments = model_call(config, part)
    build = session.loader.function("models", function)
    model: torch.nn.Module = build(*fitting(build, arguments))
    return model


def _sent(
    model: torch.nn.Module,
    parts: Parts | None,
    received: Mapping[str, Any],
    spec: SiteSpec,
    session: Session,
    config: AppConfig,
) -> Arrays:
    """What of the trained model goes back; what is the site's own is kept here."""
    trained = kept_apart(to_arrays(model), parts, spec, session)
    if config.params_type != DIFF:
        return trained
    if list(trained) != [name for name in trained if name in received]:
        return trained  # names that were not sent: the server says so
    return difference(received, trained)


def kept_apart(trained: Arrays, parts: Parts | None, spec: SiteSpec, session: Session) -> Arrays:
    """What of a ``trained`` model travels; what is the site's own is kept here."""
    if parts is None:
        return trained
    if parts.local:
        session.local.keep(session.local.key(spec), {name: trained[name] for name in parts.local})
    return {name: trained[name] for name in parts.travelling}
