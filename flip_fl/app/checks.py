"""Everything about an app that can be wrong before a run starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flip_fl.app.config import AppConfig, load_config
from flip_fl.app.forms import Form, FormKind, form_of
from flip_fl.app.needs import CONFIG, needs_of
from flip_fl.app.packages import SERVER_FILE
from flip_fl.app.secure import secure_problems, secure_site_problems
from flip_fl.app.spelling import nearest
from flip_fl.app.weights import Shapes, check_code
from flip_fl.errors import FlipError
from flip_fl.values import JobType, natural_key

CODE_FILES = ("trainer.py", "evaluator.py", "client_app.py")
SUPPORTED_JOB_TYPES = (JobType.STANDARD, JobType.FED_OPT, JobType.EVALUATION, JobType.DIFFUSION)
# Options by the job types that act on them; none named: all that train.
_ONLY_FOR: Mapping[str, tuple[JobType, ...]] = {
    "SERVER_OPTIMIZER": (JobType.FED_OPT,),
    "models": (JobType.EVALUATION,),
    "AGGREGATE_ONLY_REGEX": (),
    "SERVER_CHECKPOINT": (),
    "FEDPROX_MU": (),
    "FEDBN": (),
    "CROSS_SITE_VALIDATION": (),
}
# What only a ClientApp of ours does, and what only our server does.
_OF_OUR_LOOP = ("AGGREGATE_ONLY_REGEX", "FEDBN", "PARAMS_TYPE")
_OF_OUR_SERVER = ("SERVER_CHECKPOINT", "AGGREGATION_WEIGHTS", "SERVER_OPTIMIZER")
# A whole app of Flower's. Ran without it, the job would be another one than its author believes.
_UNREAD = {
    "server_app.py": (
        "the strategy in it would not be used",
        "move it out of the app; a strategy of your own runs in a copy of job_templates/flower/standard, with flwr run",
    ),
    "client_app.py": (
        "the training in it would not be done",
        "move its training into train() and validate() of trainer.py, and the file out of the app",
    ),
}


@dataclass(frozen=True)
class CheckedApp:
    """An app that can be started. ``parameters``: shape and dtype by name; ``notes``: what is worth knowing."""

    app_dir: Path
    config: AppConfig
    parameters: Shapes
    notes: tuple[str, ...] = ()


def check_app(
    app_dir: Path,
    slots: Sequence[str],
    *,
    federation: Sequence[str] | None = None,
    job_types: Sequence[JobType] = SUPPORTED_JOB_TYPES,
) -> CheckedApp:
    """Check files, config, weights, quorum, functions and model of the app, for a run at ``slots``.

    ``federation``: all kit slots that exist (default: those of the run). Raises the first ``FlipError`` of E0201,
    E0202, E0206, E0209 (files), E0301..E0304 (config), E0312 and E0303 (weights), E0505 and E0515 (sites),
    E0203..E0205 (code).
    """
    check_folder(app_dir)
    config = load_config(app_dir)
    known = federation if federation is not None else slots
    for problem in (*config_problems(form_of(app_dir), config, job_types), *run_problems(config, slots, known)):
        raise problem
    notes = tuple(_unused_weights(config, slots))
    return CheckedApp(app_dir=app_dir, config=config, parameters=check_code(app_dir), notes=notes)


def config_problems(
    form: Form, config: AppConfig, job_types: Sequence[JobType] = SUPPORTED_JOB_TYPES
) -> Iterator[FlipError]:
    """What in an app's files and config cannot be run, wherever it is run: E0202, E0206, E0209, E0303."""
    yield from _job_type_problems(config, job_types)
    yield from _file_problems(form, config.job_type)
    yield from _option_problems(config)
    yield from _script_problems(form, config)
    yield from _model_problems(config)
    yield from _metric_problems(config)
    yield from secure_problems(form, config)


