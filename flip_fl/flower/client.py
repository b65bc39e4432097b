"""The client's side: runs the tasks of a neutral app in a trust and sends back arrays, numbers and reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from flwr.app import Array, ArrayRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from flip_fl.app.config import DIFF, AppConfig, load_config
from flip_fl.app.forms import form_of
from flip_fl.app.isolation.call import IsolatedCall
from flip_fl.app.isolation.choice import isolated, level_for, to_tell
from flip_fl.app.isolation.rules import Isolation
from flip_fl.app.packages import is_package
from flip_fl.app.plan import total_rounds
from flip_fl.app.runner import Result, Session, run_task
from flip_fl.app.secure import secure_problems
from flip_fl.app.site import SiteSpec
from flip_fl.app.stop import StopFlag, stop_file
from flip_fl.app.tensors import Arrays
from flip_fl.data.keeper import start_keeper
from flip_fl.data.sources import open_source
from flip_fl.errors import FlipError
from flip_fl.flower import foreign, protocol
from flip_fl.flower.claim import NAME_VARIABLE, claimed_slot, exported, site_facts
from flip_fl.flower.mods import failed, flip_mods, keep_at_site
from flip_fl.flower.private import make_ffn
from flip_fl.flower.protocol import (
    ABORTED,
    ARRAYS,
    FAILED,
    METRICS,
    NUM_EXAMPLES,
    STAY_EVERY_S,
    STOP_FILE,
    TaskNote,
    error_reason,
)
from flip_fl.flower.secure_site import answer_secure, masking
from flip_fl.privacy.site_policy import site_policy
from flip_fl.settings import settings_place
from flip_fl.values import JobType, Task

MODEL_ID = "flip-model-id"
PROJECT_ID = "flip-project-id"
QUERY = "flip-cohort-query"
JOB_DIR = "flip-job-dir"
NUM_ROUNDS = "num-server-rounds"

# Of a run that is stopped through Flower itself nobody tells the sites: they keep its images for as long as this.
LEASE_S = 4 * STAY_EVERY_S
_MAX_INT = 2**63 - 1
_SECURE_QUERIES = (protocol.QUERY_KEYS, protocol.QUERY_SEAL, protocol.QUERY_TELL)
_HOUSE_QUERIES = frozenset({protocol.QUERY_SLOT, protocol.QUERY_STAY, protocol.QUERY_END, *_SECURE_QUERIES})


def client_app(
    app_dir: Path, *, mods: Sequence[Mod] | None = None, aborted: Callable[[], bool] = lambda: False
) -> ClientApp:
    """The ClientApp of the app in ``app_dir`` (flip-job-dir in the run config names another folder).

    A folder of that name that is not there, at a site, is the server's: the app that came with the job is run.

    ``train`` runs the app's ``train``, ``evaluate`` its ``validate`` (its ``evaluate`` in an evaluation). In a Flower
    package the app's own ClientApp, imported at the first message, answers everything but what the house asks.
    ``mods``: further ones around ``train`` of a neutral app, inside of ours (``flip_mods``). ``aborted``: asked by long
    trainings, beside the stop files (see ``flip_fl.app.stop``).

    What the app keeps in ``site.memory`` lives as long as this process; it works as well with a process a message.
    """
    sites = _Sites(app_dir, aborted)
    app = _Component(sites) if is_package(app_dir) else ClientApp(mods=[*flip_mods(app_dir), masking(sites.config)])

    @app.train(mods=list(mods or ()))
    def train(message: Message, context: Context) -> Message:
        return sites.answer(Task.TRAIN, message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return sites.answer(Task.VALIDATE, message, context)

    @app.query(protocol.QUERY_SLOT.partition(".")[2])
    def flip_slot(message: Message, context: Context) -> Message:
        told = protocol.get_task(message.content).slot
        content = RecordDict()
        protocol.stamp_slot(content, claimed_slot(context.node_config, context.run_config, told))
        return Message(content, reply_to=message)

    @app.query(protocol.QUERY_STAY.partition(".")[2])
    def flip_stay(message: Message, context: Context) -> Message:
        sites.stay(message, context)
        return Message(RecordDict(), reply_to=message)

    @app.query(protocol.QUERY_END.partition(".")[2])
    def flip_end(message: Message, context: Context) -> Message:
        sites.end(message, context)
        return Message(RecordDict(), reply_to=message)

    for kind in _SECURE_QUERIES:
        app.query(kind.partition(".")[2])(sites.secure)

    return app


class _Component(ClientApp):
    """The house's handlers, and for every other message the ClientApp of a Flower package."""

    def __init__(self, sites: _Sites) -> None:
        super().__init__(mods=flip_mods(sites.app_dir))
        self._guarded = make_ffn(sites.foreign, [*flip_mods(sites.app_dir), masking(sites.config)])

    def __call__(self, message: Message, context: Context) -> Message:
        if message.metadata.message_type in _HOUSE_QUERIES:
            return super().__call__(message, context)
        return self._guarded(message, context)


