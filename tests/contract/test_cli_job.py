"""``flip-fl job watch`` against a real hub: with a scripted engine in this process, and with a real SuperLink."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flip_fl.commands.answers import JobWatched
from flip_fl.errors import FlipError
from flip_fl.hub import admin
from flip_fl.jobs.decide import LOSS_PREFIX, NOTICED_BY, EngineRun, EngineState, HubState, Limits
from flip_fl.jobs.flower import FlowerRuns
from flip_fl.jobs.hub_model import HubAway, HubModel
from flip_fl.jobs.watch import Watched, watch
from flip_fl.reporting import Reporting, open_reporting
from flip_fl.reporting.outbox import Outbox
from flip_fl.settings import ServerSettings, write_settings_file
from flip_fl.simulate.faults import AWAY, HUNG, OK, faulty_hub
from flip_fl.simulate.flower_link import CONNECTION
from flip_fl.values import ModelStatus
from tests.contract.test_cli_json import checked
from tests.support.cli import SCRIPT, Finished, environment, flip_fl
from tests.support.flower_deployment import Deployment, deployment, write_app
from tests.support.hub import RunningHub, running_hub, world
from tests.support.reporting import QUICK, note, put, settings, status, wait_until

RUN = "924423456157469081"
FAST = Limits(grace_s=0.2, unreachable_after_s=0.4, outbox_s=0.4)
CANARY = "943-476-5919"


@dataclass
class Script:
    """An engine that answers what the test says, one answer a look, the last for ever; it counts the looks."""

    answers: list[EngineState]
    engine: str = "Flower"
    server: str = "the SuperLink"
    connection: str = "net"
    looks: int = 0
    on_look: Callable[[int], None] = field(default=lambda number: None)

    def look(self, run: str) -> EngineRun:
        assert run == RUN
        self.on_look(self.looks)
        state = self.answers[min(self.looks, len(self.answers) - 1)]
        self.looks += 1
        return EngineRun(state)


def to(hub: RunningHub, state: Path | None = None, url: str | None = None) -> ServerSettings:
    more = {} if state is None else {"state_dir": str(state)}
    return settings(url or hub.base, hub.key, hub_token=hub.world.token, **more)


def watched(hub: RunningHub, script: Script, *, state: Path | None = None, **facts: Any) -> Watched:
    options: dict[str, Any] = {"limits": FAST, "every_s": 0.05, "timeout_s": 60.0, **facts}
    return watch(to(hub, state, options.pop("url", None)), hub.world.model_id, script, RUN, **options)


def history(hub: RunningHub, model_id: UUID | None = None) -> list[tuple[str, str | None]]:
    """Every status that the hub took, with its reason."""
    story = hub.call("GET", f"/model/{model_id or hub.world.model_id}/story").json()
    return [(step["status"], step["reason"]) for step in story["history"] if step["status"] != "PENDING"]


def begun(hub: RunningHub, model_id: UUID | None = None) -> None:
    path = f"/model/{model_id or hub.world.model_id}/status"
    for value in ("INITIATED", "PREPARED", "RUNNING"):
        assert hub.call("PUT", f"{path}/{value}").status_code == 200


def test_a_run_that_can_no_longer_report_ends_at_the_hub_with_the_reason_and_who_noticed(hub: RunningHub) -> None:
    """A killed ServerApp says nothing: without this the model would be Training for ever, and its net busy."""
    begun(hub)
    told: list[str] = []
    end = watched(hub, Script([EngineState.RUNNING, EngineState.RUNNING, EngineState.FAILED]), tell=told.append)
    reason = f"{LOSS_PREFIX}: Flower says that the run failed; {NOTICED_BY}"
    assert (end.status, end.reason, end.written) == (ModelStatus.ERROR, reason, True)
    assert history(hub)[-1] == ("ERROR", reason)
    assert hub.logs().count(reason) == 1
    assert [line for line in told if line.startswith("Flower: running")]
    before = hub.logs()
    again = watched(hub, Script([EngineState.FAILED]))
    assert (again.status, again.written, hub.logs()) == (ModelStatus.ERROR, False, before)


def test_a_stop_puts_right_the_error_of_a_lost_engine_and_no_other(hub: RunningHub) -> None:
    """Only an ERROR that a watchdog or an engine wrote for a loss gives way; the run's own failure is the truth."""
    begun(hub)
    lost = watched(hub, Script([EngineState.UNREACHABLE]))
    assert lost.status is ModelStatus.ERROR
    assert lost.reason is not None
    assert "the SuperLink gave no answer" in lost.reason
    stopped = watched(hub, Script([EngineState.RUNNING, EngineState.STOPPED]))
    assert (stopped.status, stopped.written) == (ModelStatus.STOPPED, True)
    assert [value for value, _ in history(hub)][-2:] == ["ERROR", "STOPPED"]
    other = second_model(hub)
    begun(hub, other)
    sent = hub.call("POST", f"/model/{other}/events", json={"items": [_failed("Trust_1 in train, round 1: oops")]})
    assert sent.status_code == 200
    kept = watch(to(hub), other, Script([EngineState.STOPPED]), RUN, limits=FAST, every_s=0.05)
    assert (kept.status, kept.written) == (ModelStatus.ERROR, False)
    assert kept.note is not None
    assert "left as it is" in kept.note


def _failed(reason: str) -> dict[str, Any]:
    document: dict[str, Any] = status(ModelStatus.ERROR, reason).model_dump(mode="json")
    return document


def second_model(hub: RunningHub) -> UUID:
    """Another model of the same trusts at the same hub."""
    filled = hub.world
    with admin.open_session(filled.url) as session:
        trusts = [filled.guys, filled.kings]
        return admin.create_model(session, "Stroke", "lesions 2", "finds lesions", trusts=trusts).id


def test_the_run_s_own_word_from_its_outbox_wins_over_what_is_seen_from_outside(
    hub: RunningHub, tmp_path: Path
) -> None:
    """A ServerApp killed after its last report, while the hub was away: the reports arrive, and the real reason."""
    begun(hub)
    folder = tmp_path / "outbox"
    folder.mkdir()
    box = Outbox(folder / f"{hub.world.model_id}.sqlite")
    put(box, note("the last words"), status(ModelStatus.RESULTS_UPLOADED))
    box.close()
    end = watched(hub, Script([EngineState.COMPLETED]), state=tmp_path)
    assert (end.status, end.written) == (ModelStatus.RESULTS_UPLOADED, False)
    assert hub.logs().count("the last words") == 1
    assert list(folder.glob("*.sqlite")) == []


def test_a_live_process_is_waited_for_but_not_without_an_end(hub: RunningHub, tmp_path: Path) -> None:
    """A ServerApp that still sends tells its end itself; one that hangs for ever must not keep the net busy."""
    with _reporting(hub, tmp_path) as reporting:
        reporting.lifecycle.initiated()

        def finish(number: int) -> None:
            if number == 4:
                reporting.lifecycle.fail("Trust_1 in train, round 1: oops")
                reporting.lifecycle.finish()

        end = watched(
            hub,
            Script([EngineState.RUNNING] * 5 + [EngineState.FAILED], on_look=finish),
            state=tmp_path,
            limits=Limits(grace_s=0.0, unreachable_after_s=60.0, outbox_s=60.0),
        )
    assert (end.reason, end.written) == ("Trust_1 in train, round 1: oops", False)
    hung = second_model(hub)
    with _reporting(hub, tmp_path, hung) as reporting:
        reporting.lifecycle.initiated()
        begin = time.monotonic()
        end = watch(to(hub, tmp_path), hung, Script([EngineState.FAILED]), RUN, limits=FAST, every_s=0.05)
        assert time.monotonic() - begin >= FAST.grace_s + FAST.outbox_s
    assert (end.status, end.written) == (ModelStatus.ERROR, True)


@contextmanager
def _reporting(hub: RunningHub, state: Path, model_id: UUID | None = None) -> Iterator[Reporting]:
    reporting = open_reporting(to(hub), model_id or hub.world.model_id, state, pace=QUICK)
    try:
        yield reporting
    finally:
        reporting.close()


def test_a_restarted_superlink_that_forgot_the_run_is_told_from_a_mistyped_id(hub: RunningHub) -> None:
    """A run that was seen and is gone has ended; one that nobody ever knew may be a typing error: nothing written."""
    begun(hub)
    with pytest.raises(FlipError) as error:
        watched(hub, Script([EngineState.UNREACHABLE, EngineState.UNKNOWN]))
    assert error.value.code == "E0541"
    assert history(hub)[-1][0] == "RUNNING"
    end = watched(hub, Script([EngineState.RUNNING, EngineState.UNKNOWN]))
    assert end.status is ModelStatus.ERROR
    assert end.reason is not None
    assert "started anew and no longer knows the run" in end.reason


def test_a_hub_that_is_away_is_waited_for_and_then_told_once(hub: RunningHub) -> None:
    """The end is not lost because the hub was down when it was noticed; giving up is exit code 3, not a false end."""
    begun(hub)
    with faulty_hub(hub.base, AWAY) as proxy:
        with pytest.raises(FlipError) as error:
            watched(hub, Script([EngineState.FAILED]), url=proxy.url, timeout_s=0.5)
        assert (error.value.code, int(error.value.exit_code)) == ("E0542", 3)
        assert f"an answer of the hub ({proxy.url}: " in error.value.what
        assert history(hub)[-1][0] == "RUNNING"

        def recover(number: int) -> None:
            if number == 1:
                proxy.set(OK)

        # the engine's end is told while nobody can be told; the hub comes back after that
        script = Script([EngineState.RUNNING, EngineState.FAILED], on_look=recover)
        end = watched(hub, script, url=proxy.url)
    assert (end.status, end.written) == (ModelStatus.ERROR, True)
    assert [value for value, _ in history(hub)].count("ERROR") == 1
    assert hub.logs().count(end.reason or "") == 1


def test_an_end_that_a_hung_hub_took_late_is_written_once(hub: RunningHub) -> None:
    """After a time-out nobody knows whether the hub took it: the very same report is sent again, and kept once."""
    begun(hub)
    end = status(ModelStatus.ERROR, f"{LOSS_PREFIX}: once")
    with faulty_hub(hub.base) as proxy:
        model = HubModel(to(hub, url=proxy.url), hub.world.model_id)
        hasty = HubModel(to(hub, url=proxy.url), hub.world.model_id, read_timeout_s=0.3)
        assert model.state() == HubState(ModelStatus.RUNNING)
        proxy.set(HUNG)
        for attempt in (hasty.state, hasty.story, lambda: hasty.write(end)):
            with pytest.raises(HubAway):
                attempt()
        proxy.set(OK)
        wait_until(lambda: model.state() == HubState(ModelStatus.ERROR, loss=True), what="the late report")
        assert model.write(end)
        model.close()
        hasty.close()
    assert hub.logs().count(end.reason or "") == 1


def test_wrong_keys_models_and_addresses_end_at_once_with_their_reason(hub: RunningHub) -> None:
    """A watchdog that can never write must say so, and not wait for seven days."""
    script = Script([EngineState.FAILED])
    missing = UUID("7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b")
    cases: Sequence[tuple[ServerSettings, UUID, str]] = (
        (settings(hub.base, "another-key", hub_token=hub.world.token), hub.world.model_id, "E0411"),
        (settings(hub.base, hub.key, hub_token="another-token"), hub.world.model_id, "E0413"),
        (settings(hub.base, hub.key), hub.world.model_id, "E0401"),
        (to(hub), missing, "E1002"),
        (to(hub, url=hub.base.removesuffix("/api")), hub.world.model_id, "E0402"),
    )
    for given, model_id, code in cases:
        with pytest.raises(FlipError) as error:
            watch(given, model_id, script, RUN, limits=FAST, every_s=0.05, timeout_s=60.0)
        assert error.value.code == code
    assert hub.call("DELETE", f"/model/{hub.world.model_id}").status_code == 204
    with pytest.raises(FlipError) as error:
        watched(hub, script)
    assert (error.value.code, error.value.why) == ("E1002", "it was deleted")


def test_a_superlink_that_never_answers_costs_no_more_than_the_time_out(tmp_path: Path, monkeypatch: Any) -> None:
    """A hung SuperLink accepts connections: the watchdog's own look must have an end."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        home = tmp_path / "home"
        home.mkdir()
        address = f"127.0.0.1:{hung.getsockname()[1]}"
        (home / "config.toml").write_text(f'[superlink.net]\naddress = "{address}"\ninsecure = true\n')
        monkeypatch.setenv("FLWR_HOME", str(home))
        begin = time.monotonic()
        looked = FlowerRuns("net", timeout_s=4.0).look(RUN)
    assert looked == EngineRun(EngineState.UNREACHABLE, "flwr ls took more than 4 s")
    assert time.monotonic() - begin < 30.0


# -- the command itself, a real SuperLink, a real hub ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("not-a-uuid", "--run", "1", "--connection", "net"), "FLIP-E0102"),
        (("7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b", "--run", "x", "--connection", "net"), "FLIP-E0102"),
        (("7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b", "--run", "1"), "FLIP-E0547"),
        (("7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b", "--connection", "net"), "FLIP-E0102"),
        (("7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b", "--run", "1", "--connection", "net"), "FLIP-E0401"),
    ],
)
def test_a_wrong_command_line_is_told_before_anything_is_asked(
    words: tuple[str, ...], code: str, tmp_path: Path
) -> None:
    """Typing errors cost nothing: exit code 2, and the thing that is wrong by name."""
    done = flip_fl("job", "watch", *words, "--json", cwd=tmp_path)
    assert (done.exit_code, done.document()["code"]) == (2, code)
    if code == "FLIP-E0401":
        assert "--settings FILE" in done.document()["fix"]


def test_a_connection_that_flower_does_not_have_is_told_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    """A mistyped connection must not look like a SuperLink that is away: the file and the names it has are told."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    with pytest.raises(FlipError) as error:
        FlowerRuns("nte")
    assert (error.value.code, error.value.exit_code) == ("E0543", 2)
    assert error.value.where == str(tmp_path / "config.toml")
    (tmp_path / "config.toml").write_text('[superlink]\ndefault = "net"\n[superlink.net]\naddress = "127.0.0.1:1"\n')
    with pytest.raises(FlipError) as error:
        FlowerRuns("nte")
    assert error.value.why == "the file has net"
    FlowerRuns("net")


_BROKEN_AT_IMPORT = f"""from flwr.serverapp import ServerApp
raise RuntimeError("no scan for {CANARY}")
app = ServerApp()
"""
_SLEEPS = """import time
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    time.sleep(600)
"""
_CLIENT = "from flwr.clientapp import ClientApp\napp = ClientApp()\n"


@pytest.fixture
def one_hub(tmp_path: Path) -> Iterator[RunningHub]:
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    admin.init_database(url)
    with world(url) as filled, running_hub(filled) as hub:
        yield hub


@pytest.mark.slow
@pytest.mark.soak
def test_real_runs_of_a_real_superlink_end_at_the_hub(one_hub: RunningHub, tmp_path: Path) -> None:
    """The whole chain once: an import error, wrong inputs, Ctrl-C, a killed SuperLink, and the stop it hid."""
    hub = one_hub
    first, second = hub.world.model_id, second_model(hub)
    begun(hub, first)
    begun(hub, second)
    with deployment(tmp_path / "flower") as there:
        broken = there.submit(write_app(tmp_path / "broken", _BROKEN_AT_IMPORT, _CLIENT))
        sleeping = there.submit(write_app(tmp_path / "sleeping", _SLEEPS, _CLIENT))

        failed = _job(hub, there, first, broken)
        document = failed.document()
        assert (failed.exit_code, document["code"]) == (1, "FLIP-E0507")
        assert document["data"]["written"]
        value, reason = history(hub, first)[-1]
        assert value == "ERROR"
        assert reason is not None
        assert reason.startswith(f"{LOSS_PREFIX}: Flower says that the run failed (ServerApp failed with exception: ")
        told = failed.stdout + failed.stderr + "".join(map(str, hub.call("GET", f"/model/{first}/story").json()))
        assert CANARY not in told

        wrong = _job(hub, there, second, "12345")
        assert (wrong.exit_code, wrong.document()["code"]) == (2, "FLIP-E0541")
        wrong = _job(hub, there, second, sleeping, connection="nosuch")
        assert (wrong.exit_code, wrong.document()["code"]) == (2, "FLIP-E0543")
        assert "nosuch" in wrong.document()["message"]
        _interrupted(hub, there, second, sleeping)
        assert history(hub, second)[-1][0] == "RUNNING"

        there.stop_run(sleeping)
        there.kill_superlink()
        lost = _job(hub, there, second, sleeping, "--unreachable-after", "2")
        assert lost.exit_code == 1
        assert "the SuperLink gave no answer for 2 s" in lost.document()["message"]
        there.restart_superlink()
        stopped = _job(hub, there, second, sleeping)
        assert (stopped.exit_code, stopped.document()["code"]) == (6, "FLIP-E0511")
        assert [step for step, _ in history(hub, second)][-2:] == ["ERROR", "STOPPED"]
        # told and settled: asking again changes nothing, and success is the one answer without an error
        assert hub.call("PUT", f"/model/{first}/status/RESULTS_UPLOADED").status_code == 200
        done = _job(hub, there, first, broken)
        answer = checked(done.document(), JobWatched)
        assert (done.exit_code, answer.status, answer.written) == (0, "RESULTS_UPLOADED", False)


def _settings(hub: RunningHub, there: Deployment) -> Path:
    file = there.inner.folder / "server.env"
    values = {"FLIP_API_INTERNAL_URL": hub.base, "INTERNAL_SERVICE_KEY": hub.key, "FLIP_HUB_TOKEN": hub.world.token}
    write_settings_file(file, {**values, "UPLOADED_FEDERATED_DATA_BUCKET": "s3://results"})
    return file


def _words(hub: RunningHub, there: Deployment, model_id: UUID, run: str, connection: str) -> list[str]:
    words = ["job", "watch", str(model_id), "--run", run, "--connection", connection]
    return [*words, "--settings", str(_settings(hub, there)), "--every", "0.5", "--grace", "1", "--timeout", "60"]


def _job(
    hub: RunningHub, there: Deployment, model_id: UUID, run: str, *more: str, connection: str = CONNECTION
) -> Finished:
    words = _words(hub, there, model_id, run, connection)
    return flip_fl(*words, *more, "--json", cwd=there.inner.folder, env={"FLWR_HOME": str(there.inner.home.folder)})


def _interrupted(hub: RunningHub, there: Deployment, model_id: UUID, run: str) -> None:
    """Ctrl-C ends the watching only, and says how to go on."""
    child = subprocess.Popen(
        [str(SCRIPT), *_words(hub, there, model_id, run, CONNECTION)],
        cwd=there.inner.folder,
        env=environment(FLWR_HOME=str(there.inner.home.folder)),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stderr is not None
    assert child.stderr.readline() == "Flower: running; waiting for the end of the run at Flower\n"
    os.killpg(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 130
    assert f"flip-fl job watch {model_id} --run {run} --connection {CONNECTION}" in errors
    assert f"flwr stop {run} {CONNECTION}" in errors
