"""A server's way to the model: every call runs the app's code in a child process with a scrubbed environment.

The calling process never imports torch or the app. ``main`` is the child's: it reads a JSON request and writes a JSON
answer; arrays travel as ``.npz`` files.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip_fl.app.arrays import Arrays, read_arrays, write_arrays
from flip_fl.app.child import ChildDied, error_answer, run_child
from flip_fl.app.faults import AppError
from flip_fl.app.pictures import Pixels, check_pixels
from flip_fl.errors import FlipError

if TYPE_CHECKING:
    from flip_fl.app.isolation.rules import Isolation
    from flip_fl.app.isolation.server_gate import ServerGate

# Nobody waits longer for pictures of a report.
GENERATE_TIMEOUT_S = 120.0

Shapes = dict[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class SiteScore:
    """What ``validate`` gave at one site."""

    num_examples: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Frame:
    """What stays of a model while a part of it travels: all names in their order, and the arrays that do not travel.

    ``trainable`` are the parameters that optimisers move, as opposed to buffers.
    """

    order: tuple[str, ...]
    kept: Arrays
    trainable: frozenset[str]

    @classmethod
    def around(cls, arrays: Mapping[str, Any], travelling: Iterable[str], trainable: Iterable[str]) -> Frame:
        """The frame of a model's ``arrays`` of which ``travelling`` travels."""
        parts = frozenset(travelling)
        kept = {name: array for name, array in arrays.items() if name not in parts}
        return cls(tuple(arrays), kept, frozenset(trainable))

    @property
    def travelling(self) -> tuple[str, ...]:
        """What travels, in order."""
        return tuple(name for name in self.order if name not in self.kept)

    def whole(self, part: Mapping[str, Any]) -> Arrays:
        """The whole model around ``part``, which has all that travels."""
        return {name: self.kept[name] if name in self.kept else part[name] for name in self.order}


@dataclass(frozen=True)
class StartingModel:
    """What a run, or a stage of it, starts from: the arrays that go to the sites, and the frame around them."""

    sent: Arrays
    frame: Frame

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> StartingModel:
        """A model of which everything travels and, for all that is known, is trained."""
        return cls(dict(arrays), Frame.around(arrays, arrays, arrays))

    @property
    def arrays(self) -> Arrays:
        """The whole model."""
        return self.frame.whole(self.sent)


def starting_model(
    app_dir: Path,
    stage: str | None = None,
    *,
    checkpoint: Path | None = None,
    previous: Mapping[str, Any] | None = None,
    walls: Isolation | None = None,
) -> StartingModel:
    """A fresh ``models.get_model()``, always the same for one SEED, or the weights of the file ``checkpoint``.

    ``stage`` is the job's, or the name of a model to evaluate: one with a ``path`` is built by ``get_model_for_path``.
    ``previous`` is the result of the stage before, which the model of this ``stage`` contains. ``walls``: how far the
    app's process is kept apart (None: it has no key, and no walls). Raises ``FlipError`` E0203 (models.py cannot be
    imported), E0204 (no get_model), E0205 (its model, or the checkpoint, cannot be used).
    """
    with _folders() as (handed, made):
        out, given = made / "initial.npz", handed / "previous.npz"
        if previous is not None:
            write_arrays(given, previous)
        answer = _ask(
            "init",
            app_dir,
            _gate(walls, app_dir, [handed, *([] if checkpoint is None else [checkpoint])], made),
            stage=stage,
            out=str(out),
            checkpoint=None if checkpoint is None else str(checkpoint.resolve()),
            previous=None if previous is None else str(given),
        )
        arrays = read_arrays(_no_link(out, app_dir))
        frame = Frame.around(arrays, answer["travelling"], answer["trainable"])
        return StartingModel({name: arrays[name] for name in frame.travelling}, frame)


def initial_arrays(app_dir: Path, stage: str | None = None) -> Arrays:
    """The arrays of ``starting_model``."""
    return starting_model(app_dir, stage).arrays


