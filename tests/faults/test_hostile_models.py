"""A models.py that reaches for what the FL server has: its keys, its files, the network. And one that lies."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from flip_fl.app import weights
from flip_fl.app.isolation.choice import at_server
from flip_fl.app.isolation.rules import Isolation, Level
from flip_fl.errors import FlipError
from tests.support.app import ARRAYS, write_app
from tests.support.reporting import settings

FULL = Isolation()
SERVER = settings("http://127.0.0.1:1")
WITHOUT = Isolation(level=Level.PROCESS)
ATTEMPTS = ("the_key_s_file", "another_environment", "a_socket", "a_file_elsewhere", "another_s_file")
# Each attempt that has its way is a one in the model's bias.
MODELS = """
import os, socket, torch

def the_key_s_file():
    return "the server's key" in open({key!r}).read()

def another_environment():
    return any(open(f"/proc/{{pid}}/environ", "rb").read() for pid in {pids!r})

def a_socket():
    return socket.create_server(("127.0.0.1", 0)).fileno() > 0

def a_file_elsewhere():
    return open({elsewhere!r}, "w").write("x") > 0

def another_s_file():
    return os.remove({removed!r}) is None

def get_model():
    had = []
    for attempt in ({names}):
        try:
            had.append(float(attempt()))
        except OSError:
            had.append(0.0)
    model = torch.nn.Linear(1, len(had))
    torch.nn.init.zeros_(model.weight)
    model.bias.data = torch.tensor(had)
    return model
"""


def reaching(folder: Path) -> Path:
    """An app whose model tries all of it, on an FL server whose settings lie in ``folder``."""
    key, removed = folder / "server.env", folder / "somebody's"
    key.write_text("INTERNAL_SERVICE_KEY=the server's key")
    removed.write_text("x")
    code = MODELS.format(
        key=str(key),
        pids=[os.getpid()],
        elsewhere=str(folder / "elsewhere"),
        removed=str(removed),
        names=", ".join(ATTEMPTS),
    )
    return write_app(folder / "job" / "app", models=code)


def had_its_way(model: weights.StartingModel) -> list[str]:
    return [name for name, had in zip(ATTEMPTS, model.arrays["bias"], strict=True) if had]


def test_a_model_reaches_nothing_of_the_server_behind_walls_and_all_of_it_without(tmp_path: Path) -> None:
    """The hub's key would let a researcher write any run's story; without walls the same code has it."""
    app = reaching(tmp_path)
    assert had_its_way(weights.starting_model(app, walls=FULL)) == []
    assert had_its_way(weights.starting_model(app, walls=WITHOUT)) == list(ATTEMPTS)


def test_walls_change_no_weight_on_the_way_from_the_start_to_the_stored_file(tmp_path: Path) -> None:
    """What is trained, stored and loaded again behind walls is what it would be without, to the last bit."""
    app = write_app(tmp_path / "app")
    found = {}
    for name, walls in (("walled", FULL), ("plain", WITHOUT)):
        begun = weights.starting_model(app, walls=walls, previous=ARRAYS)
        out = tmp_path / f"{name}.pt"
        weights.export_models(app, {out: begun.arrays}, walls=walls)
        again = weights.starting_model(app, checkpoint=out, walls=walls)
        found[name] = (again.arrays, weights.load_models(app, [out], walls=walls))
    assert found["walled"][1] == found["plain"][1]
    assert all(np.array_equal(found["walled"][0][name], array) for name, array in found["plain"][0].items())
    assert sorted(os.listdir(tmp_path)) == ["app", "plain.pt", "walled.pt"]


@pytest.mark.parametrize("made", ["link", "nothing", "folder"])
def test_a_link_in_the_place_of_the_weights_is_not_followed(made: str, tmp_path: Path) -> None:
    """The server moves what the model's process has made: a link would make a file of its own the run's result."""
    secret = tmp_path / "secret"
    secret.write_text("the server's key")
    instead = {"link": f"os.symlink({str(secret)!r}, path)", "nothing": "None", "folder": "os.mkdir(path)"}[made]
    app = write_app(tmp_path / "app")
    (app / "models.py").write_text(
        (app / "models.py").read_text()
        + "\nimport atexit, json, os\n"
        + "def instead():\n"
        + "    for path in json.load(open('request.json')).get('models', {}):\n"
        + f"        os.remove(path); {instead}\n"
        + "atexit.register(instead)\n"
    )
    with pytest.raises(FlipError, match="left no file with the weights"):
        weights.export_models(app, {tmp_path / "model.pt": ARRAYS}, walls=FULL)
    assert not (tmp_path / "model.pt").exists()
    assert secret.read_text() == "the server's key"


def test_a_model_that_takes_too_much_is_ended_with_its_reason(tmp_path: Path) -> None:
    """A fork bomb in models.py must end the job, not the FL server that others use."""
    app = write_app(tmp_path / "app")
    (app / "models.py").write_text(
        "import os, time\nfor _ in range(100):\n    if not os.fork(): time.sleep(60)\ntime.sleep(60)\n"
    )
    with pytest.raises(FlipError, match="Resource temporarily unavailable"):
        weights.starting_model(app, walls=Isolation(processes=8))


def test_less_than_walls_is_the_server_s_decision() -> None:
    """Keys and kit are kept from models.py unless the server's own settings say otherwise."""
    assert at_server(SERVER).level is Level.FULL
    assert at_server(SERVER.model_copy(update={"isolation": "process"})).level is Level.PROCESS
    assert at_server(None).level is Level.PROCESS


def test_a_server_without_walls_runs_no_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot keep the app apart is told from one that does: the run ends with what to do."""
    monkeypatch.setattr("flip_fl.app.isolation.choice.offered", lambda: (Level.PROCESS, "the kernel is too old"))
    with pytest.raises(FlipError) as refused:
        at_server(SERVER)
    assert refused.value.code == "E0561"
    assert "FLIP_SERVER_ISOLATION=process" in refused.value.text()
