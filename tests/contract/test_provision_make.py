"""``flip-fl provision`` with NVFLARE's real provisioning: new kits, more kits, all anew, and never by accident."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from nvflare.fuel.f3.drivers.grpc_driver import GRPC_DEFAULT_OPTIONS

from flip_fl.commands.answers import Provisioned
from flip_fl.provision.authority import read, read_ledger
from flip_fl.provision.kit import common_name, kits_in, load_certificate, load_key, read_kit
from flip_fl.provision.nvflare import ADMIN_NAME
from tests.contract.test_cli_json import checked
from tests.support.cli import SCRIPT, environment, flip_fl
from tests.support.provision import HOST, expire_ca, make, private_keys, tree

OWN_KEYS = {"server": "startup/server.key", "admin": "startup/client.key"}


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kits for five sites, not to be changed."""
    return make(tmp_path_factory.mktemp("five"), "-n", "5", "--host", HOST)


@pytest.fixture
def kits(five: Path, tmp_path: Path) -> Path:
    """A copy of them in ``tmp_path/kits``."""
    return Path(shutil.copytree(five, tmp_path / "kits"))


def test_each_kit_holds_its_own_key_and_no_other(five: Path) -> None:
    """Protects every site from every other: a key of another, or the CA's, would let its holder be somebody else."""
    for kit in kits_in(five):
        assert private_keys(kit) == [OWN_KEYS.get(kit.name, "startup/client.key")]
        read_back = read_kit(kit)
        assert load_key(read_back.key_file).public_key() == load_certificate(read_back.certificate_file).public_key()
    assert private_keys(five / "ca") == ["rootCA.key"]
    assert sorted(path.name for path in five.iterdir()) == [
        "Trust_1", "Trust_2", "Trust_3", "Trust_4", "Trust_5", "admin", "ca", "server",
    ]  # fmt: skip


