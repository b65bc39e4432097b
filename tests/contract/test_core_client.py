"""What each operation of the FLIP client raises, logs and returns, in production and in development."""

from __future__ import annotations

import inspect
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import requests

from flip_fl import FLIP, FLIPBase, FlipError, ModelStatus, ResourceType, ResultsUploadError
from flip_fl.core import standard
from flip_fl.core.journal import JOURNAL, read_journal
from flip_fl.core.standard import FLIPStandardDev, FLIPStandardProd
from flip_fl.errors import CleanupError
from flip_fl.http import HttpConnectionError, HttpStatusError
from flip_fl.results.sending import send
from flip_fl.wire import MetricItem, StatusItem
from tests.support.core import (
    HUB_KEY,
    TRUST_KEY,
    clean_environment,
    client_values,
    everything_logged,
    server_values,
    settings_at,
)
from tests.support.recording_server import Answer, RecordingServer, recording_server

MODEL = "5b1c5a2e-7f2c-4b53-9a3d-2f6f0f7f8a11"
SLOT = "Trust_1"
ACCESSION = "ACC-CANARY-0042"
QUERY = "SELECT canary_column FROM omop.person"
PROJECT = "gAAAA-canary-project"
BODY_CANARY = "nhs-number-9434765919"

Call = Callable[[FLIPBase], Any]

