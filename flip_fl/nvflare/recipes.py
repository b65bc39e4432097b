"""Jobs as Python objects for notebooks and scripts, in NVFLARE's own manner: made of the same templates as any other.

    recipe = FlipFedAvgRecipe(app="my_app", num_rounds=5, min_clients=2)
    recipe.execute(SimEnv(num_clients=2))    # or PocEnv, ProdEnv: of nvflare.recipe
    recipe.export("jobs")                    # a job folder; load_recipe() makes a recipe of it again

An argument that is left out is as the app's ``config.json`` says; one that is given goes into the job's copy of it.
``nvflare.recipe`` takes ``--export`` from the command line when it is imported: it is not, before ``execute``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, ClassVar, TypedDict, Unpack, get_type_hints
from uuid import UUID, uuid4

from flip_fl.app.config import load_config
from flip_fl.app.secure import check_engine
from flip_fl.app.travel import digests
from flip_fl.errors import FlipError
from flip_fl.jobs.templates import JobValues, template_dir
from flip_fl.nvflare.job import CLIENT_CONFIG, CUSTOM, SERVER_CONFIG
from flip_fl.nvflare.template_job import META, TemplateJob
from flip_fl.values import JobType

__all__ = ["FlipDiffusionRecipe", "FlipEvalRecipe", "FlipFedAvgRecipe", "FlipFedOptRecipe", "FlipRecipe", "load_recipe"]


class Arguments(TypedDict, total=False):
    """What every recipe takes.

    ``app``: the app's folder (default: the working folder). ``model_id``: the hub's (default: FLIP_MODEL_ID of
    config.json, else a new one); the job is called after it. ``min_clients``: how many sites must return a usable
    result (default: all). ``project_id`` and ``query`` name the cohort. ``start_timeout_s``, ``task_timeout_s``: how
    long the server waits for the sites, and for the replies to a task (default: the template's).
    """

    app: str | Path
    model_id: str | UUID
    min_clients: int
    project_id: str
    query: str
    seed: int
    metrics: list[str]
    start_timeout_s: int
    task_timeout_s: int


class TrainingArguments(Arguments, total=False):
    """What every recipe that trains takes: config.json's keys in small letters; ``train_script`` stands for ``app``."""

    train_script: str | Path
    local_rounds: int
    learning_rate: float
    ignore_result_error: bool
    aggregator: str
    aggregation_weights: dict[str, float]
    best_model_metric: str
    best_model_metric_minimize: bool
    aggregate_only_regex: str
    params_type: str
    fedprox_mu: float
    fedbn: bool
    server_checkpoint: str
    cross_site_validation: bool


class FedAvgArguments(TrainingArguments, total=False):
    """``num_rounds`` is GLOBAL_ROUNDS."""

    num_rounds: int


class FedOptArguments(FedAvgArguments, total=False):
    """``server_optimizer``: a name, or an object with its name and numbers."""

    server_optimizer: str | dict[str, Any]


class DiffusionArguments(TrainingArguments, total=False):
    """The rounds of the two stages, the federation's and the sites'."""

    num_rounds_ae: int
    num_rounds_dm: int
    local_rounds_ae: int
    local_rounds_dm: int


class EvalArguments(Arguments, total=False):
    """``models``: name → ``{"checkpoint": …, "path": …}``; ``eval_script`` stands for ``app``."""

    eval_script: str | Path
    models: dict[str, dict[str, str]]


# Of the job alone; every other argument is a platform key of config.json.
_OF_THE_JOB = frozenset({"app", "train_script", "eval_script", "model_id", "project_id"})
_WAITS = ("start_timeout_s", "task_timeout_s")
_MAX_WAIT_S = 7 * 86_400


class FlipRecipe:
    """What the recipes have in common; use one of those.

    Raises ``TypeError`` for an argument that it does not take, and ``FlipError``: E0202, E0301..E0304 for the app's
    config, E0303 for an argument that is out of range and for an app of another job type, E0221.
    """

    job_type: ClassVar[JobType]
    # Apps of these types are run as ``job_type``.
    takes: ClassVar[tuple[JobType, ...]] = ()
    arguments_type: ClassVar[type[Any]] = Arguments
    script: ClassVar[str] = "trainer.py"

    def __init_subclass__(cls) -> None:
        named = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=hint)
            for name, hint in get_type_hints(cls.arguments_type).items()
        ]
        cls.__signature__ = Signature(named)  # type: ignore[attr-defined]

    def __init__(self, **given: Any) -> None:
        unknown = sorted(set(given) - set(get_type_hints(self.arguments_type)))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}")
        told = {name: value for name, value in given.items() if value is not None}
        config = load_config(self._folder(told).resolve())
        if config.job_type not in self.takes:
            raise FlipError(
                "E0303",
                where=config.place("job_type"),
                key="job_type",
                value=repr(config.job_type.value),
                expected=" or ".join(repr(each.value) for each in self.takes),
                fix=f"use {_FOR[config.job_type].__name__}",
            )
        said = {_key(name): value for name, value in told.items() if name not in (*_OF_THE_JOB, *_WAITS)}
        if config.job_type is not self.job_type:
            said["job_type"] = self.job_type.value
        self.config = config.with_values(said)
        check_engine(self.config, "nvflare")
        self.model_id = UUID(str(told.get("model_id") or config.flip_model_id or uuid4()))
        waits = {**_waits(template_dir("nvflare", self.job_type.value)), **_chosen(told)}
        self.values = JobValues.of(self.config, (), self.model_id, str(told.get("project_id", "")), **waits)
        self._job = TemplateJob(self.config, self.values)

    def _folder(self, told: Mapping[str, Any]) -> Path:
        script = Path(told.get("train_script") or told.get("eval_script") or self.script)
        if script.name != self.script:
            fix = f"call it {self.script}"
            raise FlipError("E0303", key="the script", value=repr(str(script)), expected=self.script, fix=fix)
        return Path(told["app"]) if "app" in told else script.parent

    @property
    def name(self) -> str:
        """The job's name: its model's id."""
        return str(self.model_id)

    @property
    def job(self) -> TemplateJob:
        """The job as NVFLARE's ``FedJob``."""
        return self._job

    @property
    def arguments(self) -> dict[str, Any]:
        """Every argument as this job has it, given or not; ``app`` is the folder that was read."""
        found: dict[str, Any] = {"app": self.config.app_dir, "model_id": self.model_id}
        for name in get_type_hints(self.arguments_type):
            if name in _WAITS or name == "project_id":
                found[name] = getattr(self.values, name)
            elif name not in _OF_THE_JOB:
                found[name] = _plain(getattr(self.config, _key(name).lower()))
        return found

    def export(self, job_dir: str | Path) -> Path:
        """Write the job folder ``<job_dir>/<name>``, in the place of an earlier export of it; returns the folder.

        Raises ``FileExistsError`` where something else lies there, ``FlipError`` E0207 for modules that would be run.
        """
        self._job.export_job(str(job_dir))
        return Path(job_dir) / self.name

    def execute(self, env: Any) -> Any:
        """Run the job in ``env``, a ``SimEnv``, ``PocEnv`` or ``ProdEnv`` of ``nvflare.recipe``; returns its ``Run``.

        Without ``min_clients`` all sites of an ``env`` that knows them are needed. A ``PocEnv`` is a secured
        federation: without a hub it takes ``LOCAL_DEV=true`` in the environment.
        With ``--export [--export-dir DIR]`` on the command line the job is written and ``SystemExit`` raised instead,
        as by NVFLARE's own recipes.
        """
        from nvflare.recipe.spec import Recipe

        sites = getattr(env, "num_clients", None)
        if self.values.min_clients or not isinstance(sites, int) or not sites:
            return Recipe(self._job).execute(env)
        # NVFLARE itself would begin as soon as one is there.
        return Recipe(TemplateJob(self.config, replace(self.values, min_clients=sites))).execute(env)

    def __eq__(self, other: object) -> bool:
        """Whether both make the same job, wherever the app's folder lies."""
        return isinstance(other, FlipRecipe) and self._facts() == other._facts()

    __hash__ = None  # type: ignore[assignment]

    def _facts(self) -> tuple[Any, ...]:
        told = json.loads(self.config.for_run(self.model_id))
        return (type(self), self.values, told, digests(self.config.app_dir))


