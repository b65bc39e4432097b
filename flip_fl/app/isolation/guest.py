"""A guest's process: the app's functions, behind walls, for one job of one site.

    CHANNEL      (the number of an inherited socket)

Forked by ``Guest`` only. Everything that it says is judged by whoever reads it: this process is the app's.
"""

from __future__ import annotations

import importlib
import itertools
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flip_fl.app.faults import AppError, BadFrame, TaskAborted
from flip_fl.app.functions import call_functions
from flip_fl.app.isolation import handover, plain_values
from flip_fl.app.isolation.channel import Channel, Said
from flip_fl.app.isolation.gate import pass_gate, tensors_by_value
from flip_fl.app.raised import raised, told
from flip_fl.app.script_data import AskedSource
from flip_fl.app.session import Session
from flip_fl.app.site import Ledger, SiteSpec
from flip_fl.app.tensors import Arrays
from flip_fl.core import beside
from flip_fl.data.images import Studies, Study, accession_numbers
from flip_fl.data.listing import StudyFile
from flip_fl.data.manifest import Manifest, SkipReason
from flip_fl.data.volumes import import_readers
from flip_fl.privacy.egress import as_number
from flip_fl.values import ResourceType, Task

if TYPE_CHECKING:
    import pandas as pd

# What comes from the site is a model, however large.
_NO_LIMIT = 1 << 62
LOOK_S = 0.1


def main(argv: Sequence[str]) -> int:
    """Serve one site until it closes the channel."""
    stream = socket.socket(fileno=int(argv[0]))
    stream.set_inheritable(False)
    channel = Channel(stream)
    tensors_by_value()
    begin = pass_gate(channel)
    if begin is None:
        return 1
    _Guest(channel, begin).serve()
    return 0


