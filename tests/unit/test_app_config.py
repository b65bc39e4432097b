"""config.json: every platform key is checked, every error points at its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flip_fl.app.config import AppConfig, load_config
from flip_fl.app.rules import PLATFORM_KEYS
from flip_fl.errors import FlipError
from flip_fl.values import JobType


def read(folder: Path, text: str) -> AppConfig:
    (folder / "config.json").write_text(text, encoding="utf-8")
    return load_config(folder)


def refused(folder: Path, text: str) -> FlipError:
    with pytest.raises(FlipError) as caught:
        read(folder, text)
    return caught.value


def test_absent_keys_get_flip_s_defaults(tmp_path: Path) -> None:
    """Only job_type is required; the rest has the documented defaults."""
    config = read(tmp_path, '{"job_type": "standard"}')
    assert (config.job_type, config.global_rounds, config.local_rounds) == (JobType.STANDARD, 1, 1)
    assert config.ignore_result_error is False
    assert config.aggregator == "InTimeAccumulateWeightedAggregator"
    assert dict(config.aggregation_weights) == {}
    assert config.best_model_metric is None
    assert (config.max_skipped, config.seed, config.imaging, config.query) == (0.05, 0, True, "")
    assert config.min_clients is None
    assert config.metrics is None


def test_every_platform_key_is_typed(tmp_path: Path) -> None:
    """What is written arrives under the key's lower-case name; own keys pass through untouched."""
    raw: dict[str, Any] = {
        "job_type": "fed_opt_client_api",
        "GLOBAL_ROUNDS": 1000,
        "LOCAL_ROUNDS": 3,
        "GLOBAL_ROUNDS_AE": 4,
        "GLOBAL_ROUNDS_DM": 5,
        "LOCAL_ROUNDS_AE": 6,
        "LOCAL_ROUNDS_DM": 7,
        "LEARNING_RATE": 1,
        "IGNORE_RESULT_ERROR": True,
        "AGGREGATOR": "AccumulateWeightedAggregator",
        "AGGREGATION_WEIGHTS": {"Trust_1": 1, "Trust_2": 0},
        "AGGREGATE_ONLY_REGEX": "^head",
        "BEST_MODEL_METRIC": "auc",
        "BEST_MODEL_METRIC_MINIMIZE": True,
        "SERVER_CHECKPOINT": "start.pt",
        "models": {"base": {"checkpoint": "base.pt", "path": "net.base"}},
        "MIN_CLIENTS": 2,
        "MAX_SKIPPED": 0,
        "FEDPROX_MU": 0.1,
        "FEDBN": True,
        "PARAMS_TYPE": "DIFF",
        "CROSS_SITE_VALIDATION": True,
        "SECURE_AGGREGATION": True,
        "SECURE_AGGREGATION_RANGE": 0.5,
        "SERVER_OPTIMIZER": {"name": "adam"},
        "SEED": 2**32 - 1,
        "IMAGING": False,
        "QUERY": "SELECT 1",
        "METRICS": ["auc"],
        "FLIP_MODEL_ID": "6d1f3a52-8f3e-4c0e-9d35-0c2c1f6a7f10",
    }
    own = {"BATCH_SIZE": [1, {"a": None}], "LEARNING_RATE_D": 3, "MODEL": "resnet", "lr": 0.1}
    config = read(tmp_path, json.dumps(raw | own))
    assert set(raw) == set(PLATFORM_KEYS)
    for key, value in raw.items():
        typed = getattr(config, key.lower())
        expected = JobType.FED_OPT if key == "job_type" else tuple(value) if key == "METRICS" else value
        assert typed == expected, key
    assert isinstance(config.learning_rate, float)
    assert dict(config.raw) == raw | own


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("GLOBAL_ROUNDS", bad) for bad in (0, 1001, 2000, "10", 10.0, True, None, [])),
        *(("LEARNING_RATE", bad) for bad in (0, -1, "0.1", False, 1e400)),
        *(("IGNORE_RESULT_ERROR", bad) for bad in (1, "true", None)),
        ("AGGREGATOR", "Median"),
        *(("AGGREGATION_WEIGHTS", bad) for bad in ([], {"Trust_1": -1}, {"Trust_1": "1"}, {"Trust_1": 0}, 3)),
        *(("AGGREGATE_ONLY_REGEX", bad) for bad in ("(", "", 3)),
        *(("SERVER_CHECKPOINT", bad) for bad in ("../x.pt", "a/b.pt", "/x.pt", "", "..", "a\\b.pt", ".hidden", "a..b")),
        *(("models", bad) for bad in ([], {"a": 3}, {"a": {"checkpoint": "../b.pt"}}, {"a": {"path": ""}})),
        *(("MIN_CLIENTS", bad) for bad in (0, -1, 1.5, "2")),
        *(("MAX_SKIPPED", bad) for bad in (-0.1, 1.1, "5%")),
        *(("SEED", bad) for bad in (-1, 2**32, 1.0)),
        *(("METRICS", bad) for bad in ("auc", [1], [""])),
        *(("SECURE_AGGREGATION_RANGE", bad) for bad in (0, -1, True, "8", 1e13)),
        *(("SERVER_OPTIMIZER", bad) for bad in ("", {}, 1)),
        *(("FLIP_MODEL_ID", bad) for bad in ("my-model", 7, "../../admin")),
        *(("QUERY", bad) for bad in (7, "x" * 10_241)),
        ("BEST_MODEL_METRIC", " "),
        ("job_type", "standrad"),
        ("job_type", None),
    ],
)
def test_a_bad_value_is_an_error_with_key_value_range_and_place(key: str, value: Any, tmp_path: Path) -> None:
    """No value is ever replaced in silence: the error names the key, the value, what it may be, and its line."""
    others = "" if key == "job_type" else '"job_type": "standard",\n '
    text = f'{{{others}"{key}": {json.dumps(value)}}}'
    error = refused(tmp_path, text)
    if "Infinity" in text:
        assert error.code == "E0301"
        return
    assert error.code == "E0303"
    assert error.what.startswith(key)
    assert error.fix
    line = 1 if key == "job_type" else 2
    assert error.where is not None
    assert error.where.startswith(f"{tmp_path / 'config.json'}:{line}:")