def test_keys_are_readable_by_their_owner_alone(five: Path) -> None:
    """Protects the keys, and NVFLARE's state that holds the CA's, from other users of the machine."""
    for name in private_keys(five):
        assert stat.S_IMODE((five / name).stat().st_mode) == 0o600
    for folder in (five / "ca", *kits_in(five)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_ledger_knows_every_certificate(five: Path) -> None:
    """Protects a later revocation, which needs to know what was issued to whom."""
    ledger = read_ledger(five)
    assert [issued.name for issued in ledger.issued] == [kit.name for kit in kits_in(five)]
    for issued, kit in zip(ledger.issued, map(read_kit, kits_in(five)), strict=True):
        assert issued.serial == f"{load_certificate(kit.certificate_file).serial_number:x}"
    assert ledger.federation.slots == 5


def test_kits_set_what_nvflare_s_default_gets_wrong(five: Path) -> None:
    """Protects patients' paths in error logs, the job store, and our components under the allow-list."""
    site = json.loads((five / "Trust_1/local/resources.json").read_text(encoding="utf-8"))
    server = json.loads((five / "server/local/resources.json").read_text(encoding="utf-8"))
    assert site["allow_log_streaming"] is False
    for resources in (site, server):
        assert "flip_fl.nvflare." in resources["class_allow_list"]
        assert "/tmp" not in json.dumps(resources)
        assert "nvflare.app_common.job_launcher" not in json.dumps(resources)
    assert server["servers"][0]["heart_beat_timeout"] == 60
    # Who connects twice, and what is lost with a site or a server, is told by components of ours.
    assert {"one_holder", "lost_sites", "fresh_start"} <= {each["id"] for each in server["components"]}


def test_both_ends_of_a_link_notice_when_it_is_dead(five: Path) -> None:
    """Protects a site whose server moved from waiting a quarter of an hour on the old connection: both ends ask, and
    the server takes no offence at it; messages stay as large as NVFLARE lets them be.
    """
    ends = {}
    for name in ("server", "Trust_1"):
        told = json.loads((five / name / "local/comm_config.json").read_text(encoding="utf-8"))
        ends[name] = dict(told["grpc"]["options"])
        assert ends[name]["grpc.keepalive_permit_without_calls"] == 1
        assert ends[name]["grpc.keepalive_time_ms"] + ends[name]["grpc.keepalive_timeout_ms"] <= 120_000
        assert ends[name].items() >= dict(GRPC_DEFAULT_OPTIONS).items()
    least = ends["server"]["grpc.http2.min_recv_ping_interval_without_data_ms"]
    assert least < ends["Trust_1"]["grpc.keepalive_time_ms"]


@pytest.mark.parametrize(
    ("words", "more"), [(("-n", "7"), 2), (("-n", "9"), 4), (("-n", "5"), 2), (("federation.yaml",), 1)]
)
def test_kits_that_exist_are_refused_and_no_byte_is_touched(words: tuple[str, ...], more: int, kits: Path) -> None:
    """Protects all sites from a new CA, which would lock every one of them out."""
    (kits.parent / "federation.yaml").write_text(
        "net: default\nengine: nvflare\nserver: {host: fl.example.org}\nslots: 6\n", encoding="utf-8"
    )
    before = tree(kits.parent)
    done = flip_fl("provision", *words, cwd=kits.parent)
    assert (done.exit_code, done.stdout) == (5, "")
    assert done.stderr.splitlines() == [
        "error[FLIP-E0601]: kits for 5 sites exist in ./kits",
        "  why: a new CA would cut off all 5",
        f"  fix: flip-fl provision --add {more}   or   flip-fl provision --replace-all --yes",
        "  see: flip-fl explain E0601",
    ]
    document = flip_fl("provision", *words, "--json", cwd=kits.parent).document()
    assert (document["code"], document["exit_code"], document["why"]) == (
        "FLIP-E0601",
        5,
        "a new CA would cut off all 5",
    )
    assert tree(kits.parent) == before


@pytest.mark.parametrize("gone", ["Trust_*", "ca", "[!c]*"])
def test_kits_are_known_when_some_were_handed_out_or_the_ca_was_moved(gone: str, kits: Path) -> None:
    """Protects sites whose kits no longer lie in the folder, and kits whose CA is kept elsewhere."""
    for path in kits.glob(gone):
        shutil.rmtree(path)
    before = tree(kits)
    done = flip_fl("provision", "-n", "3", "--out", str(kits), cwd=kits.parent)
    assert done.exit_code == 5
    assert done.stderr.startswith(f"error[FLIP-E0601]: kits for 5 sites exist in {kits}\n")
    assert f"--add 2 --out {kits}   or   flip-fl provision --replace-all --yes --out {kits}" in done.stderr
    assert tree(kits) == before


def test_added_slots_have_the_same_ca_and_change_no_other_kit(kits: Path) -> None:
    """Protects a federation that grows: nobody who is in it has to be given anything."""
    before = tree(kits)
    authority = read(kits)
    done = flip_fl("provision", "--add", "2", "--json", cwd=kits.parent)
    answer = checked(done.document(), Provisioned)
    assert ([kit.name for kit in answer.kits], answer.slots) == (["Trust_6", "Trust_7"], 7)
    after = tree(kits)
    assert {name: after[name] for name in before if name != "ca/federation.json"} == {
        name: value for name, value in before.items() if name != "ca/federation.json"
    }
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"Trust_6", "Trust_7"}
    assert read(kits).certificate == authority.certificate
    root = load_certificate(kits / "Trust_1/startup/rootCA.pem")
    for name in ("Trust_6", "Trust_7"):
        load_certificate(kits / name / "startup/client.crt").verify_directly_issued_by(root)
        assert private_keys(kits / name) == ["startup/client.key"]
        assert flip_fl("kit", "verify", f"kits/{name}", cwd=kits.parent).exit_code == 0