@dataclass(frozen=True)
class _OpenSite:
    run_id: int
    session: Session
    environment: Mapping[str, str]
    call: IsolatedCall | None

    def close(self) -> None:
        """The app's process ends."""
        if self.call is not None:
            self.call.close()


class _Sites:
    """The sites that this process has been: usually one, in a simulation several, one after another."""

    def __init__(self, app_dir: Path, aborted: Callable[[], bool]) -> None:
        self.app_dir = app_dir
        self._aborted = aborted
        self._open_sites: dict[str, _OpenSite] = {}

    def answer(self, task: Task, message: Message, context: Context) -> Message:
        folder = self._folder(context)
        try:
            site, spec = self._asked_for(task, message, context, folder)
            task = spec.task
            key, arrays = _arrays(message.content)
        except Exception as error:
            return failed(message, context, error, folder, task=task.value)
        with exported(site.environment):
            result = run_task(task, arrays, spec, site.session, site.call)
        if site.session.index is not None:
            site.session.index.renew()
        return _reply(result, task, spec.slot, key, message)

    def foreign(self, message: Message, context: Context) -> Message:
        """The answer of a Flower package's own ClientApp."""
        kind = message.metadata.message_type.partition(".")[0]
        task = Task.TRAIN if kind == MessageType.TRAIN else Task.VALIDATE
        folder = self._folder(context)
        try:
            site, spec = self._asked_for(task, message, context, folder)
        except Exception as error:
            return failed(message, context, error, folder, task=task.value)
        with exported({**site.environment, NAME_VARIABLE: spec.slot}):
            reply = foreign.answer(message, context, spec, site.session, site.call)
        if site.session.index is not None:
            site.session.index.renew()
        return reply

    def _asked_for(self, task: Task, message: Message, context: Context, folder: Path) -> tuple[_OpenSite, SiteSpec]:
        """The site, and what of it is asked: ``task``, or in an evaluation that. Raises what makes the task fail."""
        note = protocol.get_task(message.content)
        slot = claimed_slot(context.node_config, context.run_config, note.slot)
        site = self._open(slot, folder, context)
        if site.session.config.job_type is JobType.EVALUATION:
            task = Task.EVALUATE
        spec = _spec(site.session.config, slot, note, task, context.run_config)
        site.session.failed = partial(keep_at_site, slot=slot, where=spec.where())
        return site, spec

    def config(self, context: Context) -> AppConfig:
        """The app's config. Raises ``FlipError`` where it cannot be read."""
        return load_config(self._folder(context))

    def secure(self, message: Message, context: Context) -> Message:
        """What secure aggregation asks of the site around a round. Raises ``FlipError`` E0553, E0303."""
        config, form = self.config(context), form_of(self._folder(context))
        # A Flower package would be given the node's state, and with it the secrets.
        for problem in secure_problems(form, config):
            raise problem
        slot = claimed_slot(context.node_config, context.run_config, protocol.get_task(message.content).slot)
        return answer_secure(message, context, slot, config)

    def stay(self, message: Message, context: Context) -> None:
        """The run goes on without this site for a while: what it has fetched is kept."""
        index = self._asked(message, context).session.index
        if index is not None:
            index.renew()

    def end(self, message: Message, context: Context) -> None:
        """The run is over: what it has fetched is removed."""
        site = self._asked(message, context)
        site.close()
        site.session.release()
        self._open_sites = {slot: each for slot, each in self._open_sites.items() if each is not site}

    def _asked(self, message: Message, context: Context) -> _OpenSite:
        slot = claimed_slot(context.node_config, context.run_config, protocol.get_task(message.content).slot)
        return self._open(slot, self._folder(context), context)

    def _folder(self, context: Context) -> Path:
        # FLIP's FL API names the app's folder on its own disk, which the FL server may share and a site does not.
        named = Path(str(context.run_config.get(JOB_DIR) or self.app_dir))
        return named if named.is_dir() else self.app_dir

    def _open(self, slot: str, folder: Path, context: Context) -> _OpenSite:
        known = self._open_sites.get(slot)
        if known is not None and known.run_id == context.run_id:
            return known
        if known is not None:
            known.close()
            known.session.close()
        imaging = load_config(folder).imaging
        facts = site_facts(slot, imaging=imaging)
        policy = site_policy(settings_place(slot), "flower")
        development = bool(facts.environment)
        wanted = Isolation.of(policy, development=development)
        level = level_for(wanted, development=development)
        session = Session(
            app_dir=folder,
            source=open_source(slot, imaging=imaging),
            job=f"flower-{context.run_id}",
            policy=policy,
            less_than_full=to_tell(level, development=development),
        )
        # A SuperNode may have a process for each message: between two rounds none would say that the job lives.
        if session.index is not None and not context.node_config.get(STOP_FILE):
            start_keeper(session.index, slot, LEASE_S)
        files = []
        model_id = _model_id(context.run_config, session.config)
        if facts.state_dir is not None and model_id is not None:
            files.append(stop_file(facts.state_dir, model_id))
        if context.node_config.get(STOP_FILE):
            files.append(Path(str(context.node_config[STOP_FILE])))
        session.aborted = StopFlag(files, self._aborted)
        own = {**facts.environment, **({NAME_VARIABLE: slot} if is_package(folder) else {})}
        call = isolated(level, wanted, own)
        self._open_sites[slot] = _OpenSite(context.run_id, session, facts.environment, call)
        return self._open_sites[slot]


