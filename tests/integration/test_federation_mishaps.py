"""What befalls the machines of a federation: killed in mid-run, another version, a wrong clock; on both engines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from flip_fl.dashboard.story import Story
from flip_fl.provision.kit import load_certificate
from flip_fl.reporting.site_news import read
from flip_fl.values import ModelStatus
from tests.conftest import leave_out
from tests.support.cli import environment, flip_fl
from tests.support.other_version import other_version, was_used
from tests.support.provision import reissue
from tests.support.running_kits import RunningKits, running_kits
from tests.support.runs import wait_for
from tests.support.wrong_clock import NoCompiler, wrong_clock

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

SLOW = "import time; time.sleep(6)"
ENDS_WITHIN_S = 300.0
# What Flower's process of a job says at a site when it has its first message, and the app that came with it.
FETCHED = b"Successfully installed "


@pytest.fixture(scope="module", params=["nvflare", "flower"])
def kits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKits]:
    with running_kits(request.param, tmp_path_factory.mktemp(f"mishaps-{request.param}")) as running:
        yield running


def test_a_site_that_is_killed_in_a_run_and_comes_back(kits: RunningKits) -> None:
    """The run goes on without a gap or ends with the site's name, and the next one has the site again."""
    model = _begun(kits, "site", GLOBAL_ROUNDS=6)
    kits.kill("Trust_2")
    kits.start("Trust_2")
    story = _ended(kits, model)
    _sound(story)
    assert story.status is ModelStatus.ERROR
    assert "Trust_2" in (story.reason or "")
    assert "started anew" in (story.reason or "") or kits.engine == "flower"
    _works_again(kits)


def test_a_site_whose_process_of_the_job_is_killed_is_named(kits: RunningKits) -> None:
    """By its memory's limit, for example: NVFLARE aborts the run without a word to it, Flower after a minute."""
    log = kits.folder / "Trust_2/state/supernode.log"
    before = log.read_bytes().count(FETCHED) if kits.engine == "flower" else 0
    model = _begun(kits, "process", GLOBAL_ROUNDS=3)
    if kits.engine == "flower":
        # One that is killed before costs nothing: Flower gives the message to another one.
        wait_for(lambda: log.read_bytes().count(FETCHED) > before, "its process has fetched the message", 120)
    kits.kill_job("Trust_2")
    story = _ended(kits, model)
    assert story.status is ModelStatus.ERROR
    assert "Trust_2" in (story.reason or "")


def test_a_server_that_is_killed_in_a_run_and_comes_back(kits: RunningKits) -> None:
    """Nobody else can tell the hub that the run is over: the server does it at its next start, and takes jobs again."""
    model = _begun(kits, "server", GLOBAL_ROUNDS=6)
    kits.kill("server")
    kits.start("server")
    story = _ended(kits, model)
    _sound(story)
    assert story.status is ModelStatus.ERROR
    assert "the FL server was lost" in (story.reason or "")
    wait_for(lambda: "running" not in _states(kits), "the engine has let go of it", 120)
    _works_again(kits)


@pytest.mark.parametrize("trouble", ["expired", "another federation"])
def test_a_kit_that_has_no_right_to_its_slot_is_kept_out_and_disturbs_nobody(
    kits: RunningKits, trouble: str, tmp_path: Path
) -> None:
    """Its holder sees why with one command; the slot's own site stays, and is not told to have a second copy."""
    if trouble == "expired" and kits.engine == "flower":
        pytest.skip("Flower's nodes are judged at the server: tests/integration/test_flower_kits.py")
    copied = kits.copy("Trust_2")
    kit = kits.folder / copied
    try:
        if trouble == "expired":
            shutil.copytree(kits.folder / "ca", tmp_path / "ca")
            kit.rename(tmp_path / "Trust_2")
            reissue(tmp_path, "Trust_2", begin=timedelta(days=-9), end=timedelta(days=-1))
            (tmp_path / "Trust_2").rename(kit)
        else:
            words = ("-n", "2", "--engine", kits.engine, "--host", "localhost")
            assert flip_fl("provision", *words, cwd=tmp_path).exit_code == 0
            for path in (tmp_path / "kits/Trust_2/startup").glob("*"):
                if path.suffix in (".crt", ".key", ".pem"):
                    shutil.copyfile(path, kit / "startup" / path.name)
        before = len(read(kits.folder / "server/state").second_holders)
        with kits.started(copied) as child:
            if kits.engine == "flower":
                wait_for(lambda: not child.running, "it has given up", 180)
            else:
                time.sleep(20)
                assert child.running  # NVFLARE tries for ever
            kits.wait_sites(*kits.slots)
        assert len(read(kits.folder / "server/state").second_holders) == before
        told = kits.call("kit", "verify", str(kit), "--connect")
        assert told.exit_code != 0
        assert ("expired since" if trouble == "expired" else "its certificate is another CA's") in told.stdout
    finally:
        shutil.rmtree(kit)


