"""``flip-fl kit verify`` on real kits: each thing that keeps one from connecting, and each way to be somebody else."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from flip_fl.commands.answers import ErrorEnvelope, KitVerified
from flip_fl.provision.kit import load_certificate
from tests.contract.test_cli_json import checked
from tests.support.cli import Finished, flip_fl
from tests.support.ports import later_port
from tests.support.provision import HOST, fill_in, make, reissue, tree, web_server
from tests.support.trust import KEY, filled, running_trust, trust_settings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kits for two sites, not to be changed."""
    return make(tmp_path_factory.mktemp("made"), "-n", "2", "--host", HOST)


@pytest.fixture
def kits(made: Path, tmp_path: Path) -> Path:
    """A copy of them in ``tmp_path/kits``."""
    return Path(shutil.copytree(made, tmp_path / "kits"))


def look(kits: Path, name: str, *words: str) -> Finished:
    """``flip-fl kit verify kits/<name>`` with ``words``."""
    return flip_fl("kit", "verify", f"kits/{name}", *words, cwd=kits.parent)


def failed(done: Finished) -> dict[str, tuple[str, str]]:
    """The failed checks of a finished ``--json`` verification: name → (what, fix)."""
    checks = done.document()["data"]["checks"]
    return {check["name"]: (check["what"], check["fix"]) for check in checks if check["state"] == "fail"}


@pytest.mark.parametrize("name", ["server", "admin", "Trust_2"])
def test_a_fresh_kit_is_good_and_looking_changes_nothing(name: str, kits: Path) -> None:
    """Protects people from alarms about a kit that is right, and the kit from being looked at."""
    before = tree(kits)
    done = look(kits, name, "--json")
    answer = checked(done.document(), KitVerified)
    assert (done.exit_code, answer.host) == (0, HOST)
    # What is left to do is said, and no more: nobody has filled in the settings yet, or a site's policy.
    left = {"server": {"settings"}, "admin": set()}.get(name, {"settings", "policy"})
    assert {check.name for check in answer.checks if check.state != "ok"} == left
    assert {check.name for check in answer.checks} >= {"key", "chain", "name", "host", "validity", "modes"}
    assert tree(kits) == before


@pytest.mark.parametrize("name", ["server", "Trust_1", "admin"])
def test_a_kit_for_another_host_is_told_with_validity_and_clock(name: str, kits: Path) -> None:
    """Protects an engineer from WRONG_VERSION_NUMBER: the names, the dates and the clock in one message."""
    last = load_certificate(kits / "server/startup/server.crt").not_valid_after_utc
    with web_server(behind=timedelta(minutes=14)) as url:
        done = look(kits, name, "--host", "10.0.0.5", "--clock", url)
        document = look(kits, name, "--host", "10.0.0.5", "--clock", url, "--json").document()
    assert done.exit_code == 3
    assert done.stderr.splitlines() == [
        "error[FLIP-E0612]: the certificate is for fl.example.org, you connect to 10.0.0.5",
        f"  why: valid to {last:%Y-%m-%d}; this clock is 14 min ahead",
        "  fix: connect by that name (let DNS or /etc/hosts lead it to the server), or, where the kits were made: "
        "flip-fl provision --replace-all --yes --host 10.0.0.5",
        "  see: flip-fl explain E0612",
    ]
    assert (document["code"], document["exit_code"]) == ("FLIP-E0612", 3)
    TypeAdapter(KitVerified).validate_python(document.pop("data"))
    TypeAdapter(ErrorEnvelope).validate_python(document)


def test_the_host_in_the_kit_is_the_one_that_counts(kits: Path) -> None:
    """Protects a site whose engineer wrote the server's new address into the engine's file."""
    file = kits / "Trust_1/startup/fed_client.json"
    file.write_text(file.read_text(encoding="utf-8").replace(HOST, "new.example.org"), encoding="utf-8")
    done = look(kits, "Trust_1")
    assert done.exit_code == 3
    assert "E0612]: the certificate is for fl.example.org, you connect to new.example.org\n" in done.stderr
    assert look(kits, "Trust_1", "--host", HOST).exit_code == 0


