"""What runs inside the child process: the only place where a server lets the researcher's code be imported."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flip_fl.app.arrays import read_arrays, write_arrays
from flip_fl.app.config import AppConfig, load_config
from flip_fl.app.faults import AppError
from flip_fl.app.loader import AppLoader
from flip_fl.app.needs import needs_of
from flip_fl.app.runner import Session, derived_seed, run_task, seed_everything
from flip_fl.app.site import SiteSpec
from flip_fl.app.tensors import Arrays, load_into, to_arrays
from flip_fl.errors import FlipError
from flip_fl.values import SERVER_NAME, JobType, Task

Request = Mapping[str, Any]


def init(request: Request) -> dict[str, Any]:
    """Write the starting weights to ``out``. Raises ``FlipError`` E0203, E0204, E0205."""
    app = _App(request)
    write_arrays(Path(request["out"]), app.arrays(app.model()))
    return {}


def check(request: Request) -> dict[str, Any]:
    """Import every module, look at every function, build the model. Raises ``FlipError`` E0203, E0204, E0205."""
    app = _App(request)
    for function in needs_of(app.config.job_type).functions:
        module = app.module(function.module)
        if not _takes(getattr(module, function.name, None), function.arguments):
            raise FlipError(
                "E0204",
                where=str(app.config.app_dir / f"{function.module}.py"),
                file=f"{function.module}.py",
                function=function.name,
                job_type=app.config.job_type.value,
                signature=function.signature,
            )
    arrays = app.arrays(app.model())
    return _parameters(arrays)


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
    """The app's ``validate`` of the file ``model`` on each cohort (slot → CSV). Raises ``FlipError`` E0702."""
    from flip_fl.data.sources.folder import FolderSource
    from flip_fl.settings import DevSettings

    app = _App(request)
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
        spec = SiteSpec(slot, request["round"], request["total_rounds"], seed=app.config.seed, query=app.config.query)
        result = run_task(Task.VALIDATE, arrays, spec, session)
        if result.failure is not None:
            raise FlipError(
                "E0702",
                bundle=request["name"],
                problem=f"validate() failed on the data of {slot}: {result.failure.headline}",
                suggestion="score it on the data it was validated on",
            )
        metrics[slot] = {"num_examples": result.num_examples, "metrics": result.metrics}
    return {"scores": metrics}


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
    "convert": convert,
}


class _App:
    """The app of a request, with errors in the catalogue's words."""

    def __init__(self, request: Request) -> None:
        self.config: AppConfig = load_config(Path(request["app_dir"]))
        self._stage: str | None = request.get("stage")
        self._loader = AppLoader(self.config.app_dir)

    def module(self, name: str) -> ModuleType:
        try:
            return self._loader.module(name)
        except (Exception, SystemExit) as error:
            raise FlipError("E0203", where=self._place(error, name), file=f"{name}.py", problem=_words(error)) from None

    def model(self) -> Any:
        """A fresh ``get_model()``, from the job's seed. Raises ``FlipError`` E0203, E0204, E0205."""
        module = self.module("models")
        seed_everything(derived_seed(self.config.seed, SERVER_NAME, 0, "init"))
        get_model = getattr(module, "get_model", None)
        staged = self.config.job_type is JobType.DIFFUSION
        if not callable(get_model):
            raise FlipError(
                "E0204",
                where=str(self.config.app_dir / "models.py"),
                file="models.py",
                function="get_model",
                job_type=self.config.job_type.value,
                signature="get_model(stage)" if staged else "get_model()",
            )
        try:
            return get_model(self._stage or "ae") if staged else get_model()
        except (Exception, SystemExit) as error:
            raise self._unusable(_words(error), self._place(error, "models")) from None

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

    def load(self, path: Path) -> Any:
        """A model with the weights of a ``.pt`` file. Raises ``FlipError`` E0205 when they do not fit exactly."""
        import torch

        model = self.model()
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise self._unusable(f"{path.name} is not a file of weights ({type(error).__name__})") from None
        if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
            raise self._unusable(f"{path.name} is not a plain dictionary of tensors")
        try:
            load_into(model, {name: tensor.numpy() for name, tensor in stored.items()})
        except AppError as error:
            raise self._unusable(f"{path.name}: {error}") from None
        return model

    def _unusable(self, problem: str, where: str | None = None) -> FlipError:
        return FlipError("E0205", where=where or str(self.config.app_dir / "models.py"), problem=problem)

    def _place(self, error: BaseException, module: str) -> str:
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


def _takes(function: Any, arguments: int) -> bool:
    """Whether ``function`` can be called with that many positional arguments."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:
        return True  # a callable without a signature that can be read
    return True
