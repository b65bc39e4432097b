# ruff: noqa: E501 (apps and texts in lines of their own)
"""run_task: plain data in, plain data out, whatever the researcher's code does."""

from __future__ import annotations

import json
import logging
import pickle
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flip_fl.app.runner import Session, derived_seed, run_task
from flip_fl.app.site import SiteSpec
from flip_fl.values import ResourceType, Task
from flip_fl.wire import LogItem, MetricItem, SiteBatch
from tests.support.app import ARRAYS, CONFIG, TableSource, metrics_of, notes_of, run, write_app


def test_train_returns_the_trained_arrays_and_the_numbers(tmp_path: Path) -> None:
    """The model is trained in place from exactly the arrays that were sent, whose names, order and dtypes come back."""
    sent = {name: array + 2 for name, array in ARRAYS.items()}
    result = run(write_app(tmp_path / "app"), arrays=sent)
    assert result.ok
    assert not result.aborted
    assert result.failure is None
    assert list(result.arrays) == ["weight", "bias"]
    np.testing.assert_array_equal(result.arrays["weight"], np.full((1, 2), 3, dtype=np.float32))
    np.testing.assert_array_equal(sent["weight"], np.full((1, 2), 2, dtype=np.float32))
    assert result.arrays["weight"].dtype == np.float32
    assert result.num_examples == 4
    assert result.metrics == {"loss": 0.5}
    assert metrics_of(result) == [("train_loss", 0.5)]


def test_validate_sends_numbers_only(tmp_path: Path) -> None:
    """Validation returns no weights, and its metrics keep the names that the app gave them."""
    result = run(write_app(tmp_path / "app"), Task.VALIDATE, round=3)
    assert result.arrays == {}
    assert metrics_of(result) == [("loss", 0.25), ("auc", 0.75)]
    first = result.events[0]
    assert (first["client"], first["global_round"], first["task"], first["x_value"]) == ("Trust_1", 3, "validate", None)


def test_events_are_wire_items_and_the_result_is_plain_data(tmp_path: Path) -> None:
    """What leaves can be read by the wire's models, sent as JSON, and pickled."""
    trainer = """
    def train(model, site, config):
        site.log("loss", float("nan"))
        return {"num_examples": 1, "a": 1}
    def validate(model, site, config):
        raise ValueError("no")
    """
    app = write_app(tmp_path / "app", trainer=trainer)
    result = run(app)
    kinds = [MetricItem if event["kind"] == "metric" else LogItem for event in json.loads(json.dumps(result.events))]
    assert [kind.model_validate(event).client for kind, event in zip(kinds, result.events, strict=True)] == [
        "Trust_1"
    ] * 2
    assert pickle.loads(pickle.dumps(result)).events == result.events
    failure = run(app, Task.VALIDATE).failure
    assert failure is not None
    assert json.loads(json.dumps(asdict(failure)))["type"] == "ValueError"


def test_what_is_logged_and_returned_is_stored_once(tmp_path: Path) -> None:
    """A value that the function logs for the round and also returns is one point; other coordinates are others."""
    trainer = """
    def train(model, site, config):
        for step in range(3):
            site.log("train_loss", step, x_value=step, x_label="step")
        site.log("train_loss", 0.5)
        return {"num_examples": 1, "loss": 0.5}
    def validate(model, site, config):
        site.log("auc", 0.9, x_value=site.round, x_label="Global Rounds")
        return {"num_examples": 1, "auc": 0.9, "loss": 0.1}
    """
    app = write_app(tmp_path / "app", trainer=trainer)
    assert metrics_of(run(app)) == [("train_loss", 0.0), ("train_loss", 1.0), ("train_loss", 2.0), ("train_loss", 0.5)]
    assert metrics_of(run(app, Task.VALIDATE, round=2)) == [("auc", 0.9), ("loss", 0.1)]


def test_live_batches_and_the_result_hold_the_same_events(tmp_path: Path) -> None:
    """Every item is published while the task runs and rides again in the result under the same id."""
    trainer = """
    def train(model, site, config):
        for step in range(250):
            site.log("loss", step, x_value=step, x_label="step")
        return {"num_examples": 1}
    """
    batches: list[SiteBatch] = []
    session = Session(write_app(tmp_path / "app", trainer=trainer), TableSource(), batches.append)
    result = run(session.app_dir, round=2, session=session)
    assert [event for batch in batches for event in batch.items] == result.events
    assert len({event["id"] for event in result.events}) == 250
    assert result.reports is not None
    assert (result.reports.first, result.made) == (0, 250)
    assert {(batch.task_id, batch.task, batch.round) for batch in batches} == {(result.reports.task_id, "train", 2)}


