"""``FlipConstants``: the process's settings by their environment names, read when they are asked for."""

from __future__ import annotations

import os
from typing import Any

from flip_fl.settings import (
    ClientSettings,
    DevSettings,
    RoleSettings,
    ServerSettings,
    is_dev,
    load,
    own_settings_file,
    resolve_role,
)
from flip_fl.values import ModelStatus, ResourceType, Role

__all__ = ["FlipConstants", "ModelStatus", "ResourceType"]

_SECRET = "_KEY"


class _FlipConstants:
    """``FlipConstants.LOCAL_DEV``, ``.DEV_DATAFRAME``, ``.NET_ID`` … as text, ``MIN_CLIENTS`` as a number.

    A setting that is not there is "". Keys are not given out: raises ``AttributeError`` for them, and for what is no
    setting of this process's role.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "LOCAL_DEV":
            return is_dev(own_settings_file())
        if name == "MIN_CLIENTS":
            return int(os.environ.get(name) or 1)
        field = None if name.endswith(_SECRET) else _fields().get(name)
        if field is None:
            raise AttributeError(f"FlipConstants has no {name} here; keys are never given to an app")
        value = getattr(load(_role_settings(), own_settings_file()), field)
        return "" if value is None else str(value)

    def __repr__(self) -> str:
        return "FlipConstants"


def _role_settings() -> type[RoleSettings]:
    if is_dev(own_settings_file()):
        return DevSettings
    return ServerSettings if resolve_role(own_settings_file()) is Role.SERVER else ClientSettings


def _fields() -> dict[str, str]:
    """Environment name → field, of the settings of this process's role."""
    return {field.alias: name for name, field in _role_settings().model_fields.items() if field.alias}


FlipConstants = _FlipConstants()
