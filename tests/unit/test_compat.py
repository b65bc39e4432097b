"""What existing apps import as ``flip``: found only where no real one is, said once, made of flip_fl's own parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from flip_fl.compat import alias
from flip_fl.compat.utils import Utils
from flip_fl.settings import write_settings_file

PROGRAM = """
import json, sys
sys.path[:0] = {places!r}
from flip_fl.compat import alias
said = []
alias.install(said.append)
alias.install(said.append)
{body}
print(json.dumps([said, result]))
"""


def run(body: str, *places: Path, env: dict[str, str] | None = None) -> tuple[list[str], object]:
    """What ``body`` (it sets ``result``) is told and finds, in a process of its own with ``flip`` installed."""
    program = PROGRAM.format(places=[str(place) for place in places], body=body)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
    )
    assert done.returncode == 0, done.stderr
    said, result = json.loads(done.stdout)
    return said, result


def test_every_old_name_is_flip_fls_own_and_is_said_once() -> None:
    """A name is the very object of flip_fl, and its new import is said at its first use and never again."""
    body = """
import flip_fl, flip
from flip import FLIP, FLIPBase, ResultsUploadError
from flip import FLIP as again
from flip.constants import FlipConstants, JobType, ModelStatus, PTConstants, ResourceType
from flip.constants.flip_constants import ModelStatus as too
from flip.utils import Utils, get_model_weights_diff
result = [FLIP is flip_fl.FLIP, FLIPBase is flip_fl.FLIPBase, ResourceType is flip_fl.ResourceType,
          ModelStatus is too is flip_fl.ModelStatus, JobType is flip_fl.JobType, flip.constants.JobType is JobType,
          PTConstants.PTFileModelName]
"""
    said, result = run(body)
    assert result == [True] * 6 + ["FL_global_model.pt"]
    assert [line.split()[0] for line in said] == [
        "flip.FLIP",
        "flip.FLIPBase",
        "flip.ResultsUploadError",
        "flip.constants.FlipConstants",
        "flip.constants.JobType",
        "flip.constants.ModelStatus",
        "flip.constants.PTConstants",
        "flip.constants.ResourceType",
        "flip.utils.Utils",
        "flip.utils.get_model_weights_diff",
    ]
    assert said[0].endswith("write: from flip_fl import FLIP")
    assert said[6].endswith("write: from flip_fl.compat.constants import PTConstants")


def test_every_new_import_that_is_said_works() -> None:
    """What the note tells a researcher to write can be written, for every name that apps import."""
    names = {
        "flip": ("FLIP", "FLIPBase", "ResultsUploadError"),
        "flip.constants": ("FlipConstants", "ResourceType", "ModelStatus", "JobType", "PTConstants"),
        "flip.utils": ("Utils", "get_model_weights_diff"),
        "flip.flower": ("FlipFedAvg",),
        "flip.flower.privacy": ("flip_local_dp_mod",),
        "flip.flower.strategy": ("FlipFedAvg",),
        "flip.flower.identity": (
            "client_identity",
            "partition_cohort",
            "partition_count",
            "check_splits_are_populated",
        ),
    }
    lines = [alias.new_import(module, name) for module, found in names.items() for name in found]
    old = [f"from {module} import {name}" for module, found in names.items() for name in found]
    _, result = run("\n".join([*old, *lines, "result = True"]))
    assert result is True


def test_a_real_flip_is_left_alone(tmp_path: Path) -> None:
    """Where a package ``flip`` can be imported it is used, its submodules too, and nothing is said."""
    (tmp_path / "flip").mkdir()
    (tmp_path / "flip" / "__init__.py").write_text("FLIP = 'the real one'\n")
    said, result = run(
        "from flip import FLIP\nimport importlib.util\n"
        "result = [FLIP, importlib.util.find_spec('flip.constants') is None]",
        tmp_path,
    )
    assert (said, result) == ([], ["the real one", True])


def test_a_folder_called_flip_is_no_real_one(tmp_path: Path) -> None:
    """A folder of that name beside the app (its images, say) does not hide the names."""
    (tmp_path / "flip").mkdir()
    said, result = run("from flip import FLIP\nresult = FLIP.__module__", tmp_path)
    assert result == "flip_fl.core.factory"
    assert len(said) == 1


def test_what_is_not_there_is_refused_by_name() -> None:
    """A name that flip_fl has not fails as an import error that names it, not as something else later."""
    body = """
result = []
for text in ("from flip import FLIP_TRAINER", "import flip.nvflare.controllers", "from flip.alias import install"):
    try:
        exec(text)
    except ImportError as error:
        result.append(str(error).split(" (")[0])
"""
    _, result = run(body)
    assert result == [
        "cannot import name 'FLIP_TRAINER' from 'flip'",
        "No module named 'flip.nvflare'",
        "No module named 'flip.alias'",
    ]


def test_names_load_no_engine_before_they_need_one() -> None:
    """A base install has neither torch nor an engine: all but Flower's own names must work without."""
    body = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "flwr", "nvflare", "ray"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import flip, flip.flower