SERVER_CALLS: dict[str, Call] = {
    "update_status": lambda flip: flip.update_status(MODEL, ModelStatus.PREPARED),
    "send_metrics": lambda flip: flip.send_metrics(SLOT, MODEL, "auc", 0.5, 1),
    "send_event": lambda flip: flip.send_event(MODEL, "ROUND_STARTED", None, 1, {"total_rounds": 5}),
    "send_handled_exception": lambda flip: flip.send_handled_exception(f"Traceback {BODY_CANARY}", SLOT, MODEL),
}
CLIENT_CALLS: dict[str, Call] = {
    "get_dataframe": lambda flip: flip.get_dataframe(PROJECT, QUERY),
    "get_by_accession_number": lambda flip: flip.get_by_accession_number(PROJECT, ACCESSION),
    "get_resources": lambda flip: flip.get_resources(PROJECT, ACCESSION, [ResourceType.NIFTI]),
    "add_resource": lambda flip: flip.add_resource(PROJECT, ACCESSION, "1", "SEG", [f"{ACCESSION}.nii.gz"]),
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture
def service() -> Iterator[RecordingServer]:
    with recording_server() as server:
        yield server


@pytest.fixture
def server(service: RecordingServer, tmp_path: Path) -> FLIPBase:
    return FLIP(role="server", settings_file=settings_at(tmp_path / "server", server_values(service.url)))


@pytest.fixture
def client(service: RecordingServer, tmp_path: Path) -> FLIPBase:
    (tmp_path / "images").mkdir()
    values = client_values(service.url, service.url, tmp_path / "images", FLIP_TRUST_READ_TIMEOUT_S="1")
    return FLIP(role="client", settings_file=settings_at(tmp_path / "client", values))


@pytest.fixture
def dev(tmp_path: Path) -> FLIPBase:
    cohort = tmp_path / "cohort.csv"
    cohort.write_text(f"accession_id,age\n{ACCESSION},61\n007,47\n")
    values = {
        "LOCAL_DEV": "true",
        "DEV_DATAFRAME": str(cohort),
        "DEV_IMAGES_DIR": str(tmp_path / "images"),
        "FLIP_STATE_DIR": str(tmp_path / "state"),
    }
    return FLIP(settings_file=settings_at(tmp_path / "dev", values))


# -- what a service that refuses or fails leads to ----------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 500, 302])
@pytest.mark.parametrize("name", SERVER_CALLS)
def test_a_hub_that_refuses_is_logged_and_never_raises(
    server: FLIPBase,
    service: RecordingServer,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    name: str,
    status: int,
) -> None:
    """Telemetry must not end a training run; what is logged is the code, the route and the model, never a body."""
    service.script(Answer(status, {"detail": f"row {BODY_CANARY}"}))
    assert SERVER_CALLS[name](server) is (False if name == "update_status" else None)
    logged = everything_logged(caplog, capsys)
    assert f"HTTP {status}" in logged
    assert MODEL in logged
    for canary in (BODY_CANARY, HUB_KEY):
        assert canary not in logged


@pytest.mark.parametrize("name", SERVER_CALLS)
def test_a_hub_that_hangs_up_or_is_not_there_is_logged_and_never_raises(
    server: FLIPBase, service: RecordingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Nor does a hub that answers nothing at all."""
    service.script(Answer(hang_up=True))
    assert SERVER_CALLS[name](server) in (False, None)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and not listening; nobody else gets it meanwhile
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        absent = FLIP(role="server", settings_file=settings_at(tmp_path / "x", server_values(address)))
        assert SERVER_CALLS[name](absent) in (False, None)
    assert capsys.readouterr().err.count("no answer") == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 500, 302])
@pytest.mark.parametrize("name", CLIENT_CALLS)
def test_a_trust_that_refuses_is_raised_with_its_status_and_without_its_body(
    client: FLIPBase,
    service: RecordingServer,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    name: str,
    status: int,
) -> None:
    """An app can tell 403 from 404, and no text, repr, attribute or log holds what the service wrote."""
    service.script(Answer(status, {"detail": f"row {BODY_CANARY}"}, {"Location": "http://127.0.0.1:9/"}))
    with pytest.raises(requests.HTTPError) as caught:
        CLIENT_CALLS[name](client)
    error = caught.value
    assert error.response is not None
    assert error.response.status_code == status
    shown = f"{error} {error!r} {error.response.text} {vars(error)} {everything_logged(caplog, capsys)}"
    for canary in (BODY_CANARY, TRUST_KEY, ACCESSION, QUERY, PROJECT):
        assert canary not in shown


@pytest.mark.parametrize("name", CLIENT_CALLS)
def test_a_trust_that_hangs_up_or_is_not_there_is_a_connection_error(
    client: FLIPBase, service: RecordingServer, name: str
) -> None:
    """Also one whose answer never comes: a stalled service once hung a whole federation."""
    service.script(Answer(hang_up=True))
    with pytest.raises(requests.ConnectionError) as caught:
        CLIENT_CALLS[name](client)
    assert ACCESSION not in f"{caught.value!r} {caught.value.__cause__!r}"
    gate = threading.Event()
    service.script(Answer(wait=gate))
    began = time.monotonic()
    try:
        with pytest.raises(requests.ConnectionError, match="ReadTimeout"):
            CLIENT_CALLS[name](client)
    finally:
        gate.set()
    assert 0.9 < time.monotonic() - began < 20


FIXED_TEXTS = (
    "Cohort is too small for row-level data to be released.",
    "No approved cohort snapshot exists for this project.",
    "Not authenticated: trust-internal service key is missing.",
    "Trust-internal service auth not configured.",
    "Invalid trust-internal service key.",
)


@pytest.mark.parametrize("text", FIXED_TEXTS)
def test_a_refusal_in_a_documented_text_is_shown_word_for_word(
    client: FLIPBase, service: RecordingServer, text: str
) -> None:
    """A refusal used to be shown as "400 Bad Request" without its reason."""
    service.script(Answer(403, {"detail": text}))
    with pytest.raises(HttpStatusError, match=text.replace(".", r"\.")):
        client.get_dataframe(PROJECT, QUERY)
    service.script(Answer(403, {"detail": f"{text} Row: {BODY_CANARY}"}))
    with pytest.raises(HttpStatusError) as caught:
        client.get_dataframe(PROJECT, QUERY)
    assert str(caught.value) == "POST /cohort/dataframe: HTTP 403"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', {"a": 1}, {"a": [1], "b": []}, {"a": {"0": 1}}])
def test_a_cohort_that_is_no_table_is_an_error_without_its_content(
    client: FLIPBase, service: RecordingServer, body: Any
) -> None:
    """What cannot be read as a table is not half read."""
    service.script(Answer(body=body))
    with pytest.raises(HttpConnectionError, match="POST /cohort/dataframe"):
        client.get_dataframe(PROJECT, QUERY)


@pytest.mark.parametrize("body", [b"", {"path": None}, {"path": ""}, {"path": 7}, {}, ["x"]])
def test_an_answer_without_a_folder_is_an_error(client: FLIPBase, service: RecordingServer, body: Any) -> None:
    """The imaging service's word is one path."""
    service.script(Answer(body=body))
    with pytest.raises(HttpConnectionError):
        client.get_by_accession_number(PROJECT, ACCESSION)


def test_a_settings_file_may_be_named_by_text(service: RecordingServer, tmp_path: Path) -> None:
    """As people write it in a notebook; a missing one is named, whichever way."""
    file = settings_at(tmp_path, client_values(service.url, service.url, tmp_path / "images"))
    assert isinstance(FLIP(settings_file=str(file)), FLIPStandardProd)
    with pytest.raises(FlipError, match=r"the settings file is gone\.env"):
        FLIP(settings_file="gone.env")


@pytest.mark.parametrize("path", ["/etc", "../secrets", "/", "link"])
def test_a_folder_outside_the_images_is_refused(
    client: FLIPBase, service: RecordingServer, tmp_path: Path, path: str
) -> None:
    """Absolute, climbing or through a link: a path that others give stays inside IMAGES_DIR."""
    (tmp_path / "images" / "link").symlink_to(tmp_path)
    service.script(Answer(body={"path": path if path.startswith(("/", "..")) else str(tmp_path / "images" / path)}))
    with pytest.raises(FlipError) as caught:
        client.get_by_accession_number(PROJECT, ACCESSION)
    assert caught.value.code == "E0704"
    # Most often it is a setting that does not fit the service's, and no attack: the one to correct is named.
    assert caught.value.fix.startswith("set IMAGES_DIR to the folder in which the service puts the studies of NET_ID (")


def test_numeric_accession_numbers_are_handed_on_as_text(client: FLIPBase, service: RecordingServer) -> None:
    """What the cohort gives must be what `get_by_accession_number` takes."""
    service.script(Answer(body={"accession_id": [7, None, "008"]}))
    assert list(client.get_dataframe(PROJECT, QUERY)["accession_id"])[::2] == ["7", "008"]


# -- arguments ----------------------------------------------------------------------------------------------------

WRONG_ARGUMENTS: list[tuple[type[Exception], Call]] = [
    (TypeError, lambda f: f.get_dataframe(7, QUERY)),  # type: ignore[arg-type]
    (TypeError, lambda f: f.get_dataframe(PROJECT, None)),  # type: ignore[arg-type]
    (TypeError, lambda f: f.get_by_accession_number(7, ACCESSION)),  # type: ignore[arg-type]
    (TypeError, lambda f: f.get_by_accession_number(PROJECT, 42)),  # type: ignore[arg-type]
    (TypeError, lambda f: f.get_by_accession_number(PROJECT, ACCESSION, "NIFTI")),  # type: ignore[arg-type]
    (TypeError, lambda f: f.get_by_accession_number(PROJECT, ACCESSION, ["SEG"])),  # type: ignore[list-item]
    (TypeError, lambda f: f.get_by_accession_number(PROJECT, ACCESSION, None)),  # type: ignore[arg-type]
    (ValueError, lambda f: f.get_by_accession_number(PROJECT, ACCESSION, [])),
    (ValueError, lambda f: f.get_resources(PROJECT, ACCESSION, [])),
    (TypeError, lambda f: f.add_resource(7, ACCESSION, "1", "SEG", [])),  # type: ignore[arg-type]
    (TypeError, lambda f: f.add_resource(PROJECT, 7, "1", "SEG", [])),  # type: ignore[arg-type]
    (TypeError, lambda f: f.add_resource(PROJECT, ACCESSION, 1, "SEG", [])),  # type: ignore[arg-type]
    (TypeError, lambda f: f.add_resource(PROJECT, ACCESSION, "1", None, [])),  # type: ignore[arg-type]
    (TypeError, lambda f: f.add_resource(PROJECT, ACCESSION, "1", "SEG", "x.nii")),  # type: ignore[arg-type]
    (TypeError, lambda f: f.add_resource(PROJECT, ACCESSION, "1", "SEG", [7])),  # type: ignore[list-item]
]


@pytest.mark.parametrize("number", range(len(WRONG_ARGUMENTS)))
def test_wrong_arguments_are_refused_before_any_call(
    client: FLIPBase, dev: FLIPBase, service: RecordingServer, number: int
) -> None:
    """In development as in production, so that what works on a laptop works in a trust."""
    kind, call = WRONG_ARGUMENTS[number]
    for flip in (client, dev):
        with pytest.raises(kind) as caught:
            call(flip)
        assert type(caught.value) is kind
        assert ACCESSION not in str(caught.value)
    assert service.requests == []


@pytest.mark.parametrize("accession", ["../x", "..", ".", "/etc", "a/b", "a\\b", "", "  ", "a\0b", "1..2", "a\nb"])
def test_an_accession_number_that_could_be_a_path_is_refused_before_any_path_is_built(
    client: FLIPBase, dev: FLIPBase, service: RecordingServer, tmp_path: Path, accession: str
) -> None:
    """And the refusal does not show it."""
    before = sorted(tmp_path.rglob("*"))
    for flip in (client, dev):
        for call in (
            lambda f: f.get_by_accession_number(PROJECT, accession),
            lambda f: f.get_resources(PROJECT, accession, [ResourceType.SEG]),
            lambda f: f.add_resource(PROJECT, accession, "1", "SEG", ["x.nii"]),
        ):
            with pytest.raises(FlipError) as caught:
                call(flip)
            assert caught.value.code == "E0903"
            assert len(accession.strip()) < 3 or accession not in caught.value.text()
    assert service.requests == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("file", ["/etc/passwd", "../x.nii", "a/../../x", "C:\\x", "..\\x", "", "a\0b"])
def test_a_file_that_leads_out_of_the_upload_folder_is_refused(
    client: FLIPBase, dev: FLIPBase, service: RecordingServer, file: str
) -> None:
    """The file is named by its place in the list: its name often holds an accession number."""
    for flip in (client, dev):
        with pytest.raises(FlipError) as caught:
            flip.add_resource(PROJECT, ACCESSION, "1", "SEG", ["fine.nii", file])
        assert caught.value.code == "E0704"
        assert "files[1]" in str(caught.value)
    assert service.requests == []


def test_reports_have_checked_arguments(server: FLIPBase, dev: FLIPBase, service: RecordingServer) -> None:
    """Text that is no text is refused; a client may be unknown."""
    for flip in (server, dev):
        with pytest.raises(TypeError, match="formatted_exception"):
            flip.send_handled_exception(ValueError("x"), SLOT, MODEL)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="client_name"):
            flip.send_handled_exception("x", 7, MODEL)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="Invalid model status: DONE; known: PENDING, INITIATED"):
            flip.update_status(MODEL, "DONE")
    assert service.requests == []
    server.send_handled_exception("x", None, MODEL)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (SLOT, MODEL, "auc", "high", 1),
        (SLOT, MODEL, "auc", None, 1),
        (SLOT, MODEL, "auc", [0.5, 0.6], 1),
        (SLOT, MODEL, "auc", np.array([0.5, 0.6]), 1),
        (SLOT, MODEL, "auc", 0.5, 1.5),
        (SLOT, MODEL, "auc", 0.5, "first"),
        (SLOT, MODEL, 7, 0.5, 1),
        (None, MODEL, "auc", 0.5, 1),
        (SLOT, MODEL, "auc", 0.5, 1, "x"),
        (SLOT, "model-1", "auc", 0.5, 1),
        (SLOT, MODEL, "auc", 10**400, 1),
    ],
    ids=str,
)
def test_a_metric_that_cannot_be_sent_is_logged_and_never_raises(
    server: FLIPBase, service: RecordingServer, capsys: pytest.CaptureFixture[str], arguments: tuple[Any, ...]
) -> None:
    """A typing mistake in a trainer must not cost the run."""
    assert server.send_metrics(*arguments) is None
    assert service.requests == []
    logged = capsys.readouterr().err
    assert "a metric of" in logged
    assert "not sent" in logged