@pytest.mark.parametrize(
    ("begin", "end", "code", "state", "told"),
    [
        (-60, -3, 3, "fail", "client.crt is expired since "),
        (2, 60, 3, "fail", "client.crt is not valid before "),
        (-60, 20, 0, "warn", "client.crt is valid to "),
        (-60, 40, 0, "ok", "client.crt is valid to "),
    ],
)
def test_dates_are_told_before_they_hurt(begin: int, end: int, code: int, state: str, told: str, kits: Path) -> None:
    """Protects a federation from the day on which a certificate ends: 30 days ahead it is a warning."""
    reissue(kits, "Trust_1", begin=timedelta(days=begin), end=timedelta(days=end))
    done = look(kits, "Trust_1", "--json")
    (check,) = (check for check in done.document()["data"]["checks"] if check["name"] == "validity")
    assert (done.exit_code, check["state"]) == (code, state)
    assert check["what"].startswith(told)
    if code:
        assert done.document()["code"] == "FLIP-E0613"


@pytest.mark.parametrize(
    ("behind", "code", "state", "told"),
    [
        (timedelta(0), 0, "ok", "within 30 s of http://127.0.0.1:"),
        (timedelta(minutes=3), 0, "warn", "this clock is 3 min ahead by http://127.0.0.1:"),
        (timedelta(hours=-1), 3, "fail", "this clock is 60 min behind by http://127.0.0.1:"),
    ],
)
def test_a_clock_is_compared_with_another(behind: timedelta, code: int, state: str, told: str, kits: Path) -> None:
    """Protects a site whose clock is wrong by an hour from looking for the fault in its certificate."""
    with web_server(behind) as url:
        done = look(kits, "Trust_1", "--clock", url, "--json")
    (check,) = (check for check in done.document()["data"]["checks"] if check["name"] == "clock")
    assert (done.exit_code, check["state"]) == (code, state)
    assert check["what"].startswith(told)


def test_a_clock_that_cannot_be_compared_fails_no_kit(kits: Path) -> None:
    """Protects a kit from being blamed for a web server that is down; a word that is no address is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = look(kits, "Trust_1", "--clock", url)
    assert done.exit_code == 0
    assert f"warn  clock            not compared: no answer from {url}\n" in done.stdout
    assert look(kits, "Trust_1", "--clock", "pool.ntp.org").exit_code == 2


@pytest.mark.parametrize("path", ["startup/client.key", "startup", "startup/start.sh", "local/resources.json", "."])
def test_modes_that_let_others_in_are_told_with_a_line_that_mends_them(path: str, kits: Path) -> None:
    """Protects the key from being read, and what the site starts from being changed, by other users."""
    (kits / "Trust_1" / path).chmod(0o777)
    done = look(kits, "Trust_1", "--json")
    assert (done.exit_code, list(failed(done))) == (1, ["modes"])
    fix = failed(done)["modes"][1]
    assert done.document()["fix"] == fix
    subprocess.run(fix, shell=True, cwd=kits.parent, check=True)
    assert look(kits, "Trust_1").exit_code == 0


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("Trust_2/startup/client.key", "local/spare.key"),
        ("ca/rootCA.key", "transfer/ca.pem"),
        ("server/startup/server.key", "startup/server.key"),
    ],
)
def test_somebody_else_s_key_in_a_kit_is_found_wherever_it_lies(source: str, place: str, kits: Path) -> None:
    """Protects every other participant: who holds a kit must not be able to be somebody else."""
    shutil.copy(kits / source, kits / "Trust_1" / place)
    done = look(kits, "Trust_1", "--json")
    assert (done.exit_code, list(failed(done))) == (1, ["foreign keys"])
    what, fix = failed(done)["foreign keys"]
    assert what == f"{place} is a private key that is not Trust_1's"
    assert fix.startswith(f"delete kits/Trust_1/{place} and tell")


def test_a_key_in_a_bundle_of_text_is_found_as_well(kits: Path) -> None:
    """Protects against NVFLARE's own state file, which holds every key inside a JSON string."""
    key = (kits / "Trust_2/startup/client.key").read_text(encoding="ascii")
    (kits / "Trust_1/local/cert.json").write_text(json.dumps({"Trust_2": {"pri_key": key}}), encoding="utf-8")
    (kits / "Trust_1/local/cert.json").chmod(0o600)
    assert list(failed(look(kits, "Trust_1", "--json"))) == ["foreign keys"]


def test_a_name_in_a_kit_reaches_the_terminal_as_text(kits: Path) -> None:
    """Protects the terminal of whoever looks at a kit that came from somebody else."""
    shutil.copy(kits / "Trust_2/startup/client.key", kits / "Trust_1/local" / "a b\x1b[2J.key")
    done = look(kits, "Trust_1")
    assert done.exit_code == 1
    assert "  fix: delete 'kits/Trust_1/local/a b\\x1b[2J.key' and tell" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


