"""The parts of the walls: what is handed over and told between two processes, and which level a site runs at."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flip_fl.app.faults import BadFrame
from flip_fl.app.isolation import choice, handover, landlock, plain_values, rules, seccomp
from flip_fl.app.isolation.rules import Isolation, Level
from flip_fl.app.raised import heard, raised, told, whole_text
from flip_fl.app.redact import redacted, redacted_told
from flip_fl.app.runner import Session, run_task
from flip_fl.app.site import SiteSpec
from flip_fl.commands import checks
from flip_fl.commands.origins import Origins
from flip_fl.errors import FlipError
from flip_fl.privacy.policy import SitePolicy
from flip_fl.values import Task
from tests.support.app import ARRAYS, TableSource, notes_of, write_app

NO_LIMIT = 1 << 40
JUMPS = 5


def memory_of(data: bytes, seals: int = handover._SEALS) -> int:
    memory = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(memory, data)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
    return memory


def safetensors(head: Any, data: bytes = b"") -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_a_model_is_handed_over_as_it_is() -> None:
    """Names, order, dtypes, shapes and values, those without an axis and without a value too; and it can be changed."""
    given = {
        "z": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array(7, dtype=np.int64),
        "flag": np.array([True, False]),
        "none": np.zeros((0, 3), dtype=np.float16),
        "double": np.linspace(0, 1, 5),
        "complex": np.array([1 + 2j], dtype=np.complex64),
        "swapped": np.arange(3, dtype=">f4"),
    }
    taken = handover.take(handover.put(given), NO_LIMIT)
    assert list(taken) == list(given)
    for name, array in given.items():
        np.testing.assert_array_equal(taken[name], array)
        assert taken[name].shape == array.shape
        assert taken[name].dtype == array.dtype.newbyteorder("<")
    taken["z"] += 1
    np.testing.assert_array_equal(given["z"], np.arange(6, dtype=np.float32).reshape(2, 3))


def test_what_is_handed_over_is_safetensors() -> None:
    """The format is the library's, so that it can be checked by others."""
    from safetensors.numpy import load

    given = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2], dtype=np.int64)}
    memory = handover.put(given)
    found = load(os.pread(memory, 1 << 16, 0))
    os.close(memory)
    assert set(found) == set(given)
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array)


W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        (1 << 60).to_bytes(8, "little"),
        safetensors(b"no JSON"),
        safetensors([]),
        safetensors({"w": 1}),
        safetensors({"w": W}),
        safetensors({"w": {**W, "dtype": "OBJECT"}}, bytes(8)),
        safetensors({"w": {**W, "shape": [-2]}}, bytes(8)),
        safetensors({"w": {**W, "shape": [1 << 61, 8]}}, bytes(8)),
        safetensors({"w": {**W, "shape": [True]}}, bytes(8)),
        safetensors({"w": {**W, "data_offsets": [4, 12]}}, bytes(12)),
        safetensors({"w": W, "v": W}, bytes(8)),
        b"[" * 100_000,
    ],
)
def test_what_is_no_model_is_refused(data: bytes) -> None:
    """Cut, empty, overlapping, of other types and shapes: a refusal, never memory of somebody else."""
    with pytest.raises(BadFrame):
        handover.take(memory_of(data), NO_LIMIT)


def test_only_sealed_memory_of_the_right_size_is_taken(tmp_path: Path) -> None:
    """A file, a pipe, memory that can still be written to, and too much of it are refused; nothing waits."""
    whole = safetensors({"w": W}, bytes(8))
    assert "w" in handover.take(memory_of(whole), NO_LIMIT)
    with pytest.raises(BadFrame, match="changed"):
        handover.take(memory_of(whole, fcntl.F_SEAL_SHRINK), NO_LIMIT)
    with pytest.raises(BadFrame, match="larger than 8 bytes"):
        handover.take(memory_of(whole), 8)
    (tmp_path / "file").write_bytes(whole)
    reading, writing = os.pipe()
    for descriptor in (os.open(tmp_path / "file", os.O_RDONLY), reading):
        with pytest.raises(BadFrame):
            handover.take(descriptor, NO_LIMIT)
    os.close(writing)


def test_returned_values_are_judged_as_if_they_had_come_themselves() -> None:
    """Numbers of every kind, lists and dictionaries stay what they are; anything else stays refusable."""
    given = {
        "n": 3,
        "loss": 0.25,
        "numpy": np.float32(0.5),
        "flag": True,
        "nan": float("nan"),
        "roc": {"fpr": [0.0, 1.0], "counts": [1, 2]},
        "array": np.array([[1.0, 2.0]]),
    }
    found = plain_values.heard(json.loads(json.dumps(plain_values.told(given))))
    assert list(found) == list(given)
    assert found["n"] == 3
    assert isinstance(found["n"], int)
    assert (found["loss"], found["numpy"], found["flag"]) == (0.25, 0.5, True)
    assert np.isnan(found["nan"])
    assert found["roc"] == {"fpr": [0.0, 1.0], "counts": [1, 2]}
    assert found["array"] == [[1.0, 2.0]]
    odd = plain_values.heard(plain_values.told({"text": "P1", 7: 1.0, "object": object()}))
    assert [type(each).__name__ for each in odd.values()] == ["Other", "float", "Other"]
    assert "P1" not in repr(plain_values.told({"text": "P1"}))


