"""Side by side: each key has one answer, what is known waits for nothing, and what is not is asked for at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flip_fl.data.fetch import FIRST_WORKERS, LOOKS_AT_ONCE, SideBySide


def answers(fetching: SideBySide[int, str]) -> dict[int, str]:
    found: dict[int, str] = {}
    while (answer := fetching.answer()) is not None:
        assert answer[0] not in found
        found[answer[0]] = answer[1]
    return found


@pytest.mark.parametrize("count", [0, 1, LOOKS_AT_ONCE, LOOKS_AT_ONCE + 1, 1_000])
@pytest.mark.parametrize("workers", [1, 3, 24])
@pytest.mark.parametrize("known", [lambda key: False, lambda key: True, lambda key: key % 3 == 0])
def test_each_key_is_answered_once(count: int, workers: int, known: Callable[[int], bool]) -> None:
    """What is known is not asked for, everything else is, and then there is an end."""
    asked = []

    def ask(key: int) -> str:
        asked.append(key)
        return "asked"

    fetching: SideBySide[int, str] = SideBySide(
        range(count), ask, workers, look=lambda key: "known" if known(key) else None
    )
    fetching.start()
    assert answers(fetching) == {key: "known" if known(key) else "asked" for key in range(count)}
    assert sorted(asked) == [key for key in range(count) if not known(key)]


def test_what_one_thread_finds_unknown_all_of_them_ask_for() -> None:
    """A few studies that are gone are fetched at once, not one after the other by whoever looked for them."""
    together = threading.Barrier(8, timeout=60)

    def ask(key: int) -> str:
        together.wait()
        return "asked"

    # The last sixteen, which one thread looks for, are those that are not known.
    count = 20 * LOOKS_AT_ONCE
    last = range(count - LOOKS_AT_ONCE, count)
    fetching: SideBySide[int, str] = SideBySide(range(count), ask, 8, look=lambda key: None if key in last else "known")
    fetching.start()
    found = answers(fetching)
    assert sorted(key for key, answer in found.items() if answer == "asked") == list(last)


def test_what_is_known_does_not_wait_for_what_is_asked_for() -> None:
    """A service that takes minutes for a study holds up no other."""
    gate = threading.Event()

    def ask(key: int) -> str:
        gate.wait(60)
        return "asked"

    fetching: SideBySide[int, str] = SideBySide(range(400), ask, 4, look=lambda key: "known" if key % 100 else None)
    fetching.start()
    try:
        for _ in range(396):
            assert (answer := fetching.answer()) is not None
            assert answer[1] == "known"
    finally:
        gate.set()
    assert set(answers(fetching).values()) == {"asked"}


@pytest.mark.parametrize("where", ["ask", "look"])
def test_an_error_ends_everything(where: str) -> None:
    """Whoever waits for an answer gets it, and nothing further begins."""

    def fail(key: int) -> Any:
        raise RuntimeError("refused")

    how: dict[str, Any] = {"look": fail} if where == "look" else {}
    fetching: SideBySide[int, str] = SideBySide(range(100), fail, 4, **how)
    fetching.start()
    with pytest.raises(RuntimeError, match="refused"):
        answers(fetching)
    assert fetching.stopped.is_set()
    assert fetching.answer() is None


def test_a_fetch_begins_with_few_and_grows_with_the_answers() -> None:
    """A service is not met by all at once: who answers is asked more, who does not answer is asked no more."""
    asked, answered, lock = 0, threading.Semaphore(0), threading.Condition()

    def ask(key: int) -> int:
        nonlocal asked
        with lock:
            asked += 1
            lock.notify_all()
        assert answered.acquire(timeout=60)
        return key

    def reaches(number: int) -> None:
        with lock:
            assert lock.wait_for(lambda: asked >= number, 60)
            # Nobody else may come: as long as a thread would take that is on its way.
            assert not lock.wait_for(lambda: asked > number, 0.2)

    fetching: SideBySide[int, int] = SideBySide(range(100), ask, 24)
    fetching.start()
    reaches(FIRST_WORKERS)
    answered.release()
    # Who was answered asks again, and one more begins.
    reaches(FIRST_WORKERS + 2)
    answered.release(200)
    assert {key for key, _ in iter(fetching.answer, None)} == set(range(100))  # type: ignore[misc]


def test_what_files_are_read_with_is_imported_before_the_first_study_is_asked_for() -> None:
    """A first batch does not wait for imports that take seven times as long beside the threads of a fetch."""
    code = """
import sys
import pandas as pd
from flip_fl.data.images import fetch_studies
from flip_fl.values import ResourceType

class Source:
    in_flight, images_root = 1, None
    def resources(self, project_id, accession_id, types):
        print("pydicom.pixels" in sys.modules, "nibabel" in sys.modules)
        return {}

assert "pydicom" not in sys.modules
frame = pd.DataFrame({"accession_id": ["A1"]})
fetch_studies(Source(), "p", frame, (ResourceType.DICOM,), max_skipped=1.0).manifest
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "False"]
