"""Settings, one frozen class per role. The names of environment variables stand here and nowhere else.

Order: keyword argument, else the role's settings file, else the environment. Nothing is read at import. A role that
lacks something it needs, or finds it malformed, refuses to start with a ``FlipError`` that names the variable.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from flip_fl.errors import FlipError
from flip_fl.values import MIN_COUNT, HubDialect, Role

SETTINGS_FILE = Path("local") / "flip.env"

_PRODUCTION_NAMES = (
    "FLIP_API_INTERNAL_URL",
    "INTERNAL_SERVICE_KEY",
    "DATA_ACCESS_API_URL",
    "IMAGING_API_URL",
    "TRUST_INTERNAL_SERVICE_KEY",
    "IMAGES_DIR",
    "UPLOADED_FEDERATED_DATA_BUCKET",
)

_SERVER_NAMES = ("FLIP_API_INTERNAL_URL", "INTERNAL_SERVICE_KEY", "UPLOADED_FEDERATED_DATA_BUCKET")

# An existing site's variables for the filter of its updates: known ones and misspelt ones begin with this.
_PRIVACY_PREFIX = "FL_SITE_PRIVACY_"

SECRET_MARKS = ("KEY", "SECRET", "TOKEN", "PASSWORD", "CREDENTIAL")


def _fernet_key(value: SecretStr) -> SecretStr:
    try:
        key = base64.urlsafe_b64decode(value.get_secret_value().encode())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ValueError("must be a Fernet key")
    return value


_Url = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+[^\s?#]*$")]
_Header = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]


class RoleSettings(BaseSettings):
    """The common base: frozen, named by environment variable, file before environment."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True, env_ignore_empty=True)
    role: ClassVar[str]
    made_by: ClassVar[str] = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, dotenv_settings, env_settings

    @field_validator("*", mode="after")
    @classmethod
    def _no_blank_secret(cls, value: Any) -> Any:
        if isinstance(value, SecretStr) and not value.get_secret_value().strip():
            raise ValueError("must not be blank")
        return value


class ServerSettings(RoleSettings):
    """The FL server in production: the hub, the results' bucket, the state folder.

    ``service_key`` reports; ``hub_token``, a login token, reads what the hub knows of a run. Of sites' numbers of
    examples those below ``count_threshold`` are withheld from the hub, without ``sample_counts`` all.
    ``isolation``: how far the app's models.py is kept apart from the server.
    """

    role: ClassVar[str] = "FL server"
    hub_url: _Url = Field(alias="FLIP_API_INTERNAL_URL")
    service_key: SecretStr = Field(alias="INTERNAL_SERVICE_KEY")
    service_key_header: _Header = Field("X-Internal-Service-Key", alias="INTERNAL_SERVICE_KEY_HEADER")
    results_bucket: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{2,62}(/.*)?$")] = Field(
        alias="UPLOADED_FEDERATED_DATA_BUCKET"
    )
    checkpoint_root: Path = Field(Path("/app/server-checkpoints"), alias="SERVER_CHECKPOINT_ROOT")
    dialect: HubDialect = Field(HubDialect.BOTH, alias="FLIP_HUB_DIALECT")
    hub_token: SecretStr | None = Field(None, alias="FLIP_HUB_TOKEN")
    state_dir: Path | None = Field(None, alias="FLIP_STATE_DIR")
    count_threshold: Annotated[int, Field(ge=0)] = Field(MIN_COUNT, alias="COHORT_QUERY_THRESHOLD")
    sample_counts: bool = Field(True, alias="FLIP_SAMPLE_COUNTS")
    isolation: Annotated[str, Field(pattern="^(full|process)$")] = Field("full", alias="FLIP_SERVER_ISOLATION")
    s3_endpoint: _Url | None = Field(None, alias="AWS_ENDPOINT_URL")
    s3_access_key: SecretStr | None = Field(None, alias="AWS_ACCESS_KEY_ID")
    s3_secret_key: SecretStr | None = Field(None, alias="AWS_SECRET_ACCESS_KEY")
    s3_session_token: SecretStr | None = Field(None, alias="AWS_SESSION_TOKEN")
    s3_region: str | None = Field(None, alias="AWS_DEFAULT_REGION")