def run_problems(config: AppConfig, slots: Sequence[str], federation: Sequence[str]) -> Iterator[FlipError]:
    """What does not fit a run at ``slots``: E0312, E0303 (weights), E0505 (quorum), E0515 (secure aggregation)."""
    yield from _weight_problems(config, slots, federation)
    yield from _quorum_problems(config, slots)
    yield from secure_site_problems(config, slots)


def check_folder(app_dir: Path) -> None:
    """Raises ``FlipError`` E0201 for a folder that holds nothing of an app."""
    if app_dir.is_dir() and any((app_dir / name).is_file() for name in (CONFIG, *CODE_FILES)):
        return
    hint = "it is not a folder" if app_dir.exists() and not app_dir.is_dir() else ""
    if not app_dir.exists():
        hint = "there is no such folder"
    suggestion = "give the folder that holds the app's config.json"
    raise FlipError("E0201", folder=app_dir, hint=hint, suggestion=suggestion)


def _job_type_problems(config: AppConfig, job_types: Sequence[JobType]) -> Iterator[FlipError]:
    if config.job_type in job_types:
        return
    known = ", ".join(job.value for job in job_types)
    yield FlipError(
        "E0303",
        where=config.place("job_type"),
        why="this version of flip_fl has no template for it",
        key="job_type",
        value=json.dumps(config.raw["job_type"]),
        expected=known,
        fix=f"set {known}",
    )


def _file_problems(form: Form, job_type: JobType) -> Iterator[FlipError]:
    app_dir = form.app_dir
    for name, (left_out, suggestion) in _UNREAD.items():
        if form.kind is FormKind.NEUTRAL and (app_dir / name).is_file():
            place = str(app_dir / name)
            yield FlipError("E0209", where=place, file=name, left_out=left_out, suggestion=suggestion)
    if form.kind is FormKind.EXECUTOR:
        yield FlipError("E0206", where=str(app_dir / form.entry), evidence=form.evidence)
        return
    needs = needs_of(job_type, form.kind)
    for name in needs.files:
        if not (app_dir / name).is_file():
            yield FlipError("E0202", file=name, job_type=job_type.value, needed=needs.words(), folder=app_dir)


def _option_problems(config: AppConfig) -> Iterator[FlipError]:
    """E0303 for an option that the job's type has no use for: it would be another run."""
    trained = tuple(job for job in JobType if job is not JobType.EVALUATION)
    for key, job_types in _ONLY_FOR.items():
        if config.raw.get(key) and config.job_type not in (job_types or trained):
            known = ", ".join(job.value for job in job_types or trained)
            yield FlipError(
                "E0303",
                where=config.place(key),
                why=f"a job of type {config.job_type.value} has no use for it",
                key=key,
                value=json.dumps(config.raw[key]),
                expected=f"absent, or in a job of type {known}",
                fix=f"leave {key} out, or set job_type to {(job_types or trained)[0].value}",
            )


def _script_problems(form: Form, config: AppConfig) -> Iterator[FlipError]:
    """E0303 for an option that an app with a training loop of its own cannot follow."""
    if form.kind is FormKind.NEUTRAL:
        return
    lacking = {"FEDPROX_MU": f"{form.entry} has a training loop of its own: its loss needs the term there"}
    if form.kind is FormKind.FLOWER_PACKAGE:
        lacking |= dict.fromkeys(_OF_OUR_LOOP, f"the ClientApp of {form.entry} loads and sends the whole model")
        if (form.app_dir / SERVER_FILE).is_file():
            lacking |= dict.fromkeys(_OF_OUR_SERVER, f"the strategy of {SERVER_FILE} decides that")
            yield from _stage_problems(config)
    elif not form.validates:
        lacking["CROSS_SITE_VALIDATION"] = f"{form.entry} does not ask whether it is to validate (flare.is_evaluate())"
    for key, why in lacking.items():
        if config.raw.get(key):
            yield FlipError(
                "E0303",
                where=config.place(key),
                why=why,
                key=key,
                value=json.dumps(config.raw[key]),
                expected="absent for this app",
                fix=f"leave {key} out",
            )


