"""An inspection as programs and as people read it."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from flip_fl.app.config import DIFF
from flip_fl.app.forms import FormKind
from flip_fl.app.inspection import Inspection
from flip_fl.commands.app_answers import AppChange, AppFinding, AppLeaves, AppRuns, CheckAnswer
from flip_fl.errors import printable
from flip_fl.privacy.egress import MAX_LABEL_CHARS, EgressPolicy
from flip_fl.values import JobType

_FORMS = {
    FormKind.NEUTRAL: "a neutral app",
    FormKind.CLIENT_API: "an NVFLARE Client-API script",
    FormKind.FLOWER_PACKAGE: "a Flower package",
    FormKind.EXECUTOR: "an executor-style app",
}
_FAILURES = "an exception's type, its place in the app, and its text without values"
_NO_FILES = "none; what is printed is withheld"


def answer_of(found: Inspection) -> CheckAnswer:
    """The answer of ``flip-fl check``."""
    problems = [
        AppFinding("fail", each.what, f"FLIP-{each.code}", each.where, each.why or None, each.fix or None)
        for each in found.problems
    ]
    doubts = [AppFinding("warn", each.what, None, each.where, each.why, each.fix) for each in found.doubts]
    return CheckAnswer(
        app=found.app_dir,
        form=found.form.kind.value,
        evidence=found.form.evidence,
        job_type=found.job_type.value if found.job_type else None,
        runs=[AppRuns(each.engine, each.runs, each.how, each.installed) for each in found.runs],
        leaves=_leaves(found),
        files=list(found.files),
        findings=[*problems, *doubts],
        changes=[AppChange(each.file, each.line, each.old, each.new) for each in found.changes],
    )


def text_of(answer: CheckAnswer) -> str:
    """The same for a person: what it is, what it runs as, what leaves, what is to mend."""
    form = _FORMS[FormKind(answer.form)]
    evidence = f" ({answer.evidence})" if answer.evidence else ""
    lines = [f"{printable(answer.app)} is {form}{printable(evidence)}"]
    lines += ["", "runs on", *_rows([(each.engine, _told(each)) for each in answer.runs])]
    if any(each.runs for each in answer.runs):
        leaves = answer.leaves
        rows = [("weights", leaves.weights), ("metrics", leaves.metrics), ("failures", leaves.failures)]
        lines += ["", "leaves a trust", *_rows([*rows, ("files", leaves.files)])]
        lines += ["", "goes to every site", *_rows([("files", ", ".join(answer.files))])]
    if answer.changes:
        lines += ["", "change", *_changes(answer)]
    lines += ["", *_findings(answer)]
    return "\n".join(lines)


def _told(each: AppRuns) -> str:
    absent = "" if each.installed or not each.runs else f"; it is not installed: pip install 'flip_fl[{each.engine}]'"
    return f"{each.how}{absent}" if each.runs else f"no: {each.how}"


def _rows(rows: list[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    for name, told in rows:
        yield f"  {name.ljust(width)}  {told}"


def _changes(answer: CheckAnswer) -> Iterator[str]:
    for each in answer.changes:
        yield f"  {each.file}:{each.line}  {printable(each.old)}"
        yield f"      -> {each.new}"


def _findings(answer: CheckAnswer) -> Iterator[str]:
    if not answer.findings:
        yield "nothing to mend"
    for each in answer.findings:
        code = f"[{each.code}]" if each.code else ""
        yield f"{each.state}{code}: {printable(each.what)}"
        for word, told in (("-->", each.where), ("why:", each.why), ("fix:", each.fix)):
            if told:
                yield f"  {word} {printable(told)}"


def _leaves(found: Inspection) -> AppLeaves:
    arrays, size = _travelling(found)
    config = found.config
    declared = list(config.metrics) if config is not None and config.metrics is not None else None
    return AppLeaves(
        weights=_weights(found, arrays, size),
        metrics=_metrics(found, declared),
        failures=_FAILURES,
        files=_NO_FILES,
        declared=declared,
        named=list(found.reported.names),
        computed=found.reported.computed,
        arrays=arrays,
        size_bytes=size,
    )


def _travelling(found: Inspection) -> tuple[int | None, int | None]:
    """How many arrays travel back, and their size in bytes."""
    import numpy as np

    if found.shapes is None or found.travelling is None or found.job_type is JobType.EVALUATION:
        return None, None
    # A Flower package sends the whole model whatever config.json says.
    names = found.shapes if found.form.kind is FormKind.FLOWER_PACKAGE else found.travelling
    sizes = (prod(found.shapes[name][0]) * np.dtype(found.shapes[name][1]).itemsize for name in names)
    return len(names), sum(sizes)


def _weights(found: Inspection, arrays: int | None, size: int | None) -> str:
    if found.job_type is JobType.EVALUATION:
        return "none: an evaluation sends none back"
    config = found.config
    if found.form.kind is FormKind.FLOWER_PACKAGE:
        what = "the arrays of the ClientApp's reply"
    elif found.form.kind is FormKind.CLIENT_API and (config is None or "PARAMS_TYPE" not in config.raw):
        what = "what flare.send() is given: whole weights or differences, as its params_type says"
    elif config is not None and config.params_type == DIFF:
        what = "what a round changed (PARAMS_TYPE is DIFF)"
    else:
        what = "the whole weights after training, each round"
    if config is not None and config.aggregate_only_regex:
        what += "; only those that AGGREGATE_ONLY_REGEX finds"
    if config is not None and config.fedbn:
        what += "; batch norm stays (FEDBN)"
    if config is not None and config.secure_aggregation:
        what += "; masked, 8 bytes a number: the FL server has their mean and no site's own (SECURE_AGGREGATION)"
    return what if arrays is None or size is None else f"{what}: {arrays} arrays, {_size(size)}"


def _size(size: int) -> str:
    for unit, least in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size} bytes"


def _metrics(found: Inspection, declared: list[str] | None) -> str:
    policy = EgressPolicy()
    if declared is not None:
        told = f"finite numbers under the names that METRICS declares: {', '.join(declared) or 'none'}"
    else:
        told = (
            f"any finite number under a plain name (a letter first, {MAX_LABEL_CHARS} characters, few digits), "
            f"at most {policy.max_names} names and {policy.max_metrics:,} numbers a task; METRICS would limit it"
        )
    names = ", ".join(printable(name) for name in found.reported.names)
    more = " and names made up as it runs" if found.reported.computed else ""
    named = f". The source names {names}{more}" if names else f". The source has{more[4:]}" if more else ""
    extra = ". Lists and curves go into the results' file only" if found.job_type is JobType.EVALUATION else ""
    return f"{told}; num_examples{named}{extra}"
