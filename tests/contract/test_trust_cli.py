"""``flip-fl trust …`` and ``python -m flip_fl.trust`` as a person and the simulator run them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import requests

from flip_fl.commands.answers import TrustEnvelope, TrustLoaded, TrustMade
from flip_fl.data.sources.trust import TrustSource
from flip_fl.http import HttpStatusError
from flip_fl.settings import ClientSettings, TrustSettings, load, write_settings_file
from flip_fl.trust.envelope import Envelope, new_key
from flip_fl.values import ResourceType
from tests.contract.test_cli_json import checked
from tests.support.cli import SCRIPT, environment, flip_fl
from tests.support.trust import COHORT_CSV, running_trust, write_study

KEY = "canary-trust-key-5d21"


@pytest.fixture
def values(tmp_path: Path) -> dict[str, str]:
    """The settings of a trust in ``tmp_path``, whose folders and source files are there."""
    for name in ("images", "archive"):
        (tmp_path / name).mkdir()
    (tmp_path / "cohort.csv").write_text(COHORT_CSV, encoding="utf-8")
    write_study(tmp_path / "studies", {"0002/DICOM/a.dcm": b"a", "0003/DICOM/a.dcm": b"a"})
    return {
        "TRUST_INTERNAL_SERVICE_KEY": KEY,
        "OMOP_DATABASE_URL": f"sqlite:///{tmp_path / 'trust.sqlite'}",
        "IMAGES_ROOT": str(tmp_path / "images"),
        "FLIP_TRUST_ARCHIVE": str(tmp_path / "archive"),
        "FLIP_TRUST_ENVELOPE_KEY": new_key(),
    }


def settings_at(folder: Path, values: Mapping[str, str]) -> Path:
    path = folder / "trust.env"
    write_settings_file(path, values)
    return path


def asked(port: str | int, values: Mapping[str, str], project_id: str) -> int:
    """How many rows the trust at ``port`` answers with."""
    response = requests.post(
        f"http://127.0.0.1:{port}/cohort/dataframe",
        json={"encrypted_project_id": project_id, "query": "SELECT * FROM omop.cohort"},
        headers={"X-Trust-Internal-Service-Key": values["TRUST_INTERNAL_SERVICE_KEY"]},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    return len(response.json()["age"])


def test_from_a_csv_to_an_answer(values: dict[str, str], tmp_path: Path) -> None:
    """Load, seal, serve: the three commands are a trust. The port is told when it answers; Ctrl-C ends it with 0."""
    settings_at(tmp_path, values)
    words = ["trust", "load", "--settings", "trust.env", "--cohort", "cohort.csv", "--images", "studies"]
    loaded = flip_fl(*words, "--project", "Stroke", "--json", cwd=tmp_path)
    answer = checked(loaded.document(), TrustLoaded)
    assert (loaded.exit_code, loaded.stderr) == (0, "")
    assert (answer.rows, answer.persons, answer.studies, answer.project) == (20, 20, 2, "Stroke")
    assert answer.approved_rows is None
    sealed = flip_fl("trust", "envelope", "Stroke", "--settings", "trust.env", cwd=tmp_path)
    assert (sealed.exit_code, sealed.stderr) == (0, "")
    project_id = sealed.stdout.strip()
    assert Envelope(values["FLIP_TRUST_ENVELOPE_KEY"]).open(project_id) == "Stroke"
    child = subprocess.Popen(
        [str(SCRIPT), "trust", "serve", "--settings", "trust.env", "--port", "0"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr is not None
        told = child.stderr.readline()
        found = re.fullmatch(r"the trust answers at http://127\.0\.0\.1:(\d+)\n", told)
        assert found, told
        assert asked(found.group(1), values, project_id) == 20
    finally:
        child.send_signal(signal.SIGINT)
        _, rest = child.communicate(timeout=120)
    assert child.returncode == 0
    assert rest == "the trust has ended\n"


def test_a_trust_of_ones_own_from_nothing_to_its_client(tmp_path: Path) -> None:
    """README's walk: init makes what the other commands ask for, and a client's settings that the trust lets in. A
    second time nothing is replaced: keys that are in use must not be lost.
    """
    made = flip_fl("trust", "init", "--dir", "mine", "--json", cwd=tmp_path)
    answer = checked(made.document(), TrustMade)
    assert (answer.created, answer.settings, answer.client) == (
        True,
        tmp_path / "mine" / "trust.env",
        tmp_path / "mine" / "client.env",
    )
    before = [(file.read_text(), file.stat().st_mode & 0o777) for file in (answer.settings, answer.client)]
    assert [mode for _, mode in before] == [0o600, 0o600]
    again = checked(flip_fl("trust", "init", "--dir", "mine", "--json", cwd=tmp_path).document(), TrustMade)
    assert not again.created
    assert [(file.read_text(), file.stat().st_mode & 0o777) for file in (answer.settings, answer.client)] == before
    settings, client = load(TrustSettings, answer.settings), load(ClientSettings, answer.client)
    for keys in (settings.trust_key, settings.envelope_key):
        assert keys is not None
        assert keys.get_secret_value() not in made.stdout
    (tmp_path / "cohort.csv").write_text(COHORT_CSV, encoding="utf-8")
    write_study(tmp_path / "studies", {"0002/a.dcm": b"a", "0003/a.dcm": b"a"})
    words = ["trust", "load", "--settings", "mine/trust.env", "--cohort", "cohort.csv", "--images", "studies"]
    loaded = flip_fl(*words, "--project", "Stroke", cwd=tmp_path)
    assert loaded.exit_code == 0
    assert "2 studies, 2 files; of the cohort's 20 studies 18 are not among them" in loaded.stdout
    sealed = flip_fl("trust", "envelope", "Stroke", "--settings", "mine/trust.env", cwd=tmp_path).stdout.strip()
    with running_trust(settings) as trust:
        asks = client.model_copy(update={"data_access_url": trust.base, "imaging_url": trust.base})
        source = TrustSource(asks)
        assert len(source.dataframe(sealed, "SELECT * FROM omop.cohort")) == 20
        folder = source.resources(sealed, "0002", [ResourceType.DICOM])[ResourceType.DICOM]
        assert [path.name for path in folder.rglob("*.dcm")] == ["a.dcm"]
        for call, told in (
            (lambda: source.dataframe(sealed, "DROP TABLE omop.cohort"), "only a SELECT may be sent"),
            (lambda: source.dataframe(sealed, "SELECT canary FROM omop.cohort"), "it names a column that is not there"),
            (lambda: source.dataframe("canary", "SELECT 1"), "The project id cannot be read."),
            (lambda: source.resources(sealed, "canary", [ResourceType.DICOM]), "No such study."),
            (lambda: source.resources(sealed, "0002", [ResourceType.NIFTI]), "No such data in the study."),
        ):
            with pytest.raises(HttpStatusError) as caught:
                call()
            assert told in str(caught.value)
            assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("csv", "folder", "told"),
    [
        (COHORT_CSV, "elsewhere", "none of its folders is named by an accession_id of the cohort"),
        (COHORT_CSV.replace(",", ";"), "studies", "its columns are separated by semicolons"),
        (COHORT_CSV, ".", "none of its folders is named by an accession_id of the cohort"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_loaded(
    csv: str, folder: str, told: str, values: dict[str, str], tmp_path: Path
) -> None:
    """A wrong folder or a spreadsheet's CSV must not become a trust without studies, or with one column."""
    (tmp_path / "cohort.csv").write_text(csv, encoding="utf-8")
    write_study(tmp_path / "elsewhere", {"9999/DICOM/a.dcm": b"a"})
    done = flip_fl("trust", "load", "--cohort", "cohort.csv", "--images", folder, cwd=tmp_path, env=values)
    assert done.exit_code == 2
    assert told in done.stderr
    assert list((tmp_path / "archive").iterdir()) == []
    assert not (tmp_path / "trust.sqlite").exists()


