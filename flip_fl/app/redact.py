"""A traceback that may leave the trust: types, places and the code's own words; no value of a row.

What stays: exception types, file names (the app's relative to its folder), line numbers, functions, and the app's own
source lines, which the researcher wrote. Of an exception's message only what provably comes from code stays: known
texts of the interpreter with their values taken out, and pieces that are literals of the app or of the code that
raised. Everything else reads ``<value>``, or the whole message is withheld.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType

from flip_fl.app.known_messages import fill
from flip_fl.app.vocabulary import Vocabulary

VALUE = "<value>"
MAX_MESSAGE_CHARS = 2_000
MAX_TEXT_CHARS = 16_000
MAX_FRAMES = 40
MAX_CHAIN = 8
MAX_LINE_CHARS = 200
_HEAD_FRAMES = 8
# What stands between the engine and the app: the same in every traceback.
_OF_THE_SEAM = frozenset({"flip_fl.app.runner", "flip_fl.app.functions"})
_HOUSE = Path(__file__).resolve().parents[1]
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_QUIET = frozenset("'\"()[]{}:,.;")
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"
_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process (\d+)\.\n")
_WORKER_FRAME = re.compile(r'  File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<name>[\w<>]+)$')


def redacted(error: BaseException, app_dir: Path | None = None) -> str:
    """The traceback of ``error`` and of what led to it, in Python's layout, values removed. Never raises."""
    try:
        return _Redactor(app_dir).chain(error)[-MAX_TEXT_CHARS:]
    except Exception:
        # A foreign exception's own code failed while we read it: its type is all that may be said.
        return f"{_plain_type(type(error))}: <message withheld>"


def type_name(error: BaseException) -> str:
    """The exception's type, or its nearest base that a module really defines: a made-up name could hold a value."""
    return _plain_type(type(error))


class _Redactor:
    def __init__(self, app_dir: Path | None) -> None:
        self._app_dir = app_dir.resolve() if app_dir is not None else None
        self._roots = sorted({str(Path(entry).resolve()) for entry in sys.path if entry}, key=len, reverse=True)

    def chain(self, error: BaseException) -> str:
        blocks: list[str] = []
        seen: set[int] = set()
        current: BaseException | None = error
        while current is not None and id(current) not in seen and len(seen) < MAX_CHAIN:
            seen.add(id(current))
            blocks.append(self._one(current))
            if current.__cause__ is not None:
                link, following = _CAUSE, current.__cause__
            elif current.__context__ is not None and not current.__suppress_context__:
                link, following = _CONTEXT, current.__context__
            else:
                break
            if id(following) not in seen and len(seen) < MAX_CHAIN:
                blocks.append(link)
            current = following
        return "\n\n".join(reversed(blocks))

    def _one(self, error: BaseException) -> str:
        frames = self._frames(error.__traceback__)
        head = ["Traceback (most recent call last):", *frames] if frames else []
        message = self.message(error)
        return "\n".join([*head, f"{type_name(error)}: {message}" if message else type_name(error)])

    # -- frames -----------------------------------------------------------------------------------------------

    def _frames(self, trace: TracebackType | None) -> list[str]:
        shown = []
        for frame, line in traceback.walk_tb(trace):
            if frame.f_globals.get("__name__") in _OF_THE_SEAM:
                continue
            shown.append(self._frame(frame.f_code.co_filename, line, frame.f_code.co_name))
        if len(shown) > MAX_FRAMES:
            hidden = len(shown) - MAX_FRAMES
            shown[_HEAD_FRAMES : _HEAD_FRAMES + hidden] = [f"  … {hidden} frames …"]
        return shown

    def _frame(self, filename: str, line: int | None, name: str) -> str:
        own = self._in_app(filename)
        head = f'  File "{self._place(filename)}", line {line}, in {name if _is_name(name) else "<generated>"}'
        if own and line:
            linecache.checkcache(filename)
            text = linecache.getline(filename, line).strip()[:MAX_LINE_CHARS]
            return f"{head}\n    {text}" if text else head
        return head

    def _place(self, filename: str) -> str:
        path = Path(filename)
        if not path.is_absolute() or not path.is_file():
            return "<frozen>" if filename.startswith("<frozen") else "<generated>"
        resolved = path.resolve()
        if self._app_dir is not None and resolved.is_relative_to(self._app_dir):
            return resolved.relative_to(self._app_dir).as_posix()
        for root in self._roots:
            if resolved.is_relative_to(root):
                return resolved.relative_to(root).as_posix()
        return resolved.name

    def _in_app(self, filename: str) -> bool:
        return self._app_dir is not None and Path(filename).is_file() and Path(filename).resolve().is_relative_to(
            self._app_dir
        )  # fmt: skip

    # -- messages ---------------------------------------------------------------------------------------------

    def message(self, error: BaseException) -> str:
        """What may be said of the exception's own text."""
        if isinstance(error, SyntaxError):
            return self._syntax(error)
        try:
            text = str(error)
        except Exception:
            return "<message withheld>"  # the exception's own code failed
        if not text or self._is_ours(error):
            return text
        vocabulary = self._vocabulary(error)
        worker = _WORKER.match(text)
        if worker is not None:
            return self._worker(text[worker.end() :], f"Caught {worker[1]} in DataLoader worker.", vocabulary)
        return scrub(text, vocabulary, short=isinstance(error, LookupError))

    def _vocabulary(self, error: BaseException) -> Vocabulary:
        vocabulary = Vocabulary.of_app(self._app_dir)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            code = frame.f_code
            # Code that was made from data (`exec`, `eval`) has no file, and its literals are no code's own.
            if Path(code.co_filename).is_file() and not self._in_app(code.co_filename):
                vocabulary.add_code(code)
        return vocabulary

    def _is_ours(self, error: BaseException) -> bool:
        """Whether the house wrote and raised it: its messages hold no data by rule, the app may not borrow them."""
        if not type(error).__module__.startswith("flip_fl."):
            return False
        raised_in = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        return bool(raised_in) and Path(raised_in[-1]).resolve().is_relative_to(_HOUSE)

    def _syntax(self, error: SyntaxError) -> str:
        if error.filename is None or not self._in_app(error.filename):
            return "<message withheld>"  # the text that could not be parsed may be data
        place = f"({self._place(error.filename)}, line {error.lineno})"
        linecache.checkcache(error.filename)
        line = linecache.getline(error.filename, error.lineno or 0).strip()[:MAX_LINE_CHARS]
        return f"{error.msg} {place}: {line}" if line else f"{error.msg} {place}"

    def _worker(self, text: str, head: str, vocabulary: Vocabulary) -> str:
        lines = [head]
        *body, last = text.strip().splitlines()
        for line in body:
            match = _WORKER_FRAME.match(line)
            if match is not None:
                lines.append(self._frame(match["file"], int(match["line"]), match["name"]))
        kind, _, message = last.partition(": ")
        known = _is_name(kind.rpartition(".")[2]) and kind.rpartition(".")[2].endswith(("Error", "Exception"))
        lines.append(f"{kind if known else '<type>'}: {scrub(message, vocabulary)}")
        return "\n".join(lines)


