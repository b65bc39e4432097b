"""A site's own filter at NVFLARE: no job leaves the policy by naming another executor."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.fl_constant import FilterKey, ReturnCode, WorkspaceConstants
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.workspace import Workspace
from nvflare.private.fed.app.fl_conf import create_privacy_manager

from flip_fl.errors import FlipError
from flip_fl.nvflare.site_gate import HELD_TO_POLICY, SiteGate
from flip_fl.provision.nvflare import _PRIVACY


def context(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FLContext:
    made = FLContext()
    engine = SimpleNamespace(get_workspace=lambda: SimpleNamespace(get_root_dir=lambda: str(folder)))
    monkeypatch.setattr(made, "get_engine", lambda: engine)
    monkeypatch.setattr(made, "get_identity_name", lambda: "Trust_1")
    return made


def test_only_what_was_held_to_the_policy_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result of another executor, a swapped one too, stays at a site with a policy; failures are told."""
    fl_ctx = context(tmp_path, monkeypatch)
    (tmp_path / "local").mkdir()
    gate, foreign, ours = SiteGate(), Shareable(), Shareable()
    assert gate.process(foreign, fl_ctx) is foreign
    # No settings file lies there: the policy holds all the same.
    (tmp_path / "local" / "policy.toml").write_text("[egress]\n", encoding="utf-8")
    with pytest.raises(FlipError, match="not made by flip_fl's executor"):
        gate.process(foreign, fl_ctx)
    fl_ctx.set_prop(HELD_TO_POLICY, ours, private=True, sticky=False)
    assert gate.process(ours, fl_ctx) is ours
    with pytest.raises(FlipError):
        gate.process(foreign, fl_ctx)
    failed = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    assert gate.process(failed, fl_ctx) is failed
    (tmp_path / "local" / "policy.toml").write_text("[egres]\n", encoding="utf-8")
    with pytest.raises(FlipError, match="did you mean 'egress'"):
        gate.process(foreign, fl_ctx)


def test_nvflare_reads_the_kits_scope_as_the_default_of_every_job(tmp_path: Path) -> None:
    """Protects the form of privacy.json: NVFLARE builds our filter from it, and a job that names no scope has it."""
    for name in (WorkspaceConstants.STARTUP_FOLDER_NAME, WorkspaceConstants.SITE_FOLDER_NAME):
        (tmp_path / name).mkdir()
    (tmp_path / "local" / "privacy.json").write_text(json.dumps(_PRIVACY), encoding="utf-8")
    manager: Any = create_privacy_manager(Workspace(str(tmp_path)), names_only=False)
    assert manager.is_policy_defined()
    scope = manager.get_scope(None)
    assert [type(each).__name__ for each in scope.task_result_filters[FilterKey.OUT]] == ["SiteGate"]
    assert manager.get_scope("other") is None