@pytest.mark.parametrize("given", [None, "x", [1], [["a"]], [["a", 1]], [["a", []]], {"a": 1}])
def test_values_that_are_not_told_as_they_must_be_are_refused(given: Any) -> None:
    """Whatever a process sends in their place."""
    with pytest.raises(ValueError, match="told"):
        plain_values.heard(given)


FAILS = """
class OwnError(Exception):
    pass

def zero(row): return 1 / 0
def key(row): return {}[row]
def own(row): raise OwnError(f"cannot use {row} here")
def number(row): return float(row)
def chain(row):
    try:
        zero(row)
    except ZeroDivisionError as error:
        raise RuntimeError("the step failed") from error
"""


@pytest.mark.parametrize("name", ["zero", "key", "own", "number", "chain"])
def test_an_honest_failure_reads_the_same_from_another_process(name: str, tmp_path: Path) -> None:
    """Types, places, source lines and words: what is built from what was told is what would be built here."""
    from flip_fl.app.loader import AppLoader

    app = write_app(tmp_path / "app", trainer=FAILS)
    function = AppLoader(app).function("trainer", name)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (each raises something else)
        function("P0001234")
    chain = heard(json.loads(json.dumps(told(raised(caught.value)))))
    # This test's own frame is no library's: nobody else would show it.
    chain = tuple(
        type(each)(**{**vars(each), "places": tuple(p for p in each.places if p.file != __file__)}) for each in chain
    )
    kind, text = redacted_told(chain, app)
    here = [line for line in redacted(caught.value, app).splitlines() if "test_app_isolation" not in line]
    assert text.splitlines() == here
    assert kind == here[-1].partition(":")[0]
    assert "P0001234" not in text
    if name in ("own", "number"):
        assert "P0001234" in whole_text(chain)


@pytest.mark.parametrize("given", [None, [], [{}], [{"type": 1}], "x", [[]], [{"type": "A"}] * 99])
def test_failures_that_are_not_told_as_they_must_be_are_refused(given: Any) -> None:
    """Whatever a process sends in their place."""
    with pytest.raises(ValueError, match=r"told|text|exceptions"):
        heard(given)


def test_a_site_has_the_level_that_it_asks_for_or_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trust without Landlock or seccomp refuses by name; less is its own decision; a developer's machine goes on."""
    monkeypatch.setattr(landlock, "abi", lambda: 1)
    level, reason = rules.offered()
    assert level is Level.PROCESS
    assert "version 1, version 3 (Linux 6.2) is needed" in reason
    with pytest.raises(FlipError) as refused:
        choice.level_for(Isolation(), development=False)
    assert refused.value.code == "E0560"
    assert "policy.toml" in refused.value.fix
    assert choice.level_for(Isolation(level=Level.PROCESS), development=False) is Level.PROCESS
    assert choice.level_for(Isolation(), development=True) is Level.PROCESS
    monkeypatch.setattr(landlock, "abi", lambda: 7)
    monkeypatch.setattr(seccomp, "offered", lambda: False)
    assert "seccomp" in rules.offered()[1]
    monkeypatch.setattr("sys.platform", "darwin")
    assert "darwin" in rules.offered()[1]


def test_what_a_site_asks_for_is_its_policy_s() -> None:
    """Without one a trust asks for all of it and a developer for nothing; with one it is what stands there."""
    assert Isolation.of(None).level is Level.FULL
    assert Isolation.of(None, development=True).level is Level.NONE
    policy = SitePolicy.model_validate({"isolation": {"level": "process", "processes": 9, "read": ["/data/weights"]}})
    wanted = Isolation.of(policy)
    assert (wanted.level, wanted.processes, wanted.read) == (Level.PROCESS, 9, ("/data/weights",))
    assert Isolation.of(SitePolicy(), development=True).level is Level.FULL


def test_less_than_full_is_told_at_the_hub_once(tmp_path: Path) -> None:
    """Whoever looks at a run sees which trusts ran it without walls; a developer's machine is nobody's business."""
    session = Session(write_app(tmp_path / "app"), TableSource(), lambda batch: None, less_than_full="process")
    found = [notes_of(run_task(Task.VALIDATE, ARRAYS, SiteSpec("Trust_1", number, 2), session)) for number in (1, 2)]
    assert found == [["this site runs the app at isolation level process, less than full"], []]
    assert choice.to_tell(Level.PROCESS, development=False) == "process"
    assert choice.to_tell(Level.PROCESS, development=True) is None
    assert choice.to_tell(Level.FULL, development=False) is None


def test_doctor_says_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trust's engineer learns before the first job that none would run here, and what to do."""
    monkeypatch.setattr(rules, "offered", lambda: (Level.FULL, ""))
    assert checks.isolation(Origins(None)).state == "ok"
    monkeypatch.setattr(rules, "offered", lambda: (Level.PROCESS, "the kernel's Landlock is none"))
    found = checks.isolation(Origins(None))
    assert found.state == "warn"
    assert "policy.toml" in (found.fix or "")


@pytest.mark.parametrize("machine", list(seccomp._MACHINES.values()))
def test_every_jump_of_the_filter_stays_inside(machine: seccomp.Machine) -> None:
    """The kernel refuses a filter that jumps out of itself: on the processor that is not here, too."""
    for signals in (True, False):
        code = seccomp.program(machine, signals=signals)
        assert len(code) < 4096
        for place, instruction in enumerate(code):
            operation, yes, no = instruction[0], instruction[2], instruction[3]
            if operation & 7 != JUMPS:
                continue
            assert place + 1 + max(yes, no) < len(code)