def test_a_publisher_that_fails_costs_nothing(tmp_path: Path) -> None:
    """The live channel is fire and forget: its failure neither fails the task nor loses an event."""

    def broken(batch: SiteBatch) -> None:
        raise ConnectionError("no server")

    session = Session(write_app(tmp_path / "app"), TableSource(), broken)
    result = run(session.app_dir, session=session)
    assert result.ok
    assert metrics_of(result) == [("train_loss", 0.5)]


@pytest.mark.parametrize(
    ("body", "headline"),
    [
        ("raise ValueError('out of luck')", "ValueError: out of luck"),
        ("raise SystemExit(3)", "SystemExit: <message withheld: 1 characters>"),
        ("raise BaseException('even that')", "BaseException: even that"),
        ("return None", "train() returned NoneType; it must return a dict of num_examples and numbers"),
        ("return {'loss': 1}", 'train() returned no "num_examples"; it must say on how many examples it worked'),
        ("return {'num_examples': -1}", "it must be a whole number from 0"),
        ("return {'num_examples': 1.5}", 'train() returned a float as "num_examples"; it must be a whole number from 0'),
        ("return {'num_examples': True}", "it must be a whole number from 0"),
        ("model.weight = None; return {'num_examples': 1}", None),
    ],
)  # fmt: skip
def test_whatever_train_does_becomes_a_failure(body: str, headline: str | None, tmp_path: Path) -> None:
    """An exception, an exit or a wrong return value ends the task with slot, task, round, type and place."""
    app = write_app(tmp_path / "app", trainer=f"def train(model, site, config):\n    {body}\n")
    result = run(app, round=2)
    if headline is None:
        # A model that lost a layer is the server's to refuse.
        assert "weight" not in result.arrays
        return
    assert not result.ok
    assert result.failure is not None
    assert (result.failure.slot, result.failure.task, result.failure.round) == ("Trust_1", "train", 2)
    assert headline in result.failure.headline


@pytest.mark.parametrize("module", ["trainer", "models", "helpers"])
def test_a_raise_at_import_is_a_failure(module: str, tmp_path: Path) -> None:
    """A module that cannot be imported is reported like any exception, with the place in the module."""
    trainer = "import helpers\ndef train(model, site, config):\n    return {'num_examples': 1}\n"
    app = write_app(tmp_path / "app", trainer=trainer, helpers="")
    with (app / f"{module}.py").open("a") as out:
        out.write("\nraise RuntimeError('not today')\n")
    failure = run(app).failure
    assert failure is not None
    assert failure.headline == "RuntimeError: not today"
    assert f'File "{module}.py", line ' in failure.traceback


def test_a_missing_function_and_a_missing_file(tmp_path: Path) -> None:
    """The report says what is missing, not how the house looked for it."""
    app = write_app(tmp_path / "app", trainer="x = 1\n")
    failure = run(app).failure
    assert failure is not None
    assert failure.headline.endswith("AppError: trainer.py has no function train")
    (app / "trainer.py").unlink()
    failure = run(app).failure
    assert failure is not None
    assert failure.headline.endswith("AppError: the app has no trainer.py")


