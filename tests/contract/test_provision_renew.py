"""``flip-fl kit renew``: the same name and key with new dates, for a kit here and for one that is far away."""

from __future__ import annotations

import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flip_fl.commands.answers import KitRenewed
from flip_fl.provision.authority import read_ledger
from flip_fl.provision.kit import alternative_names, common_name, load_certificate, read_kit
from tests.contract.test_cli_json import checked
from tests.support.cli import flip_fl
from tests.support.provision import HOST, make, reissue, tree


@pytest.fixture(scope="module", params=["nvflare", "flower"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kits for two sites of either engine, not to be changed."""
    return make(tmp_path_factory.mktemp(request.param), "-n", "2", "--host", HOST, "--engine", request.param)


@pytest.fixture
def kits(made: Path, tmp_path: Path) -> Path:
    """A copy of them in ``tmp_path/kits``."""
    return Path(shutil.copytree(made, tmp_path / "kits"))


def test_a_renewed_certificate_differs_in_its_dates_alone(kits: Path) -> None:
    """Protects a site from a new identity: whoever knows its key, or its name, goes on knowing it."""
    kit = read_kit(kits / "Trust_1")
    old, mode = load_certificate(kit.certificate_file), stat.S_IMODE(kit.certificate_file.stat().st_mode)
    others = {name: tree(kits / name) for name in ("Trust_2",)}
    key = kit.key_file.read_bytes()
    done = flip_fl("kit", "renew", "kits/Trust_1", "--json", cwd=kits.parent)
    answer = checked(done.document(), KitRenewed)
    new = load_certificate(kit.certificate_file)
    assert (done.exit_code, answer.name) == (0, "Trust_1")
    assert new.not_valid_after_utc > datetime.now(UTC) + timedelta(days=359)
    assert (new.subject, new.public_key(), alternative_names(new)) == (
        old.subject,
        old.public_key(),
        alternative_names(old),
    )
    assert [each.oid for each in new.extensions] == [each.oid for each in old.extensions]
    assert new.serial_number != old.serial_number
    assert (kit.key_file.read_bytes(), stat.S_IMODE(kit.certificate_file.stat().st_mode)) == (key, mode)
    assert {name: tree(kits / name) for name in others} == others
    assert flip_fl("kit", "verify", "kits/Trust_1", cwd=kits.parent).exit_code == 0
    if kit.record is not None and kit.record.engine == "flower":
        registered = kits / "server/nodes/Trust_1.crt"
        assert registered.read_bytes() == kit.certificate_file.read_bytes()
    assert read_ledger(kits).sites == ["Trust_1", "Trust_2"]


def test_a_kit_that_is_far_away_sends_its_certificate_and_gets_a_public_file(kits: Path, tmp_path: Path) -> None:
    """No key travels: a site's engineer sends what is public and gets what is public."""
    shutil.move(kits / "Trust_2", tmp_path / "far")
    shutil.copy(tmp_path / "far/startup/client.crt", tmp_path / "sent.crt")
    done = flip_fl("kit", "renew", "sent.crt", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    new = load_certificate(kits / "renewed/Trust_2.crt")
    assert common_name(new) == "Trust_2"
    shutil.copy(kits / "renewed/Trust_2.crt", tmp_path / "far/startup/client.crt")
    assert flip_fl("kit", "verify", "far", cwd=tmp_path).exit_code == 0


def test_all_kits_know_a_renewed_server(kits: Path) -> None:
    """A site's kit is checked against the server's certificate that it remembers."""
    done = flip_fl("kit", "renew", "kits/server", cwd=kits.parent)
    assert done.exit_code == 0, done.stderr
    pem = (kits / "server/startup/server.crt").read_text(encoding="ascii")
    for name in ("server", "Trust_1", "Trust_2"):
        record = read_kit(kits / name).record
        assert record is not None
        assert record.server_certificate == pem
    assert read_ledger(kits).server_certificate == pem


def test_what_a_ca_must_not_renew_is_refused_by_reason(kits: Path, tmp_path: Path) -> None:
    """An old copy, somebody else's certificate, a revoked site: none becomes valid again."""
    old = Path(shutil.copy(kits / "Trust_1/startup/client.crt", tmp_path / "old.crt"))
    assert flip_fl("kit", "renew", "kits/Trust_1", cwd=tmp_path).exit_code == 0
    again = flip_fl("kit", "renew", str(old), "--json", cwd=tmp_path)
    assert (again.exit_code, again.document()["code"]) == (5, "FLIP-E0617")
    assert "last certificate of 'Trust_1'" in again.document()["message"]
    strange = flip_fl("kit", "renew", "kits/ca/rootCA.pem", "--json", cwd=tmp_path)
    assert (strange.exit_code, strange.document()["code"]) == (5, "FLIP-E0617")
    nothing = flip_fl("kit", "renew", "kits/nowhere", "--json", cwd=tmp_path)
    assert (nothing.exit_code, nothing.document()["code"]) == (2, "FLIP-E0610")


def test_an_expired_kit_is_told_what_renews_it(kits: Path) -> None:
    """Who meets an end must not have to make all kits anew."""
    reissue(kits, "Trust_1", begin=timedelta(days=-300), end=timedelta(days=-1))
    done = flip_fl("kit", "verify", "kits/Trust_1", cwd=kits.parent)
    assert done.exit_code != 0
    assert "have it renewed at the CA: flip-fl kit renew Trust_1" in done.stdout
