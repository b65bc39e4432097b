"""The fork server: children with everything loaded, each as if it were the first, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from flip_fl.app import child
from flip_fl.app.forks import Fork, ForkServer
from flip_fl.app.kept_forks import KeptForkServer
from tests.support.flower_plain import gone, until
from tests.support.small_apps import write_app

HELPER = """
import os, signal, subprocess, sys, time
import colorsys

def main(argv):
    word = argv[0]
    if word == "facts":
        print(sorted(os.environ), os.getcwd(), colorsys.__dict__.get("mark"), os.getpid(), flush=True)
        os.write(int(argv[1]), argv[2].encode())
        colorsys.mark = "left by an earlier child"
        os.environ["LEFT"] = "1"
        return 7
    if word == "raise":
        raise ValueError("broken")
    if word == "exit":
        sys.exit(argv[1])
    if word == "kill":
        os.kill(os.getpid(), signal.SIGTERM)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(argv[1], "w").write(f"{os.getpid()} {child.pid}")
    time.sleep(600)
"""

MakeFork = Callable[..., Fork]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the children's module lies."""
    home = tmp_path_factory.mktemp("home")
    (home / "fork_helper.py").write_text(HELPER)
    return home


def _environment(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(home)}


@pytest.fixture
def server(home: Path) -> Iterator[ForkServer]:
    """A server that has loaded one module that is there and one that is not."""
    with closing(ForkServer(["colorsys", "no_such_module"], _environment(home))) as server:
        yield server


def _slow(server: ForkServer, home: Path, note: Path) -> tuple[Fork, list[int]]:
    """A child that sleeps, with the process ids of it and of what it started."""
    fork = server.fork("fork_helper", ["sleep", str(note)], _environment(home), cwd=home)
    until(lambda: note.exists() and len(note.read_text().split()) == 2)
    return fork, [int(pid) for pid in note.read_text().split()]


def test_a_child_has_what_it_was_given_and_nothing_of_the_server_or_of_another_child(
    server: ForkServer, home: Path, tmp_path: Path
) -> None:
    """An app's module must not leak from one task into the next, nor a key from the server's environment into it."""
    for number in range(2):
        reading, writing = os.pipe()
        with (tmp_path / "log").open("wb") as log:
            argv: list[str | int] = ["facts", 0, f"hello {number}"]
            environment = {"ONLY": "1"}
            fork = server.fork(
                "fork_helper", argv, environment, cwd=tmp_path, output=log.fileno(), descriptors=[writing]
            )
        os.close(writing)
        with closing(fork):
            assert fork.wait(60), "it did not end"
            assert (fork.returncode, fork.problem) == (7, "")
            assert (tmp_path / "log").read_text() == f"['ONLY'] {tmp_path} None {fork.pid}\n"
        assert os.read(reading, 100) == f"hello {number}".encode()
        os.close(reading)


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["raise"], 1, "ValueError: broken"),
        (["exit", "the reason"], 1, "the reason"),
        (["kill"], -signal.SIGTERM, ""),
    ],
)
def test_the_end_of_a_child_is_told_as_it_was(
    server: ForkServer, home: Path, tmp_path: Path, argv: list[str], code: int, said: str
) -> None:
    """Somebody has to find out from the log and the code why a site was lost."""
    with (tmp_path / "log").open("wb") as log:
        fork = server.fork("fork_helper", argv, _environment(home), cwd=home, output=log.fileno())
    with closing(fork):
        assert fork.wait(60)
        assert fork.returncode == code
    assert said in (tmp_path / "log").read_text()


def test_a_module_that_is_not_there_is_the_childs_failure(server: ForkServer, home: Path) -> None:
    """A request that cannot be carried out must not take the server with it."""
    with closing(server.fork("no_such_module", [], _environment(home), cwd=home)) as fork:
        assert fork.wait(60)
        assert fork.returncode == 1
    with closing(server.fork("fork_helper", ["exit", "x"], _environment(home), cwd=home)) as fork:
        assert fork.wait(60)


def test_who_lets_go_of_a_child_ends_it_with_all_that_it_started(
    server: ForkServer, home: Path, tmp_path: Path
) -> None:
    """A task that hangs is given up: its data loader's workers must not stay on a hospital's machine."""
    fork, pids = _slow(server, home, tmp_path / "note")
    assert not fork.wait(0.05)
    fork.close()
    until(lambda: all(gone(pid) for pid in pids))
    again, pids = _slow(server, home, tmp_path / "note2")
    with closing(again):
        again.kill()
        assert again.wait(60)
        assert again.returncode == -signal.SIGKILL
    until(lambda: all(gone(pid) for pid in pids))


