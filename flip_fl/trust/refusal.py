"""What the trust's services answer when they refuse: a status and one fixed sentence, never anything of the request.

The sentences say a category only. What a database or a file system says itself may hold rows, and is not repeated.
"""

from __future__ import annotations

from flip_fl import wire
from flip_fl.values import SqlReason


class Refusal(Exception):
    """An answer that is no success. ``detail`` is a fixed text that holds nothing that was sent."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def too_small() -> Refusal:
    """Too few rows, none, or a rule that keeps them: nobody can tell which from the answer."""
    return Refusal(403, wire.DETAIL_COHORT_TOO_SMALL)


def no_snapshot() -> Refusal:
    return Refusal(403, wire.DETAIL_NO_SNAPSHOT)


def bad_envelope() -> Refusal:
    return Refusal(400, wire.DETAIL_PROJECT_UNREADABLE)


class SqlRefusal(Refusal):
    """SQL that is not run, and why."""

    def __init__(self, reason: SqlReason) -> None:
        super().__init__(400, wire.DETAIL_SQL_REFUSED.format(reason))
        self.reason = reason


def sql_refused(reason: SqlReason) -> Refusal:
    return SqlRefusal(reason)


def unknown_table() -> Refusal:
    return sql_refused(SqlReason.NO_TABLE)


def unknown_column() -> Refusal:
    return sql_refused(SqlReason.NO_COLUMN)


def not_runnable() -> Refusal:
    return sql_refused(SqlReason.NOT_TAKEN)


def same_names() -> Refusal:
    return sql_refused(SqlReason.SAME_NAMES)


def too_large() -> Refusal:
    return Refusal(400, wire.DETAIL_COHORT_TOO_LARGE)


def database_fault() -> Refusal:
    return Refusal(500, "The trust's database gave no answer.")


def out_of_time() -> Refusal:
    return Refusal(500, "The query took too long.")


def traversal() -> Refusal:
    return Refusal(400, "A name is no plain name, or leads out of its folder.")


def no_project() -> Refusal:
    return Refusal(404, wire.DETAIL_NO_PROJECT)


def no_study() -> Refusal:
    return Refusal(404, wire.DETAIL_NO_STUDY)


def no_data() -> Refusal:
    return Refusal(404, wire.DETAIL_NO_DATA)


def storage_fault() -> Refusal:
    return Refusal(500, "The trust's storage failed.")


def file_missing() -> Refusal:
    return Refusal(500, "A file to store is not in the upload folder.")


def file_present() -> Refusal:
    return Refusal(500, "A file of that name is stored already.")


def unexpected() -> Refusal:
    return Refusal(500, "The service failed.")