class ClientSettings(RoleSettings):
    """An FL client in production: its trust's two services."""

    role: ClassVar[str] = "FL client"
    data_access_url: _Url = Field(alias="DATA_ACCESS_API_URL")
    imaging_url: _Url = Field(alias="IMAGING_API_URL")
    trust_key: SecretStr = Field(alias="TRUST_INTERNAL_SERVICE_KEY")
    trust_key_header: _Header = Field("X-Trust-Internal-Service-Key", alias="TRUST_INTERNAL_SERVICE_KEY_HEADER")
    net_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")] = Field("default", alias="NET_ID")
    images_dir: Path = Field(alias="IMAGES_DIR")
    state_dir: Path | None = Field(None, alias="FLIP_STATE_DIR")
    read_timeout_s: Annotated[float, Field(gt=0)] = Field(600.0, alias="FLIP_TRUST_READ_TIMEOUT_S")
    in_flight: Annotated[int, Field(ge=1, le=256)] = Field(48, alias="FLIP_TRUST_IN_FLIGHT")


class DevSettings(RoleSettings):
    """A developer's machine or a simulated site: a CSV and a folder."""

    role: ClassVar[str] = "developer's process"
    dataframe: Path | None = Field(None, alias="DEV_DATAFRAME")
    images_dir: Path | None = Field(None, alias="DEV_IMAGES_DIR")
    tabular: bool = Field(False, alias="DEV_TABULAR")
    missing_study: Annotated[str, Field(pattern="^(empty|error)$")] = Field("empty", alias="DEV_MISSING_STUDY")
    state_dir: Path | None = Field(None, alias="FLIP_STATE_DIR")


class PolicySettings(RoleSettings):
    """Where a site's policy lies, in production and in development: our file, or an existing site's document."""

    role: ClassVar[str] = "site"
    policy_file: Path | None = Field(None, alias="FLIP_SITE_POLICY")
    access_policy_file: Path | None = Field(None, alias="ACCESS_POLICY_FILE")


class HubSettings(RoleSettings):
    """The hub: its database, the hash of the service key (empty: closed), and what it does about silent FL servers.

    A run that reports nothing for ``unreachable_after_s`` is shown as unreachable. With ``stale_error_after_s`` (off
    by default) it ends as ERROR after that time, and its net is free again. An address that presents more than
    ``wrong_keys_per_minute`` is not heard for a while.
    ``log`` ``json`` writes what happens, each request too, as a line of JSON on stderr. ``host`` is the address it
    listens on: another than 127.0.0.1 only behind a proxy that ends TLS.
    """

    role: ClassVar[str] = "hub"
    database_url: str = Field("sqlite:///hub.sqlite", alias="FLIP_HUB_DATABASE_URL")
    service_key_hash: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{64})?$")] = Field(
        "", alias="INTERNAL_SERVICE_KEY_HASH"
    )
    service_key_header: _Header = Field("X-Internal-Service-Key", alias="INTERNAL_SERVICE_KEY_HEADER")
    unreachable_after_s: Annotated[float, Field(ge=30, le=86_400)] = Field(120, alias="FLIP_HUB_UNREACHABLE_AFTER_S")
    stale_error_after_s: Annotated[float, Field(ge=60, le=31_536_000)] | None = Field(
        None, alias="FLIP_HUB_STALE_ERROR_AFTER_S"
    )
    wrong_keys_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = Field(30, alias="FLIP_HUB_WRONG_KEYS_PER_MINUTE")
    log: Literal["quiet", "json"] = Field("quiet", alias="FLIP_HUB_LOG")
    host: IPv4Address = Field(IPv4Address("127.0.0.1"), alias="FLIP_HUB_HOST")


