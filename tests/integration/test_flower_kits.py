"""Flower's kits at work: server and sites started by their kits' own scripts, and who is kept out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from flip_fl.provision import authority, make
from flip_fl.provision.certificates import Holder, certificate_pem, issue, private_openssh
from flip_fl.provision.engines import Root
from flip_fl.provision.flower import holder_of
from flip_fl.provision.project import load_federation
from flip_fl.simulate.flower_link import Home, program
from flip_fl.simulate.processes import Child, start, wait_until
from tests.support.cli import flip_fl
from tests.support.flower_deployment import eventually, write_app
from tests.support.ports import later_port
from tests.support.provision import fill_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("flower_kits")]

ANSWERS = "the SuperLink answers sites"
ONLINE = "SuperNode ID:"

SERVER_APP = """
import json
from pathlib import Path
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    names = sorted(node.name for node in grid.get_nodes())
    Path(context.run_config["out"]).write_text(json.dumps(names))
"""
CLIENT_APP = """
from flwr.clientapp import ClientApp
app = ClientApp()
"""


@dataclass
class Kits:
    """Kits that run: the server's, and whichever sites were started."""

    folder: Path
    port: int
    server: Child
    sites: dict[str, Child]

    @property
    def home(self) -> Home:
        """What Flower's own commands need to speak to this SuperLink on its own machine."""
        return Home.make(self.folder / "server" / "state" / "flwr")

    def start(self, kit: Path) -> Child:
        """A kit's own start.sh."""
        child = start(f"the kit {kit.name}", ["sh", str(kit / "startup" / "start.sh")], kit / "out.log", env=_python())
        self.sites[kit.name] = child
        return child

    def names(self, job: Path) -> list[str]:
        """The nodes' names as a job sees them."""
        out = self.folder / "names.json"
        out.unlink(missing_ok=True)
        self.home.flwr("run", str(job), "here", "--run-config", f'out="{out}"')
        eventually(lambda: out.exists() and out.read_text(), 90, "the job has looked at its nodes")
        found: list[str] = json.loads(out.read_text())
        return found


def _python() -> dict[str, str]:
    return {**os.environ, "FLIP_PYTHON": sys.executable, "PYTHONDONTWRITEBYTECODE": ""}


def _script(kit: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(kit / "startup" / name)]
    return subprocess.run(command, env=_python(), capture_output=True, text=True, timeout=90, check=False)


def _told(running: Kits, name: str) -> str:
    """What a kit's status.sh says."""
    return _script(running.folder / name, "status.sh").stderr


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kits]:
    """Kits for three slots, of which the server and Trust_1 and Trust_2 run."""
    base = tmp_path_factory.mktemp("flower-kits")
    port = later_port()
    (base / "federation.yaml").write_text(
        f"net: oncology\nengine: flower\nserver:\n  host: localhost\n  port: {port}\nslots: 3\n", encoding="utf-8"
    )
    out = base / "kits"
    make.provision(load_federation(base / "federation.yaml"), out)
    fill_in(out)
    kits = Kits(out, port, None, {})  # type: ignore[arg-type]
    with contextlib.ExitStack() as parts:
        kits.server = kits.start(out / "server")
        parts.callback(lambda: kits.server.stop(20.0))
        wait_until(kits.server, lambda: ANSWERS in kits.server.log.read_text(), 120)
        for slot in ("Trust_1", "Trust_2"):
            child = kits.start(out / slot)
            parts.callback(child.stop, 20.0)
            _wait_online(child, out / slot)
        yield kits


def _wait_online(child: Child, kit: Path) -> None:
    log = kit / "state" / "supernode.log"
    wait_until(child, lambda: log.exists() and ONLINE in log.read_text(errors="replace"), 120)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_app(tmp_path_factory.mktemp("job") / "job", SERVER_APP, CLIENT_APP, out="")


def test_sites_are_known_by_the_names_in_their_certificates(running: Kits, job: Path) -> None:
    """A kit that is started is part of the federation, under its slot and no other name."""
    assert running.names(job) == ["Trust_1", "Trust_2"]
    eventually(lambda: f"connected to localhost:{running.port} since " in _told(running, "Trust_1"), 30, "it is told")
    assert "connect" not in _told(running, "server")
    assert _script(running.folder / "Trust_1", "status.sh").returncode == 0
    assert _script(running.folder / "Trust_3", "status.sh").returncode == 1


