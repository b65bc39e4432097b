"""A model in another format, compared with the original on the same inputs. Runs inside the app's own process only."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip_fl.errors import FlipError

if TYPE_CHECKING:
    import torch

    Inputs = tuple[torch.Tensor, ...]

# Sizes of the batches that are compared; the model is traced with the first.
BATCHES = (2, 1, 5)
DRAWS = 3
SEED = 20260101
# Relative to the largest number of the original's output: the formats' own rounding of float32.
TOLERANCE = 1e-5


def torchscript(model: torch.nn.Module, example: Any, shape: Sequence[int] | None, out: Path) -> dict[str, Any]:
    """Trace ``model`` in evaluation mode, write it to ``out`` and compare what was written with the original.

    ``example``: a tensor or a tuple of tensors, batch first; else ``shape``, of one input without its batch. Raises
    ``FlipError`` E0707 when there is neither, when the model cannot be traced, and when the outputs differ by more than
    ``TOLERANCE`` or hold NaN; ``out`` does not exist then.
    """
    import torch

    model.eval()
    first, others = _inputs(example, shape)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, but still what other runtimes read
        _outputs(model, first, "the model itself fails on the example input")
        try:
            with _told("it cannot be traced", "forward() must take and return tensors"):
                traced = torch.jit.trace(model, first, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
            with _told("it cannot be written", "is there room on the disk?"):
                torch.jit.save(traced, str(out))
                loaded = torch.jit.load(str(out), map_location="cpu")  # type: ignore[no-untyped-call]
            # The first runs of a loaded model are measured, the later ones optimised: both must be right.
            sets = [first, *others, first]
            return {"inputs": len(sets), "tolerance": TOLERANCE, **_compared(model, loaded, sets)}
        except BaseException:
            out.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _told(problem: str, suggestion: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise failed(f"{problem} ({_words(error)})", suggestion) from None


def failed(problem: str, suggestion: str) -> FlipError:
    """E0707."""
    return FlipError("E0707", format="torchscript", problem=problem, suggestion=suggestion)


def _inputs(example: Any, shape: Sequence[int] | None) -> tuple[Inputs, list[Inputs]]:
    """The input to trace with, and more to compare with: other numbers, and other sizes of the batch."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    if shape is not None:
        drawn: list[Inputs] = [
            (torch.randn(batch, *shape, generator=generator),) for batch in (*BATCHES, *BATCHES[:1] * DRAWS)
        ]
        return drawn[0], drawn[1:]
    given = (example,) if isinstance(example, torch.Tensor) else example
    if given is None:
        raise failed(
            "it is not known what its input looks like",
            "give one input's shape without the batch, as --shape 1,28,28, or define example_input() in models.py",
        )
    if not isinstance(given, tuple | list) or not given or not all(isinstance(each, torch.Tensor) for each in given):
        raise failed("example_input() returned no tensors", "return a tensor, or a tuple of them, batch first")
    first = tuple(each.detach() for each in given)
    one = [tuple(each[:1] for each in first)] if min(each.shape[0] if each.ndim else 0 for each in first) > 1 else []
    # Near the example: what is far from it may be nothing that the model was made for.
    return first, [
        *one,
        *(
            tuple(
                each * (1 + 0.1 * torch.randn(each.shape, generator=generator)) if each.is_floating_point() else each
                for each in first
            )
            for _ in range(DRAWS)
        ),
    ]


def _compared(
    model: Callable[..., Any], loaded: Callable[..., Any], sets: Sequence[Inputs]
) -> dict[str, list[int] | float]:
    """The sizes of the batches, and the largest difference between the outputs."""
    most = 0.0
    for inputs in sets:
        wanted = _outputs(model, inputs, f"the model itself fails on a batch of {_batch(inputs)}")
        given = _outputs(loaded, inputs, f"what was written fails on a batch of {_batch(inputs)}")
        if len(wanted) != len(given):
            raise failed(f"it gives {len(given)} tensors, the original {len(wanted)}", "return plain tensors")
        for one, other in zip(wanted, given, strict=True):
            most = max(most, _difference(one, other))
    return {"batches": sorted({_batch(inputs) for inputs in sets}), "max_difference": most}


def _difference(wanted: torch.Tensor, given: torch.Tensor) -> float:
    """The largest difference of two outputs. Raises ``FlipError`` E0707 when it is too large, or no number."""
    import torch

    if wanted.shape != given.shape or wanted.dtype != given.dtype:
        raise failed(
            "its outputs have another shape or type than the original's", "forward() must not depend on values"
        )
    if not wanted.numel():
        return 0.0
    one, other = wanted.to(torch.float64), given.to(torch.float64)
    if not bool(torch.isfinite(one).all()):
        raise failed(
            "the original gives NaN or infinity on the input", "define example_input() in models.py with a real input"
        )
    if not bool(torch.isfinite(other).all()):
        raise failed("it gives NaN or infinity where the original does not", "see what of forward() cannot be traced")
    most = float((one - other).abs().max())
    if not most <= TOLERANCE * max(1.0, float(one.abs().max())):
        raise failed(
            f"its outputs differ from the original's by up to {most:.3g}",
            "forward() must not choose its way by values, nor draw random numbers in evaluation mode",
        )
    return most


def _outputs(model: Callable[..., Any], inputs: Inputs, problem: str) -> list[torch.Tensor]:
    """The tensors that ``model`` gives, in their order."""
    import torch

    torch.manual_seed(SEED)
    try:
        found = list(_tensors(model(*(each.clone() for each in inputs))))
    except Exception as error:
        raise failed(
            f"{problem} ({_words(error)})", "give the shape of one input without the batch (--shape)"
        ) from None
    if not found:
        raise failed("it returns no tensor", "forward() must return tensors")
    return found


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


def _batch(inputs: Inputs) -> int:
    return int(inputs[0].shape[0]) if inputs[0].ndim else 1


def _words(error: Exception) -> str:
    """Type and first line of the message: there is no patient's data where random numbers are put in."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