def test_the_archive_is_not_copied_into_itself(values: dict[str, str], tmp_path: Path) -> None:
    """A folder above the archive would grow with each study that is copied."""
    done = flip_fl("trust", "load", "--images", ".", cwd=tmp_path, env=values)
    assert (done.exit_code, "one of the two lies in the other" in done.stderr) == (2, True)
    assert list((tmp_path / "archive").iterdir()) == []


def test_what_will_not_be_what_one_thinks_is_said(values: dict[str, str], tmp_path: Path) -> None:
    """Without person_id each study is a person; a cohort or snapshot below the threshold is refused to whoever asks; a
    project that is not known is refused in words that do not say so; a trust without a key lets nobody in.
    """
    (tmp_path / "cohort.csv").write_text(COHORT_CSV.replace("person_id", "patient"), encoding="utf-8")
    query = "SELECT * FROM omop.cohort LIMIT 3"
    words = ("trust", "load", "--cohort", "cohort.csv", "--project", "P", "--approve", query)
    done = flip_fl(*words, cwd=tmp_path, env=values)
    assert "20 persons (there is no column person_id: each accession_id counts as one)" in done.stdout
    few = "(fewer than COHORT_QUERY_THRESHOLD, 10: whoever asks for them is refused)"
    assert f"approved  3 rows {few}" in done.stdout
    assert "accession_id counts as one)\n" in done.stdout
    (tmp_path / "cohort.csv").write_text("".join(COHORT_CSV.splitlines(keepends=True)[:4]), encoding="utf-8")
    done = flip_fl("trust", "load", "--cohort", "cohort.csv", cwd=tmp_path, env=values)
    assert f"cohort    3 rows, 7 columns, 3 persons {few}\n" in done.stdout
    done = flip_fl("trust", "envelope", "Q", cwd=tmp_path, env=values)
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    assert done.stderr == "the trust has no project 'Q' yet: flip-fl trust load --project makes it known\n"
    assert flip_fl("trust", "envelope", "P", cwd=tmp_path, env=values).stderr == ""
    del values["TRUST_INTERNAL_SERVICE_KEY"]
    child = _started(values, tmp_path, "--port", "0", command=[str(SCRIPT), "trust", "serve"])
    try:
        assert child.stderr is not None
        assert child.stderr.readline() == "TRUST_INTERNAL_SERVICE_KEY is not set: every request will be refused\n"
    finally:
        child.terminate()
        child.communicate(timeout=120)


