"""The cache of derived tensors: whole or not there, bounded, and never the reason that an item fails."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from flip_fl.data import derived
from flip_fl.data.derived import DerivedCache
from flip_fl.data.identity import entry_key, identity
from tests.support.disks import resize, small_disk
from tests.support.studies import CANARY

ROOT = Path(__file__).parents[2]


def key(number: int) -> str:
    return f"{number:064x}"


def arrays(number: int, kib: int = 4) -> dict[str, Any]:
    return {"image": np.full((kib, 256), number, dtype="f4"), "file": np.arange(3)}


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".npz")


def total(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in entries(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / CANARY / "derived"


def test_what_was_put_is_got_and_nothing_else(folder: Path) -> None:
    """Names, shapes, types and values; also names that numpy's writer uses itself."""
    cache = DerivedCache(folder, 1 << 20)
    assert cache.get(key(1)) is None
    assert cache.put(key(1), arrays(7))
    found = cache.get(key(1))
    assert found is not None
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == {
        name: (array.dtype, array.tolist()) for name, array in arrays(7).items()
    }
    assert cache.get(key(2)) is None


def test_others_on_the_machine_cannot_read_it(folder: Path) -> None:
    """Derived tensors are patients' data."""
    DerivedCache(folder, 1 << 20).put(key(1), arrays(1))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_key_is_a_digest_and_no_path(folder: Path) -> None:
    """A key must not lead out of the folder."""
    cache = DerivedCache(folder, 1 << 20)
    for bad in ("../x", "a" * 63, "A" * 64, "g" * 64, key(1) + "\n"):
        with pytest.raises(ValueError, match="SHA-256"):
            cache.get(bad)


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def without_end(raw: bytes) -> bytes:
    return raw[:-1]


def nothing(raw: bytes) -> bytes:
    return b""


def other_values(raw: bytes) -> bytes:
    at = raw.index(np.full(8, 1, "f4").tobytes()) + 64
    return raw[:at] + b"\x55" * 8 + raw[at + 8 :]


def a_pickle(raw: bytes) -> bytes:
    return pickle.dumps({"image": 1})