class TrustSettings(RoleSettings):
    """A trust's data-access and imaging services in the sandbox.

    ``trust_key`` unset: closed. ``images_root`` is shared with the FL clients, each net has a folder in it; ``archive``
    (a folder a study) is the services' own. ``envelope_key`` seals project ids. ``cohort`` ``live`` runs the SQL that
    was sent, ``frozen`` serves the snapshot approved for the project; fewer than ``threshold`` rows, or distinct
    ``person_id``, are not released.
    """

    role: ClassVar[str] = "trust"
    made_by: ClassVar[str] = "; flip-fl trust init writes a file with all of them"
    trust_key: SecretStr | None = Field(None, alias="TRUST_INTERNAL_SERVICE_KEY")
    trust_key_header: _Header = Field("X-Trust-Internal-Service-Key", alias="TRUST_INTERNAL_SERVICE_KEY_HEADER")
    database_url: str = Field(alias="OMOP_DATABASE_URL")
    images_root: Path = Field(alias="IMAGES_ROOT")
    archive: Path = Field(alias="FLIP_TRUST_ARCHIVE")
    envelope_key: Annotated[SecretStr, AfterValidator(_fernet_key)] = Field(alias="FLIP_TRUST_ENVELOPE_KEY")
    cohort: Literal["live", "frozen"] = Field("live", alias="FLIP_TRUST_COHORT")
    threshold: Annotated[int, Field(ge=0)] = Field(MIN_COUNT, alias="COHORT_QUERY_THRESHOLD")
    threshold_counts: Literal["rows", "subjects"] = Field("rows", alias="FLIP_TRUST_THRESHOLD_COUNTS")


class _Mode(RoleSettings):
    """What a process must know before it can choose its role's settings."""

    role: ClassVar[str] = "process"
    local_dev: bool | None = Field(None, alias="LOCAL_DEV")
    flip_role: Role | None = Field(None, alias="FLIP_ROLE")


_READ_BY: Mapping[Role, tuple[type[RoleSettings], ...]] = {
    Role.SERVER: (ServerSettings, _Mode),
    Role.CLIENT: (ClientSettings, DevSettings, PolicySettings, _Mode),
}
_SettingsT = TypeVar("_SettingsT", bound=RoleSettings)


def load(cls: type[_SettingsT], file: Path | None = None, /, **overrides: Any) -> _SettingsT:
    """``cls`` from keywords, ``file`` and the environment.

    Raises ``FlipError`` E0401 naming every setting that is missing, else E0404 for the first malformed one.
    """
    if file is not None and not file.is_file():
        raise FlipError("E0404", name="the settings file", value=file, expected="a readable file", place=str(file))
    try:
        source: dict[str, Any] = {"_env_file": file, "_env_file_encoding": "utf-8"}
        return cls(**source, **overrides)
    except ValidationError as error:
        raise _refusal(cls, error, file) from None


def is_dev(file: Path | None = None, *, local_dev: bool | None = None) -> bool:
    """Whether this process uses local data (``LOCAL_DEV``).

    Unset means development only while no production setting is set anywhere; else ``FlipError`` E0405 names both.
    """
    mode = load(_Mode, file, **({} if local_dev is None else {"local_dev": local_dev}))
    if mode.local_dev is not None:
        return mode.local_dev
    present = [name for name in _PRODUCTION_NAMES if _lookup(name, file)]
    if present:
        raise FlipError("E0405", names=", ".join(present))
    return True


def says_dev(file: Path | None = None) -> bool:
    """Whether ``LOCAL_DEV=true`` was said, and development is not only what nothing contradicts."""
    return load(_Mode, file).local_dev is True


def load_server(file: Path | None = None) -> ServerSettings | None:
    """The FL server's settings, or None in development without a hub.

    Independent of ``LOCAL_DEV=true``, which only picks where cohorts come from: one production setting of the server,
    ``FLIP_ROLE=server`` or ``LOCAL_DEV=false`` makes all of them required. Raises ``FlipError`` as ``load`` does.
    """
    mode = load(_Mode, file)
    named = any(_lookup(name, file) for name in _SERVER_NAMES)
    if mode.local_dev is False or mode.flip_role is Role.SERVER or named:
        return load(ServerSettings, file)
    return None


def checkpoint_root(settings: ServerSettings | None, file: Path | None = None) -> Path | None:
    """Below which folder checkpoints lie on the FL server; None in development when ``file`` does not name it."""
    if settings is not None:
        return settings.checkpoint_root
    named = _lookup("SERVER_CHECKPOINT_ROOT", file)
    return None if named is None else Path(named)


