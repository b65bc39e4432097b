"""``PUT /upload/images/{net}``: what a client put into its upload folder is stored, and never over another file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.trust import RunningTrust, filled, running_trust, trust_settings, write_study

MISSING = {"detail": "A file to store is not in the upload folder."}
PRESENT = {"detail": "A file of that name is stored already."}
TRAVERSAL = {"detail": "A name is no plain name, or leads out of its folder."}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrust]:
    root = tmp_path_factory.mktemp("trust")
    url = filled(f"sqlite:///{root / 'trust.sqlite'}", root)
    with running_trust(trust_settings(root, url)) as running:
        yield running


@pytest.fixture
def trust(served: RunningTrust) -> Iterator[RunningTrust]:
    """With the study 0002 in the archive, and mask.nii.gz and more/other.nii.gz in the net's upload folder."""
    write_study(served.archive / "0002", {"DICOM/a.dcm": b"a"})
    write_study(served.images / "net-1" / "upload", {"mask.nii.gz": b"mask", "more/other.nii.gz": b"other"})
    yield served
    for folder in (served.archive, served.images):
        for entry in folder.iterdir():
            entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)


def stored(trust: RunningTrust) -> dict[str, bytes]:
    study = trust.archive / "0002"
    return {str(path.relative_to(study)): path.read_bytes() for path in study.rglob("*") if path.is_file()}


BEFORE = {"DICOM/a.dcm": b"a"}


def test_files_are_stored_as_a_resource_of_the_scan(trust: RunningTrust) -> None:
    """The answer lists where each is, in order; the client's own files stay where they are."""
    response = trust.upload("0002", "mask.nii.gz", "more/other.nii.gz")
    assert response.status_code == 200
    place = f"{trust.base}/data/experiments/0002/scans/1/resources/SEG/files"
    assert response.json() == [f"{place}/mask.nii.gz", f"{place}/more/other.nii.gz"]
    assert stored(trust) == BEFORE | {"SEG/1/mask.nii.gz": b"mask", "SEG/1/more/other.nii.gz": b"other"}
    assert (trust.images / "net-1" / "upload" / "mask.nii.gz").read_bytes() == b"mask"
    assert list((trust.archive / ".partial").iterdir()) == []


def test_what_was_stored_can_be_downloaded(trust: RunningTrust) -> None:
    """A segmentation that a model made is data of the study from then on."""
    assert trust.download("0002", "SEG").status_code == 404
    assert trust.upload("0002", "mask.nii.gz").status_code == 200
    folder = Path(trust.download("0002", "SEG").json()["path"])
    assert (folder / "SEG" / "1" / "mask.nii.gz").read_bytes() == b"mask"
    assert trust.upload("0002", "mask.nii.gz", scan_id="2").status_code == 200
    assert trust.download("0002", "SEG").status_code == 200
    assert (folder / "SEG" / "2" / "mask.nii.gz").read_bytes() == b"mask"


def test_scans_with_resources_and_files_of_one_name_are_kept_apart(trust: RunningTrust) -> None:
    """The same file name of another scan is another file."""
    for scan in ("1", "2", "t1 sagittal"):
        (trust.images / "net-1" / "upload" / "mask.nii.gz").write_bytes(scan.encode())
        response = trust.upload("0002", "mask.nii.gz", scan_id=scan)
        assert response.status_code == 200
    assert response.json()[0].endswith("/scans/t1%20sagittal/resources/SEG/files/mask.nii.gz")
    assert {name: data for name, data in stored(trust).items() if name.startswith("SEG")} == {
        f"SEG/{scan}/mask.nii.gz": scan.encode() for scan in ("1", "2", "t1 sagittal")
    }


def test_nothing_is_ever_overwritten(trust: RunningTrust) -> None:
    """A name that is taken is a 500 as the contract has it, the stored file stays, and none of the others is stored."""
    assert trust.upload("0002", "mask.nii.gz").status_code == 200
    (trust.images / "net-1" / "upload" / "mask.nii.gz").write_bytes(b"another")
    response = trust.upload("0002", "more/other.nii.gz", "mask.nii.gz")
    assert (response.status_code, response.json()) == (500, PRESENT)
    assert stored(trust) == BEFORE | {"SEG/1/mask.nii.gz": b"mask"}
    twice = trust.upload("0002", "more/other.nii.gz", "./more//other.nii.gz")
    assert (twice.status_code, twice.json()) == (500, PRESENT)
    below = trust.upload("0002", "mask.nii.gz", scan_id="mask", resource_id="SEG")
    assert below.status_code == 200


def test_a_file_that_is_not_there_is_500_and_nothing_is_stored(trust: RunningTrust) -> None:
    """A folder, a pipe or nothing at all in place of one of the files: all or none."""
    upload = trust.images / "net-1" / "upload"
    os.mkfifo(upload / "pipe")
    (upload / "circle").symlink_to("circle")
    for name in ("gone.nii.gz", "more", "pipe", "mask.nii.gz/x", "x" * 300, "circle"):
        response = trust.upload("0002", "mask.nii.gz", name)
        assert (response.status_code, response.json()) == (500, MISSING), name
    shutil.rmtree(upload)
    assert trust.upload("0002", "mask.nii.gz").json() == MISSING
    assert stored(trust) == BEFORE
    assert list((trust.archive / ".partial").iterdir()) == []