@pytest.mark.parametrize(("version", "same_minor"), [("0.1.99", True), ("0.2.0", False)])
def test_a_site_of_another_version_takes_part_and_is_told(
    kits: RunningKits, version: str, same_minor: bool, tmp_path: Path
) -> None:
    """Sites are upgraded one by one: a run works meanwhile, and verify says whose versions differ."""
    env = other_version(tmp_path, version)
    kits.start_anew("Trust_2", **env)
    try:
        kits.wait_sites(*kits.slots)
        story = _ended(kits, _begun(kits, "version", GLOBAL_ROUNDS=1))
        assert story.status is ModelStatus.RESULTS_UPLOADED, story.reason
        assert was_used(tmp_path, version)
        verify = [sys.executable, "-m", "flip_fl.cli", "kit", "verify", str(kits.folder / "Trust_2"), "--json"]
        done = subprocess.run(verify, env=environment(**env), capture_output=True, text=True, timeout=60, check=True)
        rows = [row for row in json.loads(done.stdout)["data"]["checks"] if row["name"] == "versions"]
        (own,) = [row for row in rows if row["what"].startswith("flip_fl")]
        assert own["state"] == ("ok" if same_minor else "warn")
        assert version in own["what"]
    finally:
        kits.start_anew("Trust_2")


@pytest.mark.parametrize("ahead_s", [-120, 3600])
def test_a_site_s_clock_that_is_wrong_is_told_and_breaks_nothing(
    kits: RunningKits, ahead_s: int, tmp_path: Path
) -> None:
    """A run's times are the hub's and the server's. Flower refuses a site that is 5 s ahead, which is told, too."""
    try:
        env = wrong_clock(tmp_path, ahead_s)
    except NoCompiler as error:
        leave_out(f"a site's wrong clock: {error}")
    # Younger than its clock is behind, a kit is not valid yet, and does not start: that is another test's.
    certificate = load_certificate(kits.folder / "Trust_2/startup/client.crt")
    time.sleep(max(0.0, -ahead_s + 5 - (datetime.now(UTC) - certificate.not_valid_before_utc).total_seconds()))
    kits.start_anew("Trust_2", **env)
    try:
        if kits.engine == "flower" and ahead_s > 0:
            child = kits.children["Trust_2"]
            wait_for(lambda: not child.running, "the site has given up", 60)
            told = child.log.read_text()
            assert "FLIP-E0614" in told
            assert "60 min ahead" in told
            (clock,) = read(kits.folder / "server/state").clocks
            assert (clock.slot, round(clock.ahead_s, -2)) == ("Trust_2", 3600)
            return
        kits.wait_sites(*kits.slots)
        model = _begun(kits, "clock", GLOBAL_ROUNDS=2)
        story = _ended(kits, model)
        assert story.status is ModelStatus.RESULTS_UPLOADED, story.reason
        assert [(skew.slot, round(skew.seconds / 60)) for skew in story.skews] == [("Trust_2", ahead_s / 60)]
        now = datetime.now(UTC)
        for each in story.rounds:
            assert each.started_at is not None
            assert each.aggregated_at is not None
            assert each.started_at <= each.aggregated_at <= now
    finally:
        kits.start_anew("Trust_2")
        kits.wait_sites(*kits.slots)


def _begun(kits: RunningKits, name: str, **config: object) -> UUID:
    """A model whose run is in its first round at the sites."""
    model = kits.new_model()
    app = kits.app(f"{name}-{model.hex[:6]}", in_train=SLOW, **config)
    done = kits.call("job", "submit", str(app), "--model", str(model), "--json")
    assert done.exit_code == 0, done.stderr + done.stdout
    wait_for(lambda: bool(kits.hub(model).story().rounds), "the first round has begun", 180)
    return model


def _ended(kits: RunningKits, model: UUID) -> Story:
    wait_for(lambda: kits.hub(model).story().status.is_terminal, "the run has ended", ENDS_WITHIN_S)
    return kits.hub(model).story()


def _states(kits: RunningKits) -> list[str]:
    return [str(row["state"]) for row in kits.call("job", "list", "--json").document()["data"]["jobs"]]


def _sound(story: Story) -> None:
    """Every point is there once."""
    for plot in story.plots:
        for series in plot.series:
            places = [(point.round, point.x) for point in series.points]
            assert len(places) == len(set(places)), (plot.label, series.slot)


def _works_again(kits: RunningKits) -> None:
    kits.wait_sites(*kits.slots)
    model = kits.new_model()
    app = kits.app(f"again-{model.hex[:6]}", GLOBAL_ROUNDS=1)
    done = kits.call("job", "submit", str(app), "--model", str(model), "--json")
    assert done.exit_code == 0, done.stderr + done.stdout
    assert _ended(kits, model).status is ModelStatus.RESULTS_UPLOADED
