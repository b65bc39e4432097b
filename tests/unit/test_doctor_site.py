"""What ``flip-fl doctor`` says at a trust's site: only what concerns a site."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from flip_fl.commands.checks import hub, installation
from flip_fl.commands.origins import Origins

SITE = "LOCAL_DEV=false\nFLIP_ROLE=client\n"


def at_site(folder: Path) -> Origins:
    file = folder / "flip.env"
    file.write_text(SITE, encoding="utf-8")
    return Origins(file, {})


def test_a_site_is_not_told_to_install_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning that stands there for ever is read no more: a site needs what trains, and nothing of hub and store."""

    def only_torch(name: str) -> str:
        if name in ("torch", "nvflare"):
            return "1.0"
        raise metadata.PackageNotFoundError

    monkeypatch.setattr("flip_fl.commands.checks.metadata.version", only_torch)
    assert [(row.name, row.state) for row in installation(at_site(tmp_path))][1:] == [
        ("engines", "ok"),
        ("parts", "ok"),
    ]
    assert [row.state for row in installation(Origins(None, {}))][2:] == ["warn"]


def test_a_site_has_no_hub_to_ask(tmp_path: Path) -> None:
    """Whoever asks at a site is not sent to look for a key that no site may have."""
    rows, errors = hub(at_site(tmp_path))
    assert [(row.name, row.state) for row in rows] == [("hub", "ok")]
    assert errors == []
