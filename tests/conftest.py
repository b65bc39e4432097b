"""What all tests share: databases, and a summary that says what could not run on this machine."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    # the hub's libraries take a second to import: only where a test has a hub
    from tests.support.databases import PostgresServer
    from tests.support.hub import HubServer, RunningHub

LEFT_OUT = "LEFT OUT: "

# How long an example takes says how busy the machine is.
settings.register_profile("whatever the machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("whatever the machine")


def leave_out(reason: str) -> None:
    """Skip the test in a way that nobody overlooks; where CI=true nothing may be left out, and it fails."""
    pytest.skip(LEFT_OUT + reason)


@pytest.fixture(scope="session", autouse=True)
def _keep_torch() -> None:
    """Keep this process's fork server, which has torch loaded, however long tests take that do not ask it."""
    from flip_fl.app import child
    from flip_fl.app.kept_forks import KeptForkServer

    child.servers = KeptForkServer(child.MODULES, child._environment)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server for this worker."""
    from tests.support.databases import postgres_server

    try:
        manager = postgres_server()
        server = manager.__enter__()
    except Exception as error:
        leave_out(f"PostgreSQL: no server could be started ({type(error).__name__}: {error})")
    try:
        yield server
    finally:
        manager.__exit__(None, None, None)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flip_fl.hub import admin

    path = tmp_path_factory.mktemp("hub") / "template.sqlite"
    admin.init_database(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database with the hub's tables, once of each kind."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.hub_database()
    path = tmp_path / "hub.sqlite"
    shutil.copy(request.getfixturevalue("_sqlite_template"), path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def _hub_server(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    from tests.support.hub import hub_server

    # A hub writes to its database now and then, and the template is copied by others.
    path = tmp_path_factory.mktemp("hub") / "hub.sqlite"
    shutil.copy(_sqlite_template, path)
    with hub_server(f"sqlite:///{path}") as server:
        yield server


@pytest.fixture
def hub(_hub_server: HubServer, database_url: str) -> Iterator[RunningHub]:
    """A hub that answers on loopback, once on each database, filled as ``tests.support.hub.world`` says."""
    from tests.support.hub import RunningHub, world

    unused = _hub_server.app.state.engine
    with world(database_url) as filled:
        _hub_server.app.state.engine = filled.engine
        yield RunningHub(_hub_server.base, _hub_server.key, filled)
        _hub_server.app.state.engine = unused


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    _fail_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    _fail_in_ci(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("skipped", "failed", "error") for report in terminalreporter.stats.get(kind, [])]
    reasons: dict[str, int] = {}
    for report in reports:
        reason = _left_out(report)
        if reason is not None:
            reasons[reason] = reasons.get(reason, 0) + 1
    for reason, tests in reasons.items():
        terminalreporter.write_line(f"{LEFT_OUT}{reason} (tests: {tests})", yellow=True, bold=True)


def _left_out(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
    marker = text.find(LEFT_OUT)
    return text[marker + len(LEFT_OUT) :].splitlines()[0] if 0 <= marker <= len("Skipped: ") else None


def _fail_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = _left_out(report) if report.skipped else None
    if reason is not None and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{LEFT_OUT}{reason}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests first: one that begins last would keep all other processors waiting."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What is loaded now stays to the end: no collection of garbage has to walk through it again and again."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Let Ctrl-C arrive: a shell's background jobs, and every process that they start, ignore it. Load in one go."""
    gc.disable()  # until all is loaded
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