def test_json_answers_and_approval(values: dict[str, str], tmp_path: Path) -> None:
    """What was approved is told in rows; an envelope is a document with its project."""
    flip_fl("trust", "load", "--cohort", "cohort.csv", "--cohort-only", cwd=tmp_path, env=values)
    done = flip_fl(
        *("trust", "load", "--project", "Stroke", "--approve", "SELECT * FROM omop.cohort WHERE age > 50", "--json"),
        cwd=tmp_path,
        env=values,
    )
    answer = checked(done.document(), TrustLoaded)
    assert (answer.rows, answer.approved_rows) == (None, 10)
    refused = flip_fl("trust", "load", "--images", "gone", "--json", cwd=tmp_path, env=values)
    assert (refused.exit_code, refused.document()["code"]) == (2, "FLIP-E0954")
    envelope = flip_fl("trust", "envelope", "Stroke", "--json", cwd=tmp_path, env=values)
    sealed = checked(envelope.document(), TrustEnvelope)
    assert Envelope(values["FLIP_TRUST_ENVELOPE_KEY"]).open(sealed.project_id) == sealed.project == "Stroke"


@pytest.mark.parametrize(
    ("words", "exit_code", "first"),
    [
        (("load",), 2, "error[FLIP-E0102]: flip-fl trust load needs --cohort, --images or --project"),
        (("load", "--images", "studies", "--approve", "x"), 2, "error[FLIP-E0102]: --approve goes with --project"),
        (("load", "--project", "P", "--cohort-only"), 2, "error[FLIP-E0102]: --cohort-only goes with --cohort"),
        (("load", "--cohort", "gone.csv"), 2, "error[FLIP-E0902]: the cohort gone.csv cannot be used"),
        (("load", "--images", "gone"), 2, "error[FLIP-E0954]: the images in gone cannot be loaded: No such file"),
        (("load", "--project", "P", "--approve", "DROP TABLE x"), 5, "error[FLIP-E0953]: the query cannot be approved"),
        (("envelope", "  "), 2, "error[FLIP-E0955]: '  ' cannot be a project's name"),
        (("serve", "--port", "0"), 3, "error[FLIP-E0950]: the trust's database sqlite:///"),
        (("serve", "--settings", "gone.env"), 2, "error[FLIP-E0404]: the settings file is gone.env"),
    ],
)
def test_what_goes_wrong_is_told_in_one_error(
    words: tuple[str, ...], exit_code: int, first: str, values: dict[str, str], tmp_path: Path
) -> None:
    """Its own code, exit code and fix, and no key."""
    done = flip_fl("trust", *words, cwd=tmp_path, env=values)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.startswith(first)
    assert "  fix: " in done.stderr
    for key in (KEY, values["FLIP_TRUST_ENVELOPE_KEY"]):
        assert key not in done.stderr


