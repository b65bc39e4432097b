"""``POST /download/images/{net}``: studies come whole or not at all, once, from an archive that nobody can harm."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flip_fl.trust import files
from flip_fl.trust.load import approve, register_project
from flip_fl.values import ResourceType
from tests.support.core import everything_logged
from tests.support.disks import small_disk
from tests.support.trust import RunningTrust, filled, running_trust, trust_settings, write_study

NO_PROJECT = {"detail": "No such project."}
NO_STUDY = {"detail": "No such study."}
NO_DATA = {"detail": "No such data in the study."}
TRAVERSAL = {"detail": "A name is no plain name, or leads out of its folder."}
STORAGE = {"detail": "The trust's storage failed."}
STUDY = {"DICOM/1/a.dcm": b"first", "DICOM/2/b.dcm": b"second", "SEG/mask.nii.gz": b"mask", "NIFTI/x.nii.gz": b""}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrust]:
    root = tmp_path_factory.mktemp("trust")
    url = filled(f"sqlite:///{root / 'trust.sqlite'}", root)
    with running_trust(trust_settings(root, url)) as running:
        yield running


@pytest.fixture
def trust(served: RunningTrust) -> Iterator[RunningTrust]:
    """With the study 0002 in the archive, and nothing else there or in the nets' folders."""
    write_study(served.archive / "0002", STUDY)
    yield served
    for folder in (served.archive, served.images):
        for entry in folder.iterdir():
            entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def of(kind: str) -> dict[str, bytes]:
    return {name: data for name, data in STUDY.items() if name.startswith(kind)}


def leftovers(trust: RunningTrust) -> list[Path]:
    return [path for folder in (trust.images, trust.archive) for path in folder.glob(".partial/*")]


@pytest.mark.parametrize("kind", [ResourceType.DICOM, ResourceType.NIFTI, ResourceType.SEGMENTATION])
def test_a_study_s_files_of_one_type_lie_in_the_net_s_folder(trust: RunningTrust, kind: ResourceType) -> None:
    """The answer is an absolute path, under which are the files of that type, as in the archive, and no others."""
    response = trust.download("0002", kind)
    assert response.status_code == 200
    folder = Path(response.json()["path"])
    assert set(response.json()) == {"path"}
    assert folder == trust.images.resolve() / "net-1" / "0002"
    assert content(folder) == of(kind.value)


def test_all_types_of_a_study_share_its_folder(trust: RunningTrust) -> None:
    """Apps ask for several types, take the last path, and find all of them; ALL brings every type at once."""
    paths = {trust.download("0002", kind).json()["path"] for kind in ("DICOM", "SEG", "NIFTI")}
    assert len(paths) == 1
    assert content(Path(paths.pop())) == STUDY
    write_study(trust.archive / "0002", {"MODEL/out.bin": b"output"})
    everything = trust.download("0002", "ALL", net="net-2")
    assert content(Path(everything.json()["path"])) == {**STUDY, "MODEL/out.bin": b"output"}


def test_asking_again_copies_nothing(trust: RunningTrust) -> None:
    """A second request for what is there is answered from a look at it."""
    folder = Path(trust.download("0002").json()["path"])
    before = {path: path.stat().st_ino for path in folder.rglob("*")}
    assert trust.download("0002").json()["path"] == str(folder)
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == before
    assert leftovers(trust) == []


def test_times_are_the_archive_s(trust: RunningTrust) -> None:
    """A client's index knows a file by size and time: one that was fetched anew is the same."""
    name = "DICOM/1/a.dcm"
    original = (trust.archive / "0002" / name).stat().st_mtime_ns
    folder = Path(trust.download("0002").json()["path"])
    assert (folder / name).stat().st_mtime_ns == original
    shutil.rmtree(folder)
    trust.download("0002")
    assert (folder / name).stat().st_mtime_ns == original