def an_array(raw: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + raw


@pytest.mark.parametrize("damage", [cut, without_end, nothing, other_values, a_pickle, an_array])
def test_a_torn_or_foreign_entry_is_a_miss_and_goes(damage: Callable[[bytes], bytes], folder: Path) -> None:
    """An aborted process once left a file on which the next run crashed; bits that changed must not be learnt from."""
    cache = DerivedCache(folder, 1 << 20)
    cache.put(key(1), arrays(1))
    path = folder / f"{key(1)}.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get(key(1)) is None
    assert not path.exists()
    assert cache.put(key(1), arrays(1))
    assert cache.get(key(1)) is not None


def test_python_objects_are_not_cached(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They would be pickled, and a pickle runs code when it is read."""
    cache = DerivedCache(folder, 1 << 20)
    assert not cache.put(key(1), {"image": np.array([object()])})
    assert not cache.put(key(1), {"image": np.array([object()])})
    assert [record.getMessage() for record in caplog.records] == [
        "derived tensors are not cached: they hold Python objects"
    ]


def test_the_limit_holds_and_what_was_not_used_for_longest_goes(folder: Path) -> None:
    """What is read again stays."""
    cache = DerivedCache(folder, 100 << 10)
    for number in range(60):
        assert cache.put(key(number), arrays(number))
        assert total(folder) <= 100 << 10
        assert cache.get(key(0)) is not None
        time.sleep(0.002)
    kept = entries(folder)
    assert f"{key(0)}.npz" in kept
    assert f"{key(59)}.npz" in kept
    assert f"{key(1)}.npz" not in kept
    assert len(kept) >= 15


def test_one_entry_that_is_larger_than_all_is_not_cached(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It must not push out everything else for nothing."""
    cache = DerivedCache(folder, 10 << 10)
    assert cache.put(key(1), arrays(1))
    assert not cache.put(key(2), arrays(2, kib=20))
    assert entries(folder) == [f"{key(1)}.npz"]
    assert len(caplog.records) == 1


def test_an_entry_put_again_counts_once(folder: Path) -> None:
    """Two workers that prepare the same study must not fill the cache."""
    cache = DerivedCache(folder, 100 << 10)
    cache.put(key(1), arrays(1))
    for _ in range(100):
        cache.put(key(2), arrays(2))
    assert len(entries(folder)) == 2
    assert int((folder / ".lock").read_text()) == total(folder)


FILLING = """
import sys
from pathlib import Path
import numpy as np
from flip_fl.data.derived import DerivedCache
cache, number = DerivedCache(Path(sys.argv[1]), int(sys.argv[2])), int(sys.argv[3])
misses = 0
for step in range(60):
    name = f"{(step * 7 + number) % 40:064x}"
    found = cache.get(name)
    if found is None:
        misses += 1
        cache.put(name, {"image": np.full((4, 256), int(name, 16), "f4")})
    else:
        assert (found["image"] == int(name, 16)).all()
print(misses)
"""


def test_several_processes_share_one_folder_and_one_limit(folder: Path) -> None:
    """DataLoader workers, and two jobs of a project."""
    limit = 60 << 10
    children = [
        subprocess.Popen([sys.executable, "-c", FILLING, str(folder), str(limit), str(number)], cwd=ROOT)
        for number in range(4)
    ]
    assert [child.wait(120) for child in children] == [0, 0, 0, 0]
    assert 0 < total(folder) <= limit
    assert int((folder / ".lock").read_text()) == total(folder)
    assert not list(folder.glob(".tmp-*"))


KILLED = """
import sys
from pathlib import Path
import numpy as np
from flip_fl.data.derived import DerivedCache
cache = DerivedCache(Path(sys.argv[1]), 1 << 30)
image = np.arange(1 << 20, dtype="f4")
print("go", flush=True)
number = 0
while True:
    cache.put(f"{number % 5:064x}", {"image": image})
    number += 1
"""


def test_kill_minus_nine_leaves_whole_entries_and_what_is_swept(folder: Path) -> None:
    """A process that is killed while it writes costs nothing but what it was writing."""
    left = 0
    # six times, and then until a kill has hit a write: when one comes says how busy the machine is
    for attempt in range(60):
        if attempt >= 6 and left > 0:
            break
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "go\n"
            time.sleep(0.05 + 0.013 * (attempt % 10))
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        left += len(list(folder.glob(".tmp-*")))
        cache = DerivedCache(folder, 1 << 30)
        for number in range(5):
            found = cache.get(key(number))
            if found is not None:
                assert np.array_equal(found["image"], np.arange(1 << 20, dtype="f4"))
        assert cache.put(key(9), arrays(9))
        assert not list(folder.glob(".tmp-*"))
        assert int((folder / ".lock").read_text()) == total(folder)
    assert left > 0, "no kill hit a write: this test has shown nothing"


def test_an_entry_is_synced_before_it_gets_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a name must lead to what was written: the bytes are on the disk first, then the name."""
    steps: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.replace

    def noting_sync(descriptor: int) -> None:
        file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        whole = file.is_dir() or _is_whole(file)
        steps.append(("synced whole" if whole else "synced in part", file.name))
        sync(descriptor)

    def noting_rename(source: str, target: Path) -> None:
        steps.append((Path(source).name, target.name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "replace", noting_rename)
    assert DerivedCache(folder, 1 << 20).put(key(1), arrays(1))
    (_, temporary), *_ = steps
    assert temporary.startswith(".tmp-")
    assert steps == [
        ("synced whole", temporary),
        (temporary, f"{key(1)}.npz"),
        ("synced whole", folder.name),
    ]


def _is_whole(file: Path) -> bool:
    try:
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name].shape for name in found.files} != {}
    except Exception:
        return False


def test_a_living_writers_file_is_not_swept(folder: Path) -> None:
    """Another worker tidies up while this one writes."""
    cache = DerivedCache(folder, 1 << 20)
    cache.put(key(1), arrays(1))
    with cache._temporary() as (name, _):
        assert DerivedCache(folder, 1 << 20).put(key(2), arrays(2))
        assert Path(name).exists()
    assert not Path(name).exists()


def test_a_full_disk_costs_the_cache_and_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No item fails, the log names no file, nothing half written stays, and later it is cached again."""
    with small_disk(tmp_path / CANARY, 64) as disk:
        cache = DerivedCache(disk / "derived", 1 << 20)
        stored = [cache.put(key(number), arrays(number)) for number in range(30)]
        assert 0 < sum(stored) < 30
        for number in range(30):
            assert (cache.get(key(number)) is not None) == stored[number]
        assert not list((disk / "derived").glob(".tmp-*"))
        assert [record.getMessage() for record in caplog.records] == [
            "derived tensors are not cached: No space left on device"
        ]
        resize(disk, 4096)
        cache._resumes = 0.0
        assert cache.put(key(40), arrays(40))


FULL = """
import logging, resource, sys
from pathlib import Path
import numpy as np
from flip_fl.data.derived import DerivedCache
logging.basicConfig()
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
cache = DerivedCache(Path(sys.argv[1]), 1 << 20)
print(cache.put("0" * 64, {"image": np.zeros(4096)}), cache.put("1" * 64, {"image": np.zeros(4096)}))
"""


def test_a_write_that_is_refused_in_the_middle_is_no_entry(folder: Path) -> None:
    """A limit, a quota, a broken disk: the same as a full one."""
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.split() == ["False", "False"]
    assert run.stderr == "WARNING:flip_fl.data.derived:derived tensors are not cached: File too large\n"
    assert entries(folder) == []
    assert list(folder.glob(".tmp-*")) == []


def test_a_folder_that_cannot_be_made_costs_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file stands where the folder should be."""
    (tmp_path / CANARY).write_text("")
    cache = DerivedCache(tmp_path / CANARY, 1 << 20)
    assert not cache.put(key(1), arrays(1))
    assert cache.get(key(1)) is None
    assert CANARY not in caplog.text
    assert len(caplog.records) == 1


def test_a_lock_that_somebody_keeps_hangs_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that is stopped in the middle must not stop all others."""
    monkeypatch.setattr(derived, "LOCK_S", 0.1)
    cache = DerivedCache(folder, 1 << 20)
    cache.put(key(1), arrays(1))
    with DerivedCache(folder, 1 << 20)._locked() as held:
        assert held is not None
        assert not cache.put(key(2), arrays(2))
        assert cache.get(key(1)) is not None
    assert "another process holds the cache's lock" in caplog.text
    assert cache.put(key(2), arrays(2))


def test_a_fork_in_the_middle_keeps_no_lock(folder: Path) -> None:
    """A worker forked while another thread writes shares its descriptors; it must not lock the cache for its life."""
    cache = DerivedCache(folder, 1 << 20)
    cache.put(key(1), arrays(1))
    ready, done = threading.Event(), threading.Event()

    def hold() -> None:
        with cache._locked():
            ready.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert ready.wait(60)
    forked = os.fork()
    if forked == 0:
        time.sleep(30)
        os._exit(0)
    done.set()
    holder.join()
    try:
        assert DerivedCache(folder, 1 << 20).put(key(2), arrays(2))
    finally:
        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)


def test_it_travels_to_worker_processes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What it holds in memory stays at home."""
    cache = pickle.loads(pickle.dumps(DerivedCache(folder, 1 << 20)))
    assert cache.put(key(1), arrays(1))
    assert caplog.records == []


# -- what an entry depends on -----------------------------------------------------------------------------------------


def module_of(source: str, name: str = "app_of_a_test") -> ModuleType:
    """A module made of source, as a researcher's file would be."""
    module = ModuleType(name)
    exec(compile(source, f"{name}.py", "exec", dont_inherit=True), module.__dict__)
    return module


def of(source: str) -> str | None:
    return identity(module_of(source).prepare)


BASE = """
import numpy as np
SIZE = 64
def half(x):
    return x / 2
def prepare(v, n=1):
    return half(v.min()) * SIZE
"""


def test_the_same_code_has_one_identity_wherever_it_stands() -> None:
    """Comments, blank lines and what it does not use change nothing: a round later all is still there."""
    moved = "# a comment\n\n\nOTHER = object()\n" + BASE.replace("    return half", "    # why\n\n    return half")
    assert of(BASE) is not None
    assert of(BASE) == of(moved)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* SIZE", "+ SIZE"),
        ("SIZE = 64", "SIZE = 65"),
        ("SIZE = 64", "SIZE = 64.0"),
        ("x / 2", "x / 3"),
        ("x / 2", "np.abs(x) / 2"),
        (".min()", ".max()"),
        ("n=1", "n=2"),
        ("n=1", "*, n=1"),
        ("SIZE = 64", "SIZE = (64, {'a': frozenset({1, 2})})"),
        ("def prepare", "def prepare_(v): pass\ndef prepare"),
    ],
)
def test_what_changes_the_result_changes_the_identity(old: str, new: str) -> None:
    """A stale entry would train on what an older function computed."""
    assert old in BASE
    changed = of(BASE.replace(old, new))
    assert changed is not None
    assert (changed == of(BASE)) == (old == "def prepare")