def test_whatever_is_a_number_is_sent_as_one(server: FLIPBase, service: RecordingServer) -> None:
    """Trainers hand over numpy scalars, and rounds as they come from arrays."""
    server.send_metrics(SLOT, MODEL, "auc", np.float32(0.5), np.int64(3), x_value=np.array(2.0))  # type: ignore[arg-type]
    body = service.requests[0].json
    assert (body["result"], body["global_round"], body["x_value"]) == (0.5, 3, 2.0)


# -- roles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVER_CALLS)
def test_a_client_is_refused_every_operation_of_the_server(
    client: FLIPBase, service: RecordingServer, name: str
) -> None:
    """A client process never calls the hub: enforced, not only documented."""
    with pytest.raises(FlipError) as caught:
        SERVER_CALLS[name](client)
    assert caught.value.code == "E0407"
    assert name in str(caught.value)
    with pytest.raises(FlipError):
        client.upload_results_to_s3("x", MODEL)
    assert service.requests == []


@pytest.mark.parametrize("name", CLIENT_CALLS)
def test_the_server_is_refused_every_operation_of_a_client(
    server: FLIPBase, service: RecordingServer, name: str
) -> None:
    """Patient data is only for the trust's own process."""
    with pytest.raises(FlipError, match="this process is the FL server") as caught:
        CLIENT_CALLS[name](server)
    assert caught.value.code == "E0407"
    assert service.requests == []