@pytest.mark.parametrize("damage", ["deleted", "file gone", "changed", "added", "link", "file in place"])
def test_what_a_client_did_to_its_folder_is_put_right(trust: RunningTrust, damage: str) -> None:
    """Clients delete downloads, or are cut off while they do: the next request finds the study whole again."""
    folder = Path(trust.download("0002").json()["path"])
    file = folder / "DICOM" / "1" / "a.dcm"
    if damage == "deleted":
        shutil.rmtree(folder)
    elif damage == "file gone":
        file.unlink()
    elif damage == "changed":
        file.write_bytes(b"changed by the client")
    elif damage == "added":
        (folder / "DICOM" / "more.dcm").write_bytes(b"x")
    elif damage == "link":
        file.unlink()
        file.symlink_to("/etc/hostname")
    else:
        shutil.rmtree(folder / "DICOM")
        (folder / "DICOM").write_bytes(b"no folder")
    assert trust.download("0002").status_code == 200
    assert content(folder) == of("DICOM")
    assert content(trust.archive / "0002") == STUDY


def test_the_archive_survives_whatever_a_client_does(trust: RunningTrust) -> None:
    """Downloads are copies: writing to them, through them, or deleting them changes nothing in the archive."""
    folder = Path(trust.download("0002", "ALL").json()["path"])
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.stat().st_nlink == 1
            with path.open("r+b") as file:
                file.write(b"canary")
            path.chmod(0o777)
    shutil.rmtree(folder)
    assert content(trust.archive / "0002") == STUDY


def test_a_study_that_changed_in_the_archive_is_fetched_anew(trust: RunningTrust) -> None:
    """What is served is what the archive holds now, and nothing of the older version stays."""
    folder = Path(trust.download("0002").json()["path"])
    shutil.rmtree(trust.archive / "0002" / "DICOM")
    write_study(trust.archive / "0002", {"DICOM/new.dcm": b"new"})
    assert trust.download("0002").status_code == 200
    assert content(folder) == {"DICOM/new.dcm": b"new"}


def test_what_is_not_there_is_404(trust: RunningTrust) -> None:
    """No such project, study or data, each by its name; nothing is left where nothing came."""
    (trust.archive / "0003" / "DICOM").mkdir(parents=True)
    cases = [
        (trust.download("0009"), NO_STUDY),
        (trust.download("0002 "), NO_STUDY),
        (trust.download("x" * 300), NO_STUDY),
        (trust.download("名前"), NO_STUDY),
        (trust.download("0003"), NO_DATA),
        (trust.download("0003", "ALL"), NO_DATA),
        (trust.download("0009", "ALL"), NO_STUDY),
        (trust.download("0003", "SEG"), NO_DATA),
        (trust.download("0002", project_id=trust.sealed("Unknown")), NO_PROJECT),
        # Segmentations are assessors, everything else is a scan.
        (trust.download("0002", "SEG", assessor=False), NO_DATA),
        (trust.download("0002", "DICOM", assessor=True), NO_DATA),
        (trust.download("0002", "ALL", assessor=True), NO_DATA),
    ]
    for response, body in cases:
        assert (response.status_code, response.json()) == (404, body)
    assert not (trust.images / "net-1").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("..", ".", "../0002", "0002/..", "a/b", "/etc", "\\etc", "a\\b", "a\0b", "", " ", "..0002", "a\nb", "\ud800"),
        *(".partial", ".hidden", "upload"),
    ],
)
def test_an_accession_number_that_is_no_plain_name_is_400(trust: RunningTrust, name: str) -> None:
    """Such a number becomes no path, is refused before anything is looked up, and is not told."""
    response = trust.download(name)
    assert (response.status_code, response.json()) == (400, TRAVERSAL)
    assert not (trust.images / "net-1").exists()


