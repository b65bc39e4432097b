"""What our ClientApp and our grid say to each other inside Flower's messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from pydantic import TypeAdapter, ValidationError

from flip_fl.aggregate.differences import restored
from flip_fl.app.config import DIFF
from flip_fl.app.failures import Failure
from flip_fl.app.redact import MAX_TEXT_CHARS
from flip_fl.flower.columns import columns_of, items_of
from flip_fl.flower.grammar import metrics_by_grammar as metrics_by_grammar
from flip_fl.flower.grammar import plain_metrics as plain_metrics
from flip_fl.privacy.egress import sane_name
from flip_fl.wire import SiteFacts

# Records of Flower's own strategies.
ARRAYS = "arrays"
METRICS = "metrics"
CONFIG = "config"
SERVER_ROUND = "server-round"
NUM_EXAMPLES = "num-examples"

# Our own records.
OUR_PREFIX = "flip."
TASK_RECORD = "flip.task"
SERIES_RECORD = "flip.series"
ROWS_RECORD = "flip.rows"
SUPPLEMENTARY_RECORD = "flip.supplementary"
PARAMS_RECORD = "flip.params"
SITE_RECORD = "flip.site"
SECURE_RECORD = "flip.secure"
QUERY_SLOT = "query.flip_slot"
QUERY_STAY = "query.flip_stay"
QUERY_END = "query.flip_end"
QUERY_KEYS = "query.flip_keys"
QUERY_SEAL = "query.flip_seal"
QUERY_TELL = "query.flip_tell"

# How often sites that wait for others hear, in seconds, that the run goes on.
STAY_EVERY_S = 300.0

# Under which keys of ``CONFIG`` other FLIP apps say who they are.
_FOREIGN_CLAIMS = ("site", "client_name")

# Key of a node's config: a file of this one process whose presence stops its work (see `flip_fl.app.stop`).
STOP_FILE = "stop-file"

# Codes of `flwr.app.Error`; Flower's own are below 1000.
FAILED = 1000  # an exception in the app
REJECTED = 1001  # the server cannot use the reply
ABORTED = 1002  # the run was stopped
TOO_LARGE = 1003  # the reply exceeds the site's limit
LOST = 1004  # the site's process died

MAX_ITEMS_PER_REPLY = 100_000
MAX_MADE = 10**9
MAX_REASON_BYTES = 256_000
MAX_SLOT_CHARS = 128
UNREADABLE = "they cannot be read"

_FAILURE = TypeAdapter(Failure)


# -- the server's word to the client ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskNote:
    """What the server says beside a task: whom it takes the client for, and where the run is (rounds from 1).

    ``stage`` is the job's, ``model`` the name of one that is not the round's own; what a ``quiet`` task measures is not
    reported.
    """

    slot: str = ""
    round: int = 0
    total_rounds: int = 0
    stage: str = ""
    model: str = ""
    quiet: bool = False

    def at(self, slot: str, round: int, total_rounds: int) -> TaskNote:
        """The same for ``slot`` in ``round``."""
        return TaskNote(slot, round, total_rounds, self.stage, self.model, self.quiet)


def with_task(content: RecordDict, note: TaskNote) -> RecordDict:
    """A shallow copy of ``content`` that carries ``note``; ``content`` and its records stay as they are.

    The note is one text of JSON, which Flower serialises several times faster than as many entries. It stands in a
    record of its own, or among the entries of the only ConfigRecord that is there: Flower's clipping mods answer a
    second ConfigRecord with an error.
    """
    copy = content.copy()
    said = json.dumps(vars(note))
    configs = [(name, record) for name, record in content.items() if isinstance(record, ConfigRecord)]
    if len(configs) == 1 and configs[0][0] != TASK_RECORD:
        name, only = configs[0]
        beside = only.copy()
        beside[TASK_RECORD] = said
        copy[name] = beside
    else:
        copy[TASK_RECORD] = ConfigRecord({"json": said})
    return copy


def get_task(content: RecordDict) -> TaskNote:
    """The server's note; the round of the strategy's own config record where a foreign server wrote none."""
    said = _config(content, TASK_RECORD).get("json")
    if said is None:
        configs = (record for record in content.values() if isinstance(record, ConfigRecord))
        said = next((record[TASK_RECORD] for record in configs if TASK_RECORD in record), None)
    facts = _parsed(said)
    if not isinstance(facts, dict):
        facts = {}
    slot = facts.get("slot")
    return TaskNote(
        slot=slot if isinstance(slot, str) else "",
        round=_whole(facts.get("round")) or _whole(_config(content, CONFIG).get(SERVER_ROUND)),
        total_rounds=_whole(facts.get("total_rounds")),
        stage=str(facts.get("stage", "")),
        model=str(facts.get("model", "")),
        quiet=facts.get("quiet") is True,
    )


# -- the client's word to the server ------------------------------------------------------------------------------


@dataclass(frozen=True)
class SiteReport:
    """What a reply says beside arrays and metrics.

    ``claim``: whom the client says it is (None: it does not say); ``also``: whom an app that is not ours says it is.
    ``items``: wire items as JSON-able mappings, unread but for whom they name. ``refused``: what was left out, as
    counts by reason. ``made``: how many items the task has made (None: it does not say). ``facts``: what it says of its
    own work.
    """

    claim: str | None = None
    also: tuple[str, ...] = ()
    items: list[dict[str, Any]] = field(default_factory=list)
    failure: Failure | None = None
    aborted: bool = False
    refused: dict[str, int] = field(default_factory=dict)
    made: int | None = None
    facts: SiteFacts | None = None

    @property
    def missing(self) -> int:
        """How many of the items that the task has made are neither here nor counted among the refused ones."""
        return max(0, (self.made or 0) - len(self.items) - sum(self.refused.values()))


_NOTHING_SAID = SiteReport()


def put_report(
    content: RecordDict,
    slot: str,
    items: Iterable[Mapping[str, Any]],
    *,
    made: int | None = None,
    facts: SiteFacts | None = None,
) -> None:
    """Add the claimed slot and the task's wire items (JSON-able mappings with ids) to a reply's content.

    ``made`` is how many items the task has made, ``facts`` what the site says of its work. Metrics travel as columns of
    numbers, everything that does not fit there exactly as JSON.
    """
    columns, rows = columns_of(items, slot)
    said: dict[str, str | int] = {"slot": slot}
    if made is not None:
        said["made"] = made
    if facts is not None:
        said["facts"] = facts.model_dump_json()
    content[SITE_RECORD] = ConfigRecord({**said})
    # Flower cannot tell the size of a record with an empty list.
    content[SERIES_RECORD] = ConfigRecord({name: column for name, column in columns.items() if column})
    content[ROWS_RECORD] = ConfigRecord({"json": json.dumps(rows)})


def mark_difference(content: RecordDict) -> None:
    """Say that a reply's arrays are what training changed, not the model."""
    content[PARAMS_RECORD] = ConfigRecord({"type": DIFF})


