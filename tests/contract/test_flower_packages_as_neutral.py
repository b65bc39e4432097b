"""An existing Flower package tells the hub what the same work in neutral form tells, and ends as it does."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flwr.app import Context, RecordDict

from flip_fl.app.checks import check_app
from flip_fl.app.inspection import inspect_app
from flip_fl.app.packages import app_folder, declared_config, package_name
from flip_fl.data.partition import partition_csv
from flip_fl.errors import FlipError
from flip_fl.flower import RunFailed, client_app, server_app
from flip_fl.flower.local_grid import LocalGrid
from flip_fl.flower.local_site import DirectSite
from flip_fl.flower.protocol import get_report
from flip_fl.reporting.local import LocalReporting
from flip_fl.reporting.outbox import Outbox
from flip_fl.settings import write_settings_file
from flip_fl.values import JobType
from tests.support.flower_client import LINEAR, ask, context, labels, numpy_of, task_message
from tests.support.flower_packages import (
    MODELS,
    write,
    write_cohort,
    write_package,
    write_quickstart,
    write_staged_package,
)

SLOTS = ("Trust_1", "Trust_2")

NEUTRAL = """
import torch


def _data(site):
    frame = site.cohort()
    x = torch.tensor(frame[["a", "b", "c"]].to_numpy(), dtype=torch.float32)
    return x, torch.tensor(frame["label"].to_numpy(), dtype=torch.float32)


def _loss(model, data):
    x, y = data
    return torch.nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y)


def train(model, site, config):
    data = _data(site)
    for epoch in range(config["LOCAL_ROUNDS"]):
        loss = _loss(model, data)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for each in model.parameters():
                each -= 0.5 * each.grad
        x = float((site.round - 1) * config["LOCAL_ROUNDS"] + epoch + 1)
        site.log("epoch_loss", float(loss), x_value=x, x_label="epoch")
    return {"num_examples": len(data[1]), "loss": float(loss)}


def validate(model, site, config):
    data = _data(site)
    with torch.no_grad():
        return {"num_examples": len(data[1]), "loss": float(_loss(model, data))}
"""

# A strategy whose loop is its own, as Flower's larger examples have it.
OWN_LOOP = """
class Loop(FlipFedAvg):
    def start(self, grid, initial_arrays, num_rounds=3, **further):
        result = super().start(grid, initial_arrays, num_rounds, **further)
        result.train_metrics_clientapp[99] = None
        return result

"""

# One whose own hook fails in the middle of the first round.
BROKEN = """
class FlipFedAvg(FlipFedAvg):
    def aggregate_train(self, server_round, replies):
        raise ArithmeticError("no mean")

