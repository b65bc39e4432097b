"""Settings: keyword, file, environment in that order; what is missing or malformed is refused by name."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flip_fl.errors import FlipError
from flip_fl.settings import (
    ClientSettings,
    DevSettings,
    HubSettings,
    RoleSettings,
    ServerSettings,
    development_environment,
    environment_names,
    is_dev,
    load,
    load_server,
    resolve_role,
    settings_file,
    write_settings_file,
)
from flip_fl.values import HubDialect, Role
from tests.support.core import HUB_KEY, TRUST_KEY, clean_environment, client_values, server_values, settings_at

URL = "http://127.0.0.1:9/api"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


def test_a_keyword_comes_before_the_file_and_the_file_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer overrides the next one, setting by setting."""
    file = settings_at(tmp_path, server_values("http://file/api"))
    monkeypatch.setenv("FLIP_API_INTERNAL_URL", "http://environment/api")
    monkeypatch.setenv("SERVER_CHECKPOINT_ROOT", "/from/environment")
    assert load(ServerSettings, file).hub_url == "http://file/api"
    assert load(ServerSettings, file).checkpoint_root == Path("/from/environment")
    assert load(ServerSettings, file, hub_url="http://keyword/api").hub_url == "http://keyword/api"
    for name, value in server_values("http://file/api").items():
        if name != "FLIP_API_INTERNAL_URL":
            monkeypatch.setenv(name, value)
    assert load(ServerSettings).hub_url == "http://environment/api"


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compose files pass variables on whether they are set or not."""
    values = server_values(URL, SERVER_CHECKPOINT_ROOT="", FLIP_HUB_DIALECT="")
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert load(ServerSettings).dialect is HubDialect.BOTH
    assert load(ServerSettings, settings_at(tmp_path, values)).dialect is HubDialect.BOTH
    monkeypatch.setenv("INTERNAL_SERVICE_KEY", "")
    with pytest.raises(FlipError, match="INTERNAL_SERVICE_KEY not set"):
        load(ServerSettings)


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (ServerSettings, ["FLIP_API_INTERNAL_URL", "INTERNAL_SERVICE_KEY", "UPLOADED_FEDERATED_DATA_BUCKET"]),
        (ClientSettings, ["DATA_ACCESS_API_URL", "IMAGING_API_URL", "TRUST_INTERNAL_SERVICE_KEY", "IMAGES_DIR"]),
    ],
)
def test_a_production_role_names_everything_that_is_missing(
    cls: type[RoleSettings], names: list[str], tmp_path: Path
) -> None:
    """All at once, with the place to set it: nobody should start a server four times."""
    with pytest.raises(FlipError) as caught:
        load(cls)
    assert caught.value.code == "E0401"
    assert caught.value.what == f"the {cls.role} cannot start: {', '.join(names)} not set"
    file = settings_at(tmp_path, {"LOCAL_DEV": "false"})
    with pytest.raises(FlipError, match=cls.role) as caught:
        load(cls, file)
    assert str(file) in caught.value.fix


MALFORMED: list[tuple[type[RoleSettings], str, str, str]] = [
    (ServerSettings, "FLIP_API_INTERNAL_URL", "localhost:8000", "an http:// or https:// address that ends in /api"),
    (ServerSettings, "FLIP_API_INTERNAL_URL", "http://hub/api?x=1", "an http:// or https:// address"),
    (ServerSettings, "FLIP_API_INTERNAL_URL", "http://", "an http:// or https:// address"),
    (ServerSettings, "UPLOADED_FEDERATED_DATA_BUCKET", "results", "s3://bucket or s3://bucket/prefix"),
    (ServerSettings, "UPLOADED_FEDERATED_DATA_BUCKET", "s3://", "s3://bucket or s3://bucket/prefix"),
    (ServerSettings, "UPLOADED_FEDERATED_DATA_BUCKET", "s3://ab", "s3://bucket or s3://bucket/prefix"),
    (ServerSettings, "FLIP_HUB_DIALECT", "newest", "both, older or current"),
    (ServerSettings, "INTERNAL_SERVICE_KEY_HEADER", "X Key", ""),
    (ServerSettings, "AWS_ENDPOINT_URL", "s3.local", "an http:// or https:// address"),
    (ClientSettings, "DATA_ACCESS_API_URL", "ftp://x", "an http:// or https:// address"),
    (ClientSettings, "IMAGING_API_URL", "//x", "an http:// or https:// address"),
    (ClientSettings, "NET_ID", "../x", ""),
    (ClientSettings, "NET_ID", "..", ""),
    (ClientSettings, "FLIP_TRUST_READ_TIMEOUT_S", "soon", ""),
    (ClientSettings, "FLIP_TRUST_READ_TIMEOUT_S", "0", ""),
    (ClientSettings, "FLIP_TRUST_READ_TIMEOUT_S", "nan", ""),
    (DevSettings, "DEV_MISSING_STUDY", "skip", "empty or error"),
    (DevSettings, "DEV_TABULAR", "maybe", ""),
    (HubSettings, "INTERNAL_SERVICE_KEY_HASH", "abc", "64 hexadecimal digits"),
    (HubSettings, "FLIP_HUB_UNREACHABLE_AFTER_S", "5", "seconds from 30 to 86400"),
    (HubSettings, "FLIP_HUB_UNREACHABLE_AFTER_S", "nan", "seconds from 30 to 86400"),
    (HubSettings, "FLIP_HUB_STALE_ERROR_AFTER_S", "0", "seconds from 60 to 31536000, or empty for never"),
]


@pytest.mark.parametrize(("cls", "name", "value", "expected"), MALFORMED)
def test_a_malformed_setting_is_refused_with_its_name_value_and_what_it_must_be(
    cls: type[RoleSettings], name: str, value: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file as from the environment."""
    good = server_values(URL) | client_values(URL, URL, tmp_path)
    for place in ("file", "environment"):
        file = settings_at(tmp_path, good | {name: value}) if place == "file" else settings_at(tmp_path, good)
        if place == "environment":
            file.write_text("".join(line for line in file.open() if not line.startswith(f"{name}=")))
            monkeypatch.setenv(name, value)
        with pytest.raises(FlipError) as caught:
            load(cls, file)
        error = caught.value
        assert error.code == "E0404"
        assert name in error.what
        assert expected in error.what
        assert name in error.fix
        if "KEY" not in name:
            assert repr(value) in error.what


