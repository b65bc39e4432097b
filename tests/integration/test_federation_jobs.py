"""Jobs in a real federation made of kits: submitted, watched, aborted and submitted again, the same on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from dotenv import dotenv_values

from flip_fl.hub.roles import Role
from flip_fl.settings import write_settings_file
from flip_fl.values import ModelStatus
from tests.support.cli import flip_fl
from tests.support.running_kits import RunningKits, running_kits
from tests.support.runs import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

_NVFLARE = pytest.param("nvflare", marks=pytest.mark.xdist_group("jobs-nvflare"))
_FLOWER = pytest.mark.xdist_group("jobs-flower")
# One engine shows it in every run of the suite; the other takes minutes.
ONE_ENGINE = pytest.mark.parametrize(
    "kits", [_NVFLARE, pytest.param("flower", marks=[_FLOWER, pytest.mark.soak])], indirect=True
)


@pytest.fixture(scope="module")
def kits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKits]:
    with running_kits(request.param, tmp_path_factory.mktemp(f"jobs-{request.param}")) as running:
        yield running


@ONE_ENGINE
def test_a_job_goes_from_its_submission_to_results_in_the_store(kits: RunningKits) -> None:
    """The whole way that a kit is for: sites by name, every round at the hub, results where they belong."""
    model = kits.around.hub.model_id
    done = kits.call("job", "submit", "app", "--model", str(model), "--json")
    assert done.exit_code == 0, done.stderr + done.stdout
    told = done.document()["data"]
    assert (told["sites"], told["rounds"], told["already"]) == (["Trust_1", "Trust_2"], 2, False)
    end = kits.call("job", "watch", str(model), "--every", "1", "--json")
    assert end.exit_code == 0, end.stderr + end.stdout
    assert end.document()["data"]["run"] == told["job"]
    story = kits.around.hub.story()
    assert story.status is ModelStatus.RESULTS_UPLOADED
    assert [sorted(one.slot for one in each.updates) for each in story.rounds] == [["Trust_1", "Trust_2"]] * 2
    assert story.results is not None
    assert end.document()["data"]["engine_state"] == "completed"
    (row,) = kits.call("job", "list", "--json").document()["data"]["jobs"]
    assert (row["job"], row["state"], row["model_id"]) == (told["job"], "completed", str(model))
    log = kits.call("job", "logs", str(model))
    assert log.exit_code == 0, log.stderr
    assert len(log.stdout.splitlines()) > 5


@pytest.mark.soak
@ONE_ENGINE
def test_two_jobs_run_at_once_and_an_aborted_one_is_submitted_again(kits: RunningKits) -> None:
    """A stop is the truth at the hub, hits its own job alone, and is no end for the model."""
    first, second = kits.new_model(), kits.new_model()
    slow = kits.app("slow", in_train="import time; time.sleep(1.0)", GLOBAL_ROUNDS=60)
    quick = kits.app("quick", GLOBAL_ROUNDS=1)
    job = _submitted(kits, slow, first)
    _submitted(kits, quick, second)
    again = kits.call("job", "submit", str(slow), "--model", str(first), "--json")
    assert (again.exit_code, again.document()["data"]["job"], again.document()["data"]["already"]) == (0, job, True)
    other = kits.call("job", "submit", str(quick), "--model", str(first), "--json")
    assert (other.exit_code, other.document()["code"]) == (5, "FLIP-E0544")
    assert kits.call("job", "watch", str(second), "--every", "1").exit_code == 0
    assert _state(kits, job) == "running"
    wait_for(lambda: kits.hub(first).story().status is ModelStatus.RUNNING, "the first round", 300)

    refused = kits.call("job", "abort", str(first))
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    done = kits.call("job", "abort", str(first), "--reason", "wrong cohort", "--yes", "--json")
    assert done.exit_code == 0, done.stderr + done.stdout
    told = done.document()["data"]
    assert (told["job"], told["state"], told["hub_told"], told["already"]) == (job, "stopped", True, False)
    story = kits.hub(first).story()
    assert story.status is ModelStatus.STOPPED
    assert "wrong cohort" in str(story.reason)
    assert kits.call("job", "watch", str(first)).exit_code == 6
    assert kits.call("job", "abort", job, "--yes", "--json").document()["data"]["already"]

    shorter = kits.app("shorter", GLOBAL_ROUNDS=1)
    assert _submitted(kits, shorter, first) != job
    assert kits.call("job", "watch", str(first), "--every", "1").exit_code == 0
    assert kits.hub(first).story().status is ModelStatus.RESULTS_UPLOADED


@ONE_ENGINE
def test_hub_kits_and_server_agree_and_a_kit_reaches_its_own_server_alone(kits: RunningKits, tmp_path: Path) -> None:
    """Who sets a federation up sees in two commands that all sides fit, and a kit of another one that it does not."""
    done = kits.call("doctor", "--federation", "--settings", str(_operators(kits, tmp_path)), "--json")
    assert done.exit_code == 0, done.stdout
    rows = {row["name"]: row for row in done.document()["data"]["checks"]}
    assert (rows["slots"]["state"], rows["connected"]["what"]) == ("ok", "Trust_1, Trust_2")
    reached = kits.call("kit", "verify", "kits/Trust_1", "--connect")
    assert reached.exit_code == 0, reached.stdout
    assert f"ok    server           localhost:{kits.port} answers" in reached.stdout
    other = flip_fl("provision", "-n", "1", "--engine", kits.engine, cwd=tmp_path)
    assert other.exit_code == 0, other.stderr
    record = tmp_path / "kits/Trust_1/kit.json"
    record.write_text(record.read_text().replace('"port": 8002', f'"port": {kits.port}'))
    strange = flip_fl("kit", "verify", "kits/Trust_1", "--connect", cwd=tmp_path)
    assert strange.exit_code == 3
    assert "its certificate is another CA's" in strange.stderr


@ONE_ENGINE
def test_a_kit_that_runs_twice_is_refused_the_second_time_and_told(kits: RunningKits, tmp_path: Path) -> None:
    """No server can tell a copy from the original: the first stays and works, hub and doctor name the other."""
    words = "a second copy of the kit of Trust_2 is refused"
    model = kits.new_model()
    _submitted(kits, kits.app("twice", in_train="import time; time.sleep(3)", GLOBAL_ROUNDS=3), model)
    wait_for(lambda: bool(kits.hub(model).story().rounds), "the first round has begun", 180)
    with kits.started(kits.copy("Trust_2")) as copy:
        wait_for(lambda: words in _told(kits, model), "the hub is told", 120)
        assert kits.call("job", "watch", str(model), "--every", "1").exit_code == 0
        assert kits.hub(model).story().status is ModelStatus.RESULTS_UPLOADED
        if kits.engine == "flower":
            wait_for(lambda: not copy.running, "the copy has given up", 180)
            assert "error[FLIP-E0619]: Trust_2 is connected to localhost already" in copy.log.read_text()
    story = kits.hub(model).story()
    assert [sorted(one.slot for one in each.updates) for each in story.rounds] == [["Trust_1", "Trust_2"]] * 3
    done = kits.call("doctor", "--federation", "--settings", str(_operators(kits, tmp_path)), "--json")
    rows = {row["name"]: row for row in done.document()["data"]["checks"]}
    assert words in rows["copies"]["what"]
    assert rows["copies"]["fix"].endswith("flip-fl kit revoke Trust_2")


def _operators(kits: RunningKits, folder: Path) -> Path:
    """The FL server's settings with an operator's token."""
    own = {"FLIP_HUB_TOKEN": kits.token(Role.OPERATOR), "LOCAL_DEV": "false"}
    settings = {**dotenv_values(kits.around.settings / "server.env"), **own}
    file = folder / "server.env"
    write_settings_file(file, {name: str(value) for name, value in settings.items()})
    return file


def _told(kits: RunningKits, model: UUID) -> str:
    return "\n".join(row.text for row in kits.hub(model).story().feed)


def _submitted(kits: RunningKits, app: Path, model: UUID) -> str:
    done = kits.call("job", "submit", str(app), "--model", str(model), "--json")
    assert done.exit_code == 0, done.stderr + done.stdout
    return str(done.document()["data"]["job"])


def _state(kits: RunningKits, job: str) -> str:
    rows = kits.call("job", "list", "--json").document()["data"]["jobs"]
    return next(str(row["state"]) for row in rows if row["job"] == job)
