"""What a simulated run on Flower is made of, without an engine: keys, homes, ports, names."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from flip_fl.app.config import load_config
from flip_fl.app.stop import stop_file
from flip_fl.errors import FlipError
from flip_fl.flower.job import read_config
from flip_fl.simulate import flower_link
from flip_fl.simulate.engines import find_engine
from flip_fl.simulate.flower_job import FlowerJob
from flip_fl.simulate.flower_keys import make_node_key, make_tls
from flip_fl.simulate.flower_link import Home, listens, start_listening
from flip_fl.simulate.folder import claim
from flip_fl.simulate.model import RUNTIMES
from tests.support.cli import flip_fl
from tests.support.small_apps import write_app


class TestKeys:
    """Keys and certificates that are made for one run."""

    def test_only_the_owner_can_read_what_is_made(self, tmp_path: Path) -> None:
        """Whoever reads a node's key can be that node for as long as the run lasts."""
        make_tls(tmp_path / "tls")
        make_node_key(tmp_path / "keys", "Trust_1")
        for folder in (tmp_path / "tls", tmp_path / "keys"):
            assert folder.stat().st_mode & 0o777 == 0o700
            assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}

    def test_the_server_proves_itself_to_who_trusts_the_ca_and_to_nobody_else(self, tmp_path: Path) -> None:
        """A real handshake on loopback: accepted under this run's CA, refused under another's and for another name."""
        files, other = make_tls(tmp_path / "one"), make_tls(tmp_path / "other")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        assert _handshake(context, files.ca, "127.0.0.1") is None
        assert _handshake(context, files.ca, "localhost") is None
        assert _handshake(context, other.ca, "127.0.0.1") == "CERTIFICATE_VERIFY_FAILED"
        assert _handshake(context, files.ca, "example.org") == "CERTIFICATE_VERIFY_FAILED"

    def test_a_nodes_keys_are_a_pair_on_a_curve_that_flower_takes(self, tmp_path: Path) -> None:
        """Flower refuses other curves, and a public key of somebody else's would let nobody in."""
        private, public = make_node_key(tmp_path, "Trust_1")
        key = load_ssh_private_key(private.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.curve.name == "secp384r1"
        assert key.public_key() == load_ssh_public_key(public.read_bytes())

    def test_a_key_is_never_written_over(self, tmp_path: Path) -> None:
        """A node that was registered would be locked out by a new key under its name."""
        make_node_key(tmp_path, "Trust_1")
        with pytest.raises(FileExistsError):
            make_node_key(tmp_path, "Trust_1")


class TestHome:
    """A FLWR_HOME of one's own."""

    def test_nobodys_own_settings_reach_flowers_programs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A FLWR_HOME, a Ray cluster, a key or a FLIP setting of the person's own would lead the run elsewhere."""
        for name in ("FLWR_HOME", "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", "RAY_ADDRESS", "LOCAL_DEV", "MY_API_KEY"):
            monkeypatch.setenv(name, "elsewhere")
        home = Home.make(tmp_path / "home", FLIP_SETTINGS_DIR="settings")
        assert "elsewhere" not in home.environment.values()
        assert home.environment["FLWR_HOME"] == str(tmp_path / "home")
        assert home.environment["FLIP_SETTINGS_DIR"] == "settings"
        assert home.environment["FLWR_TELEMETRY_ENABLED"] == "0"

    def test_processes_that_left_their_parent_are_found_and_ended(self, tmp_path: Path) -> None:
        """Flower and Ray start daemons: those of this home and of homes within are ended, others are left alone."""
        home, other = Home.make(tmp_path / "home"), Home.make(tmp_path / "home2")
        orphans = [_orphan(each) for each in (home, home.within("Trust_1"))]
        stranger = _orphan(other)
        try:
            assert {each.pid for each in home.processes()} == set(orphans)
            home.end_all()
            assert home.processes() == []
            assert psutil.pid_exists(stranger)
        finally:
            other.end_all()

    def test_a_command_that_fails_is_an_error_with_flowers_own_words(self, tmp_path: Path) -> None:
        """A SuperLink that is not there is told by name, and not as a missing key of an answer."""
        home = Home.make(tmp_path / "home")
        home.connect(1, None)
        with pytest.raises(FlipError) as failed:
            home.flwr("ls")
        assert failed.value.code == "E0506"
        assert "flwr ls" in failed.value.what


def test_a_program_whose_port_was_taken_gets_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports that were free a moment ago may not be: the start is tried again instead of failing the run."""
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: the program cannot have it
        ports = iter([[taken.getsockname()[1]], flower_link.free_ports(1)])
        monkeypatch.setattr(flower_link, "free_ports", lambda _: next(ports))
        program = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"
        home = Home.make(tmp_path / "home")
        child, port = start_listening(
            "a server",
            lambda port: [sys.executable, "-c", program, str(port)],
            tmp_path / "log",
            home=home,
            cwd=tmp_path,
        )
        try:
            assert port != taken.getsockname()[1]
            assert listens(port)
        finally:
            child.stop(0.0)
    assert "Address already in use" in (tmp_path / "log").read_text()


def test_every_runtime_that_can_be_named_is_there() -> None:
    """A name in the help without an engine behind it would be a traceback; an unknown name is refused with the list."""
    assert {name: find_engine(name).name for name in RUNTIMES} == {
        "nvflare": "nvflare",
        "flower": "flower (in-process)",
    }
    for runtime in RUNTIMES["flower"]:
        engine = find_engine("flower", runtime)
        assert runtime in engine.name
        engine.check_installed()
    with pytest.raises(FlipError) as refused:
        find_engine("flower", "docker")
    assert (refused.value.code, "in-process, ray, deployment" in refused.value.why) == ("E0514", True)
    with pytest.raises(FlipError) as refused:
        find_engine("nvflare", "ray")
    assert refused.value.code == "E0514"


def test_a_mistyped_runtime_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    """Nothing is started for a name that is none, and the line as it should have been is there to paste."""
    write_app(tmp_path / "app")
    done = flip_fl("run", "app", "--engine", "flower", "--runtime", "rey", "--json", cwd=tmp_path)
    told = done.document()
    assert (done.exit_code, told["code"], told["fix"]) == (2, "FLIP-E0514", "did you mean ray?")
    assert not (tmp_path / "runs").exists()


def test_without_ray_the_extra_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is an extra of its own: who has not got it is told what to type."""
    from flip_fl.simulate import flower

    monkeypatch.setattr(flower, "find_spec", lambda name: None if name == "ray" else find_spec(name))
    find_engine("flower").check_installed()
    with pytest.raises(FlipError) as refused:
        find_engine("flower", "ray").check_installed()
    assert refused.value.code == "E0509"
    assert "flip_fl[ray]" in refused.value.fix


def test_a_job_says_what_is_run_and_can_stop_its_sites(tmp_path: Path) -> None:
    """--rounds reaches both the run config and the app's own copy; a stop is written where each site looks for it."""
    app = write_app(tmp_path / "app", IGNORE_RESULT_ERROR=True, MIN_CLIENTS=1)
    model_id = uuid4()
    with claim(tmp_path / "run", app) as folder:
        job = FlowerJob.write(load_config(app).with_rounds(9), ("Trust_1", "Trust_2"), model_id, folder)
        assert read_config(job.path)["num-server-rounds"] == 9
        assert load_config(job.path / "app").global_rounds == 9
        assert job.spare == 1
        job.stop_sites()
        assert all(stop_file(folder.site(slot), model_id).is_file() for slot in job.slots)


def _handshake(server: ssl.SSLContext, ca: Path, name: str) -> str | None:
    """What a client that trusts ``ca`` says of the server as ``name``; None: it is content."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            raw, _ = listener.accept()
            with contextlib.suppress(OSError), server.wrap_socket(raw, server_side=True) as secured:
                secured.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        client = ssl.create_default_context(cafile=ca)
        try:
            with socket.create_connection(listener.getsockname()) as raw:
                client.wrap_socket(raw, server_hostname=name).close()
        except ssl.SSLCertVerificationError as error:
            return error.reason
        finally:
            thread.join()
    return None


def _orphan(home: Home) -> int:
    """A sleeping process of this home whose parent is gone; its id."""
    program = "import subprocess as s; print(s.Popen(['sleep', '60'], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=dict(home.environment), capture_output=True, text=True, check=True
    )
    return int(done.stdout)