@pytest.mark.parametrize(
    "path", ["/openapi.json", "/docs", "/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/fleet/../control/x"]
)
def test_the_gate_opens_nothing_but_what_nodes_need(running: Kits, path: str) -> None:
    """At a bare SuperLink's port anybody starts jobs, registers nodes and fetches tasks."""
    root = str(running.folder / "server" / "startup" / "rootCA.pem")
    with requests.Session() as session:
        asked = requests.Request("POST", f"https://localhost:{running.port}").prepare()
        asked.url = f"https://localhost:{running.port}{path}"
        assert session.send(asked, verify=root, timeout=30).status_code == 403
        assert session.get(f"https://localhost:{running.port}/health", verify=root, timeout=30).status_code == 200


def test_a_copied_kit_does_not_start_beside_the_first(running: Kits) -> None:
    """Started twice from one folder, a kit would take its own work."""
    again = _script(running.folder / "Trust_1", "start.sh")
    assert again.returncode == 5
    assert "error[FLIP-E0615]: the kit of Trust_1 runs already" in again.stderr


def test_a_key_without_this_federations_certificate_is_kept_out(running: Kits, tmp_path: Path, job: Path) -> None:
    """Neither a self-made key, nor another federation's kit of the same slot, one's own under another's name, nor one
    whose certificate has expired."""
    ca = authority.read(running.folder)
    stranger = issue("Trust_3", timedelta(days=1), issue("another CA", timedelta(days=1)))
    (running.folder / "server" / "nodes" / "Trust_4.crt").write_bytes(certificate_pem(stranger.certificate))
    (running.folder / "server" / "nodes" / "Trust_5.crt").write_bytes(
        (running.folder / "Trust_2" / "startup" / "client.crt").read_bytes()
    )
    own_ca = holder_of(Root(ca.certificate, ca.key))
    expired = issue("Trust_6", timedelta(seconds=-60), own_ca)
    (running.folder / "server" / "nodes" / "Trust_6.crt").write_bytes(certificate_pem(expired.certificate))
    told = running.server.log
    eventually(lambda: "Trust_6.crt is refused: it has expired on" in told.read_text(), 30, "told of its end")
    eventually(lambda: "Trust_4.crt is refused: this federation's CA has not issued it" in told.read_text(), 30, "told")
    eventually(lambda: "Trust_5.crt is refused: it is Trust_2's" in told.read_text(), 30, "told of the name")
    key = tmp_path / "key"
    key.write_bytes(private_openssh(stranger.key))
    words = [program("flower-supernode"), "--superlink", f"localhost:{running.port}", "--root-certificates"]
    words += [str(running.folder / "Trust_1" / "startup" / "rootCA.pem"), "--auth-supernode-private-key", str(key)]
    port = later_port()
    home = Home.make(tmp_path / "home")
    listening = ["--host", "127.0.0.1", "--port", str(port)]
    child = start("a stranger", [*words, *listening], tmp_path / "log", env=home.environment)
    try:
        eventually(lambda: not child.running, 120, "the stranger has given up")
        assert ONLINE not in child.log.read_text()
    finally:
        home.end_all()
        child.stop()
    assert ca.ledger.sites == ["Trust_1", "Trust_2", "Trust_3"]
    assert running.names(job) == ["Trust_1", "Trust_2"]


def test_a_slot_added_later_joins_and_a_removed_one_is_out(running: Kits, job: Path) -> None:
    """Nobody else's kit changes, and the server is not started again, neither for a new slot nor for one that goes."""
    before = {path: path.read_bytes() for path in running.folder.glob("Trust_[12]/startup/*")}
    make.add(running.folder, 1)
    fill_in(running.folder)
    shutil.copy(
        running.folder / "Trust_4" / "startup" / "client.crt", running.folder / "server" / "nodes" / "Trust_4.crt"
    )
    eventually(lambda: "Trust_4: its key is registered" in running.server.log.read_text(), 60, "it is registered")
    child = running.start(running.folder / "Trust_4")
    try:
        _wait_online(child, running.folder / "Trust_4")
        assert running.names(job) == ["Trust_1", "Trust_2", "Trust_4"]
        revoked = flip_fl("kit", "revoke", "Trust_4", "--yes", "--kits", str(running.folder), cwd=running.folder)
        assert revoked.exit_code == 0, revoked.stderr
        eventually(lambda: "Trust_4: its key is no longer accepted" in running.server.log.read_text(), 60, "it is out")
        # The SuperNode hears of it at its next heartbeat, and ends.
        eventually(lambda: not child.running, 90, "the revoked site has ended")
        assert running.names(job) == ["Trust_1", "Trust_2"]
    finally:
        child.stop(20.0)
    assert {path: path.read_bytes() for path in before} == before


