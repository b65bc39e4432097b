"""The work of a run that evaluates models which exist already: each in a round of its own, at every site."""

from __future__ import annotations

import logging

from flwr.app import ConfigRecord, Message, MessageType

from flip_fl.app.evaluation import NO_REPLY, NotEvaluated, load_model, not_evaluated
from flip_fl.app.settings_told import settings_told
from flip_fl.flower.average import to_each
from flip_fl.flower.grid import FlipGrid
from flip_fl.flower.host import Host
from flip_fl.flower.phase import Phase, RoundFailed
from flip_fl.flower.protocol import NUM_EXAMPLES, TaskNote, get_supplementary
from flip_fl.flower.quarantine import Quarantine
from flip_fl.flower.rounds import record_of
from flip_fl.flower.run_config import RunFacts
from flip_fl.flower.training import identity
from flip_fl.results.delivery import tidy
from flip_fl.results.evaluation import Evaluation, checked
from flip_fl.results.model_folder import ModelFolder
from flip_fl.values import Task

logger = logging.getLogger("flip_fl.flower")


def evaluate(host: Host, facts: RunFacts) -> None:
    """Send every model of the app's config to every site, one after another, and deliver what they return.

    A site that fails, and a model that is missing, are failures of their own in the results; only an evaluation of
    which nothing came ends the run. Whole models are kept on disk: a run whose process was lost goes on after them.
    Raises ``RoundFailed``, and as the grid and the delivery do.
    """
    work = _Evaluating(host, facts)
    found = work.run()
    if found.problem is not None:
        raise RoundFailed(found.problem)
    if found.note is not None:
        host.reporting.reporter.log(found.note, success=False)
    host.deliver(ModelFolder(work.folder), facts.app_dir, found.done)


class _Evaluating:
    def __init__(self, host: Host, facts: RunFacts) -> None:
        self._host = host
        self._facts = facts
        self._lifecycle = host.reporting.lifecycle
        self._lifecycle.task = Task.EVALUATE.value
        self._sound = Quarantine()
        self._grid: FlipGrid = host.open_grid(facts, check=self._check)
        # Who was there for the last model: nobody is waited for twice.
        self._there: dict[str, int] = {}
        self.folder = host.home.folder / "models"

    def run(self) -> Evaluation:
        """Every model, but for those that an earlier process has dealt with."""
        models = tuple(self._facts.app.models)
        own = identity(self._facts, "evaluation")
        found = Evaluation.read(self.folder)
        if found is not None and found.identity != own:
            logger.warning("what another job of this model has found is removed")
            tidy([self._host.home.folder])
            found = None
        if found is None:
            self._lifecycle.initiated()
            self._lifecycle.configured(settings_told(self._facts.app.raw, "Flower", "flwr"))
        else:
            self._lifecycle.resumed(found.done)
            if found.done == len(models):
                return found
        self._there = dict.fromkeys(self._grid.await_sites(), 0)
        self._lifecycle.prepared()
        found = found or Evaluation(models, tuple(self._grid.roster.slots), own)
        for number, name in enumerate(models[found.done :], start=found.done + 1):
            self._one(name, number, found)
            found.done = number
            found.save(self.folder)
        return found

    def _one(self, name: str, number: int, found: Evaluation) -> None:
        self._lifecycle.round_started(number, self._facts.num_rounds, stage=name)
        folders = self._host.home.checkpoint_folders(self._facts.app_dir)
        try:
            start = load_model(self._facts.app, name, folders, walls=self._host.home.walls)
        except NotEvaluated as problem:
            text = not_evaluated(name, str(self._facts.app.models[name]["checkpoint"]), problem)
            self._host.reporting.reporter.failure(None, text, global_round=number)
            found.failed(name, found.sites, problem.code, str(problem))
            self._lifecycle.aggregated(number, 0, 0, stage=name)
            return
        self._there = self._grid.roster.present(self._there)
        phase = Phase(Task.EVALUATE, number)
        if self._there:
            self._grid.expect(Task.EVALUATE, number, TaskNote(model=name))
            nodes = self._there.values()
            messages = to_each(number, record_of(start.sent), ConfigRecord(), nodes, MessageType.EVALUATE)
            self._grid.send_and_receive(messages)
            phase = self._grid.phase or phase
        for slot in found.sites:
            reply = phase.replies.get(slot)
            if reply is not None:
                found.returned(name, slot, _values(reply))
            else:
                why = phase.failures.get(slot, "it is not connected")
                found.failed(name, [slot], phase.codes.get(slot, NO_REPLY), why)
        self._lifecycle.aggregated(number, len(phase.replies), len(found.sites), stage=name)

    def _check(self, sent: Message, reply: Message, task: Task) -> str | None:
        """The house's ``ReplyCheck``, and that the values can go into the results."""
        reason = self._sound(sent, reply, task)
        if reason is None:
            try:
                _values(reply)
            except (NotEvaluated, ValueError) as problem:
                return str(problem)
        return reason


def _values(reply: Message) -> dict[str, object]:
    """What a site returned, as the results have it. Raises ``NotEvaluated``, ``ValueError``."""
    (record,) = reply.content.metric_records.values()
    metrics = {name: value for name, value in record.items() if name != NUM_EXAMPLES}
    return checked(record[NUM_EXAMPLES], {**metrics, **get_supplementary(reply)})
