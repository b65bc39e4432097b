"""The mods around a ClientApp, ours or another: exceptions, the limit of size, privacy filters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod

from flip_fl.flower.client import client_app
from flip_fl.flower.mods import FilterContext, exception_mod, exceptions, filters, flip_mods, size_guard
from flip_fl.flower.protocol import FAILED, TOO_LARGE, TaskNote, get_report
from tests.support.flower_client import LINEAR, ask, context, labels, numpy_of, settle, task_message
from tests.support.small_apps import write_app

WORDS = "this row is odd: "
PATIENT = {"patient": "John Doe 4711"}

Behave = Callable[[Message], RecordDict]


def foreign(behave: Behave, *mods: object) -> ClientApp:
    """A ClientApp of somebody else with ``mods`` around it."""
    app = ClientApp(mods=list(mods))  # type: ignore[arg-type]

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(behave(message), reply_to=message)

    return app


def echo(message: Message) -> RecordDict:
    """The arrays as they came, a number, and a list that is empty."""
    return RecordDict(
        {
            "arrays": message.content.array_records["arrays"],
            "metrics": MetricRecord({"num-examples": 3, "loss": 0.5}),
            "notes": ConfigRecord({"none": []}),
        }
    )


def raising(message: Message) -> RecordDict:
    """Fails with a patient in the text."""
    raise ValueError(WORDS + str(message.content.config_records["config"]["patient"]))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLIP_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("FLIP_SETTINGS_DIR", raising=False)


def test_a_foreign_apps_exception_leaves_without_its_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Flower itself would send the whole text; ours sends type and place, and the text stays in the site's folder."""
    with caplog.at_level(logging.DEBUG):
        reply = ask(foreign(raising, exception_mod), task_message(note=TaskNote("Trust_1", 4, 5), config=PATIENT))
    assert reply.error.code == FAILED
    failure = get_report(reply).failure
    assert failure is not None
    assert (failure.slot, failure.task, failure.round, failure.type) == ("Trust_1", "train", 4, "ValueError")
    assert "in raising" in failure.traceback
    for text in (str(reply.error.reason), caplog.text):
        assert "John" not in text
        assert "4711" not in text
    assert "this row is odd: John Doe 4711" in (tmp_path / "state" / "failures.log").read_text()


def test_an_app_folder_lets_the_apps_own_words_through(tmp_path: Path) -> None:
    """With the folder at hand its literals are known to be code, and only the value is taken out."""
    (tmp_path / "code.py").write_text(f"words = {WORDS!r}\n")
    headlines = []
    for folder in (None, tmp_path):
        failure = get_report(ask(foreign(raising, exceptions(folder)), task_message(config=PATIENT))).failure
        assert failure is not None
        headlines.append(failure.headline)
    assert headlines == ["ValueError: <message withheld: 30 characters>", "ValueError: this row is odd: <value>"]


def test_a_reply_that_is_too_large_stays_at_the_site() -> None:
    """The server hears what takes the room and how to raise the limit, and gets what was measured."""
    reply = ask(foreign(echo, exception_mod, size_guard(200)))
    assert reply.error.code == TOO_LARGE
    failure = get_report(reply).failure
    assert failure is not None
    assert "this site lets at most 200 leave ('arrays':" in failure.headline
    assert "--node-config 'max-reply-bytes=" in failure.headline


def test_a_site_sets_its_own_limit() -> None:
    """The node's word, which the job cannot change, goes before the app's."""
    node = {"slot": "Trust_1", "max-reply-bytes": 100}
    assert ask(foreign(echo, *flip_mods()), at=context(node)).error.code == TOO_LARGE
    assert not ask(foreign(echo, size_guard(10)), at=context({**node, "max-reply-bytes": 10**6})).has_error()
    assert not ask(foreign(echo, *flip_mods())).has_error()


def test_privacy_filters_see_what_leaves_one_after_another() -> None:
    """Each filter gets the former one's arrays, the model that was sent, and whose reply it is."""
    seen: list[FilterContext] = []

    def double(record: ArrayRecord, about: FilterContext) -> ArrayRecord:
        seen.append(about)
        return ArrayRecord({name: Array(array.numpy() * 2) for name, array in record.items()})

    def add_one(record: ArrayRecord, about: FilterContext) -> ArrayRecord:
        return ArrayRecord({name: Array(array.numpy() + 1) for name, array in record.items()})

    sent = {"weight": np.ones(2, dtype=np.float32)}
    mods = flip_mods(privacy=[double, add_one])
    reply = ask(foreign(echo, *mods), task_message(arrays=sent, note=TaskNote("Trust_1", 3, 4)))
    np.testing.assert_array_equal(numpy_of(reply)["weight"], np.full(2, 3, dtype=np.float32))
    (about,) = seen
    assert (about.slot, about.round, about.message_type) == ("Trust_1", 3, "train")
    np.testing.assert_array_equal(about.sent["weight"].numpy(), sent["weight"])


@pytest.mark.parametrize("answer", ["raises", "returns nothing"])
def test_a_privacy_filter_that_fails_lets_nothing_out(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model stays at the site when its filter breaks; the numbers that were measured are still told."""

    def broken(record: ArrayRecord, about: FilterContext) -> ArrayRecord:
        if answer == "raises":
            raise ZeroDivisionError("division by zero")
        return None  # type: ignore[return-value]

    app = write_app(tmp_path / "app")
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(tmp_path / "trusts"))
    (tmp_path / "trusts").mkdir()
    settle(app, tmp_path / "trusts")
    reply = ask(client_app(app, mods=[filters(broken)]))
    assert reply.error.code == FAILED
    report = get_report(reply)
    assert report.failure is not None
    assert report.failure.type == ("ZeroDivisionError" if answer == "raises" else "TypeError")
    assert labels(report) == ["step_loss", "train_loss"]


def test_flowers_own_clipping_works_around_our_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's mods refuse a message with a second ConfigRecord: what we tell the client must not be one."""
    app = write_app(tmp_path / "app")
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(tmp_path / "trusts"))
    (tmp_path / "trusts").mkdir()
    settle(app, tmp_path / "trusts")
    clipping = client_app(app, mods=[fixedclipping_mod])
    reply = ask(clipping, task_message(note=TaskNote("Trust_1", 2, 5), config={"clipping_norm": 0.01}))
    arrays = numpy_of(reply)
    norm = np.sqrt(sum(float(np.square(arrays[name] - LINEAR[name]).sum()) for name in LINEAR))
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert {item["global_round"] for item in get_report(reply).items} == {2}
    assert not ask(clipping, task_message("evaluate")).has_error()
