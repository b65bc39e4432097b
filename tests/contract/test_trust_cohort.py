"""``POST /cohort/dataframe`` on both databases: what is answered, what is refused, and what is told by neither."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests

from flip_fl.trust import spools
from flip_fl.trust.load import approve, load_cohort, register_project
from tests.support.core import everything_logged
from tests.support.databases import PostgresServer
from tests.support.trust import (
    CANARY_ACCESSION,
    CANARY_NOTE,
    COHORT_CSV,
    KEY,
    NO_SNAPSHOT,
    TOO_SMALL,
    RunningTrust,
    filled,
    running_trust,
    trust_settings,
    write_cohort,
)

ARROW = {"Accept": "application/vnd.apache.arrow.stream, application/json;q=0.5"}
ALL = "SELECT * FROM omop.cohort"


def new_database(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if kind == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.empty_database()
    return f"sqlite:///{folder / 'trust.sqlite'}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def trust(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrust]:
    root = tmp_path_factory.mktemp("trust")
    url = filled(new_database(request.param, request, root), root)
    with running_trust(trust_settings(root, url)) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_database(request.param, request, tmp_path)


def arrow_table(response: requests.Response) -> pa.Table:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/vnd.apache.arrow.stream"
    with pa.ipc.open_stream(io.BytesIO(response.content)) as stream:
        return stream.read_all()


# -- answers ------------------------------------------------------------------------------------------------------


def test_a_cohort_is_columns_with_their_types(trust: RunningTrust) -> None:
    """Whole numbers stay whole, a missing value is null, text stays text, leading zeros included."""
    response = trust.cohort(f"{ALL} ORDER BY person_id")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    columns = response.json()
    assert list(columns) == COHORT_CSV.partition("\n")[0].split(",")
    assert columns["person_id"] == list(range(1, 21))
    assert columns["accession_id"] == [CANARY_ACCESSION, *(f"{number:04d}" for number in range(2, 21))]
    assert columns["age"] == list(range(41, 61))
    assert columns["score"] == [None if number == 3 else number / 4 for number in range(1, 21)]
    assert columns["smoker"] == [number % 2 == 0 for number in range(1, 21)]
    assert columns["seen"][:2] == ["2024-03-01", "2024-03-02"]
    assert columns["note"] == [CANARY_NOTE, *[None] * 19]
    assert all(type(value) is int for value in columns["age"])


def test_arrow_holds_the_same_table(trust: RunningTrust) -> None:
    """Which way a cohort is sent is a matter of speed: types and values are the same."""
    query = f"{ALL} ORDER BY person_id"
    table = arrow_table(trust.cohort(query, headers=ARROW))
    assert table.to_pydict() == trust.cohort(query).json()
    assert table.schema.field("person_id").type == pa.int64()
    assert table.schema.field("score").type == pa.float64()
    assert table.schema.field("accession_id").type == pa.string()


@pytest.mark.parametrize(
    ("accept", "arrow"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("application/vnd.apache.arrow.stream", True),
        ("APPLICATION/VND.APACHE.ARROW.STREAM; q=0.9, application/json;q=0.1", True),
        ("application/vnd.apache.arrow.stream;q=0.1, application/json", False),
        ("application/vnd.apache.arrow.stream;q=0", False),
        ("application/vnd.apache.arrow.stream;q=much", False),
        ("text/html, application/vnd.apache.arrow.stream", True),
        (",;,q=1", False),
    ],
)
def test_the_form_is_negotiated(trust: RunningTrust, accept: str | None, arrow: bool) -> None:
    """A client that does not ask for Arrow never gets it; refusals are JSON either way."""
    response = trust.cohort(ALL, headers={"Accept": accept})
    assert response.headers["content-type"].endswith("arrow.stream") is arrow
    assert response.headers["vary"] == "Accept"
    refused = trust.cohort(f"{ALL} WHERE age > 50 LIMIT 2", headers={"Accept": accept})
    assert (refused.status_code, refused.content) == (403, TOO_SMALL)


def test_values_that_json_has_no_word_for(trust: RunningTrust) -> None:
    """NaN and infinity are null in both forms; decimals are numbers, dates and times ISO text."""
    postgres = trust.settings.database_url.startswith("postgresql")
    if postgres:
        query = (
            "SELECT CAST('NaN' AS double precision) AS a, CAST('Infinity' AS double precision) AS b,"
            " CAST(age AS numeric(5,2)) AS c, CAST(seen AS date) AS d, CAST(seen AS timestamp) AS e,"
            " CAST('NaN' AS numeric) AS f, CAST(NULL AS text) AS g, CAST('infinity' AS date) AS h,"
            " sum(age) OVER () AS i FROM omop.cohort ORDER BY age"
        )
        first = [None, None, 41.0, "2024-03-01", "2024-03-01T00:00:00", None, None, "infinity", 1010]
    else:
        query = "SELECT 9e999 AS a, -9e999 AS b, NULL AS c, 2.5 AS d, seen AS e FROM omop.cohort ORDER BY age"
        first = [None, None, None, 2.5, "2024-03-01"]
    columns = trust.rows(query)
    assert [values[0] for values in columns.values()] == first
    assert arrow_table(trust.cohort(query, headers=ARROW)).to_pydict() == columns


def test_a_column_that_turns_out_wider_later_is_widened(trust: RunningTrust, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only values tell the type, a late number or text does not break the table, nor is anything lost."""
    for module in ("postgres", "sqlite"):
        monkeypatch.setattr(f"flip_fl.trust.{module}.BATCH_ROWS", 3)
    wider = "CASE WHEN age < 50 THEN NULL WHEN age < 55 THEN 7 ELSE 1.5 END"
    query = f"SELECT {wider} AS a, score, accession_id FROM omop.cohort ORDER BY age"
    columns = trust.rows(query)
    assert columns["a"] == [None] * 9 + [7] * 5 + [1.5] * 6
    assert arrow_table(trust.cohort(query, headers=ARROW)).to_pydict() == columns
    if trust.settings.database_url.startswith("sqlite"):
        mixed = "SELECT CASE WHEN age < 50 THEN 3 ELSE note || 'x' END AS a FROM omop.cohort ORDER BY age"
        table = arrow_table(trust.cohort(mixed.replace("note", "accession_id"), headers=ARROW))
        assert table["a"].to_pylist()[7:10] == ["3", "3", "0010x"]


