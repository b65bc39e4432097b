"""Hand-made stories of runs, as the hub would tell them: finished, failed, stopped, ragged, large, hostile, empty."""

from __future__ import annotations

import base64
import gzip
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from flip_fl.dashboard.png import data_address
from flip_fl.dashboard.story import (
    BaselineRow,
    Cell,
    CellState,
    Failure,
    FeedRow,
    Loss,
    Plot,
    Point,
    PrivacyCurve,
    PrivacyPoint,
    Samples,
    Series,
    Silence,
    SiteUpdate,
    Skew,
    StoredResults,
    Story,
    StoryModel,
    StoryRound,
    StorySite,
    Transition,
)
from flip_fl.values import DEFAULT_X_LABEL, ModelStatus

START = datetime(2026, 11, 22, 13, 3, 21, 120000, tzinfo=UTC)
MODEL_ID = "7f3a1c52-0c4e-4f6b-9d0a-5f1f0c9b2e11"
CANARY = "</script><script>window.__pwned=1</script><img src=x onerror=window.__pwned=1>"

States = Callable[[int, int], CellState]

OOM_TRACEBACK = """Traceback (most recent call last):
  File "/opt/flip/flip_fl/app/runner.py", line 88, in _call
    return function(model, site, config)
  File "trainer.py", line 41, in train
    loss = step(model, batch)
  File "trainer.py", line 22, in step
    return criterion(model(batch.x), batch.y)
  File "/opt/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1775, in _call_impl
    return forward_call(*args, **kwargs)
  File "models.py", line 19, in forward
    return self.head(self.body(x))
RuntimeError: CUDA out of memory. Tried to allocate <value removed>"""


def at(seconds: float) -> datetime:
    """``seconds`` after the run began."""
    return START + timedelta(seconds=seconds)


def sites(count: int) -> list[StorySite]:
    """``count`` slots held by trusts, natural order."""
    return [StorySite(slot=f"Trust_{n}", trust=f"Trust_{n}", last_seen=at(40)) for n in range(1, count + 1)]


def rounds(
    count: int,
    slots: Sequence[str],
    *,
    step: float = 7.0,
    state: States | None = None,
    withheld: Collection[str] = (),
) -> list[StoryRound]:
    """``count`` closed rounds; ``state(round, site number)`` says what each site did (default: returned)."""
    out = []
    for n in range(1, count + 1):
        begin = 6 + (n - 1) * step
        cells = []
        for k, slot in enumerate(slots, start=1):
            what = state(n, k) if state else "returned"
            took = round(step * (0.25 + 0.5 * k / len(slots)) + 0.13 * (n % 3), 2)
            came = what in ("returned", "late")
            cells.append(
                Cell(
                    slot=slot,
                    state=what,
                    at=at(begin + took) if came or what == "failed" else None,
                    size_bytes=4_312 + 7 * k if came else None,
                    seconds=took if came else None,
                    # asked a moment after the round began; the model's two ways take longer the farther the site is
                    worked=round(took - 0.05, 2) if came else None,
                    computed=round((took - 0.05) * (0.9 - 0.4 * k / len(slots)), 2) if came else None,
                )
            )
        out.append(
            StoryRound(
                number=n,
                started_at=at(begin),
                aggregated_at=at(begin + step * 0.9),
                returned=sum(c.state == "returned" for c in cells),
                expected=sum(c.state != "not_asked" for c in cells),
                cells=cells,
                updates=updates(n, [c.slot for c in cells if c.state == "returned"], withheld),
                mean="plain" if withheld else "weighted",
            )
        )
    return out


def updates(number: int, slots: Sequence[str], withheld: Collection[str] = ()) -> list[SiteUpdate]:
    """What the FL server tells of a round: the sites move towards each other, and the last one is off most."""
    examples = {slot: 40 * k + 11 for k, slot in enumerate(slots, start=1) if slot not in withheld}
    return [
        SiteUpdate(
            slot=slot,
            norm=round((0.8 + 0.3 * k) / number, 4),
            cosine=round(0.97 - 0.5 * k / (number * len(slots)), 4),
            examples=examples.get(slot, "withheld"),
            labels=label_mix(examples.get(slot)),
        )
        for k, slot in enumerate(slots, start=1)
    ]