def _stage_problems(config: AppConfig) -> Iterator[FlipError]:
    if config.job_type is JobType.DIFFUSION:
        yield FlipError(
            "E0303",
            where=config.place("job_type"),
            why=f"the strategy of {SERVER_FILE} knows one stage, and its rounds would count for both",
            key="job_type",
            value=json.dumps(config.raw["job_type"]),
            expected=f"a job of one stage, or a package without {SERVER_FILE}",
            fix=f"move {SERVER_FILE} out of the app: flip_fl's server runs the two stages",
        )


def check_models(config: AppConfig) -> None:
    """Raises ``FlipError`` E0303 for an evaluation that names nothing to evaluate."""
    for problem in _model_problems(config):
        raise problem


def _model_problems(config: AppConfig) -> Iterator[FlipError]:
    if config.job_type is JobType.EVALUATION and not config.models:
        yield FlipError(
            "E0303",
            where=config.place("models") if "models" in config.raw else str(config.app_dir / CONFIG),
            why="an evaluation is of models, and none is named",
            key="models",
            value=json.dumps(config.raw.get("models")),
            expected="an object with at least one named model",
            fix='add "models": {"baseline": {"checkpoint": "baseline.pt"}}',
        )


def _weight_problems(config: AppConfig, slots: Sequence[str], federation: Sequence[str]) -> Iterator[FlipError]:
    weights: Mapping[str, float] = config.aggregation_weights
    known = sorted({*slots, *federation}, key=natural_key)
    for slot in weights:
        if slot not in known:
            yield FlipError(
                "E0312",
                where=config.place("AGGREGATION_WEIGHTS", slot),
                slot=slot,
                place=" in AGGREGATION_WEIGHTS",
                suggestion=_did_you_mean(slot, known),
            )
    if not weights:
        return
    without = [slot for slot in slots if slot not in weights]
    if without or not sum(weights[slot] for slot in slots) > 0:
        lacking = f"{', '.join(without)} has none" if without else "all of them are 0"
        yield FlipError(
            "E0303",
            where=config.place("AGGREGATION_WEIGHTS"),
            key="AGGREGATION_WEIGHTS",
            value=json.dumps(dict(weights)),
            expected=f"weights for the sites of the run ({lacking})",
            fix="give every site of the run a weight, or leave the key out to weight by num_examples",
        )


def _unused_weights(config: AppConfig, slots: Sequence[str]) -> Iterator[str]:
    unused = [slot for slot in config.aggregation_weights if slot not in slots]
    if unused:
        yield f"AGGREGATION_WEIGHTS names {', '.join(unused)}, not part of this run"


def _did_you_mean(slot: str, known: Sequence[str]) -> str:
    # Trust_03 is three edits of thought away from nothing: compare numbers as numbers.
    same = [name for name in known if natural_key(name.lower()) == natural_key(slot.lower())]
    near = same or nearest(slot, known, 1)
    listed = f"slots: {', '.join(known)}"
    return f"did you mean {near[0]}? ({listed})" if near else listed


def _metric_problems(config: AppConfig) -> Iterator[FlipError]:
    metric, declared = config.best_model_metric, config.metrics
    if metric is not None and declared is not None and metric not in declared:
        yield FlipError(
            "E0303",
            where=config.place("BEST_MODEL_METRIC"),
            key="BEST_MODEL_METRIC",
            value=json.dumps(metric),
            expected=f"one of METRICS ({', '.join(declared)})",
            fix="add it to METRICS, or name one of them",
        )


def _quorum_problems(config: AppConfig, slots: Sequence[str]) -> Iterator[FlipError]:
    needed = config.min_clients
    if needed is not None and needed > len(slots):
        yield FlipError(
            "E0505",
            where=config.place("MIN_CLIENTS"),
            needed=needed,
            chosen=len(slots),
            slots=", ".join(slots),
            place=f" ({config.place('MIN_CLIENTS')})",
        )