from flip import FLIP
from flip.constants import FlipConstants, PTConstants
from flip.utils import Utils, get_model_weights_diff
result = [FlipConstants.LOCAL_DEV, FlipConstants.MIN_CLIENTS, type(FLIP()).__name__]
"""
    _, result = run(body, env={"LOCAL_DEV": "true"})
    assert result == [True, 1, "FLIPStandardDev"]


def test_constants_are_read_when_asked_and_hold_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting is read at its use, not at import, and an app is never handed a key of the process."""
    from flip_fl.compat.constants import FlipConstants

    monkeypatch.setenv("LOCAL_DEV", "true")
    monkeypatch.setenv("DEV_IMAGES_DIR", "/data/images")
    monkeypatch.setenv("TRUST_INTERNAL_SERVICE_KEY", "do-not-tell")
    assert FlipConstants.DEV_IMAGES_DIR == "/data/images"
    assert FlipConstants.DEV_DATAFRAME == ""
    with pytest.raises(AttributeError, match="keys are never given"):
        _ = FlipConstants.TRUST_INTERNAL_SERVICE_KEY
    for name, value in {
        "LOCAL_DEV": "false",
        "FLIP_ROLE": "client",
        "DATA_ACCESS_API_URL": "http://trust:8001",
        "IMAGING_API_URL": "http://trust:8002",
        "IMAGES_DIR": "/images",
        "NET_ID": "net-1",
    }.items():
        monkeypatch.setenv(name, value)
    assert (FlipConstants.LOCAL_DEV, FlipConstants.NET_ID) == (False, "net-1")
    with pytest.raises(AttributeError):
        _ = FlipConstants.TRUST_INTERNAL_SERVICE_KEY


def test_utils_answer_as_they_did() -> None:
    """The two questions of ``Utils`` keep their answers for texts, ids and other things."""
    assert Utils.is_valid_uuid("7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b")
    assert not Utils.is_valid_uuid("breast-cancer")
    assert not Utils.is_valid_uuid(7)
    assert Utils.is_string_empty(" \t")
    assert not Utils.is_string_empty("x")


def test_a_difference_is_nvflares_own_object() -> None:
    """``get_model_weights_diff`` gives NVFLARE what its aggregators read: new - original, and the steps."""
    import torch
    from nvflare.apis.dxo import DataKind, MetaKey

    from flip_fl.compat.utils import get_model_weights_diff

    before = {"w": torch.tensor([1.0, 2.0]).numpy(), "n": torch.tensor(3).numpy()}
    dxo = get_model_weights_diff(before, {"w": torch.tensor([1.5, 1.0]), "n": torch.tensor(5)}, 12)
    assert dxo.data_kind == DataKind.WEIGHT_DIFF
    assert dxo.meta[MetaKey.NUM_STEPS_CURRENT_ROUND] == 12
    assert dxo.data["w"].tolist() == [0.5, -1.0]
    assert dxo.data["n"].tolist() == 2


class _Context:
    def __init__(self, node: dict[str, object], run: dict[str, object] | None = None) -> None:
        self.node_config, self.run_config = node, run or {}


def test_a_shared_cohort_is_divided_without_loss_and_without_a_patient_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites that were all given one file have disjoint patients that make up the whole, whatever names them."""
    from flip_fl.compat.flower.identity import partition_cohort

    monkeypatch.setenv("LOCAL_DEV", "true")
    monkeypatch.delenv("SUPERNODE_NAME", raising=False)
    cohort = pd.DataFrame({"accession_id": [f"A{row // 2}" for row in range(20)], "value": range(20)})
    by_partition = [_Context({"partition-id": number, "num-partitions": 3}) for number in range(3)]
    by_slot = [
        _Context({"slot": f"Trust_{number}"}, {"flip-slots": "Trust_2,Trust_4,Trust_10"}) for number in (2, 4, 10)
    ]
    for contexts in (by_partition, by_slot):
        parts = [partition_cohort(cohort, context) for context in contexts]
        patients = [set(part["accession_id"]) for part in parts]
        assert sum(map(len, patients)) == len(set.union(*patients)) == 10
        assert sorted(value for part in parts for value in part["value"]) == list(range(20))
        assert list(parts[0].columns) == ["accession_id", "value"]
    with pytest.raises(RuntimeError, match="which of 2 sites"):
        partition_cohort(cohort, _Context({}))
    with pytest.raises(RuntimeError, match="no column"):
        partition_cohort(cohort[["value"]], by_partition[0])


def test_a_trusts_own_cohort_is_never_divided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In production the rows are the trust's own already: dividing them again would lose most of them."""
    from flip_fl.compat.flower.identity import partition_cohort, partition_count

    monkeypatch.setenv("LOCAL_DEV", "false")
    cohort = pd.DataFrame({"accession_id": ["A", "B"]})
    context = _Context({"partition-id": 0, "num-partitions": 2})
    assert partition_count(context) == 1
    assert partition_cohort(cohort, context) is cohort
    # A kit's process has a settings file, and nothing in its environment but which one it is.
    monkeypatch.delenv("LOCAL_DEV")
    write_settings_file(tmp_path / "Trust_1.env", {"LOCAL_DEV": "false", "FLIP_ROLE": "client"})
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(tmp_path))
    monkeypatch.setenv("SUPERNODE_NAME", "Trust_1")
    assert partition_cohort(cohort, context) is cohort


def test_send_metrics_value_is_the_sites_metric(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The old name reports what ``send_metrics`` does, under the site and job of NVFLARE's context."""
    from flip_fl import FLIP
    from flip_fl.core.journal import read_journal

    class Context:
        def get_identity_name(self) -> str:
            return "Trust_1"

        def get_job_id(self) -> str:
            return "7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b"

    monkeypatch.setenv("LOCAL_DEV", "true")
    monkeypatch.setenv("FLIP_STATE_DIR", str(tmp_path))
    client = FLIP()
    client.send_metrics_value("loss", 0.5, Context(), round=3)
    client.send_metrics_value("loss", 0.5, None)  # no context: logged, never raised
    ((model, item),) = read_journal(tmp_path)
    assert model == "7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b"
    assert (item.client, item.label, item.result, item.global_round) == ("Trust_1", "loss", 0.5, 3)