def test_arrays_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Weights of another model are refused by name and shape before train is called."""
    app = write_app(tmp_path / "app")
    cases = {
        "they have no bias": {"weight": ARRAYS["weight"]},
        "an unknown extra": {**ARRAYS, "extra": ARRAYS["bias"]},
        "'bias' is torch.float32 of shape (2,)": {**ARRAYS, "bias": np.zeros(2, dtype=np.float32)},
        "'bias' is torch.float64 of shape (1,)": {**ARRAYS, "bias": np.zeros(1)},
    }
    for words, arrays in cases.items():
        failure = run(app, arrays=arrays).failure
        assert failure is not None
        assert words in failure.headline


def test_ctrl_c_is_not_swallowed(tmp_path: Path) -> None:
    """The one exception that passes: a person wants the process to end."""
    app = write_app(tmp_path / "app", trainer="def train(m, s, c):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        run(app)


def test_seeds_depend_on_seed_slot_round_and_task_only(tmp_path: Path) -> None:
    """The same task draws the same numbers on every engine; another slot, round, task or seed draws others."""
    trainer = """
    import random, numpy, torch
    def train(model, site, config):
        site.log("seed", site.seed)
        return {"num_examples": 1, "p": random.random(), "n": float(numpy.random.rand()), "t": float(torch.rand(1))}
    validate = train
    """
    models = "import torch\nprint(torch.rand(3))\ndef get_model():\n    return torch.nn.Linear(2, 1)\n"
    app = write_app(tmp_path / "app", trainer=trainer)
    drawing = write_app(tmp_path / "drawing", trainer=trainer, models=models)
    random.seed(99)
    first = run(app, seed=5)
    random.seed(1)
    assert run(app, seed=5).metrics == first.metrics
    # What is drawn at import or by get_model() does not shift what the task draws.
    assert run(drawing, seed=5).metrics == first.metrics
    others = [
        run(app, seed=6),
        run(app, seed=5, slot="Trust_2"),
        run(app, seed=5, round=2),
        run(app, Task.VALIDATE, seed=5),
    ]
    for name in ("p", "n", "t"):
        assert len({result.metrics[name] for result in [first, *others]}) == 5
    assert metrics_of(first)[0] == ("seed", 5.0)


def test_the_derived_seed_is_pinned() -> None:
    """Published models can be made again: the derivation never changes."""
    assert derived_seed(7, "Trust_1", 3, "train") == 9548569638683068027
    assert 0 <= derived_seed(0, "", 0, "") < 2**64


def test_memory_lives_as_long_as_the_session(tmp_path: Path) -> None:
    """A data set built in round 1 is there in round 2, at this site only, and gone after close."""
    trainer = """
    def train(model, site, config):
        site.memory["calls"] = site.memory.get("calls", 0) + 1
        return {"num_examples": 1, "calls": site.memory["calls"]}
    """
    session = Session(write_app(tmp_path / "app", trainer=trainer), TableSource())
    assert [run(session.app_dir, session=session, round=n).metrics["calls"] for n in (1, 2, 3)] == [1, 2, 3]
    session.close()
    assert run(session.app_dir, session=session).metrics["calls"] == 1


def test_the_config_is_a_copy_and_complete(tmp_path: Path) -> None:
    """The function gets the whole parsed file, and what it changes in it is gone in the next round."""
    trainer = """
    def train(model, site, config):
        assert config["OWN"]["deep"] == [1], config
        config["OWN"]["deep"].append(2)
        return {"num_examples": 1}
    """
    session = Session(
        write_app(tmp_path / "app", trainer=trainer, config={**CONFIG, "OWN": {"deep": [1]}}), TableSource()
    )
    assert run(session.app_dir, session=session).ok
    assert run(session.app_dir, session=session, round=2).ok


def test_site_tells_where_and_when_it_is(tmp_path: Path) -> None:
    """Everything that the neutral form promises of ``site`` is there."""
    trainer = """
    def train(model, site, config):
        assert (site.name, site.round, site.total_rounds) == ("Trust_1", 2, 3)
        assert (site.task, site.stage, site.device, site.aborted) == ("train", None, "cpu", False)
        assert list(site.progress([1, 2])) == [1, 2]
        assert list(site.cohort().columns) == ["person_id", "value"]
        return {"num_examples": len(site.cohort())}
    """
    result = run(write_app(tmp_path / "app", trainer=trainer), round=2)
    assert result.failure is None
    assert result.num_examples == 2


def test_a_stop_ends_a_long_loop(tmp_path: Path) -> None:
    """progress() leaves the loop when the run is stopped, past the trainer's own except, and no failure is reported."""
    trainer = """
    def train(model, site, config):
        done = 0
        for step in site.progress(range(1000)):
            try:
                done += 1
                site.log("done", done)
            except Exception:
                pass
        return {"num_examples": 1}
    """
    polls = iter(range(1000))
    result = run(write_app(tmp_path / "app", trainer=trainer), aborted=lambda: next(polls) >= 5)
    assert (result.ok, result.aborted, result.failure) == (False, True, None)
    assert len(metrics_of(result)) == 5


def test_an_error_of_a_stopped_task_is_the_stop_s(tmp_path: Path) -> None:
    """What breaks because the run was stopped is not reported as the app's failure."""
    app = write_app(tmp_path / "app", trainer="def train(m, s, c):\n    raise OSError('gone')\n")
    result = run(app, aborted=lambda: True)
    assert (result.aborted, result.failure) == (True, None)


