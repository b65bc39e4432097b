"""Fetching a cohort's studies: what came, and how many were skipped for which reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from flip_fl.data.cohort import ACCESSION_ID
from flip_fl.errors import FlipError
from flip_fl.values import ResourceType

if TYPE_CHECKING:
    import pandas as pd

    from flip_fl.data.sources import Source

BAD_ACCESSION = "E0903"
NO_ACCESSION = "no accession_id in the row"


class TooManySkipped(Exception):
    """More studies could not be fetched than the job allows. The text holds counts and reasons, no accession number."""


@dataclass(frozen=True)
class Studies(Mapping[str, Mapping[ResourceType, Path]]):
    """The folders of the studies that came, by accession id; ``skipped`` counts the others by reason."""

    folders: Mapping[str, Mapping[ResourceType, Path]]
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, accession_id: str) -> Mapping[ResourceType, Path]:
        return self.folders[accession_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)

    def __repr__(self) -> str:
        # The default one would print accession numbers into whatever log shows it.
        return f"Studies({len(self)} fetched, {sum(self.skipped.values())} skipped)"

    def summary(self) -> str | None:
        """What was skipped, in words without identifiers; None when nothing was."""
        count = sum(self.skipped.values())
        if not count:
            return None
        reasons = ", ".join(f"{reason} ({times})" for reason, times in sorted(self.skipped.items()))
        return f"{count} of {count + len(self)} studies were skipped: {reasons}"


def fetch_studies(
    source: Source,
    project_id: str,
    cohort: pd.DataFrame,
    types: tuple[ResourceType, ...],
    *,
    max_skipped: float,
    check: Callable[[], None] = lambda: None,
) -> Studies:
    """Ask for every study of ``cohort`` (each accession id once, in the cohort's order) in all ``types``.

    ``check`` is called before each study and may raise to stop. A study that the service or the disk does not give
    is skipped and counted. Raises ``ValueError`` without an ``accession_id`` column or for no types, and
    ``TooManySkipped`` when more than the share ``max_skipped`` is missing.
    """
    if ACCESSION_ID not in cohort.columns:
        raise ValueError("The provided dataframe does not contain an 'accession_id' column.")
    if not types:
        raise ValueError("images() needs at least one resource type")
    column = cohort[ACCESSION_ID]
    skipped: Counter[str] = Counter()
    unnamed = int((column.isna() | (column.astype(str).str.strip() == "")).sum())
    if unnamed:
        skipped[NO_ACCESSION] = unnamed
    names = [name for name in dict.fromkeys(column.dropna().astype(str)) if name.strip()]
    folders: dict[str, Mapping[ResourceType, Path]] = {}
    for name in names:
        check()
        try:
            folders[name] = MappingProxyType(dict(source.resources(project_id, name, types)))
        except OSError as error:  # what `requests` raises is an OSError, too
            skipped[_reason(error)] += 1
        except FlipError as error:
            if error.code != BAD_ACCESSION:
                raise
            skipped["an accession_id that is no plain name"] += 1
    studies = Studies(MappingProxyType(folders), MappingProxyType(dict(skipped)))
    total = len(names) + unnamed
    if total and sum(skipped.values()) > max_skipped * total:
        raise TooManySkipped(f"{studies.summary()}; at most {max_skipped:.0%} may be (MAX_SKIPPED)")
    return studies


def _reason(error: OSError) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP {status}" if status is not None else type(error).__name__
