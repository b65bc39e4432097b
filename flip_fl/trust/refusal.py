"""What the trust's services answer when they refuse: a status and one fixed sentence, never anything of the request.

The sentences say a category only. What a database or a file system says itself may hold rows, and is not repeated.
"""

from __future__ import annotations

from flip_fl.wire import DETAIL_COHORT_TOO_SMALL, DETAIL_NO_SNAPSHOT

REFUSED = "The SQL is refused: "


class Refusal(Exception):
    """An answer that is no success. ``detail`` is written here, in this module, and holds nothing that was sent."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def too_small() -> Refusal:
    """Too few rows, none, or a rule that keeps them: nobody can tell which from the answer."""
    return Refusal(403, DETAIL_COHORT_TOO_SMALL)


def no_snapshot() -> Refusal:
    return Refusal(403, DETAIL_NO_SNAPSHOT)


def bad_envelope() -> Refusal:
    return Refusal(400, "The project id cannot be read.")


def sql_refused(reason: str) -> Refusal:
    """``reason`` is one of the validator's own fixed texts."""
    return Refusal(400, f"{REFUSED}{reason}.")


def unknown_table() -> Refusal:
    return sql_refused("it names a table that is not there")


def unknown_column() -> Refusal:
    return sql_refused("it names a column that is not there")


def not_runnable() -> Refusal:
    return sql_refused("the database does not take it")


def same_names() -> Refusal:
    return sql_refused("two columns of the result have one name")


def too_large() -> Refusal:
    return Refusal(400, "The cohort is too large to be sent.")


def database_fault() -> Refusal:
    return Refusal(500, "The trust's database gave no answer.")


def out_of_time() -> Refusal:
    return Refusal(500, "The query took too long.")


def traversal() -> Refusal:
    return Refusal(400, "A name is no plain name, or leads out of its folder.")


def no_project() -> Refusal:
    return Refusal(404, "No such project.")


def no_study() -> Refusal:
    return Refusal(404, "No such study.")


def no_data() -> Refusal:
    return Refusal(404, "No such data in the study.")


def storage_fault() -> Refusal:
    return Refusal(500, "The trust's storage failed.")


def file_missing() -> Refusal:
    return Refusal(500, "A file to store is not in the upload folder.")


def file_present() -> Refusal:
    return Refusal(500, "A file of that name is stored already.")


def unexpected() -> Refusal:
    return Refusal(500, "The service failed.")
