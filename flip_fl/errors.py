"""One catalogue of everything that can go wrong in a way a user can mend: code, words, exit code.

Every message a person sees is written in ``CATALOGUE``. Code raises ``FlipError("E0303", key=…, value=…)``; the
entry's templates are filled with the facts. A fact is quoted as given, cut at 200 characters, with control
characters shown as ``\\x1b``; a fact must never be a key, SQL, or a value of a patient's row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from string import Formatter
from typing import Any

MAX_FACT_CHARS = 200


class ExitCode(IntEnum):
    """What a shell sees. The table is part of the command line's promises."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNAUTHORISED = 4
    REFUSED = 5
    STOPPED = 6
    BUG = 70
    INTERRUPTED = 130


@dataclass(frozen=True)
class Entry:
    """One kind of error: templates for what, why and fix, and what ``flip-fl explain`` prints."""

    code: str
    exit_code: ExitCode
    what: str
    why: str = ""
    fix: str = ""
    explain: str = ""
    retryable: bool = False

    def fields(self) -> frozenset[str]:
        """The names of the facts that the templates ask for."""
        texts = (self.what, self.why, self.fix)
        return frozenset(name for text in texts for _, name, _, _ in Formatter().parse(text) if name)


class FlipError(Exception):
    """An error with the five parts a user needs: what, where, why, fix, explain.

    ``facts`` fill the catalogue's templates; ``where`` is ``file:line:column`` or another place; ``why`` and ``fix``
    replace the entry's own words where the caller knows better. Raises ``KeyError`` for an unknown code or a
    missing fact: both are bugs that a test finds.
    """

    def __init__(
        self, code: str, *, where: str | None = None, why: str | None = None, fix: str | None = None, **facts: object
    ) -> None:
        self.entry = CATALOGUE[code]
        self.facts = dict(facts)
        self.where = where
        words = {name: printable(value) for name, value in facts.items()}
        self.what = self.entry.what.format_map(words)
        self.why = why if why is not None else self.entry.why.format_map(words)
        self.fix = fix if fix is not None else self.entry.fix.format_map(words)
        super().__init__(self.what)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.code, self.where, self.why, self.fix, self.facts)

    @property
    def code(self) -> str:
        return self.entry.code

    @property
    def exit_code(self) -> ExitCode:
        return self.entry.exit_code

    @property
    def sentence(self) -> str:
        """What and why in one line: a run's reason at the hub."""
        return f"{self.what} ({self.why})" if self.why else self.what

    def text(self) -> str:
        """The error as people read it: one line a part, nothing wrapped."""
        lines = [f"error[FLIP-{self.code}]: {self.what}"]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        lines.append(f"  see: flip-fl explain {self.code}")
        return "\n".join(lines)

    def envelope(self) -> dict[str, Any]:
        """The error as programs read it (``--json``)."""
        return {
            "schema": "flip-fl.error/1",
            "status": "error",
            "exit_code": int(self.exit_code),
            "code": f"FLIP-{self.code}",
            "message": self.what,
            "where": self.where,
            "why": self.why or None,
            "fix": self.fix or None,
            "docs": f"flip-fl explain {self.code}",
            "retryable": self.entry.retryable,
        }


class ResultsUploadError(Exception):
    """The results could not be stored; the cause is chained."""

    def __init__(self, message: str = "Unexpected failure uploading results to S3") -> None:
        super().__init__(message)


class CleanupError(Exception):
    """A folder could not be removed; the cause is chained."""

    def __init__(self, path: object) -> None:
        super().__init__(f"Failed to clean up path: {path}")


