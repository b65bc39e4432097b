"""Runs on a real SuperLink with TLS and node authentication: what goes wrong there, and what the hub holds of it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
import requests

from flip_fl.dashboard.story import Story, Transition
from flip_fl.flower.job import write_job
from flip_fl.hub import admin, tokens
from flip_fl.hub.roles import Role
from flip_fl.jobs.templates import JobValues
from flip_fl.settings import write_settings_file
from flip_fl.simulate.flower_deployment import Node
from flip_fl.simulate.flower_link import CONNECTION, program
from flip_fl.simulate.prepare import prepare
from flip_fl.values import ModelStatus
from tests.support import small_apps
from tests.support.flower_deployment import Deployment, deployment, eventually, write_app
from tests.support.hub import HubServer, hub_server
from tests.support.s3_server import S3Server, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("flower_deployment")]

PARTICIPANTS = ("Trust_1", "Trust_2", "Trust_3", "Trust_4")
IMPOSTORS_LOSS = 666.0

SERVER_APP = """
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from flip_fl.flower import run

app = ServerApp()


@app.main()
def main(grid, context):
    strategy = FedAvg(min_train_nodes=1, fraction_evaluate=0.0, min_evaluate_nodes=0, min_available_nodes=1)
    # the app's own model costs a start of torch: only where there are results to be stored
    arrays = None if context.run_config["stores-results"] else ArrayRecord([np.zeros(3)])
    run(strategy, grid, context, arrays=arrays)
"""

CLIENT_APP = """
import os
import time
from pathlib import Path

from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flip_fl.flower.claim import claimed_slot
from flip_fl.flower.mods import flip_mods
from flip_fl.flower.protocol import stamp_slot

app = ClientApp(mods=flip_mods())


@app.train()
def train(message: Message, context) -> Message:
    slot = claimed_slot(context.node_config, context.run_config)
    if slot in context.run_config["waits"].split(","):
        signs = Path(context.run_config["signs"])
        (signs / slot).write_text("trains")
        until = time.time() + 150
        while time.time() < until and not (signs / "go on").exists():
            time.sleep(0.1)
    loss = float(os.environ.get("SITE_LOSS", "0.25"))
    metrics = MetricRecord({"num-examples": 10, "loss": loss})
    content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    stamp_slot(content, slot)
    return Message(content, reply_to=message)
"""


@dataclass
class Scenario:
    """One run and the model that it reports on."""

    name: str
    model_id: UUID
    run_id: str
    signs: Path
    told: Story | None = None
    watched: str = ""

    @property
    def story(self) -> Story:
        assert self.told is not None
        return self.told

    @property
    def applied(self) -> list[str]:
        """The statuses that the model went through."""
        return [each.status.value for each in self.story.history if each.applied]

    @property
    def end(self) -> Transition:
        """The last status with its reason and time."""
        return [each for each in self.story.history if each.applied][-1]

    def cells(self, number: int = 1) -> dict[str, str]:
        """What each site did in a round."""
        (round_,) = [each for each in self.story.rounds if each.number == number]
        return {cell.slot: cell.state for cell in round_.cells}

    def rows(self, slot: str | None = None) -> str:
        """The activity feed's texts (of one slot), a line each."""
        return "\n".join(row.text for row in self.story.feed if slot is None or row.slot == slot)

    def values(self) -> dict[str, list[float | None]]:
        """Every metric value that the hub holds, by slot."""
        found: dict[str, list[float | None]] = {}
        for plot in self.story.plots:
            for series in plot.series:
                found.setdefault(series.slot, []).extend(point.y for point in series.points)
        return found


@dataclass
class Federation:
    """Hub, object store and deployment, with the jobs that are run on them."""

    folder: Path
    database: str
    hub: HubServer
    there: Deployment
    app: Path
    tool_job: Path
    settings: Path
    token: str
    scenarios: dict[str, Scenario] = field(default_factory=dict)

    def submit(self, name: str, slots: str, waits: str = "", **config: str | int | bool) -> Scenario:
        """Run the numpy-only job at ``slots``; those of ``waits`` train until ``go_on``."""
        model_id = self._model(name, slots)
        signs = self.folder / "signs" / name
        signs.mkdir(parents=True)
        run_id = self.there.submit(
            self.tool_job,
            flip_model_id=str(model_id),
            flip_slots=slots,
            flip_job_dir=str(self.app),
            waits=waits,
            signs=str(signs),
            **config,
        )
        return self._keep(Scenario(name, model_id, run_id, signs))

    def submit_template(self, name: str, slots: str) -> Scenario:
        """Run the filled standard template as it is, for one round: every task costs each node a start of torch."""
        model_id = self._model(name, slots)
        values = JobValues(model_id=model_id, num_rounds=1, min_clients=0, slots=tuple(slots.split(",")))
        job = write_job(self.app, "standard", values, self.folder / "jobs" / name)
        return self._keep(Scenario(name, model_id, self.there.submit(job), self.folder))

    def wait_trains(self, scenario: Scenario, slot: str) -> None:
        """Return when ``slot`` is in the middle of its training."""
        eventually((scenario.signs / slot).exists, 120, f"{slot} trains in {scenario.name}")

    def go_on(self, scenario: Scenario) -> None:
        """Let the trainings of the scenario end."""
        (scenario.signs / "go on").write_text("")

    def wait_ended(self, scenario: Scenario, timeout_s: float) -> None:
        """Return when the hub knows the run's end, and keep its story."""

        def ended() -> Story | None:
            story = self._story(scenario)
            return story if story.status.is_terminal else None

        scenario.told = eventually(ended, timeout_s, f"the end of {scenario.name} at the hub", poll_s=0.5)

    def watch(self, scenario: Scenario) -> subprocess.Popen[str]:
        """``flip-fl job watch`` on the scenario's run."""
        command = [program("flip-fl"), "job", "watch", str(scenario.model_id), "--run", scenario.run_id]
        command += ["--connection", CONNECTION, "--settings", str(self.settings / "server.env")]
        command += ["--every", "1", "--unreachable-after", "4"]
        return subprocess.Popen(
            command,
            env=dict(self.there.inner.home.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _model(self, name: str, slots: str) -> UUID:
        with admin.open_session(self.database) as session:
            trusts = [f"Hospital {slot}" for slot in slots.split(",")]
            return admin.create_model(session, "Stroke", name, "", trusts=trusts).id

    def _keep(self, scenario: Scenario) -> Scenario:
        self.scenarios[scenario.name] = scenario
        return scenario

    def _story(self, scenario: Scenario) -> Story:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = requests.get(f"{self.hub.base}/model/{scenario.model_id}/story", headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return Story.model_validate_json(answer.content)


@contextlib.contextmanager
def _federation(folder: Path) -> Iterator[Federation]:
    database = f"sqlite:///{folder / 'hub.sqlite'}"
    admin.init_database(database)
    with admin.open_session(database) as session:
        admin.seed_slots(session, len(PARTICIPANTS))
        admin.create_project(session, "Stroke")
        token = tokens.issue(session, "a reader", Role.VIEWER).secret
        for number, slot in enumerate(PARTICIPANTS, 1):
            trust = admin.create_trust(session, f"Hospital {slot}", f"H{number}")
            assert admin.assign_slot(session, trust.id) == slot
    app = small_apps.write_app(folder / "app")
    tool_job = write_app(folder / "jobs" / "tool", SERVER_APP, CLIENT_APP, **_TOOL_CONFIG)
    settings = folder / "settings"
    with (
        s3_server() as s3,
        hub_server(database) as hub,
        deployment(folder / "deployment", FLIP_SETTINGS_DIR=str(settings)) as there,
    ):
        s3.make_bucket("results")
        _write_settings(settings, folder, app, hub, s3, token)
        yield Federation(folder, database, hub, there, app, tool_job, settings, token)


_TOOL_CONFIG: dict[str, str | int | bool] = {
    "flip_model_id": "",
    "flip_slots": "",
    "flip_job_dir": "",
    "flip_start_timeout_s": 60,
    "num_server_rounds": 1,
    "stores_results": False,
    "waits": "",
    "signs": "",
}


def _write_settings(settings: Path, folder: Path, app: Path, hub: HubServer, s3: S3Server, token: str) -> None:
    data = folder / "data"
    prepare(app, data)
    keys = {"INTERNAL_SERVICE_KEY": hub.key, "FLIP_HUB_TOKEN": token}
    server = {"FLIP_API_INTERNAL_URL": hub.base, **keys, **s3.environment("results")}
    write_settings_file(settings / "server.env", {**server, "FLIP_STATE_DIR": str(folder / "state" / "server")})
    for slot in PARTICIPANTS:
        local = {"LOCAL_DEV": "true", "DEV_DATAFRAME": str(data / "cohort.csv"), "DEV_TABULAR": "true"}
        write_settings_file(settings / f"{slot}.env", {**local, "FLIP_STATE_DIR": str(folder / "state" / slot)})


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """One deployment in which everything happens, side by side where one thing does not disturb the other.

    Five keys: those of Trust_1 to Trust_3, and two that are both registered as Trust_4.
    """
    with _federation(tmp_path_factory.mktemp("federation")) as here:
        there = here.there
        _, second, third, _, _ = there.add_nodes("Trust_1", "Trust_2", "Trust_3", "Trust_4", "Trust_4")
        _lose_a_node(here, third)
        twice = here.submit("twice", "Trust_1,Trust_4", flip_start_timeout_s=4)
        _stop_through_flower(here)
        ordinary = here.submit_template("ordinary", "Trust_1,Trust_2")
        for scenario in (twice, ordinary, here.scenarios["killed"]):
            here.wait_ended(scenario, 240)
        _let_a_node_lie_and_another_leave(here, third, second)
        _lose_the_superlink(here)
        there.restart_superlink()
        here.wait_ended(here.submit("after", "Trust_1", num_server_rounds=2, stores_results=True), 240)
        yield here


def _lose_a_node(here: Federation, node: Node) -> None:
    """A node is killed in mid-round; Flower notices that by its heartbeat, within some 70 seconds."""
    killed = here.submit("killed", "Trust_1,Trust_3", waits="Trust_3")
    here.wait_trains(killed, "Trust_3")
    here.there.kill_node(node)
    (killed.signs / "killed").write_text(str(time.time()))


def _stop_through_flower(here: Federation) -> None:
    """``flwr stop`` while a site trains."""
    stopped = here.submit("stopped", "Trust_2", waits="Trust_2")
    here.wait_trains(stopped, "Trust_2")
    here.there.stop_run(stopped.run_id)
    here.wait_ended(stopped, 60)
    here.go_on(stopped)


def _let_a_node_lie_and_another_leave(here: Federation, liar: Node, leaver: Node) -> None:
    """Trust_3 comes back and says that it is Trust_1; Trust_2's key is unregistered while it trains."""
    here.there.start_node(liar, claim="Trust_1", SITE_LOSS=str(IMPOSTORS_LOSS))
    here.there.wait_online(liar)
    lied = here.submit("lied", "Trust_1,Trust_2,Trust_3", waits="Trust_2")
    here.wait_trains(lied, "Trust_2")
    here.there.unregister(leaver)
    here.wait_ended(lied, 120)


def _lose_the_superlink(here: Federation) -> None:
    """SuperLink and ServerApp are killed in mid-round, under the eyes of the watchdog."""
    lost = here.submit("lost", "Trust_1", waits="Trust_1")
    here.wait_trains(lost, "Trust_1")
    watchdog = here.watch(lost)
    try:
        time.sleep(4)  # it has seen the run
        here.there.kill_superlink()
        lost.watched, _ = watchdog.communicate(timeout=90)
    finally:
        watchdog.kill()
        watchdog.wait()
    here.go_on(lost)
    here.wait_ended(lost, 10)


def test_an_ordinary_run_tells_a_complete_story(played: Federation) -> None:
    """``flwr run`` of the filled template, offline: every status, round, result, curve, and the stored bundle."""
    run = played.scenarios["ordinary"]
    assert run.applied == ["PENDING", "INITIATED", "PREPARED", "RUNNING", "RESULTS_UPLOADED"]
    assert [(each.number, each.returned, each.expected) for each in run.story.rounds] == [(1, 2, 2)]
    assert run.cells() == {"Trust_1": "returned", "Trust_2": "returned"}
    assert all(cell.size_bytes and cell.seconds for each in run.story.rounds for cell in each.cells)
    curves = {plot.label: {each.slot: len(each.points) for each in plot.series} for plot in run.story.plots}
    assert curves == {key: {"Trust_1": 1, "Trust_2": 1} for key in ("step_loss", "train_loss", "loss", "wrong")}
    assert run.story.results is not None
    assert run.story.results.sha256
    assert not run.story.failures


def test_nodes_that_take_no_part_are_never_asked(played: Federation) -> None:
    """Every node is visible to every run of a SuperLink: only the job's slots get its messages, the others are told."""
    run = played.scenarios["ordinary"]
    assert set(run.values()) == {"Trust_1", "Trust_2"}
    assert [site.slot for site in run.story.sites] == ["Trust_1", "Trust_2"]
    assert "not used: Trust_4, which is not one of the job's sites" in run.rows()
    logs = {log: log.read_text() for log in played.there.inner.logs.glob("Trust_*.log")}
    asked = {log.name.partition("-")[0] for log, text in logs.items() if f"[RUN {run.run_id}" in text}
    assert asked == {"Trust_1", "Trust_2"}


def test_a_name_that_two_nodes_bear_belongs_to_neither(played: Federation) -> None:
    """Two keys under one name: the run ends before its first round and names it, none of the two is asked."""
    run = played.scenarios["twice"]
    assert run.story.status is ModelStatus.ERROR
    assert "Trust_4 not connected" in (run.end.reason or "")
    assert "2 nodes that are both Trust_4" in (run.end.reason or "")
    assert run.story.rounds == []


def test_a_node_killed_in_mid_round_is_named(played: Federation) -> None:
    """The run ends ERROR with the site and what became of it, as soon as Flower's heartbeat tells."""
    run = played.scenarios["killed"]
    assert run.story.status is ModelStatus.ERROR
    assert (run.end.reason or "").startswith("Trust_3 in train, round 1: the node is not connected any more")
    assert run.cells() == {"Trust_1": "returned", "Trust_3": "failed"}
    killed_at = float((run.signs / "killed").read_text())
    assert run.end.at.timestamp() - killed_at < 90


def test_flwr_stop_is_stopped_at_the_hub(played: Federation) -> None:
    """A stop through Flower's own command is told as what it is, not as a failure."""
    run = played.scenarios["stopped"]
    assert run.story.status is ModelStatus.STOPPED
    assert "flwr stop" in (run.end.reason or "")


def test_a_node_that_claims_another_name_is_refused(played: Federation) -> None:
    """Its reply counts as failed, the hub is told, and nothing that it measured is stored under either name."""
    run = played.scenarios["lied"]
    assert "Trust_3 claims to be Trust_1: refused" in run.rows("Trust_3")
    assert run.cells()["Trust_3"] == "failed"
    assert IMPOSTORS_LOSS not in [value for values in run.values().values() for value in values]
    assert set(run.values()) == {"Trust_1"}


def test_a_node_unregistered_in_mid_round_is_named(played: Federation) -> None:
    """A revoked key ends a site's part at once: told for the site, and the run fails below its quorum."""
    run = played.scenarios["lied"]
    assert run.story.status is ModelStatus.ERROR
    assert "the node is not connected any more" in run.rows("Trust_2")
    assert run.cells() == {"Trust_1": "returned", "Trust_2": "failed", "Trust_3": "failed"}
    assert "Trust_2" in (run.end.reason or "")


def test_a_killed_superlink_is_told_by_the_watchdog(played: Federation) -> None:
    """Nothing of the run is left that could report: the watchdog ends the model with the reason."""
    run = played.scenarios["lost"]
    assert run.story.status is ModelStatus.ERROR, run.watched
    assert "the SuperLink gave no answer" in (run.end.reason or "")
    assert "watchdog" in run.watched


def test_the_next_run_after_a_restart_works(played: Federation) -> None:
    """On the same database keys and names are known, nodes come back by themselves, and a new run ends well."""
    run = played.scenarios["after"]
    assert run.applied[-1] == "RESULTS_UPLOADED"
    assert [run.cells(1), run.cells(2)] == [{"Trust_1": "returned"}] * 2


def test_flower_shows_what_the_hub_shows(played: Federation) -> None:
    """``flwr ls``: a run that failed or was stopped at the hub is no completed one in Flower."""
    told = {each["run-id"]: each["status"] for each in played.there.flwr("ls")["runs"]}
    found = {name: told[scenario.run_id] for name, scenario in played.scenarios.items() if name != "lost"}
    failed = dict.fromkeys(("killed", "twice", "lied"), "finished:failed")
    completed = dict.fromkeys(("ordinary", "after"), "finished:completed")
    assert found == {**failed, **completed, "stopped": "finished:stopped"}