@pytest.mark.parametrize("name", ["INTERNAL_SERVICE_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_a_key_is_never_shown(name: str, tmp_path: Path) -> None:
    """Not in an error about it, not in a repr, not in a pickle's text of another error."""
    secret = "   "
    with pytest.raises(FlipError, match="set, but malformed") as caught:
        load(ServerSettings, settings_at(tmp_path, server_values(URL)), **{name: secret})
    assert name in caught.value.what
    settings = load(ServerSettings, settings_at(tmp_path, server_values(URL, AWS_SESSION_TOKEN="canary-token")))
    shown = f"{settings!r} {settings} {settings.model_dump()}"
    for canary in (HUB_KEY, "canary-aws-secret", "canary-token"):
        assert canary not in shown
    with pytest.raises(FlipError) as caught:
        load(ServerSettings, settings_at(tmp_path, server_values("nonsense")))
    assert HUB_KEY not in caught.value.text()
    assert HUB_KEY.encode() not in pickle.dumps(caught.value)
    assert caught.value.__cause__ is None, "pydantic's own error quotes the whole input"


def test_settings_are_frozen(tmp_path: Path) -> None:
    """What a run was started with is what it runs with."""
    settings = load(ClientSettings, settings_at(tmp_path, client_values(URL, URL, tmp_path)))
    with pytest.raises(ValueError, match="frozen"):
        settings.net_id = "other"
    assert settings.trust_key.get_secret_value() == TRUST_KEY
    assert settings.read_timeout_s == 600.0


def test_a_settings_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A typing mistake in its path must not fall back to the environment."""
    with pytest.raises(FlipError, match=r"gone\.env") as caught:
        load(DevSettings, tmp_path / "gone.env")
    assert caught.value.code == "E0404"


# -- development or production ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False), ("1", True), ("0", False)])
def test_local_dev_says_it(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said is said, whatever else is set."""
    monkeypatch.setenv("LOCAL_DEV", value)
    monkeypatch.setenv("FLIP_API_INTERNAL_URL", URL)
    assert is_dev() is expected


@pytest.mark.parametrize(
    "name",
    [
        "FLIP_API_INTERNAL_URL",
        "INTERNAL_SERVICE_KEY",
        "DATA_ACCESS_API_URL",
        "IMAGING_API_URL",
        "TRUST_INTERNAL_SERVICE_KEY",
        "IMAGES_DIR",
        "UPLOADED_FEDERATED_DATA_BUCKET",
    ],
)
def test_without_local_dev_one_production_setting_makes_it_an_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing LOCAL_DEV silently disabled status, metrics and upload."""
    assert is_dev() is True
    with pytest.raises(FlipError, match="development or production") as caught:
        is_dev(settings_at(tmp_path, {name: "x"}))
    assert caught.value.code == "E0405"
    assert name in caught.value.why
    assert "LOCAL_DEV" in caught.value.why
    monkeypatch.setenv(name, "x")
    with pytest.raises(FlipError, match="development or production"):
        is_dev()


def test_the_file_decides_between_development_and_production_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulated site is in development whatever the shell says."""
    monkeypatch.setenv("LOCAL_DEV", "false")
    assert is_dev(settings_at(tmp_path, {"LOCAL_DEV": "true"})) is True


def test_reporting_is_on_as_soon_as_one_of_its_settings_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOCAL_DEV only picks where cohorts come from: it never switches the hub off."""
    assert load_server() is None
    assert load_server(settings_at(tmp_path / "a", server_values(URL) | {"LOCAL_DEV": "true"})) is not None
    with pytest.raises(FlipError, match="INTERNAL_SERVICE_KEY"):
        load_server(settings_at(tmp_path / "b", {"LOCAL_DEV": "true", "FLIP_API_INTERNAL_URL": URL}))
    with pytest.raises(FlipError, match="FLIP_API_INTERNAL_URL"):
        load_server(settings_at(tmp_path / "c", {"LOCAL_DEV": "false"}))


def test_the_role_in_the_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each simulated component has its own file and its own role."""
    monkeypatch.setenv("FLIP_ROLE", "client")
    assert resolve_role(settings_at(tmp_path, {"FLIP_ROLE": "server"})) is Role.SERVER
    assert resolve_role() is Role.CLIENT
    assert resolve_role(role="server") is Role.SERVER
    monkeypatch.setenv("FLIP_ROLE", "admin")
    with pytest.raises(FlipError, match="FLIP_ROLE is 'admin'; it must be server or client"):
        resolve_role()


# -- settings files -----------------------------------------------------------------------------------------------


def test_the_workspaces_file_comes_before_the_folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`local/flip.env` of the site's workspace, else `$FLIP_SETTINGS_DIR/<slot>.env`, else none."""
    workspace, folder = tmp_path / "workspace", tmp_path / "settings"
    assert settings_file("Trust_1", workspace) is None
    write_settings_file(folder / "Trust_1.env", {"NET_ID": "a"})
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(folder))
    assert settings_file("Trust_1", workspace) == folder / "Trust_1.env"
    assert settings_file("Trust_2", workspace) is None
    write_settings_file(workspace / "local" / "flip.env", {"NET_ID": "b"})
    assert settings_file("Trust_1", workspace) == workspace / "local" / "flip.env"
    assert settings_file("Trust_1") == folder / "Trust_1.env"


@pytest.mark.parametrize("slot", ["../x", "a/b", "/etc/x", "..", "", "a\0b"])
def test_a_slots_name_cannot_lead_to_another_folders_file(
    slot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot's name comes from an engine; it names a file, never a path."""
    folder = tmp_path / "settings"
    folder.mkdir()
    for name in ("x.env", "b.env", "..env", ".env"):
        (tmp_path / name).write_text("LOCAL_DEV=true\n")
        (folder / name).write_text("LOCAL_DEV=true\n")
    (folder / "a").mkdir()
    (folder / "a" / "b.env").write_text("LOCAL_DEV=true\n")
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(folder))
    found = settings_file(slot)
    assert found is None or found.resolve().parent == folder.resolve()


def test_a_settings_file_is_its_owners_alone(tmp_path: Path) -> None:
    """It holds keys; also where a wider file stood before."""
    path = tmp_path / "local" / "flip.env"
    path.parent.mkdir()
    path.write_text("old")
    path.chmod(0o644)
    write_settings_file(path, {"INTERNAL_SERVICE_KEY": "x"})
    assert path.stat().st_mode & 0o777 == 0o600


@given(value=st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=["Cs"]), max_size=40))
@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_what_is_read(value: str, tmp_path: Path) -> None:
    """A key with a dollar, a quote or a backslash must not turn into another key."""
    path = tmp_path / "flip.env"
    try:
        write_settings_file(path, {"NET_ID": "n", "INTERNAL_SERVICE_KEY": value})
    except ValueError:
        return  # refused by name, never written as something else
    if value.strip():
        assert _read(path) == value


