"""An app that tries to get at what it was not handed, and to carry rows out of the trust.

Each attempt is a number that it logs: 1 where it had its way. What it tries to carry out is ``CANARY``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.app import write_app

CANARY = "CANARY7Q"
CANARY_NUMBER = 4716253849
# Attempts of ``train``, by the name under which they are logged.
ATTEMPTS = (
    "environment",
    "key_file",
    "engine_environ",
    "engine_memory",
    "other_study",
    "list_studies",
    "link_out",
    "hard_link",
    "dot_dot",
    "write_elsewhere",
    "truncate_elsewhere",
    "remove_elsewhere",
    "chmod_elsewhere",
    "inet_socket",
    "unix_socket",
    "datagram_pair",
    "subprocess_network",
    "signal_engine",
    "trace_engine",
    "limit_engine",
    "new_namespace",
    "leave_group",
    "io_uring",
    "watch_folder",
    "other_project",
    "other_query",
    "study_by_flip",
)

TRAINER = """
import ctypes, errno, json, os, resource, signal, socket, struct, subprocess, sys
from pathlib import Path

FACTS = {}
libc = ctypes.CDLL(None, use_errno=True)
tried = {}

def attempt(function):
    tried[function.__name__] = function
    return function

def fails(number):
    return number >= 0

@attempt
def environment():
    text = repr(dict(os.environ))
    return any(mark in text for mark in ("KEY", "SECRET", "TOKEN", FACTS["key"]))

@attempt
def key_file():
    return any(FACTS["key"] in open(path).read() for path in FACTS["key_files"])

@attempt
def engine_environ():
    return any(open(f"/proc/{pid}/environ", "rb").read() for pid in others())

@attempt
def engine_memory():
    return any(open(f"/proc/{pid}/mem", "rb") for pid in others())

@attempt
def other_study():
    return bool(open(Path(FACTS["other_study"]) / "secret.txt").read())

@attempt
def list_studies():
    return bool(os.listdir(Path(FACTS["other_study"]).parent))

@attempt
def link_out():
    os.symlink(FACTS["other_study"], "link")
    return bool(open("link/secret.txt").read())

@attempt
def hard_link():
    os.link(Path(FACTS["other_study"]) / "secret.txt", "hard")
    return True

@attempt
def dot_dot():
    up = "/".join([".."] * 30)
    return bool(open(os.getcwd() + "/" + up + FACTS["other_study"] + "/secret.txt").read())

@attempt
def write_elsewhere():
    open(Path(FACTS["other_study"]) / "written", "w").close()
    return True

@attempt
def truncate_elsewhere():
    os.truncate(Path(FACTS["other_study"]) / "secret.txt", 0)
    return True

@attempt
def remove_elsewhere():
    os.unlink(Path(FACTS["other_study"]) / "secret.txt")
    return True

@attempt
def chmod_elsewhere():
    path = Path(FACTS["other_study"]) / "secret.txt"
    before = os.stat(path).st_mode
    os.chmod(path, 0o777)
    return os.stat(path).st_mode != before

@attempt
def inet_socket():
    socket.create_connection(("127.0.0.1", FACTS["port"]), 1.0)
    return True

@attempt
def unix_socket():
    socket.socket(socket.AF_UNIX)
    return True

@attempt
def datagram_pair():
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return True

@attempt
def subprocess_network():
    code = f"import socket; socket.create_connection(('127.0.0.1', {FACTS['port']}), 1.0)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0

@attempt
def signal_engine():
    for pid in others():
        os.kill(pid, 0)
        return True

@attempt
def trace_engine():
    return any(fails(libc.ptrace(0x4206, pid, 0, 0)) for pid in others())

@attempt
def limit_engine():
    for pid in others():
        resource.prlimit(pid, resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))
        return True

@attempt
def new_namespace():
    return fails(libc.unshare(0x10000000))

@attempt
def leave_group():
    os.setsid()
    return True

@attempt
def io_uring():
    return fails(libc.syscall(425, 1, ctypes.create_string_buffer(120)))

@attempt
def watch_folder():
    return fails(libc.inotify_init1(0))

@attempt
def other_project():
    from flip_fl import FLIP
    return len(FLIP().get_dataframe("another", FACTS["query"])) > 0

@attempt
def other_query():
    from flip_fl import FLIP
    return len(FLIP().get_dataframe(FACTS["project"], "SELECT * FROM omop.person")) > 0

@attempt
def study_by_flip():
    from flip_fl import FLIP
    folder = FLIP().get_by_accession_number(FACTS["project"], "other")
    return bool((Path(folder) / "secret.txt").read_text())

def others():
    return [FACTS["engine"]] if FACTS["engine"] else [os.getppid()]

def train(model, site, config):
    FACTS.update(config["FACTS"])
    frame = site.cohort()
    for name, function in tried.items():
        try:
            site.log(name, float(bool(function())))
        except BaseException as error:
            site.log(name, 0.0)
    row = frame["name"].iloc[0]
    # Rows as names, axes, values, lists, and in what the house is made of.
    site.log(row, 1.0)
    site.log("loss", row)
    site.log("loss", 1.0, 1.0, row)
    site.log("x" * 300, 1.0)
    import flip_fl.app.redact as redact, flip_fl.privacy.egress as egress, flip_fl.app.site as house
    egress.sane_name = lambda name: True
    egress.Egress.number = lambda *a, **k: True
    redact.scrub = lambda text, *a, **k: text
    redact.VALUE = row
    house.Ledger.metric(site._ledger, row, 1.0) if hasattr(site._ledger, "_egress") else None
    print(row, list(frame.columns), file=sys.stderr)
    return {"num_examples": 4, row: 1.0, "curve": [1.0], "train_accuracy": 0.5}

def validate(model, site, config):
    row = site.cohort()["name"].iloc[0]
    kind = type(row, (Exception,), {"__module__": row})
    code = compile("def patient(): raise kind(row)", "/" + row + ".py", "exec")
    space = {"kind": kind, "row": row}
    exec(code, space)
    try:
        raise KeyError(row)
    except KeyError:
        space["patient"]()
"""


def write_hostile_app(folder: Path, facts: Mapping[str, Any]) -> Path:
    """The app; ``facts`` say where everything is."""
    declared = [*ATTEMPTS, "loss", "accuracy"]
    return write_app(
        folder,
        trainer=TRAINER,
        config={"job_type": "standard", "IMAGING": False, "METRICS": declared, "FACTS": dict(facts)},
    )