def test_a_copy_of_the_own_key_is_no_foreign_one(kits: Path) -> None:
    """Protects a site's backup of its own key from being called an attack."""
    shutil.copy(kits / "Trust_1/startup/client.key", kits / "Trust_1/local/backup.key")
    assert look(kits, "Trust_1").exit_code == 0


@pytest.mark.parametrize(
    ("files", "checks"),
    [
        (["client.key"], ["key"]),
        (["client.crt"], ["key", "name"]),
        (["client.key", "client.crt"], ["name"]),
    ],
)
def test_files_of_another_site_are_told(files: list[str], checks: list[str], kits: Path) -> None:
    """Protects against kits mixed up by hand: key, certificate and name must be one holder's."""
    for file in files:
        shutil.copy(kits / "Trust_2/startup" / file, kits / "Trust_1/startup" / file)
    done = look(kits, "Trust_1", "--json")
    assert done.exit_code == 1
    assert list(failed(done)) == checks
    assert done.document()["code"] == "FLIP-E0611"


def test_a_kit_of_another_federation_is_told(kits: Path, tmp_path: Path) -> None:
    """Protects against the same name under another CA: only the signature tells them apart."""
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other", "-n", "1", "--host", HOST)
    for file in ("client.key", "client.crt"):
        shutil.copy(other / "Trust_1/startup" / file, kits / "Trust_1/startup" / file)
    done = look(kits, "Trust_1", "--json")
    assert (done.exit_code, list(failed(done))) == (1, ["chain"])
    assert failed(done)["chain"][0] == "client.crt was not issued by the CA in rootCA.pem"


@pytest.mark.parametrize(
    ("file", "content", "name"),
    [
        ("client.crt", None, "files"),
        ("rootCA.pem", b"torn", "files"),
        ("client.key", None, "key"),
        ("client.key", b"torn", "key"),
    ],
)
def test_files_that_are_lost_or_torn_are_named(file: str, content: bytes | None, name: str, kits: Path) -> None:
    """Protects from a traceback of the library that reads certificates."""
    place = kits / "Trust_1/startup" / file
    place.unlink() if content is None else place.write_bytes(content)
    done = look(kits, "Trust_1", "--json")
    assert (done.exit_code, list(failed(done))) == (1, [name])
    assert file in failed(done)[name][0]


def test_a_kit_that_nvflare_made_alone_is_checked_as_far_as_it_goes(kits: Path) -> None:
    """Protects federations whose kits came from NVFLARE's own command: what is not known is said, not failed."""
    (kits / "Trust_1/kit.json").unlink()
    done = look(kits, "Trust_1", "--host", "10.0.0.5", "--json")
    states = {check["name"]: check["state"] for check in done.document()["data"]["checks"]}
    assert (done.exit_code, states["host"], states["chain"]) == (0, "warn", "ok")


@pytest.mark.parametrize(
    ("path", "told", "fix"),
    [
        ("kits", "it holds 4 kits", "flip-fl kit verify kits/Trust_2"),
        ("kits/Trust_1/startup", "it is a part of one", "flip-fl kit verify kits/Trust_1"),
        ("kits/Trust_9", "there is no such folder", "give the folder"),
        ("kits/ca", "it has none of startup/fed_server.json", "give the folder"),
        ("kits/Trust_1/kit.json", "it is no folder", "unpack the kit and give its folder"),
    ],
)
def test_what_is_no_kit_is_told_with_one_that_is(path: str, told: str, fix: str, made: Path) -> None:
    """Protects people who give the folder above or below the kit."""
    done = flip_fl("kit", "verify", path, cwd=made.parent)
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"error[FLIP-E0610]: {path} is not a kit: {told}")
    assert lines[1].startswith(f"  fix: {fix}")


@pytest.mark.parametrize(
    ("file", "content"), [("startup/fed_client.json", "{"), ("startup/fed_client.json", "[]"), ("kit.json", "{}")]
)
def test_a_kit_whose_facts_are_torn_is_told(file: str, content: str, kits: Path) -> None:
    """Protects from guesses about whose kit it is."""
    (kits / "Trust_1" / file).write_text(content, encoding="utf-8")
    done = look(kits, "Trust_1")
    assert done.exit_code == 2
    assert done.stderr.startswith("error[FLIP-E0610]: kits/Trust_1 is not a kit: ")


