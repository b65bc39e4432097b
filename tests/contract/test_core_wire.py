"""What the production client puts on the wire, request by request, recorded by a real server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flip_fl import FLIP, FLIPBase, ModelStatus, ResourceType
from flip_fl.core.standard import FLIPStandardProd
from flip_fl.http import HttpConnectionError, HttpStatusError
from flip_fl.reporting.hub_client import HubClient
from flip_fl.settings import ServerSettings, load
from flip_fl.wire import LogIn, MetricIn
from tests.support.core import HUB_KEY, TRUST_KEY, clean_environment, client_values, server_values, settings_at
from tests.support.recording_server import Answer, Recorded, RecordingServer, recording_server

MODEL = "5b1c5a2e-7f2c-4b53-9a3d-2f6f0f7f8a11"
DIALECTS = ("both", "older", "current")
BASES = ("", "/", "/api", "/api/")
SLOT = "Trust_1"

OLDER_METRIC = {"trust": SLOT, "globalRound": 3}
CURRENT_METRIC = {"fl_client_name": SLOT, "global_round": 3, "x_value": 1.5, "x_label": "Epochs"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture
def hub() -> Iterator[RecordingServer]:
    with recording_server() as server:
        yield server


@pytest.fixture
def trust(tmp_path: Path) -> Iterator[RecordingServer]:
    (tmp_path / "images").mkdir()
    with recording_server(lambda request: _trust(request, tmp_path)) as server:
        yield server


def _trust(request: Recorded, folder: Path) -> Answer:
    if request.path.endswith("/cohort/dataframe"):
        return Answer(body={"accession_id": ["0007", "0008"], "age": [61, 47]})
    if request.method == "POST":
        return Answer(body={"path": str(folder / "images" / dict(request.query)["resource_type"].lower())})
    return Answer(status=201, body=["https://store/presigned?X-Amz-Signature=canary-signature"])


def _server(hub: RecordingServer, tmp_path: Path, base: str = "/api", dialect: str = "both") -> FLIPBase:
    values = server_values(hub.url + base, FLIP_HUB_DIALECT=dialect)
    return FLIP(role="server", settings_file=settings_at(tmp_path, values))


def _client(trust: RecordingServer, tmp_path: Path, base: str = "") -> FLIPBase:
    values = client_values(trust.url + base, trust.url + base, tmp_path / "images")
    return FLIP(role="client", settings_file=settings_at(tmp_path, values))


# -- server → hub -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("status", list(ModelStatus))
def test_a_status_is_put_without_a_body(hub: RecordingServer, tmp_path: Path, base: str, status: ModelStatus) -> None:
    """Each status goes to its own address, whether the base URL ends in a slash or not."""
    assert _server(hub, tmp_path, base).update_status(MODEL, status) is True
    request = hub.only
    assert (request.method, request.path) == ("PUT", f"{base.rstrip('/')}/model/{MODEL}/status/{status.value}")
    assert (request.query, request.body) == ((), b"")
    assert request.headers["x-internal-service-key"] == HUB_KEY


@pytest.mark.parametrize(
    ("dialect", "spelling"), [("both", "RUNNING"), ("current", "RUNNING"), ("older", "TRAINING_STARTED")]
)
@pytest.mark.parametrize("given", ["RUNNING", "TRAINING_STARTED", ModelStatus.TRAINING_STARTED])
def test_running_is_spelt_as_the_dialect_says(
    hub: RecordingServer, tmp_path: Path, dialect: str, spelling: str, given: str
) -> None:
    """RUNNING was TRAINING_STARTED once, with no alias at any hub."""
    assert _server(hub, tmp_path, dialect=dialect).update_status(MODEL, given)
    assert hub.only.path.endswith(f"/status/{spelling}")


@pytest.mark.parametrize(
    ("dialect", "spellings"),
    [("both", ["RUNNING", "TRAINING_STARTED"]), ("older", ["TRAINING_STARTED", "RUNNING"])],
)
def test_the_other_spelling_is_tried_once_and_remembered(
    hub: RecordingServer, tmp_path: Path, dialect: str, spellings: list[str]
) -> None:
    """A hub that answers 422 knows the other spelling; it is not asked the wrong one again."""
    hub.answer = lambda request: Answer(422 if request.path.endswith(spellings[0]) else 200)
    flip = _server(hub, tmp_path, dialect=dialect)
    assert flip.update_status(MODEL, "RUNNING")
    assert flip.update_status(MODEL, "RUNNING")
    assert [r.path.rpartition("/")[2] for r in hub.requests] == [*spellings, spellings[1]]


def test_a_hub_that_refuses_both_spellings_is_not_remembered(hub: RecordingServer, tmp_path: Path) -> None:
    """Two refusals say nothing about how the hub spells RUNNING."""
    hub.script(Answer(422))
    flip = _server(hub, tmp_path)
    assert flip.update_status(MODEL, "RUNNING") is False
    assert flip.update_status(MODEL, "RUNNING") is False
    tried = [r.path.rpartition("/")[2] for r in hub.requests]
    assert tried == ["RUNNING", "TRAINING_STARTED"] * 2


def test_no_other_status_and_no_other_refusal_is_tried_twice(hub: RecordingServer, tmp_path: Path) -> None:
    """Called directly, a client makes one attempt."""
    flip = _server(hub, tmp_path)
    for code, status in [(422, "ERROR"), (500, "RUNNING"), (404, "RUNNING"), (401, "RUNNING")]:
        hub.requests.clear()
        hub.script(Answer(code))
        assert flip.update_status(MODEL, status) is False
        assert len(hub.requests) == 1


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("dialect", "expected"),
    [("both", OLDER_METRIC | CURRENT_METRIC), ("older", OLDER_METRIC), ("current", CURRENT_METRIC)],
)
def test_a_metric_is_posted_in_the_dialects_that_the_setting_names(
    hub: RecordingServer, tmp_path: Path, base: str, dialect: str, expected: dict[str, Any]
) -> None:
    """One dialect against a hub of the other was 422 on every metric while training "succeeded"."""
    flip = _server(hub, tmp_path, base, dialect)
    flip.send_metrics(SLOT, MODEL, "val/AUC", 0.75, 3, x_value=1.5, x_label="Epochs")
    request = hub.only
    assert (request.method, request.path) == ("POST", f"{base.rstrip('/')}/model/{MODEL}/metrics")
    assert request.query == ()
    assert request.headers["x-internal-service-key"] == HUB_KEY
    assert request.headers["content-type"] == "application/json"
    assert UUID(request.headers["idempotency-key"]).version == 7
    assert request.json == expected | {"label": "val/AUC", "result": 0.75}


def test_a_metric_without_an_axis_leaves_it_to_the_hub(hub: RecordingServer, tmp_path: Path) -> None:
    """The hub's default axis is the global round; a null in its place is not what an older hub expects."""
    _server(hub, tmp_path).send_metrics(SLOT, MODEL, "loss", 1, 0)
    assert hub.only.json == {
        "trust": SLOT,
        "fl_client_name": SLOT,
        "globalRound": 0,
        "global_round": 0,
        "label": "loss",
        "result": 1.0,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_carry_becomes_a_failure_row(
    hub: RecordingServer, tmp_path: Path, value: float
) -> None:
    """One NaN once aborted a whole run; it is neither sent as JSON nor dropped in silence."""
    _server(hub, tmp_path).send_metrics(SLOT, MODEL, "auc", value, 3)
    request = hub.only
    assert request.path.endswith(f"/model/{MODEL}/logs")
    assert request.json == {
        "fl_client_name": SLOT,
        "trust": SLOT,
        "success": False,
        "log": f"metric 'auc' of round 3 is {value}: not stored",
    }


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("both", {"trust": SLOT, "fl_client_name": SLOT, "success": False}),
        ("older", {"trust": SLOT}),
        ("current", {"fl_client_name": SLOT, "success": False}),
    ],
)
@pytest.mark.parametrize("base", BASES)
def test_an_exception_is_posted_as_a_failure_of_its_client(
    hub: RecordingServer, tmp_path: Path, base: str, dialect: str, expected: dict[str, Any]
) -> None:
    """A current hub stores an older body as a successful row of nobody; both spellings and `success` avoid that."""
    _server(hub, tmp_path, base, dialect).send_handled_exception("Traceback …\nValueError: no", SLOT, MODEL)
    request = hub.only
    assert (request.method, request.path) == ("POST", f"{base.rstrip('/')}/model/{MODEL}/logs")
    assert request.headers["x-internal-service-key"] == HUB_KEY
    assert UUID(request.headers["idempotency-key"]).version == 7
    assert request.json == expected | {"log": "Traceback …\nValueError: no"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_exception_of_nobody_goes_in_the_one_form_there_is(
    hub: RecordingServer, tmp_path: Path, dialect: str
) -> None:
    """A failure of the server's own has no client, and only the current form can say so."""
    _server(hub, tmp_path, dialect=dialect).send_handled_exception("boom", None, MODEL)
    assert hub.only.json == {"log": "boom", "success": False}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("ROUND_STARTED", None, 1, {"total_rounds": 5}), {"global_round": 1, "details": {"total_rounds": 5}}),
        (
            ("CLIENT_RESULT_RECEIVED", SLOT, 2, {"size_bytes": 7}),
            {"fl_client_name": SLOT, "global_round": 2, "details": {"size_bytes": 7}},
        ),
        (("JOB_WAITING_FOR_RESOURCES", SLOT, None, None), {"fl_client_name": SLOT}),
        (("OF_THE_FUTURE", None, 1, None), {"global_round": 1}),
    ],
)
def test_an_event_is_posted_as_a_fact_in_the_current_form(
    hub: RecordingServer, tmp_path: Path, dialect: str, arguments: tuple[Any, ...], expected: dict[str, Any]
) -> None:
    """Typed events have no older form; the hub words them."""
    _server(hub, tmp_path, dialect=dialect).send_event(MODEL, *arguments)
    assert hub.only.path.endswith(f"/model/{MODEL}/logs")
    assert hub.only.json == expected | {"event_type": arguments[0]}