@pytest.mark.parametrize(
    "net", ["..", "%2e%2e", "..%2Fx", "a%2Fb", "a/b", ".partial", "a%00b", "%5Cx", "a%09b", "a%20b"]
)
def test_a_net_that_is_no_plain_name_is_400(trust: RunningTrust, net: str) -> None:
    """A net names a folder and nothing else."""
    import http.client

    # Not by requests, which tidies an address before it sends it.
    connection = http.client.HTTPConnection(trust.base.removeprefix("http://"))
    from tests.support.trust import KEY, KEY_HEADER

    body = f'{{"encrypted_central_hub_project_id": "{trust.sealed()}", "accession_id": "0002"}}'
    path = f"/download/images/{net}?assessor_type=scan&resource_type=DICOM"
    connection.request("POST", path, body, {KEY_HEADER: KEY, "Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 400
    assert b"plain name" in response.read()
    assert list(trust.images.iterdir()) == []
    connection.close()


@pytest.mark.parametrize("name", ["0001canary", "a b", "Größe", "é", "-rf", "x" * 255, "a.b", "~", "$HOME", "%2e"])
def test_unusual_accession_numbers_are_just_names(trust: RunningTrust, name: str) -> None:
    """Whatever is a plain name of a folder is a study."""
    if len(name.encode()) > 255:
        pytest.skip("no folder can have that name")
    write_study(trust.archive / name, {"DICOM/a.dcm": b"a"})
    response = trust.download(name)
    assert response.status_code == 200
    assert content(Path(response.json()["path"])) == {"DICOM/a.dcm": b"a"}


@pytest.mark.parametrize("planted", ["net", "study", "type"])
def test_nothing_is_written_through_a_link_that_a_client_put_there(
    trust: RunningTrust, planted: str, tmp_path: Path
) -> None:
    """A client owns its folder and may put links into it: the service, which can write elsewhere, follows none."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (trust.images / "net-1").mkdir() if planted != "net" else (trust.images / "net-1").symlink_to(victim)
    if planted == "study":
        (trust.images / "net-1" / "0002").symlink_to(victim)
    elif planted == "type":
        (trust.images / "net-1" / "0002").mkdir()
        (trust.images / "net-1" / "0002" / "DICOM").symlink_to(victim)
    response = trust.download("0002")
    assert list(victim.iterdir()) == []
    if planted == "type":
        assert response.status_code == 200
        assert not (trust.images / "net-1" / "0002" / "DICOM").is_symlink()
    else:
        assert (response.status_code, response.json()) == (500, STORAGE)
    assert leftovers(trust) == []


def test_an_archive_in_trouble_is_500_and_never_404(trust: RunningTrust, tmp_path: Path) -> None:
    """A study that cannot be read is not a study that is not there: a client must not skip it for good."""
    aside = tmp_path / "aside"
    trust.archive.rename(aside)
    try:
        for response in (trust.download("0002"), trust.download("0009"), trust.download("0002", "ALL")):
            assert (response.status_code, response.json()) == (500, STORAGE)
    finally:
        aside.rename(trust.archive)
    (trust.archive / "0002" / "DICOM" / "pipe").mkdir()
    (trust.archive / "0002" / "DICOM" / "link.dcm").symlink_to("/etc/hostname")
    response = trust.download("0002")
    assert (response.status_code, response.json()) == (500, STORAGE)


def test_a_full_disk_leaves_nothing_behind_and_is_mended_by_room(tmp_path: Path) -> None:
    """A study that does not fit is a 500, not half a study; what it took is given back."""
    url = filled(f"sqlite:///{tmp_path / 'trust.sqlite'}", tmp_path)
    with small_disk(tmp_path / "images", 256) as disk, running_trust(trust_settings(tmp_path, url)) as trust:
        write_study(trust.archive / "0002", {"DICOM/a.dcm": b"x" * (100 << 10), "DICOM/b.dcm": b"y" * (300 << 10)})
        write_study(trust.archive / "0003", {"DICOM/a.dcm": b"z" * (100 << 10)})
        response = trust.download("0002")
        assert (response.status_code, response.json()) == (500, STORAGE)
        assert not (disk / "net-1").exists()
        assert leftovers(trust) == []
        assert trust.download("0003").status_code == 200


def test_many_requests_for_one_study_at_once_copy_it_once(trust: RunningTrust, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds, two jobs, one study: each is answered with the whole of it, and the archive is read once."""
    copies = []
    real = files.copy_tree

    def slow(*arguments: Any) -> None:
        copies.append(1)
        threading.Event().wait(0.2)
        real(*arguments)

    monkeypatch.setattr(files, "copy_tree", slow)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: trust.download("0002"), range(16)))
    assert {response.status_code for response in answers} == {200}
    assert len(copies) == 1
    assert content(Path(answers[0].json()["path"])) == of("DICOM")


