"""What became of each study that was asked for: it came, or it was skipped, with a reason code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class SkipReason(StrEnum):
    """Why a study is not used. The value is the code; ``words`` is how people read it."""

    NO_ACCESSION = "no_accession"
    BAD_ACCESSION = "bad_accession"
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    STORAGE_FAULT = "storage_fault"
    UNREACHABLE = "unreachable"
    BAD_ANSWER = "bad_answer"
    OUTSIDE = "outside"
    EMPTY = "empty"
    NO_FILE = "no_file"
    UNREADABLE = "unreadable"

    @property
    def words(self) -> str:
        """The reason in words, to follow a count."""
        return _WORDS[self]


_WORDS: Mapping[SkipReason, str] = {
    SkipReason.NO_ACCESSION: "without an accession_id",
    SkipReason.BAD_ACCESSION: "accession_id is no plain name",
    SkipReason.NOT_FOUND: "not found",
    SkipReason.REFUSED: "refused",
    SkipReason.STORAGE_FAULT: "storage fault",
    SkipReason.UNREACHABLE: "service unreachable",
    SkipReason.BAD_ANSWER: "unusable answer",
    SkipReason.OUTSIDE: "outside the images' folder",
    SkipReason.EMPTY: "empty",
    SkipReason.NO_FILE: "without a file of that name",
    SkipReason.UNREADABLE: "unreadable",
}


@dataclass(frozen=True)
class Manifest:
    """What came and what was skipped; its text holds counts and reasons, never an accession number.

    ``outcomes`` says it study by study, in the cohort's order: None came. It names patients' studies, so it stays in
    the trust. ``unnamed`` counts the cohort's rows without an accession number.
    """

    outcomes: Mapping[str, SkipReason | None] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    unnamed: int = 0

    @property
    def came(self) -> int:
        return sum(reason is None for reason in self.outcomes.values())

    @property
    def skipped(self) -> Mapping[SkipReason, int]:
        """How many were skipped for which reason, the most frequent first."""
        counts = Counter(reason for reason in self.outcomes.values() if reason is not None)
        if self.unnamed:
            counts[SkipReason.NO_ACCESSION] += self.unnamed
        return dict(counts.most_common())

    @property
    def asked(self) -> int:
        """How many studies the cohort has, the unnamed ones included."""
        return len(self.outcomes) + self.unnamed

    def without(self, others: Mapping[str, SkipReason]) -> Manifest:
        """The same with further studies skipped."""
        return Manifest(MappingProxyType({**self.outcomes, **others}), self.unnamed)

    def __str__(self) -> str:
        skipped = self.skipped
        count = f"{self.came:,} {'study' if self.came == 1 else 'studies'}"
        if not skipped:
            return f"{count}, none skipped"
        reasons = ", ".join(f"{times:,} {reason.words}" for reason, times in skipped.items())
        return f"{count}, {sum(skipped.values()):,} skipped: {reasons}"