def test_our_hub_reads_every_body_of_every_dialect_alike(hub: RecordingServer, tmp_path: Path) -> None:
    """The sender's two spellings and the superset mean the same to the hub's own models."""
    for dialect in DIALECTS:
        flip = _server(hub, tmp_path, dialect=dialect)
        flip.send_metrics(SLOT, MODEL, "auc", 0.5, 2)
        flip.send_handled_exception("boom", SLOT, MODEL)
    metrics = [MetricIn.model_validate_json(r.body) for r in hub.requests if r.path.endswith("metrics")]
    logs = [LogIn.model_validate_json(r.body) for r in hub.requests if r.path.endswith("logs")]
    assert len(metrics) == len(logs) == 3
    for metric in metrics:
        assert (metric.fl_client_name or metric.trust, metric.global_round, metric.result) == (SLOT, 2, 0.5)
        assert metric.coordinate() == ("Global Rounds", 2.0)
    for log in logs:
        assert (log.fl_client_name or log.trust, log.log, log.success) == (SLOT, "boom", False)


@pytest.mark.parametrize(
    "spelling",
    [MODEL.upper(), MODEL.replace("-", ""), f"{{{MODEL}}}", f"urn:uuid:{MODEL}", UUID(MODEL)],
    ids=["upper", "bare", "braces", "urn", "object"],
)
def test_model_ids_go_out_in_canonical_form(hub: RecordingServer, tmp_path: Path, spelling: str | UUID) -> None:
    """One model has one address, however its id was written."""
    _server(hub, tmp_path).update_status(spelling, "ERROR")
    assert hub.only.path == f"/api/model/{MODEL}/status/ERROR"


