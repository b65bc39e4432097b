"""The end of a run that has a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flip_fl.results.delivery import tidy


def test_a_failing_clean_up_is_told_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder that cannot be removed is a sentence beside the outcome, never an exception.

    The failing removal is simulated: the tests may run as root, whom no file mode stops.
    """

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "work").mkdir()
    monkeypatch.setattr(shutil, "rmtree", refuse)
    problems = tidy([tmp_path / "work", tmp_path / "not there"])
    assert problems == ["clean-up: work could not be removed (Permission denied)"]
