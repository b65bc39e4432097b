"""What the hub is told of a run's settings."""

from __future__ import annotations

import json
from importlib.metadata import version

from flip_fl.app.settings_told import settings_told
from flip_fl.wire import MAX_DETAILS_BYTES


def test_settings_are_flat_texts_with_the_engine_first() -> None:
    """Nested keys have their path, lists and numbers their JSON: what one reads in the file is what one compares."""
    config = {"LEARNING_RATE": 0.01, "model": {"width": 64, "heads": [1, 2], "none": {}}, "NAME": "lesions"}
    assert list(settings_told(config, "NVFLARE", "nvflare").items()) == [
        ("Engine", f"NVFLARE {version('nvflare')}"),
        ("LEARNING_RATE", "0.01"),
        ("model.width", "64"),
        ("model.heads", "[1, 2]"),
        ("model.none", "{}"),
        ("NAME", "lesions"),
    ]
    assert settings_told({}, "Other", "no-such-package") == {"Engine": "Other"}


def test_neither_sql_nor_a_key_is_told() -> None:
    """The hub holds none of either, wherever it stands in the file."""
    kept = {"query": "SELECT 1", "QUERY": "SELECT 1", "a": {"API_KEY": "x", "password": "y"}, "WANDB_TOKEN": "z"}
    assert set(settings_told({**kept, "SEED": 3}, "NVFLARE", "nvflare")) == {"Engine", "SEED"}


def test_a_config_of_any_size_is_one_event() -> None:
    """What does not fit into an event's details is counted, and a long text is cut, never silently."""
    config = {f"key{n}": "ä" * n for n in range(2_000)}
    told = settings_told(config, "NVFLARE", "nvflare")
    assert len(json.dumps({"settings": told})) < MAX_DETAILS_BYTES
    assert told["…"] == f"{2_000 - (len(told) - 2)} more settings"
    assert all(len(text) <= 160 for text in told.values())