@pytest.mark.parametrize("model_id", ["../../admin", "", "model-1", f"{MODEL}/../x", None, 7])
def test_a_model_id_that_is_no_uuid_never_reaches_an_address(
    hub: RecordingServer, tmp_path: Path, model_id: Any
) -> None:
    """A model id was once put into a URL unchecked."""
    flip = _server(hub, tmp_path)
    with pytest.raises(ValueError, match=r"^Invalid model ID: .*, cant update model status$"):
        flip.update_status(model_id, "ERROR")
    with pytest.raises(ValueError, match=r"^Invalid model ID: .*, unable to send exception$"):
        flip.send_handled_exception("boom", SLOT, model_id)
    with pytest.raises(ValueError, match="Invalid model ID"):
        flip.send_event(model_id, "ROUND_STARTED", global_round=1)
    with pytest.raises(ValueError, match="Invalid model ID"):
        flip.upload_results_to_s3(tmp_path, model_id)
    flip.send_metrics(SLOT, model_id, "auc", 0.5, 1)
    assert hub.requests == []


def test_a_redirect_is_an_error_and_is_not_followed(hub: RecordingServer, tmp_path: Path) -> None:
    """Following one would hand the key to whoever answers there."""
    with recording_server() as elsewhere:
        hub.script(Answer(307, headers={"Location": f"{elsewhere.url}/api/model/{MODEL}/status/ERROR"}))
        assert _server(hub, tmp_path).update_status(MODEL, "ERROR") is False
        assert elsewhere.requests == []