def test_the_role_is_said_else_set_else_told_by_the_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No role at all, or both keys and no role, is an error that names FLIP_ROLE and both keys."""
    both = server_values("http://127.0.0.1:9") | client_values("http://127.0.0.1:9", "http://127.0.0.1:9", tmp_path)
    for name, value in both.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FLIP_ROLE")
    assert _role(FLIP(role="server")) == "server"
    assert _role(FLIP(role="client")) == "client"
    with pytest.raises(FlipError, match="both INTERNAL_SERVICE_KEY and TRUST_INTERNAL_SERVICE_KEY") as caught:
        FLIP()
    assert "FLIP_ROLE" in caught.value.text()
    monkeypatch.setenv("FLIP_ROLE", "client")
    assert _role(FLIP()) == "client"
    monkeypatch.delenv("FLIP_ROLE")
    monkeypatch.delenv("INTERNAL_SERVICE_KEY")
    assert _role(FLIP()) == "client"
    monkeypatch.delenv("TRUST_INTERNAL_SERVICE_KEY")
    with pytest.raises(FlipError, match="none of FLIP_ROLE, INTERNAL_SERVICE_KEY") as caught:
        FLIP()
    assert caught.value.code == "E0406"


def _role(flip: FLIPBase) -> str:
    assert isinstance(flip, FLIPStandardProd)
    return flip.role.value


# -- the factory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job_type", ["standard", "evaluation", "fed_opt", "diffusion_model", "fed_opt_client_api"])
def test_every_job_type_has_a_client(job_type: str) -> None:
    """`FLIP()` takes a job's type as it stands in config.json."""
    assert isinstance(FLIP(job_type), FLIPStandardDev)


