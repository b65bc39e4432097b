"""What came of each model of an evaluation at each site, and the two files that say so.

``evaluation_results.json`` is ``{client: {SRV_<model>: {"num_examples": …, "<name>": …}}}``,
``evaluation_failures.json`` is ``[{model, client, return_code}]``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flip_fl.aggregate.average import MAX_EXAMPLES
from flip_fl.app.arrays import replace_file
from flip_fl.app.evaluation import EXECUTION_RESULT_ERROR, NotEvaluated
from flip_fl.privacy.egress import as_number, sane_name
from flip_fl.privacy.supplementary import Allowance, NotPlain, is_supplementary
from flip_fl.results.contents import EVALUATION, EVALUATION_FAILURES

SERVER_MODEL = "SRV_"
NUM_EXAMPLES = "num_examples"
_STATE = "evaluation.json"


@dataclass(frozen=True)
class Failed:
    """One model that one site did not evaluate."""

    model: str
    client: str
    return_code: str
    why: str


@dataclass
class Evaluation:
    """What is known so far of ``models`` at ``sites``; ``done`` models have been dealt with. ``identity``: of the job.

    ``results``: client → model → values.
    """

    models: tuple[str, ...]
    sites: tuple[str, ...]
    identity: str = ""
    results: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    failures: list[Failed] = field(default_factory=list)
    done: int = 0

    def returned(self, model: str, site: str, values: Mapping[str, Any]) -> None:
        """``site`` has evaluated ``model``; ``values`` are ``checked``."""
        self.results.setdefault(site, {})[model] = dict(values)

    def failed(self, model: str, sites: Iterable[str], code: str, why: str) -> None:
        """``sites`` did not evaluate ``model``."""
        self.failures += [Failed(model, site, code, why) for site in sites]

    @property
    def problem(self) -> str | None:
        """Why there is nothing to deliver; None when there is something."""
        return None if self.results else f"no model was evaluated at any site: {self._words()}"

    @property
    def note(self) -> str | None:
        """What failed of an evaluation that has results; None when nothing did."""
        if not self.failures:
            return None
        return f"{len(self.failures)} of {len(self.models) * len(self.sites)} evaluations failed: {self._words()}"

    def _words(self) -> str:
        groups: dict[tuple[str, str], list[str]] = {}
        for each in self.failures:
            groups.setdefault((each.model, each.why), []).append(each.client)
        return "; ".join(f"{model} at {' and '.join(sites)}: {why}" for (model, why), sites in groups.items())

    def write(self, folder: Path) -> None:
        """Write the two files of the results bundle below ``folder``."""
        named = {
            site: {f"{SERVER_MODEL}{model}": found[model] for model in self.models if model in found}
            for site in self.sites
            if (found := self.results.get(site))
        }
        told = [{"model": each.model, "client": each.client, "return_code": each.return_code} for each in self.failures]
        contents: Mapping[str, Any] = {EVALUATION: named, EVALUATION_FAILURES: told}
        for name, content in contents.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def save(self, folder: Path) -> None:
        """Keep what is known in ``folder``: a reader sees an old state or a new one."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{_STATE}.tmp"
        temporary.write_text(json.dumps(asdict(self), allow_nan=False), encoding="utf-8")
        replace_file(temporary, folder / _STATE)

    @classmethod
    def read(cls, folder: Path) -> Evaluation | None:
        """What ``save`` kept in ``folder``; None when nothing was."""
        path = folder / _STATE
        if not path.is_file():
            return None
        facts = json.loads(path.read_text(encoding="utf-8"))
        failures = [Failed(**each) for each in facts.pop("failures")]
        return cls(**{**facts, "models": tuple(facts["models"]), "sites": tuple(facts["sites"]), "failures": failures})


def checked(num_examples: Any, values: Mapping[Any, Any]) -> dict[str, Any]:
    """One site's result of one model as the file has it: metrics, and lists and dictionaries of numbers.

    Raises ``NotEvaluated``, naming what cannot be used, never a value of it.
    """
    if isinstance(num_examples, bool) or not isinstance(num_examples, int) or not 0 <= num_examples <= MAX_EXAMPLES:
        raise NotEvaluated(EXECUTION_RESULT_ERROR, f"num_examples is not a whole number from 0 to {MAX_EXAMPLES}")
    kept: dict[str, Any] = {NUM_EXAMPLES: num_examples}
    allowance = Allowance()
    for name, value in values.items():
        if not sane_name(name) or name == NUM_EXAMPLES:
            raise NotEvaluated(EXECUTION_RESULT_ERROR, "one of its values has a name that cannot be shown")
        try:
            kept[name] = allowance.plain(value) if is_supplementary(value) else _number(value)
        except NotPlain as problem:
            raise NotEvaluated(EXECUTION_RESULT_ERROR, f"'{name}' {problem}") from None
    if len(kept) == 1:
        raise NotEvaluated(EXECUTION_RESULT_ERROR, "it holds no value that may leave the site")
    return kept


def sound(results: Any, failures: Any) -> str | None:
    """Why the contents of the two files are none of an evaluation; None when they are."""
    if not isinstance(results, dict) or not results:
        return "it holds no results"
    for models in results.values():
        if not isinstance(models, dict) or not models:
            return "a client has no results"
        for model, values in models.items():
            if not model.startswith(SERVER_MODEL) or not isinstance(values, dict):
                return "a model's results cannot be read"
            try:
                checked(values.get(NUM_EXAMPLES), {name: each for name, each in values.items() if name != NUM_EXAMPLES})
            except NotEvaluated as problem:
                return f"a model's results cannot be used: {problem}"
    wanted = {"model", "client", "return_code"}
    if not isinstance(failures, list) or not all(isinstance(each, dict) and set(each) == wanted for each in failures):
        return "its failures cannot be read"
    return None


def _number(value: Any) -> float:
    number = as_number(value)
    if number is None:
        raise NotPlain("is no number")
    if not math.isfinite(number):
        raise NotPlain("is not finite")
    return number