@pytest.mark.parametrize(
    "source",
    [
        "import numpy\nWEIGHTS = numpy.zeros(3)\ndef prepare(v):\n    return v * WEIGHTS",
        "class Model:\n    pass\nmodel = Model()\ndef prepare(v):\n    return model",
        "def outer():\n    state = object()\n    return lambda v: state\nprepare = outer()",
        "class Prepare:\n    def __call__(self, v):\n        return v\nprepare = Prepare()",
        "class Prepare:\n    def run(self, v):\n        return v\nprepare = Prepare().run",
        "def prepare(v):\n    import module_that_is_not_there\n    return v",
        "STATE = object()\ndef helper(v):\n    return STATE\ndef prepare(v):\n    return [helper(x) for x in v]",
    ],
)
def test_what_cannot_be_told_has_no_identity(source: str) -> None:
    """An array, an object, a bound method, a module that is not there: not cached rather than cached wrongly."""
    assert of(source) is None


def test_values_bound_to_a_function_count() -> None:
    """Closures and partials are told by their values, not by where they were made."""

    def windowed(low: float, high: float) -> Callable[[Any], Any]:
        return lambda volumes: (low, high, volumes)

    assert identity(windowed(0, 1)) == identity(windowed(0, 1))
    assert identity(windowed(0, 1)) != identity(windowed(0, 2))
    assert identity(functools.partial(max, 1)) == identity(functools.partial(max, 1))
    assert identity(functools.partial(max, 1)) != identity(functools.partial(max, 2))
    assert identity(functools.partial(max, np.zeros(3))) is None
    assert identity(None) is not None


