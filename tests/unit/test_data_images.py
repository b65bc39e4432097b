"""Fetching studies: side by side, with an outcome for each, an end for every wait, and nothing told of a patient."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from flip_fl.data import images
from flip_fl.data.images import Studies, fetch_studies
from flip_fl.data.manifest import Manifest, SkipReason
from flip_fl.errors import FlipError
from flip_fl.http import HttpStatusError
from flip_fl.values import ResourceType
from tests.support.imaging import Imaging, imaging, released
from tests.support.recording_server import Answer
from tests.support.runs import wait_for

NAMES = [f"ACC-CANARY-{number:04d}" for number in range(40)]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Imaging]:
    # A test does not wait for what a person would: the pauses between attempts are what is shortened.
    monkeypatch.setattr(images.Backoff, "failed", _counted)
    # Long enough for a machine that loads a worker's modules meanwhile.
    with imaging(tmp_path, FLIP_TRUST_IN_FLIGHT="8", FLIP_TRUST_READ_TIMEOUT_S="30") as running:
        yield running


def _counted(self: images.Backoff, retry_after_s: float | None = None) -> float:
    self.failures += 1
    return 0.01


def fetch(service: Imaging, names: list[str] = NAMES, max_skipped: float = 1.0, **more: object) -> Studies:
    cohort = pd.DataFrame({"accession_id": names, "person_id": range(len(names))})
    types = (ResourceType.NIFTI,)
    return fetch_studies(service.source, "project", cohort, types, max_skipped=max_skipped, **more)  # type: ignore[arg-type]


def test_studies_are_fetched_side_by_side_and_kept_in_the_cohorts_order(service: Imaging) -> None:
    """Up to FLIP_TRUST_IN_FLIGHT requests are under way at once, never more, and order does not depend on arrival."""
    both = threading.Event()
    under_way: list[str] = []

    def say(name: str, attempt: int) -> Answer | None:
        under_way.append(name)
        if len(under_way) == 8:
            both.set()
        return Answer(200, {"path": str(service.put(name))}, wait=both)

    service.say = say
    with released(both):
        studies = fetch(service)
        wait_for(lambda: len(under_way) >= 8, "as many requests as are permitted")
        assert list(studies) == NAMES
    assert sorted(service.asked) == NAMES
    assert str(studies.manifest) == "40 studies, none skipped"
    assert studies[NAMES[3]] == {ResourceType.NIFTI: service.root / NAMES[3]}


def test_never_more_than_the_permitted_number_is_under_way(service: Imaging) -> None:
    """Nobody answers: only as many requests as the setting says have been sent, and a stop leaves none to come."""
    hold = threading.Event()
    service.say = lambda name, attempt: Answer(404, wait=hold)
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    with released(hold):
        studies = fetch(service, check=check)
        wait_for(lambda: len(service.asked) == 8, "as many requests as are permitted")
        time.sleep(0.5)
        assert len(service.asked) == 8
        stop.set()
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            studies.wait()
        assert time.monotonic() - begun < 20  # they hang for a minute
    time.sleep(0.2)
    assert len(service.asked) == 8


@pytest.mark.parametrize(
    ("answer", "reason", "attempts"),
    [
        (Answer(404, {"detail": "canary-body"}), SkipReason.NOT_FOUND, 1),
        (Answer(400, {"detail": "canary-body"}), SkipReason.REFUSED, 1),
        (Answer(403, {"detail": "canary-body"}), SkipReason.REFUSED, 1),
        (Answer(422), SkipReason.REFUSED, 1),
        (Answer(302, headers={"Location": "http://127.0.0.1:9/"}), SkipReason.REFUSED, 1),
        (Answer(500, {"detail": "canary-body"}), SkipReason.STORAGE_FAULT, 3),
        (Answer(503), SkipReason.STORAGE_FAULT, 3),
        (Answer(hang_up=True), SkipReason.UNREACHABLE, 3),
        (Answer(200, {"path": "x"}, headers={"Content-Length": "500"}), SkipReason.UNREACHABLE, 3),
        (Answer(200, b"<html>canary-body</html>"), SkipReason.BAD_ANSWER, 1),
        (Answer(200, {"folder": "x"}), SkipReason.BAD_ANSWER, 1),
        (Answer(200, {"path": 7}), SkipReason.BAD_ANSWER, 1),
        (Answer(200, {"path": "a\0b"}), SkipReason.BAD_ANSWER, 1),
        (Answer(200, {"path": "/etc"}), SkipReason.OUTSIDE, 1),
        (Answer(200, {"path": "../../elsewhere"}), SkipReason.OUTSIDE, 1),
        (Answer(200, {"path": "not-there"}), SkipReason.EMPTY, 1),
    ],
)
def test_each_fault_is_a_counted_skip_with_its_reason(
    service: Imaging, answer: Answer, reason: SkipReason, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Only server errors and transport faults are tried again; the reason is a code, and nothing tells the number."""
    service.say = lambda name, attempt: answer if name == NAMES[0] else None
    studies = fetch(service, NAMES[:4])
    assert studies.manifest.outcomes == {NAMES[0]: reason, **dict.fromkeys(NAMES[1:4])}
    assert service.attempts[NAMES[0]] == attempts
    assert str(studies.manifest) == f"3 studies, 1 skipped: 1 {reason.words}"
    told = f"{studies} {studies!r} {studies.manifest!r} {caplog.text} {studies.studies()!r}"
    assert "CANARY" not in told
    assert "canary" not in told


