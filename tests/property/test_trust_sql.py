"""Whatever SQL is sent to a trust, nothing is written, nothing outside omop is read, and nothing breaks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flip_fl.trust import sql
from flip_fl.trust.refusal import Refusal
from tests.support.trust import RunningTrust, filled, running_trust, trust_settings

_quick = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

_WORDS = """
    SELECT FROM WHERE omop.cohort omop.person omop . , ; ( ) * a age person_id AS WITH x UNION ALL INSERT INTO
    VALUES DELETE UPDATE SET DROP TABLE CREATE ALTER TRUNCATE COPY RETURNING FOR UPDATE LIMIT OFFSET 1 10 -1 1e9
    'text' "name"
    -- /* */ $$ E'x' U&'x' :: int regclass pg_sleep(1) pg_read_file('/etc/passwd') set_config('a','b',true)
    load_extension readfile writefile('/tmp/flip-evil','x')
    pg_catalog.pg_authid flip_trust.flip_project main.flip_project
    sqlite_master JOIN LEFT CROSS LATERAL ON USING GROUP BY ORDER HAVING count(*) max CASE WHEN THEN ELSE END NOT IN
    EXISTS LIKE BETWEEN IS NULL AND OR = <> < > + - / % || OVER PARTITION ROWS PRECEDING DISTINCT EXCEPT INTERSECT
    RECURSIVE MATERIALIZED PRAGMA ATTACH DATABASE BEGIN COMMIT EXPLAIN ANALYZE VACUUM CAST EXTRACT INTERVAL FETCH FIRST
    ONLY TABLESAMPLE WINDOW FILTER WITHIN ` [ ] { } \\ ? :name $1 %s"""
_words = st.sampled_from([*_WORDS.split(), "\t", "\n"])
_soup = st.lists(_words, max_size=40).map(" ".join)
_insides = st.sampled_from(
    [
        "pg_sleep(5)",
        "(DELETE FROM omop.cohort RETURNING age)",
        "(SELECT name FROM flip_project)",
        "(SELECT name FROM main.flip_project)",
        "(SELECT name FROM flip_trust.flip_project)",
        "set_config('transaction_read_only', 'off', false)",
        "lo_create(1)",
        "nextval('flip_trust.flip_number')",
        "age); DELETE FROM omop.cohort; --",
        "age FROM omop.cohort; DELETE FROM omop.cohort; SELECT age",
        "'a' || (SELECT 1 INTO omop.b)",
        "count(*) FILTER (WHERE lo_create(1) > 0)",
        "$$x$$; DELETE FROM omop.cohort; SELECT $$x$$",
        "E'\\'; DELETE FROM omop.cohort; --'",
        "'\\'; DELETE FROM omop.cohort; --'",
        '"x\\"; DELETE FROM omop.cohort; --"',
        "/* /* */ age */ age",
        "writefile('/tmp/flip-evil', 'x')",
        "age",
    ]
)
_frames = st.sampled_from(
    [
        "SELECT {} FROM omop.cohort",
        "SELECT age FROM omop.cohort WHERE {} IS NOT NULL",
        "WITH x AS (SELECT {} FROM omop.cohort) SELECT * FROM x",
        "WITH x AS ({}) SELECT * FROM x",
        "SELECT age FROM omop.cohort ORDER BY {}",
        "SELECT age FROM omop.cohort LIMIT {}",
        "SELECT age FROM omop.cohort GROUP BY age HAVING {} > 0",
        "SELECT * FROM {}",
        "SELECT * FROM omop.cohort JOIN {} ON true",
        "SELECT CASE WHEN age > 0 THEN {} END FROM omop.cohort",
        "SELECT age AS {} FROM omop.cohort",
        "SELECT sum(age) OVER (ORDER BY {}) FROM omop.cohort",
        "{}",
    ]
)
_nested = st.recursive(_insides, lambda inner: st.builds(lambda frame, text: frame.format(text), _frames, inner))
_crafted = st.builds(lambda frame, text: frame.format(text), _frames, _nested)
_anything = st.text(max_size=300) | _soup | _crafted


@dataclass(frozen=True)
class World:
    """A trust that answers, and everything there that a write could have changed."""

    trust: RunningTrust
    state: Callable[[], object]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("trust")
    url = f"sqlite:///{root / 'trust.sqlite'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").empty_database()
    filled(url, root)
    with running_trust(trust_settings(root, url), query_timeout_s=10) as trust:
        if request.param == "sqlite":
            yield World(trust, lambda: {file.name: file.read_bytes() for file in root.glob("*.sqlite*")})
            return
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            yield World(trust, lambda: [connection.execute(query).fetchall() for query in _STATE])


_STATE = (
    b"SELECT relname, relkind FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace ORDER BY 1",
    b"SELECT * FROM omop.cohort ORDER BY 1",
    b"SELECT * FROM flip_trust.flip_project",
    b"SELECT last_value, is_called FROM flip_trust.flip_number",
    b"SELECT oid FROM pg_largeobject_metadata",
)


@_quick
@given(query=_anything)
def test_no_sql_writes_or_breaks(world: World, query: str) -> None:
    """Each is answered 200, 400 or 403; the database, and the folder, are what they were."""
    before = world.state()
    response = world.trust.cohort(query)
    assert response.status_code in (200, 400, 403), (query, response.text)
    assert world.state() == before, query
    assert not Path("/tmp/flip-evil").exists()
    if response.status_code == 200:
        # Only what was loaded is ever seen: no project's name, no file, no setting.
        assert "Stroke" not in response.text
        assert "root:" not in response.text


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(query=_anything, dialect=st.sampled_from(["postgres", "sqlite"]))
def test_the_validator_refuses_or_returns_one_select(query: str, dialect: str) -> None:
    """It never raises anything else, and what it lets through it lets through again, unchanged in meaning."""
    try:
        written = sql.check(query, dialect)  # type: ignore[arg-type]
    except Refusal as raised:
        refusal: Refusal | None = raised
    else:
        refusal = None
    if refusal is not None:
        assert refusal.status == 400
        return
    assert written.lstrip("(").startswith(("SELECT", "WITH"))
    if dialect == "postgres":
        assert sql.check(written, "postgres") == written
    else:
        assert "one statement" not in _compiled(written)


def _compiled(statement: str) -> str:
    """What SQLite says of it; two statements would be another error than a table that is not there."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(f"EXPLAIN {statement}")
        except sqlite3.Error as error:
            return str(error)
    return ""