def test_an_unknown_job_type_or_role_lists_the_known_ones() -> None:
    """A ValueError says what would have been right."""
    with pytest.raises(ValueError, match="Known job types: standard, evaluation, fed_opt, diffusion_model"):
        FLIP("standrad")
    with pytest.raises(ValueError, match="hub"):
        FLIP(role="hub")


@pytest.mark.parametrize("name", ["FLIP_API_INTERNAL_URL", "INTERNAL_SERVICE_KEY", "UPLOADED_FEDERATED_DATA_BUCKET"])
def test_a_server_with_a_missing_setting_refuses_to_start_and_names_it(tmp_path: Path, name: str) -> None:
    """A missing setting once switched off status, metrics and upload in silence."""
    values = server_values("http://127.0.0.1:9")
    del values[name]
    with pytest.raises(FlipError, match=name) as caught:
        FLIP(settings_file=settings_at(tmp_path, values))
    assert caught.value.code == "E0401"


@pytest.mark.parametrize("name", ["DATA_ACCESS_API_URL", "IMAGING_API_URL", "TRUST_INTERNAL_SERVICE_KEY", "IMAGES_DIR"])
def test_a_client_with_a_missing_setting_refuses_to_start_and_names_it(tmp_path: Path, name: str) -> None:
    """And so does a client."""
    values = client_values("http://127.0.0.1:9", "http://127.0.0.1:9", tmp_path)
    del values[name]
    with pytest.raises(FlipError, match=name) as caught:
        FLIP(settings_file=settings_at(tmp_path, values))
    assert caught.value.code == "E0401"


