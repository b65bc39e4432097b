"""The stop file: where it lies, and how a long training sees it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from flip_fl.app.stop import StopFlag, request_stop, stop_file


def test_a_stop_is_of_one_model(tmp_path: Path) -> None:
    """Stopping one model's work at a site leaves the others' alone; the id is written in canonical form."""
    mine, other = uuid4(), uuid4()
    path = request_stop(tmp_path / "state", str(mine).upper())
    assert path == stop_file(tmp_path / "state", mine) == tmp_path / "state" / "stop" / str(mine)
    assert StopFlag([path])()
    assert not StopFlag([stop_file(tmp_path / "state", other)])()


def test_an_id_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    """What is no UUID names no file."""
    with pytest.raises(ValueError, match="badly formed"):
        stop_file(tmp_path, "../../etc/passwd")


def test_the_file_system_is_asked_seldom_and_a_stop_stays(tmp_path: Path) -> None:
    """A training may ask at every step: between two looks nothing is read, and a stop is not taken back."""
    file = tmp_path / "stop"
    slow, quick = StopFlag([file], every_s=60), StopFlag([file], every_s=0)
    assert [slow(), quick()] == [False, False]
    file.touch()
    assert [slow(), quick()] == [False, True]
    file.unlink()
    assert quick()


def test_another_word_counts_at_once(tmp_path: Path) -> None:
    """A signal is not held back by the pause between two looks at the file."""
    said: list[bool] = []
    flag = StopFlag([tmp_path / "stop"], lambda: bool(said), every_s=60)
    assert not flag()
    said.append(True)
    assert flag()
