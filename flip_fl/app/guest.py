"""What runs inside the child process: the only place where a server lets the researcher's code be imported."""

from __future__ import annotations

import copy
import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flip_fl.app.arrays import read_arrays, write_arrays
from flip_fl.app.config import CONFIG_FILE, AppConfig, load_config
from flip_fl.app.faults import AppError
from flip_fl.app.forms import FormKind, form_of
from flip_fl.app.loader import AppLoader
from flip_fl.app.needs import fitting, model_call, needs_of, takes
from flip_fl.app.parts import Parts, merged, parts_of
from flip_fl.app.pictures import pixels_of
from flip_fl.app.plan import final_stage, stages_of
from flip_fl.app.runner import Session, run_task
from flip_fl.app.seeds import derived_seed, initial_seed, seed_everything
from flip_fl.app.site import SiteSpec
from flip_fl.app.tensors import Arrays, load_into, to_arrays
from flip_fl.errors import FlipError
from flip_fl.values import SERVER_NAME, JobType, Task

Request = Mapping[str, Any]

_SIGNATURES = {"get_model_for_path": "get_model_for_path(path) for a model with a path"}


def init(request: Request) -> dict[str, Any]:
    """Write the starting weights to ``out``, and say what of them travels and what is trained.

    They are a fresh ``get_model()``'s, or those of the file ``checkpoint``; in a later stage what the file ``previous``
    has of them. Raises ``FlipError`` E0203, E0204, E0205.
    """
    app = _App(request)
    model = app.model()
    fresh = app.arrays(model)
    parts = app.parts(model)
    arrays = fresh
    if request.get("checkpoint"):
        arrays = app.arrays(app.load(Path(request["checkpoint"])))
        app.check_kept(fresh, arrays, parts, Path(request["checkpoint"]).name)
    if request.get("previous"):
        arrays = merged(arrays, app.handed_over(read_arrays(Path(request["previous"])), fresh))
    write_arrays(Path(request["out"]), arrays)
    return {"travelling": list(parts.travelling), "trainable": list(parts.trainable)}


def check(request: Request) -> dict[str, Any]:
    """Import every module, look at every function, build the model; what of it travels.

    Raises ``FlipError`` E0203, E0204, E0205.
    """
    app = _App(request)
    for function in needs_of(app.config.job_type, app.form).functions:
        if function.name == "get_model" and app.every_model_has_a_path:
            continue
        if app.script is not None and function.module != "models":
            app.check_syntax(app.script)
            continue
        module = app.module(function.module)
        found = getattr(module, function.name, None)
        if not takes(found, function.arguments) and not (app.form is not FormKind.NEUTRAL and takes(found, 0)):
            raise FlipError(
                "E0204",
                where=str(app.config.app_dir / f"{function.module}.py"),
                file=f"{function.module}.py",
                function=function.name,
                job_type=app.config.job_type.value,
                signature=function.signature,
            )
    optional = app.optional("generate")
    if optional is not None and not takes(optional, 3):
        raise FlipError("E0214", where=str(app.config.app_dir), problem="it must take (model, count, config)")
    arrays: Arrays = {}
    travelling: tuple[str, ...] = ()
    for stage in stages_of(app.config):
        before, app.stage = arrays, stage.name
        model = app.model()
        arrays = app.arrays(model)
        parts = app.parts(model)
        travelling = parts.travelling
        if before and app.config.job_type is JobType.DIFFUSION:
            app.check_sent(app.handed_over(before, arrays), parts)
    return {**_parameters(arrays), "travelling": list(travelling)}


def _parameters(arrays: Arrays) -> dict[str, Any]:
    return {"parameters": {name: [list(array.shape), str(array.dtype)] for name, array in arrays.items()}}


def export(request: Request) -> dict[str, Any]:
    """Write arrays as plain ``dict[str, Tensor]`` (``models``: target → arrays' file); load each as anybody would."""
    import torch

    app = _App(request)
    for out, arrays in request["models"].items():
        given, target = read_arrays(Path(arrays)), Path(out)
        temporary = target.with_name(f"{target.name}.part")
        _save({name: torch.from_numpy(np.array(array, copy=True)) for name, array in given.items()}, temporary)
        app.load(temporary)
        os.replace(temporary, target)
    return {}


def _save(tensors: dict[str, Any], path: Path) -> None:
    """``torch.save``. Raises ``FlipError`` E0702 when the disk does not take it."""
    import torch

    try:
        with path.open("wb") as out:
            torch.save(tensors, out)
            out.flush()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "is its disk full?"
        path.unlink(missing_ok=True)
        raise FlipError(
            "E0702",
            bundle="results",
            problem=f"the server cannot write the model ({reason})",
            suggestion="make room on the server's disk",
        ) from None


def load(request: Request) -> dict[str, Any]:
    """Load each file of ``models`` strictly into ``get_model()``. Raises ``FlipError`` E0205."""
    app = _App(request)
    return {"models": [_parameters(to_arrays(app.load(Path(model)))) for model in request["models"]]}