"""


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(tmp_path / "settings"))
    monkeypatch.delenv("SUPERNODE_NAME", raising=False)
    yield
    # The apps ran in this process: what it knows of them is no other test's.
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def settle(tmp_path: Path, cohorts: dict[str, Path]) -> None:
    """A settings file for each simulated trust."""
    for slot, cohort in cohorts.items():
        facts = {
            "LOCAL_DEV": "true",
            "FLIP_ROLE": "client",
            "DEV_DATAFRAME": str(cohort),
            "DEV_TABULAR": "true",
            "FLIP_STATE_DIR": str(tmp_path / "state" / slot),
        }
        write_settings_file(tmp_path / "settings" / f"{slot}.env", facts)


def run(app_dir: Path, tmp_path: Path, **run_config: Any) -> list[dict[str, Any]]:
    """A whole run of the app in this process; what it would have told the hub. Raises what the ServerApp raises."""
    model_id = uuid4()
    config = {"flip-model-id": str(model_id), "flip-slots": ",".join(SLOTS), "num-server-rounds": 2, **run_config}
    sites = [
        DirectSite(slot, client_app(app_dir), config, {"partition-id": place, "num-partitions": len(SLOTS)})
        for place, slot in enumerate(SLOTS)
    ]
    with contextlib.closing(LocalGrid(sites, config)) as grid:
        try:
            server_app(app_dir)(grid, Context(grid.run.run_id, 1, {}, RecordDict(), config))
        except RunFailed as failed:
            return [*told(tmp_path, model_id), {"failed": str(failed)}]
    return told(tmp_path, model_id)


def told(tmp_path: Path, model_id: object) -> list[dict[str, Any]]:
    outbox = Outbox(tmp_path / "home" / "flip-state" / "outbox" / f"{model_id}.sqlite")
    with contextlib.closing(outbox):
        return [part.item() for record in outbox.collect(10_000, release=True) for part in record.parts()]


def story(items: list[dict[str, Any]]) -> list[str]:
    """What a hub would make of a run's reports, without what is new in every run."""
    kept = [
        {key: value for key, value in item.items() if key not in ("id", "at", "reason", "details", "stage", "result")}
        | {"result": round(item["result"], 5) if "result" in item else None}
        for item in items
        if "printed" not in str(item.get("log"))
    ]
    return sorted(json.dumps(item, sort_keys=True, default=str) for item in kept)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder in which a package is to be written, both sites having the whole of its cohort."""
    root = tmp_path / "mine"
    settle(tmp_path, dict.fromkeys(SLOTS, root / "cohort.csv"))
    return root


@pytest.mark.parametrize("form", ["house's server", "own server", "own loop"])
def test_the_story_is_that_of_the_neutral_form(form: str, package: Path, tmp_path: Path) -> None:
    """The same work gives the same numbers under the same names at the same places, the same events and statuses."""
    own = {"server": form != "house's server", "server_imports": OWN_LOOP if form == "own loop" else ""}
    write_package(package, **own)
    if form == "own loop":
        text = (package / "app" / "server_app.py").read_text()
        (package / "app" / "server_app.py").write_text(text.replace("strategy = FlipFedAvg(", "strategy = Loop("))
    existing = run(package / "app", tmp_path, **{"learning-rate": 0.5})

    settings = {"job_type": "standard", "GLOBAL_ROUNDS": 2, "LOCAL_ROUNDS": 2, "IMAGING": False}
    write(tmp_path / "neutral", {"models.py": MODELS, "trainer.py": NEUTRAL}, settings)
    parts = {slot: tmp_path / f"{slot}.csv" for slot in SLOTS}
    partition_csv(package / "cohort.csv", parts)
    settle(tmp_path, parts)
    neutral = run(tmp_path / "neutral", tmp_path)
    assert story(existing) == story(neutral)
    assert {item.get("status") for item in existing if item["kind"] == "status"} >= {"RUNNING", "RESULTS_UPLOADED"}


def test_a_servers_optimizer_moves_a_package_as_it_moves_the_neutral_form(package: Path, tmp_path: Path) -> None:
    """``fed_opt`` without a ServerApp of its own: the house's optimizer takes the package's differences."""
    settings = {"job_type": "fed_opt", "SERVER_OPTIMIZER": {"name": "adam", "lr": 0.1}}
    write_package(package, **settings)
    existing = run(package / "app", tmp_path, **{"learning-rate": 0.5})
    own = {**settings, "GLOBAL_ROUNDS": 2, "LOCAL_ROUNDS": 2, "IMAGING": False}
    write(tmp_path / "neutral", {"models.py": MODELS, "trainer.py": NEUTRAL}, own)
    parts = {slot: tmp_path / f"{slot}.csv" for slot in SLOTS}
    partition_csv(package / "cohort.csv", parts)
    settle(tmp_path, parts)
    assert story(existing) == story(run(tmp_path / "neutral", tmp_path))
    assert [item["status"] for item in existing if item["kind"] == "status"][-1] == "RESULTS_UPLOADED"


def test_a_package_of_two_stages_is_told_which_one_it_trains(package: Path, tmp_path: Path) -> None:
    """``diffusion_model``: stage 2 starts from what stage 1 has made, and each task's config record names its stage."""
    write_staged_package(package)
    assert check_app(package / "app", SLOTS).config.job_type is JobType.DIFFUSION
    assert inspect_app(package / "app").problems == ()
    items = run(package / "app", tmp_path, **{"learning-rate": 0.5, "num-server-rounds": 3})
    assert "failed" not in items[-1], items[-1]
    metrics = [item for item in items if item["kind"] == "metric" and item["client"] == "Trust_1"]
    assert {(1, "ae/loss"), (2, "dm/loss"), (3, "dm/loss")} <= {
        (item["global_round"], item["label"]) for item in metrics
    }
    (package / "app" / "server_app.py").write_text("app = None\n")
    with pytest.raises(FlipError) as refused:
        check_app(package / "app", SLOTS)
    assert (refused.value.code, refused.value.facts["key"]) == ("E0303", "job_type")