class FlipFedAvgRecipe(FlipRecipe):
    """A ``standard`` job: the sites' models are averaged, round by round."""

    job_type = JobType.STANDARD
    takes = (JobType.STANDARD,)
    arguments_type = FedAvgArguments

    def __init__(self, **given: Unpack[FedAvgArguments]) -> None:
        super().__init__(**given)


class FlipFedOptRecipe(FlipRecipe):
    """A ``fed_opt`` job: an optimizer on the server applies the averaged change. Takes ``standard`` apps, too."""

    job_type = JobType.FED_OPT
    takes = (JobType.STANDARD, JobType.FED_OPT)
    arguments_type = FedOptArguments

    def __init__(self, **given: Unpack[FedOptArguments]) -> None:
        super().__init__(**given)


class FlipEvalRecipe(FlipRecipe):
    """An ``evaluation`` job: models that exist are scored at every site."""

    job_type = JobType.EVALUATION
    takes = (JobType.EVALUATION,)
    arguments_type = EvalArguments
    script = "evaluator.py"

    def __init__(self, **given: Unpack[EvalArguments]) -> None:
        super().__init__(**given)


class FlipDiffusionRecipe(FlipRecipe):
    """A ``diffusion_model`` job: an autoencoder, then a diffusion model around it."""

    job_type = JobType.DIFFUSION
    takes = (JobType.DIFFUSION,)
    arguments_type = DiffusionArguments

    def __init__(self, **given: Unpack[DiffusionArguments]) -> None:
        super().__init__(**given)


