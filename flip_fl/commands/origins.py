"""Which value each setting has, where it comes from, and what that overrides. Keys are never shown."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from flip_fl import settings
from flip_fl.commands.answers import Setting
from flip_fl.errors import FlipError

FINGERPRINT_DIGITS = 6
_OWN = ("FLIP_SETTINGS_DIR", "FLIP_LOG")
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(frozen=True)
class Origin:
    """One variable's value and where it stands: ``env``, or ``<file>:<line>``; ``overrides`` what it hides."""

    value: str
    source: str
    overrides: tuple[str, ...] = ()


class Origins:
    """The settings that a process started here would have: the settings file first, then the environment."""

    def __init__(self, file: Path | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.file = file
        self._environ = os.environ if environ is None else environ
        self._values: Mapping[str, str | None] = {} if file is None else dotenv_values(file, encoding="utf-8")
        text = "" if file is None else file.read_text(encoding="utf-8")
        self._lines = {
            match.group(1): number
            for number, row in enumerate(text.splitlines(), 1)
            if (match := re.match(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=", row))
        }

    def get(self, name: str) -> Origin | None:
        """The value of ``name`` and its origin; None when it is set nowhere (blank counts as not set)."""
        found = []
        if self._values.get(name):
            found.append((str(self._values[name]), f"{self.file}:{self._lines.get(name, 0)}"))
        if self._environ.get(name):
            found.append((self._environ[name], "env"))
        if not found:
            return None
        return Origin(found[0][0], found[0][1], tuple(source for _, source in found[1:]))

    def describe(self, name: str) -> str:
        """``set (env, sha256 3f9c21)``, or ``not set``: what may be said of a key."""
        origin = self.get(name)
        return "not set" if origin is None else f"set ({_place(origin)}, sha256 {fingerprint(origin.value)})"

    def told(self, name: str) -> str:
        """``set in env, sha256 3f9c21``: the same inside a sentence."""
        origin = self.get(name)
        return "not set" if origin is None else f"set in {origin.source}, sha256 {fingerprint(origin.value)}"

    def table(self) -> list[Setting]:
        """Every setting that flip_fl knows and that is set or has a default, by name."""
        rows = []
        for name, (default, secret) in sorted(_known().items()):
            origin = self.get(name)
            if origin is None:
                if default is not None:
                    rows.append(Setting(name, default, "default"))
                continue
            shown = f"set ({_place(origin)}, sha256 {fingerprint(origin.value)})" if secret else masked(origin.value)
            rows.append(Setting(name, shown, origin.source, list(origin.overrides)))
        return rows


def find_file(given: Path | None) -> Path | None:
    """The settings file in force: the one given, else the server's as ``settings.settings_file`` finds it."""
    return given if given is not None else settings.settings_file("server", Path.cwd())


def server_settings(given: Path | None) -> settings.ServerSettings:
    """The FL server's settings, for a command with the option --settings. Raises ``FlipError`` E0401, E0404."""
    file = find_file(given)
    try:
        return settings.load(settings.ServerSettings, file)
    except FlipError as error:
        if error.code != "E0401" or file is not None:
            raise
        role, names, place = (error.facts[name] for name in ("role", "names", "place"))
        fix = f"give the FL server's settings file with --settings FILE, or set {names} in the environment"
        raise FlipError("E0401", role=role, names=names, place=place, fix=fix) from None


def fingerprint(key: str) -> str:
    """The first six hexadecimal digits of a key's SHA-256: enough to tell two keys apart, no help in finding one."""
    return hashlib.sha256(key.encode()).hexdigest()[:FINGERPRINT_DIGITS]


def masked(value: str) -> str:
    """``value`` without the user and password that an address may carry."""
    return _PASSWORD.sub("…@", value)


def _place(origin: Origin) -> str:
    return origin.source if origin.source == "env" else f"file {origin.source}"


def _known() -> dict[str, tuple[str | None, bool]]:
    """Every variable with its default, if it has one worth telling, and whether it is secret."""
    known: dict[str, tuple[str | None, bool]] = dict.fromkeys(_OWN, (None, False))
    for cls in _roles(settings.RoleSettings):
        for field in cls.model_fields.values():
            default = None if field.is_required() or field.default in (None, "") else str(field.default)
            known[str(field.alias)] = (default, _secret(field))
    return known


def _roles(base: type[settings.RoleSettings]) -> list[type[settings.RoleSettings]]:
    below = base.__subclasses__()
    return [*below, *(deeper for cls in below for deeper in _roles(cls))]


def _secret(field: FieldInfo) -> bool:
    return field.annotation is SecretStr or SecretStr in get_args(field.annotation)