def test_an_expired_certificate_keeps_its_site_out_until_it_is_renewed(running: Kits, job: Path) -> None:
    """A SuperLink takes no key back that it has let go: who renewed a day too late would need a new slot."""
    file = running.folder / "server" / "nodes" / "Trust_3.crt"
    good = file.read_bytes()
    file.write_bytes(_aged(good, authority.read(running.folder)))
    eventually(lambda: "Trust_3.crt is refused: it has expired on" in running.server.log.read_text(), 30, "told")
    child = running.start(running.folder / "Trust_3")
    try:
        eventually(lambda: not child.running, 120, "it has given up")
        assert running.names(job) == ["Trust_1", "Trust_2"]
    finally:
        child.stop(20.0)
    file.write_bytes(good)
    again = running.start(running.folder / "Trust_3")
    try:
        eventually(lambda: "Trust_3" in running.names(job), 60, "it is let in")
    finally:
        again.stop(20.0)


def _aged(pem: bytes, ca: authority.Authority) -> bytes:
    """The same certificate, with dates that are over."""
    old, by = x509.load_pem_x509_certificate(pem), holder_of(Root(ca.certificate, ca.key))
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer).public_key(old.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=9))
    for each in old.extensions:
        builder = builder.add_extension(each.value, each.critical)
    return certificate_pem(builder.not_valid_after(now - timedelta(days=1)).sign(by.key, SHA256()))


def test_what_was_registered_and_not_written_down_is_found_again(running: Kits, job: Path) -> None:
    """A server that was killed between the two would refuse the same key for ever: a SuperLink takes none twice."""
    file = running.folder / "server" / "state" / "nodes.json"
    before = json.loads(file.read_text())
    file.write_text(json.dumps({name: node for name, node in before.items() if name != "Trust_2"}))
    eventually(lambda: json.loads(file.read_text()) == before, 60, "the server knows the node again")
    assert running.names(job) == ["Trust_1", "Trust_2"]


def test_a_site_says_that_its_server_is_away_and_back(running: Kits) -> None:
    """That a kit runs does not say that it takes part: its engineer is told, by the same script."""
    assert "\nconnected to " in _told(running, "Trust_1")
    running.server.stop(20.0)
    eventually(
        lambda: f"\nnot connected to localhost:{running.port}: last tried " in _told(running, "Trust_1"), 60, "lost"
    )
    assert _script(running.folder / "Trust_1", "status.sh").returncode == 0
    begun = len(running.server.log.read_text())
    running.server = running.start(running.folder / "server")
    wait_until(running.server, lambda: ANSWERS in running.server.log.read_text()[begun:], 120)
    eventually(lambda: "\nconnected to " in _told(running, "Trust_1"), 60, "back")


def test_a_site_stops_by_its_script(running: Kits) -> None:
    """stop.sh ends all that start.sh began, and says so; a second time it is harmless."""
    kit = running.folder / "Trust_2"
    stopped = _script(kit, "stop.sh")
    assert stopped.returncode == 0
    assert "Trust_2 is stopped" in stopped.stderr
    eventually(lambda: not running.sites["Trust_2"].running, 20, "start.sh has ended")
    assert running.sites["Trust_2"].process.returncode == 0
    assert "does not run" in _script(kit, "stop.sh").stderr


def test_the_cas_key_of_a_federation_can_issue_again(tmp_path: Path) -> None:
    """What is read back from the folder issues certificates that its root has signed."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificate

    path = tmp_path / "federation.yaml"
    path.write_text("net: n\nengine: flower\nserver:\n  host: fl.example.org\nslots: 12\n", encoding="utf-8")
    made = make.provision(load_federation(path), tmp_path / "kits")
    assert [kit.name for kit in made.kits] == ["server", *(f"Trust_{number}" for number in range(1, 13))]
    ca = authority.read(tmp_path / "kits")
    key = load_pem_private_key(ca.key, None)
    root = load_pem_x509_certificate(ca.certificate)
    issue("Trust_13", timedelta(days=1), Holder(root, key)).certificate.verify_directly_issued_by(root)  # type: ignore[arg-type]