_FOR: Mapping[JobType, type[FlipRecipe]] = {
    recipe.job_type: recipe for recipe in (FlipFedAvgRecipe, FlipFedOptRecipe, FlipEvalRecipe, FlipDiffusionRecipe)
}


def load_recipe(job: str | Path) -> FlipRecipe:
    """The recipe of an exported job folder; it equals the one that was exported.

    Raises ``FileNotFoundError`` or ``json.JSONDecodeError`` for what is no job, ``FlipError`` as the recipes do.
    """
    folder = Path(job)
    meta, client = _read(folder / META), _read(folder / CLIENT_CONFIG)
    app = folder / CUSTOM
    return _FOR[load_config(app).job_type](
        app=app,
        model_id=meta["custom_props"]["model_id"],
        project_id=client["project_id"],
        **_waits(folder),
    )


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _key(name: str) -> str:
    """The platform key that an argument is."""
    return "models" if name == "models" else name.upper().replace("NUM_ROUNDS", "GLOBAL_ROUNDS")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _waits(job: Path) -> dict[str, int]:
    """How long the server of a job, or of a template, waits."""
    workflows = _read(job / SERVER_CONFIG)["workflows"]
    args = next(each["args"] for each in workflows if each["id"] == "controller")
    return {name: args[name] for name in _WAITS}


def _chosen(told: Mapping[str, Any]) -> dict[str, int]:
    """The waits among the arguments. Raises ``FlipError`` E0303 for one that is no time."""
    chosen = {name: told[name] for name in _WAITS if name in told}
    for name, value in chosen.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_WAIT_S:
            expected = f"a whole number of seconds from 1 to {_MAX_WAIT_S}"
            raise FlipError("E0303", key=name, value=repr(value), expected=expected, fix=f"give {expected}")
    return chosen