def test_two_at_the_same_time_make_one_federation(tmp_path: Path) -> None:
    """Protects from kits of two CAs in one folder: one command wins, the other is refused."""
    begun = [
        subprocess.Popen(
            [str(SCRIPT), "provision", "-n", "3"],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for child in begun:
        child.communicate(timeout=60)
    assert sorted(child.returncode for child in begun) == [0, 5]
    root = read(tmp_path / "kits").certificate
    assert [(kit.name, read_kit(kit).root_file.read_bytes()) for kit in kits_in(tmp_path / "kits")] == [
        (name, root) for name in ("server", "admin", "Trust_1", "Trust_2", "Trust_3")
    ]
    assert not list((tmp_path / "kits").glob(".*"))


def test_a_number_is_never_given_out_twice(kits: Path) -> None:
    """Protects a site whose kit was handed out from a second holder of its name."""
    shutil.rmtree(kits / "Trust_5")
    assert flip_fl("provision", "--add", "1", cwd=kits.parent).exit_code == 0
    assert [kit.name for kit in kits_in(kits)][-2:] == ["Trust_4", "Trust_6"]
    assert read_ledger(kits).sites == [f"Trust_{number}" for number in range(1, 7)]


def test_twelve_slots_carry_the_right_names_in_their_order(tmp_path: Path) -> None:
    """Protects against sorting as text, which would pair the kit of _10 with the name of _2."""
    done = flip_fl("provision", "-n", "12", "--host", HOST, "--json", cwd=tmp_path)
    answer = checked(done.document(), Provisioned)
    names = ["server", "admin", *(f"Trust_{number}" for number in range(1, 13))]
    assert [kit.name for kit in answer.kits] == names
    assert [path.name for path in kits_in(tmp_path / "kits")] == names
    for path in kits_in(tmp_path / "kits")[2:]:
        kit = read_kit(path)
        assert (kit.name, common_name(load_certificate(kit.certificate_file))) == (path.name, path.name)
        assert f"uid={path.name} " in (path / "startup/sub_start.sh").read_text(encoding="utf-8")
    assert read_kit(tmp_path / "kits/admin").name == ADMIN_NAME


def test_replacing_all_needs_a_word_and_moves_the_old_aside(kits: Path) -> None:
    """Protects the CA: without --yes nothing happens, and with it the old one is still there."""
    before, old = tree(kits), read(kits).certificate
    refused = flip_fl("provision", "--replace-all", cwd=kits.parent)
    assert (refused.exit_code, tree(kits)) == (2, before)
    assert "fix: flip-fl provision --replace-all --yes --out kits" in refused.stderr
    words = ("provision", "--replace-all", "--yes", "--host", "10.0.0.5", "--json")
    answer = checked(flip_fl(*words, cwd=kits.parent).document(), Provisioned)
    assert (answer.host, answer.slots, answer.replaced) != (HOST, 5, None)
    assert answer.replaced is not None
    assert tree(kits.parent / answer.replaced) == before
    assert read(kits).certificate != old
    for name in ("server", "Trust_5"):
        assert flip_fl("kit", "verify", f"kits/{name}", "--host", "10.0.0.5", cwd=kits.parent).exit_code == 0


@pytest.mark.parametrize(("typed", "code"), [("default", 0), ("yes", 2), ("", 2)])
def test_a_person_types_the_net_s_name(typed: str, code: int, kits: Path) -> None:
    """Protects against the habit of answering every question with yes."""
    before = read(kits).certificate
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [str(SCRIPT), "provision", "--replace-all"],
        cwd=kits.parent,
        env=environment(),
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
    )
    os.close(slave)
    try:
        os.write(master, f"{typed}\n".encode())
        child.communicate(timeout=60)
    finally:
        os.close(master)
    assert child.returncode == code
    assert (read(kits).certificate == before) is (code != 0)


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("provision", "error[FLIP-E0102]: flip-fl provision needs FEDERATION.yaml or -n N"),
        ("provision --add 2 -n 3", "error[FLIP-E0102]: --add takes everything else from the kits that exist; "),
        ("provision --add 2 --replace-all", "error[FLIP-E0102]: --add takes everything else from the kits that exist"),
        ("provision f.yaml -n 3", "error[FLIP-E0102]: FEDERATION.yaml says all that itself; "),
        ("provision -n 3 --yes", "error[FLIP-E0102]: --yes goes with --replace-all"),
        ("provision -n 3 --host a_b", "error[FLIP-E0602]: --host is 'a_b'; it must be a host name or an IPv4 address"),
        ("provision -n 3 --net ../x", "error[FLIP-E0602]: --net is '../x'; it must be text of letters, digits"),
        ("provision -n 0", "error[FLIP-E0102]: -n is '0'; it must be a whole number from 1 to 1000"),
        ("provision --add 2", "error[FLIP-E0606]: there are no kits in ./kits to add to"),
        ("provision --replace-all --yes", "error[FLIP-E0606]: there are no kits in ./kits to replace"),
        ("provsion -n 3", "error[FLIP-E0101]: no command 'provsion'"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_made(words: str, first: str, tmp_path: Path) -> None:
    """Protects from half an intention: a wrong line makes no kit and no folder."""
    done = flip_fl(*words.split(), cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0].startswith(first)
    assert "  fix: flip-fl provision -" in done.stderr or "E0602" in first
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_s_is_left_alone(tmp_path: Path) -> None:
    """Protects files that happen to lie where kits shall go."""
    (tmp_path / "kits/server").mkdir(parents=True)
    (tmp_path / "kits/server/notes.txt").write_text("mine", encoding="utf-8")
    before = tree(tmp_path)
    done = flip_fl("provision", "-n", "2", cwd=tmp_path)
    assert done.exit_code == 5
    assert done.stderr.startswith("error[FLIP-E0608]: ./kits holds something that is not a kit: server\n")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("harm", ["lost", "another's", "torn ledger"])
def test_a_ca_that_cannot_issue_is_told_and_nothing_is_added(harm: str, kits: Path) -> None:
    """Protects from kits that no server of the federation would let in."""
    if harm == "lost":
        (kits / "ca/rootCA.key").unlink()
    elif harm == "another's":
        shutil.copyfile(kits / "Trust_1/startup/client.key", kits / "ca/rootCA.key")
    else:
        (kits / "ca/federation.json").write_text("{}", encoding="utf-8")
    before = tree(kits)
    done = flip_fl("provision", "--add", "1", cwd=kits.parent)
    assert done.exit_code == 1
    assert done.stderr.startswith("error[FLIP-E0607]: the CA in kits/ca cannot be used: ")
    assert tree(kits) == before


def test_when_nvflare_fails_everything_is_as_it_was(kits: Path) -> None:
    """Protects from half a kit, and from the library's traceback: here its CA is past its last day."""
    expire_ca(kits)
    before = tree(kits)
    done = flip_fl("provision", "--add", "1", cwd=kits.parent)
    assert done.exit_code == 1
    assert re.match(r"error\[FLIP-E0609\]: the kits could not be made: .*root CA expired", done.stderr)
    assert "Traceback" not in done.stderr
    assert tree(kits) == before


def test_a_kit_says_how_it_is_installed_and_filled_in(five: Path) -> None:
    """Whoever gets a kit has only what lies in it: a README of its own, settings, scripts, a service, a container."""
    for name in ("server", "Trust_2"):
        kit = five / name
        assert name.replace("server", "FL server") in (kit / "README.md").read_text(encoding="utf-8")
        for script in ("start.sh", "stop.sh", "status.sh"):
            assert os.access(kit / "startup" / script, os.X_OK)
        settings = kit / "local" / "flip.env"
        assert stat.S_IMODE(settings.stat().st_mode) == 0o600
        for text in (settings, kit / "README.md", kit / "flip-fl.service", kit / "Containerfile"):
            assert "{{" not in text.read_text(encoding="utf-8")
        assert not (kit / "readme.txt").exists()
    assert "NET_ID=default" in (five / "Trust_2/local/flip.env").read_text(encoding="utf-8")
    assert "fl.example.org:8002" in (five / "admin/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("engine", ["nvflare", "flower"])
def test_a_kit_s_service_is_one_that_systemd_takes(engine: str, tmp_path: Path) -> None:
    """A unit with a typo in it is silently not what it says. Needs systemd's own checker."""
    checker = shutil.which("systemd-analyze")
    if checker is None:
        pytest.skip("LEFT OUT: systemd-analyze: not installed, the kits' units are not checked")
    kits = make(tmp_path, "-n", "1", "--host", HOST, "--engine", engine)
    for name in ("server", "Trust_1"):
        text = (kits / name / "flip-fl.service").read_text(encoding="utf-8")
        unit = tmp_path / f"flip-{engine}-{name}.service"
        # As it is where it was installed: there are neither this user nor this folder here.
        unit.write_text(text.replace(f"/opt/flip/{name}", str(tmp_path)).replace("User=flip\n", ""), encoding="utf-8")
        done = subprocess.run([checker, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), name
