"""Many writers at once, and a hub killed in the middle of its work, on both databases."""

from __future__ import annotations

import random
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
from flip_fl.hub.model_service import IModelDetails
from flip_fl.hub.plots import stored_series
from flip_fl.hub.tables import EventLedger, FlLog, FlMetric, Model, ModelsAudit, StatusHistory
from flip_fl.settings import write_settings_file
from flip_fl.values import ModelAuditAction, ModelStatus
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


def test_sixteen_writers_of_every_kind_lose_no_change(database_url: str) -> None:
    """Statuses, edits, log rows and deletions at once: each row is there once, history is a chain, no error."""
    with world(database_url) as filled:
        barrier = Barrier(16)
        rising = (ModelStatus.INITIATED, ModelStatus.PREPARED, ModelStatus.RUNNING, ModelStatus.RESULTS_UPLOADED)

        def write(number: int) -> None:
            barrier.wait()
            for turn in range(5):
                with Session(filled.engine) as session:
                    match number % 4:
                        case 0:
                            status = rising[(number + turn) % len(rising)]
                            model_service.update_model_status(filled.model_id, status, session, user_id=str(number))
                        case 1:
                            details = IModelDetails(name=f"n{number}-{turn}", description=f"d{number}-{turn}")
                            model_service.edit_model(filled.model_id, details, str(number), session)
                        case 2:
                            model_service.add_log(filled.model_id, f"{number}-{turn}", session, trust=filled.guys)
                        case _:
                            model_service.delete_model(filled.model_id, str(number), session)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(write, range(16)))
        (model,) = filled.rows(Model)
        assert model.name.replace("n", "d") == model.description
        assert model.deleted
        history = filled.rows(StatusHistory)
        assert [row.previous for row in history[1:]] == [row.status for row in history[:-1]]
        assert history[-1].status is model.status
        assert {row.log for row in filled.rows(FlLog)} == {f"{n}-{t}" for n in (2, 6, 10, 14) for t in range(5)}
        actions = Counter(row.action for row in filled.rows(ModelsAudit))
        assert (actions[ModelAuditAction.EDIT], actions[ModelAuditAction.DELETE]) == (20, 20)
        changes = Counter(row.status for row in history[1:])
        assert actions[ModelAuditAction.RUNNING] == changes[ModelStatus.RUNNING]


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
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_a_killed_hub_loses_no_acknowledged_event_and_doubles_none(
    database_url: str, tmp_path: Path, kills: int
) -> None:
    """`kill -9` at any moment, four senders at work: what was acknowledged is there, a re-sent batch is stored once."""
    with world(database_url) as filled:
        key, fingerprint = admin.new_service_key()
        settings = tmp_path / "hub.env"
        write_settings_file(settings, {"FLIP_HUB_DATABASE_URL": database_url, "INTERNAL_SERVICE_KEY_HASH": fingerprint})
        senders = [_Sender(filled, key, number) for number in range(4)]
        dice = random.Random(kills)
        for kill in range(kills + 1):
            port_file = tmp_path / f"port-{kill}"
            last = kill == kills
            with _hub_process(settings, port_file) as (process, port):
                # From a thread of its own, so that it strikes in the middle of whatever the hub is doing.
                killer = Timer(dice.uniform(0.02, 0.5), process.kill)
                if not last:
                    killer.start()
                with ThreadPoolExecutor(len(senders)) as pool:
                    list(pool.map(lambda sender, port=port, last=last: sender.send(port, last=last), senders))
                if not last:
                    killer.join()
        acknowledged = {name for sender in senders for name in sender.acknowledged}
        ledger = {str(row.event_id) for row in filled.rows(EventLedger)}
        assert acknowledged == ledger
        assert len(acknowledged) > 5 * kills
        assert len(filled.rows(FlMetric)) + len(filled.rows(FlLog)) == len(ledger)
        values = [row.result for row in filled.rows(FlMetric)]
        assert sorted(values) == sorted(value for sender in senders for value in sender.made)
        with filled.session() as session:
            assert sum(one.points for one in stored_series(filled.model_id, session)) == len(values)


class _Sender:
    """Sends batch after batch until the hub is gone; what was not acknowledged it sends again."""

    def __init__(self, filled: World, key: str, number: int) -> None:
        self._filled, self._key, self._number = filled, key, number
        self._waiting: list[dict[str, Any]] = []
        self.acknowledged: set[str] = set()
        self.made: list[float] = []

    def send(self, port: int, *, last: bool) -> None:
        while self._waiting or not last:
            if not self._waiting:
                values = [self._number * 1e9 + len(self.made) + n for n in range(20)]
                self._waiting = [metric("Trust_1", f"loss {self._number}", value, 1) for value in values]
                self._waiting.append(item("log", client="Trust_2", log=f"row {values[0]}"))
                self.made += values
            try:
                answer = _post(port, self._key, self._filled, self._waiting)
            except requests.RequestException:
                return
            self.acknowledged |= {result["id"] for result in answer["results"]}
            self._waiting = []


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