def test_a_change_in_the_researchers_own_modules_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function stays the same, what it imports does not: also two modules down."""
    monkeypatch.syspath_prepend(str(tmp_path))
    told = []
    for number in (1, 1, 2):
        (tmp_path / "deep_of_a_test.py").write_text(f"FACTOR = {number}\n")
        (tmp_path / "near_of_a_test.py").write_text("import deep_of_a_test\ndef twice(v): return v\n")
        for name in ("deep_of_a_test", "near_of_a_test"):
            sys.modules.pop(name, None)
        told.append(of("import near_of_a_test\ndef prepare(v):\n    return near_of_a_test.twice(v)\n"))
    assert told[0] is not None
    assert told[0] == told[1] != told[2]


IDENTITY = """
import sys, types
from flip_fl.data.identity import identity
module = types.ModuleType("app_of_a_test")
exec(compile(sys.stdin.read(), "app_of_a_test.py", "exec"), module.__dict__)
print(identity(module.prepare))
"""


def test_the_identity_is_the_same_in_every_process() -> None:
    """Hashes of texts differ from process to process, and with them the order of sets."""
    source = (
        "NAMES = {'a', 'b', 'c', 'd'}\ndef prepare(v):\n    import numpy\n    return v in {'x', 'y', 'z'} or NAMES\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", IDENTITY],
            input=source,
            env={"PYTHONHASHSEED": str(seed)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in range(3)
    }
    assert told == {of(source)}
    assert "None" not in told


def test_a_key_tells_studies_files_and_functions_apart() -> None:
    """Uncompressed images of one size, copied in one second, have the same names, sizes and times in every study."""
    first = entry_key("f", "study 1", ["*.nii", "a.nii\0100\07"])
    assert first == entry_key("f", "study 1", ["*.nii", "a.nii\0100\07"])
    others = {
        entry_key("g", "study 1", ["*.nii", "a.nii\0100\07"]),
        entry_key("f", "study 2", ["*.nii", "a.nii\0100\07"]),
        entry_key("f", "study 1", ["a.*", "a.nii\0100\07"]),
        entry_key("f", "study 1", ["*.nii", "a.nii\0101\07"]),
        entry_key("f", "study 1", ["*.nii", "a.nii\0100\08"]),
        entry_key("f", "study 1", ["*.niia.nii\0100\07"]),
        entry_key("fstudy 1", "", ["*.nii", "a.nii\0100\07"]),
    }
    assert len(others | {first}) == 8


def test_logging_names_no_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong: neither the folder nor an entry."""
    with caplog.at_level(logging.DEBUG):
        cache = DerivedCache(folder, 1 << 20)
        cache.put(key(1), arrays(1))
        (folder / f"{key(1)}.npz").write_bytes(b"x")
        cache.get(key(1))
    assert CANARY not in caplog.text
