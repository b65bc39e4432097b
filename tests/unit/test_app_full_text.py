"""The full text of a failure, in the trust's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from flip_fl.app import full_text
from flip_fl.app.full_text import keep_full_text


def _error(text: str) -> ValueError:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_failures_are_appended_for_their_owner_alone(tmp_path: Path) -> None:
    """Later failures do not hide earlier ones, and nobody else on the machine can read them."""
    path = keep_full_text(tmp_path / "state", _error("first \ud800"), "round 1 (train)")
    keep_full_text(tmp_path / "state", _error("second"), "round 2 (train)")
    text = path.read_text()
    assert text.index("round 1 (train)") < text.index("ValueError: first") < text.index("ValueError: second")
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_file_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that fails again and again keeps the last texts within two files."""
    monkeypatch.setattr(full_text, "MAX_FILE_BYTES", 2_000)
    for number in range(100):
        keep_full_text(tmp_path, _error(f"number {number} " + "x" * 100), "round 1 (train)")
    assert "number 99 " in (tmp_path / "failures.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failures.log", "failures.log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 6_000