@pytest.mark.parametrize(
    "value", ["pa$$word", "$HOME", "it's", "a#b", " x ", "a\\b", "a\\\\b", "a=b", '"q"', "café", "%d"]
)
def test_ordinary_keys_can_be_written(value: str, tmp_path: Path) -> None:
    """These are refused by no rule and read back as they are."""
    path = tmp_path / "flip.env"
    write_settings_file(path, {"INTERNAL_SERVICE_KEY": value})
    assert _read(path) == value


def _read(path: Path) -> str:
    values: dict[str, Any] = {"FLIP_API_INTERNAL_URL": URL, "UPLOADED_FEDERATED_DATA_BUCKET": "s3://bucket"}
    return load(ServerSettings, path, **values).service_key.get_secret_value()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lower", "x"),
        ("A B", "x"),
        ("A", "x\ny"),
        ("A", "x\ry"),
        ("A=B", "x"),
        ("", "x"),
        ("A", "x\0"),
        ("A", "${HOME}"),
    ],
)
def test_what_a_settings_file_cannot_hold_is_refused(name: str, value: str, tmp_path: Path) -> None:
    """A line break in a value would be a setting of its own."""
    with pytest.raises(ValueError, match="cannot be written"):
        write_settings_file(tmp_path / "flip.env", {name: value})
    assert not (tmp_path / "flip.env").exists()


