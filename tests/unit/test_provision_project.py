"""``federation.yaml``: everything that can be wrong in it is told with its place, before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from flip_fl.errors import FlipError
from flip_fl.provision.kit import covers, slot_number
from flip_fl.provision.project import Federation, Server, load_federation, make_federation

GOOD = """\
net: oncology
engine: nvflare
server:
  host: fl.example.org
  port: 8003
  other_hosts: [10.0.0.5]
slots: 5
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "federation.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_good_file_says_what_it_says(tmp_path: Path) -> None:
    """Protects the file's form, and the names that the server's certificate gets."""
    found = load_federation(written(tmp_path, GOOD))
    server = Server(host="fl.example.org", port=8003, other_hosts=["10.0.0.5"])
    assert found == Federation(net="oncology", engine="nvflare", server=server, slots=5)
    assert found.server.names == ("fl.example.org", "10.0.0.5")


@pytest.mark.parametrize(
    ("old", "new", "told", "place"),
    [
        ("slots: 5", "slots: 0", "slots is '0'; it must be a whole number from 1 to 1000", "7:8"),
        ("slots: 5", "slots: 2000", "slots is '2000'; it must be a whole number from 1 to 1000", "7:8"),
        ("slots: 5", "slots: '5'", "slots is '5'; it must be a whole number from 1 to 1000", "7:8"),
        ("slots: 5", "slots: yes", "slots is 'yes'; it must be a whole number from 1 to 1000", "7:8"),
        ("oncology", "on", "net is 'on'; it must be text of letters, digits", "1:6"),
        ("oncology", "../x", "net is '../x'; it must be text of letters, digits", "1:6"),
        ("oncology", "x" * 64, "net is 'xxxx", "1:6"),
        ("nvflare", "openfl", "engine is 'openfl'; it must be nvflare or flower", "2:9"),
        (
            "fl.example.org",
            "https://fl.example.org",
            "server.host is 'https://fl.example.org'; it must be a host",
            "4:9",
        ),
        ("fl.example.org", "fl.example.org:8002", "server.host is 'fl.example.org:8002'; it must be a host", "4:9"),
        ("fl.example.org", "10.0.0.256", "server.host is '10.0.0.256'; it must be a host", "4:9"),
        ("fl.example.org", "10.5", "server.host is '10.5'; it must be a host", "4:9"),
        ("8003", "70000", "server.port is '70000'; it must be a whole number from 1 to 65535", "5:9"),
        ("[10.0.0.5]", "[ok, a_b]", "server.other_hosts.1 is 'a_b'; it must be a list of host names", "6:21"),
    ],
)
def test_a_bad_value_is_refused_with_key_value_and_expected(
    old: str, new: str, told: str, place: str, tmp_path: Path
) -> None:
    """Protects whoever writes the file from kits that were made of something else than what it says."""
    file = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(FlipError) as caught:
        load_federation(file)
    assert caught.value.code == "E0602"
    assert caught.value.what.startswith(told)
    assert caught.value.where == f"{file}:{place}"


@pytest.mark.parametrize(
    ("old", "new", "code", "told", "fix", "place"),
    [
        ("slots:", "slot:", "E0605", "the key 'slot', which a federation does not have", "did you mean slots?", "7:7"),
        ("  host:", "  hots:", "E0605", "the key 'server.hots', which", "did you mean host?", "4:9"),
        ("slots: 5", "resources: 5", "E0605", "the key 'resources', which", "take it out; keys: net, engine, ", "7:12"),
        ("slots: 5", "net: other", "E0605", "the key 'net' twice", "keep one of them", "7:1"),
        ("slots: 5\n", "", "E0604", "has no key 'slots'", "add slots: 5", "1:1"),
        (
            "  host: fl.example.org\n",
            "",
            "E0604",
            "no key 'server.host'",
            "add host: fl.example.org below server",
            "4:3",
        ),
        ("slots: 5", "slots: [5", "E0603", "cannot be read: ", "a federation is a YAML file", "8:1"),
    ],
)
def test_keys_that_are_misspelt_missing_or_twice_are_refused(
    old: str, new: str, code: str, told: str, fix: str, place: str, tmp_path: Path
) -> None:
    """Protects from keys that would have no effect in silence."""
    file = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(FlipError) as caught:
        load_federation(file)
    assert caught.value.code == code
    assert told in caught.value.what
    assert caught.value.fix.startswith(fix)
    assert caught.value.where == f"{file}:{place}"


@pytest.mark.parametrize(
    ("name", "content", "told", "fix"),
    [
        ("3", None, "no such file or directory", "flip-fl provision -n 3"),
        ("absent.yaml", None, "no such file or directory", "give the path of the file, or the number of sites with -n"),
        ("list.yaml", b"- a\n- b\n", "it is no mapping of keys to values", "a federation is a YAML file"),
        ("empty.yaml", b"", "it is no mapping of keys to values", "a federation is a YAML file"),
        ("binary.yaml", b"\xff\xfe\x00", "it is no UTF-8 text", "a federation is a YAML file"),
        ("tagged.yaml", b"net: !!python/object:os.system x\n", "", "a federation is a YAML file"),
    ],
)
def test_a_file_that_is_no_federation_is_told_so(
    name: str, content: bytes | None, told: str, fix: str, tmp_path: Path
) -> None:
    """Protects from tracebacks of the YAML library, and from objects that a file could make it build."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FlipError) as caught:
        load_federation(tmp_path / name)
    assert caught.value.code == "E0603"
    assert told in caught.value.what
    assert caught.value.fix.startswith(fix)


def test_a_federation_of_one_machine_is_reached_by_name_and_by_address() -> None:
    """Protects the first try on one machine, where people write localhost and 127.0.0.1."""
    assert make_federation(net="default", host="localhost", slots=3).server.names == ("localhost", "127.0.0.1")
    assert make_federation(net="default", host="fl.example.org", slots=3).server.names == ("fl.example.org",)


@pytest.mark.parametrize(
    ("names", "host", "good"),
    [
        (("fl.example.org",), "FL.example.org", True),
        (("fl.example.org",), "fl.example.org.", True),
        (("fl.example.org",), "example.org", False),
        (("*.example.org",), "fl.example.org", True),
        (("*.example.org",), "a.fl.example.org", False),
        (("*.example.org",), "example.org", False),
        (("10.0.0.5",), "10.0.0.5", True),
        (("10.0.0.5",), "10.0.0.50", False),
        (("*.0.0.5",), "10.0.0.5", False),
        ((), "fl.example.org", False),
    ],
)
def test_a_certificate_is_good_for_the_hosts_it_names(names: tuple[str, ...], host: str, good: bool) -> None:
    """Protects the verdict on a host from being kinder or harsher than TLS is."""
    assert covers(names, host) is good


@pytest.mark.parametrize(("name", "number"), [("Trust_12", 12), ("Trust_0", None), ("Trust_03", None), ("admin", None)])
def test_a_slot_is_known_by_its_number(name: str, number: int | None) -> None:
    """Protects the next number from names that only look like a slot's."""
    assert slot_number(name) == number