class _Guest:
    """The guest's end: tasks, one after another; answers and stops come in between."""

    def __init__(self, channel: Channel, begin: Mapping[str, Any]) -> None:
        self._channel = channel
        self._owner = os.getpid()
        self._tasks: queue.SimpleQueue[Said | None] = queue.SimpleQueue()
        self._asked: dict[int, queue.SimpleQueue[Said]] = {}
        self._numbers = itertools.count()
        self._stopped = threading.Event()
        source = _Source(self)
        # A developer's FLIP() reads the files that its environment names.
        if begin["asks"]:
            beside.give(source)
        self._session = _GuestSession(
            Path(begin["app_dir"]),
            source,
            aborted=self._stopped.is_set,
            show_output=begin["show_output"],
            local_rounds=begin["local_rounds"],
        )
        self._session.uploads = Path(begin["uploads"])
        derived = begin["derived"]
        self._session.fetch = _Fetch(self, Path(derived) if derived is not None else None)
        self._kept: dict[str, Arrays] = {}

    def serve(self) -> None:
        threading.Thread(target=self._listen, name="flip-site", daemon=True).start()
        while (said := self._tasks.get()) is not None:
            self._stopped.clear()
            head = said.head
            try:
                self._answer(head, said)
            except TaskAborted:
                self.say({"kind": "aborted", "number": head["number"]})
            except BaseException as error:
                if not self.own:
                    os._exit(1)
                self.say(
                    {
                        "kind": "failed",
                        "number": head["number"],
                        "raised": told(raised(error)),
                        "ours": isinstance(error, AppError),
                        "printed": self._session.printed(),
                    }
                )

    @property
    def own(self) -> bool:
        """Whether this is the process that the site knows, and no copy of it."""
        return os.getpid() == self._owner

    def say(self, head: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raises ``AppError`` in a forked copy of the process, and for what is too large."""
        if not self.own:
            raise AppError("only the process in which the app was started can speak to its site")
        try:
            self._channel.say(head, descriptors)
        except BadFrame as problem:
            raise AppError(f"it cannot be sent: {problem}") from None

    def asking(self, asked: str, **facts: Any) -> tuple[int, queue.SimpleQueue[Said]]:
        """Ask the site; its answers come to the queue until it is ``forgotten``. For several threads."""
        number = next(self._numbers)
        answers = self._asked[number] = queue.SimpleQueue()
        self.say({"kind": "ask", "ask": number, "asked": asked, **facts})
        return number, answers

    def forget(self, number: int) -> None:
        self._asked.pop(number, None)

    def ask(self, asked: str, **facts: Any) -> tuple[dict[str, Any], Arrays]:
        """The site's one answer."""
        number, answers = self.asking(asked, **facts)
        said = answers.get()
        self.forget(number)
        arrays = handover.take(said.descriptors.pop(), _NO_LIMIT) if said.descriptors else {}
        return said.head, arrays

    def _answer(self, head: Mapping[str, Any], said: Said) -> None:
        facts = head["spec"]
        spec = SiteSpec(**{**facts, "task": Task(facts["task"])})
        arrays = handover.take(said.descriptors.pop(0), _NO_LIMIT)
        session = self._session
        if "work" in head:
            self._work(head, spec, handover.to_bytes(arrays))
            return
        for key in head["own"]:
            session.local.keep(key, handover.take(said.descriptors.pop(0), _NO_LIMIT))
        session.begin()
        made = call_functions(spec, arrays, session, _Told(self, spec))
        given = [made.arrays] if spec.task is Task.TRAIN else []
        kept = session.local_changed()
        memory = [handover.put(each) for each in (*given, *kept.values())]
        try:
            self.say(
                {
                    "kind": "result",
                    "number": head["number"],
                    "values": plain_values.told(made.values),
                    "kept": list(kept),
                    "printed": session.printed(),
                },
                memory,
            )
        finally:
            for descriptor in memory:
                os.close(descriptor)

    def _work(self, head: Mapping[str, Any], spec: SiteSpec, blobs: dict[str, bytes]) -> None:
        """What a module of the house does with an app of another form."""
        session = self._session
        session.begin()
        module = importlib.import_module(head["work"])
        facts, made = module.work(head["facts"], blobs, spec, session, _Told(self, spec))
        memory = handover.put(handover.of_bytes(made))
        try:
            self.say(
                {"kind": "result", "number": head["number"], "facts": facts, "printed": session.printed()}, [memory]
            )
        finally:
            os.close(memory)

    def _listen(self) -> None:
        while (said := self._channel.read()) is not None:
            kind = said.head["kind"]
            if kind == "answer":
                waiting = self._asked.get(said.head["ask"])
                if waiting is not None:
                    waiting.put(said)
            elif kind == "stop":
                self._stopped.set()
            elif kind == "task":
                self._tasks.put(said)
            else:
                self._tasks.put(None)
        # The site is gone, and so is everything of the app.
        os.killpg(0, signal.SIGKILL)


class _GuestSession(Session):
    """The session on this side: counts what was printed, and knows which part of a model it has kept."""

    _printed = 0

    def begin(self) -> None:
        self._before = {key: id(each) for key, each in self.local.held().items()}
        self._printed = 0

    def printed(self) -> int:
        return self._printed

    def local_changed(self) -> dict[str, Arrays]:
        return {key: each for key, each in self.local.held().items() if self._before.get(key) != id(each)}

    def tell_withheld(self, lines: int, spec: SiteSpec, ledger: Ledger) -> None:
        self._printed = lines


class _Told(Ledger):
    """Sends what the site is to judge; it keeps nothing here."""

    def __init__(self, guest: _Guest, spec: SiteSpec) -> None:
        self._guest = guest

    def metric(
        self,
        label: Any,
        value: Any,
        x_value: Any = None,
        x_label: Any = None,
        *,
        returned: bool = False,
        house: bool = False,
    ) -> bool:
        self._guest.say(
            {
                "kind": "log",
                "label": label if isinstance(label, str) else None,
                "value": _number(value),
                "x_value": None if x_value is None else _number(x_value),
                "has_x": x_value is not None,
                "x_label": x_label if isinstance(x_label, str) else None,
                "has_x_label": x_label is not None,
            }
        )
        return True

    def note(self, text: str, *, success: bool = False) -> None:
        """What the house says here, the site says itself."""


def _number(value: Any) -> Any:
    number = as_number(value)
    return None if number is None else repr(number)


class _Source(AskedSource):
    def __init__(self, guest: _Guest) -> None:
        super().__init__(guest.ask)


class _Arriving:
    """Studies that the site fetches, as they come."""

    def __init__(self, guest: _Guest, names: Sequence[str], types: Sequence[ResourceType]) -> None:
        self._guest = guest
        self._left = len(names)
        self._number, self._answers = guest.asking("images", names=list(names), types=[kind.value for kind in types])

    def answer(self, check: Callable[[], None] = lambda: None) -> tuple[str, Study | SkipReason] | None:
        if not self._left:
            self._guest.forget(self._number)
            return None
        while True:
            check()
            try:
                said = self._answers.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            break
        head = said.head
        if "error" in head:
            self.stop()
            AskedSource.raised(head)
        self._left -= 1
        return head["name"], _study(head)

    def stop(self) -> None:
        if self._left:
            self._guest.say({"kind": "enough", "ask": self._number})
        self._guest.forget(self._number)
        self._left = 0


class _Fetch:
    """``fetch_studies`` on this side: the site asks its services, the studies are read here."""

    def __init__(self, guest: _Guest, derived: Path | None) -> None:
        self._guest = guest
        self._derived = derived

    def __call__(
        self,
        source: Any,
        project_id: str,
        cohort: pd.DataFrame,
        types: tuple[ResourceType, ...],
        *,
        max_skipped: float,
        check: Callable[[], None],
        settled: Callable[[Manifest], None],
        **others: Any,
    ) -> Studies:
        names, unnamed = accession_numbers(cohort)
        if not types:
            raise ValueError("images() needs at least one resource type")
        import_readers(types)
        arriving = _Arriving(self._guest, names, types)
        return Studies(
            cohort, names, unnamed, arriving, max_skipped=max_skipped, check=check, derived_dir=self._derived
        )


def _study(head: Mapping[str, Any]) -> Study | SkipReason:
    if "skipped" in head:
        return SkipReason(head["skipped"])
    folders = {ResourceType(kind): Path(folder) for kind, folder in head["folders"].items()}
    return Study(head["name"], MappingProxyType(folders), tuple(StudyFile(*file) for file in head["files"]))