def test_a_trust_that_lacks_a_folder_or_a_setting_does_not_start(values: dict[str, str], tmp_path: Path) -> None:
    """By name, with where to set it; nothing is made up."""
    flip_fl("trust", "load", "--cohort", "cohort.csv", cwd=tmp_path, env=values)
    (tmp_path / "archive").rmdir()
    done = flip_fl("trust", "serve", "--port", "0", cwd=tmp_path, env=values)
    assert done.exit_code == 2
    assert done.stderr.startswith(
        f"error[FLIP-E0952]: FLIP_TRUST_ARCHIVE is {tmp_path / 'archive'}, which is no folder"
    )
    values.pop("IMAGES_ROOT")
    done = flip_fl("trust", "serve", cwd=tmp_path, env=values)
    assert done.stderr.startswith("error[FLIP-E0401]: the trust cannot start: IMAGES_ROOT not set\n")


def _started(
    values: Mapping[str, str],
    folder: Path,
    *words: str,
    command: Sequence[str] = (sys.executable, "-m", "flip_fl.trust"),
) -> subprocess.Popen[str]:
    settings = settings_at(folder, values)
    return subprocess.Popen(
        [*command, "--settings", str(settings), *words],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_services_are_a_process_that_tells_its_port(values: dict[str, str], tmp_path: Path) -> None:
    """As the simulator starts it: a port file once it answers, SIGTERM ends it with 0, and it says nothing else."""
    flip_fl("trust", "load", "--cohort", "cohort.csv", "--project", "Stroke", cwd=tmp_path, env=values)
    port_file = tmp_path / "port"
    child = _started(values, tmp_path, "--port-file", str(port_file))
    try:
        deadline = time.monotonic() + 120
        while not port_file.exists():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        port = int(port_file.read_text())
        sealed = Envelope(values["FLIP_TRUST_ENVELOPE_KEY"]).seal("Stroke")
        assert asked(port, values, sealed) == 20
        taken = _started(values, tmp_path, "--port", str(port))
        _, error = taken.communicate(timeout=120)
        assert taken.returncode == 3
        assert error.startswith(f"error[FLIP-E0951]: the trust's services cannot listen on 127.0.0.1:{port}")
    finally:
        child.terminate()
        _, rest = child.communicate(timeout=120)
    assert (child.returncode, rest) == (0, "")
