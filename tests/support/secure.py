"""Secure aggregation without torch: real ClientApps of plain numpy at a link whose faults can be chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy

from flip_fl.app.config import AppConfig
from flip_fl.flower.average import SlotOrderFedAvg
from flip_fl.flower.checkpoint import StrategyState
from flip_fl.flower.grid import FlipGrid, Patience, Quorum
from flip_fl.flower.mods import exceptions
from flip_fl.flower.private import acting_as, make_ffn, new_id
from flip_fl.flower.protocol import QUERY_KEYS, QUERY_SEAL, QUERY_TELL
from flip_fl.flower.rounds import Rounds
from flip_fl.flower.secure_average import MaskedQuarantine, SecureAverage
from flip_fl.flower.secure_site import answer_secure, masking
from flip_fl.flower.strategy import ObservedStrategy
from flip_fl.reporting.local import LocalReporting
from flip_fl.values import JobType
from tests.support.flower import initial, numpy_client
from tests.support.flower_link import Answer, Delivery, ScriptedLink

REACH = 64.0
STEPS = (QUERY_KEYS, QUERY_SEAL, "train", QUERY_TELL)
GO_ON = Quorum(min_clients=3, ignore_result_error=True)
QUICK = Patience(start_timeout_s=2.0, phase_timeout_s=0.3, poll_s=0.01)


def config_of(*, secure: bool = True, reach: float = REACH) -> AppConfig:
    return AppConfig(
        app_dir=Path(),
        job_type=JobType.STANDARD,
        raw={},
        secure_aggregation=secure,
        secure_aggregation_range=reach,
    )


def secure_client(config: AppConfig, inner: ClientApp | None = None) -> ClientApp:
    """``inner`` (``numpy_client``) behind the mods of ours that a neutral app has at a site."""
    guarded = make_ffn(inner or numpy_client(), [exceptions(), masking(lambda _: config)])
    app = ClientApp(mods=[exceptions()])
    app.train()(guarded)
    app.evaluate()(guarded)
    for kind in (QUERY_KEYS, QUERY_SEAL, QUERY_TELL):
        app.query(kind.partition(".")[2])(
            lambda message, context: answer_secure(message, context, str(context.node_config["slot"]), config)
        )
    return app


@dataclass
class Sites:
    """Sites ``Trust_1`` … as answers of a scripted link; ``faults``: (slot, step) → what it answers instead.

    ``received`` is what they have sent to the server.
    """

    app: ClientApp
    faults: Mapping[tuple[str, str], Answer] = field(default_factory=dict)
    received: list[tuple[str, Message]] = field(default_factory=list)
    contexts: dict[str, Context] = field(default_factory=dict)

    def __call__(self, name: str, message: Message) -> Sequence[Delivery] | Message | None:
        kind = message.metadata.message_type
        answer = self.faults.get((name, kind), self.honest)
        given = answer(name, message)
        if isinstance(given, Message):
            self.received.append((name, given))
        return given

    def honest(self, name: str, message: Message) -> Message:
        context = self.contexts.setdefault(name, self._context(name))
        with acting_as(run_id=context.run_id, node_id=context.node_id, task_id=new_id()):
            return self.app(message, context)

    def _context(self, name: str) -> Context:
        number = int(name.rpartition("_")[2])
        return Context(1, new_id(), {"slot": name, "number": number}, RecordDict(), {})


@dataclass
class Ran:
    """A run's model after its last round, and what the hub was told of failures."""

    arrays: dict[str, np.ndarray[Any, Any]]
    failures: list[tuple[str | None, str]]


def slots_of(sites: int) -> list[str]:
    return [f"Trust_{number}" for number in range(1, sites + 1)]


def plain_run(folder: Path, sites: int, rounds: int = 2, strategy: Strategy | None = None, **more: Any) -> Ran:
    """The same sites without secure aggregation."""
    link = ScriptedLink(slots_of(sites), Sites(numpy_client()))
    return run_rounds(strategy or SlotOrderFedAvg(), link, folder, sites, rounds, secure=False, **more)


def secure_run(folder: Path, sites: Sites, count: int, rounds: int = 2, *, reach: float = REACH, **more: Any) -> Ran:
    strategy = more.pop("strategy", None) or SecureAverage(reach)
    return run_rounds(strategy, ScriptedLink(slots_of(count), sites), folder, count, rounds, **more)


def run_rounds(
    strategy: Strategy,
    link: ScriptedLink,
    folder: Path,
    sites: int,
    rounds: int,
    *,
    secure: bool = True,
    quorum: Quorum | None = None,
    patience: Patience = QUICK,
    model: ArrayRecord | None = None,
    prepare: Callable[[LocalReporting], None] = lambda _: None,
) -> Ran:
    reporting = LocalReporting(uuid4(), folder)
    grid = FlipGrid(
        link,
        reporting,
        slots=slots_of(sites),
        quorum=quorum or Quorum(),
        patience=patience,
        total_rounds=rounds,
        check=MaskedQuarantine() if secure else None,
    )
    state = StrategyState(strategy)
    watcher = Rounds(
        grid=grid, lifecycle=reporting.lifecycle, folder=folder / "run", total=rounds, state=state, measure=None
    )
    prepare(reporting)
    try:
        watcher.expected = len(grid.await_sites())
        ObservedStrategy(strategy, watcher).start(grid, model or initial(), num_rounds=rounds)
        return Ran(watcher.whole, failures_of(reporting))
    except Exception as error:
        error.failures = failures_of(reporting)  # type: ignore[attr-defined]
        raise
    finally:
        reporting.close()


def failures_of(reporting: LocalReporting) -> list[tuple[str | None, str]]:
    rows = [
        found
        for record in reporting._outbox.collect(limit=100_000, release=True)
        for part in record.parts()
        if (found := part.item())["kind"] == "log"
    ]
    return [(row.get("client"), row["log"]) for row in rows if not row["success"]]