def test_a_nan_is_one_row_and_no_failure(tmp_path: Path) -> None:
    """NaN and infinity are never sent as numbers, never abort, and never vanish."""
    trainer = """
    def validate(model, site, config):
        for _ in range(3):
            site.log("dice", float("inf"))
        return {"num_examples": 1, "auc": float("nan"), "loss": 0.5}
    """
    result = run(write_app(tmp_path / "app", trainer=trainer), Task.VALIDATE, round=3)
    assert result.ok
    assert result.metrics == {"loss": 0.5}
    assert metrics_of(result) == [("loss", 0.5)]
    assert notes_of(result) == [
        "metric 'dice' of round 3 (validate) is inf: not stored (3 times)",
        "metric 'auc' of round 3 (validate) is nan: not stored",
    ]
    assert all(event["success"] is False for event in result.events if event["kind"] == "log")


def test_numbers_of_numpy_and_torch_are_numbers_and_the_rest_is_not(tmp_path: Path) -> None:
    """Scalars of the usual libraries pass; lists, texts and per-patient tables do not leave, nor in the result."""
    trainer = """
    import numpy, torch
    def train(model, site, config):
        return {"num_examples": numpy.int64(3), "a": numpy.float32(0.5), "b": torch.tensor(0.25), "c": torch.ones(3),
                "d": "Smith", "e": [1, 2], 7: 1.0, "f 12345678": 1.0}
    """
    result = run(write_app(tmp_path / "app", trainer=trainer))
    assert result.num_examples == 3
    assert result.metrics == {"a": 0.5, "b": 0.25}
    assert "Smith" not in repr(result)
    assert "12345678" not in repr(result)
    assert sum("no number" in note for note in notes_of(result)) == 3
    assert sum("may not leave the trust" in note for note in notes_of(result)) == 1


def test_declared_metrics_are_the_only_ones(tmp_path: Path) -> None:
    """With METRICS in config.json nothing else leaves, returned or logged."""
    trainer = """
    def train(model, site, config):
        site.log("patient", 1)
        return {"num_examples": 1, "loss": 0.5, "other": 1}
    """
    app = write_app(tmp_path / "app", trainer=trainer, config={**CONFIG, "METRICS": ["loss"]})
    result = run(app)
    assert metrics_of(result) == [("train_loss", 0.5)]
    assert result.metrics == {"loss": 0.5}
    assert notes_of(result) == [
        "a metric of round 1 (train) has a name that METRICS does not declare: not stored (2 times)"
    ]


def test_prints_and_logs_of_the_app_are_withheld_and_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that the app prints reach no log of the site; it is said once that something was printed."""
    trainer = """
    import logging, sys, warnings
    def train(model, site, config):
        print(site.cohort())
        print("Zorkmid", file=sys.stderr)
        logging.getLogger("mine").error("Zorkmid")
        warnings.warn("Zorkmid")
        return {"num_examples": 1}
    """
    frame = pd.DataFrame({"name": ["Zorkmid"]})
    session = Session(write_app(tmp_path / "app", trainer=trainer), TableSource(frame))
    result = run(session.app_dir, session=session)
    said = capfd.readouterr()
    assert "Zorkmid" not in said.out + said.err + caplog.text + repr(result)
    assert notes_of(result)[0].startswith("5 lines that the app printed in round 1 (train) are withheld")
    assert notes_of(run(session.app_dir, session=session, round=2)) == []
    print("after")
    logging.getLogger("mine").error("after")
    assert capfd.readouterr().out == "after\n"
    assert "after" in caplog.text


def test_a_developer_may_see_the_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On a developer's own machine prints can be let through."""
    app = write_app(
        tmp_path / "app", trainer="def train(m, s, c):\n    print('hello')\n    return {'num_examples': 1}\n"
    )
    session = Session(app, TableSource(), show_output=True)
    assert run(app, session=session).ok
    assert capfd.readouterr().out == "hello\n"


def test_two_apps_in_one_process_do_not_mix(tmp_path: Path) -> None:
    """Both have a models.py, a trainer.py and a helper of the same name; each gets its own, in turns."""
    trainer = """
    def train(model, site, config):
        import helper
        return {"num_examples": 1, "which": helper.WHICH}
    """
    sessions = [
        Session(write_app(tmp_path / name, trainer=trainer, helper=f"WHICH = {number}\n"), TableSource())
        for number, name in enumerate(("one", "two"))
    ]
    for _ in range(2):
        assert [run(s.app_dir, session=s).metrics["which"] for s in sessions] == [0, 1]
    assert sum(str(tmp_path) in str(entry) for entry in sys.path) == 1