@pytest.mark.parametrize(
    "file",
    [
        *("../x", "a/../../x", "..", "/etc/passwd", "C:\\x", "\\x", "a\\b", "..\\x", "a\0b", "", " ", ".", "./"),
        *(".hidden", "a/.b/c", "a\nb", "\ud800", "//x"),
    ],
)
def test_a_path_that_leads_out_is_400(trust: RunningTrust, file: str) -> None:
    """Before anything is read or stored, and whatever else the request holds."""
    response = trust.upload("0002", "mask.nii.gz", file)
    assert (response.status_code, response.json()) == (400, TRAVERSAL)
    assert stored(trust) == BEFORE


@pytest.mark.parametrize("field", ["accession_id", "scan_id", "resource_id"])
@pytest.mark.parametrize("value", ["..", "a/b", "/x", "\\x", "a\0b", "", ".partial", "../0002"])
def test_names_that_lead_out_are_400(trust: RunningTrust, field: str, value: str) -> None:
    """Study, scan and resource are folders' plain names."""
    response = trust.upload("0002", "mask.nii.gz", **{field: value})
    assert (response.status_code, response.json()) == (400, TRAVERSAL)
    assert trust.upload("0002", "mask.nii.gz", net="..%2Fnet-1").status_code in (400, 404)
    assert stored(trust) == BEFORE


def test_links_that_lead_out_are_refused(trust: RunningTrust, tmp_path: Path) -> None:
    """A client owns the folder, the service can read more than the client: no link takes a file from elsewhere."""
    secret = tmp_path / "secret.nii.gz"
    secret.write_bytes(b"secret")
    upload = trust.images / "net-1" / "upload"
    write_study(trust.images / "net-2" / "upload", {"theirs.nii.gz": b"theirs"})
    (upload / "file").symlink_to(secret)
    (upload / "folder").symlink_to(tmp_path)
    (upload / "neighbour").symlink_to("../../net-2/upload/theirs.nii.gz")
    (upload / "study").symlink_to(trust.archive / "0002")
    for name in ("file", "folder/secret.nii.gz", "neighbour", "study/DICOM/a.dcm"):
        response = trust.upload("0002", name)
        assert (response.status_code, response.json()) == (400, TRAVERSAL), name
    shutil.rmtree(upload)
    upload.symlink_to(tmp_path)
    assert trust.upload("0002", "secret.nii.gz").status_code in (400, 500)
    shutil.rmtree(trust.images / "net-1")
    (trust.images / "net-1").symlink_to(trust.images / "net-2")
    assert trust.upload("0002", "theirs.nii.gz").status_code in (400, 500)
    assert stored(trust) == BEFORE


def test_links_inside_the_upload_folder_are_files(trust: RunningTrust) -> None:
    """What a link of the client names in its own folder is stored, by content."""
    (trust.images / "net-1" / "upload" / "latest.nii.gz").symlink_to("more/other.nii.gz")
    assert trust.upload("0002", "latest.nii.gz").status_code == 200
    assert stored(trust) == BEFORE | {"SEG/1/latest.nii.gz": b"other"}
    assert not (trust.archive / "0002" / "SEG" / "1" / "latest.nii.gz").is_symlink()


def test_what_was_stored_is_out_of_the_client_s_reach(trust: RunningTrust) -> None:
    """The archive's file is a copy: the client's may change afterwards."""
    trust.upload("0002", "mask.nii.gz")
    with (trust.images / "net-1" / "upload" / "mask.nii.gz").open("r+b") as file:
        file.write(b"canary")
    assert stored(trust)["SEG/1/mask.nii.gz"] == b"mask"


def test_a_study_that_is_not_there_is_404(trust: RunningTrust) -> None:
    """Uploading makes no study."""
    response = trust.upload("0009", "mask.nii.gz")
    assert (response.status_code, response.json()) == (404, {"detail": "No such study."})
    unknown = trust.upload("0002", "mask.nii.gz", encrypted_central_hub_project_id=trust.sealed("Unknown"))
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "No such project."})
    assert not (trust.archive / "0009").exists()


def test_an_archive_that_is_gone_is_500(trust: RunningTrust, tmp_path: Path) -> None:
    """Never 404: the study may well be there."""
    aside = tmp_path / "aside"
    trust.archive.rename(aside)
    try:
        response = trust.upload("0002", "mask.nii.gz")
        assert (response.status_code, response.json()) == (500, {"detail": "The trust's storage failed."})
    finally:
        aside.rename(trust.archive)


def test_no_files_are_an_empty_list(trust: RunningTrust) -> None:
    """Nothing to store is stored."""
    response = trust.upload("0002")
    assert (response.status_code, response.json()) == (200, [])


def test_of_two_who_store_one_name_at_once_one_wins(trust: RunningTrust) -> None:
    """Exactly one request is told 200, and what is stored is its file, whole."""
    upload = trust.images / "net-1" / "upload"
    for number in range(8):
        write_study(upload, {f"{number}/same.bin": bytes([number]) * 100_000})
    (upload / "same.bin").unlink(missing_ok=True)

    def store(number: int) -> int:
        net = f"net-{number + 10}"
        write_study(trust.images / net / "upload", {"same.bin": bytes([number]) * 100_000})
        return trust.upload("0002", "same.bin", net=net).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(store, range(8)))
    assert sorted(statuses) == [200, *[500] * 7]
    assert stored(trust)["SEG/1/same.bin"] == bytes([statuses.index(200)]) * 100_000