def test_the_error_of_the_guide_word_for_word(tmp_path: Path) -> None:
    """GLOBAL_ROUNDS 2000 reads exactly as the command line's documentation promises."""
    error = refused(tmp_path, '{\n  "job_type": "standard",\n\n  "GLOBAL_ROUNDS": 2000\n}')
    assert error.text().splitlines()[:3] == [
        "error[FLIP-E0303]: GLOBAL_ROUNDS is 2000; it must be a whole number from 1 to 1000",
        f"  --> {tmp_path / 'config.json'}:4:20",
        "  why: out-of-range values are refused, not replaced",
    ]


def test_the_place_of_a_nested_value(tmp_path: Path) -> None:
    """A bad weight is shown where it stands, not where its object begins."""
    error = refused(tmp_path, '{"job_type": "standard", "AGGREGATION_WEIGHTS": {\n  "Trust_1": 1,\n  "Trust_2": -3}}')
    assert error.what.startswith("AGGREGATION_WEIGHTS.Trust_2 is -3;")
    assert error.where == f"{tmp_path / 'config.json'}:3:14"


def test_sql_is_never_shown(tmp_path: Path) -> None:
    """A query that is refused is described, not quoted."""
    error = refused(tmp_path, json.dumps({"job_type": "standard", "QUERY": "SELECT secret " + "x" * 11_000}))
    assert "SELECT" not in error.text()
    assert "11014 characters" in error.text()