def test_a_large_cohort_leaves_no_copy_in_memory(trust: RunningTrust, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is written to a file without a name, in pieces, and read back in order."""
    monkeypatch.setattr(spools, "_IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(spools, "_BLOCK_BYTES", 300)
    for module in ("postgres", "sqlite"):
        monkeypatch.setattr(f"flip_fl.trust.{module}.BATCH_ROWS", 7)
    query = "SELECT a.person_id AS p, a.note AS n, b.accession_id AS i FROM omop.cohort a CROSS JOIN omop.cohort b"
    query += " ORDER BY a.person_id, b.person_id"
    columns = trust.rows(query)
    assert columns["p"] == [person for person in range(1, 21) for _ in range(20)]
    assert columns["i"][:3] == [CANARY_ACCESSION, "0002", "0003"]
    assert arrow_table(trust.cohort(query, headers=ARROW)).to_pydict() == columns


def test_an_answer_is_bounded(trust: RunningTrust, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that makes much out of little does not fill the disk."""
    monkeypatch.setattr(spools, "MAX_ANSWER_BYTES", 100)
    for headers in ({}, ARROW):
        response = trust.cohort(ALL, headers=headers)
        assert (response.status_code, response.json()) == (400, {"detail": "The cohort is too large to be sent."})


def test_unicode_and_quotes_arrive_as_they_are(fresh_url: str, tmp_path: Path) -> None:
    """A cohort's text may hold whatever a CSV can."""
    names = ["Zoë", "名前", 'a "quote"', "back\\slash", "line\nbreak", "0", "NULL", "\\.", "😀", " ", "null,", "x"]
    rows = "".join(f'{number},"{name.replace(chr(34), chr(34) * 2)}"\n' for number, name in enumerate(names))
    load_cohort(fresh_url, write_cohort(tmp_path, 'id,"Wei""rd, näme"\n' + rows))
    register_project(fresh_url, "Stroke")
    with running_trust(trust_settings(tmp_path, fresh_url)) as trust:
        columns = trust.rows(f"{ALL} ORDER BY id")
    # What pandas reads as missing is missing.
    assert columns['Wei"rd, näme'] == [None if name == "NULL" else name for name in names]


# -- refusals -----------------------------------------------------------------------------------------------------


def test_every_refusal_to_release_rows_is_the_same_bytes(trust: RunningTrust) -> None:
    """No rows, one below the threshold, a project the trust does not know, an error about a value: nobody can tell."""
    refused = [
        trust.cohort(f"{ALL} WHERE age > 1000"),
        trust.cohort(f"{ALL} LIMIT 9"),
        trust.cohort(f"{ALL} WHERE person_id = 1"),
        trust.cohort("SELECT count(*) FROM omop.cohort"),
        trust.cohort(ALL, project_id=trust.sealed("Unknown")),
        trust.cohort(f"{ALL} LIMIT 9", headers=ARROW),
    ]
    if trust.settings.database_url.startswith("postgresql"):
        # Errors that depend on values would be answers about one person.
        refused += [
            trust.cohort("SELECT 1 / (age - 41) AS a FROM omop.cohort"),
            trust.cohort("SELECT CAST(accession_id AS int) AS a FROM omop.cohort"),
            trust.cohort("SELECT (SELECT age FROM omop.cohort) AS a FROM omop.cohort"),
        ]
    else:
        refused.append(trust.cohort("SELECT abs(-9223372036854775807 - (age - 40)) FROM omop.cohort"))
    for response in refused:
        assert (response.status_code, response.content) == (403, TOO_SMALL)
        assert response.headers["content-type"] == "application/json"
        assert set(response.headers) == set(refused[0].headers)
    assert trust.cohort(f"{ALL} LIMIT 10").status_code == 200


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT * FROM omop.canary", "it names a table that is not there"),
        ("SELECT canary FROM omop.cohort", "it names a column that is not there"),
        ('SELECT "canary" FROM omop.cohort', "it names a column that is not there"),
        ("SELECT c.canary FROM omop.cohort c", "it names a column that is not there"),
        ("SELECT age AS canary, note AS canary FROM omop.cohort", "two columns of the result have one name"),
        ("SELECT age FROM omop.cohort GROUP BY canary", "it names a column that is not there"),
        ("SELECT age FROM omop.cohort UNION SELECT age, note FROM omop.cohort", "the database does not take it"),
        ("SELECT * FROM pg_catalog.pg_authid", "only tables of the schema omop may be named, with the schema"),
        ("SELECT * FROM main.flip_project", "only tables of the schema omop may be named, with the schema"),
        ("SELECT * FROM flip_trust.flip_project", "only tables of the schema omop may be named, with the schema"),
        ("SELECT * FROM cohort", "only tables of the schema omop may be named, with the schema"),
        ("DROP TABLE omop.cohort", "only a SELECT may be sent"),
        (f"{ALL} -- {'canary' * 2000}", "it has more than 10240 characters"),
    ],
)
def test_sql_that_is_refused_is_told_by_category(trust: RunningTrust, query: str, reason: str) -> None:
    """400 says which rule it was; never a name, never what the database said."""
    response = trust.cohort(query)
    assert (response.status_code, response.json()) == (400, {"detail": f"The SQL is refused: {reason}."})


