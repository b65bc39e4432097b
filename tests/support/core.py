"""Settings and clients for the tests of the FLIP client."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from flip_fl.settings import environment_names, write_settings_file

HUB_KEY = "canary-hub-key-6f1d"
TRUST_KEY = "canary-trust-key-93ab"


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests, and no credential of its object storage."""
    for name in environment_names():
        monkeypatch.delenv(name, raising=False)


def server_values(hub_url: str, **more: str) -> dict[str, str]:
    """Every setting that an FL server needs, with a bucket that nobody serves."""
    return {
        "LOCAL_DEV": "false",
        "FLIP_ROLE": "server",
        "FLIP_API_INTERNAL_URL": hub_url,
        "INTERNAL_SERVICE_KEY": HUB_KEY,
        "UPLOADED_FEDERATED_DATA_BUCKET": "s3://results-bucket",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "canary-aws-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        **more,
    }


def client_values(data_access: str, imaging: str, images: Path, **more: str) -> dict[str, str]:
    """Every setting that an FL client needs."""
    return {
        "LOCAL_DEV": "false",
        "FLIP_ROLE": "client",
        "DATA_ACCESS_API_URL": data_access,
        "IMAGING_API_URL": imaging,
        "TRUST_INTERNAL_SERVICE_KEY": TRUST_KEY,
        "NET_ID": "net-1",
        "IMAGES_DIR": str(images),
        **more,
    }


def settings_at(folder: Path, values: Mapping[str, str]) -> Path:
    """``values`` as a settings file in ``folder``."""
    path = folder / "flip.env"
    write_settings_file(path, values)
    return path


def everything_logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> str:
    """All that reached standard output, standard error or a log record."""
    captured = capsys.readouterr()
    return captured.out + captured.err + caplog.text
