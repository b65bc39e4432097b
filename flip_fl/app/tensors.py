"""Between a torch model and plain arrays. Shapes and dtypes are those of the model's ``state_dict()``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flip_fl.app.faults import AppError

if TYPE_CHECKING:
    import torch

Arrays = dict[str, np.ndarray[Any, Any]]


def to_arrays(model: torch.nn.Module) -> Arrays:
    """Copies of the model's weights and buffers, in the order of its ``state_dict()``.

    Raises ``AppError`` naming the first entry that is no dense tensor of a dtype that numpy has.
    """
    import torch
    from torch.nn.parameter import is_lazy

    arrays: Arrays = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise AppError(f"'{name}' of the model's state_dict() is a {type(value).__name__}, not a tensor")
        if is_lazy(value):
            raise AppError(f"'{name}' of the model has no shape yet (a lazy layer): give its input size")
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise AppError(f"'{name}' of the model is not a dense tensor with values")
        try:
            arrays[name] = value.detach().to("cpu", copy=True).numpy()
        except (TypeError, RuntimeError):
            raise AppError(f"'{name}' of the model is {value.dtype}, which numpy has not") from None
    return arrays


def load_into(model: torch.nn.Module, arrays: Mapping[str, Any]) -> None:
    """Put ``arrays`` into ``model``, exactly: raises ``AppError`` for other names, shapes or dtypes."""
    import torch

    if not isinstance(model, torch.nn.Module):
        raise AppError(f"get_model() returned {type(model).__name__}; it must return a torch.nn.Module")
    own = model.state_dict()
    missing, extra = [n for n in own if n not in arrays], [n for n in arrays if n not in own]
    if missing or extra:
        words = [f"{word} {', '.join(names[:3])}" for word, names in (("no", missing), ("an unknown", extra)) if names]
        raise AppError(f"the weights do not fit get_model(): they have {' and '.join(words)}")
    tensors = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(np.array(array, copy=True))
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise AppError(
                f"the weights do not fit get_model(): '{name}' is {tensor.dtype} of shape {tuple(tensor.shape)}, "
                f"the model's is {own[name].dtype} of shape {tuple(own[name].shape)}"
            )
        tensors[name] = tensor
    model.load_state_dict(tensors, strict=True)
