"""One measurement of the data's figures in a process of its own: ``python -m tests.benchmarks.data_parts HOW …``.

Prints one JSON object: seconds, and by how many bytes the process's memory grew at most.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import requests

from flip_fl.data import tables
from flip_fl.data.images import Studies, fetch_studies
from flip_fl.data.index import open_index
from flip_fl.data.sources.trust import TrustSource
from flip_fl.settings import ClientSettings, load
from flip_fl.values import ResourceType

KEY_HEADER = "X-Trust-Internal-Service-Key"
TYPES = (ResourceType.DICOM,)
PART_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Part:
    """What a measurement took. ``more`` holds what only some have."""

    seconds: float
    grown_bytes: int
    count: int
    more: dict[str, float]


def run_part(how: str, *arguments: object) -> Part:
    """The measurement ``how`` in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.data_parts", how, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PART_TIMEOUT_S)
    return Part(**json.loads(done.stdout.splitlines()[-1]))


def measured(action: Callable[[], int], **more: float) -> Part:
    # The peak begins anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    begun = time.perf_counter()
    count = action()
    return Part(time.perf_counter() - begun, _memory("VmHWM") - before, count, more)


def images_documented(client: str, project: str, names: Sequence[str]) -> Part:
    """One study at a time, a connection each, no time-out: what the documented client does."""
    settings = load(ClientSettings, Path(client))
    headers = {KEY_HEADER: settings.trust_key.get_secret_value()}
    url = f"{settings.imaging_url}/download/images/{settings.net_id}"
    asked = {"assessor_type": "scan", "resource_type": "DICOM"}

    def fetch() -> int:
        paths = []
        for name in names:
            body = {"encrypted_central_hub_project_id": project, "accession_id": name}
            answer = requests.post(url, json=body, params=asked, headers=headers)
            answer.raise_for_status()
            paths.append(Path(answer.json()["path"]))
        return len(paths)

    return measured(fetch)


def images_ours(client: str, project: str, names: Sequence[str]) -> Part:
    """``site.images`` twice: the second round finds everything in the index."""
    source = TrustSource(load(ClientSettings, Path(client)))
    index = open_index(source, "bench")
    assert index is not None
    cohort = pd.DataFrame({"accession_id": names})

    def fetch() -> int:
        known = index.of(project, TYPES)
        return len(fetch_studies(source, project, cohort, TYPES, max_skipped=0.0, known=known))

    first = measured(fetch)
    again = measured(fetch)
    index.release()
    return Part(first.seconds, first.grown_bytes, first.count, {"second_s": again.seconds})


def cohort_documented(url: str) -> Part:
    """The whole body, its text, its objects and the frame: what the documented client does."""
    return measured(lambda: len(pd.DataFrame(requests.post(f"{url}/cohort/dataframe", json={}).json())))


def cohort_ours(url: str, content_type: str) -> Part:
    """Column by column, as ``content_type``."""
    values: dict[str, Any] = {
        "DATA_ACCESS_API_URL": url,
        "IMAGING_API_URL": url,
        "TRUST_INTERNAL_SERVICE_KEY": "none",
        "IMAGES_DIR": "/tmp",
    }
    source = TrustSource(load(ClientSettings, None, **values))
    # So that the service, which prefers Arrow, gives what is to be measured.
    with mock.patch("flip_fl.data.sources.trust.accepted", return_value=content_type):
        if content_type == tables.ARROW_STREAM:
            import pyarrow.ipc  # noqa: F401
        return measured(lambda: len(source.dataframe("project", "SELECT 1")))


def first_batch(client: str, project: str, names: Sequence[str]) -> Part:
    """From the first study that is there to the first batch of eight, while the others are fetched; then at random."""
    from torch.utils.data import DataLoader

    source = _Noting(load(ClientSettings, Path(client)))
    cohort = pd.DataFrame({"accession_id": names})
    studies = fetch_studies(source, project, cohort, TYPES, max_skipped=0.0)
    batch = next(iter(DataLoader(studies.dataset("*.dcm").arriving(), batch_size=8)))
    streamed = time.perf_counter() - source.first
    assert len(batch["image"]) == 8
    waited = measured(lambda: len(studies))
    shuffled = measured(lambda: _one_batch(studies))
    return Part(
        streamed, waited.grown_bytes, waited.count, {"whole_s": waited.seconds, "map_style_s": shuffled.seconds}
    )


def _one_batch(studies: Studies) -> int:
    from torch.utils.data import DataLoader

    return len(next(iter(DataLoader(studies.dataset("*.dcm"), batch_size=8, shuffle=True)))["image"])


class _Noting(TrustSource):
    """Knows when the first study was there."""

    first = 0.0

    def resources(self, project_id: str, accession_id: str, types: Sequence[ResourceType]) -> dict[ResourceType, Path]:
        given = super().resources(project_id, accession_id, types)
        self.first = self.first or time.perf_counter()
        return given


def _memory(name: str) -> int:
    """A field of this process's status, in bytes: ``getrusage`` remembers the process that started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def main(how: str, *arguments: str) -> None:
    """Measure, and print what it took."""
    if how.startswith("cohort"):
        part = cohort_documented(*arguments) if how == "cohort-documented" else cohort_ours(*arguments)
    else:
        client, project, names_file = arguments
        names = json.loads(Path(names_file).read_text(encoding="utf-8"))
        ways = {"images-documented": images_documented, "images": images_ours, "first-batch": first_batch}
        part = ways[how](client, project, names)
    print(json.dumps(asdict(part)))


if __name__ == "__main__":
    main(*sys.argv[1:])