def test_a_production_setting_without_local_dev_is_an_error_naming_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset means development only while nothing of production is set."""
    assert isinstance(FLIP(), FLIPStandardDev)
    monkeypatch.setenv("FLIP_API_INTERNAL_URL", "http://127.0.0.1:9/api")
    with pytest.raises(FlipError, match="development or production") as caught:
        FLIP()
    assert "LOCAL_DEV" in caught.value.text()
    assert "FLIP_API_INTERNAL_URL" in caught.value.text()


def test_nothing_is_read_before_the_client_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad variable once broke `import`, because settings stood in a default argument."""
    for name in ("LOCAL_DEV", "FLIP_ROLE", "FLIP_TRUST_READ_TIMEOUT_S"):
        monkeypatch.setenv(name, "nonsense")
    import importlib

    import flip_fl.core.factory
    import flip_fl.core.standard

    importlib.reload(flip_fl.core.factory)
    with pytest.raises(FlipError, match="LOCAL_DEV is 'nonsense'; it must be true or false"):
        flip_fl.core.factory.FLIP()


def test_the_logger_is_the_apps_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    """Apps call `flip.logger`: its class's name, INFO, its own handler, nothing passed on to the root."""
    FLIP()
    logger = FLIP().logger
    assert (logger.name, logger.level, logger.propagate) == (
        "FLIPStandardDev",
        logging.INFO,
        False,
    )
    logger.debug("not this")
    logger.info("hello from the app")
    shown = capsys.readouterr().err
    assert shown.count("hello from the app") == 1
    assert "not this" not in shown


def test_the_operations_and_their_arguments_are_those_of_the_contract() -> None:
    """Existing apps call these names, by position and by keyword."""
    expected = {
        "get_dataframe": "project_id query",
        "get_by_accession_number": "project_id accession_id resource_type",
        "add_resource": "project_id accession_id scan_id resource_id files",
        "update_status": "model_id new_model_status",
        "send_metrics": "client_name model_id label value round x_value x_label",
        "send_event": "model_id event_type client_name global_round details",
        "send_handled_exception": "formatted_exception client_name model_id",
        "upload_results_to_s3": "results_folder model_id",
        "cleanup": "path",
    }
    for cls in (FLIPBase, FLIPStandardProd, FLIPStandardDev):
        for name, parameters in expected.items():
            assert " ".join(list(inspect.signature(getattr(cls, name)).parameters)[1:]) == parameters
    for missing in ("get_images", "download_data_from_s3"):
        assert not hasattr(FLIPBase, missing)


# -- clean-up and results -----------------------------------------------------------------------------------------


def test_cleanup_removes_the_tree(server: FLIPBase, client: FLIPBase, tmp_path: Path) -> None:
    """Either role may remove what its job left."""
    for flip in (server, client):
        tree = tmp_path / "job" / "images"
        tree.mkdir(parents=True)
        (tree / "a.nii.gz").write_text("x")
        assert flip.cleanup(tree.parent) is None
        assert not tree.parent.exists()