def _spec(config: AppConfig, slot: str, note: TaskNote, task: Task, run_config: Mapping[str, Any]) -> SiteSpec:
    rounds = run_config.get(NUM_ROUNDS)
    return SiteSpec(
        slot=slot,
        round=note.round or 1,
        total_rounds=note.total_rounds or (rounds if isinstance(rounds, int) else 0) or total_rounds(config),
        task=task,
        stage=note.stage or None,
        model=note.model or None,
        quiet=note.quiet,
        seed=config.seed,
        project_id=str(run_config.get(PROJECT_ID) or ""),
        query=str(run_config.get(QUERY) or "") or config.query,
    )


def _model_id(run_config: Mapping[str, Any], config: AppConfig) -> UUID | None:
    for value in (run_config.get(MODEL_ID), config.flip_model_id):
        try:
            return UUID(str(value))
        except ValueError:
            continue
    return None


def _arrays(content: RecordDict) -> tuple[str, Arrays]:
    """The model that the server has sent, and the name of its record. Raises ``FlipError`` E0552."""
    records = content.array_records
    if ARRAYS not in records and len(records) != 1:
        raise FlipError("E0552", problem=f"it holds {len(records) or 'no'} ArrayRecords and none is called '{ARRAYS}'")
    key = ARRAYS if ARRAYS in records else next(iter(records))
    try:
        return key, {name: array.numpy() for name, array in records[key].items()}
    except (ValueError, TypeError, EOFError) as error:
        raise FlipError("E0552", problem=f"its arrays cannot be read ({type(error).__name__})") from None


def _reply(result: Result, task: Task, slot: str, key: str, message: Message) -> Message:
    if result.aborted or result.failure is not None:
        code = ABORTED if result.aborted else FAILED
        failure = None if result.aborted else result.failure
        reason = error_reason(slot, failure=failure, aborted=result.aborted, items=result.events, made=result.made)
        return Message(Error(code, reason), reply_to=message)
    content = RecordDict()
    if task is Task.TRAIN:
        content[key] = ArrayRecord({name: Array(array) for name, array in result.arrays.items()})
        if result.params_type == DIFF:
            protocol.mark_difference(content)
    # Beyond 64 bits a record cannot be sent; the server refuses such a number by name.
    examples = min(result.num_examples, _MAX_INT)
    content[METRICS] = MetricRecord({NUM_EXAMPLES: examples, **result.metrics})
    protocol.put_supplementary(content, result.supplementary)
    protocol.put_report(content, slot, result.events, made=result.made, facts=result.facts)
    return Message(content, reply_to=message)