def omop_database(default: str) -> str:
    """The database that ``OMOP_DATABASE_URL`` of the environment names, else ``default``."""
    return _lookup("OMOP_DATABASE_URL", None) or default


def resolve_role(file: Path | None = None, role: Role | str | None = None) -> Role:
    """The role of a production process: what the caller says, else ``FLIP_ROLE``, else the one key present.

    Raises ``FlipError`` E0406 when that does not decide it.
    """
    if role is not None:
        return Role(role)
    said = load(_Mode, file).flip_role
    if said is not None:
        return said
    server = _lookup("INTERNAL_SERVICE_KEY", file)
    client = _lookup("TRUST_INTERNAL_SERVICE_KEY", file)
    if server and client:
        raise FlipError(
            "E0406", problem="both INTERNAL_SERVICE_KEY and TRUST_INTERNAL_SERVICE_KEY are set and FLIP_ROLE is not"
        )
    if not server and not client:
        raise FlipError(
            "E0406", problem="none of FLIP_ROLE, INTERNAL_SERVICE_KEY and TRUST_INTERNAL_SERVICE_KEY is set"
        )
    return Role.SERVER if server else Role.CLIENT


def privacy_variables(file: Path | None) -> dict[str, str]:
    """Every ``FL_SITE_PRIVACY_*`` that is set, misspelt ones too, from the environment or, first, from ``file``."""
    values: dict[str, str | None] = {**os.environ}
    if file is not None:
        values |= DotEnvSettingsSource(_Mode, env_file=file, env_file_encoding="utf-8", case_sensitive=True).env_vars
    return {name: value.strip() for name, value in values.items() if name.startswith(_PRIVACY_PREFIX) and value}


def settings_file(slot: str, workspace: Path | None = None) -> Path | None:
    """A component's settings file: ``local/flip.env`` of its workspace, else ``$FLIP_SETTINGS_DIR/<slot>.env``."""
    if workspace is not None and (workspace / SETTINGS_FILE).is_file():
        return workspace / SETTINGS_FILE
    folder = os.environ.get("FLIP_SETTINGS_DIR")
    # A slot's name comes from an engine: it names a file, never a way to another folder's.
    if folder and not re.search(r"[/\\\0]", slot):
        path = Path(folder) / f"{slot}.env"
        return path if path.is_file() else None
    return None


def settings_place(slot: str, workspace: Path | None = None) -> Path | None:
    """Where ``settings_file`` lies, or would lie if it were there: what lies beside it holds either way."""
    found = settings_file(slot, workspace)
    if found is not None:
        return found
    folder = os.environ.get("FLIP_SETTINGS_DIR")
    if workspace is not None and (workspace / SETTINGS_FILE).parent.is_dir():
        return workspace / SETTINGS_FILE
    return Path(folder) / "site.env" if folder else None


def own_settings_file() -> Path | None:
    """The settings file of the site whose process this is: that of the slot in SUPERNODE_NAME."""
    slot = os.environ.get("SUPERNODE_NAME")
    return settings_file(slot) if slot else None


def names_of(role: Role) -> frozenset[str]:
    """Every variable that processes of ``role`` read from their settings file; ``privacy_variables`` come on top."""
    return _names(*_READ_BY[role])


def environment_names() -> frozenset[str]:
    """Every variable that settings are read from: what a process that must not inherit any is stripped of."""
    by_role = (cls for classes in _READ_BY.values() for cls in classes)
    return _names(*by_role, HubSettings, TrustSettings) | {"FLIP_SETTINGS_DIR"}


def _names(*classes: type[RoleSettings]) -> frozenset[str]:
    return frozenset(field.alias for cls in classes for field in cls.model_fields.values() if field.alias)


