"""Sites in networks of their own: links that break, are slow, and a server that moves. On both engines, with TLS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from flip_fl.simulate.processes import free_ports
from flip_fl.values import ModelStatus
from tests.support.namespaces import Network, network, slow_link
from tests.support.running_kits import RunningKits, running_kits
from tests.support.runs import wait_for
from tests.support.small_apps import write_app

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

SLOTS = ("Trust_1", "Trust_2", "Trust_3", "Trust_4")
RELAY = "the slow link"
CUT_S = 30.0
# A task long enough for a link to break and mend while it runs.
SLOW = "import time; time.sleep(8)"


@dataclass(frozen=True)
class Networked:
    """Running kits, and the network that their sites are in."""

    kits: RunningKits
    net: Network

    def submit(self, app: Path, model: UUID) -> None:
        done = self.kits.call("job", "submit", str(app), "--model", str(model), "--json")
        assert done.exit_code == 0, done.stderr + done.stdout

    def wait_round(self, model: UUID, number: int) -> None:
        wait_for(lambda: len(self.kits.hub(model).story().rounds) >= number, f"round {number} has begun", 180)

    def end(self, model: UUID, within_s: float = 600.0) -> ModelStatus:
        wait_for(lambda: self.kits.hub(model).story().status.is_terminal, "the run has ended", within_s)
        return self.kits.hub(model).story().status


@pytest.fixture(scope="module", params=["nvflare", "flower"])
def networked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Networked]:
    """The last site is behind a link with 200 ms of latency each way, and every twentieth piece is late once more."""
    base = tmp_path_factory.mktemp(f"links-{request.param}")
    (port,) = free_ports(1)
    with network([*SLOTS, RELAY]) as net:
        net.lead(SLOTS[-1], net.addresses[RELAY])
        places = {slot: net.inside(slot) for slot in SLOTS}
        with (
            slow_link(net, RELAY, port, 0.2, 0.05),
            running_kits(request.param, base, slots=SLOTS, host=net.host, port=port, places=places) as kits,
        ):
            yield Networked(kits, net)


def slow_app(networked: Networked, name: str, rounds: int) -> Path:
    """An app whose training takes a while."""
    return write_app(networked.kits.folder.parent / name, in_train=SLOW, GLOBAL_ROUNDS=rounds)


def test_a_job_reaches_four_sites_in_their_own_networks(networked: Networked) -> None:
    """From provisioned kits to stored results and a complete story; one of the links is slow and loses much."""
    model = networked.kits.around.hub.model_id
    networked.submit(networked.kits.folder.parent / "app", model)
    assert networked.end(model) is ModelStatus.RESULTS_UPLOADED
    story = networked.kits.hub(model).story()
    assert [sorted(one.slot for one in each.updates) for each in story.rounds] == [list(SLOTS)] * 2
    assert story.results is not None


def test_a_link_that_is_cut_for_half_a_minute_costs_no_run(networked: Networked) -> None:
    """Hospital networks have such minutes: the site answers late, and nothing of it is lost or doubled."""
    model = networked.kits.new_model()
    networked.submit(slow_app(networked, "cut", 3), model)
    networked.wait_round(model, 1)
    networked.net.cut("Trust_2")
    try:
        time.sleep(CUT_S)
    finally:
        networked.net.join("Trust_2")
    assert networked.end(model) is ModelStatus.RESULTS_UPLOADED, networked.kits.hub(model).story().reason
    rounds = networked.kits.hub(model).story().rounds
    assert [sorted(one.slot for one in each.updates) for each in rounds] == [list(SLOTS)] * 3


def test_a_server_that_moves_to_another_address_is_found_again(networked: Networked) -> None:
    """The name is the server's identity: sites look it up anew, and the next job runs without a new kit."""
    moved = networked.net.beside(200)
    networked.net.move(moved)
    for slot in SLOTS[:-1]:
        networked.net.lead(slot, moved)
    networked.kits.wait_sites(*SLOTS)
    model = networked.kits.new_model()
    networked.submit(networked.kits.folder.parent / "app", model)
    assert networked.end(model) is ModelStatus.RESULTS_UPLOADED


def test_a_link_that_is_cut_for_good_ends_the_run_with_the_sites_name(networked: Networked) -> None:
    """Nobody waits for ever for a hospital that is gone: the run fails, says who, and the next one goes on without."""
    model = networked.kits.new_model()
    networked.submit(slow_app(networked, "gone", 2), model)
    networked.wait_round(model, 1)
    networked.net.cut("Trust_3")
    assert networked.end(model) is ModelStatus.ERROR
    assert "Trust_3" in (networked.kits.hub(model).story().reason or "")