def test_a_query_that_takes_too_long_is_ended(fresh_url: str, tmp_path: Path) -> None:
    """A query cannot hold the database for ever; the answer is a category, and the next query runs."""
    filled(fresh_url, tmp_path)
    slow = "SELECT count(*) FROM " + ", ".join(f"omop.cohort t{number}" for number in range(8))
    many = "SELECT t0.age AS a FROM " + ", ".join(f"omop.cohort t{number}" for number in range(7))
    with running_trust(trust_settings(tmp_path, fresh_url), query_timeout_s=1.5) as trust:
        for query in (slow, many):
            response = trust.cohort(query)
            assert (response.status_code, response.json()) == (500, {"detail": "The query took too long."})
        assert trust.cohort(ALL).status_code == 200


def test_a_database_that_is_gone_is_a_500_by_category(fresh_url: str, tmp_path: Path) -> None:
    """What a driver says (addresses, file names, rows) stays inside; when the database is back, so is the service."""
    filled(fresh_url, tmp_path)
    fault = {"detail": "The trust's database gave no answer."}
    if fresh_url.startswith("sqlite"):
        with running_trust(trust_settings(tmp_path, fresh_url)) as trust:
            file = tmp_path / "trust.omop.sqlite"
            for broken in (b"canary is no database", None):
                kept = file.read_bytes()
                file.unlink() if broken is None else file.write_bytes(broken)
                response = trust.cohort(ALL)
                assert (response.status_code, response.json()) == (500, fault)
                file.write_bytes(kept)
            assert trust.cohort(ALL).status_code == 200
        return
    from sqlalchemy import create_engine, make_url, text

    address = make_url(fresh_url)
    admin = create_engine(address.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with running_trust(trust_settings(tmp_path, fresh_url)) as trust, admin.connect() as connection:
        assert trust.cohort(ALL).status_code == 200
        # Connections that wait in the pool are cut, as by a restart: nobody notices.
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
            {"name": address.database},
        )
        assert trust.cohort(ALL).status_code == 200
        connection.execute(text(f"DROP DATABASE {address.database} WITH (FORCE)"))
        for response in (trust.cohort(ALL), trust.download("0002", project_id=trust.sealed("Other"))):
            assert (response.status_code, response.json()) == (500, fault)
    admin.dispose()


