"""The enumerations that FLIP's services share, and the order of slot names."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from flip_fl.values import (
    ROUNDLESS_EVENTS,
    TERMINAL_STATUSES,
    EventType,
    JobType,
    ModelAuditAction,
    ModelStatus,
    ResourceType,
    natural_key,
)


def test_the_members_are_those_of_the_contract() -> None:
    """A value that one side does not know is 422 at the other."""
    assert [member.value for member in ModelStatus] == [
        "PENDING",
        "INITIATED",
        "PREPARED",
        "RUNNING",
        "RESULTS_UPLOADED",
        "ERROR",
        "STOPPED",
        "RESULTS_UPLOAD_FAILED",
    ]
    assert [member.value for member in ModelAuditAction] == [
        "DELETE",
        "EDIT",
        "PREPARED",
        "RUNNING",
        "RESULTS_UPLOADED",
    ]
    assert {member.name: member.value for member in ResourceType} == {
        "DICOM": "DICOM",
        "NIFTI": "NIFTI",
        "SEGMENTATION": "SEG",
        "ALL": "ALL",
    }
    assert [member.value for member in JobType] == ["standard", "evaluation", "fed_opt", "diffusion_model"]


def test_the_older_spellings_are_the_same_members() -> None:
    """TRAINING_STARTED was renamed RUNNING, SEG is short for SEGMENTATION: one member each."""
    assert ModelStatus.TRAINING_STARTED is ModelStatus.RUNNING
    assert ModelStatus("TRAINING_STARTED") is ModelStatus.RUNNING
    assert ModelAuditAction("TRAINING_STARTED") is ModelAuditAction.RUNNING
    assert ResourceType.SEG is ResourceType.SEGMENTATION
    assert ResourceType("SEG") is ResourceType.SEGMENTATION


@pytest.mark.parametrize("text", ["running", "training_started", "", "DONE", "RUNNING "])
def test_other_spellings_are_refused(text: str) -> None:
    """A hub refuses lower case; so do we, before it is sent."""
    with pytest.raises(ValueError, match="is not a valid ModelStatus"):
        ModelStatus(text)


@pytest.mark.parametrize("kind", list(JobType))
def test_a_client_api_job_is_read_as_its_type(kind: JobType) -> None:
    """`<type>_client_api` is the same job with scripts."""
    assert JobType(f"{kind.value}_client_api") is kind


@pytest.mark.parametrize("text", ["_client_api", "x_client_api", "standard_client_api_client_api", "Standard", ""])
def test_other_job_types_are_refused(text: str) -> None:
    """A misspelt job type once fell back to the standard job."""
    with pytest.raises(ValueError, match="is not a valid JobType"):
        JobType(text)


def test_which_statuses_end_a_run_and_which_are_failures() -> None:
    """The hub releases the net at one kind and marks its row a failure at the other."""
    ended = {ModelStatus.ERROR, ModelStatus.STOPPED, ModelStatus.RESULTS_UPLOADED, ModelStatus.RESULTS_UPLOAD_FAILED}
    assert ended == TERMINAL_STATUSES == {status for status in ModelStatus if status.is_terminal}
    assert {status for status in ModelStatus if not status.is_success} == ended - {ModelStatus.RESULTS_UPLOADED}


def test_values_are_plain_text_on_the_wire() -> None:
    """They go into JSON, addresses and log lines without a wrapper."""
    assert json.dumps([ModelStatus.RUNNING, JobType.DIFFUSION]) == '["RUNNING", "diffusion_model"]'
    assert f"{ModelStatus.TRAINING_STARTED}/{ResourceType.SEG}" == "RUNNING/SEG"


def test_which_events_need_no_round() -> None:
    """Every other typed event is refused by a hub without one."""
    assert {
        EventType.JOB_WAITING_FOR_RESOURCES,
        EventType.QUEUE_POSITION,
    } == ROUNDLESS_EVENTS


def test_slots_sort_by_number_and_not_as_text() -> None:
    """`_10` before `_2` once paired keys with the wrong hospitals."""
    names = [f"Trust_{number}" for number in range(1, 31)]
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == names
    assert sorted(["a10b2", "a2b10", "a2b9", "10", "b", "2", ""], key=natural_key) == [
        "",
        "2",
        "10",
        "a2b9",
        "a2b10",
        "a10b2",
        "b",
    ]


@pytest.mark.parametrize("name", ["²", "Trust_1²", "x²", "٣", "Trust_¹"])
def test_odd_digits_do_not_stop_a_sort(name: str) -> None:
    """A name may hold characters that look like digits and are none to `int`."""
    assert sorted([name, "Trust_1"], key=natural_key)


def test_the_module_depends_on_nothing() -> None:
    """Whoever shares the values takes no dependency with them."""
    code = "import sys; before = set(sys.modules); import flip_fl.values; print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition(".")[0] for name in loaded} <= {"flip_fl", "enum", "re", "typing", *sys.stdlib_module_names}