def test_a_passing_fault_costs_nothing(service: Imaging) -> None:
    """A service that fails once or hangs up once is asked again: no study is lost by it."""
    first = {NAMES[0]: Answer(500), NAMES[1]: Answer(hang_up=True), NAMES[2]: Answer(503)}
    service.say = lambda name, attempt: first.get(name) if attempt == 1 else None
    assert str(fetch(service).manifest) == "40 studies, none skipped"


def test_a_service_that_never_answers_is_left_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hung pull ends with the read time-out and is not waited for a second time when that was long."""
    monkeypatch.setattr(images, "PATIENCE_S", 1.0)
    hold = threading.Event()
    with imaging(tmp_path, FLIP_TRUST_READ_TIMEOUT_S="2") as service, released(hold):
        service.say = lambda name, attempt: Answer(200, wait=hold) if name == NAMES[0] else None
        studies = fetch(service, NAMES[:3])
        assert studies.manifest.outcomes[NAMES[0]] is SkipReason.UNREACHABLE
        assert service.attempts[NAMES[0]] == 1


def test_a_service_that_is_down_ends_the_fetch_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as more is missing than may be, the rest is not asked for: a dead service costs seconds, not hours."""
    monkeypatch.setattr(images.Backoff, "failed", _counted)
    with imaging(tmp_path, FLIP_TRUST_IN_FLIGHT="2") as service:
        service.say = lambda name, attempt: Answer(500)
        studies = fetch(service, NAMES, max_skipped=0.05)
        with pytest.raises(FlipError) as refused:
            studies.wait()
    limit = "more than MAX_SKIPPED (0.05) allows"
    assert refused.value.what == f"3 of 40 studies were skipped so far, {limit}: 3 storage fault"
    assert len(service.asked) < 20
    with pytest.raises(FlipError, match="storage fault"):
        len(studies)


def test_a_refused_key_is_an_error_and_no_skip(service: Imaging) -> None:
    """What concerns every study is told at once as what it is."""
    service.say = lambda name, attempt: Answer(401, {"detail": "Invalid trust-internal service key."})
    with pytest.raises(HttpStatusError, match="401"):
        fetch(service).wait()