def test_a_database_that_never_answers_is_a_500(tmp_path: Path) -> None:
    """Nobody listens there."""
    settings = trust_settings(tmp_path, "postgresql://canary:canary-password@127.0.0.1:9/canary")
    with running_trust(settings) as trust:
        response = trust.cohort(ALL)
        assert response.status_code == 500
        assert response.json() == {"detail": "The trust's database gave no answer."}
        assert trust.download("0002").status_code == 500


def test_an_error_that_nobody_expected_says_nothing(
    trust: RunningTrust, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    """A bug's text may hold a row: it reaches neither the answer nor the log, its kind and place do."""
    caplog.set_level(logging.DEBUG)

    def broken(*_: object) -> None:
        raise KeyError(CANARY_NOTE)

    monkeypatch.setattr("flip_fl.trust.spools.json_values", broken)
    response = trust.cohort(ALL)
    assert (response.status_code, response.json()) == (500, {"detail": "The service failed."})
    told = everything_logged(caplog, capsys)
    assert CANARY_NOTE not in told
    assert "unexpected KeyError at" in told


# -- thresholds and modes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "rows", "status"), [(20, 20, 200), (21, 20, 403), (1, 1, 200), (1, 0, 403)])
def test_the_threshold_is_a_setting(fresh_url: str, tmp_path: Path, threshold: int, rows: int, status: int) -> None:
    """As many rows as the threshold are enough, one less is not."""
    filled(fresh_url, tmp_path)
    with running_trust(trust_settings(tmp_path, fresh_url, threshold=threshold)) as trust:
        assert trust.cohort(f"{ALL} LIMIT {rows}").status_code == status


def test_without_a_threshold_an_empty_cohort_has_its_columns(fresh_url: str, tmp_path: Path) -> None:
    """The contract's empty result: columns with empty lists, in both forms."""
    filled(fresh_url, tmp_path)
    with running_trust(trust_settings(tmp_path, fresh_url, threshold=0)) as trust:
        query = "SELECT person_id, note FROM omop.cohort LIMIT 0"
        assert trust.rows(query) == {"person_id": [], "note": []}
        assert arrow_table(trust.cohort(query, headers=ARROW)).to_pydict() == {"person_id": [], "note": []}


def test_subjects_are_counted_where_the_trust_says_so(fresh_url: str, tmp_path: Path) -> None:
    """Ten rows of one person are one subject; rows that name nobody are none."""
    filled(fresh_url, tmp_path)
    with running_trust(trust_settings(tmp_path, fresh_url, threshold_counts="subjects")) as trust:
        pairs = "FROM omop.cohort a CROSS JOIN omop.cohort b"
        assert trust.cohort(f"SELECT a.person_id AS person_id {pairs} WHERE a.person_id <= 10").status_code == 200
        for query in (
            f"SELECT a.person_id AS person_id {pairs} WHERE a.person_id <= 9",
            "SELECT age FROM omop.cohort",
            "SELECT NULL AS person_id FROM omop.cohort",
        ):
            response = trust.cohort(query)
            assert (response.status_code, response.content) == (403, TOO_SMALL)


def test_frozen_mode_serves_what_was_approved_and_ignores_the_sql(fresh_url: str, tmp_path: Path) -> None:
    """What was approved stays as it was, whatever is sent and whatever is loaded since."""
    filled(fresh_url, tmp_path)
    for name in ("Unapproved", "Small"):
        register_project(fresh_url, name)
    assert approve(fresh_url, "Stroke", f"{ALL} WHERE age > 45") == 15
    assert approve(fresh_url, "Small", f"{ALL} WHERE age > 59") == 1
    with running_trust(trust_settings(tmp_path, fresh_url, cohort="frozen")) as trust:
        before = trust.rows("DROP TABLE omop.cohort")
        assert before["person_id"] == list(range(6, 21))
        assert before["accession_id"][0] == "0006"
        load_cohort(fresh_url, write_cohort(tmp_path, "person_id,age\n1,2\n"))
        assert trust.rows("") == before
        assert arrow_table(trust.cohort("x" * 20_000, headers=ARROW)).to_pydict() == before
        for project in ("Unapproved", "Unknown"):
            response = trust.cohort(ALL, project_id=trust.sealed(project))
            assert (response.status_code, response.content) == (403, NO_SNAPSHOT)
        small = trust.cohort(ALL, project_id=trust.sealed("Small"))
        assert (small.status_code, small.content) == (403, TOO_SMALL)


def test_a_project_that_is_approved_anew_gets_the_new_cohort(fresh_url: str, tmp_path: Path) -> None:
    """Without a restart, within a second or two; never an error between the two."""
    filled(fresh_url, tmp_path)
    approve(fresh_url, "Stroke", ALL)
    with running_trust(trust_settings(tmp_path, fresh_url, cohort="frozen")) as trust:
        assert len(trust.rows("")["age"]) == 20
        approve(fresh_url, "Stroke", f"{ALL} WHERE age > 45")
        sizes = [len(trust.rows("")["age"])]
        trust.app.state.services.register._projects.clear()
        sizes.append(len(trust.rows("")["age"]))
        assert sizes[0] in (15, 20)
        assert sizes[1] == 15


def test_a_load_while_it_serves_is_seen_whole(fresh_url: str, tmp_path: Path) -> None:
    """A cohort that is loaded anew is served from the next request on."""
    filled(fresh_url, tmp_path)
    with running_trust(trust_settings(tmp_path, fresh_url)) as trust:
        assert len(trust.rows(ALL)["age"]) == 20
        load_cohort(fresh_url, write_cohort(tmp_path, "person_id,weight\n" + "".join(f"{n},{n}\n" for n in range(12))))
        assert list(trust.rows(ALL)) == ["person_id", "weight"]
        assert trust.cohort("SELECT age FROM omop.cohort").status_code == 400


# -- nothing leaks ------------------------------------------------------------------------------------------------


def test_no_row_no_sql_and_no_key_is_logged_or_refused_with(
    fresh_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    """Canaries in rows, accession numbers, SQL and keys appear in no log, and in no answer that refuses."""
    caplog.set_level(logging.DEBUG)
    filled(fresh_url, tmp_path)
    canaries = (CANARY_NOTE, CANARY_ACCESSION, "canary_sql", KEY, "canary-presented")
    queries = [
        f"{ALL} WHERE note = '{CANARY_NOTE}'",
        "SELECT canary_sql FROM omop.cohort",
        "SELECT canary_sql(1) FROM omop.cohort",
        "EXPLAIN SELECT 'canary_sql'",
        "canary_sql; canary_sql",
        "SELECT 'canary_sql",
        f"SELECT CAST(note AS int) FROM omop.cohort WHERE accession_id = '{CANARY_ACCESSION}'",
        "(" * 5000 + "'canary_sql'",
    ]
    told = ""
    with running_trust(trust_settings(tmp_path, fresh_url), query_timeout_s=5) as trust:
        for query in queries:
            response = trust.cohort(query)
            assert response.status_code in (400, 403), response.text
            told += response.text + str(response.headers)
        assert trust.cohort(ALL).status_code == 200
        told += trust.cohort(ALL, key="canary-presented").text
        told += trust.cohort(ALL, project_id="canary-presented").text
        told += trust.call("POST", "/cohort/dataframe", data=f'{{"query": "{CANARY_NOTE}"').text
        told += trust.call("POST", "/cohort/dataframe", json={"query": [CANARY_NOTE]}).text
    told += everything_logged(caplog, capsys)
    assert json.dumps(told)
    for canary in canaries:
        assert canary not in told