@pytest.mark.parametrize(
    ("how", "reason", "row"),
    [
        ({"imports": "1 / 0"}, r"ERROR: .*ZeroDivisionError", "ZeroDivisionError"),
        ({"in_train": "raise SystemExit(3)"}, r"ERROR: .*SystemExit", "SystemExit"),
        ({"in_train": "return None"}, r"ERROR: .*it must return a Message", "it must return a Message"),
        ({"server": True, "server_imports": "import nowhere"}, r"ERROR: .*ModuleNotFoundError", "ModuleNotFoundError"),
        ({"server": True, "in_main": "[][0]"}, r"ERROR: .*IndexError", "IndexError"),
        ({"server": True, "in_main": "return"}, r"ERROR: .*without calling start\(\)", None),
        (
            {"server": True, "in_main": "raise SystemExit(3)"},
            r"ERROR: the server's code ended its process .*\(3\)",
            None,
        ),
        (
            {"server": True, "in_main": "import os; os.kill(os.getpid(), 9)"},
            r"ERROR: .*process was killed by signal 9",
            None,
        ),
        ({"server": True, "in_main": "import os; os._exit(0)"}, r"ERROR: .*process ended with exit code 0", None),
        ({"server": True, "server_imports": BROKEN}, r"ERROR: .*ArithmeticError", "ArithmeticError"),
        (
            {"server": True, "in_main": "FlipFedAvg(min_available_nodes=5).start(grid, ArrayRecord())"},
            r"ERROR: FlipFedAvg waits for 5 sites and there are 2",
            None,
        ),
    ],
)
def test_what_fails_ends_the_run_with_its_traceback(
    how: dict[str, Any], reason: str, row: str | None, package: Path, tmp_path: Path
) -> None:
    """Whatever goes wrong, in a ClientApp's import or in a ServerApp, is a row with the place, and the run's reason."""
    write_package(package, **how)
    items = run(package / "app", tmp_path, **{"learning-rate": 0.5})
    assert re.search(reason, items[-1]["failed"]), items[-1]
    rows = [str(item.get("log")) for item in items if item.get("success") is False]
    assert row is None or any(row in each and "_app.py" in each for each in rows)
    assert [item["status"] for item in items if item.get("kind") == "status"][-1] == "ERROR"


def test_a_server_app_that_swallows_the_end_of_its_strategy_does_not_change_it(package: Path, tmp_path: Path) -> None:
    """An app that catches everything around start() and goes on has no model: the run says why, and is no success."""
    write_package(package, server=True, in_train="raise ValueError('no')")
    path = package / "app" / "server_app.py"
    body = (
        path.read_text()
        .replace("    result = strategy", "    try:\n      result = strategy")
        .replace(
            '["num-server-rounds"]\n    )\n', '["num-server-rounds"]\n    )\n    except Exception:\n      return\n'
        )
    )
    path.write_text(body)
    items = run(package / "app", tmp_path, **{"learning-rate": 0.5})
    assert "ValueError" in items[-1]["failed"]


