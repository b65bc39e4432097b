"""Scripts that speak to an engine's client API: the way to them, with what they say under the rules of every app.

A script runs once a job, alive over all rounds, in a process of its own (``ScriptProcess``). What is decided here:

* A script that never asks which task it has would train on a model that it is to validate: it is only asked to train.
  What it returns beside its weights then counts for the round before, which has made the model that it measured.
* ``global_step`` is the place on the axis that a name carries (``loss@epoch``); without one a number lies at its round.
* Whole weights and differences are both taken, as ``params_type`` calls them, unless PARAMS_TYPE asks for one of them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flip_fl.aggregate.differences import restored
from flip_fl.app.calls import Made
from flip_fl.app.config import DIFF, FULL
from flip_fl.app.faults import ScriptFailed, TaskAborted
from flip_fl.app.forms import Form
from flip_fl.app.frames import Head
from flip_fl.app.functions import kept_apart, site_model
from flip_fl.app.isolation.rules import Isolation, Level
from flip_fl.app.isolation.walls import Walls
from flip_fl.app.metric_key import metric_key
from flip_fl.app.parts import Parts
from flip_fl.app.plan import stage_at, stages_of
from flip_fl.app.raised import heard
from flip_fl.app.redact import redacted_told
from flip_fl.app.script_data import MAX_OPEN, answered
from flip_fl.app.script_process import ASKS, FILES, Ended, ScriptProcess
from flip_fl.app.script_values import flattened, unwrapped
from flip_fl.app.seeds import derived_seed
from flip_fl.app.session import Session
from flip_fl.app.site import Ledger, SiteSpec
from flip_fl.app.tensors import Arrays, to_arrays
from flip_fl.values import JobType, Task

POLL_S = 0.1
# What a script says after its answer and before it asks again still belongs to the task.
SETTLE_S = 1.0
MAX_NOTES = 32
MAX_NOTE_CHARS = 300
_NOTE = re.compile(r"flip[\w.]* is flip_fl's here; write: from [\w.]+ import \w+( as \w+)?")
_ENDED_EARLY = "call flare.receive() and flare.send() in a loop of flare.is_running(), which ends when the job does"


@dataclass
class _Answer:
    params_type: str | None
    values: dict[Any, Any]
    steps: int | None
    arrays: Arrays


class Script:
    """The script ``form.entry`` of the app of ``session``, run by the host ``module``; used as a ``Call``.

    ``job`` is what the script is told as its job's id. With ``asks`` its ``FLIP()`` asks the site for data, else it
    finds its environment's settings of development. ``close`` ends it with the job.
    """

    def __init__(
        self,
        form: Form,
        module: str,
        job: str = "",
        *,
        asks: bool = False,
        level: Level = Level.FULL,
        wanted: Isolation | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.form = form
        self._level = level
        self._wanted = wanted or Isolation()
        self._environment = dict(environment or {})
        self._asks = asks
        self._module = module
        self._job = job
        self._process: ScriptProcess | None = None
        self._number = 0
        self._specs: dict[int, SiteSpec] = {}
        self._ended: str | None = None
        self._examples = 1
        self._notes = 0
        self._opening = threading.Lock()
        self._asking: threading.Semaphore | None = None
        self._replying: list[threading.Thread] = []

    def __call__(self, spec: SiteSpec, arrays: Mapping[str, Any], session: Session, ledger: Ledger) -> Made:
        """One task. Raises ``ScriptFailed`` for whatever ends the script, ``TaskAborted`` when the run is stopped."""
        whole, parts = self._whole(spec, arrays, session)
        process = self._running(spec, session)
        self._number += 1
        self._specs = {self._number: spec, **{n: s for n, s in self._specs.items() if n == self._number - 1}}
        process.tell(self._task(spec, session), whole)
        try:
            answer = self._await(process, spec, session, ledger)
        except BaseException:
            process.kill()
            self._process = None
            raise
        return self._made(answer, whole, parts, spec, session, ledger)

    def close(self) -> None:
        """The job is over."""
        if self._process is not None:
            self._process.close()
            self._process = None

    # -- to the script ----------------------------------------------------------------------------------------

    def _running(self, spec: SiteSpec, session: Session) -> ScriptProcess:
        if self._ended is not None:
            raise ScriptFailed.because(
                f"{self.form.entry} has ended before {spec.where()} ({self._ended}): {_ENDED_EARLY}"
            )
        if self._process is None:
            project = ["--project_id", spec.project_id] if self.form.takes_project else []
            arguments = [ASKS if self._asks else FILES, self.form.entry, *project]
            walls = Walls(self._level, self._wanted, session, spec, self._environment)
            self._process = ScriptProcess(self._module, arguments, walls, show_output=session.show_output)
        return self._process

    def _task(self, spec: SiteSpec, session: Session) -> dict[str, Any]:
        """What the script is told. Rounds are the engine's: from 0, in a job of several stages from 0 in each."""
        config = session.config
        first, last = 1, spec.total_rounds
        name = "train" if spec.task is Task.TRAIN else "validate"
        if config.job_type is JobType.DIFFUSION:
            stage = stage_at(stages_of(config), spec.round)
            first, last = stage.first, stage.last
            name = f"{name}_{spec.stage}"
        return {
            "kind": "task",
            "number": self._number,
            "trains": spec.task is Task.TRAIN,
            "name": name,
            "round": max(spec.round - first, 0),
            "total_rounds": last - first + 1,
            "seed": derived_seed(spec.seed, spec.slot, spec.round, spec.task.value),
            "site": spec.slot,
            "job": self._job,
            "meta": {"stage": spec.stage, "model": spec.model},
        }

    def _whole(self, spec: SiteSpec, arrays: Mapping[str, Any], session: Session) -> tuple[Arrays, Parts | None]:
        """The whole model: a script loads what it receives into one, also where a part of it does not travel."""
        config = session.config
        if config.aggregate_only_regex is None and not config.fedbn:
            return dict(arrays), None
        model, parts = site_model(spec, arrays, session, config)
        return to_arrays(model), parts

    # -- from the script --------------------------------------------------------------------------------------

    def _await(self, process: ScriptProcess, spec: SiteSpec, session: Session, ledger: Ledger) -> _Answer:
        answer: _Answer | None = None
        settled_at = float("inf")
        while time.monotonic() < settled_at:
            said = process.next(POLL_S)
            if session.aborted():
                raise TaskAborted
            if said is None:
                continue
            if isinstance(said, Ended):
                return self._after_the_end(said, answer, process, spec)
            head, arrays = said
            kind = head.get("kind")
            if kind == "failed":
                self._tell_printed(head, spec, session, ledger)
                raise self._failure(head, process)
            if kind == "log":
                self._log(head, ledger)
            elif kind == "ask" and self._asks:
                self._start_reply(process, head, spec, session)
            elif kind == "note":
                self._note(head, ledger)
            elif kind == "result" and head.get("number") == self._number:
                self._tell_printed(head, spec, session, ledger)
                answer = self._read(head, arrays)
                settled_at = time.monotonic() + SETTLE_S
            elif kind == "waiting" and answer is not None:
                return answer
        assert answer is not None
        return answer

    def _failure(self, head: Head, process: ScriptProcess) -> ScriptFailed:
        try:
            chain = heard(head.get("raised"))
        except ValueError as problem:
            return ScriptFailed.because(f"what {self.form.entry} has told of its failure cannot be read: {problem}")
        failure = ScriptFailed(*redacted_told(chain, process.folder))
        failure.chain = chain
        return failure

    def _after_the_end(self, said: Ended, answer: _Answer | None, process: ScriptProcess, spec: SiteSpec) -> _Answer:
        ending = process.ending()
        self._process = None
        if said.problem is not None:
            raise ScriptFailed.because(f"what {self.form.entry} sent in {spec.where()} cannot be read: {said.problem}")
        if answer is not None:
            # Said when the next task comes, if one does.
            self._ended = ending
            return answer
        fix = f": {_ENDED_EARLY}" if ending == "exit code 0" else ""
        raise ScriptFailed.because(f"{self.form.entry} ended in {spec.where()} without a result ({ending}){fix}")

    def _read(self, head: Mapping[str, Any], arrays: Arrays) -> _Answer:
        metrics, steps, kind = head.get("metrics"), head.get("steps"), head.get("params_type")
        whole = isinstance(steps, int) and not isinstance(steps, bool) and steps >= 0
        return _Answer(
            params_type=kind if kind in (FULL, DIFF) else None,
            values=metrics if isinstance(metrics, dict) else {},
            steps=steps if whole else None,
            arrays=arrays,
        )

    def _log(self, head: Mapping[str, Any], ledger: Ledger) -> None:
        """Numbers that the script logged: under the task in which it did."""
        number, items = head.get("number"), head.get("items")
        spec = self._specs.get(number) if isinstance(number, int) else None
        book = ledger if number == self._number or spec is None else ledger.of(spec)
        if not isinstance(items, list):
            return
        for item in items:
            if isinstance(item, list) and len(item) == 3 and isinstance(item[0], str):
                _measure(book, *item)
            else:
                ledger.refuse("what the script logs beside numbers (texts, parameters, pictures) is not stored")

    def _start_reply(self, process: ScriptProcess, head: Head, spec: SiteSpec, session: Session) -> None:
        """Raises ``ScriptFailed`` for a script that asks without end: each question is a thread here."""
        self._replying = [each for each in self._replying if each.is_alive()]
        if len(self._replying) >= MAX_OPEN:
            raise ScriptFailed.because(f"{self.form.entry} asks more than {MAX_OPEN} questions at once")
        reply = threading.Thread(target=self._reply, args=(process, head, spec, session), daemon=True)
        self._replying.append(reply)
        reply.start()

    def _reply(self, process: ScriptProcess, head: Head, spec: SiteSpec, session: Session) -> None:
        """Beside the task: what a service takes its time over must not keep a stop from being seen."""
        with self._in_flight(session):
            answer, arrays = answered(head, spec, session)
        for folder in answer.get("folders", {}).values():
            process.grant(Path(folder))
        process.answer({**answer, "kind": "answer", "ask": head.get("ask")}, arrays)

    def _in_flight(self, session: Session) -> threading.Semaphore:
        with self._opening:
            if self._asking is None:
                self._asking = threading.Semaphore(session.source.in_flight)
            return self._asking

    def _note(self, head: Mapping[str, Any], ledger: Ledger) -> None:
        """Where a name is imported from today: the house's own sentence, about a name of the code."""
        text = _text(head, "text", MAX_NOTE_CHARS)
        if self._notes < MAX_NOTES and _NOTE.fullmatch(text):
            self._notes += 1
            ledger.note(text, success=True)

    def _tell_printed(self, head: Mapping[str, Any], spec: SiteSpec, session: Session, ledger: Ledger) -> None:
        printed = head.get("printed")
        if isinstance(printed, int) and not session.show_output:
            session.tell_withheld(printed, spec, ledger)

    # -- the result -------------------------------------------------------------------------------------------

    def _made(
        self,
        answer: _Answer,
        whole: Arrays,
        parts: Parts | None,
        spec: SiteSpec,
        session: Session,
        ledger: Ledger,
    ) -> Made:
        trains = spec.task is Task.TRAIN
        values = unwrapped(answer.values, spec)
        if spec.task is not Task.EVALUATE:
            values = flattened(values)
        examples = self._count(values, answer.steps, trains)
        before = trains and not self.form.validates
        first = stage_at(stages_of(session.config), spec.round).first if spec.stage else 1
        if before and spec.round == first:
            values = {}  # of the starting weights, which are not scored
        book = ledger.of(replace(spec, round=spec.round - 1, task=Task.VALIDATE)) if before else ledger
        for name in [name for name in values if isinstance(name, str) and metric_key(name)[0] != name]:
            _measure(book, name, values.pop(name), None)
        values["num_examples"] = examples
        if not trains:
            return Made(values)
        kind = self._kind(answer, spec, session)
        return Made(values, self._travelling(answer, kind, whole, parts, spec, session), kind, measured_before=before)

    def _count(self, values: dict[Any, Any], steps: int | None, trains: bool) -> Any:
        """How many examples a result stands for: what it says, its steps, else as many as the site's last training."""
        said = [values.pop(name) for name in ("num_examples", "num-examples") if name in values]
        count = said[0] if said else steps
        if count is None:
            return self._examples
        if isinstance(count, float) and count.is_integer():
            count = int(count)
        if trains and isinstance(count, int):
            self._examples = count
        return count

    def _kind(self, answer: _Answer, spec: SiteSpec, session: Session) -> str:
        entry, config = self.form.entry, session.config
        if not answer.arrays or answer.params_type is None:
            raise ScriptFailed.because(f"{entry} sent no params in {spec.where()}: flare.FLModel(params=…) of train")
        if "PARAMS_TYPE" in config.raw and answer.params_type != config.params_type:
            words = {FULL: "whole weights", DIFF: "differences to the model that was received"}
            raise ScriptFailed.because(
                f"{entry} sends {words[answer.params_type]} (params_type {answer.params_type}), and PARAMS_TYPE in "
                f"config.json says {config.params_type}: send {words[config.params_type]} as "
                f'flare.FLModel(params=…, params_type="{config.params_type}"), or set PARAMS_TYPE to '
                f'"{answer.params_type}" or leave it out'
            )
        return answer.params_type

    def _travelling(
        self, answer: _Answer, kind: str, whole: Arrays, parts: Parts | None, spec: SiteSpec, session: Session
    ) -> Arrays:
        """What goes to the server, in the dtypes of the model; what is wrong with names and shapes is said there."""
        sent = {name: _as(array, whole.get(name)) for name, array in answer.arrays.items()}
        if parts is None:
            return sent
        missing = [name for name in (*parts.travelling, *parts.local) if name not in sent]
        if missing:
            raise ScriptFailed.because(f"{self.form.entry} sent no '{missing[0]}' of the model in {spec.where()}")
        travelling = kept_apart(sent if kind == FULL else restored(whole, sent), parts, spec, session)
        return travelling if kind == FULL else {name: sent[name] for name in parts.travelling}


def _measure(book: Ledger, key: str, value: Any, step: Any) -> None:
    label, axis, x = metric_key(key)
    if x is None and axis is not None:
        x = step
    book.metric(label, value, x, axis)


def _as(array: np.ndarray[Any, Any], model: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    """``array`` in the precision of the ``model``'s: differences are often taken in a wider one."""
    if model is not None and array.dtype != model.dtype and array.dtype.kind == model.dtype.kind:
        return array.astype(model.dtype)
    return array


def _text(head: Mapping[str, Any], name: str, limit: int) -> str:
    text = head.get(name)
    return text[-limit:] if isinstance(text, str) and text else "(nothing was said)"
