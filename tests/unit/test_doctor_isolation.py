"""What ``flip-fl doctor`` says of walls around apps: by the role of whoever would start here."""

from __future__ import annotations

from pathlib import Path

import pytest

from flip_fl.app.isolation.rules import Level
from flip_fl.commands.checks import isolation
from flip_fl.commands.origins import Origins

SITE = "LOCAL_DEV=false\n"
SERVER = (
    "FLIP_ROLE=server\nFLIP_API_INTERNAL_URL=http://hub.example.org\n"
    "INTERNAL_SERVICE_KEY=k\nUPLOADED_FEDERATED_DATA_BUCKET=s3://results\n"
)


def origins(folder: Path, text: str, policy: str = "") -> Origins:
    """A settings file, and beside it the policy, if there is one."""
    file = folder / "flip.env"
    file.write_text(text, encoding="utf-8")
    if policy:
        (folder / "policy.toml").write_text(policy, encoding="utf-8")
    return Origins(file, {})


@pytest.mark.parametrize(("text", "who"), [(SITE, "a trust runs no app"), (SERVER, "this FL server runs no app")])
def test_a_system_without_walls_is_told_with_what_the_role_can_do(
    text: str, who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it before the first job needs the setting of their own role, not of another one."""
    monkeypatch.setattr("flip_fl.app.isolation.rules.offered", lambda: (Level.PROCESS, "the kernel is too old"))
    found = isolation(origins(tmp_path, text))
    assert found.state == "warn"
    assert found.why is not None
    assert found.why.startswith(f"the kernel is too old; {who}")
    setting = "FLIP_SERVER_ISOLATION=process" if text is SERVER else 'level = "process" under [isolation]'
    assert found.fix is not None
    assert setting in found.fix


@pytest.mark.parametrize(
    ("text", "policy"), [(SITE, '[isolation]\nlevel = "process"\n'), (f"{SERVER}FLIP_SERVER_ISOLATION=process\n", "")]
)
def test_who_asks_for_less_is_content_with_less(
    text: str, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision that was taken is no warning every time that somebody looks."""
    monkeypatch.setattr("flip_fl.app.isolation.rules.offered", lambda: (Level.PROCESS, "the kernel is too old"))
    found = isolation(origins(tmp_path, text, policy))
    assert (found.state, found.what) == ("ok", "apps run at level process; this system has process")