def test_the_app_s_folder_stays_as_it_was(tmp_path: Path) -> None:
    """No __pycache__ appears in what the researcher uploaded."""
    app = write_app(tmp_path / "app", trainer="import helper\ndef train(m, s, c):\n    return 1\n", helper="")
    before = sorted(app.rglob("*"))
    run(app)
    assert sorted(app.rglob("*")) == before


def test_images_by_study_and_type(tmp_path: Path) -> None:
    """Each accession number is asked for once; the mapping gives a folder for each type."""
    folders = {f"00{n}": tmp_path / f"study{n}" for n in range(3)}
    for folder in folders.values():
        folder.mkdir()
        (folder / "input_1.nii.gz").write_bytes(b"pixels")
    source = TableSource(pd.DataFrame({"accession_id": ["002", "000", "002", "001"]}), folders)
    trainer = """
    from flip_fl import ResourceType
    def train(model, site, config):
        studies = site.images(site.cohort(), [ResourceType.NIFTI, "SEG"])
        assert list(studies) == ["002", "000", "001"], studies
        site.memory["studies"] = dict(studies)
        assert "00" not in repr(studies)
        return {"num_examples": len(studies)}
    """
    session = Session(write_app(tmp_path / "app", trainer=trainer), source)
    result = run(session.app_dir, session=session)
    assert result.failure is None
    assert session.memory["studies"]["001"] == {
        ResourceType.NIFTI: folders["001"],
        ResourceType.SEGMENTATION: folders["001"],
    }
    assert source.asked == ["002", "000", "001"]
    assert notes_of(result) == []


def test_a_few_missing_studies_are_counted_without_their_numbers(tmp_path: Path) -> None:
    """5 % may be missing: the rest is used and one row says how many were skipped and why."""
    numbers = [f"ACC{n:05d}" for n in range(20)]
    (tmp_path / "input_1.nii.gz").write_bytes(b"pixels")
    source = TableSource(pd.DataFrame({"accession_id": numbers}), dict.fromkeys(numbers[1:], tmp_path))
    trainer = "def train(model, site, config):\n    return {'num_examples': len(site.images(site.cohort()))}\n"
    result = run(write_app(tmp_path / "app", trainer=trainer), source=source)
    assert result.num_examples == 19
    assert notes_of(result) == ["19 studies, 1 skipped: 1 not found"]


def test_too_many_missing_studies_end_the_task(tmp_path: Path) -> None:
    """Training on a rest is no training: more than MAX_SKIPPED is a failure with counts and no accession number."""
    numbers = [f"ACC{n:05d}" for n in range(20)]
    source = TableSource(pd.DataFrame({"accession_id": [*numbers, None, " "]}), dict.fromkeys(numbers[1:], tmp_path))
    trainer = "def train(model, site, config):\n    return {'num_examples': len(site.images(site.cohort()))}\n"
    failure = run(write_app(tmp_path / "app", trainer=trainer), source=source).failure
    assert failure is not None
    assert failure.headline.endswith(
        "2 of 22 studies were skipped so far, more than MAX_SKIPPED (0.05) allows: 2 without an accession_id"
    )
    assert "ACC0" not in failure.traceback


def test_the_runner_starts_no_thread_that_outlives_the_task(tmp_path: Path) -> None:
    """The timer of the live batches ends with the task."""
    import threading

    run(write_app(tmp_path / "app"))
    deadline = time.monotonic() + 60
    while any(thread.name == "flip-batch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_spec_can_be_sent_to_another_process() -> None:
    """The spec is plain data."""
    spec = SiteSpec("Trust_1", 2, 3, Task.VALIDATE, stage="ae", seed=4, project_id="p", query="q")
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert spec.where() == "round 2 (validate, ae)"


def test_a_broken_config_is_a_failure_too(tmp_path: Path) -> None:
    """Whatever is wrong before the app's code runs is reported, not raised."""
    app = write_app(tmp_path / "app", config="{")
    result = run_task(Task.TRAIN, ARRAYS, SiteSpec("Trust_1", 1, 1), Session(app, TableSource()))
    assert result.failure is not None
    assert "config.json is not valid JSON" in result.failure.headline