def score(request: Request) -> dict[str, Any]:
    """The app's ``validate`` of the file ``model`` on each cohort (slot → CSV).

    Raises ``FlipError`` E0702, for a script, too.
    """
    from flip_fl.data.sources.folder import FolderSource
    from flip_fl.settings import DevSettings

    app = _App(request)
    if app.script is not None:
        raise FlipError(
            "E0702",
            bundle=request["name"],
            problem=f"its validation is a part of the script {app.script}, which runs in a job only",
            suggestion="compare with what the hub was told in the run",
        )
    arrays = to_arrays(app.load(Path(request["model"])))
    metrics: dict[str, Any] = {}
    for slot, csv in request["cohorts"].items():
        settings = DevSettings(
            dataframe=csv,
            images_dir=request.get("images"),
            tabular=not app.config.imaging,
            missing_study="error",
        )  # type: ignore[call-arg]
        session = Session(app.config.app_dir, FolderSource(settings))
        spec = SiteSpec(
            slot,
            request["round"],
            request["total_rounds"],
            stage=app.stage,
            seed=app.config.seed,
            query=app.config.query,
        )
        travels = app.parts(app.model()).travelling
        result = run_task(Task.VALIDATE, {name: arrays[name] for name in travels}, spec, session)
        if result.failure is not None:
            raise FlipError(
                "E0702",
                bundle=request["name"],
                problem=f"validate() failed on the data of {slot}: {result.failure.headline}",
                suggestion="score it on the data it was validated on",
            )
        metrics[slot] = {"num_examples": result.num_examples, "metrics": result.metrics}
    return {"scores": metrics}


def generate(request: Request) -> dict[str, Any]:
    """Write to ``out`` what the app's ``generate`` makes with the file ``model``. Raises ``FlipError`` E0205, E0214."""
    app = _App(request)
    function = app.optional("generate")
    if function is None:
        return {"found": False}
    model = app.load(Path(request["model"])).eval()
    seed_everything(derived_seed(app.config.seed, SERVER_NAME, 0, "generate"))
    try:
        made = pixels_of(function(model, request["count"], copy.deepcopy(dict(app.config.raw))), request["count"])
    except (Exception, SystemExit) as error:
        problem = str(error) if isinstance(error, AppError) else _words(error)
        raise FlipError("E0214", where=app.place(error, "trainer"), problem=problem) from None
    write_arrays(Path(request["out"]), {"pixels": made})
    return {"found": True}


def convert(request: Request) -> dict[str, Any]:
    """Write the file ``model`` in another format to ``out``. Raises ``FlipError`` E0205, E0707."""
    from flip_fl.app.exporting import failed, torchscript

    app = _App(request)
    model = app.load(Path(request["model"]))
    shape = request.get("shape")
    example_input = None if shape else getattr(app.module("models"), "example_input", None)
    try:
        stage = request.get("stage")
        example = None if example_input is None else example_input(*([stage] if stage else []))
    except (Exception, SystemExit) as error:
        raise failed(f"example_input() of its models.py failed ({_words(error)})", "mend it, or give --shape") from None
    return torchscript(model, example, shape, Path(request["out"]))


COMMANDS: Mapping[str, Callable[[Request], dict[str, Any]]] = {
    "init": init,
    "check": check,
    "export": export,
    "load": load,
    "score": score,
    "generate": generate,
    "convert": convert,
}


