"""``flip-fl trust …`` and ``python -m flip_fl.trust`` as a person and the simulator run them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

from flip_fl.commands.answers import TrustEnvelope, TrustLoaded
from flip_fl.settings import write_settings_file
from flip_fl.trust.envelope import Envelope, new_key
from tests.contract.test_cli_json import checked
from tests.support.cli import SCRIPT, environment, flip_fl
from tests.support.trust import COHORT_CSV, write_study

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
        timeout=30,
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
        _, rest = child.communicate(timeout=30)
    assert child.returncode == 0
    assert rest == "the trust has ended\n"


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


def _started(values: Mapping[str, str], folder: Path, *words: str) -> subprocess.Popen[str]:
    settings = settings_at(folder, values)
    return subprocess.Popen(
        [sys.executable, "-m", "flip_fl.trust", "--settings", str(settings), *words],
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
        deadline = time.monotonic() + 30
        while not port_file.exists():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        port = int(port_file.read_text())
        sealed = Envelope(values["FLIP_TRUST_ENVELOPE_KEY"]).seal("Stroke")
        assert asked(port, values, sealed) == 20
        taken = _started(values, tmp_path, "--port", str(port))
        _, error = taken.communicate(timeout=30)
        assert taken.returncode == 3
        assert error.startswith(f"error[FLIP-E0951]: the trust's services cannot listen on 127.0.0.1:{port}")
    finally:
        child.terminate()
        _, rest = child.communicate(timeout=30)
    assert (child.returncode, rest) == (0, "")
