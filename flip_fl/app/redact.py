"""A traceback that may leave the trust: types, places and the code's own words; no value of a row.

What stays: exception types, file names (the app's relative to its folder), line numbers, functions, and the app's own
source lines, which the researcher wrote. Of an exception's message only what provably comes from code stays: known
texts of the interpreter with their values taken out, and pieces that are literals of the app or of the code that
raised. Everything else reads ``<value>``, or the whole message is withheld.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType

from flip_fl.app.known_messages import fill
from flip_fl.app.raised import CAUSE, Place, Raised, Unparsed, plain_type, raised
from flip_fl.app.sources_of import code_at, is_type, roots
from flip_fl.app.vocabulary import Vocabulary

VALUE = "<value>"
MAX_MESSAGE_CHARS = 2_000
MAX_TEXT_CHARS = 16_000
MAX_FRAMES = 40
MAX_LINE_CHARS = 200
_HEAD_FRAMES = 8
_WITHHELD = "<message withheld>"
_HOUSE = "flip_fl."
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_QUIET = frozenset("'\"()[]{}:,.;")
_SHORT_NUMBER = re.compile(r"\d{1,4}")
_LINKS = {
    True: "The above exception was the direct cause of the following exception:",
    False: "During handling of the above exception, another exception occurred:",
}
_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process (\d+)\.\n")
_WORKER_FRAME = re.compile(r'  File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<name>[\w<>]+)$')


def redacted(error: BaseException, app_dir: Path | None = None) -> str:
    """The traceback of ``error`` and of what led to it, in Python's layout, values removed. Never raises."""
    try:
        return _Redactor(app_dir).chain(raised(error))[-MAX_TEXT_CHARS:]
    except Exception:
        # A foreign exception's own code failed while we read it: its type is all that may be said.
        return f"{plain_type(type(error))}: {_WITHHELD}"


def redacted_told(
    chain: Sequence[Raised], app_dir: Path | None, known: Callable[[str], bool] = lambda text: False
) -> tuple[str, str]:
    """Type and traceback of what another process has told of itself, of which nothing is taken at its word.

    Frames and types must be found in the files that they name, and a text that is said to be the house's must consist
    of what the house and the app have written; ``known`` texts are those that this process has said to it. Never
    raises.
    """
    try:
        redactor = _Redactor(app_dir, known)
        return redactor.type(chain[0]), redactor.chain(chain)[-MAX_TEXT_CHARS:]
    except Exception:
        return "Exception", f"Exception: {_WITHHELD}"


def type_name(error: BaseException) -> str:
    """The exception's type, or its nearest base that a module really defines: a made-up name could hold a value."""
    return plain_type(type(error))


