"""``federation.yaml``: what a federation is, checked whole before anything is made.

::

    net: oncology            # letters, digits, '.', '_' and '-', at most 63
    engine: nvflare          # or flower
    server:
      host: fl.example.org   # the name or IPv4 address that sites connect to
      port: 8002             # 8002 when absent
      other_hosts: []        # further names and addresses in the server's certificate
    slots: 5                 # kits for Trust_1 … Trust_5
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from flip_fl.app.spelling import nearest
from flip_fl.errors import FlipError

Engine = Literal["nvflare", "flower"]
MAX_SLOTS = 1000
DEFAULT_NET = "default"
DEFAULT_HOST = "localhost"
DEFAULT_PORT = 8002

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_EXAMPLES = {"net": "oncology", "engine": "nvflare", "server": "{host: fl.example.org}", "slots": "5"}
_EXAMPLES["server.host"] = "fl.example.org"
_EXPECTED = {
    "net": "text of letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 63",
    "engine": "nvflare or flower",
    "server": "a mapping with the key host",
    "server.host": "a host name or an IPv4 address, without scheme and port",
    "server.port": "a whole number from 1 to 65535",
    "server.other_hosts": "a list of host names and IPv4 addresses",
    "slots": f"a whole number from 1 to {MAX_SLOTS}",
}


def _host(value: str) -> str:
    digits = re.fullmatch(r"[0-9.]+", value) is not None
    numbers = value.split(".")
    address = len(numbers) == 4 and all(n.isdecimal() and int(n) <= 255 and str(int(n)) == n for n in numbers)
    if len(value) > 253 or not _HOST.fullmatch(value) or (digits and not address):
        raise ValueError("no host name or IPv4 address")
    return value


Host = Annotated[str, AfterValidator(_host)]


class Server(BaseModel):
    """Where sites connect to; ``names`` are what the server's certificate is for, the main one first."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    host: Host
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    other_hosts: list[Host] = []

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.host, *self.other_hosts)))


class Federation(BaseModel):
    """One net: its engine, its server and how many kit slots it has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    net: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    engine: Engine
    server: Server
    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)]


def slot_names(first: int, last: int) -> list[str]:
    """``Trust_<first>`` … ``Trust_<last>``, in the order of their numbers."""
    return [f"Trust_{number}" for number in range(first, last + 1)]


def make_federation(
    *, net: str, host: str, slots: int, port: int = DEFAULT_PORT, engine: Engine = "nvflare"
) -> Federation:
    """A federation from the command line's words. Raises ``FlipError`` E0602 for one that cannot be."""
    # Whoever tries it on one machine connects by either name.
    others = ["127.0.0.1"] if host == DEFAULT_HOST else []
    server = {"host": host, "port": port, "other_hosts": others}
    data = {"net": net, "engine": engine, "server": server, "slots": slots}
    options = {"net": "--net", "server.host": "--host", "slots": "-n"}
    try:
        return Federation.model_validate(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = _dotted(problem["loc"])
        raise FlipError(
            "E0602", key=options.get(key, key), value=f"'{problem['input']}'", expected=_expected(key)
        ) from None


def load_federation(path: Path) -> Federation:
    """The federation that a YAML file describes.

    Raises ``FlipError`` E0603 for a file that cannot be read as one mapping, E0604 for a missing key, E0605 for an
    unknown or repeated key and E0602 for a bad value, each with ``file:line:column``.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise _unreadable(path, (error.strerror or type(error).__name__).lower()) from None
    except UnicodeDecodeError:
        raise _unreadable(path, "it is no UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else None
        raise _unreadable(path, getattr(error, "problem", None) or "it is no YAML", where) from None
    if not isinstance(data, dict):
        raise _unreadable(path, "it is no mapping of keys to values")
    places = dict(_places(root, path))
    for key, where in _repeated(root, path):
        raise FlipError("E0605", file=path.name, key=key, problem=" twice", suggestion="keep one of them", where=where)
    try:
        return Federation.model_validate(data)
    except ValidationError as error:
        raise _refusal(path, error, places) from None


_Places = dict[str, tuple[str, str | None]]


def _refusal(path: Path, error: ValidationError, places: _Places) -> FlipError:
    problems = error.errors(include_url=False)
    # A misspelt key is both unknown and missing: the word that stands in the file is told.
    order = {"extra_forbidden": 0, "missing": 1}
    problem = min(problems, key=lambda p: order.get(p["type"], 2))
    key = _dotted(problem["loc"])
    where, written = places.get(key, (str(path), None))
    if problem["type"] == "extra_forbidden":
        return _unknown_key(path, key, where)
    if problem["type"] == "missing":
        parent, _, last = key.rpartition(".")
        suggestion = f"add {last}: {_EXAMPLES[key]}" + (f" below {parent}" if parent else "")
        above = places.get(parent, (str(path), None))[0]
        return FlipError("E0604", file=path.name, key=key, expected=_expected(key), suggestion=suggestion, where=above)
    value = f"'{written}'" if written is not None else repr(problem["input"])
    return FlipError("E0602", key=key, value=value, expected=_expected(key), where=where)


def _unknown_key(path: Path, key: str, where: str) -> FlipError:
    parent, _, last = key.rpartition(".")
    model = Server if parent == "server" else Federation
    known = list(model.model_fields)
    near = nearest(last, known)
    suggestion = f"did you mean {' or '.join(near)}?" if near else f"take it out; keys: {', '.join(known)}"
    return FlipError(
        "E0605",
        file=path.name,
        key=key,
        problem=", which a federation does not have",
        suggestion=suggestion,
        where=where,
    )


def _unreadable(path: Path, problem: str, where: str | None = None) -> FlipError:
    suggestion = "a federation is a YAML file with the keys net, engine, server and slots"
    if path.name.isdecimal():
        suggestion = f"flip-fl provision -n {path.name}"
    elif not path.exists():
        suggestion = "give the path of the file, or the number of sites with -n"
    return FlipError("E0603", file=path, problem=problem, suggestion=suggestion, where=where)


def _places(node: Any, path: Path, prefix: str = "") -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Dotted key → (``file:line:column`` of its value, the value as written if it is a scalar)."""
    mark = node.start_mark
    written = node.value if isinstance(node.value, str) else None
    yield prefix, (f"{path}:{mark.line + 1}:{mark.column + 1}", written)
    if node.id == "mapping":
        for key, value in node.value:
            yield from _places(value, path, f"{prefix}.{key.value}" if prefix else str(key.value))
    elif node.id == "sequence":
        for index, value in enumerate(node.value):
            yield from _places(value, path, f"{prefix}.{index}")


def _repeated(node: Any, path: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    if node.id != "mapping":
        return
    seen: set[str] = set()
    for key, value in node.value:
        name = f"{prefix}.{key.value}" if prefix else str(key.value)
        if name in seen:
            yield name, f"{path}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
        seen.add(name)
        yield from _repeated(value, path, name)


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _expected(key: str) -> str:
    """What a key expects; an item of a list expects what its list does."""
    return _EXPECTED[re.sub(r"\.\d+$", "", key)]
