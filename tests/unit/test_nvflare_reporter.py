"""The widget's own decisions: when it refuses to start, and what it makes of an abort."""

from __future__ import annotations

import threading
from pathlib import Path
from uuid import uuid4

import pytest
from nvflare.apis.signal import Signal

from flip_fl.errors import FlipError
from flip_fl.nvflare.reporter import ENDED_BY_ENGINE, FlipReporter
from flip_fl.reporting.local import LocalReporting
from flip_fl.settings import load_server, write_settings_file
from flip_fl.values import ModelStatus


@pytest.fixture
def reporter(tmp_path: Path) -> FlipReporter:
    """A widget in a run without a hub."""
    widget = FlipReporter()
    widget.open(LocalReporting(uuid4(), tmp_path / "state"))
    widget.reporting.lifecycle.initiated()
    return widget


def watch_an_abort(reporter: FlipReporter) -> None:
    """Let the widget watch a run that is aborted, until it has seen that."""
    signal = Signal()
    watcher = threading.Thread(target=reporter._watch, args=(None, signal))
    watcher.start()
    signal.trigger(True)
    watcher.join(60)
    assert not watcher.is_alive()


def test_an_abort_is_noted_while_there_is_time(reporter: FlipReporter) -> None:
    """NVFLARE kills the job's process 10 s after an abort, perhaps before END_RUN: the cause is kept at once."""
    watch_an_abort(reporter)
    assert reporter.reporting.lifecycle.cause is ModelStatus.ERROR
    assert reporter.reporting.lifecycle.finish() is ModelStatus.ERROR


def test_an_abort_after_the_upload_takes_nothing_back(reporter: FlipReporter) -> None:
    """The simulator's clients leave by an abort signal at every good end: results that are stored stay a success."""
    reporter.reporting.lifecycle.uploaded("s3://bucket/key", "0" * 64, 10, 1)
    watch_an_abort(reporter)
    assert reporter.reporting.lifecycle.finish() is ModelStatus.RESULTS_UPLOADED


def test_a_reason_that_is_known_is_not_replaced_by_the_abort_that_follows(reporter: FlipReporter) -> None:
    """A panic aborts the run: what it said is the reason, not that the engine ended."""
    reporter.reporting.lifecycle.fail("Trust_2 in train, round 1: ValueError")
    watch_an_abort(reporter)
    assert reporter.reporting.lifecycle.cause is ModelStatus.ERROR
    assert ENDED_BY_ENGINE not in str(reporter.reporting.lifecycle._reason())


@pytest.mark.parametrize(
    "values", [{"FLIP_ROLE": "server"}, {"LOCAL_DEV": "false"}, {"FLIP_API_INTERNAL_URL": "http://127.0.0.1:9/api"}]
)
def test_a_server_that_says_it_is_one_needs_all_of_its_settings(tmp_path: Path, values: dict[str, str]) -> None:
    """A kit's file that lost its addresses and keys must not run without a hub in silence."""
    write_settings_file(tmp_path / "server.env", values)
    with pytest.raises(FlipError) as refused:
        load_server(tmp_path / "server.env")
    assert refused.value.code == "E0401"
    assert "INTERNAL_SERVICE_KEY" in refused.value.what


def test_without_any_setting_a_server_is_in_development(tmp_path: Path) -> None:
    """A developer who runs the template with NVFLARE's own simulator needs no hub."""
    write_settings_file(tmp_path / "server.env", {"LOCAL_DEV": "true"})
    assert load_server(tmp_path / "server.env") is None