def put_supplementary(content: RecordDict, values: Mapping[str, Any]) -> None:
    """Add lists and dictionaries of numbers, which no MetricRecord takes, to a reply's content."""
    if values:
        content[SUPPLEMENTARY_RECORD] = ConfigRecord({"json": json.dumps(values, allow_nan=False)})


def get_supplementary(reply: Message) -> dict[str, Any]:
    """The lists and dictionaries of a reply, unchecked. Raises ``ValueError`` when they cannot be read."""
    text = _config(reply.content, SUPPLEMENTARY_RECORD).get("json")
    found = {} if text is None else _parsed(text)
    if not isinstance(found, dict):
        raise ValueError("its supplementary values cannot be read")
    return found


def as_whole(sent: Message, reply: Message) -> None:
    """Put in the place of a reply's difference, where it is one, the arrays that it makes of what was ``sent``."""
    if _config(reply.content, PARAMS_RECORD).get("type") != DIFF:
        return
    (before,) = (record for record in sent.content.values() if isinstance(record, ArrayRecord))
    for name, record in list(reply.content.items()):
        if isinstance(record, ArrayRecord):
            whole = restored(
                {each: array.numpy() for each, array in before.items()},
                {each: array.numpy() for each, array in record.items()},
            )
            reply.content[name] = ArrayRecord({each: Array(array) for each, array in whole.items()})
    del reply.content[PARAMS_RECORD]