class _App:
    """The app of a request, with errors in the catalogue's words.

    ``stage`` is the job's, or the name of the model that an evaluation asks for.
    """

    def __init__(self, request: Request) -> None:
        self.config: AppConfig = load_config(Path(request["app_dir"]))
        self.stage: str | None = request.get("stage") or final_stage(self.config)
        self._loader = AppLoader(self.config.app_dir)
        form = form_of(self.config.app_dir)
        # A script is run as a whole, at a site: to import it would be to run it.
        self.form = form.kind
        self.script = form.entry if form.kind is FormKind.CLIENT_API else None

    @property
    def every_model_has_a_path(self) -> bool:
        """Whether none of an evaluation's models is built by ``get_model()``."""
        models = self.config.models.values()
        return self.config.job_type is JobType.EVALUATION and bool(models) and all("path" in each for each in models)

    def module(self, name: str) -> ModuleType:
        try:
            return self._loader.module(name)
        except (Exception, SystemExit) as error:
            raise FlipError("E0203", where=self.place(error, name), file=f"{name}.py", problem=_words(error)) from None

    def check_syntax(self, file: str) -> None:
        """Raises ``FlipError`` E0203 for a script that is not Python."""
        path = self.config.app_dir / file
        try:
            compile(path.read_bytes(), str(path.resolve()), "exec")
        except (SyntaxError, ValueError) as error:
            where = self.place(error, path.stem)
            raise FlipError("E0203", where=where, file=file, problem=_words(error)) from None

    def optional(self, name: str) -> Any:
        """The function ``name`` of trainer.py, else of models.py; None where neither has it."""
        named = ("models",) if self.form is not FormKind.NEUTRAL else ("trainer", "models")
        files = [each for each in named if (self.config.app_dir / f"{each}.py").is_file()]
        found = (getattr(self.module(each), name, None) for each in files)
        return next((function for function in found if callable(function)), None)

    def model(self) -> Any:
        """A fresh ``get_model()`` (or what the job type has in its place), from the job's seed.

        Raises ``FlipError`` E0203, E0204, E0205.
        """
        module = self.module("models")
        seed_everything(initial_seed(self.config.seed))
        name, arguments = model_call(self.config, self.stage)
        function = getattr(module, name, None)
        if not callable(function):
            raise FlipError(
                "E0204",
                where=str(self.config.app_dir / "models.py"),
                file="models.py",
                function=name,
                job_type=self.config.job_type.value,
                signature=_SIGNATURES.get(name) or f"get_model({'stage' if arguments else ''})",
            )
        try:
            return function(*fitting(function, arguments))
        except (Exception, SystemExit) as error:
            raise self._unusable(_words(error), self.place(error, "models")) from None

    def arrays(self, model: Any) -> Arrays:
        import torch

        if not isinstance(model, torch.nn.Module):
            raise self._unusable(f"it returned {type(model).__name__}, not a torch.nn.Module")
        try:
            arrays = to_arrays(model)
        except AppError as error:
            raise self._unusable(str(error)) from None
        if not arrays:
            raise self._unusable("the model has no weights")
        for name, array in arrays.items():
            if array.dtype.kind in "fc" and not np.isfinite(array).all():
                raise self._unusable(f"'{name}' holds NaN or infinity from the start")
        return arrays

    def parts(self, model: Any) -> Parts:
        """What of ``model`` travels. Raises ``FlipError`` E0205 when nothing does."""
        try:
            return parts_of(model, self.config)
        except AppError as error:
            raise self._unusable(str(error), str(self.config.app_dir / CONFIG_FILE)) from None

    def check_kept(self, fresh: Arrays, given: Arrays, parts: Parts, name: str) -> None:
        """Raises ``FlipError`` E0205 when a checkpoint differs in what the sites make themselves."""
        for each in (*parts.frozen, *parts.local):
            if not np.array_equal(fresh[each], given[each], equal_nan=fresh[each].dtype.kind in "fc"):
                raise self._unusable(
                    f"{name} has another '{each}' than a fresh get_model(), and it does not travel "
                    "(AGGREGATE_ONLY_REGEX, FEDBN): the sites would train beside another one; let get_model() make it"
                )

    def check_sent(self, given: Arrays, parts: Parts) -> None:
        """Raises ``FlipError`` E0205 when what stage 1 has trained would not reach the sites in stage 2."""
        kept = [name for name in given if name not in parts.travelling]
        if kept:
            raise self._unusable(
                f"what stage {self.stage} takes over has '{kept[0]}', and it does not travel "
                "(AGGREGATE_ONLY_REGEX, FEDBN): the sites would train beside another one"
            )

    def handed_over(self, previous: Arrays, fresh: Arrays) -> Arrays:
        """What the model of this stage takes from the one before: the whole of it, under one prefix or none.

        Raises ``FlipError`` E0205 when the stage's model does not contain the earlier one.
        """
        first = next(iter(previous))
        prefixes = [name.removesuffix(first) for name in fresh if name == first or name.endswith(f".{first}")]
        for prefix in prefixes:
            found = {f"{prefix}{name}": array for name, array in previous.items()}
            if all(
                name in fresh and fresh[name].shape == array.shape and fresh[name].dtype == array.dtype
                for name, array in found.items()
            ):
                return found
        raise self._unusable(
            f"the model of stage {self.stage} does not contain the one of the stage before (its '{first}', under this "
            "name or inside one module, and all that goes with it): stage 2 starts from what stage 1 has trained"
        )

    def load(self, path: Path) -> Any:
        """A model with the weights of a ``.pt`` file. Raises ``FlipError`` E0205 when they do not fit exactly."""
        import torch

        model = self.model()
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise self._unusable(f"{path.name} is not a file of weights ({type(error).__name__})") from None
        for wrapper in ("state_dict", "model"):  # as Lightning and NVFLARE save them
            if isinstance(stored, dict) and isinstance(stored.get(wrapper), dict):
                stored = stored[wrapper]
        if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
            raise self._unusable(f"{path.name} is not a plain dictionary of tensors")
        try:
            load_into(model, {name: tensor.numpy() for name, tensor in stored.items()})
        except AppError as error:
            raise self._unusable(f"{path.name}: {error}") from None
        return model

    def _unusable(self, problem: str, where: str | None = None) -> FlipError:
        return FlipError("E0205", where=where or str(self.config.app_dir / "models.py"), problem=problem)

    def place(self, error: BaseException, module: str) -> str:
        """``file:line`` of the last frame inside the app, else the module's file."""
        folder = self.config.app_dir.resolve()
        if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(folder):
            return f"{self.config.app_dir / Path(error.filename).relative_to(folder)}:{error.lineno}:{error.offset}"
        for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(folder):
                return f"{self.config.app_dir / file.relative_to(folder)}:{line}"
        return str(self.config.app_dir / f"{module}.py")


def _words(error: BaseException) -> str:
    """Type and message; there is no patient's data where the app is only imported and built."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}" if text else type(error).__name__