def check_code(app_dir: Path) -> Shapes:
    """Import the app's modules and build its model; the shapes and dtypes of the weights. Raises as above."""
    return built_model(app_dir)[0]


def built_model(app_dir: Path) -> tuple[Shapes, tuple[str, ...]]:
    """As ``check_code``, with the names of what of the weights travels (in the last stage)."""
    answer = _ask("check", app_dir)
    return _shapes(answer), tuple(answer["travelling"])


def export_model(app_dir: Path, arrays: Mapping[str, Any], out: Path, stage: str | None = None) -> None:
    """``export_models`` of one model."""
    export_models(app_dir, {out: arrays}, stage)


def export_models(
    app_dir: Path,
    models: Mapping[Path, Mapping[str, Any] | Path],
    stage: str | None = None,
    *,
    walls: Isolation | None = None,
) -> None:
    """Write each model's arrays to its path as a plain ``dict[str, Tensor]`` that was loaded again, strictly.

    A model is given by its arrays or by the file that ``write_arrays`` wrote, which this process does not read.
    ``walls`` as of ``starting_model``. Raises ``FlipError`` E0205 when the weights do not fit ``get_model()`` exactly,
    E0702 when they cannot be written.
    """
    if not models:
        return
    # On the same disk as where they go to.
    with _folders(next(iter(models)).parent) as (handed, made):
        given: dict[Path, Path] = {}
        for number, (out, arrays) in enumerate(models.items()):
            given[out] = arrays.resolve() if isinstance(arrays, Path) else handed / f"{number}.npz"
            if not isinstance(arrays, Path):
                write_arrays(given[out], arrays)
        written = {out: made / f"{number}.pt" for number, out in enumerate(models)}
        _ask(
            "export",
            app_dir,
            _gate(walls, app_dir, given.values(), made),
            stage=stage,
            models={str(written[out]): str(file) for out, file in given.items()},
        )
        for out, file in written.items():
            shutil.move(_no_link(file, app_dir), out)


def load_model(app_dir: Path, model: Path, stage: str | None = None) -> Shapes:
    """``load_models`` of one file."""
    return load_models(app_dir, [model], stage)[0]


def load_models(
    app_dir: Path, models: Sequence[Path], stage: str | None = None, *, walls: Isolation | None = None
) -> list[Shapes]:
    """Load each file strictly into ``get_model()``; shapes and dtypes. Raises ``FlipError`` E0205."""
    gate = _gate(walls, app_dir, models)
    answer = _ask("load", app_dir, gate, stage=stage, models=[str(model.resolve()) for model in models])
    return [_shapes(each) for each in answer["models"]]


def score(
    app_dir: Path,
    model: Path,
    cohorts: Mapping[str, Path],
    *,
    images: Path | None = None,
    round: int = 1,
    total_rounds: int = 1,
    stage: str | None = None,
    name: str = "",
) -> dict[str, SiteScore]:
    """The app's own ``validate`` of ``model`` on each site's cohort (slot → CSV), as in round ``round``.

    Raises ``FlipError`` E0205 when the model does not load, E0702 (calling it ``name``) when ``validate`` fails.
    """
    answer = _ask(
        "score",
        app_dir,
        model=str(model.resolve()),
        cohorts={slot: str(path.resolve()) for slot, path in cohorts.items()},
        images=None if images is None else str(images.resolve()),
        round=round,
        total_rounds=total_rounds,
        stage=stage,
        name=name or str(model),
    )
    return {slot: SiteScore(**found) for slot, found in answer["scores"].items()}


