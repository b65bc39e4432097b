"""Many writers at once, and a hub killed in the middle of its work, on both databases."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Timer
from typing import Any

import pytest
import requests
from sqlmodel import Session

from flip_fl.app.forks import Fork
from flip_fl.hub import admin, model_service
from flip_fl.hub.tables import EventLedger, FlLog, FlMetric, Model, ModelsAudit, StatusHistory
from flip_fl.settings import write_settings_file
from flip_fl.values import ModelStatus
from tests.support import warm
from tests.support.hub import RunningHub, World, item, metric, outcomes, world


@pytest.mark.parametrize("repetition", range(5))
def test_a_late_running_never_beats_a_stop(database_url: str, repetition: int) -> None:
    """Whatever the order in which sixteen writers get their turn, a stopped run stays stopped."""
    with world(database_url) as filled:
        barrier = Barrier(16)

        def write(number: int) -> ModelStatus | None:
            status = ModelStatus.STOPPED if number == 7 else ModelStatus.RUNNING
            with Session(filled.engine) as session:
                # Each has read the model before, as a careless caller would.
                session.get(Model, filled.model_id)
                session.commit()
                barrier.wait()
                return model_service.update_model_status(filled.model_id, status, session)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(write, range(16)))
        (model,) = filled.rows(Model)
        assert model.status is ModelStatus.STOPPED
        changes = [row.status for row in filled.rows(StatusHistory)]
        assert changes in (
            [ModelStatus.PENDING, ModelStatus.STOPPED],
            [ModelStatus.PENDING, ModelStatus.RUNNING, ModelStatus.STOPPED],
        )
        assert len(filled.rows(ModelsAudit)) == len(changes) - 2


def test_two_deleters_flag_each_model_once(database_url: str) -> None:
    """Of two that delete a project's models at once, one deletes and the other finds nothing."""
    with world(database_url) as filled:
        with filled.session() as session:
            for number in range(5):
                admin.create_model(session, "Stroke", f"m{number}")
        barrier = Barrier(2)

        def delete(_: int) -> int:
            with Session(filled.engine) as session:
                barrier.wait()
                return model_service.delete_models(filled.project_id, "x", session, ensure_deletion=False)

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(delete, range(2))) == [0, 6]
        assert len(filled.rows(ModelsAudit)) == 6


def test_one_batch_sent_by_eight_at_once_is_stored_once(hub: RunningHub) -> None:
    """Copies that arrive at the same moment are recognised as copies."""
    items = [metric("Trust_1", "loss", float(n), 1) for n in range(50)] + [item("status", status="RUNNING")]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: hub.batch(*items), range(8)))
    counts = Counter(outcome for answer in answers for outcome in outcomes(answer))
    assert counts == {"stored": 51, "duplicate": 51 * 7}
    assert len(hub.world.rows(FlMetric)) == 50
    assert hub.logs() == ["The sites have started to work."]


def test_one_key_posted_by_eight_at_once_is_stored_once(hub: RunningHub) -> None:
    """The same holds on the single routes."""
    body = {"fl_client_name": "Trust_1", "global_round": 1, "label": "loss", "result": 0.5}

    def post(_: int) -> int:
        return hub.model("POST", "/metrics", json=body, headers={"Idempotency-Key": "k"}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(post, range(8))) == {204}
    assert len(hub.world.rows(FlMetric)) == 1


def test_sixteen_senders_at_once_lose_nothing(hub: RunningHub) -> None:
    """Writers wait for each other instead of failing; every row is there once."""

    def send(sender: int) -> list[str]:
        stored = []
        for batch in range(5):
            items = [metric(f"Trust_{sender % 2 + 1}", f"l{sender}", float(n), batch + 1) for n in range(10)]
            stored += outcomes(hub.batch(*items))
        return stored

    with ThreadPoolExecutor(16) as pool:
        for stored in pool.map(send, range(16)):
            assert stored == ["stored"] * 50
    assert len(hub.world.rows(FlMetric)) == 16 * 50


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_hub_loses_no_acknowledged_event_and_doubles_none(database_url: str, tmp_path: Path) -> None:
    """`kill -9` at any moment, five times: what was acknowledged is there, and a re-sent batch stores nothing twice."""
    with world(database_url) as filled:
        key, fingerprint = admin.new_service_key()
        settings = tmp_path / "hub.env"
        write_settings_file(settings, {"FLIP_HUB_DATABASE_URL": database_url, "INTERNAL_SERVICE_KEY_HASH": fingerprint})
        acknowledged: set[str] = set()
        waiting: list[dict[str, Any]] = []
        made = 0
        for kill in range(5):
            port_file = tmp_path / f"port-{kill}"
            with _hub_process(settings, port_file) as (process, port):
                # From a thread of its own, so that it strikes in the middle of whatever the hub is doing.
                killer = Timer(0.15 + 0.083 * kill, process.kill)
                killer.start()
                while True:
                    if not waiting:
                        waiting = [metric("Trust_1", "loss", float(made + n), 1) for n in range(20)]
                        waiting.append(item("log", client="Trust_2", log=f"row {made}"))
                        made += 20
                    try:
                        answer = _post(port, key, filled, waiting)
                    except requests.RequestException:
                        break
                    acknowledged |= {result["id"] for result in answer["results"]}
                    waiting = []
                killer.join()
        port_file = tmp_path / "port-last"
        with _hub_process(settings, port_file) as (_, port):
            if waiting:
                answer = _post(port, key, filled, waiting)
                acknowledged |= {result["id"] for result in answer["results"]}
        ledger = {str(row.event_id) for row in filled.rows(EventLedger)}
        assert acknowledged == ledger
        assert len(acknowledged) > 100
        assert len(filled.rows(FlMetric)) + len(filled.rows(FlLog)) == len(ledger)
        values = [row.result for row in filled.rows(FlMetric)]
        assert sorted(values) == [float(n) for n in range(made)]


class _hub_process:
    """A hub as a process; killed when the block ends, whatever state it is in."""

    def __init__(self, settings: Path, port_file: Path) -> None:
        self._settings = settings
        self._port_file = port_file

    def __enter__(self) -> tuple[Fork, int]:
        self._process = warm.hub(self._settings, "--port-file", str(self._port_file))
        deadline = time.monotonic() + 60
        while not self._port_file.exists():
            assert not self._process.ended()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self._process, int(self._port_file.read_text())

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(20)
        self._process.close()


def _post(port: int, key: str, filled: World, items: list[dict[str, Any]]) -> dict[str, Any]:
    response = requests.post(
        f"http://127.0.0.1:{port}/api/model/{filled.model_id}/events",
        json={"items": items},
        headers={"X-Internal-Service-Key": key},
        timeout=20,
    )
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer
