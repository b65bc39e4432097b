"""What a site's filters take for an update of 100 million numbers, beside NVFLARE's filters and Flower's mods.

Each is measured in a process of its own, on the same arrays: seconds, and the most memory beside the model that was
received and the model that was trained. The update's memory is what one of these takes. Of Flower's mods it is the
arithmetic that is measured, without the message's serialisation; NVFLARE's filters are given the difference.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.figures import Figure

NUMBERS = 100_000_000
ARRAYS = 40
REPEATS = 3
MOST_S = 1.5
MOST_MEMORY = 1.3
EVERY_S = 0.005

Arrays = dict[str, Any]


def measure(numbers: int = NUMBERS, repeats: int = REPEATS) -> list[Figure]:
    """Seconds and memory of each filter, the rivals' in the same run."""
    found = {name: _child(name, numbers, repeats) for name in WAYS}
    rivals = {"Gaussian mechanism": "Flower's fixed clipping and LocalDpMod", "percentile": "NVFLARE's percentile"}
    figures = []
    for name in ("norm clipping", "percentile", "Gaussian mechanism", "all three"):
        rival = found.get(rivals.get(name, ""))
        seconds, memory = found[name]
        what = f"{name} of {numbers // 1_000_000} million numbers"
        beside = f", beside {rivals[name]}" if rival else ""
        figures.append(Figure(what + beside, seconds, "s", rival and rival[0], f"≤ {MOST_S} s", seconds <= MOST_S))
        figures.append(
            Figure(
                f"memory of that, in updates{beside}",
                1 + memory,
                "updates",
                rival and 1 + rival[1],
                f"≤ {MOST_MEMORY} in total",
                1 + memory <= MOST_MEMORY,
            )
        )
    seconds, memory = found["NVFLARE's sparse vector"]
    what = "NVFLARE's SVTPrivacy, its filter with noise, for comparison"
    figures.append(Figure(what, seconds, "s", None, "none", True))
    figures.append(Figure("memory of that, in updates", 1 + memory, "updates", None, "none", True))
    return figures


def _child(name: str, numbers: int, repeats: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "tests.benchmarks.privacy_filters", name, str(numbers), str(repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), float(memory)


def _ours(**sections: Mapping[str, float]) -> Callable[[Arrays, Arrays], Any]:
    from flip_fl.privacy.pipeline import filtered
    from flip_fl.privacy.policy import FilterSet

    filters = FilterSet.model_validate(sections)
    return lambda before, after: filtered(filters, before, after, difference=False)


def _nvflare(name: str) -> Callable[[Arrays, Arrays], Any]:
    from nvflare.apis.dxo import DXO, DataKind, MetaKey
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.shareable import Shareable
    from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
    from nvflare.app_common.filters.svt_privacy import SVTPrivacy

    made: Any = PercentilePrivacy() if name == "percentile" else SVTPrivacy()

    def work(before: Arrays, after: Arrays) -> Any:
        # Its filters take differences only.
        change = {name: np.subtract(after[name], before[name], out=after[name]) for name in after}
        dxo = DXO(DataKind.WEIGHT_DIFF, change, {MetaKey.NUM_STEPS_CURRENT_ROUND: 1})
        return made.process_dxo(dxo, Shareable(), FLContext())

    return work


def _flower() -> Callable[[Arrays, Arrays], Any]:
    from flwr.supercore.differential_privacy import add_gaussian_noise_inplace, compute_clip_model_update

    def work(before: Arrays, after: Arrays) -> Any:
        trained, received = list(after.values()), list(before.values())
        compute_clip_model_update(trained, received, 1.0)
        add_gaussian_noise_inplace(trained, 9.69)
        return trained

    return work


WAYS: Mapping[str, Callable[[], Callable[[Arrays, Arrays], Any]]] = {
    "norm clipping": lambda: _ours(clipping={"norm": 1.0}),
    "percentile": lambda: _ours(percentile={"percentile": 10.0, "gamma": 0.01}),
    "Gaussian mechanism": lambda: _ours(gaussian={"epsilon": 1.0, "delta": 1e-5, "clipping_norm": 1.0}),
    "all three": lambda: _ours(
        clipping={"norm": 1.0},
        percentile={"percentile": 10.0, "gamma": 0.01},
        gaussian={"epsilon": 1.0, "delta": 1e-5, "clipping_norm": 1.0},
    ),
    "NVFLARE's percentile": lambda: _nvflare("percentile"),
    "NVFLARE's sparse vector": lambda: _nvflare("svt"),
    "Flower's fixed clipping and LocalDpMod": _flower,
}


def _main(name: str, numbers: int, repeats: int) -> None:
    """Print seconds (the best of ``repeats``) and the most memory beside the two models, in updates."""
    work = WAYS[name]()
    made = np.random.default_rng(0)
    size = numbers // ARRAYS
    before = {f"layer{number}.weight": made.standard_normal(size, dtype=np.float32) for number in range(ARRAYS)}
    trained = {each: array + np.float32(0.01) for each, array in before.items()}
    best, most = float("inf"), 0
    for _ in range(repeats):
        after = {each: array.copy() for each, array in trained.items()}
        over, peak, start = threading.Event(), [0], _resident()

        def watch(over: threading.Event = over, peak: list[int] = peak) -> None:
            while not over.wait(EVERY_S):
                peak[0] = max(peak[0], _resident())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        begun = time.perf_counter()
        left = work(before, after)
        best = min(best, time.perf_counter() - begun)
        peak[0] = max(peak[0], _resident())
        over.set()
        watcher.join()
        most = max(most, peak[0] - start)
        del left, after
    print(json.dumps([best, most / (numbers * 4)]))


def _resident() -> int:
    """Bytes of this process that are in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