def test_nothing_outlives_whoever_started_the_server_and_is_killed(home: Path, tmp_path: Path) -> None:
    """kill -9 of a run leaves no process with torch and a cohort behind."""
    note = tmp_path / "note"
    code = (
        "import sys, time; from pathlib import Path; from flip_fl.app.forks import ForkServer\n"
        f"home = Path({str(home)!r}); server = ForkServer([], {_environment(home)!r})\n"
        f"fork = server.fork('fork_helper', ['sleep', {str(note)!r}], {_environment(home)!r}, cwd=home)\n"
        "print(server.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        until(lambda: note.exists() and len(note.read_text().split()) == 2)
        pids = [server, *map(int, note.read_text().split())]
        process.kill()
    until(lambda: all(gone(pid) for pid in pids))


def test_children_of_a_server_that_was_killed_count_as_lost(server: ForkServer, home: Path, tmp_path: Path) -> None:
    """Whoever waits for a child must hear when nobody is left to tell its end, instead of waiting for ever."""
    fork, pids = _slow(server, home, tmp_path / "note")
    os.kill(server.pid, signal.SIGKILL)
    with closing(fork):
        assert not fork.wait(0.5) or fork.returncode == -signal.SIGKILL
        os.kill(pids[0], signal.SIGKILL)
        assert fork.wait(60)
        assert fork.returncode == -signal.SIGKILL
    os.kill(pids[1], signal.SIGKILL)
    until(lambda: not server.usable)


def test_a_child_waits_for_its_own_module_and_for_none_behind_it(home: Path, tmp_path: Path) -> None:
    """The starting weights are made while the sites' libraries are still loaded; no site begins without its own."""
    asked_for, gate = tmp_path / "asked", tmp_path / "gate"
    waiting = (
        "import os, sys, time\nwhile not os.path.exists({path!r}): time.sleep(0.01)\ndef main(argv): return {code}\n"
    )
    (home / "loads_slowly.py").write_text(waiting.format(path=str(gate), code=4))
    first_code = "3 + ('loads_slowly' in sys.modules)"
    (home / "stands_first.py").write_text(waiting.format(path=str(asked_for), code=first_code))
    with closing(ForkServer(["stands_first", "loads_slowly"], _environment(home))) as server:
        asked = [server.fork(each, [], _environment(home), cwd=home) for each in ("loads_slowly", "stands_first")]
        asked_for.touch()
        with closing(asked[0]) as last, closing(asked[1]) as first:
            assert first.pid
            assert not last.started
            gate.touch()
            assert first.wait(60)
            assert last.wait(60)
            assert (first.returncode, last.returncode) == (3, 4)
        with closing(server.fork("stands_first", [], _environment(home), cwd=home)) as later:
            assert later.wait(60)
            assert later.returncode == 4


def test_a_server_goes_to_rest_when_nothing_is_asked_of_it(home: Path) -> None:
    """A federation's server runs for weeks: it does not hold torch's memory for a model that is exported once."""
    with closing(ForkServer([], _environment(home), idle_s=0.2)) as server:
        with closing(server.fork("fork_helper", ["exit", "x"], _environment(home), cwd=home)) as fork:
            assert fork.wait(60)
        until(lambda: not server.usable)


def test_a_model_is_asked_for_again_after_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The export at the end of a long run must not find the process gone that made the starting weights."""
    servers = KeptForkServer((), lambda: _environment(tmp_path), idle_s=0.2)
    monkeypatch.setattr(child, "servers", servers)
    for _ in range(2):
        with pytest.raises(child.ChildDied, match="code 1 and no answer"):
            child.run_child("no such command", {})
        first = servers._server
        assert first is not None
        until(lambda server=first: not server.usable)  # type: ignore[misc]
    servers.close()


def test_a_model_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A models.py that hangs must end the run with its reason, and must not go on eating the machine."""
    note = tmp_path / "pid"
    app = write_app(tmp_path / "app")
    child.run_child("check", {"app_dir": str(app)})
    (app / "models.py").write_text(
        f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    begun = time.monotonic()
    with pytest.raises(child.ChildDied, match="did not end within 5 s"):
        child.run_child("check", {"app_dir": str(app)}, timeout_s=5)
    assert time.monotonic() - begun < 60
    until(lambda: not psutil.pid_exists(int(note.read_text())))