def scrub(text: str, vocabulary: Vocabulary, *, short: bool = False) -> str:
    """``text`` with only those parts left that come from code.

    ``short``: a text without any such part reads ``<value>`` (a lookup's message is the key itself) instead of
    ``<message withheld: N characters>``.
    """
    length = len(text)
    known = fill(text[:MAX_MESSAGE_CHARS], lambda name: name in vocabulary.names)
    if known is not None:
        return known
    kept, trusted = _compose(text[:MAX_MESSAGE_CHARS], vocabulary.trusted())
    if trusted:
        return kept
    return VALUE if short else f"<message withheld: {length} characters>"


def _compose(text: str, trusted: list[str]) -> tuple[str, bool]:
    """The text with ``<value>`` for every stretch that is no trusted piece, and whether any piece was found."""
    parts: list[tuple[str, str]] = []  # kind: piece, quiet (blanks and brackets), value
    found = False
    at = 0
    while at < len(text):
        piece = next((p for p in trusted if text.startswith(p, at) and _stands_alone(text, at, at + len(p))), None)
        if piece is not None:
            parts.append(("piece", piece))
            found, at = True, at + len(piece)
            continue
        match = _TOKEN.match(text, at)
        token = match[0] if match else text[at]
        parts.append(("quiet" if token.isspace() or token in _QUIET else "value", token))
        at += len(token)
    return _joined(parts), found


def _joined(parts: list[tuple[str, str]]) -> str:
    out: list[str] = []
    pending: list[str] = []  # quiet parts that follow a value: dropped when another value follows
    in_value = False
    for kind, text in parts:
        if kind == "value":
            if not in_value:
                out.append(VALUE)
            in_value, pending = True, []
        elif kind == "quiet" and in_value:
            pending.append(text)
        else:
            out += [*pending, text]
            in_value, pending = False, []
    return re.sub(r"\s+", " ", "".join([*out, *pending])).strip()


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether the piece is not a part of a longer word."""
    inner = (text[start], text[end - 1])
    before = start > 0 and _is_word_char(text[start - 1]) and _is_word_char(inner[0])
    after = end < len(text) and _is_word_char(text[end]) and _is_word_char(inner[1])
    return not before and not after


def _is_word_char(char: str) -> bool:
    return char.isalnum() or char == "_"


def _is_name(name: str) -> bool:
    return name.isidentifier() or re.fullmatch(r"<(module|lambda|listcomp|dictcomp|setcomp|genexpr)>", name) is not None


def _plain_type(kind: type[BaseException]) -> str:
    for base in kind.__mro__:
        owner: object = sys.modules.get(base.__module__)
        for name in base.__qualname__.split("."):
            owner = getattr(owner, name, None)
        if owner is base:
            return base.__name__ if base.__module__ == "builtins" else f"{base.__module__}.{base.__qualname__}"
    return "Exception"