def test_what_cannot_be_cleaned_up_is_an_error_with_its_cause(
    server: FLIPBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link, a file, nothing: the path is named and the reason chained."""
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "file").write_text("x")
    for name in ("link", "file", "nothing"):
        with pytest.raises(CleanupError, match=f"^Failed to clean up path: {tmp_path / name}$") as caught:
            server.cleanup(str(tmp_path / name))
        assert isinstance(caught.value.__cause__, OSError)
    assert kept.is_dir()
    assert (tmp_path / "file").is_file()


@pytest.mark.parametrize("path", ["", ".", "/", "..", "~"])
def test_cleanup_never_removes_the_ground_it_stands_on(
    server: FLIPBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """An unset variable makes a path the working directory, and a job's clean-up a catastrophe."""
    here = tmp_path / "home" / "work"
    here.mkdir(parents=True)
    (here / "file").write_text("x")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    # The guard is what must refuse: without it, this test itself must not remove anything.
    monkeypatch.setattr("shutil.rmtree", lambda target: pytest.fail(f"rmtree({target!r})"))
    with pytest.raises(CleanupError):
        server.cleanup(os.path.expanduser(path))


def test_results_that_cannot_be_stored_are_an_error_with_its_cause(
    server: FLIPBase,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store that is not there: one fixed sentence, the reason chained, no key in a log."""
    # How long it is tried again is test_results_s3_faults's: 42 seconds.
    monkeypatch.setattr(standard, "send", partial(send, waits_s=()))
    folder = tmp_path / "results"
    with pytest.raises(ResultsUploadError, match=r"^Unexpected failure uploading results to S3$") as caught:
        server.upload_results_to_s3(folder, MODEL)
    assert caught.value.__cause__ is not None
    assert "canary-aws-secret" not in everything_logged(caplog, capsys)


# -- development --------------------------------------------------------------------------------------------------


def test_a_development_cohort_keeps_leading_zeros(dev: FLIPBase) -> None:
    """Numeric accession numbers once lost theirs, and with them their images."""
    assert list(dev.get_dataframe(PROJECT, QUERY)["accession_id"]) == [ACCESSION, "007"]


def test_a_cohort_without_accession_numbers_is_refused_unless_the_job_is_tabular(tmp_path: Path) -> None:
    """The exact sentence is the one that existing apps and their tests know."""
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("age\n61\n")
    values = {"LOCAL_DEV": "true", "DEV_DATAFRAME": str(cohort)}
    with pytest.raises(ValueError, match=r"^The provided dataframe does not contain an 'accession_id' column\.$"):
        FLIP(settings_file=settings_at(tmp_path / "a", values)).get_dataframe(PROJECT, QUERY)
    tabular = FLIP(settings_file=settings_at(tmp_path / "b", values | {"DEV_TABULAR": "true"}))
    assert list(tabular.get_dataframe(PROJECT, QUERY)["age"]) == [61]


def test_missing_development_data_is_named(tmp_path: Path) -> None:
    """Each refusal says which setting to mend."""
    nothing = FLIP(settings_file=settings_at(tmp_path / "a", {"LOCAL_DEV": "true"}))
    with pytest.raises(FlipError, match="DEV_DATAFRAME") as caught:
        nothing.get_dataframe(PROJECT, QUERY)
    assert caught.value.code == "E0901"
    with pytest.raises(FlipError, match="DEV_IMAGES_DIR"):
        nothing.get_by_accession_number(PROJECT, ACCESSION)
    wrong = {"LOCAL_DEV": "true", "DEV_DATAFRAME": str(tmp_path / "gone.csv")}
    with pytest.raises(FlipError, match=r"gone\.csv") as caught:
        FLIP(settings_file=settings_at(tmp_path / "b", wrong)).get_dataframe(PROJECT, QUERY)
    assert caught.value.code == "E0902"


def test_a_missing_study_is_an_empty_folder_and_a_warning_without_its_number(
    dev: FLIPBase, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """As documented for direct use; in no log stands an accession number."""
    found = dev.get_by_accession_number(PROJECT, ACCESSION)
    assert found == (tmp_path / "images" / ACCESSION).resolve()
    assert list(found.iterdir()) == []
    logged = everything_logged(caplog, capsys)
    assert "WARNING" in logged
    assert ACCESSION not in logged.replace(str(found), "")


def test_a_missing_study_can_be_the_error_of_a_404(tmp_path: Path) -> None:
    """A simulated run must not train on nothing."""
    values = {"LOCAL_DEV": "true", "DEV_IMAGES_DIR": str(tmp_path / "images"), "DEV_MISSING_STUDY": "error"}
    with pytest.raises(requests.HTTPError) as caught:
        FLIP(settings_file=settings_at(tmp_path, values)).get_by_accession_number(PROJECT, ACCESSION)
    assert caught.value.response is not None
    assert caught.value.response.status_code == 404
    assert ACCESSION not in str(caught.value)
    assert not (tmp_path / "images").exists()


def test_a_study_that_links_out_of_the_images_is_refused(dev: FLIPBase, tmp_path: Path) -> None:
    """A link inside the folder leads as far out as `../` does."""
    (tmp_path / "images").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "images" / "007").symlink_to(tmp_path / "secret")
    with pytest.raises(FlipError) as caught:
        dev.get_by_accession_number(PROJECT, "007")
    assert caught.value.code == "E0704"


def test_development_deletes_nothing(dev: FLIPBase, tmp_path: Path) -> None:
    """A developer's folders are no job's."""
    tree = tmp_path / "mine"
    tree.mkdir()
    (tree / "thesis.tex").write_text("x")
    assert dev.cleanup(tree) is None
    assert (tree / "thesis.tex").is_file()


def test_a_readable_model_id_is_one_warning_in_development(dev: FLIPBase, capsys: pytest.CaptureFixture[str]) -> None:
    """Templates use readable ids: never an error, and not a line each time."""
    for _ in range(3):
        assert dev.update_status("my-first-model", "RUNNING") is True
        dev.send_metrics(SLOT, "my-first-model", "auc", 0.5, 1)
        dev.send_event("my-first-model", "ROUND_STARTED", global_round=1)
        dev.send_handled_exception("boom", None, "my-first-model")
        dev.upload_results_to_s3("nowhere", "my-first-model")
    assert capsys.readouterr().err.count("no UUID") == 1


def test_what_development_logs_is_kept_for_the_runs_story(dev: FLIPBase, tmp_path: Path) -> None:
    """A simulated run shows what the app would have sent, as the items a hub takes."""
    dev.update_status(MODEL, "RUNNING")
    dev.send_metrics(SLOT, MODEL, "auc", 0.5, 3, x_value=1.5, x_label="Epochs")
    dev.send_metrics(SLOT, MODEL, "auc", float("nan"), 4)
    dev.send_event(MODEL, "ROUND_STARTED", global_round=1, details={"total_rounds": 5})
    dev.send_handled_exception("Traceback\nValueError", SLOT, MODEL)
    kept = list(read_journal(tmp_path / "state"))
    assert {UUID(model) for model, _ in kept} == {UUID(MODEL)}
    status, metric, nan, event, failure = (item for _, item in kept)
    assert isinstance(status, StatusItem)
    assert status.status is ModelStatus.RUNNING
    assert isinstance(metric, MetricItem)
    assert (metric.client, metric.result, metric.global_round, metric.x_label) == (SLOT, 0.5, 3, "Epochs")
    assert (nan.kind, nan.success, nan.log) == ("log", False, "metric 'auc' of round 4 is nan: not stored")  # type: ignore[union-attr]
    assert event.kind == "event"
    assert (failure.kind, failure.success) == ("log", False)  # type: ignore[union-attr]
    assert (tmp_path / "state" / JOURNAL).stat().st_mode & 0o777 == 0o600
    assert all(json.loads(line) for line in (tmp_path / "state" / JOURNAL).read_text().splitlines())


def test_development_logs_no_row_number_query_or_traceback(
    dev: FLIPBase, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cohort rows were once logged at INFO, an NHS number among them."""
    dev.get_dataframe(PROJECT, QUERY)
    dev.get_by_accession_number(PROJECT, "007-CANARY")
    dev.add_resource(PROJECT, ACCESSION, "1", "SEG", [f"{ACCESSION}.nii.gz"])
    dev.send_handled_exception(f"KeyError: {BODY_CANARY}", SLOT, MODEL)
    dev.cleanup(f"/somewhere/{ACCESSION}")
    logged = everything_logged(caplog, capsys)
    assert logged.count("INFO") >= 2
    for canary in (ACCESSION, "007-CANARY", QUERY, PROJECT, BODY_CANARY):
        assert canary not in logged


def test_successful_calls_log_no_row_number_query_or_address(
    client: FLIPBase,
    server: FLIPBase,
    service: RecordingServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Even with every library at DEBUG: nothing of a row, an accession number, SQL, a key or a presigned URL."""
    caplog.set_level(logging.DEBUG)
    service.script(Answer(body={"accession_id": [ACCESSION], "nhs": [BODY_CANARY]}))
    client.get_dataframe(PROJECT, QUERY)
    service.script(Answer(body={"path": str(tmp_path / "images" / ACCESSION)}))
    client.get_by_accession_number(PROJECT, ACCESSION)
    service.script(Answer(201, body=["https://store/x?X-Amz-Signature=canary-signature"]))
    client.add_resource(PROJECT, ACCESSION, "1", "SEG", [f"{ACCESSION}.nii.gz"])
    service.script(Answer())
    for call in SERVER_CALLS.values():
        call(server)
    logged = everything_logged(caplog, capsys)
    assert "POST /cohort/dataframe" in logged, "urllib3 logs routes at DEBUG: nothing was captured"
    for canary in (ACCESSION, QUERY, PROJECT, BODY_CANARY, HUB_KEY, TRUST_KEY, "canary-signature"):
        assert canary not in logged