@pytest.mark.parametrize("engine", ["nvflare", "flower"])
def test_a_policy_with_a_mistake_is_told_with_its_line_and_starts_nothing(engine: str, tmp_path: Path) -> None:
    """A site whose policy is not understood must not take part: verify and start script say the line and end with 2.

    A service that began again every ten seconds would fill a journal and mend nothing.
    """
    kit = make(tmp_path, "-n", "1", "--host", HOST, "--engine", engine) / "Trust_1"
    fresh = flip_fl("kit", "verify", str(kit), "--json", cwd=tmp_path)
    found = {check["name"]: check for check in json.loads(fresh.stdout)["data"]["checks"]}
    assert (fresh.exit_code, found["policy"]["state"]) == (0, "warn")
    assert found["policy"]["what"].startswith("none")
    assert "local/policy.toml" in found["policy"]["fix"]
    policy = kit / "local" / "policy.toml"
    assert policy.stat().st_mode & 0o777 == 0o600
    policy.write_text("[filters.clipping]\nnrom = 1.0\n", encoding="utf-8")
    told = flip_fl("kit", "verify", str(kit), cwd=tmp_path)
    assert told.exit_code == 2
    assert f"{policy}:2" in told.stderr
    assert "did you mean 'norm'?" in told.stderr
    home = str(Path(sys.executable).parent)
    for script in ("start.sh", *(["sub_start.sh"] if engine == "nvflare" else [])):
        done = subprocess.run(
            [str(kit / "startup" / script)],
            env={"PATH": f"{home}:/usr/bin:/bin", "FLIP_PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert f"{policy}:2" in done.stderr
    assert "\nRestartPreventExitStatus=2\n" in (kit / "flip-fl.service").read_text(encoding="utf-8")
    policy.write_text("[filters.clipping]\nnorm = 1.0\n", encoding="utf-8")
    good = flip_fl("kit", "verify", str(kit), cwd=tmp_path)
    assert good.exit_code == 0
    assert "filters: clipping" in good.stdout


@pytest.mark.parametrize("engine", ["nvflare", "flower"])
@pytest.mark.parametrize("name", ["server", "Trust_1"])
def test_settings_that_are_not_filled_in_or_wrong_are_told_before_the_start(
    name: str, engine: str, tmp_path: Path
) -> None:
    """An engineer who forgot one line learns which, from the same command, and not from a site that never appears."""
    kit = make(tmp_path, "-n", "1", "--host", HOST, "--engine", engine) / name
    file = kit / "local" / ("flip.env" if engine == "nvflare" else f"{name}.env")

    def told() -> dict[str, str]:
        done = flip_fl("kit", "verify", str(kit), "--json", cwd=tmp_path)
        return next(check for check in json.loads(done.stdout)["data"]["checks"] if check["name"] == "settings")

    fresh = told()
    assert fresh["state"] == "warn"
    missing = "INTERNAL_SERVICE_KEY" if name == "server" else "TRUST_INTERNAL_SERVICE_KEY"
    assert fresh["what"].startswith(f"local/{file.name} is not filled in yet: ")
    assert missing in fresh["what"]
    filled = file.read_text().replace("#", "").replace("KEY=", f"KEY={'k' * 43}")
    written = "\n".join(line for line in filled.splitlines() if re.match(r"[A-Z_]+=\S", line))
    file.write_text(written, encoding="utf-8")
    assert told()["state"] == "ok", told()
    file.write_text(re.sub(r"(?m)^(FLIP_API_INTERNAL_URL|IMAGING_API_URL)=.*", r"\1=nowhere", written))
    wrong = told()
    assert wrong["state"] == "fail"
    assert "_URL" in wrong["what"]


@pytest.mark.parametrize("engine", ["nvflare", "flower"])
def test_a_site_s_settings_are_tried_before_a_job_does(engine: str, tmp_path: Path) -> None:
    """Protects from a site that is connected and fails every job: its folders, and with --connect its services."""
    kit = make(tmp_path, "-n", "1", "--host", HOST, "--engine", engine) / "Trust_1"
    (settings,) = (kit / "local").glob("*.env")
    (tmp_path / "images").mkdir()
    (tmp_path / "file").touch()

    def fill(data: str, images: Path, state: Path) -> dict[str, list[str]]:
        settings.write_text(
            f"LOCAL_DEV=false\nNET_ID=n\nDATA_ACCESS_API_URL={data}\nIMAGING_API_URL={data}\n"
            f"TRUST_INTERNAL_SERVICE_KEY=k\nIMAGES_DIR={images}\nFLIP_STATE_DIR={state}\n",
            encoding="utf-8",
        )
        done = flip_fl("kit", "verify", str(kit), "--connect", "--json", cwd=tmp_path)
        found: dict[str, list[str]] = {}
        for check in json.loads(done.stdout)["data"]["checks"]:
            found.setdefault(check["name"], []).append(check["state"])
        return found

    with web_server(timedelta()) as url:
        good = fill(url, tmp_path / "images", tmp_path / "state" / "new")
    assert (good["settings"], good["folders"], good["services"]) == (["ok"], ["ok", "ok"], ["ok", "ok"])
    assert not (tmp_path / "state").exists()
    bad = fill(f"http://127.0.0.1:{later_port()}", tmp_path / "no", tmp_path / "file" / "state")
    assert (bad["folders"], bad["services"]) == (["fail", "fail"], ["fail", "fail"])
    settings.chmod(0o644)
    told = flip_fl("kit", "verify", str(kit), cwd=tmp_path)
    assert f"local/{settings.name} has mode 0644" in told.stdout + told.stderr


@pytest.mark.parametrize(("key", "state", "told"), [(KEY, "ok", "takes the key"), ("k-471", "fail", "refuses the key")])
def test_a_trust_s_services_are_asked_whether_they_take_the_key(
    key: str, state: str, told: str, made: Path, tmp_path: Path
) -> None:
    """Protects from a site whose every job is refused; no cohort and no study is asked for, and no key is shown."""
    kit = Path(shutil.copytree(made / "Trust_1", tmp_path / "Trust_1"))
    with running_trust(trust_settings(tmp_path, filled(f"sqlite:///{tmp_path}/omop.sqlite", tmp_path))) as trust:
        (kit / "local/flip.env").write_text(
            f"LOCAL_DEV=false\nNET_ID=n\nDATA_ACCESS_API_URL={trust.base}\nIMAGING_API_URL={trust.base}/\n"
            f"TRUST_INTERNAL_SERVICE_KEY={key}\nIMAGES_DIR={trust.images}\n",
            encoding="utf-8",
        )
        done = flip_fl("kit", "verify", str(kit), "--connect", "--json", cwd=tmp_path)
        assert list(trust.images.iterdir()) == []
    checks = [check for check in done.document()["data"]["checks"] if check["name"] == "services"]
    assert [check["state"] for check in checks] == [state] * 2
    assert all(told in check["what"] for check in checks)
    assert key not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "line", "what", "fix"),
    [
        ("Trust_1", "DATA_ACESS_API_URL=", "nothing reads DATA_ACESS_API_URL", "did you mean DATA_ACCESS_API_URL?"),
        ("Trust_1", "FL_SITE_PRIVCY_POLICY=x", "nothing reads FL_SITE_PRIVCY_POLICY", "FL_SITE_PRIVACY_POLICY?"),
        ("Trust_1", "INTERNAL_SERVICE_KEY=s3cret", "nothing reads INTERNAL_SERVICE_KEY", "it is the FL server's"),
        ("server", "IMAGES_DIR=/data", "nothing reads IMAGES_DIR", "it is the FL client's"),
        ("Trust_1", "s3cret=", "nothing reads what stands before the =", "take it out; known are "),
        ("Trust_1", "NET ID=s3cret", "cannot be read", "write NAME=value"),
        ("Trust_1", "FLIP_STATE_DIR /data", "cannot be read", "write NAME=value"),
    ],
)
def test_a_line_of_the_settings_that_nothing_reads_is_told(
    name: str, line: str, what: str, fix: str, kits: Path
) -> None:
    """A misspelt name has no effect in silence; the engineer is told its line and the name that was meant."""
    file = kits / name / "local/flip.env"
    number = len(file.read_text(encoding="utf-8").splitlines()) + 2
    with file.open("a", encoding="utf-8") as out:
        out.write(f"\n{line}\nlocal_dev=false\n")
    done = look(kits, name, "--json")
    checks = [check for check in done.document()["data"]["checks"] if check["name"] == "settings"]
    (told,) = [check for check in checks if "is not filled in yet" not in check["what"]]
    assert (done.exit_code, told["state"]) == (0, "warn")
    assert told["what"].startswith(f"local/flip.env:{number}")
    assert what in told["what"]
    assert fix in told["fix"]
    assert "s3cret" not in done.stdout


def test_a_clock_before_the_kit_s_first_second_is_told_at_the_start(kits: Path) -> None:
    """NVFLARE's client would wait for ever, without a word, and pass for a site that runs."""
    fill_in(kits)
    reissue(kits, "Trust_1", begin=timedelta(hours=1), end=timedelta(days=9))
    done = subprocess.run(
        [str(kits / "Trust_1/startup/start.sh")],
        env={"PATH": "/usr/bin:/bin", "FLIP_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # The clock comes right by itself: a service tries again.
    assert done.returncode == 3
    assert "FLIP-E0613" in done.stderr
    assert "set this clock by NTP" in done.stderr