def test_two_services_on_one_archive_do_not_harm_each_other(trust: RunningTrust) -> None:
    """Processes do not share locks: the last to rename wins, and the folder is whole at every moment."""
    with running_trust(trust.settings) as other, ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            answers = list(pool.map(lambda number: (trust, other)[number % 2].download("0002"), range(8)))
            assert {response.status_code for response in answers} == {200}
            folder = Path(answers[0].json()["path"])
            assert content(folder) == of("DICOM")
            shutil.rmtree(folder)
    assert leftovers(trust) == []


def test_a_client_that_deletes_while_others_ask_sees_no_error(trust: RunningTrust) -> None:
    """Clean-up of one job runs beside the requests of another."""
    stop = threading.Event()

    def delete() -> None:
        while not stop.wait(0.001):
            shutil.rmtree(trust.images / "net-1", ignore_errors=True)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        statuses = {trust.download("0002").status_code for _ in range(60)}
    finally:
        stop.set()
        thread.join()
    assert statuses == {200}
    assert leftovers(trust) == []


def test_frozen_mode_gives_a_project_its_own_studies_only(tmp_path: Path) -> None:
    """What was approved is a cohort: images of others are not there for the project."""
    url = filled(f"sqlite:///{tmp_path / 'trust.sqlite'}", tmp_path)
    register_project(url, "Unapproved")
    approve(url, "Stroke", "SELECT person_id, accession_id FROM omop.cohort WHERE age > 45")
    with running_trust(trust_settings(tmp_path, url, cohort="frozen")) as trust:
        for name in ("0002", "0006"):
            write_study(trust.archive / name, STUDY)
        for _ in range(2):
            assert trust.download("0006").status_code == 200
            response = trust.download("0002")
            assert (response.status_code, response.json()) == (404, NO_STUDY)
            assert trust.upload("0002").status_code == 404
        assert trust.download("0006", project_id=trust.sealed("Unapproved")).status_code == 404


def test_what_a_killed_service_left_is_swept_at_the_next_start(trust: RunningTrust) -> None:
    """Copies that were never finished do not fill the disk for ever; another service's young ones are left alone."""
    old, young = trust.images / ".partial" / "old", trust.images / ".partial" / "young"
    write_study(old, {"DICOM/a.dcm": b"x"})
    write_study(young, {"DICOM/a.dcm": b"x"})
    os.utime(old, (0, 0))
    with running_trust(trust.settings):
        assert not old.exists()
        assert young.exists()


def test_no_accession_number_and_no_path_is_logged(
    trust: RunningTrust, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever becomes of a request, the log holds categories only."""
    caplog.set_level(logging.DEBUG)
    write_study(trust.archive / "canary-1", {"DICOM/canary-file.dcm": b"x"})
    (trust.archive / "canary-2" / "DICOM").mkdir(parents=True)
    (trust.archive / "canary-2" / "DICOM" / "canary-link").symlink_to("/canary")
    answers = [trust.download(name).status_code for name in ("canary-1", "canary-2", "canary-3", "../canary")]
    assert answers == [200, 500, 404, 400]
    told = everything_logged(caplog, capsys)
    assert "could not be copied" in told
    assert "canary" not in "\n".join(line for line in told.splitlines() if "urllib3" not in line)