def printable(value: object) -> str:
    """``value`` as text, control characters escaped, at most 200 characters."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    return text if len(text) <= MAX_FACT_CHARS else text[: MAX_FACT_CHARS - 1] + "…"


def _rebuild(code: str, where: str | None, why: str, fix: str, facts: dict[str, object]) -> FlipError:
    return FlipError(code, where=where, why=why, fix=fix, **facts)


_ENTRIES = (
    # -- our own ------------------------------------------------------------------------------------------------
    Entry(
        "E0001",
        ExitCode.BUG,
        "flip-fl failed in a way it should not: {kind}",
        "this is a bug in flip_fl, not in what you typed",
        "report it with the file {path}",
        "The traceback is in the named file. It may hold paths of this machine: read it before you share it.",
    ),
    # -- the command line ---------------------------------------------------------------------------------------
    Entry(
        "E0101",
        ExitCode.USAGE,
        "no command '{command}'",
        fix="{suggestion}",
        explain="The first word after flip-fl must be one of the commands that `flip-fl --help` lists.",
    ),
    Entry(
        "E0102",
        ExitCode.USAGE,
        "{problem}",
        fix="{usage}",
        explain="An option or argument was missing, unknown or of the wrong kind; `--help` shows examples.",
    ),
    Entry(
        "E0103",
        ExitCode.INTERRUPTED,
        "stopped by Ctrl-C",
        "{state}",
        explain="Ctrl-C ends a command at once. A run is stopped first, and the hub is told.",
    ),
    # -- the app's folder ---------------------------------------------------------------------------------------
    Entry(
        "E0201",
        ExitCode.USAGE,
        "no app in {folder} (looked for config.json and client_app.py or trainer.py)",
        "{hint}",
        "{suggestion}",
        "A neutral app is a folder with config.json, models.py and trainer.py (evaluation: evaluator.py).",
    ),
    Entry(
        "E0202",
        ExitCode.USAGE,
        "the app has no {file}",
        "a {job_type} job needs {needed}",
        "add {file} to {folder}",
        "Each job type has its required files; `flip-fl run` names the first that is missing.",
    ),
    Entry(
        "E0203",
        ExitCode.USAGE,
        "{file} cannot be imported: {problem}",
        "the app is imported before anything starts, so that a mistake costs seconds and not a round",
        "mend {file} at the place shown",
        "The last frame inside the app is shown as the place. Missing packages must be installed in this environment.",
    ),
    Entry(
        "E0204",
        ExitCode.USAGE,
        "{file} has no function {function}",
        "a {job_type} job calls {signature}",
        "define {signature} in {file}",
        "The neutral form is a handful of plain functions; see the README of any folder in examples/.",
    ),
    Entry(
        "E0205",
        ExitCode.USAGE,
        "models.get_model() cannot be used: {problem}",
        "the server needs the names and shapes of the weights before the first round",
        "return a torch.nn.Module whose state_dict() holds dense tensors of a dtype that numpy has",
        "get_model() is called in a process of its own with an empty environment.",
    ),
    Entry(
        "E0206",
        ExitCode.USAGE,
        "this is an executor-style app ({evidence})",
        "flip_fl runs neutral apps (plain functions), NVFLARE Client-API scripts and Flower packages",
        "move the body of the class into train(model, site, config) and validate(model, site, config) of trainer.py "
        "(an evaluation: evaluate of evaluator.py), or into a script that uses nvflare.client",
        "Executor-style apps tie the code to one engine's classes, several of which that engine has removed. "
        "`flip-fl check APP` says line by line what to write instead.",
    ),
    Entry(
        "E0207",
        ExitCode.REFUSED,
        "the app has a module called {name}",
        "it would be run in every process that has the app on its path, the FL server's included",
        "rename it and import it from trainer.py",
        "The server holds the hub's key and never runs a researcher's code: sitecustomize, usercustomize and "
        "nvflare_decomposers are imported without being asked for.",
    ),
    Entry(
        "E0208",
        ExitCode.USAGE,
        "Flower would leave out of the job: {names}",
        "{reason}",
        "{suggestion}",
        "What Flower sends to the sites is a bundle of the job folder. Its rules drop some files by their name; the "
        "app would fail at the sites, on import.",
    ),
    Entry(
        "E0209",
        ExitCode.USAGE,
        "flip-fl run does not read {file}, which is in the app's folder",
        "the app is a neutral one, functions in trainer.py, and runs with the engine's apps of flip_fl: {left_out}",
        "{suggestion}",
        "A ServerApp or ClientApp of one's own belongs into a job of Flower: job_templates/flower/standard, whose "
        "README says how to put one's own strategy in. It is started with flwr run.",
    ),
    Entry(
        "E0210",
        ExitCode.USAGE,
        "there is no checkpoint {name}",
        "looked in {places}",
        "put the file into {place}",
        "Checkpoints stay on the FL server and never travel as files. They lie at SERVER_CHECKPOINT_ROOT, in a folder "
        "named after the model's id; flip-fl run takes them from the app's folder, too.",
    ),
    Entry(
        "E0214",
        ExitCode.FAILED,
        "the app's generate() made no pictures: {problem}",
        "it is called with the uploaded model, a number of pictures and the config, in a process without data or keys",
        "return that many pictures with values from 0 to 1: (count, height, width), or (count, height, width, 3)",
        "generate(model, count, config) is optional. A run whose pictures cannot be made has its results all the same.",
    ),
    Entry(
        "E0211",
        ExitCode.USAGE,
        "a checkpoint's name must be a plain file name, not {name!r}",
        "a folder in it could lead to another project's model",
        "write the name alone, such as model.pt",
        "Checkpoints are looked up in the folder of the job's own model; a name that leads anywhere else is refused "
        "before a byte is read.",
    ),
    Entry(
        "E0215",
        ExitCode.USAGE,
        "this app runs on {other}, not on {engine} ({evidence})",
        "it speaks to one engine's own interface; only a neutral app runs on both",
        "run it with --engine {other}, or move its work into the functions of a neutral app",
        "NVFLARE Client-API scripts and Flower packages run as they are, each on its engine.",
    ),
    Entry(
        "E0216",
        ExitCode.USAGE,
        "{file} imports {module}, which is not installed here",
        "every site needs it, and the FL server for what models.py imports",
        "install it, or leave the import out",
        "flip-fl check looks at the imports of each file; a site of a real federation needs the same packages.",
    ),
    Entry(
        "E0217",
        ExitCode.USAGE,
        "{file} reads config['{key}'], which config.json does not have",
        "config is config.json as it is written: no default is put into it",
        'add "{key}" to config.json, or read config.get("{key}", …)',
        "Defaults of the platform's keys are for the platform; what an app reads itself must be in the file.",
    ),
    Entry(
        "E0218",
        ExitCode.FAILED,
        "{app} cannot run{where_to}: {count} to mend",
        "first: {first}",
        "{suggestion}",
        "flip-fl check lists all that would stop a run. What it calls a warning does not.",
    ),
    Entry(
        "E0219",
        ExitCode.REFUSED,
        "{path} is there already",
        "flip-fl new writes a new folder and changes nothing that exists",
        "give another name, or remove {path}",
        "A new app is written beside its place and then moved there, whole or not at all.",
    ),
    Entry(
        "E0220",
        ExitCode.FAILED,
        "{path} cannot be written: {problem}",
        "nothing was left there",
        "{suggestion}",
        "A new app is written beside its place and then moved there.",
    ),
    # -- config.json --------------------------------------------------------------------------------------------
    Entry(
        "E0221",
        ExitCode.USAGE,
        "SECURE_AGGREGATION is true, and {engine} has none that FLIP can use",
        "NVIDIA FLARE's is homomorphic encryption: its server can never read the model that FLIP must check and keep",
        "run it with --engine {other}, or leave SECURE_AGGREGATION out",
        "On Flower the server gets each site's update behind masks that cancel in the sum; the sum is in plain text.",
    ),
    Entry(
        "E0301",
        ExitCode.USAGE,
        "config.json is not valid JSON: {problem}",
        fix="mend the line shown",
        explain="config.json is one JSON object; comments and trailing commas are not JSON.",
    ),
    Entry(
        "E0302",
        ExitCode.USAGE,
        "config.json has no key '{key}'",
        "{reason}",
        'add "{key}": {example}',
        "Only job_type is required; every other platform key has a default.",
    ),
    Entry(
        "E0303",
        ExitCode.USAGE,
        "{key} is {value}; it must be {expected}",
        "out-of-range values are refused, not replaced",
        "{fix}",
        "The platform's own keys are checked; keys that flip_fl does not know belong to the app and pass through.",
    ),
    Entry(
        "E0304",
        ExitCode.USAGE,
        "config.json has the key '{key}', which is close to the platform's '{near}'",
        "a misspelt platform key would silently have no effect",
        "write '{near}', or rename your own key",
        "Keys of the app's own pass through unless they are one or two letters from a platform key.",
    ),
    Entry(
        "E0312",
        ExitCode.USAGE,
        "no kit slot called '{slot}'{place}",
        "metrics, weights and --site use slot names, not the trusts' names",
        "{suggestion}",
        "A kit slot (Trust_1, Trust_2, …) is the name of a participant; the hub knows which trust holds it.",
    ),
    # -- settings, hub, keys ------------------------------------------------------------------------------------
    Entry(
        "E0401",
        ExitCode.USAGE,
        "the {role} cannot start: {names} not set",
        "in production flip_fl has no default for addresses, keys and buckets",
        "set {names} in {place}",
        "Settings come from keyword arguments, else from the role's settings file, else from the environment.",
    ),
    Entry(
        "E0402",
        ExitCode.UNREACHABLE,
        "{url} answered but is not a FLIP hub API",
        "{evidence}",
        "{suggestion}",
        "The base URL of our hub ends in /api.",
    ),
    Entry(
        "E0403",
        ExitCode.UNREACHABLE,
        "no answer from the hub at {url}: {problem}",
        "{safe}",
        "start the hub, or correct FLIP_API_INTERNAL_URL",
        "What was reported meanwhile is kept in the outbox and sent when the hub answers again.",
        retryable=True,
    ),
    Entry(
        "E0404",
        ExitCode.USAGE,
        "{name} is {value}; it must be {expected}",
        "a malformed setting stops the start, so that nothing runs half configured",
        "correct {name} in {place}",
        "Values of keys are never shown, only whether they are set.",
    ),
    Entry(
        "E0405",
        ExitCode.USAGE,
        "it is not clear whether this is development or production",
        "LOCAL_DEV is not set, but {names} is",
        "set LOCAL_DEV=true for development, or LOCAL_DEV=false for production",
        "A missing LOCAL_DEV must never switch off reporting in silence.",
    ),
    Entry(
        "E0406",
        ExitCode.USAGE,
        "the role of this process is not clear: {problem}",
        "the FL server calls the hub, an FL client calls its trust's services; neither may do the other's",
        "set FLIP_ROLE=server or FLIP_ROLE=client, or set just one of the two keys",
        "Engine components always say their role; only code that calls FLIP() by itself has to.",
    ),
    Entry(
        "E0407",
        ExitCode.REFUSED,
        "{operation} belongs to the {needed}, this process is the {role}",
        "a client never holds the hub's key and never calls the hub",
        "{suggestion}",
        "Metrics, statuses, exceptions and results go through the FL engine to the server.",
    ),
    Entry(
        "E0411",
        ExitCode.UNAUTHORISED,
        "the hub refused INTERNAL_SERVICE_KEY ({key})",
        "{reason}",
        "flip-fl doctor --keys",
        "The hub stores only a hash of its key; a key is shown once, when the hub is initialised.",
    ),
    Entry(
        "E0413",
        ExitCode.UNAUTHORISED,
        "the hub refused FLIP_HUB_TOKEN ({token})",
        "{reason}",
        "flip-fl hub token add NAME --role viewer, and set FLIP_HUB_TOKEN to what it shows",
        "The service key only reports. Whoever reads a run at the hub, by a browser or a program, needs a login token.",
    ),
    Entry(
        "E0412",
        ExitCode.FAILED,
        "the outbox {path} cannot be used: {problem}",
        "what a run reports must be on disk before it is acknowledged, so that a crash loses nothing",
        "make FLIP_STATE_DIR a folder on a local disk that this user can write, with room to spare",
        "The outbox is one SQLite file a run under $FLIP_STATE_DIR/outbox. Network file systems are not suitable.",
    ),
    # -- runs ---------------------------------------------------------------------------------------------------
    Entry(
        "E0501",
        ExitCode.USAGE,
        "no model id: {problem}",
        "the hub needs to know which model a run reports on",
        "give a UUID as FLIP_MODEL_ID in config.json, or as custom_props.model_id in meta.json",
        "Looked up in this order: the component's argument, FLIP_MODEL_ID in config.json, custom_props.model_id in "
        "NVFLARE's meta.json (Flower: flip-model-id in the run config), the job's name.",
    ),
    Entry(
        "E0505",
        ExitCode.USAGE,
        "the job needs {needed} sites, {chosen} are chosen ({slots})",
        "MIN_CLIENTS is {needed}{place}",
        "use --sites {needed}, or set MIN_CLIENTS to {chosen}",
        "A run with fewer sites than its quorum would wait for sites that never come.",
    ),
    Entry(
        "E0515",
        ExitCode.USAGE,
        "secure aggregation needs at least {least} sites, {chosen} are chosen ({slots})",
        "of two sites each would learn the other's update: the mean less its own",
        "choose at least {least} sites, or leave SECURE_AGGREGATION out of config.json",
        "A site that is alone, or one of two, has no one to hide among.",
    ),
    Entry(
        "E0506",
        ExitCode.FAILED,
        "the engine ended without finishing the run: {problem}",
        "{reason}",
        "read {log}",
        "The engine's own logs lie in the run's folder.",
    ),
    Entry(
        "E0507",
        ExitCode.FAILED,
        "the run ended {status}: {reason}",
        "{cause}",
        "{suggestion}",
        "The report and the hub hold the whole story, tracebacks included.",
    ),
    Entry(
        "E0508",
        ExitCode.REFUSED,
        "{folder} already holds something that is not a run of flip-fl",
        "a run's folder is emptied before it is written again",
        "choose another folder with --out",
        "Only folders that flip-fl wrote itself are ever emptied.",
    ),
    Entry(
        "E0509",
        ExitCode.USAGE,
        "{part} is not installed",
        "{needed_for}",
        "pip install '{requirement}'",
        "The base install is small; engines, torch, the hub and object storage are extras.",
    ),
    Entry(
        "E0510",
        ExitCode.USAGE,
        "the engine '{engine}' is not one that flip-fl runs",
        "engines: {engines}",
        "{suggestion}",
        "--engine takes the name of an installed engine.",
    ),
    Entry(
        "E0511",
        ExitCode.STOPPED,
        "the run was stopped: {reason}",
        fix="read {report}",
        explain="A person stopped the run, here or at the hub. What it had measured is kept.",
    ),
    Entry(
        "E0541",
        ExitCode.USAGE,
        "{server} knows no run {run}",
        "a run goes by the id that the engine gave it when it was submitted, or by its model's",
        "flwr ls {connection}",
        "A SuperLink without --database forgets its runs when it is started anew. A run that was seen before is then "
        "reported to the hub as lost; one that was never seen may be a typing error, and nothing is written.",
    ),
    Entry(
        "E0542",
        ExitCode.UNREACHABLE,
        "gave up watching after {seconds} s, waiting for {awaited}",
        "the run was not touched, and nothing was written to the hub",
        "watch it again with a longer --timeout",
        "A watchdog may be started anew at any time: it keeps nothing but what hub and engine tell it.",
        retryable=True,
    ),
    Entry(
        "E0543",
        ExitCode.USAGE,
        "the runs of {engine} cannot be looked up: {problem}",
        "flwr ls {connection} was refused",
        "correct the connection in config.toml of FLWR_HOME",
        "flip-fl asks the SuperLink with flwr ls, as you would; the connection is a name in Flower's configuration.",
    ),
    Entry(
        "E0544",
        ExitCode.REFUSED,
        "another job of the model {model} has not ended: {job} ({state})",
        "two jobs of one model would tell their rounds twice",
        "wait for its end, or: flip-fl job abort {job} {option}",
        "The very same app, sites and cohort again is the same job: submitting it twice says that it is there.",
    ),
    Entry(
        "E0545",
        ExitCode.UNREACHABLE,
        "no answer from {server}: {problem}",
        "the kit {kit} says where it is",
        "start it, or see what keeps this kit from it: flip-fl kit verify {kit} --connect",
        "NVFLARE is asked with the administrator's kit, from anywhere; Flower with the server's, on its own machine.",
        retryable=True,
    ),
    Entry(
        "E0546",
        ExitCode.FAILED,
        "{server} refused to {act}: {problem}",
        fix="flip-fl job list",
        explain="The text is the engine's own.",
    ),
    Entry(
        "E0547",
        ExitCode.USAGE,
        "{path} is no kit that jobs can be submitted with: {problem}",
        "NVFLARE is told with the administrator's kit, Flower with the server's, on its own machine",
        "{fix}",
        "--kit takes that kit, or the folder in which all kits were made.",
    ),
    Entry(
        "E0548",
        ExitCode.UNREACHABLE,
        "no site to submit to: {problem}",
        "a job waits for its sites; one that nobody takes part in never begins",
        "{fix}",
        "Without --site a job goes to every site that is connected now.",
        retryable=True,
    ),
    Entry(
        "E0530",
        ExitCode.USAGE,
        "{folder} is not a Flower app that can be run: {problem}",
        "its pyproject.toml names a ServerApp and a ClientApp, and declares the run config",
        "mend {folder}/pyproject.toml; `flwr build` checks it, too",
        "[tool.flwr.app.components] has serverapp and clientapp, each as module:attribute; every key of the run config "
        "is declared with its default in [tool.flwr.app.config].",
    ),
    Entry(
        "E0531",
        ExitCode.USAGE,
        "the run config cannot be given '{given}': {problem}",
        "Flower takes only keys that the app declares, each with a value of the declared type",
        "{fix}",
        "The keys stand in [tool.flwr.app.config] of the app's pyproject.toml.",
    ),
    # -- kits ---------------------------------------------------------------------------------------------------
    Entry(
        "E0521",
        ExitCode.FAILED,
        "what a run has kept in {path} cannot be read ({problem})",
        "a run that was cut off goes on from there; starting again from round 1 would tell its rounds a second time",
        "remove the folder that it lies in to start again from the first round, with another model id",
        "Written after each round, removed when the run has ended.",
    ),
    Entry(
        "E0522",
        ExitCode.USAGE,
        "flip_fl.flower.run was not told where the app lies",
        "the results bundle holds the code and the config that rebuild the model",
        "give it app_dir=Path(__file__).parent, or flip-job-dir in the run config",
        "The folder holds config.json and models.py with get_model().",
    ),
    Entry(
        "E0551",
        ExitCode.USAGE,
        "this node does not know which kit slot it is: {problem}",
        "its settings, its data and its metrics belong to a slot",
        "start the SuperNode with --node-config 'slot=\"Trust_1\"'",
        "Looked at in this order: slot in the node's config, SUPERNODE_NAME in its environment, in a simulation "
        "partition-id (the place in flip-slots), and what the server says.",
    ),
    Entry(
        "E0552",
        ExitCode.FAILED,
        "the message of the server cannot be worked on: {problem}",
        "a task needs the global model, as one ArrayRecord",
        'let the strategy send it, under the name "arrays"',
        "Flower's own strategies do; a strategy of one's own builds its messages in configure_train and "
        "configure_evaluate.",
    ),
    Entry(
        "E0553",
        ExitCode.FAILED,
        "the update is not sent: {problem}",
        "the job says SECURE_AGGREGATION, and what cannot be masked does not leave the site",
        "{suggestion}",
        "A site answers each step of a round once, in order, and only for a round of enough sites.",
    ),
    Entry(
        "E0560",
        ExitCode.REFUSED,
        "this site runs no app: it asks for isolation level {level}, and its system has {offered}",
        "{reason}",
        'run it on Linux 6.2 or later with Landlock and seccomp, or set level = "{offered}" under [isolation] in the '
        "site's policy.toml",
        "At level full researcher code runs in a process of its own that reaches no network, no other process and no "
        "file but its own; at level process it only has no key and no share in the engine's process. Less than full "
        "is a decision of the site.",
    ),
    Entry(
        "E0561",
        ExitCode.REFUSED,
        "this FL server runs no app: models.py is to be isolated from the server, and its system has {offered}",
        "{reason}",
        "run it on Linux 6.2 or later with Landlock and seccomp, or set FLIP_SERVER_ISOLATION={offered} among its "
        "settings",
        "models.py is the researcher's. At level full the process that runs it reaches no network, no other process "
        "and no file but the job's own: neither the server's keys nor its kit. At level process it is only given none.",
    ),
    Entry(
        "E0523",
        ExitCode.REFUSED,
        "a run of the model {model} is live on this machine",
        "two runs of one model would tell their rounds twice and remove each other's files in {folder}",
        "wait for its end, or stop it: flwr ls, flwr stop",
        "A run holds a lock beside its folder until it has ended; a killed one's is free at once.",
    ),
    Entry(
        "E0601",
        ExitCode.REFUSED,
        "kits for {sites} exist in {folder}",
        "a new CA would cut off all {count}",
        "{suggestion}",
        "Whoever holds a kit is known by a certificate of the CA in <out>/ca. --add issues more under the same CA; "
        "--replace-all makes a new CA and all kits anew, and every site must then be given its new kit.",
    ),
    Entry(
        "E0602",
        ExitCode.USAGE,
        "{key} is {value}; it must be {expected}",
        "what a federation is made of is checked whole before anything is made",
        "correct {key}",
        "federation.yaml has the keys net, engine, server (host, port, other_hosts) and slots.",
    ),
    Entry(
        "E0603",
        ExitCode.USAGE,
        "the federation's file {file} cannot be read: {problem}",
        fix="{suggestion}",
        explain="The file is YAML: net, engine, server with its host, and slots. Without one: "
        "flip-fl provision -n 3 --host fl.example.org.",
    ),
    Entry(
        "E0604",
        ExitCode.USAGE,
        "{file} has no key '{key}'",
        "it must be {expected}",
        "{suggestion}",
        "net, engine, server.host and slots are required; server.port (8002) and server.other_hosts are not.",
    ),
    Entry(
        "E0605",
        ExitCode.USAGE,
        "{file} has the key '{key}'{problem}",
        "a misspelt or repeated key would silently have no effect",
        "{suggestion}",
        "A federation's file holds net, engine, server (host, port, other_hosts) and slots, each once.",
    ),
    Entry(
        "E0606",
        ExitCode.USAGE,
        "there are no kits in {folder} to {act}",
        "the CA that made them lies beside them, in ca/",
        "{suggestion}",
        "--add and --replace-all work where the kits were made. A kit that was handed out does not hold the CA.",
    ),
    Entry(
        "E0607",
        ExitCode.FAILED,
        "the CA in {folder} cannot be used: {problem}",
        "a kit under another CA would not be let in by the server, nor by the other sites",
        "restore {folder} from its backup",
        "ca/ holds rootCA.key, rootCA.pem and federation.json. If they are lost, only all kits made anew help: "
        "flip-fl provision --replace-all --yes.",
    ),
    Entry(
        "E0608",
        ExitCode.REFUSED,
        "{folder} holds something that is not a kit: {name}",
        "kits are private keys, and nothing of somebody else's is moved or mixed with them",
        "choose a new folder with --out",
        "The folder for kits must be absent or empty at first.",
    ),
    Entry(
        "E0609",
        ExitCode.FAILED,
        "the kits could not be made: {problem}",
        "nothing that was there before has changed",
        "flip-fl doctor",
        "Kits for NVFLARE are made by its own provisioning library. All are made in a folder aside, and moved when all "
        "are complete.",
    ),
    Entry(
        "E0610",
        ExitCode.USAGE,
        "{path} is not a kit: {problem}",
        fix="{suggestion}",
        explain="A kit is one folder, of the server, the administrator or a site, with startup/ in it.",
    ),
    Entry(
        "E0611",
        ExitCode.FAILED,
        "the kit of {kit} fails {count} of {total} checks: {names}",
        "{first}",
        "{suggestion}",
        "`flip-fl kit verify` says of each check what is wrong, why it matters, and what to do.",
    ),
    Entry(
        "E0612",
        ExitCode.UNREACHABLE,
        "the certificate is for {names}, you connect to {host}",
        "{validity}; {clock}",
        "{suggestion}",
        "TLS refuses a server whose certificate does not name the host that was asked for; engines tell it as a "
        "connection that fails, or as WRONG_VERSION_NUMBER. A certificate for another host cannot be issued by itself "
        "yet.",
    ),
    Entry(
        "E0613",
        ExitCode.UNREACHABLE,
        "{file} is {state}",
        "TLS refuses a certificate outside its dates; {clock}",
        "{suggestion}",
        "Certificates hold for 360 days, the CA for ten years. Renewing one by itself is not possible yet.",
    ),
    Entry(
        "E0614",
        ExitCode.UNREACHABLE,
        "this clock is {difference} by {reference}",
        "a certificate counts by the clock of who looks at it, and the run's story by the clock of who tells it",
        "set this clock by NTP",
        "More than 30 s are a warning, more than 5 min a failure. Flower lets no site in that is more than 5 s ahead "
        "of its server, or 5 min behind. Any web server's Date can be the other clock.",
    ),
    Entry(
        "E0615",
        ExitCode.REFUSED,
        "the kit of {kit} runs already",
        "two of one kit would take each other's work",
        "stop it first: {folder}/startup/stop.sh",
        "A kit that runs holds a lock in its state/ until it has ended; a killed one's is free at once.",
    ),
    Entry(
        "E0616",
        ExitCode.UNREACHABLE,
        "the server cannot be told that {slot} is revoked: {problem}",
        "nothing has changed: the holder of its kit still gets in",
        "start the server, see that this machine reaches it, and try again",
        "NVFLARE's server keeps the list of names that it refuses itself. `flip-fl kit revoke` tells it with the "
        "administrator's kit, which lies beside the CA.",
    ),
    Entry(
        "E0617",
        ExitCode.REFUSED,
        "the certificate in {path} cannot be renewed: {problem}",
        "a CA renews what it has issued last, so that an older copy of a kit never becomes valid again",
        "{fix}",
        "The name, the key and what the certificate is good for stay; only its dates are new.",
    ),
    Entry(
        "E0618",
        ExitCode.UNREACHABLE,
        "no connection to the server at {host}:{port}: {problem}",
        "the kit was tried as its holder would use it",
        "{fix}",
        "The server's name and certificate are checked as the engine checks them, with the CA in the kit.",
        retryable=True,
    ),
    Entry(
        "E0619",
        ExitCode.REFUSED,
        "{slot} is connected to {host} already, with this kit's key",
        "of two that run one kit the server keeps the first, and tells its operator of the other",
        "stop the other copy of the kit, then {folder}/startup/start.sh",
        "A kit may run once. One that was killed is known to be gone after a minute, which was waited for. If none of "
        "yours runs another copy, somebody else has the key: have the kit revoked, and ask for a new slot.",
    ),
    Entry(
        "E0512",
        ExitCode.REFUSED,
        "a run is using {folder}",
        "two runs in one folder would write over each other",
        "choose another folder with --out, or wait for that run to end",
        "A run holds a lock on its folder until it has ended.",
    ),
    Entry(
        "E0513",
        ExitCode.REFUSED,
        "{path} lies in the folder of the run, {folder}",
        "a run's folder is emptied before it is written again",
        "move the data, or choose another folder with --out",
        "--data and --images must lie outside --out.",
    ),
    Entry(
        "E0514",
        ExitCode.USAGE,
        "the runtime '{runtime}' is not one of the engine '{engine}'",
        "runtimes of {engine}: {runtimes}",
        "{suggestion}",
        "Flower runs in-process (the developer's loop), with ray (its own simulation), or as a deployment: a real "
        "SuperLink with a SuperNode for each site. NVFLARE always runs in its simulator.",
    ),
    # -- results ------------------------------------------------------------------------------------------------
    Entry(
        "E0701",
        ExitCode.FAILED,
        "run {run} has no results yet: {state}",
        fix="{suggestion}",
        explain="Results exist once the run has ended and its bundle was verified.",
        retryable=True,
    ),
    Entry(
        "E0702",
        ExitCode.FAILED,
        "the results bundle {bundle} cannot be used: {problem}",
        "a success is only reported of a run whose model loads from the stored results",
        "{suggestion}",
        "The manifest's digests are checked, the model is loaded, and its score reproduced where the data is there.",
    ),
    Entry(
        "E0703",
        ExitCode.REFUSED,
        "{path} holds another file",
        "its digest differs from the results'",
        "choose another place with --out, or add --overwrite",
        "A file that is already there and equal is left as it is.",
    ),
    Entry(
        "E0704",
        ExitCode.REFUSED,
        "{path} leads out of {root}",
        "paths given by a job must stay inside their folder",
        "use a plain relative path without ..",
        "Symbolic links are followed before the check.",
    ),
    Entry(
        "E0705",
        ExitCode.USAGE,
        "no run called '{run}'",
        "{looked}",
        "{suggestion}",
        "A run is named by its folder, by the folder's name below runs/, or by (the beginning of) its model's id.",
    ),
    Entry(
        "E0706",
        ExitCode.UNREACHABLE,
        "run {run} had no results after {seconds} s: {state}",
        fix="{suggestion}",
        explain="`flip-fl results get --wait` gives up after --timeout seconds; the run itself goes on.",
        retryable=True,
    ),
    Entry(
        "E0707",
        ExitCode.FAILED,
        "the model cannot be exported as {format}: {problem}",
        "what is exported must give what the original gives, on several inputs and sizes of the batch",
        "{suggestion}",
        "The model is traced with an example input in a process of its own, loaded again, compared. NaN is a failure.",
    ),
    # -- looking into trouble -----------------------------------------------------------------------------------
    Entry(
        "E0801",
        ExitCode.FAILED,
        "{count} of {total} checks failed: {names}",
        "{first}",
        "{suggestion}",
        "`flip-fl doctor` says of each check what is wrong, why, and what to do. Warnings alone do not fail it.",
    ),
    # -- the hub's own ------------------------------------------------------------------------------------------
    Entry(
        "E1001",
        ExitCode.UNREACHABLE,
        "the hub's database {url} cannot be used: {problem}",
        "the hub keeps every status, metric and event there",
        "set FLIP_HUB_DATABASE_URL to sqlite:///<file> or postgresql://<user>@<host>/<database>",
        "`flip-fl hub init` creates the tables, or brings them to this version; passwords are never shown.",
        retryable=True,
    ),
    Entry(
        "E1002",
        ExitCode.USAGE,
        "the hub knows no {kind} '{name}'",
        "{known}",
        "{suggestion}",
        "Trusts, projects and models are named by their id or their name, kit slots by their name.",
    ),
    Entry(
        "E1003",
        ExitCode.REFUSED,
        "{kind} '{name}' is already at the hub, with {difference}",
        "what is there is never changed in silence",
        "{suggestion}",
        "Asking again for exactly what is there is no error.",
    ),
    Entry(
        "E1004",
        ExitCode.REFUSED,
        "no kit slot is free: all {count} are held",
        "a slot belongs to one trust until it is released",
        "{suggestion}",
        "Slots are added at the end and claimed from the lowest number; a retired slot is never given out again.",
    ),
    Entry(
        "E1005",
        ExitCode.USAGE,
        "{field} of the {kind} is {value}; it must be {expected}",
        "the hub refuses what it could not store or show",
        "{suggestion}",
        "Names hold 1 to 75 characters (models) or 1 to 255 (projects, trusts), codes up to 64; none holds a NUL.",
    ),
    Entry(
        "E1006",
        ExitCode.UNREACHABLE,
        "the hub cannot listen on {host}:{port}: {problem}",
        "another program may hold that port",
        "use --port 0 for a free one",
        "The hub listens on 127.0.0.1 or on FLIP_HUB_HOST; other machines reach it through a proxy that speaks TLS.",
    ),
    Entry(
        "E1007",
        ExitCode.UNREACHABLE,
        "no run can be called silent: the hub has not been there in the last {seconds} s",
        "nobody can report to a hub that is away; it notes every few seconds that it is there",
        "flip-fl hub serve --dir {dir}",
        "Silence is counted from the moment on which the hub is there again.",
        retryable=True,
    ),
    Entry(
        "E1008",
        ExitCode.REFUSED,
        "the token {id} of '{name}' is {state}: it cannot be rotated",
        "a successor would give back what was taken away",
        "flip-fl hub token add '{name}' --role {role}",
        "Rotating makes a token of the same name, role and projects; the old one ends after the overlap.",
    ),
    Entry(
        "E1020",
        ExitCode.REFUSED,
        "{target} is not empty: {holds}",
        "a hub's database is never mixed with another's, and no file is written over",
        "name a new file, or an empty database",
        "`flip-fl hub backup` writes a new file; `restore` and `copy` fill a database without any rows.",
    ),
    Entry(
        "E1021",
        ExitCode.FAILED,
        "the copy {file} does not hold together: {problem}",
        "what is restored must be exactly what was there",
        "use another backup, or make one anew with flip-fl hub backup",
        "Pages, references and the number of rows of each table are compared; nothing is kept of a copy that failed.",
    ),
    # -- data ---------------------------------------------------------------------------------------------------
    Entry(
        "E0901",
        ExitCode.USAGE,
        "no data for the run: {problem}",
        "sites need a cohort: --data CSV, else DEV_DATAFRAME, else the app's prepare.py",
        "{suggestion}",
        "prepare.py defines prepare(out_dir), which writes cohort.csv and, for imaging, images/.",
    ),
    Entry(
        "E0902",
        ExitCode.USAGE,
        "the cohort {path} cannot be used: {problem}",
        fix="{suggestion}",
        explain="A cohort is a CSV with a header; imaging cohorts have accession_id, most have person_id.",
    ),
    Entry(
        "E0903",
        ExitCode.USAGE,
        "an accession number cannot name a study: {problem}",
        "it becomes part of a path and must not lead out of the images' folder",
        "correct the accession_id column of the cohort, or leave the row out",
        "The number itself is never shown: it is a patient's. Slashes, '..' and control characters are refused.",
    ),
    Entry(
        "E0904",
        ExitCode.FAILED,
        "{skipped} of {asked} studies were skipped{so_far}, more than MAX_SKIPPED ({share}) allows: {reasons}",
        fix="mend what the studies lack, or raise MAX_SKIPPED in config.json",
        explain="A few studies that cannot be fetched are skipped and counted; training on too few of them would go "
        "unnoticed.",
    ),
    Entry(
        "E0920",
        ExitCode.FAILED,
        "study {position} of {total} cannot be read: {problem}",
        "a study is never left out, or replaced by another, in silence",
        "{suggestion}",
        "A study is named by its place in the data set, never by its number or files. readable() gives a data set "
        "without the studies that cannot be read, and counts them in its manifest.",
    ),
    Entry(
        "E0921",
        ExitCode.FAILED,
        "no study can be used: {reasons}",
        "an empty data set would train on nothing",
        "{suggestion}",
        "Patterns are matched from the right against the files of each study, at any depth: *.dcm, SEG/*.nii.gz.",
    ),
    Entry(
        "E0922",
        ExitCode.USAGE,
        "the {part} pattern '{pattern}' matches {count} files of study {position} of {total}",
        "an item has one {part}: a NIfTI file, or for images the slices of one DICOM series",
        "narrow the pattern with a folder or a part of the file's name: SEG/*.nii.gz",
        "Which of several files is meant is the researcher's to say; the first one would be a guess.",
    ),
    Entry(
        "E0923",
        ExitCode.USAGE,
        "the cohort's column '{column}' cannot be used: {problem}",
        fix="{suggestion}",
        explain="target and columns of a data set name columns of the cohort; a target is a number in every study.",
    ),
    Entry(
        "E0924",
        ExitCode.USAGE,
        "'{pattern}' is no pattern for a study's files: {problem}",
        fix="use a relative pattern, matched from the right at any depth: *.dcm, SEG/*.nii.gz",
        explain="* and ? match within a name, [abc] one of several characters, ** any number of folders.",
    ),
    Entry(
        "E0925",
        ExitCode.USAGE,
        "prepare() cannot be used: {problem}",
        fix='return a dict of arrays, channel first, or of volumes: {{"image": array}}',
        explain="prepare() gets the study's volumes by name and returns what the item holds, and what is cached.",
    ),
    Entry(
        "E0926",
        ExitCode.USAGE,
        "the data set cannot be split by '{by}': {problem}",
        "a patient on both sides would make a model look better than it is",
        "{suggestion}",
        "Patients are ordered by a hash of the seed and their id, and cut by share: nothing else decides who is where.",
    ),
    Entry(
        "E0927",
        ExitCode.FAILED,
        "{count} of {total} studies cannot be read: {problems}",
        "at most the share {share} may be (max_skipped of readable())",
        "mend the studies, or raise max_skipped",
        "A few studies that cannot be read are left out and counted; training on too few of them would go unnoticed.",
    ),
    Entry(
        "E0928",
        ExitCode.USAGE,
        "worker processes cannot wait for studies that are still on their way",
        "the studies are fetched by the process that asked for them",
        "call len(data) before the first batch; read data.arriving() with num_workers=0",
        "A data set that knows all its studies can be read by any number of worker processes.",
    ),
    Entry(
        "E0929",
        ExitCode.USAGE,
        "this copy of the data set has its items only",
        "the cohort stays in the process that asked for it: a worker process does not need it",
        "split, count and look at the manifest before the data set is handed on",
        "What is pickled of a data set is small: where the files lie, targets and columns.",
    ),
    # -- a trust's services --------------------------------------------------------------------------------------
    Entry(
        "E0950",
        ExitCode.UNREACHABLE,
        "the trust's database {url} cannot be used: {problem}",
        "cohorts come from there",
        "set OMOP_DATABASE_URL to sqlite:///<file> or postgresql://<user>@<host>/<database>",
        "`flip-fl trust load` makes the tables; passwords are never shown.",
        retryable=True,
    ),
    Entry(
        "E0951",
        ExitCode.UNREACHABLE,
        "the trust's services cannot listen on {host}:{port}: {problem}",
        "another program may hold that port",
        "use --port 0 for a free one",
        "The sandbox's services listen on 127.0.0.1 only.",
    ),
    Entry(
        "E0952",
        ExitCode.USAGE,
        "{name} is {folder}, which is no folder",
        "without it each study would be missing, or nowhere to be put",
        "make the folder, or correct {name}",
        "FLIP_TRUST_ARCHIVE holds the trust's studies; IMAGES_ROOT is shared with its FL clients, a folder a net.",
    ),
    Entry(
        "E0953",
        ExitCode.REFUSED,
        "the query cannot be approved for project '{project}': {problem}",
        "what is approved is checked like what is sent",
        "give one SELECT over tables of the schema omop, such as SELECT * FROM omop.cohort",
        "One statement that only reads, at most 10240 characters, schema omop only, LIMIT and OFFSET as plain numbers.",
    ),
    Entry(
        "E0954",
        ExitCode.USAGE,
        "the images in {folder} cannot be loaded: {problem}",
        fix="give a folder that holds a folder for each study, named by its accession number",
        explain="Below a study's folder lie its files, or the folders DICOM, NIFTI and SEG with them.",
    ),
    Entry(
        "E0955",
        ExitCode.USAGE,
        "'{project}' cannot be a project's name",
        "it is sealed into the project id and compared as it is",
        "use 1 to 255 printable characters",
        "The id that jobs carry is made of it: flip-fl trust envelope NAME.",
    ),
    # -- a site's policy and privacy ----------------------------------------------------------------------------
    Entry(
        "E0970",
        ExitCode.USAGE,
        "the site's policy cannot be used: {place}: {problem}",
        "a site whose policy is not understood does not take part",
        "correct the line; flip-fl kit verify KIT reads the policy again",
        "docs/privacy.md lists the sections and keys. No key is optional by being misspelt, and no value is replaced.",
    ),
    Entry(
        "E0971",
        ExitCode.USAGE,
        "{name} in {place} cannot be used: {problem}",
        "a site whose policy is not understood does not take part",
        "set FL_SITE_PRIVACY_POLICY to one of {kinds}; the names are {known}",
        "A misspelt name would leave a weaker filter in force without anybody noticing.",
    ),
    Entry(
        "E0972",
        ExitCode.USAGE,
        "the site's privacy is configured more than once: {sources}",
        "which of them holds would be a guess",
        "keep one of them: policy.toml says all that the others can",
        "Neither wins over the other: two descriptions of one filter are refused, not ranked.",
    ),
    Entry(
        "E0973",
        ExitCode.REFUSED,
        "the site's policy refuses {subject}: {problem}",
        fix="ask the site, or run a job that its policy allows",
        explain="A site's policy says which projects may run there and what every job must satisfy; no job changes it.",
    ),
    Entry(
        "E0974",
        ExitCode.REFUSED,
        "the model of {place} does not leave the site: {problem}",
        "the site's filters compare it with the model that was received, number by number",
        "send the names and shapes that were received, in finite floating-point numbers",
        "What a filter cannot bound stays at the site. Whole numbers leave as they came.",
    ),
    Entry(
        "E0975",
        ExitCode.REFUSED,
        "the privacy budget does not allow {place}: epsilon would be {needed} of {budget} at delta {delta}",
        "the site's policy bounds what all rounds and jobs of a project give away together",
        "run fewer rounds; flip-fl privacy status shows at the site what is spent",
        "A round counts as spent before its update leaves, whatever becomes of it.",
    ),
    Entry(
        "E0976",
        ExitCode.REFUSED,
        "{place} worked on fewer than {least} examples: nothing of it leaves the site",
        "the site's policy sets this smallest cohort",
        "return the number of examples as num_examples, and train on a larger cohort",
        "Of a task without a number of examples nothing leaves either. How many there were is not said.",
    ),
    Entry(
        "E0977",
        ExitCode.FAILED,
        "the site's privacy account cannot be kept: {problem}",
        "an update whose cost is not written down does not leave",
        "{suggestion}",
        "The account is privacy.sqlite in the site's FLIP_STATE_DIR; it must outlive every job.",
    ),
)

CATALOGUE: Mapping[str, Entry] = {entry.code: entry for entry in _ENTRIES}