def error_reason(
    slot: str,
    *,
    failure: Failure | None = None,
    aborted: bool = False,
    items: Sequence[Mapping[str, Any]] = (),
    made: int | None = None,
) -> str:
    """The reason of an error reply, at most ``MAX_REASON_BYTES`` long; ``made``: how many items the task has made.

    Where not all fits, the oldest metrics are left out and counted, then the oldest rows.
    """
    head = {
        "slot": slot[:MAX_SLOT_CHARS],
        "failure": asdict(_clipped(failure)) if failure else None,
        "aborted": aborted,
        "made": made,
    }
    bare = len(json.dumps({**head, "items": [], "dropped": len(items)}))
    chosen = _newest(items, MAX_REASON_BYTES - bare)
    return json.dumps({**head, "items": chosen, "dropped": len(items) - len(chosen)})


def get_report(reply: Message) -> SiteReport:
    """What the client reported in ``reply``, whoever wrote it. Never raises.

    An item that names another client than the claim is refused: whether the claim is true is the caller's to judge.
    """
    if reply.has_error():
        return _of_reason(reply.error.reason)
    if not reply.has_content():
        return _NOTHING_SAID
    configs: dict[str, Mapping[str, Any]] = {
        name: record for name, record in reply.content.items() if isinstance(record, ConfigRecord)
    }
    if not configs:
        return _NOTHING_SAID
    site = configs.get(SITE_RECORD, {})
    claim = _claim(site)
    refused: dict[str, int] = {}
    items = _of_series(configs.get(SERIES_RECORD, {}), claim, refused)
    text = configs.get(ROWS_RECORD, {}).get("json")
    if text is not None:
        items += _of_rows(_parsed(text), claim, refused)
    return SiteReport(
        claim=claim,
        also=_foreign_claims(configs.get(CONFIG, {})),
        items=_bounded(items, refused),
        refused=refused,
        made=_made(site),
        facts=SiteFacts.read(_parsed(site["facts"])) if "facts" in site else None,
    )


def malformed(reply: Message) -> str | None:
    """Why nothing in ``reply`` can be believed: a record under one of our names that is none of ours. None: sound."""
    if not reply.has_content():
        return None
    for name, record in reply.content.items():
        if name.startswith(OUR_PREFIX) and not isinstance(record, ConfigRecord):
            said = f"'{name}'" if sane_name(name) else f"one named '{OUR_PREFIX}…'"
            return f"its record {said} is no ConfigRecord"
    return None


def stamp_slot(content: RecordDict, slot: str) -> None:
    """Write down in a reply that was accepted whose it is: the server's word in the place of the client's."""
    content[SITE_RECORD] = _slot_record(slot).copy()


@lru_cache(maxsize=1024)
def _slot_record(slot: str) -> ConfigRecord:
    return ConfigRecord({"slot": slot})


def reply_slot(reply: Message) -> str:
    """The slot behind a reply that the grid has passed on. Raises ``ValueError`` for a reply of another grid."""
    slot = _config(reply.content, SITE_RECORD).get("slot")
    if not isinstance(slot, str):
        raise ValueError("the reply has no slot: the strategy must run behind flip_fl.flower.run")
    return slot


# -- reading ---------------------------------------------------------------------------------------------


def _of_series(record: Mapping[str, Any], claim: str | None, refused: dict[str, int]) -> list[dict[str, Any]]:
    if not record:
        return []
    found = items_of(record, claim, MAX_ITEMS_PER_REPLY + 1)
    _count(refused, UNREADABLE, found.unreadable)
    _count(refused, _too_many(), found.beyond)
    return found.items


