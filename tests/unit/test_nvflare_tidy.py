"""The clean-up at the end of a job."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flip_fl.nvflare.reporter import FlipReporter
from flip_fl.nvflare.upload import UploadResults
from flip_fl.reporting.local import LocalReporting
from flip_fl.values import ModelStatus


def test_a_failing_clean_up_never_changes_the_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that are stored stay a success when a local folder cannot be removed; the hub is told beside it.

    The failing removal is simulated: the tests may run as root, whom no file mode stops.
    """
    reporter = FlipReporter()
    reporting = LocalReporting(uuid4(), tmp_path / "state")
    reporter._reporting = reporting
    reporting.lifecycle.initiated()
    reporting.lifecycle.uploaded("s3://bucket/key", "0" * 64, 10, 1)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    (tmp_path / "work").mkdir()
    UploadResults()._tidy([tmp_path / "work", tmp_path / "not there"], reporter)
    assert reporting.lifecycle.finish() is ModelStatus.RESULTS_UPLOADED
    reporting.close()