def test_every_variable_is_known_to_whoever_scrubs_an_environment() -> None:
    """A process that must inherit no setting is stripped of all of them."""
    source = (Path(__file__).parents[2] / "flip_fl" / "settings.py").read_text()
    assert set(re.findall(r'alias="([A-Z_]+)"', source)) <= environment_names()
    assert {"INTERNAL_SERVICE_KEY", "TRUST_INTERNAL_SERVICE_KEY", "AWS_SECRET_ACCESS_KEY"} <= environment_names()


def test_variables_are_named_in_settings_only() -> None:
    """A second place that reads a variable would have its own idea of it. (Commands show where a value came from.)"""
    package = Path(__file__).parents[2] / "flip_fl"
    names = "|".join(sorted(environment_names()))
    reading = re.compile(rf"""(environ(\.get\(|\[)|getenv\()\s*["']({names})["']""")
    readers = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if reading.search(path.read_text())
    }
    assert {name for name in readers if not name.startswith("commands/")} == {"settings.py"}


def test_an_apps_own_client_takes_a_table_where_the_app_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IMAGING false counts for what the app's code calls, too, with a settings file or with variables alone."""
    monkeypatch.setenv("DEV_DATAFRAME", str(tmp_path / "cohort.csv"))
    monkeypatch.delenv("DEV_TABULAR", raising=False)
    assert development_environment(None, imaging=False)["DEV_TABULAR"] == "True"
    assert development_environment(None, imaging=True)["DEV_TABULAR"] == "False"
    write_settings_file(tmp_path / "Trust_1.env", {"LOCAL_DEV": "true", "DEV_DATAFRAME": "other.csv"})
    found = development_environment(tmp_path / "Trust_1.env", imaging=False)
    assert (found["DEV_DATAFRAME"], found["DEV_TABULAR"]) == ("other.csv", "True")