def site_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for a site's own process on a developer's machine: without what is the server's or the hub's
    alone, and without anything named like a secret.
    """
    withheld = environment_names() - _names(DevSettings, _Mode) - {"FLIP_SETTINGS_DIR"}
    return {
        name: value
        for name, value in environment.items()
        if name not in withheld
        and not name.startswith(("AWS_", _PRIVACY_PREFIX))
        and not any(mark in name.upper() for mark in SECRET_MARKS)
    }


def development_environment(file: Path | None, *, imaging: bool) -> dict[str, str]:
    """The development settings of ``file`` (None: of the environment) as variables, for an app's own ``FLIP()``.

    ``imaging``: the app's IMAGING; when false its cohort is a table, whatever DEV_TABULAR says.
    """
    settings = load(DevSettings, file) if imaging else load(DevSettings, file, tabular=True)
    named = {str(field.alias): getattr(settings, name) for name, field in DevSettings.model_fields.items()}
    values = {alias: str(value) for alias, value in named.items() if value is not None}
    return {"LOCAL_DEV": "true", **values}


def write_settings_file(path: Path, values: Mapping[str, str]) -> None:
    """Write a settings file that only its owner can read.

    Raises ``ValueError`` for a value with control characters, or with ``${``, which the reader would replace.
    """
    for name, value in values.items():
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name) or not value.isprintable() or "${" in value:
            raise ValueError(f"{name} cannot be written to a settings file")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        os.fchmod(descriptor, 0o600)  # an older file keeps its mode when it is written to again
        out.writelines(f"{name}='{_quoted(value)}'\n" for name, value in values.items())


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _lookup(name: str, file: Path | None) -> str | None:
    values: Mapping[str, str | None] = {}
    if file is not None:
        values = DotEnvSettingsSource(_Mode, env_file=file, env_file_encoding="utf-8", case_sensitive=True).env_vars
    return values.get(name) or os.environ.get(name) or None


def _refusal(cls: type[RoleSettings], error: ValidationError, file: Path | None) -> FlipError:
    place = f"{file} or the environment" if file is not None else "the environment"
    problems = error.errors(include_url=False, include_context=False)
    missing = [_variable(cls, p["loc"][0]) for p in problems if p["type"] == "missing"]
    if missing:
        return FlipError("E0401", role=cls.role, names=", ".join(missing), place=place + cls.made_by)
    problem = problems[0]
    name = _variable(cls, problem["loc"][0])
    shown = "set, but malformed" if "KEY" in name or "TOKEN" in name else repr(problem["input"])
    return FlipError("E0404", name=name, value=shown, expected=_expectation(name, problem["msg"]), place=place)


def _variable(cls: type[RoleSettings], location: Any) -> str:
    field = cls.model_fields.get(str(location))
    return str(field.alias) if field is not None and field.alias else str(location)


_EXPECTED = {
    "UPLOADED_FEDERATED_DATA_BUCKET": "s3://bucket or s3://bucket/prefix",
    "FLIP_API_INTERNAL_URL": "an http:// or https:// address that ends in /api",
    "DATA_ACCESS_API_URL": "an http:// or https:// address",
    "IMAGING_API_URL": "an http:// or https:// address",
    "AWS_ENDPOINT_URL": "an http:// or https:// address",
    "INTERNAL_SERVICE_KEY_HASH": "64 hexadecimal digits (SHA-256 of the key)",
    "LOCAL_DEV": "true or false",
    "FLIP_ROLE": "server or client",
    "FLIP_HUB_DIALECT": "both, older or current",
    "FLIP_HUB_UNREACHABLE_AFTER_S": "seconds from 30 to 86400",
    "FLIP_HUB_WRONG_KEYS_PER_MINUTE": "a whole number from 1 to 1000000",
    "FLIP_HUB_STALE_ERROR_AFTER_S": "seconds from 60 to 31536000, or empty for never",
    "FLIP_HUB_LOG": "quiet or json",
    "FLIP_HUB_HOST": "an IPv4 address",
    "DEV_MISSING_STUDY": "empty or error",
    "FLIP_TRUST_IN_FLIGHT": "a number of requests from 1 to 256",
    "FLIP_TRUST_ENVELOPE_KEY": "a Fernet key (32 bytes in url-safe base64), as flip-fl trust init makes one",
    "FLIP_TRUST_COHORT": "live or frozen",
    "FLIP_TRUST_THRESHOLD_COUNTS": "rows or subjects",
    "COHORT_QUERY_THRESHOLD": "a whole number, 0 or more",
}


def _expectation(name: str, message: str) -> str:
    return _EXPECTED.get(name, message[:1].lower() + message[1:])
