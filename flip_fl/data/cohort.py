"""Reading a cohort: a table with one row a study or a patient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl.errors import FlipError

if TYPE_CHECKING:
    import pandas as pd

ACCESSION_ID = "accession_id"
PERSON_ID = "person_id"


def read_cohort(path: Path) -> pd.DataFrame:
    """The CSV at ``path``; ``accession_id`` stays text, so that leading zeros survive.

    Raises ``FlipError`` E0902 for a file that is missing, empty or no CSV with a header, commas between the columns.
    """
    import pandas as pd

    try:
        cohort = pd.read_csv(path, dtype={ACCESSION_ID: str})
        if ACCESSION_ID in cohort.columns:
            # An id that reads NA or null is an id.
            ids = pd.read_csv(path, usecols=[ACCESSION_ID], dtype=str, keep_default_na=False)
            cohort[ACCESSION_ID] = ids[ACCESSION_ID]
    except FileNotFoundError:
        raise _refused(path, "there is no such file", "give the path of a CSV file") from None
    except pd.errors.EmptyDataError:
        raise _refused(path, "it is empty", "it needs a header and one row a patient or study") from None
    except pd.errors.ParserError:
        raise _refused(path, "its rows do not all have as many values as the header", "mend the CSV") from None
    except UnicodeDecodeError:
        raise _refused(path, "it is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise _refused(path, f"it cannot be read ({type(error).__name__})", "give a readable CSV file") from None
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(cohort.columns) == 1 and separator in str(cohort.columns[0]):
            raise _refused(path, f"its columns are separated by {name}", "save it with commas")
    return cohort


def studies_of(cohort: pd.DataFrame) -> list[str]:
    """The accession numbers that a cohort names, each once, in order; none without the column."""
    if ACCESSION_ID not in cohort.columns:
        return []
    names = cohort[ACCESSION_ID].dropna().astype(str)
    return list(dict.fromkeys(names[names.str.strip() != ""]))


def id_column(cohort: pd.DataFrame) -> str | None:
    """The column that tells patients apart: ``person_id``, else ``accession_id``, else None (every row by itself)."""
    return next((name for name in (PERSON_ID, ACCESSION_ID) if name in cohort.columns), None)


def _refused(path: Path, problem: str, suggestion: str) -> FlipError:
    return FlipError("E0902", path=path, problem=problem, suggestion=suggestion)
