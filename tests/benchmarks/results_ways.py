"""One way to get a folder of results into the object store, in a process of its own: what it took, as JSON.

``python -m tests.benchmarks.results_ways WAY FOLDER ZIP``; the FL server's settings come from the environment.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

DOCUMENTED, BARE, OURS = "documented", "bare", "ours"


def documented(folder: Path, zipped: Path) -> dict[str, float]:
    """``shutil.make_archive``, then upload: what FLIP's tutorials do."""
    archive = shutil.make_archive(str(Path(os.environ["TMPDIR"], "results")), "zip", folder / "contents")
    _put(Path(archive))
    return {}


def bare(folder: Path, zipped: Path) -> dict[str, float]:
    """boto3's own upload of a file that is there: the least that is possible with it."""
    _put(zipped)
    return {}


def ours(folder: Path, zipped: Path) -> dict[str, float]:
    """The bundle of the folder, streamed; and then read back and compared."""
    from flip_fl.results.bundle import gather
    from flip_fl.results.s3 import ResultsStore
    from flip_fl.settings import ServerSettings, load

    store = ResultsStore(load(ServerSettings, None))
    bundle = gather(folder / "contents", app_dir=folder / "app")
    stored = store.upload(bundle.chunks, uuid4(), size_bytes=bundle.size_bytes)
    begun = time.perf_counter()
    store.confirm(stored)
    return {"confirm_s": time.perf_counter() - begun}


def _put(path: Path) -> None:
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
    client.upload_file(str(path), os.environ["UPLOADED_FEDERATED_DATA_BUCKET"].removeprefix("s3://"), "results.zip")


WAYS: Mapping[str, Callable[[Path, Path], dict[str, float]]] = {DOCUMENTED: documented, BARE: bare, OURS: ours}


def main(way: str, folder: str, zipped: str) -> None:
    begun = time.perf_counter()
    more = WAYS[way](Path(folder), Path(zipped))
    seconds = time.perf_counter() - begun - more.get("confirm_s", 0.0)
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": seconds, "peak_mb": int(line.split()[1]) * 1024 / 1e6, "cpu_s": cpu_s, **more}))


if __name__ == "__main__":
    main(*sys.argv[1:])