def test_a_server_apps_code_runs_beside_the_server_and_finds_no_setting_and_no_key(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the FL server holds, in its environment and in its memory, is not where a researcher's code runs."""
    monkeypatch.setenv("SOME_SECRET_KEY", "do-not-tell")
    seen = tmp_path / "seen.json"
    look = f"""
import json, os, sys
from pathlib import Path
Path({str(seen)!r}).write_text(json.dumps({{"pid": os.getpid(), "names": list(os.environ), "at": os.getcwd()}}))
"""
    check = "assert type(flip).__name__ == 'FLIPStandardDev'"
    write_package(package, server=True, in_main=check, server_imports=look)
    items = run(package / "app", tmp_path, **{"learning-rate": 0.5})
    assert "failed" not in items[-1]
    found = json.loads(seen.read_text())
    assert found["pid"] != os.getpid()
    assert not {"SOME_SECRET_KEY", "FLIP_SETTINGS_DIR", "INTERNAL_SERVICE_KEY"} & set(found["names"])
    assert found["at"].endswith("server_app")
    with pytest.raises(ProcessLookupError):
        os.kill(found["pid"], 0)


def test_a_server_app_that_computes_for_ever_is_stopped_with_the_run(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop at the hub does not wait for a researcher's loop: its process is ended, whatever it does."""
    started = tmp_path / "started"
    loop = f"from pathlib import Path; Path({str(started)!r}).touch()\n    while True: pass"
    write_package(package, server=True, in_main=loop)
    monkeypatch.setattr(LocalReporting, "stop_requested", property(lambda self: started.exists()))
    items = run(package / "app", tmp_path, **{"learning-rate": 0.5})
    assert items[-1]["failed"] == "STOPPED: stopped at the hub"


def test_only_numbers_of_sane_names_leave_a_site(package: Path) -> None:
    """The rules of every site hold for a ClientApp that is not ours: names, finite numbers, no text but the claim."""
    write_package(
        package,
        METRICS=["epoch_loss", "loss"],
        before_reply='metrics |= {"P0001234567": 1.0, "undeclared": 2.0, "loss": float("nan")}',
    )
    client = package / "app" / "client_app.py"
    client.write_text(client.read_text().replace('{"site": name}', '{"site": name, "note": "a patient", "steps": 3}'))
    write_cohort(package / "cohort.csv")
    reply = ask(client_app(package / "app"), task_message(), at_site())
    assert labels(get_report(reply)) == ["epoch_loss", "epoch_loss", "train_loss"]
    assert set(reply.content.metric_records["metrics"]) == {
        "epoch_loss@epoch.x_1",
        "epoch_loss@epoch.x_2",
        "train_loss",
        "num-examples",
        "num-iterations",
    }
    assert dict(reply.content.config_records["config"]) == {"site": "Trust_1", "steps": 3}
    assert "a patient" not in str(reply.content)
    rows = [item["log"] for item in get_report(reply).items if item["kind"] == "log" and not item["success"]]
    assert len(rows) == 4  # a name, an undeclared one, NaN, and the note


def test_a_sites_policy_holds_for_a_client_app_that_is_not_ours(package: Path, tmp_path: Path) -> None:
    """What a package's own ClientApp replies is clipped, rounded and judged; a second model and a small cohort stay."""
    write_package(package, METRICS=["epoch_loss"], before_reply="model.weight.data += 100.0")
    write_cohort(package / "cohort.csv")
    client = package / "app" / "client_app.py"
    client.write_text(client.read_text().replace('{"site": name}', '{"site": name, "steps": 3}'))
    policy = tmp_path / "settings" / "policy.toml"
    policy.write_text("[filters.clipping]\nnorm = 0.5\n[egress]\ndecimals = 2\n", encoding="utf-8")
    reply = ask(client_app(package / "app"), task_message(), at_site())
    left = numpy_of(reply)
    assert sum(
        float((left[name] - LINEAR[name]).ravel() @ (left[name] - LINEAR[name]).ravel()) for name in left
    ) ** 0.5 == (pytest.approx(0.5, rel=1e-3))
    assert dict(reply.content.config_records["config"]) == {"site": "Trust_1"}
    told = reply.content.metric_records["metrics"]
    assert set(told) == {"epoch_loss@epoch.x_1", "epoch_loss@epoch.x_2", "num-examples", "num-iterations"}
    assert all(float(f"{told[name]:.1e}") == told[name] for name in told if name.startswith("epoch_loss"))
    policy.write_text("[egress]\nmin_cohort = 100000\n", encoding="utf-8")
    small = ask(client_app(package / "app"), task_message(), at_site())
    assert small.has_error()
    assert "fewer than 100000 examples" in small.error.reason
    assert '"metric"' not in small.error.reason
    policy.write_text("[filters.cliping]\nnorm = 0.5\n", encoding="utf-8")
    closed = ask(client_app(package / "app"), task_message(), at_site())
    assert "policy.toml, line 1" in closed.error.reason


def test_a_second_model_in_a_reply_does_not_leave_past_the_filters(package: Path, tmp_path: Path) -> None:
    """What a filter cannot compare with what was sent stays at the site."""
    write_package(package)
    write_cohort(package / "cohort.csv")
    (tmp_path / "settings" / "policy.toml").write_text("[filters.clipping]\nnorm = 0.5\n", encoding="utf-8")
    client = package / "app" / "client_app.py"
    second = '"more": ArrayRecord(model.state_dict()), "config": ConfigRecord'
    client.write_text(client.read_text().replace('"config": ConfigRecord', second))
    reply = ask(client_app(package / "app"), task_message(), at_site())
    assert "1 ArrayRecords came and 2 would leave" in reply.error.reason


def test_who_an_app_says_it_is_is_compared_and_not_believed(package: Path, tmp_path: Path) -> None:
    """A ClientApp that replies in another site's name is refused, whatever it has measured."""
    write_package(package, before_reply='name = "Trust_1"')
    items = run(package / "app", tmp_path, **{"learning-rate": 0.5})
    assert "Trust_2 claims to be Trust_1: refused" in items[-1]["failed"]
    assert not [item for item in items if item.get("client") == "Trust_2" and item["kind"] == "metric"]


def test_the_privacy_mod_of_existing_apps_reads_the_run_config(package: Path) -> None:
    """``@app.train(mods=[flip_local_dp_mod])``: noise that the keys ask for, and a bad key lets nothing leave."""
    write_package(package, imports="from flip.flower.privacy import flip_local_dp_mod", mods="mods=[flip_local_dp_mod]")
    app = client_app(package / "app")
    keys = {"dp-clipping-norm": 1e-6, "dp-sensitivity": 1.0, "dp-epsilon": 1.0, "dp-delta": 1e-5}
    quiet = ask(app, task_message(), at_site({"dp-enabled": False}))
    noisy = ask(app, task_message(), at_site(keys))
    assert quiet.content["arrays"]["bias"].numpy() != noisy.content["arrays"]["bias"].numpy()
    refused = ask(app, task_message(), at_site({**keys, "dp-epsilon": 0.0}))
    assert refused.has_error()
    failure = get_report(refused).failure
    assert failure is not None
    assert "epsilon must be a positive number" in failure.traceback


def at_site(run_config: dict[str, Any] | None = None) -> Context:
    node = {"slot": "Trust_1", "partition-id": 0, "num-partitions": 2}
    return context(node, {"learning-rate": 0.5, **(run_config or {})})


@pytest.mark.parametrize(
    ("server", "key", "value"),
    [
        (False, "FEDPROX_MU", 0.1),
        (False, "FEDBN", True),
        (False, "PARAMS_TYPE", "DIFF"),
        (True, "AGGREGATION_WEIGHTS", dict.fromkeys(SLOTS, 1.0)),
    ],
)
def test_an_option_that_the_apps_own_code_cannot_follow_is_refused(
    server: bool, key: str, value: object, tmp_path: Path
) -> None:
    """A key that nothing would act on makes another run than its author believes."""
    app = write_package(tmp_path / "mine", server=server, **{key: value})
    with pytest.raises(FlipError) as caught:
        check_app(app / "app", SLOTS)
    assert (caught.value.code, caught.value.facts["key"]) == ("E0303", key)


def test_packages_are_found_by_what_they_say(tmp_path: Path) -> None:
    """The folder, the package's name and its run config are read from files, also after the folder was renamed."""
    quick = write_quickstart(tmp_path / "quickstart")
    flips = write_package(tmp_path / "mine")
    assert app_folder(quick) == quick / "pytorchexample"
    assert app_folder(flips) == app_folder(flips / "app") == flips / "app"
    assert declared_config(flips / "app") == {"learning-rate": 0.5, "local-epochs": 7, "mine": "kept"}
    (flips / "app" / "config.toml").write_text("mine = 'newer'\n[deep]\nkey = 1\n")
    assert declared_config(flips / "app") == {
        "learning-rate": 0.5,
        "local-epochs": 7,
        "mine": "newer",
        "deep.key": 1,
    }
    (quick / "pytorchexample").rename(tmp_path / "app")
    assert package_name(tmp_path / "app") == "pytorchexample"
    assert package_name(flips / "app") == "app"
    write(tmp_path / "neutral", {"models.py": MODELS, "trainer.py": NEUTRAL}, {"job_type": "standard"})
    assert package_name(tmp_path / "neutral") is None
    assert app_folder(tmp_path / "neutral") == tmp_path / "neutral"