def label_mix(examples: int | None) -> dict[str, Any]:
    """What a site tells of its labels: two that are told, or, of few examples, none that is."""
    if examples is None:
        return {"benign": "withheld", "malignant": "withheld"}
    return {"benign": examples - 15 - examples // 4, "malignant": 15 + examples // 4}


def curve(
    slots: Sequence[str],
    count: int,
    label: str,
    value: Callable[[int, int], float | None],
    x_label: str = DEFAULT_X_LABEL,
    names: Mapping[str, str] | None = None,
) -> Plot:
    """One metric; ``value(site number, round)`` is the number, NaN for a refused one, None for no point."""
    series = []
    for k, slot in enumerate(slots, start=1):
        points = [Point(x=n, y=y, round=n) for n in range(1, count + 1) if (y := value(k, n)) is not None]
        series.append(Series(slot=slot, name=(names or {}).get(slot, slot), points=points))
    return Plot(label=label, x_label=x_label, series=series)


def learning(seed: int, start: float, end: float, speed: float, noise: float) -> Callable[[int, int], float]:
    """A curve that goes from ``start`` towards ``end``, each site a little different, the same every time."""

    def value(k: int, n: int) -> float:
        rng = random.Random(seed * 10_007 + k * 101 + n)
        pull = math.exp(-speed * (n - 1) * (1 - 0.03 * (k % 5)))
        return end + (start - end) * pull + noise * (k % 4 - 1.5) + rng.gauss(0, noise / 2)

    return value


def feed(story_rounds: Sequence[StoryRound]) -> list[FeedRow]:
    """What the hub words of these rounds, oldest first."""
    rows: list[tuple[datetime, str, str, bool, str | None, int | None]] = [
        (at(0), "status", "Initiated.", True, None, None),
        (at(4), "status", "Prepared.", True, None, None),
    ]
    for r in story_rounds:
        assert r.started_at is not None
        rows.append((r.started_at, "round", f"Round {r.number} of {len(story_rounds)} started.", True, None, r.number))
        for c in r.cells:
            if c.at is not None and c.size_bytes is not None:
                text = f"{c.slot} returned its result ({c.size_bytes / 1024:.1f} KB)."
                rows.append((c.at, "result", text, True, c.slot, r.number))
        if r.aggregated_at is not None:
            text = f"Round {r.number}: {r.returned} of {r.expected} trusts aggregated."
            rows.append((r.aggregated_at, "aggregated", text, True, None, r.number))
    rows.sort(key=lambda row: row[0])
    return [
        FeedRow(id=n, at=when, kind=kind, text=text, success=ok, slot=slot, round=number)
        for n, (when, kind, text, ok, slot, number) in enumerate(rows, start=1)
    ]


def history(*steps: tuple[float, ModelStatus, str]) -> list[Transition]:
    """Transitions in order: (seconds, status, by)."""
    out: list[Transition] = []
    previous: ModelStatus | None = None
    for seconds, status, by in steps:
        out.append(Transition(at=at(seconds), previous=previous, status=status, by=by))
        previous = status
    return out


_BEGIN = (
    (-1.0, ModelStatus.PENDING, "simulator"),
    (0.0, ModelStatus.INITIATED, "FL server"),
    (4.0, ModelStatus.PREPARED, "FL server"),
    (6.0, ModelStatus.RUNNING, "FL server"),
)


def _model(name: str = "breast_cancer") -> StoryModel:
    return StoryModel(
        id=MODEL_ID,
        name=name,
        description="Benign or malignant from 30 cell-nucleus measurements; 569 patients.",
        project="Wisconsin diagnostic",
        facts={"Engine": "NVFLARE 2.9.0", "Job type": "standard", "Seed": "0"},
    )


def private() -> Story:
    """A finished run with a privacy curve: two draws of one ε, a run that failed, a score that is no number."""
    points = [
        PrivacyPoint(asked=8, spent=8.0, metrics={"auc": 0.6, "loss": 3.0}),
        PrivacyPoint(asked=8, spent=8.0, metrics={"auc": 0.8, "loss": 2.0}),
        PrivacyPoint(asked=64, spent=67.25, metrics={"auc": 0.9}),
        PrivacyPoint(asked=4096, spent=4213.3, problem="Trust_1: <b>disk</b> full"),
    ]
    without = {"auc": 0.996, "loss": 0.1}
    curve = PrivacyCurve(delta=1e-5, clipping_norm=0.641, rounds=5, without=without, points=points)
    return finished().model_copy(update={"privacy": curve})


def finished() -> Story:
    """Two sites, five rounds, results stored, baselines scored."""
    who = sites(2)
    slots = [s.slot for s in who]
    done = rounds(5, slots)
    scores = {
        "global model": {"Trust_1": (0.0712, 0.9737, 0.9968), "Trust_2": (0.0854, 0.9649, 0.9941)},
        "Trust_1 alone": {"Trust_1": (0.0934, 0.9649, 0.9934), "Trust_2": (0.1311, 0.9474, 0.9871)},
        "Trust_2 alone": {"Trust_1": (0.1004, 0.9561, 0.9921), "Trust_2": (0.1127, 0.9474, 0.9889)},
        "all data in one place": {"Trust_1": (0.0688, 0.9737, 0.9971), "Trust_2": (0.0831, 0.9649, 0.9945)},
    }
    return Story(
        generated_at=at(52),
        model=_model(),
        status=ModelStatus.RESULTS_UPLOADED,
        total_rounds=5,
        history=history(*_BEGIN, (44.0, ModelStatus.RESULTS_UPLOADED, "FL server")),
        sites=who,
        rounds=done,
        plots=[
            curve(slots, 5, "loss", learning(1, 0.62, 0.07, 0.9, 0.012)),
            curve(slots, 5, "accuracy", learning(2, 0.71, 0.97, 1.0, 0.006)),
            curve(slots, 5, "auc", learning(3, 0.88, 0.995, 1.1, 0.003)),
            curve(slots, 5, "train_loss", learning(4, 0.66, 0.06, 0.8, 0.01)),
        ],
        feed=feed(done),
        results=StoredResults(
            address=f"s3://flip-results/{MODEL_ID}/20261122_130405.zip",
            at=at(43),
            size_bytes=48_213,
            sha256="3f9c21d07a54be0c1be2f8d60b7c6f42ab51f1de2e9df4a2a98f54b2c6d7e810",
        ),
        baselines=[
            BaselineRow(
                model=model,
                scored_on=slot,
                metrics=dict(zip(("loss", "accuracy", "auc"), values, strict=True)),
            )
            for model, by_site in scores.items()
            for slot, values in by_site.items()
        ],
    )


def staged() -> Story:
    """Two stages, and sixteen pictures that the model made: grey gradients, each its own."""
    who = sites(2)
    slots = [s.slot for s in who]
    done = [r.model_copy(update={"stage": "ae" if r.number <= 3 else "dm"}) for r in rounds(7, slots)]

    def part(plot: Plot, first: int, last: int) -> Plot:
        series = [one.model_copy(update={"points": one.points[first - 1 : last]}) for one in plot.series]
        return plot.model_copy(update={"series": series})

    def picture(number: int) -> str:
        steps = np.arange(64, dtype=np.uint8).reshape(8, 8)
        return data_address((steps * 4 + 8 * number).astype(np.uint8))

    def staged_row(row: FeedRow) -> FeedRow:
        stage = "ae" if (row.round or 0) <= 3 else "dm"
        return row.model_copy(update={"text": row.text.replace(" started", f" ({stage}) started")})

    return finished().model_copy(
        update={
            "model": _model("digits_diffusion"),
            "total_rounds": 7,
            "rounds": done,
            "plots": [
                part(curve(slots, 7, "ae/loss", learning(1, 0.08, 0.01, 0.9, 0.001)), 1, 3),
                part(curve(slots, 7, "ae/train_loss", learning(2, 0.09, 0.01, 0.9, 0.001)), 1, 3),
                part(curve(slots, 7, "dm/loss", learning(3, 0.9, 0.3, 0.4, 0.012)), 4, 7),
                part(curve(slots, 7, "dm/train_loss", learning(4, 0.9, 0.3, 0.4, 0.012)), 4, 7),
            ],
            "feed": [staged_row(row) for row in feed(done)],
            "baselines": [],
            "samples": Samples(width=8, height=8, pictures=[picture(number) for number in range(16)]),
        }
    )


def failed() -> Story:
    """Seven sites; in round 4 all run out of memory with one traceback, and one also fails to score."""
    who = sites(7)
    slots = [s.slot for s in who]
    done = rounds(4, slots, state=lambda n, k: "failed" if n == 4 else "returned")
    done[-1] = done[-1].model_copy(update={"aggregated_at": None, "returned": 0})
    failures = [
        Failure(
            at=at(29),
            headline="RuntimeError: CUDA out of memory. Tried to allocate <value removed>",
            detail=OOM_TRACEBACK,
            slots=slots,
            round=4,
            task="train",
        ),
        Failure(
            at=at(17),
            headline="ValueError: y_true contains only one class",
            detail="Traceback (most recent call last):\n"
            '  File "trainer.py", line 63, in validate\n    auc = roc_auc_score(y, p)\n'
            "ValueError: y_true contains only one class",
            slots=["Trust_3"],
            round=2,
            task="validate",
        ),
    ]
    rows = feed(done)
    last = len(rows)
    rows += [
        FeedRow(
            id=last + k,
            at=at(29 + k / 10),
            kind="failure",
            text=f"{slot} failed in train: RuntimeError: CUDA out of memory.",
            success=False,
            slot=slot,
            round=4,
        )
        for k, slot in enumerate(slots, start=1)
    ]
    rows.append(
        FeedRow(id=last + 8, at=at(31), kind="status", text="The run ended with an error.", success=False, round=None)
    )
    reason = "round 4: 0 of 7 sites returned a result, 5 are needed"
    story_history = history(*_BEGIN, (31.0, ModelStatus.ERROR, "FL server"))
    story_history[-1] = story_history[-1].model_copy(update={"reason": reason})
    return Story(
        generated_at=at(40),
        model=_model("chest_xray"),
        status=ModelStatus.ERROR,
        reason=reason,
        total_rounds=20,
        history=story_history,
        sites=who,
        rounds=done,
        plots=[
            curve(slots, 3, "loss", learning(5, 0.9, 0.4, 0.5, 0.03)),
            curve(slots, 3, "dice", learning(6, 0.4, 0.8, 0.6, 0.02)),
        ],
        feed=rows,
        failures=failures,
    )


def stopped() -> Story:
    """A person stopped it in round 3; a late callback came after that and did not count."""
    who = sites(3)
    slots = [s.slot for s in who]
    done = rounds(3, slots, state=lambda n, k: "missed" if n == 3 and k > 1 else "returned")
    done[-1] = done[-1].model_copy(update={"aggregated_at": None, "returned": 1})
    steps = history(*_BEGIN, (24.0, ModelStatus.STOPPED, "A. Smith"))
    steps.append(
        Transition(
            at=at(26),
            previous=ModelStatus.STOPPED,
            status=ModelStatus.ERROR,
            by="FL server",
            reason="ended by the engine: a client or the server process was lost",
            applied=False,
        )
    )
    return Story(
        generated_at=at(30),
        model=_model("stopped by hand"),
        status=ModelStatus.STOPPED,
        reason="wrong cohort",
        total_rounds=10,
        history=steps,
        sites=who,
        rounds=done,
        plots=[curve(slots, 2, "loss", learning(7, 0.9, 0.4, 0.5, 0.03))],
        feed=feed(done),
    )


def ragged() -> Story:
    """Three sites; one misses rounds 4 to 6, one is late, refused values (NaN), a local-step axis, a lone point."""
    who = [
        StorySite(slot="Trust_2", trust="Guy's and St Thomas' NHS Foundation Trust", code="GSTT", last_seen=at(80)),
        StorySite(slot="Trust_3", trust="King's College Hospital", code="KCH", last_seen=at(80)),
        StorySite(slot="Trust_10", trust="University College London Hospitals", last_seen=at(40)),
    ]
    slots = [s.slot for s in who]
    names = {"Trust_2": "GSTT", "Trust_3": "KCH", "Trust_10": "University College London Hospitals"}

    def state(n: int, k: int) -> CellState:
        if k == 3:
            return "missed" if n in (4, 5, 6) else "returned"
        if k == 2:
            return "late" if n == 7 else "not_asked" if n == 2 else "returned"
        return "failed" if n == 9 else "returned"

    loss = learning(8, 0.9, 0.3, 0.4, 0.03)

    def measured(k: int, n: int) -> float | None:
        if k == 3 and n in (4, 5, 6, 8):
            return None
        return math.nan if (k, n) == (1, 5) else loss(k, n)

    done = rounds(10, slots, state=state, withheld=["Trust_2"])
    steps = Plot(
        label="train_loss",
        x_label="Local Steps",
        series=[
            Series(
                slot=slot,
                name=names[slot],
                points=[
                    Point(x=n * 25 * k, y=0.2 + 1.1 / (1 + n / 9) + 0.02 * math.sin(n * k), round=1 + (n - 1) // 4)
                    for n in range(1, 41)
                ],
            )
            for k, slot in enumerate(slots, start=1)
        ],
    )
    final = Plot(
        label="test_auc",
        x_label=DEFAULT_X_LABEL,
        series=[
            Series(slot=slot, name=names[slot], points=[Point(x=0, y=0.9 + 0.02 * k, round=0)])
            for k, slot in enumerate(slots, start=1)
        ],
    )
    rows = feed(done)
    rows.append(
        FeedRow(
            id=len(rows) + 1,
            at=at(38),
            kind="log",
            text="metric 'loss' of round 5 (validate) is nan: not stored",
            success=False,
            slot="Trust_2",
            round=5,
        )
    )
    return Story(
        generated_at=at(90),
        model=_model("spleen_segmentation"),
        status=ModelStatus.RESULTS_UPLOAD_FAILED,
        reason="the bucket refused the upload (403)",
        total_rounds=10,
        history=history(*_BEGIN, (84.0, ModelStatus.RESULTS_UPLOAD_FAILED, "FL server")),
        sites=who,
        rounds=done,
        plots=[curve(slots, 10, "loss", measured, names=names), steps, final],
        feed=rows,
    )


def large(site_count: int = 20, round_count: int = 100, label_count: int = 8) -> Story:
    """The size that the report's limit is stated for; full-precision numbers, which compress worst."""
    who = sites(site_count)
    slots = [s.slot for s in who]
    done = rounds(
        round_count,
        slots,
        step=31.0,
        state=lambda n, k: "missed" if k == 7 and 41 <= n <= 59 else "failed" if (n * k) % 211 == 0 else "returned",
    )
    labels = ("loss", "accuracy", "auc", "dice", "sensitivity", "specificity", "train_loss", "train_accuracy")

    def value(seed: int, falling: bool) -> Callable[[int, int], float | None]:
        curve_value = learning(seed, *((1.2, 0.2) if falling else (0.5, 0.93)), 0.045, 0.02)

        def measured(k: int, n: int) -> float | None:
            if k == 7 and 41 <= n <= 59:
                return None
            return math.nan if (k, n, seed) == (4, 30, 0) else curve_value(k, n)

        return measured

    return Story(
        generated_at=at(31 * round_count + 30),
        model=_model("twenty hospitals"),
        status=ModelStatus.RESULTS_UPLOADED,
        total_rounds=round_count,
        history=history(*_BEGIN, (31.0 * round_count + 20, ModelStatus.RESULTS_UPLOADED, "FL server")),
        sites=who,
        rounds=done,
        plots=[
            curve(slots, round_count, (labels * 3)[i] + ("" if i < 8 else str(i)), value(i, "loss" in (labels * 3)[i]))
            for i in range(label_count)
        ],
        feed=feed(done),
        results=StoredResults(
            address=f"s3://flip-results/{MODEL_ID}/20261122_150405.zip",
            at=at(31 * round_count),
            size_bytes=148_213_000,
            sha256="3f9c21d07a54be0c1be2f8d60b7c6f42ab51f1de2e9df4a2a98f54b2c6d7e810",
        ),
        baselines=[
            BaselineRow(
                model=model,
                scored_on=slot,
                metrics={"loss": 0.2 + 0.01 * k + 0.003 * (m % 7), "auc": 0.95 - 0.004 * k - 0.002 * (m % 5)},
            )
            for k, slot in enumerate(slots)
            for m, model in enumerate(("global model", *(f"{other} alone" for other in slots), "all data in one place"))
        ],
    )


def running() -> Story:
    """Round 2 of 5 is open: one site has answered, the other is awaited; then the FL server fell silent."""
    base = finished()
    done = rounds(2, ["Trust_1", "Trust_2"], state=lambda n, k: "missed" if (n, k) == (2, 2) else "returned")
    done[-1] = done[-1].model_copy(update={"aggregated_at": None, "returned": 1})
    return Story(
        generated_at=at(318),
        model=base.model,
        status=ModelStatus.RUNNING,
        unreachable=Silence(since=at(18), ends_at=at(3618)),
        losses=[Loss(at=at(17), text="12 of Trust_1's reports of train, round 1 never came", slot="Trust_1", round=1)],
        total_rounds=5,
        history=history(*_BEGIN),
        sites=base.sites,
        skews=[Skew(slot="Trust_2", seconds=-95.0)],
        rounds=done,
        plots=[curve(["Trust_1", "Trust_2"], 1, "loss", learning(1, 0.62, 0.07, 0.9, 0.012))],
        feed=feed(done),
    )


def empty() -> Story:
    """Nothing but a draft."""
    return Story(
        generated_at=at(0),
        model=StoryModel(id=MODEL_ID, name="new model"),
        status=ModelStatus.PENDING,
        history=history((-1.0, ModelStatus.PENDING, "A. Smith")),
    )


def hostile() -> Story:
    """Markup, format characters and control characters in every text that a person or a site could have written."""
    slot = f"Trust_1{CANARY}"
    evil = f"{CANARY}\u202e\x1b[31m{{{{style}}}}]]> --> & 'quoted' \"double\" `tick` ${{x}}"
    done = rounds(2, [slot])
    return Story(
        generated_at=at(30),
        model=StoryModel(id=evil, name=evil, description=evil, project=evil, facts={evil: evil}),
        status=ModelStatus.ERROR,
        reason=evil,
        total_rounds=2,
        history=[
            Transition(at=at(0), previous=None, status=ModelStatus.RUNNING, by=evil, reason=evil),
            Transition(at=at(1), previous=ModelStatus.RUNNING, status=ModelStatus.ERROR, by=evil, reason=evil),
        ],
        sites=[StorySite(slot=slot, trust=evil, code=evil)],
        rounds=done,
        plots=[
            Plot(label=evil, x_label=evil, series=[Series(slot=slot, name=evil, points=[Point(x=1, y=1.5, round=1)])]),
            curve([slot], 2, evil, lambda k, n: float(n), names={slot: evil}),
        ],
        feed=[
            FeedRow(id=1, at=at(1), kind=evil, text=evil, success=False, slot=evil, round=1),
            FeedRow(id=2, at=at(2), kind="log", text=evil, slot=slot),
            FeedRow(id=3, at=at(2), kind="constructor", text="a kind that every object has", slot="__proto__"),
        ],
        losses=[Loss(at=at(1), text=evil, slot=slot, round=1)],
        failures=[Failure(at=at(1), headline=evil, detail=evil, slots=[slot, evil], round=1, task=evil)],
        results=StoredResults(address=evil, at=at(2), size_bytes=1, sha256=evil),
        baselines=[
            BaselineRow(model=evil, scored_on=evil, metrics={evil: 1.0}),
            BaselineRow(model="constructor", scored_on="__proto__", metrics={"constructor": 1.0, "__proto__": 2.0}),
        ],
    )


ALL: Mapping[str, Callable[[], Story]] = {
    "finished": finished,
    "staged": staged,
    "private": private,
    "failed": failed,
    "stopped": stopped,
    "ragged": ragged,
    "running": running,
    "empty": empty,
    "hostile": hostile,
    "large": large,
}


def inlined(html: str) -> str:
    """The JSON that a rendered page carries."""
    packed = html.split('data-encoding="gzip+base85">', 1)[1].split("</script>", 1)[0]
    digits = packed.encode("ascii").translate(bytes.maketrans(b"./:[", b"&<>`"))
    return gzip.decompress(base64.b85decode(digits)).decode("utf-8")