def test_rows_without_or_with_an_impossible_number_are_skipped_and_counted(service: Imaging) -> None:
    """Empty, climbing, slashed or endless numbers reach no path and no service; doubled ones are asked for once."""
    names = ["0012", "0012", None, " ", "../x", "a/b", "a\\b", "x\ny", "naïve-Ω", "9" * 300]
    # No file system has a folder of that name, and a trust says that there is no such study.
    service.say = lambda name, attempt: Answer(404) if len(name) > 255 else None
    studies = fetch(service, names)  # type: ignore[arg-type]
    assert list(studies) == ["0012", "naïve-Ω"]
    skipped = studies.manifest.skipped
    assert skipped[SkipReason.NO_ACCESSION] == 2
    assert skipped[SkipReason.BAD_ACCESSION] == 4
    assert skipped[SkipReason.NOT_FOUND] == 1
    assert sum(skipped.values()) == 7
    assert service.asked.count("0012") == 1
    assert not {"../x", "a/b", "a\\b", "x\ny"} & set(service.asked)


def test_a_study_without_files_or_with_an_empty_one_is_skipped(service: Imaging) -> None:
    """Nobody trains on an empty folder or a file of no bytes."""
    (service.root / NAMES[0]).mkdir()
    service.files = {}
    (service.root / NAMES[1]).mkdir()
    (service.root / NAMES[1] / "input_1.nii.gz").touch()
    (service.root / NAMES[2]).mkdir()
    (service.root / NAMES[2] / "input_1.nii.gz").write_bytes(b"x")
    studies = fetch(service, NAMES[:3])
    assert list(studies) == [NAMES[2]]
    assert studies.manifest.skipped == {SkipReason.EMPTY: 2}


def test_a_link_that_leads_out_is_refused(service: Imaging, tmp_path: Path) -> None:
    """Neither a study's folder nor a file in it may be a link to elsewhere; links inside are followed."""
    secret = tmp_path / "secret.nii.gz"
    secret.write_bytes(b"another job's")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.nii.gz").write_bytes(b"x")
    (service.root / NAMES[0]).symlink_to(outside)
    (service.root / NAMES[1]).mkdir()
    (service.root / NAMES[1] / "a.nii.gz").symlink_to(secret)
    (service.root / NAMES[2]).mkdir()
    (service.root / NAMES[2] / "b.nii.gz").symlink_to(service.put(NAMES[3]) / "input_1.nii.gz")
    studies = fetch(service, NAMES[:4])
    assert studies.manifest.skipped == {SkipReason.OUTSIDE: 2}
    assert list(studies) == NAMES[2:4]


def test_studies_can_be_used_while_others_are_on_their_way(service: Imaging) -> None:
    """The first study is there at once although the last never comes before the test is over."""
    hold = threading.Event()
    service.say = lambda name, attempt: Answer(404, wait=hold) if name == NAMES[5] else None
    with released(hold):
        studies = fetch(service, NAMES[:6])
        arriving = studies.arriving()
        assert {next(arriving).accession_id for _ in range(5)} == set(NAMES[:5])
        assert studies.settled == 5
        hold.set()
        assert next(arriving, None) is None
    assert str(studies.manifest) == "5 studies, 1 skipped: 1 not found"
    assert len(list(studies.arriving())) == 5


def test_the_manifest_is_told_once_and_counts_in_words() -> None:
    """A thousand studies read as people write them, the most frequent reason first."""
    outcomes: dict[str, SkipReason | None] = {f"A{n}": None for n in range(1862)}
    outcomes |= {f"B{n}": SkipReason.STORAGE_FAULT for n in range(8)}
    outcomes |= {f"C{n}": SkipReason.NOT_FOUND for n in range(40)}
    assert str(Manifest(outcomes)) == "1,862 studies, 48 skipped: 40 not found, 8 storage fault"
    assert str(Manifest({"A": None})) == "1 study, none skipped"
    assert "A1" not in repr(Manifest(outcomes))


def test_nothing_is_asked_before_the_cohort_fits(service: Imaging) -> None:
    """A frame without accession numbers, or no resource type, is an error before any request."""
    with pytest.raises(ValueError, match="'accession_id' column"):
        fetch_studies(service.source, "p", pd.DataFrame({"x": [1]}), (ResourceType.NIFTI,), max_skipped=0)
    with pytest.raises(ValueError, match="at least one"):
        fetch_studies(service.source, "p", pd.DataFrame({"accession_id": ["1"]}), (), max_skipped=0)
    assert service.asked == []