def _of_rows(raw: Any, claim: str | None, refused: dict[str, int]) -> list[dict[str, Any]]:
    if not isinstance(raw, list):
        _count(refused, UNREADABLE)
        return []
    entries = [entry for entry in raw if isinstance(entry, dict)]
    items = [entry for entry in entries if entry.get("client") == claim]
    _count(refused, UNREADABLE, len(raw) - len(entries))
    _count(refused, f"they name another client than {claim or 'the sender'}", len(entries) - len(items))
    return items


def _of_reason(reason: str | None) -> SiteReport:
    """The report in an error's reason; an empty one where Flower or another ClientApp wrote the reason."""
    if not isinstance(reason, str) or len(reason) > MAX_REASON_BYTES:
        return SiteReport()
    facts = _parsed(reason)
    if not isinstance(facts, dict):
        return SiteReport()
    claim = _claim(facts)
    refused: dict[str, int] = {}
    items = _of_rows(facts.get("items", []), claim, refused)
    _count(refused, f"more than fits into {MAX_REASON_BYTES} bytes of an error reply", _whole(facts.get("dropped")))
    return SiteReport(
        claim=claim,
        items=_bounded(items, refused),
        failure=_failure(facts.get("failure")),
        aborted=facts.get("aborted") is True,
        refused=refused,
        made=_made(facts),
    )


def _claim(facts: Mapping[str, Any]) -> str | None:
    slot = facts.get("slot")
    return slot if isinstance(slot, str) and slot else None


def _made(facts: Mapping[str, Any]) -> int | None:
    return min(_whole(facts.get("made")), MAX_MADE) or None


def _foreign_claims(config: Mapping[str, Any]) -> tuple[str, ...]:
    # Strategies put a record of this name into their messages, and clients may echo it: nothing else in it counts.
    said = (config.get(key) for key in _FOREIGN_CLAIMS)
    return tuple(claim for claim in said if isinstance(claim, str) and claim)


def _failure(facts: Any) -> Failure | None:
    try:
        return _FAILURE.validate_python(facts)
    except ValidationError:
        return None


def _clipped(failure: Failure) -> Failure:
    """Nothing of our own is this long; with twelve bytes of JSON for every character it still fits."""
    return replace(
        failure,
        slot=failure.slot[:MAX_SLOT_CHARS],
        task=failure.task[:MAX_SLOT_CHARS],
        type=failure.type[:MAX_SLOT_CHARS],
        traceback=failure.traceback[-MAX_TEXT_CHARS:],
        stage=failure.stage[:MAX_SLOT_CHARS] if failure.stage is not None else None,
    )


def _newest(items: Sequence[Mapping[str, Any]], room: int) -> list[Mapping[str, Any]]:
    """The items that fit into ``room`` bytes of JSON, in their order: rows before metrics, new before old."""
    order = sorted(range(len(items)), key=lambda place: (items[place].get("kind") == "metric", -place))
    kept = []
    for place in order:
        room -= len(json.dumps(items[place])) + len(", ")
        if room < 0:
            break
        kept.append(place)
    return [items[place] for place in sorted(kept)]


def _bounded(items: list[dict[str, Any]], refused: dict[str, int]) -> list[dict[str, Any]]:
    _count(refused, _too_many(), len(items) - MAX_ITEMS_PER_REPLY)
    return items[:MAX_ITEMS_PER_REPLY]


def _too_many() -> str:
    return f"more than {MAX_ITEMS_PER_REPLY} in one message"


def _count(refused: dict[str, int], reason: str, count: int = 1) -> None:
    if count > 0:
        refused[reason] = refused.get(reason, 0) + count


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text, parse_int=_number)
    except (TypeError, ValueError, RecursionError):
        return None


def _number(digits: str) -> int | float:
    """A whole number as JSON has it; one beyond 64 bits as a float, which every check downstream can take."""
    return int(digits) if len(digits) < len(str(2**63)) else float(digits)


def _config(content: RecordDict, name: str) -> Mapping[str, Any]:
    record = content.get(name)
    return record if isinstance(record, ConfigRecord) else {}


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