def generate(app_dir: Path, model: Path, count: int, timeout_s: float = GENERATE_TIMEOUT_S) -> Pixels | None:
    """``count`` pictures that the app's own ``generate`` makes with ``model``; None where it has no such function.

    Shapes as of ``pixels_of``. Raises ``FlipError`` E0205 when the model does not load, E0214 when nothing usable is
    made in ``timeout_s``.
    """
    with tempfile.TemporaryDirectory(prefix="flip-pictures-") as folder:
        out = Path(folder, "pictures.npz")
        try:
            request = {"app_dir": str(app_dir.absolute()), "model": str(model.resolve()), "count": count}
            if not run_child("generate", {**request, "out": str(out)}, timeout_s)["found"]:
                return None
            pixels = read_arrays(out)["pixels"]
            check_pixels(pixels, count)
        except (ChildDied, AppError) as error:
            raise FlipError("E0214", where=str(app_dir), problem=str(error)) from None
        except (OSError, ValueError, KeyError):
            raise FlipError("E0214", where=str(app_dir), problem="its process left no pictures") from None
    return pixels


def convert(app_dir: Path, model: Path, out: Path, *, shape: Sequence[int] | None, stage: str | None) -> dict[str, Any]:
    """Write the model of a ``.pt`` file as TorchScript to ``out``, compared with the original: what was compared.

    Raises ``FlipError`` E0205 when the model does not load, E0707 when it cannot be exported or is not the same then.
    """
    return _ask(
        "convert",
        app_dir,
        model=str(model.resolve()),
        out=str(out.resolve()),
        shape=None if shape is None else list(shape),
        stage=stage,
    )


@contextlib.contextmanager
def _folders(beside: Path | None = None) -> Iterator[tuple[Path, Path]]:
    """A folder with what a child is handed, and one for what it makes; both are removed."""
    with tempfile.TemporaryDirectory(prefix=".flip-weights-", dir=beside) as folder:
        handed, made = Path(folder, "handed").resolve(), Path(folder, "made").resolve()
        handed.mkdir()
        made.mkdir()
        yield handed, made


def _gate(
    walls: Isolation | None, app_dir: Path, read: Iterable[Path], *write: Path
) -> Callable[[Path], ServerGate] | None:
    """The way behind ``walls`` of a child that may open these places and the app's folder."""
    from flip_fl.app.isolation.rules import Level
    from flip_fl.app.isolation.server_gate import ServerGate

    if walls is None or walls.level is not Level.FULL:
        return None

    return lambda own: ServerGate(walls, read=[app_dir, *read], write=[own, *write])


def _no_link(path: Path, app_dir: Path) -> Path:
    """``path``, if a file lies there that the child has made; a link would lead to one that it may not open."""
    if path.is_symlink() or not path.is_file():
        raise FlipError("E0205", where=str(app_dir / "models.py"), problem="its process left no file with the weights")
    return path


def _ask(
    command: str, app_dir: Path, gate: Callable[[Path], ServerGate] | None = None, /, **request: Any
) -> dict[str, Any]:
    try:
        # The path is sent as given, so that errors name it as the user did; the child starts elsewhere.
        return run_child(command, {"app_dir": str(app_dir.absolute()), **request}, gate=gate)
    except ChildDied as died:
        raise FlipError("E0205", where=str(app_dir / "models.py"), problem=str(died)) from None
    except FlipError as error:
        if error.where is not None:
            error.where = error.where.replace(str(app_dir.absolute()), str(app_dir), 1)
        raise


def _shapes(answer: Mapping[str, Any]) -> Shapes:
    return {name: (tuple(shape), dtype) for name, (shape, dtype) in answer["parameters"].items()}


def main(argv: Sequence[str]) -> int:
    """The child: run a command (its name, the request's file, the answer's). 0 also for an error in the answer.

    A fourth word is the number of a socket: walls are entered first.
    """
    from flip_fl.app.isolation.gate import passed

    if argv[3:] and not passed(int(argv[3])):
        return 1
    from flip_fl.app.guest import COMMANDS

    command, request, answer = argv[0], Path(argv[1]), Path(argv[2])
    try:
        result = COMMANDS[command](json.loads(request.read_text(encoding="utf-8")))
    except FlipError as error:
        result = error_answer(error)
    answer.write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
    return 0
