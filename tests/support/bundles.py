"""The results of a run as they were fetched back from the store."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from flip_fl.simulate.model import RunOutcome


def bundle_of(outcome: RunOutcome) -> Path:
    """The run's one bundle."""
    (bundle,) = (outcome.folder / "results").glob("*.zip")
    return bundle


def weights_of(bundle: Path, model: str = "FL_global_model.pt") -> dict[str, Any]:
    """A model of a bundle: parameter → tensor."""
    import torch

    with zipfile.ZipFile(bundle) as archive:
        loaded: dict[str, Any] = torch.load(io.BytesIO(archive.read(model)), weights_only=True)
    return loaded