class _Redactor:
    """``known`` is None for exceptions of this process, whose types and frames are what they say."""

    def __init__(self, app_dir: Path | None, known: Callable[[str], bool] | None = None) -> None:
        self._app_dir = app_dir.resolve() if app_dir is not None else None
        self._roots = roots()
        self._known = known

    def chain(self, errors: Sequence[Raised]) -> str:
        blocks: list[str] = []
        for number, error in enumerate(errors):
            blocks.append(self._one(error))
            if number + 1 < len(errors):
                blocks.append(_LINKS[error.link == CAUSE])
        return "\n\n".join(reversed(blocks))

    def type(self, error: Raised) -> str:
        return error.type if self._known is None or is_type(error.type, self._app_dir) else "Exception"

    def _one(self, error: Raised) -> str:
        frames = self._frames(error.places)
        head = ["Traceback (most recent call last):", *frames] if frames else []
        message, name = self._message(error), self.type(error)
        return "\n".join([*head, f"{name}: {message}" if message else name])

    # -- frames -----------------------------------------------------------------------------------------------

    def _frames(self, places: Sequence[Place]) -> list[str]:
        shown = [self._frame(each) for each in places]
        if len(shown) > MAX_FRAMES:
            hidden = len(shown) - MAX_FRAMES
            shown[_HEAD_FRAMES : _HEAD_FRAMES + hidden] = [f"  … {hidden} frames …"]
        return shown

    def _frame(self, place: Place) -> str:
        line, name = place.line, place.name if _is_name(place.name) else "<generated>"
        if self._known is not None and self._code(place) is None:
            line, name = 0, "<generated>"
        own = self._in_app(place.file)
        head = f'  File "{self._place(place.file)}", line {line}, in {name}'
        if own and line:
            linecache.checkcache(place.file)
            text = linecache.getline(place.file, line).strip()[:MAX_LINE_CHARS]
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
        return resolved.name if self._known is None else "<generated>"

    def _in_app(self, filename: str) -> bool:
        return self._app_dir is not None and Path(filename).is_file() and Path(filename).resolve().is_relative_to(
            self._app_dir
        )  # fmt: skip

    # -- messages ---------------------------------------------------------------------------------------------

    def _message(self, error: Raised) -> str:
        """What may be said of the exception's own text."""
        if error.unparsed is not None:
            return self._syntax(error.unparsed)
        text = error.text
        if text is None:
            return _WITHHELD  # the exception's own code failed
        if not text or (error.ours and self._known is None) or (self._known is not None and self._known(text)):
            return text
        vocabulary = self._vocabulary(error)
        worker = _WORKER.match(text)
        if worker is not None:
            return self._worker(text[worker.end() :], f"Caught {worker[1]} in DataLoader worker.", vocabulary)
        own_words = vocabulary.names.__contains__ if error.ours and error.type.startswith(_HOUSE) else None
        return scrub(text, vocabulary, short=error.lookup, words=own_words)

    def _vocabulary(self, error: Raised) -> Vocabulary:
        vocabulary = Vocabulary.of_app(self._app_dir)
        if self._known is not None and error.ours:
            vocabulary.add(Vocabulary.of_house())
        for place in error.places:
            # Code that was made from data (`exec`, `eval`) has no file, and its literals are no code's own.
            code = self._code(place)
            if code is not None and Path(place.file).is_file() and not self._in_app(place.file):
                vocabulary.add_code(code)
        return vocabulary

    def _code(self, place: Place) -> CodeType | None:
        """The frame's code; of another process's frame only where a library or the app really has it."""
        if self._known is None:
            return place.code
        if place.file.startswith("<frozen "):
            return code_at(place.file, place.line, place.name)
        resolved = str(Path(place.file).resolve())
        if not self._in_app(place.file) and not any(Path(resolved).is_relative_to(root) for root in self._roots):
            return None
        return code_at(resolved, place.line, place.name)

    def _syntax(self, error: Unparsed) -> str:
        if error.file is None or not self._in_app(error.file):
            return _WITHHELD  # the text that could not be parsed may be data
        message = error.message
        if self._known is not None:
            found = _parse_problem(error.file)
            if found is None:
                return _WITHHELD
            message = found
        place = f"({self._place(error.file)}, line {error.line})"
        linecache.checkcache(error.file)
        line = linecache.getline(error.file, error.line or 0).strip()[:MAX_LINE_CHARS]
        return f"{message} {place}: {line}" if line else f"{message} {place}"

    def _worker(self, text: str, head: str, vocabulary: Vocabulary) -> str:
        lines = [head]
        *body, last = text.strip().splitlines()
        for line in body:
            match = _WORKER_FRAME.match(line)
            if match is not None:
                file, at, name = match["file"], int(match["line"]), match["name"]
                lines.append(self._frame(Place(file, at, name, code_at(file, at, name))))
        kind, _, message = last.partition(": ")
        known = _is_name(kind.rpartition(".")[2]) and kind.rpartition(".")[2].endswith(("Error", "Exception"))
        if self._known is not None:
            known = is_type(kind, self._app_dir)
        lines.append(f"{kind if known else '<type>'}: {scrub(message, vocabulary)}")
        return "\n".join(lines)


def _parse_problem(file: str) -> str | None:
    """What the parser says of the file; None when it says nothing."""
    try:
        compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
    except SyntaxError as error:
        return str(error.msg)
    except (OSError, ValueError):
        return None
    return None


def scrub(text: str, vocabulary: Vocabulary, *, short: bool = False, words: Callable[[str], bool] | None = None) -> str:
    """``text`` with only those parts left that come from code.

    ``short``: a text without any such part reads ``<value>`` (a lookup's message is the key itself) instead of
    ``<message withheld: N characters>``. Of a text of the house, ``words`` and short numbers stay, too.
    """
    length = len(text)
    known = fill(text[:MAX_MESSAGE_CHARS], lambda name: name in vocabulary.names)
    if known is not None:
        return known
    kept, trusted = _compose(text[:MAX_MESSAGE_CHARS], vocabulary.trusted(), words)
    if trusted:
        return kept
    return VALUE if short else f"<message withheld: {length} characters>"


def _compose(text: str, trusted: list[str], words: Callable[[str], bool] | None) -> tuple[str, bool]:
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
        if words is not None and (words(token) or _SHORT_NUMBER.fullmatch(token)):
            parts.append(("piece", token))
        else:
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
