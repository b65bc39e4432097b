"""All that can be said of an app before it runs: its form, what it will run as, what it lacks. Its code is not run
here: it is read, and where that finds nothing wrong, built in a process of its own without a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flip_fl.app.checks import check_folder, config_problems, run_problems
from flip_fl.app.config import AppConfig, read_config
from flip_fl.app.executor_changes import Change, changes_of
from flip_fl.app.forms import Form, FormKind, form_of, refusal
from flip_fl.app.modules_needed import Missing, is_installed, missing_modules
from flip_fl.app.named_metrics import Reported, keys_read, reported
from flip_fl.app.needs import Needs, needs_of
from flip_fl.app.packages import SERVER_FILE, app_folder
from flip_fl.app.runner import BOOKKEEPING
from flip_fl.app.secure import engine_problem
from flip_fl.app.syntax import bound, functions, parsed, takes
from flip_fl.app.travel import check_modules, travelling
from flip_fl.app.weights import Shapes, built_model
from flip_fl.errors import FlipError
from flip_fl.privacy.egress import sane_name
from flip_fl.values import JobType

ENGINES: Mapping[str, str] = {"nvflare": "nvflare", "flower": "flwr"}
_NOT_ASKED = "it never asks which task it has, so it is never asked to validate: what it measured of the model that it "


@dataclass(frozen=True)
class Runs:
    """Whether an app runs on an engine, and as what; else why not. ``installed``: the engine is."""

    engine: str
    runs: bool
    how: str
    installed: bool


@dataclass(frozen=True)
class Doubt:
    """What does not keep an app from running, and should be known."""

    what: str
    where: str | None = None
    why: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class Inspection:
    """``config`` is None where config.json cannot be read, ``job_type`` where it does not say a known one. ``shapes``
    and ``travelling`` are None where the model was not built; ``changes`` only for an executor-style app."""

    form: Form
    config: AppConfig | None
    job_type: JobType | None
    runs: tuple[Runs, ...]
    problems: tuple[FlipError, ...]
    doubts: tuple[Doubt, ...]
    reported: Reported
    files: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    shapes: Shapes | None = None
    travelling: tuple[str, ...] | None = None

    @property
    def app_dir(self) -> Path:
        return self.form.app_dir


def inspect_app(
    folder: Path, *, slots: Sequence[str] = (), engine: str | None = None, build: bool = True
) -> Inspection:
    """Look at the app in ``folder``, for a run at ``slots`` (none: wherever), on ``engine`` (None: on any).

    ``build``: also import it and build its model, in a process of its own. Raises ``FlipError`` E0201 for no app.
    """
    app_dir = app_folder(folder)
    check_folder(app_dir)
    form = form_of(app_dir)
    config, problems = _config(app_dir)
    job_type = None
    if config is not None and not any(_is_about_type(problem) for problem in problems):
        job_type = config.job_type
    if config is not None and job_type is not None:
        problems += config_problems(form, config)
        problems += _syntax_problems(app_dir)
        problems += _function_problems(form, config)
        problems += run_problems(config, slots, slots) if slots else ()
    elif form.kind is FormKind.EXECUTOR:
        problems += [FlipError("E0206", where=str(app_dir / form.entry), evidence=form.evidence)]
    elif not (app_dir / "models.py").is_file():
        needed = "models.py with get_model(), whatever its type"
        problems += [FlipError("E0202", file="models.py", job_type="FLIP", needed=needed, folder=app_dir)]
    problems += _module_problems(app_dir)
    absent = {str(each.facts["file"]) for each in problems if each.code == "E0202"}
    missing = [each for each in missing_modules(app_dir) if f"{each.module}.py" not in absent]
    problems += [_not_there(app_dir, each) for each in missing if each.at_once]
    if config is not None and form.kind is FormKind.NEUTRAL:
        problems += _key_problems(form, config)
    other = refusal(form, engine) if engine is not None and form.kind is not FormKind.EXECUTOR else None
    problems += [other] if other is not None else []
    unable = engine_problem(config, engine) if engine is not None and config is not None else None
    problems += [unable] if unable is not None else []
    names = reported(form)
    doubts = [*_doubts(form, config, names), *(_later(each) for each in missing if not each.at_once)]
    shapes, parts = None, None
    if build and not problems:
        shapes, parts = _built(app_dir, problems, doubts)
    return Inspection(
        form=form,
        config=config,
        job_type=job_type,
        runs=tuple(_runs(form, config, job_type, name) for name in ENGINES),
        problems=tuple(problems),
        doubts=tuple(doubts),
        reported=names,
        files=tuple(inside.as_posix() for inside in travelling(app_dir)),
        changes=changes_of(app_dir) if form.kind is FormKind.EXECUTOR else (),
        shapes=shapes,
        travelling=parts,
    )


def _config(app_dir: Path) -> tuple[AppConfig | None, list[FlipError]]:
    try:
        return read_config(app_dir)
    except FlipError as error:
        return None, [error]


def _is_about_type(problem: FlipError) -> bool:
    return problem.facts.get("key") == "job_type"


def _syntax_problems(app_dir: Path) -> Iterator[FlipError]:
    for inside in travelling(app_dir):
        if inside.suffix != ".py":
            continue
        path = app_dir / inside
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except SyntaxError as error:
            place = f"{path}:{error.lineno}:{error.offset}" if error.lineno else str(path)
            yield FlipError("E0203", where=place, file=inside.as_posix(), problem=f"SyntaxError: {error.msg}")
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            yield FlipError("E0203", where=str(path), file=inside.as_posix(), problem=type(error).__name__)


def _function_problems(form: Form, config: AppConfig) -> Iterator[FlipError]:
    """E0204 for each function that the job calls and its module has not, or that takes other arguments; E0530."""
    if form.kind is FormKind.EXECUTOR:
        return
    for file, name, arguments, signature in _called(needs_of(config.job_type, form.kind), form, config):
        tree = parsed(form.app_dir / file)
        names = bound(tree) if tree is not None else None
        if tree is None or names is None:
            continue  # no such file, no Python, or a star that may bring it: said elsewhere, or when it is built
        own = functions(tree).get(name)
        fits = own is None or takes(own, arguments) or (form.kind is not FormKind.NEUTRAL and takes(own, 0))
        if name not in names or not fits:
            where = f"{form.app_dir / file}:{own.lineno}" if own is not None else str(form.app_dir / file)
            facts = {"file": file, "function": name, "job_type": config.job_type.value, "signature": signature}
            yield FlipError("E0204", where=where, **facts)
    tree = parsed(form.app_dir / form.entry)
    names = bound(tree) if tree is not None and form.kind is FormKind.FLOWER_PACKAGE else None
    if names is not None and "app" not in names:
        problem = f"{form.entry} has no ClientApp called app"
        why = "the job's template imports it by that name"
        where = str(form.app_dir / form.entry)
        yield FlipError("E0530", where=where, folder=form.app_dir, problem=problem, why=why, fix="app = ClientApp()")


def _called(needs: Needs, form: Form, config: AppConfig) -> Iterator[tuple[str, str, int, str]]:
    """File, name, number of arguments and signature of each function that the house calls."""
    paths = [bool(model.get("path")) for model in config.models.values()]
    evaluates = config.job_type is JobType.EVALUATION
    for each in needs.functions:
        if form.kind is not FormKind.NEUTRAL and each.module != "models":
            continue
        if each.name == "get_model" and evaluates and paths and all(paths):
            continue
        yield f"{each.module}.py", each.name, each.arguments, each.signature
    if evaluates and any(paths):
        yield "models.py", "get_model_for_path", 1, "get_model_for_path(path) for a model with a path"


def _module_problems(app_dir: Path) -> Iterator[FlipError]:
    try:
        check_modules(app_dir)
    except FlipError as error:
        yield error


def _not_there(app_dir: Path, missing: Missing) -> FlipError:
    where = f"{app_dir / missing.file}:{missing.line}"
    return FlipError("E0216", where=where, file=missing.file, module=missing.module, fix=_bringing(missing))


def _bringing(missing: Missing) -> str:
    if missing.meant is not None:
        return f"the app has {missing.meant}.py: import {missing.meant}"
    if missing.install == missing.module:
        # A package of that name may be a stranger's.
        return f"install what brings the module {missing.module}, or add {missing.module}.py to the app"
    return f"pip install '{missing.install}'"


def _later(missing: Missing) -> Doubt:
    return Doubt(
        f"{missing.module} is not installed, and {missing.file} imports it at line {missing.line}",
        why="it is imported later than the file, or where its absence may be expected",
        fix=_bringing(missing),
    )


def _key_problems(form: Form, config: AppConfig) -> Iterator[FlipError]:
    for read in keys_read(form):
        if read.key not in config.raw:
            where = f"{form.app_dir / read.file}:{read.line}"
            yield FlipError("E0217", where=where, file=read.file, key=read.key)


def _doubts(form: Form, config: AppConfig | None, names: Reported) -> Iterator[Doubt]:
    for name in names.names:
        if not sane_name(name):
            yield Doubt(
                f"'{name}' is no name under which a metric may leave the trust",
                why="names are 1 to 64 plain characters with few digits, so that none of them is a patient's",
                fix="give it another name",
            )
    if config is None:
        return
    if config.metrics is not None:
        known = {*config.metrics, *BOOKKEEPING}
        left = [name for name in names.names if not {name, name.removeprefix("train_")} & known]
        if left:
            place = config.place("METRICS")
            yield Doubt(
                f"METRICS does not declare {', '.join(left)}", place, "what is not declared is not stored", "add it"
            )
    best = config.best_model_metric
    if best is not None and names.names and not names.computed and best not in names.names:
        yield Doubt(
            f"BEST_MODEL_METRIC is {best}, and the source names {', '.join(names.names)}",
            config.place("BEST_MODEL_METRIC"),
            "no round is kept as the best by a metric that nobody reports",
            "name one that validation returns",
        )
    said = form.says_kind if form.kind is FormKind.CLIENT_API and "PARAMS_TYPE" in config.raw else None
    if said not in (None, config.params_type):
        yield Doubt(
            f"PARAMS_TYPE is {config.params_type}, and {form.entry} says params_type {said}",
            config.place("PARAMS_TYPE"),
            "the other kind than the one that is expected is a failure of the task",
            f"send what PARAMS_TYPE says, or set it to {said}, or leave it out",
        )
    wanted = [str(model["checkpoint"]) for model in config.models.values() if "checkpoint" in model]
    wanted += [config.server_checkpoint] if config.server_checkpoint else []
    for name in wanted:
        if not (form.app_dir / name).is_file():
            yield Doubt(
                f"the checkpoint {name} is not in the app's folder",
                why="a simulated run looks for it there, an FL server in SERVER_CHECKPOINT_ROOT/<model id>/, too",
                fix=f"put it into {form.app_dir}, or on the FL server",
            )


def _built(
    app_dir: Path, problems: list[FlipError], doubts: list[Doubt]
) -> tuple[Shapes | None, tuple[str, ...] | None]:
    if not is_installed("torch"):
        doubts.append(Doubt("the model was not built", None, "torch is not installed", "pip install 'flip_fl[torch]'"))
        return None, None
    try:
        return built_model(app_dir)
    except FlipError as error:
        problems.append(error)
        return None, None


def _runs(form: Form, config: AppConfig | None, job_type: JobType | None, engine: str) -> Runs:
    installed = is_installed(ENGINES[engine])
    refused = refusal(form, engine) or (engine_problem(config, engine) if config is not None else None)
    if refused is not None:
        return Runs(engine, False, refused.what, installed)
    if job_type is None:
        return Runs(engine, False, "config.json does not say which kind of job this is", installed)
    return Runs(engine, True, _how(form, job_type), installed)


def _how(form: Form, job_type: JobType) -> str:
    kind = f"{'an' if job_type is JobType.EVALUATION else 'a'} {job_type.value} job"
    if form.kind is FormKind.CLIENT_API:
        asked = "it is asked to train and to validate" if form.validates else f"{_NOT_ASKED}received is the score of it"
        if job_type is JobType.EVALUATION:
            asked = "it gets each model in turn"
        return f"{kind}: {form.entry} as it is, a script in a process of its own for the whole job; {asked}"
    if form.kind is FormKind.FLOWER_PACKAGE:
        server = "flip_fl's own server"
        if (form.app_dir / SERVER_FILE).is_file():
            evaluates = job_type is JobType.EVALUATION
            server = f"{server}, not {SERVER_FILE}" if evaluates else f"{SERVER_FILE} as it is, on the job's sites"
        return f"{kind}: the ClientApp of {form.entry} as it is, behind the rules of every site; {server}"
    if job_type is JobType.EVALUATION:
        return f"{kind}: evaluate() is called at every site for each model"
    stages = "in two stages, ae and dm, " if job_type is JobType.DIFFUSION else ""
    return f"{kind}: {stages}train() at every site, the average, validate() of the new model, each round"
