"""The end of a run that has a model."""

from __future__ import annotations

import shutil
import threading
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


def test_a_link_in_place_of_a_folder_is_told_and_not_followed(tmp_path: Path) -> None:
    """Somebody who moved the folder to another disk reads why it is still there; what it leads to is not touched."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.npz").touch()
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere")
    assert tidy([tmp_path / "model"]) == [
        "clean-up: model could not be removed (Cannot call rmtree on a symbolic link)"
    ]
    assert (tmp_path / "elsewhere" / "model.npz").is_file()


def test_what_somebody_else_removes_meanwhile_leaves_nothing_behind(tmp_path: Path) -> None:
    """A cleaner that runs beside the server's own clean-up does not keep it from removing the rest."""
    folder = tmp_path / "work"
    folder.mkdir()
    for number in range(3_000):
        (folder / str(number)).touch()

    def remove_too() -> None:
        for number in range(3_000):
            (folder / str(number)).unlink(missing_ok=True)

    other = threading.Thread(target=remove_too)
    other.start()
    problems = tidy([folder])
    other.join()
    assert problems == []
    assert not folder.exists()
