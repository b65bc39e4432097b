"""The app's ``config.json``: the platform's own keys, checked and typed; every other key passes through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from flip_fl.app import rules
from flip_fl.app.places import Document, line_column, read_object
from flip_fl.app.spelling import edit_distance
from flip_fl.errors import FlipError
from flip_fl.values import JobType

CONFIG_FILE = "config.json"
MODEL_ID_KEY = "FLIP_MODEL_ID"
_SHORT_KEY = 6
FULL = "FULL"
DIFF = "DIFF"


@dataclass(frozen=True)
class AppConfig:
    """The platform keys of one app, by their lower-case names, with FLIP's defaults for absent ones.

    ``raw`` is the parsed file, the app's own keys included: what the researcher's functions get as ``config``.
    """

    app_dir: Path
    job_type: JobType
    raw: Mapping[str, Any]
    global_rounds: int = 1
    local_rounds: int = 1
    global_rounds_ae: int | None = None
    global_rounds_dm: int | None = None
    local_rounds_ae: int | None = None
    local_rounds_dm: int | None = None
    learning_rate: float | None = None
    ignore_result_error: bool = False
    aggregator: str = "InTimeAccumulateWeightedAggregator"
    aggregation_weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    aggregate_only_regex: str | None = None
    best_model_metric: str | None = None
    best_model_metric_minimize: bool = False
    server_checkpoint: str | None = None
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    min_clients: int | None = None
    max_skipped: float = 0.05
    fedprox_mu: float | None = None
    fedbn: bool = False
    params_type: str = FULL
    cross_site_validation: bool = False
    secure_aggregation: bool = False
    secure_aggregation_range: float = 1024.0
    server_optimizer: str | Mapping[str, Any] | None = None
    seed: int = 0
    imaging: bool = True
    query: str = ""
    metrics: tuple[str, ...] | None = None
    flip_model_id: str | None = None
    document: Document | None = field(default=None, repr=False, compare=False)

    def place(self, *keys: str) -> str:
        """``config.json:line:column`` of the value at ``keys``, for the ``where`` of an error."""
        path = self.app_dir / CONFIG_FILE
        if self.document is None:
            return str(path)
        line, column = self.document.line_column(*keys)
        return f"{path}:{line}:{column}"

    def for_run(self, model_id: UUID) -> str:
        """config.json as a run's copy of the app has it: with its number of rounds, and its model where one is named.

        FLIP_MODEL_ID goes before every other place: left as it is, a simulated run would report on another model.
        """
        named = {MODEL_ID_KEY: str(model_id)} if MODEL_ID_KEY in self.raw else {}
        return json.dumps({**self.raw, **named}, indent=2)

    def with_values(self, given: Mapping[str, Any]) -> AppConfig:
        """The same config with other values for platform keys. Raises ``FlipError`` E0303 for one that is no good."""
        for key, value in given.items():
            bad = rules.PLATFORM_KEYS[key](value)
            if bad:
                raise _refused(key, value, bad, None)
        values = {key.lower(): _typed(key, value) for key, value in given.items()}
        return replace(self, **values, raw={**self.raw, **given})

    def with_local_rounds(self, given: int | str) -> AppConfig:
        """The same config with LOCAL_ROUNDS from elsewhere, where config.json does not say it; 0 is nothing said.

        Raises ``FlipError`` E0303 out of range.
        """
        number = int(given) if str(given).isdecimal() else given
        if "LOCAL_ROUNDS" in self.raw or number in (0, self.local_rounds):
            return self
        return self.with_values({"LOCAL_ROUNDS": number})

    def with_rounds(self, global_rounds: int) -> AppConfig:
        """The same config with another number of rounds, in each stage. Raises ``FlipError`` E0303 out of range."""
        staged = ("GLOBAL_ROUNDS_AE", "GLOBAL_ROUNDS_DM")
        keys = ("GLOBAL_ROUNDS", *(staged if self.job_type is JobType.DIFFUSION else ()))
        return self.with_values(dict.fromkeys(keys, global_rounds))


def load_config(app_dir: Path) -> AppConfig:
    """Read and check ``config.json``.

    Raises ``FlipError``: E0202 no such file, E0301 not JSON, E0302 no ``job_type``, E0303 a value out of range, E0304 a
    key that looks like a misspelt platform key. ``where`` is ``file:line:column`` of the value.
    """
    config, problems = read_config(app_dir)
    if problems:
        raise problems[0]
    return config


def read_config(app_dir: Path) -> tuple[AppConfig, list[FlipError]]:
    """The config with every refused value left at its default, and all that is wrong: E0302, E0303, E0304.

    Raises ``FlipError`` E0202 and E0301 where there is no object to look at.
    """
    path = app_dir / CONFIG_FILE
    document = _read(path)
    config = AppConfig(
        app_dir=app_dir,
        job_type=JobType.STANDARD,
        raw=MappingProxyType(document.value),
        document=document,
    )
    problems: list[FlipError] = []
    for key in document.value:
        near = _near_miss(key)
        if near:
            problems.append(FlipError("E0304", where=config.place(key), key=key, near=near))
    if "job_type" not in document.value:
        known = ", ".join(job.value for job in JobType)
        reason = f"it says which kind of job this is: {known}"
        problems.append(FlipError("E0302", where=str(path), key="job_type", reason=reason, example='"standard"'))
    values: dict[str, Any] = {}
    for key, check in rules.PLATFORM_KEYS.items():
        if key not in document.value:
            continue
        value = document.value[key]
        bad = check(value)
        if bad:
            problems.append(_refused(key, value, bad, config))
        else:
            values[key.lower()] = _typed(key, value)
    return replace(config, **values), problems


def _read(path: Path) -> Document:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FlipError(
            "E0202", file=CONFIG_FILE, job_type="FLIP", needed="config.json with at least job_type", folder=path.parent
        ) from None
    except OSError as error:
        raise FlipError("E0301", where=str(path), problem=f"it cannot be read ({type(error).__name__})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = line_column(data[: error.start].decode("latin-1"), error.start)
        raise FlipError("E0301", where=f"{path}:{line}:{column}", problem="it is not UTF-8 text") from None
    try:
        return read_object(text)
    except json.JSONDecodeError as error:
        raise FlipError("E0301", where=f"{path}:{error.lineno}:{error.colno}", problem=_lower(error.msg)) from None
    except RecursionError:
        raise FlipError("E0301", where=str(path), problem="it is nested too deeply") from None


def _near_miss(key: str) -> str | None:
    """The platform key that ``key`` was probably meant to be, or None."""
    if key in rules.PLATFORM_KEYS:
        return None
    found: list[tuple[int, str]] = []
    for known in rules.PLATFORM_KEYS:
        # `models` is also what apps call keys of their own ("model"), and LEARNING_RATE_D is not a slip of the pen.
        if known == "models" or key.upper().startswith(f"{known.upper()}_"):
            continue
        limit = 1 if len(known) <= _SHORT_KEY else 2
        distance = edit_distance(key.upper().replace("-", "_"), known.upper(), limit)
        if distance <= limit:
            found.append((distance, known))
    return min(found)[1] if found else None


def _refused(key: str, value: Any, bad: rules.Bad, config: AppConfig | None) -> FlipError:
    shown = value
    for part in bad.path:
        shown = shown[part]
    name = ".".join([key, *bad.path])
    words = json.dumps(shown, ensure_ascii=False)
    if key == "QUERY":  # SQL is shown nowhere
        words = f"a text of {len(value)} characters" if isinstance(value, str) else f"a {type(value).__name__}"
    return FlipError(
        "E0303",
        where=config.place(key, *bad.path) if config is not None else None,
        key=name,
        value=words,
        expected=bad.expected,
        fix=bad.fix,
    )


def _typed(key: str, value: Any) -> Any:
    if key == "job_type":
        return JobType(value)
    if key in ("LEARNING_RATE", "MAX_SKIPPED", "FEDPROX_MU", "SECURE_AGGREGATION_RANGE"):
        return float(value)
    if key == "AGGREGATION_WEIGHTS":
        return MappingProxyType({slot: float(weight) for slot, weight in value.items()})
    if key == "METRICS":
        return tuple(value)
    return MappingProxyType(value) if isinstance(value, dict) else value


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if text.partition(" ")[0].istitle() else text
