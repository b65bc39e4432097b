"""Which studies a data set has: those whose files match, of some patients, without those that cannot be read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from flip_fl.data.facts import NO_FACTS, Facts
from flip_fl.data.loading import AmbiguousError, ManyStudies, OneStudy, Recipe, Record
from flip_fl.data.manifest import Manifest, SkipReason
from flip_fl.data.split import split_studies
from flip_fl.data.volumes import Problem
from flip_fl.errors import FlipError

# Headers come over a network: waiting for one leaves time to ask for others.
_CHECKS_AT_ONCE = 8


@dataclass(frozen=True)
class Check:
    """Which studies may be left out as unreadable: at most the share ``max_skipped``; ``pixels`` reads all of them."""

    max_skipped: float
    pixels: bool

    def problems(self, recipe: Recipe, records: Sequence[Record]) -> dict[str, Problem]:
        """What is wrong, by accession id."""

        def look(record: Record) -> Problem | None:
            return recipe.check(record, pixels=self.pixels)

        if self.pixels or len(records) == 1:
            # A researcher's prepare() need not be safe for threads.
            found = [look(record) for record in records]
        else:
            with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
                found = list(pool.map(look, records))
        return {record.study: problem for record, problem in zip(records, found, strict=True) if problem is not None}

    def refuse_too_many(self, problems: Counter[Problem], total: int) -> None:
        """Raises ``FlipError`` E0927."""
        count = problems.total()
        if count > self.max_skipped * total:
            raise FlipError(
                "E0927",
                count=f"{count:,}",
                total=f"{total:,}",
                problems="; ".join(f"{times:,}: {problem}" for problem, times in problems.most_common()),
                share=f"{self.max_skipped:.4g}",
            )


class Selection:
    """A data set's studies. Whatever needs all of them waits for them; ``arriving`` does not.

    ``within``: the selection that this is a part of. A pickled one has its records only.
    """

    def __init__(
        self,
        studies: ManyStudies,
        recipe: Recipe,
        facts: Facts,
        *,
        within: Selection | None = None,
        members: frozenset[str] | None = None,
        check: Check | None = None,
    ) -> None:
        self.recipe = recipe
        self._studies: ManyStudies | None = studies
        self._facts = facts
        self._within = within
        self._members = frozenset(facts.studies) if members is None else members
        self._check = check
        self._records: tuple[Record, ...] | None = None
        self._skipped: Mapping[str, SkipReason] = {}
        self._process = os.getpid()
        if check is None and self._is_known():
            # A process that is forked later need not ask, and a wrong pattern is found where it is written.
            self._settle()

    @property
    def settled(self) -> bool:
        """Whether all studies are known."""
        return self._records is not None

    def split(self, by: str, fractions: Sequence[float], seed: int) -> tuple[Selection, ...]:
        """See ``split_studies``."""
        groups = split_studies(self._source().cohort, by, fractions, seed, self._members)
        return tuple(self._part(group) for group in groups)

    def checked(self, check: Check) -> Selection:
        """The same without what ``check`` finds unreadable."""
        return self._part(self._members, check)

    def records(self) -> tuple[Record, ...]:
        """The studies that can be used, in the cohort's order.

        Raises ``FlipError`` E0921 where there are none, E0922, E0927, and E0928 in a process forked too early.
        """
        records = self._settle()
        if not records:
            raise _nothing(self._skipped)
        return records

    def arriving(self) -> Iterator[tuple[Record, int, int]]:
        """Each study as soon as it is there, with its place in that order, and of how many. Raises as ``records``."""
        if self._records is not None:
            yield from ((record, place, len(self._records)) for place, record in enumerate(self.records(), start=1))
            return
        total = len(self._members)
        checks = [each._check for each in self._lineage() if each._check is not None]
        seen: set[str] = set()
        skipped: dict[str, SkipReason] = {}
        problems: Counter[Problem] = Counter()
        for study in self._as_they_come():
            name = study.accession_id
            if name in seen or name not in self._members:
                continue
            seen.add(name)
            record = self._record(study, len(seen), total)
            if record is None:
                skipped[name] = SkipReason.NO_FILE
                continue
            found = [problem for check in checks for problem in check.problems(self.recipe, [record]).values()]
            if found:
                skipped[name] = SkipReason.UNREADABLE
                problems[found[0]] += 1
                for check in checks:
                    check.refuse_too_many(problems, total)
                continue
            yield record, len(seen), total
        if len(seen) == len(skipped):
            raise _nothing(skipped)

    def manifest(self) -> Manifest:
        """What became of each study."""
        self._settle()
        whole = self._source().manifest
        mine = {name: reason for name, reason in whole.outcomes.items() if name in self._members}
        # A row without an accession number belongs to no part.
        unnamed = whole.unnamed if len(self._members) == len(self._facts.studies) else 0
        return Manifest(MappingProxyType({**mine, **self._skipped}), unnamed)

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        # Worker processes need neither the cohort nor who fetched it.
        kept = {"recipe": self.recipe, "_records": self._records, "_process": self._process}
        left_out = {"_studies": None, "_within": None, "_facts": NO_FACTS, "_check": None}
        return kept | left_out | {"_members": frozenset(), "_skipped": {}}

    # -- where they come from ---------------------------------------------------------------------------------

    def _part(self, members: frozenset[str], check: Check | None = None) -> Selection:
        return Selection(self._source(), self.recipe, self._facts, within=self, members=members, check=check)

    def _source(self) -> ManyStudies:
        if self._studies is None:
            raise FlipError("E0929")
        return self._studies

    def _is_known(self) -> bool:
        """Whether nothing needs to be waited for."""
        if self._within is not None:
            return self._within.settled
        return self._source().settled == self._source().asked

    def _settle(self) -> tuple[Record, ...]:
        if self._records is None:
            records, skipped = self._found() if self._within is None else self._inherited(self._within)
            if self._check is not None:
                problems = self._check.problems(self.recipe, records)
                self._check.refuse_too_many(Counter(problems.values()), len(records))
                records = [record for record in records if record.study not in problems]
                skipped = {**skipped, **dict.fromkeys(problems, SkipReason.UNREADABLE)}
            self._skipped = skipped
            self._records = tuple(records)
        return self._records

    def _found(self) -> tuple[list[Record], Mapping[str, SkipReason]]:
        if os.getpid() != self._process and not self._is_known():
            # The threads that fetch do not live on in a forked process: this would wait for ever.
            raise FlipError("E0928")
        records: list[Record] = []
        skipped: dict[str, SkipReason] = {}
        studies = self._source().studies()
        for place, study in enumerate(studies, start=1):
            record = self._record(study, place, len(studies))
            if record is None:
                skipped[study.accession_id] = SkipReason.NO_FILE
            else:
                records.append(record)
        return records, skipped

    def _inherited(self, whole: Selection) -> tuple[list[Record], Mapping[str, SkipReason]]:
        records = [record for record in whole._settle() if record.study in self._members]
        return records, {name: reason for name, reason in whole._skipped.items() if name in self._members}

    def _as_they_come(self) -> Iterator[OneStudy]:
        source = self._source()
        yield from source.arriving()
        # Those that came while somebody else was waiting for them.
        yield from source.studies()

    def _lineage(self) -> Iterator[Selection]:
        each: Selection | None = self
        while each is not None:
            yield each
            each = each._within

    def _record(self, study: OneStudy, place: int, total: int) -> Record | None:
        name = study.accession_id
        try:
            return self.recipe.record(study, self._facts.targets.get(name), self._facts.columns.get(name, ()))
        except AmbiguousError as error:
            raise FlipError(
                "E0922",
                part=error.part,
                pattern=error.pattern,
                count=f"{error.count:,}",
                position=f"{place:,}",
                total=f"{total:,}",
            ) from None


def _nothing(skipped: Mapping[str, SkipReason]) -> FlipError:
    reasons = Counter(skipped.values()).most_common()
    mismatch = SkipReason.NO_FILE in skipped.values()
    return FlipError(
        "E0921",
        reasons=", ".join(f"{count:,} {reason.words}" for reason, count in reasons) or "none of them came",
        suggestion="correct the patterns of image and label" if mismatch else "look at the manifest of the studies",
    )