@pytest.mark.parametrize(
    ("text", "problem", "place"),
    [
        ('{"job_type": "standard",}', "", ":1:"),
        ('{"job_type": "standard"\n "A": 1}', "expecting ',' delimiter", ":2:2"),
        ("[]", "it must be one object", ":1:1"),
        ("", "expecting value", ":1:1"),
        ('{"job_type":\n NaN}', "NaN is not JSON", ":2:2"),
        ('{"job_type": "standard",\n "A": 1, "A": 2}', "the key 'A' stands twice", ":2:10"),
        ('{"job_type": "standard", "X": {"A": 1, "A": 2}}', "the key 'A' stands twice", ":1:40"),
        ("[" * 100_000, "it is nested too deeply", ""),
    ],
)
def test_what_is_no_json_is_shown_at_its_place(text: str, problem: str, place: str, tmp_path: Path) -> None:
    """E0301 names the line and column, also for what only Python would accept."""
    error = refused(tmp_path, text)
    assert error.code == "E0301"
    assert problem in error.what
    assert error.where is not None
    assert place in error.where


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    """A file in another encoding is refused with the place of the first strange byte."""
    (tmp_path / "config.json").write_bytes(b'{"job_type":\n "st\xe4"}')
    with pytest.raises(FlipError) as caught:
        load_config(tmp_path)
    assert caught.value.code == "E0301"
    assert str(caught.value.where).endswith("config.json:2:5")


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"job_type": "standard"}')
    assert load_config(tmp_path).job_type is JobType.STANDARD


def test_no_file_and_no_job_type(tmp_path: Path) -> None:
    """Neither is filled in: a missing config.json is no standard job."""
    with pytest.raises(FlipError) as caught:
        load_config(tmp_path)
    assert caught.value.code == "E0202"
    assert refused(tmp_path, "{}").code == "E0302"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("GLOBAL_ROUND", "GLOBAL_ROUNDS"),
        ("global_rounds", "GLOBAL_ROUNDS"),
        ("LOCAL-ROUNDS", "LOCAL_ROUNDS"),
        ("LEARNIGN_RATE", "LEARNING_RATE"),
        ("AGGREGATION_WEIGHT", "AGGREGATION_WEIGHTS"),
        ("SEEDS", "SEED"),
        ("JOB_TYPE", "job_type"),
    ],
)
def test_a_misspelt_key_is_refused_with_a_guess(key: str, near: str, tmp_path: Path) -> None:
    """A slip of the pen would silently have no effect."""
    error = refused(tmp_path, json.dumps({"job_type": "standard", key: 1}))
    assert (error.code, error.facts["near"]) == ("E0304", near)


def test_another_number_of_rounds(tmp_path: Path) -> None:
    """--rounds replaces the file's number for the house and for the researcher's functions, within the range."""
    config = read(tmp_path, '{"job_type": "standard", "GLOBAL_ROUNDS": 2}')
    assert config.with_rounds(7).global_rounds == 7
    assert config.with_rounds(7).raw["GLOBAL_ROUNDS"] == 7
    assert config.raw["GLOBAL_ROUNDS"] == 2
    with pytest.raises(FlipError, match="GLOBAL_ROUNDS is 0"):
        config.with_rounds(0)


def test_a_runs_copy_names_the_runs_own_model(tmp_path: Path) -> None:
    """A model id that a researcher left in config.json must not make a simulated run report on another model."""
    (tmp_path / "config.json").write_text(json.dumps({"job_type": "standard", "FLIP_MODEL_ID": str(uuid4())}))
    model_id = uuid4()
    config = load_config(tmp_path).with_rounds(7)
    assert json.loads(config.for_run(model_id)) == {
        "job_type": "standard",
        "FLIP_MODEL_ID": str(model_id),
        "GLOBAL_ROUNDS": 7,
    }
    (tmp_path / "config.json").write_text(json.dumps({"job_type": "standard"}))
    assert "FLIP_MODEL_ID" not in json.loads(load_config(tmp_path).for_run(model_id))