def test_the_proxy_and_netrc_of_the_host_are_not_used(
    hub: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither may see or re-authenticate hospital traffic."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with recording_server() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert _server(hub, tmp_path).update_status(MODEL, "ERROR")
        assert proxy.requests == []
    assert "authorization" not in hub.only.headers


def test_the_header_names_are_settings(hub: RecordingServer, trust: RecordingServer, tmp_path: Path) -> None:
    """A deployment may name its key headers."""
    values = server_values(hub.url, INTERNAL_SERVICE_KEY_HEADER="X-Other")
    FLIP(role="server", settings_file=settings_at(tmp_path / "s", values)).update_status(MODEL, "ERROR")
    assert hub.only.headers["x-other"] == HUB_KEY
    assert "x-internal-service-key" not in hub.only.headers
    values = client_values(trust.url, trust.url, tmp_path, TRUST_INTERNAL_SERVICE_KEY_HEADER="X-Mine")
    FLIP(role="client", settings_file=settings_at(tmp_path / "c", values)).get_dataframe("p", "q")
    assert trust.only.headers["x-mine"] == TRUST_KEY


def test_one_connection_serves_many_calls(hub: RecordingServer, tmp_path: Path) -> None:
    """A run reports thousands of facts: a connection for each would cost more than the facts."""
    ports: set[int] = set()
    original = hub._httpd.verify_request
    hub._httpd.verify_request = lambda request, address: (  # type: ignore[method-assign]
        ports.add(address[1]) is None and original(request, address)
    )
    flip = _server(hub, tmp_path)
    for number in range(10):
        flip.send_metrics(SLOT, MODEL, "auc", 0.5, number)
    assert len(hub.requests) == 10
    assert len(ports) == 1


# -- hub client: what the outbox's sender uses --------------------------------------------------------------------


@pytest.fixture
def hub_client(hub: RecordingServer) -> Iterator[HubClient]:
    client = HubClient(load(ServerSettings, None, **server_values(f"{hub.url}/api/")))
    yield client
    client.close()


def test_a_key_counts_as_kept_only_when_it_is_echoed(hub: RecordingServer, hub_client: HubClient) -> None:
    """Against a hub that never echoes, an ambiguous time-out must not re-send metrics."""
    key = UUID("018f0000-0000-7000-8000-000000000001")
    calls: list[Callable[[], bool]] = [
        lambda: hub_client.post_metric(UUID(MODEL), client=SLOT, global_round=1, label="auc", result=0.5, key=key),
        lambda: hub_client.post_log(UUID(MODEL), client=SLOT, log="x", success=True, key=key),
        lambda: hub_client.post_event(UUID(MODEL), event_type="ROUND_STARTED", global_round=1, key=key),
        lambda: hub_client.put_status(UUID(MODEL), ModelStatus.ERROR, key=key),
    ]
    for call in calls:
        hub.script(Answer(headers={"Idempotency-Key": str(key)}))
        assert call() is True
        hub.script(Answer(headers={"Idempotency-Key": "another"}))
        assert call() is False
        hub.script(Answer())
        assert call() is False
    assert {r.headers["idempotency-key"] for r in hub.requests} == {str(key)}


def test_a_batch_goes_to_its_route_and_brings_one_outcome_per_item(hub: RecordingServer, hub_client: HubClient) -> None:
    """What was stored, what was a duplicate and what was refused is known item by item."""
    items = [{"kind": "log", "id": "1", "log": "a"}, {"kind": "log", "id": "2", "log": "b"}]
    results = [{"id": "1", "outcome": "stored"}, {"id": "2", "outcome": "refused", "code": "unknown_model"}]
    hub.script(Answer(body={"results": results, "stop": True}))
    out = hub_client.post_batch(UUID(MODEL), items)
    assert (hub.only.method, hub.only.path) == ("POST", f"/api/model/{MODEL}/events")
    assert hub.only.json == {"items": items}
    assert ([r.outcome for r in out.results], out.results[1].code, out.stop) == (
        ["stored", "refused"],
        "unknown_model",
        True,
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>welcome</html>", b"[]", b'{"results": []}', b'{"results": [{"id": "1", "outcome": "eaten"}]}'],
)
def test_an_answer_that_is_no_list_of_outcomes_counts_as_none(
    hub: RecordingServer, hub_client: HubClient, body: bytes
) -> None:
    """A page of some proxy must not be taken for the hub's word that everything is stored."""
    hub.script(Answer(body=body))
    with pytest.raises(HttpConnectionError, match=r"POST /model/\{id\}/events"):
        hub_client.post_batch(UUID(MODEL), [{"kind": "log", "id": "1", "log": "canary-text"}])


def test_a_missing_route_is_told_from_a_missing_model(hub: RecordingServer, hub_client: HubClient) -> None:
    """Only a hub without the batch route gets single posts."""
    details = {"Not Found": "Not Found", f"Model ID: {MODEL} does not exist": f"Model ID: {MODEL} does not exist"}
    for sent, shown in {**details, "secret thing": None}.items():
        hub.script(Answer(404, {"detail": sent}))
        with pytest.raises(HttpStatusError) as caught:
            hub_client.post_batch(UUID(MODEL), [])
        assert caught.value.detail == shown


def test_a_forked_process_opens_a_connection_of_its_own(hub: RecordingServer, hub_client: HubClient) -> None:
    """Two processes on one connection would read each other's answers."""
    ports: list[int] = []
    original = hub._httpd.verify_request
    hub._httpd.verify_request = lambda request, address: (  # type: ignore[method-assign]
        ports.append(address[1]) is None and original(request, address)
    )
    hub_client.put_status(UUID(MODEL), ModelStatus.ERROR)
    child = os.fork()
    if child == 0:
        # The child must not return into the test runner, whatever happens.
        try:
            hub_client.put_status(UUID(MODEL), ModelStatus.STOPPED)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    hub_client.put_status(UUID(MODEL), ModelStatus.ERROR)
    assert [request.path.rpartition("/")[2] for request in hub.requests] == ["ERROR", "STOPPED", "ERROR"]
    assert len(ports) == 2, "the parent's connection is kept, the child has its own"


def test_what_no_hub_would_take_is_not_sent(hub: RecordingServer, hub_client: HubClient) -> None:
    """A body that cannot pass is refused here, where the reason is known."""
    model = UUID(MODEL)
    with pytest.raises(ValueError, match="finite"):
        hub_client.post_metric(model, client=SLOT, global_round=1, label="a", result=float("nan"))
    with pytest.raises(ValueError, match="QUEUE_POSITION"):
        hub_client.post_event(model, event_type="QUEUE_POSITION")
    with pytest.raises(ValueError, match="global_round"):
        hub_client.post_event(model, event_type="ROUND_STARTED")
    with pytest.raises(ValueError, match="8192 bytes"):
        hub_client.post_event(model, event_type="X", global_round=1, details={"k": "v" * 9000})
    with pytest.raises(ValueError, match="JSON"):
        hub_client.post_event(model, event_type="X", global_round=1, details={"k": float("inf")})
    assert hub.requests == []


# -- client → trust -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["", "/", "/data", "/data/"])
def test_a_cohort_is_asked_for_with_the_opaque_project_and_the_query(
    trust: RecordingServer, tmp_path: Path, base: str
) -> None:
    """A double slash in a joined URL once made every trust call a 404."""
    frame = _client(trust, tmp_path, base).get_dataframe("gAAAA==opaque/+", "SELECT * FROM omop.person")
    request = trust.only
    assert (request.method, request.path) == ("POST", f"{base.rstrip('/')}/cohort/dataframe")
    assert request.query == ()
    assert request.json == {"encrypted_project_id": "gAAAA==opaque/+", "query": "SELECT * FROM omop.person"}
    assert request.headers["x-trust-internal-service-key"] == TRUST_KEY
    assert "idempotency-key" not in request.headers
    assert list(frame["accession_id"]) == ["0007", "0008"]
    assert list(frame["age"]) == [61, 47]


def test_an_empty_cohort_has_its_columns(trust: RecordingServer, tmp_path: Path) -> None:
    """No rows is an answer, not an error."""
    trust.script(Answer(body={"accession_id": [], "age": []}))
    frame = _client(trust, tmp_path).get_dataframe("p", "q")
    assert (list(frame.columns), len(frame)) == (["accession_id", "age"], 0)


@pytest.mark.parametrize(
    ("kind", "assessor"),
    [
        (ResourceType.NIFTI, "scan"),
        (ResourceType.DICOM, "scan"),
        (ResourceType.ALL, "scan"),
        (ResourceType.SEGMENTATION, "assessor"),
    ],
)
@pytest.mark.parametrize("base", ["", "/"])
def test_images_are_asked_for_by_net_and_type(
    trust: RecordingServer, tmp_path: Path, base: str, kind: ResourceType, assessor: str
) -> None:
    """Segmentations are assessors, everything else is a scan."""
    path = _client(trust, tmp_path, base).get_by_accession_number("project", "0007", kind)
    request = trust.only
    assert (request.method, request.path) == ("POST", "/download/images/net-1")
    assert request.query == (("assessor_type", assessor), ("resource_type", kind.value))
    assert request.json == {"encrypted_central_hub_project_id": "project", "accession_id": "0007"}
    assert request.headers["x-trust-internal-service-key"] == TRUST_KEY
    assert path == (tmp_path / "images" / kind.value.lower()).resolve()


def test_nifti_is_the_default_type(trust: RecordingServer, tmp_path: Path) -> None:
    """Existing apps call without a type."""
    _client(trust, tmp_path).get_by_accession_number("project", "0007")
    assert dict(trust.only.query)["resource_type"] == "NIFTI"


def test_several_types_are_one_request_each_and_none_is_lost(trust: RecordingServer, tmp_path: Path) -> None:
    """A list of types once returned the last one's path only; `get_resources` returns each."""
    types = [ResourceType.SEG, ResourceType.NIFTI]
    flip = _client(trust, tmp_path)
    found = flip.get_resources("project", "0007", types)
    assert [dict(r.query)["resource_type"] for r in trust.requests] == ["SEG", "NIFTI"]
    images = (tmp_path / "images").resolve()
    assert found == {ResourceType.SEG: images / "seg", ResourceType.NIFTI: images / "nifti"}
    assert flip.get_by_accession_number("project", "0007", types) == images / "nifti"


def test_a_resource_is_put_with_its_files(trust: RecordingServer, tmp_path: Path) -> None:
    """All five arguments reach the imaging service unchanged."""
    files = ["seg/label_0007.nii.gz", "seg/report.json"]
    assert _client(trust, tmp_path).add_resource("project", "0007", "scan-1", "SEG", files) is None
    request = trust.only
    assert (request.method, request.path, request.query) == ("PUT", "/upload/images/net-1", ())
    assert request.json == {
        "encrypted_central_hub_project_id": "project",
        "accession_id": "0007",
        "scan_id": "scan-1",
        "resource_id": "SEG",
        "files": files,
    }
    assert request.headers["x-trust-internal-service-key"] == TRUST_KEY


def test_a_client_never_speaks_to_the_hub_nor_holds_its_key(
    trust: RecordingServer, hub: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where both keys lie in one environment, each role's calls carry its own key only."""
    monkeypatch.setenv("INTERNAL_SERVICE_KEY", HUB_KEY)
    monkeypatch.setenv("FLIP_API_INTERNAL_URL", hub.url)
    flip = _client(trust, tmp_path)
    flip.get_dataframe("p", "q")
    assert isinstance(flip, FLIPStandardProd)
    assert HUB_KEY not in json.dumps(dict(trust.only.headers))
    assert HUB_KEY not in repr(vars(flip))
    assert hub.requests == []
