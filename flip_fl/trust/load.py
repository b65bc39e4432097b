"""Filling a trust: a cohort's CSV into its database, a folder of studies into its archive, projects and approvals.

Whoever runs this is the trust. Services that run meanwhile see what was there before, or all of what is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flip_fl.data.cohort import ACCESSION_ID, PERSON_ID
from flip_fl.errors import FlipError
from flip_fl.trust import sql
from flip_fl.trust.envelope import is_project_name
from flip_fl.trust.omop import relations
from flip_fl.trust.refusal import Refusal, SqlRefusal
from flip_fl.trust.stores import open_store
from flip_fl.trust.studies import LoadedImages, load_images, missing_studies
from flip_fl.trust.table import person_ids, read_table

__all__ = [
    "LoadedCohort",
    "LoadedImages",
    "approve",
    "load_cohort",
    "load_images",
    "missing_studies",
    "register_project",
]


@dataclass(frozen=True)
class LoadedCohort:
    """What went into the database. ``person_column`` tells persons apart; None: each row is one."""

    rows: int
    columns: int
    persons: int
    person_column: str | None


def load_cohort(database_url: str, csv: Path, *, long_form: bool = True) -> LoadedCohort:
    """Make the tables of the schema ``omop`` anew from ``csv``; see ``omop.relations`` for what is in them.

    ``omop.cohort`` has the CSV's columns: whole numbers, numbers, truth values (0 and 1 on SQLite) and text;
    ``accession_id`` and ids with leading zeros are text. Snapshots that were approved stay as they are. Raises
    ``FlipError`` E0902 for a CSV that cannot be used, E0950 for a database that cannot.
    """
    table = read_table(csv)
    with open_store(database_url) as store:
        store.replace(relations(table, long_form=long_form))
    people = person_ids(table).values
    named = next((name for name in (PERSON_ID, ACCESSION_ID) if table.get(name) is not None), None)
    return LoadedCohort(len(table), len(table.columns), len(people.unique().drop_null()), named)


def register_project(database_url: str, project: str) -> None:
    """Make ``project`` known to the trust; harmless when it is. Raises ``FlipError`` E0950, E0955 for the name."""
    _check_name(project)
    with open_store(database_url) as store:
        store.register(project)


def approve(database_url: str, project: str, query: str) -> int:
    """Keep what ``query`` selects now as the snapshot of ``project``, in place of an earlier one; how many rows.

    Raises ``FlipError`` E0953 where the trust's own rules, or the database, refuse the query; E0950, E0955.
    """
    _check_name(project)
    try:
        with open_store(database_url) as store:
            return store.approve(project, sql.check(query, store.dialect))
    except Refusal as refusal:
        raise FlipError("E0953", project=project, problem=_words(refusal)) from None


def _check_name(project: str) -> None:
    if not is_project_name(project):
        raise FlipError("E0955", project=project)


def _words(refusal: Refusal) -> str:
    """Why, as a part of a sentence. The trust's own people may be told of an error about values."""
    if refusal.status == 403:
        return "it ends in an error about the data"
    words = refusal.reason.value if isinstance(refusal, SqlRefusal) else refusal.detail.removesuffix(".")
    return words[:1].lower() + words[1:]
