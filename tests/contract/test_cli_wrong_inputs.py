"""The wrong inputs that people really make, each with its message, its exit code and its JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from flip_fl.dashboard.story import Story, StoryModel
from flip_fl.values import ModelStatus
from tests.support.cli import ServedHub, flip_fl, served_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHub]:
    with served_hub(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A whole app of the neutral form, whose config.json a test may spoil."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "config.json").write_text('{\n  "job_type": "standard",\n  "IMAGING": false\n}\n', encoding="utf-8")
    (folder / "models.py").write_text(
        "import torch\ndef get_model():\n    return torch.nn.Linear(2, 1)\n", encoding="utf-8"
    )
    (folder / "trainer.py").write_text(
        "def train(model, site, config):\n    return {'num_examples': 1, 'loss': 0.5}\n"
        "def validate(model, site, config):\n    return {'num_examples': 1, 'loss': 0.5}\n",
        encoding="utf-8",
    )
    return folder


def refused(*words: str, cwd: Path, lines: list[str], exit_code: int, env: Mapping[str, str] | None = None) -> None:
    """Check the text on stderr, the exit code and the JSON of one wrong input."""
    text = flip_fl(*words, cwd=cwd, env=env)
    assert text.stderr.splitlines() == lines
    assert text.exit_code == exit_code
    document = flip_fl(*words, "--json", cwd=cwd, env=env)
    envelope = document.document()
    assert document.stderr == ""
    assert document.exit_code == envelope["exit_code"] == exit_code
    assert envelope["status"] == "error"
    parts = {"-->": envelope["where"], "why:": envelope["why"], "fix:": envelope["fix"], "see:": envelope["docs"]}
    told = [f"error[{envelope['code']}]: {envelope['message']}"]
    told += [f"  {name} {value}" for name, value in parts.items() if value]
    assert [line.replace(" --json", "") for line in told] == lines


def test_1_a_mistyped_command(tmp_path: Path) -> None:
    """Protects somebody who mistypes a command: the line as it should have been, to paste."""
    refused(
        "docter",
        "--hub",
        cwd=tmp_path,
        exit_code=2,
        lines=[
            "error[FLIP-E0101]: no command 'docter'",
            "  fix: flip-fl doctor --hub",
            "  see: flip-fl explain E0101",
        ],
    )


def test_2_run_in_the_folder_above_the_app(app: Path) -> None:
    """Protects somebody in the wrong folder: what was looked for, and the folder that has it."""
    refused(
        "run",
        ".",
        cwd=app.parent,
        exit_code=2,
        lines=[
            f"error[FLIP-E0201]: no app in {app.parent} (looked for config.json and client_app.py or trainer.py)",
            "  why: the folder app/ below it has both",
            "  fix: flip-fl run app",
            "  see: flip-fl explain E0201",
        ],
    )


@pytest.mark.parametrize(("value", "shown"), [("2000", "2000"), ('"10"', '"10"')])
def test_3_a_number_of_rounds_that_is_out_of_range_or_a_text(app: Path, value: str, shown: str) -> None:
    """Protects a study from being trained for one round in silence: the value is refused with its place and range."""
    (app / "config.json").write_text(
        f'{{\n  "job_type": "standard",\n  "IMAGING": false,\n  "GLOBAL_ROUNDS": {value}\n}}\n', encoding="utf-8"
    )
    done = flip_fl("run", "app", cwd=app.parent)
    lines = done.stderr.splitlines()
    assert done.exit_code == 2
    errors = lines[lines.index(next(line for line in lines if line.startswith("error["))) :]
    assert errors[0] == f"error[FLIP-E0303]: GLOBAL_ROUNDS is {shown}; it must be a whole number from 1 to 1000"
    assert errors[1].strip().startswith("--> ")
    assert errors[1].endswith("app/config.json:4:20")
    assert errors[2] == "  why: out-of-range values are refused, not replaced"
    assert errors[3].startswith("  fix: ")
    envelope = flip_fl("run", "app", "--json", cwd=app.parent).document()
    assert (envelope["code"], envelope["exit_code"]) == ("FLIP-E0303", 2)
    assert str(envelope["where"]).endswith("app/config.json:4:20")


def test_4_a_slot_that_does_not_exist(app: Path) -> None:
    """Protects somebody who writes a trust's name or Trust_03 where a kit slot is wanted."""
    refused(
        "run",
        "app",
        "--sites",
        "3",
        "--site",
        "Trust_03",
        cwd=app.parent,
        exit_code=2,
        lines=[
            "error[FLIP-E0312]: no kit slot called 'Trust_03'",
            "  why: metrics, weights and --site use slot names, not the trusts' names",
            "  fix: did you mean Trust_3? (slots: Trust_1, Trust_2, Trust_3)",
            "  see: flip-fl explain E0312",
        ],
    )
    named = flip_fl("run", "app", "--site", "Guys", cwd=app.parent)
    assert named.exit_code == 2
    assert "  fix: use one of the slots: Trust_1, Trust_2" in named.stderr.splitlines()


def _addresses(hub: ServedHub) -> dict[str, tuple[str, str]]:
    bare = f"http://127.0.0.1:{hub.port}"
    return {
        "no /api": (bare, "/health is all there is (the API is below /api), /api/health is 200"),
        "https to an http port": (f"https://127.0.0.1:{hub.port}/api", "https gets no answer there, http does"),
        "another path": (f"{bare}/ui", "/ui/health is 404, /api/health is 200"),
    }


@pytest.mark.parametrize("mistake", ["no /api", "https to an http port", "another path"])
def test_5_a_wrong_hub_address(hub: ServedHub, mistake: str, tmp_path: Path) -> None:
    """Protects somebody who gives nearly the right address: what answered, where the value is from, the right one."""
    address, evidence = _addresses(hub)[mistake]
    refused(
        "doctor",
        "--hub",
        cwd=tmp_path,
        env=hub.server_env(FLIP_API_INTERNAL_URL=address),
        exit_code=3,
        lines=[
            f"error[FLIP-E0402]: {address} answered but is not a FLIP hub API",
            f"  why: {evidence}; value from env",
            f"  fix: export FLIP_API_INTERNAL_URL={hub.url}",
            "  see: flip-fl explain E0402",
        ],
    )


def test_5_a_wrong_hub_address_in_a_file_is_told_with_its_line(hub: ServedHub, tmp_path: Path) -> None:
    """Protects somebody who corrects the environment while a file is in force."""
    file = tmp_path / "local" / "flip.env"
    file.parent.mkdir()
    file.write_text(f"NET_ID='n'\nFLIP_API_INTERNAL_URL='http://127.0.0.1:{hub.port}/ui'\n", encoding="utf-8")
    done = flip_fl("doctor", "--hub", cwd=tmp_path, env=hub.server_env())
    assert done.exit_code == 3
    assert f"value from {file}:2, overrides env" in done.stderr
    assert f"  fix: set FLIP_API_INTERNAL_URL={hub.url} in {file}:2" in done.stderr.splitlines()


def test_5_nobody_answers(hub: ServedHub, tmp_path: Path) -> None:
    """Protects from "not a hub" where there is nobody at all: trying again helps there."""
    env = hub.server_env(FLIP_API_INTERNAL_URL="http://127.0.0.1:9/api")
    done = flip_fl("doctor", "--hub", "--json", cwd=tmp_path, env=env)
    envelope = done.document()
    assert (done.exit_code, envelope["code"], envelope["retryable"]) == (3, "FLIP-E0403", True)
    assert {check["name"]: check["state"] for check in envelope["data"]["checks"]}["hub"] == "fail"


def test_6_a_key_that_the_hub_refuses(hub: ServedHub, tmp_path: Path) -> None:
    """Protects somebody with an old or a wrong key: which key it was, by fingerprint, and where it is from."""
    key = "canary-old-key"
    refused(
        "doctor",
        "--hub",
        cwd=tmp_path,
        env=hub.server_env(INTERNAL_SERVICE_KEY=key),
        exit_code=4,
        lines=[
            "error[FLIP-E0411]: the hub refused INTERNAL_SERVICE_KEY "
            f"(set in env, sha256 {hashlib.sha256(key.encode()).hexdigest()[:6]})",
            "  why: the hub keeps the hash of another key",
            "  fix: flip-fl doctor --keys",
            "  see: flip-fl explain E0411",
        ],
    )


def test_6_the_trust_s_key_sent_to_the_hub(hub: ServedHub, tmp_path: Path) -> None:
    """Protects somebody who mixed up the two keys: said where it is proved on this machine, and no key is shown."""
    key = "canary-trust-key"
    env = hub.server_env(INTERNAL_SERVICE_KEY=key, TRUST_INTERNAL_SERVICE_KEY=key)
    done = flip_fl("doctor", "--keys", "--config", "-vv", cwd=tmp_path, env=env)
    assert done.exit_code == 4
    assert "  why: it equals TRUST_INTERNAL_SERVICE_KEY of this shell" in done.stderr.splitlines()
    assert key not in done.stdout + done.stderr
    assert hub.key not in done.stdout + done.stderr


def test_6_the_right_key_is_accepted(hub: ServedHub, tmp_path: Path) -> None:
    """Protects the check itself: with the right address and key it passes, and writes nothing at the hub."""
    done = flip_fl("doctor", "--hub", "--keys", "--json", cwd=tmp_path, env=hub.server_env())
    states = {check["name"]: check["state"] for check in done.document()["data"]["checks"]}
    assert done.exit_code == 0
    assert (states["hub"], states["hub key"]) == ("ok", "ok")


def test_7_fewer_sites_than_the_job_needs(app: Path) -> None:
    """Protects from a run that would wait for ever for sites that nobody starts."""
    (app / "config.json").write_text(
        '{\n  "job_type": "standard",\n  "IMAGING": false,\n  "MIN_CLIENTS": 3\n}\n', encoding="utf-8"
    )
    done = flip_fl("run", "app", "--sites", "2", cwd=app.parent)
    assert done.exit_code == 2
    text = done.stderr[done.stderr.index("error[") :]
    assert text.startswith("error[FLIP-E0505]: the job needs 3 sites, 2 are chosen (Trust_1, Trust_2)\n")
    assert "  why: MIN_CLIENTS is 3" in text
    assert "config.json:4" in text
    assert "set MIN_CLIENTS to 2" in text


def _finished(root: Path, status: ModelStatus, *, bundle: bytes | None = None) -> str:
    """A run's folder as a run leaves it, with the bundle if there is one; returns the model's id."""
    model_id = "7f3a0000-0000-4000-8000-000000000000"
    folder = root / "runs" / "demo"
    (folder / "results").mkdir(parents=True)
    at = "2026-01-01T00:00:00Z"
    story = Story.model_validate(
        {
            "schema": "flip-fl.story/1",
            "generated_at": at,
            "model": StoryModel(id=model_id, name="demo").model_dump(),
            "status": status.value,
            "reason": "Trust_2: out of memory" if status is ModelStatus.ERROR else None,
            "total_rounds": 20,
            "rounds": [{"number": 4, "started_at": at}],
            "results": None
            if bundle is None
            else {"address": f"s3://b/{model_id}/1.zip", "at": at, "sha256": hashlib.sha256(bundle).hexdigest()},
        }
    )
    (folder / "story.json").write_text(story.model_dump_json(by_alias=True), encoding="utf-8")
    if bundle is not None:
        (folder / "results" / f"{model_id}.zip").write_bytes(bundle)
    return model_id


def test_10_results_asked_for_too_early(tmp_path: Path) -> None:
    """Protects somebody who asks too early: where the run is, and the command that waits."""
    _finished(tmp_path, ModelStatus.RUNNING)
    refused(
        "results",
        "get",
        "7f3a",
        cwd=tmp_path,
        exit_code=1,
        lines=[
            "error[FLIP-E0701]: run demo has no results yet: Training, round 4 of 20",
            "  fix: flip-fl results get runs/demo --wait",
            "  see: flip-fl explain E0701",
        ],
    )
    waited = flip_fl("results", "get", "demo", "--wait", "--timeout", "1", cwd=tmp_path)
    assert waited.exit_code == 3
    assert waited.stderr.startswith("error[FLIP-E0706]: run demo had no results after 1 s: Training, round 4 of 20\n")


def test_10_results_of_a_failed_run(tmp_path: Path) -> None:
    """Protects from waiting for results that will never come."""
    _finished(tmp_path, ModelStatus.ERROR)
    done = flip_fl("results", "get", "demo", "--wait", cwd=tmp_path)
    assert done.exit_code == 1
    assert done.stderr.startswith(
        "error[FLIP-E0701]: run demo has no results yet: Failed in round 4 - Trust_2: out of memory\n"
    )


def test_10_results_twice_and_into_a_used_folder(tmp_path: Path) -> None:
    """Protects files that are there: the same one is left, another is never overwritten unasked."""
    model_id = _finished(tmp_path, ModelStatus.RESULTS_UPLOADED, bundle=b"the bundle")
    target = tmp_path / f"{model_id}.zip"
    first = flip_fl("results", "get", "demo", cwd=tmp_path)
    assert (first.exit_code, target.read_bytes()) == (0, b"the bundle")
    written = target.stat().st_mtime_ns
    second = flip_fl("results", "get", "demo", "--json", cwd=tmp_path)
    assert (second.exit_code, second.document()["data"]["present"]) == (0, True)
    assert flip_fl("results", "get", "demo", cwd=tmp_path).stdout.startswith("ok: present, sha256 matches\n")
    assert target.stat().st_mtime_ns == written
    target.write_bytes(b"another file")
    refused(
        "results",
        "get",
        "runs/demo",
        cwd=tmp_path,
        exit_code=5,
        lines=[
            f"error[FLIP-E0703]: {target.name} holds another file",
            "  why: its digest differs from the results'",
            "  fix: choose another place with --out, or add --overwrite",
            "  see: flip-fl explain E0703",
        ],
    )
    assert target.read_bytes() == b"another file"
    assert flip_fl("results", "get", "demo", "--overwrite", cwd=tmp_path).exit_code == 0
    assert target.read_bytes() == b"the bundle"


def test_10_a_bundle_that_was_changed_is_not_handed_out(tmp_path: Path) -> None:
    """Protects from using a bundle that is not the one that was reported."""
    model_id = _finished(tmp_path, ModelStatus.RESULTS_UPLOADED, bundle=b"the bundle")
    (tmp_path / "runs" / "demo" / "results" / f"{model_id}.zip").write_bytes(b"changed")
    done = flip_fl("results", "get", "demo", "--out", "here", "--json", cwd=tmp_path)
    assert (done.exit_code, done.document()["code"]) == (1, "FLIP-E0702")
    assert list((tmp_path / "here").iterdir()) == []


def test_10_a_run_that_nobody_knows(tmp_path: Path) -> None:
    """Protects somebody who mistypes a run's name: the nearest one that is here."""
    _finished(tmp_path, ModelStatus.RUNNING)
    done = flip_fl("results", "get", "dmeo", cwd=tmp_path)
    assert done.exit_code == 2
    assert "  fix: did you mean demo?" in done.stderr.splitlines()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--privacy-curve", "8,much"], "--privacy-curve: '8,much' is not 1 to 50 positive numbers"),
        (["--privacy-curve", "0"], "--privacy-curve: '0' is not 1 to 50 positive numbers"),
        (["--privacy-curve", "inf"], "--privacy-curve: 'inf' is not 1 to 50 positive numbers"),
        (["--privacy-curve", ",".join(["8"] * 51)], "is not 1 to 50 positive numbers"),
        (["--clipping-norm", "1"], "--clipping-norm is of --privacy-curve"),
        (["--privacy-curve", "8", "--clipping-norm", "-1"], "--clipping-norm -1 is no positive number"),
        (
            ["--privacy-curve", "8", "--site-policy", "policy.toml"],
            "--privacy-curve: its runs have policies of their own",
        ),
    ],
)
def test_a_curve_that_cannot_be_had_is_refused_at_once(app: Path, words: list[str], problem: str) -> None:
    """Protects from a wrong epsilon that would be noticed after the first run: a usage error, nothing written."""
    (app.parent / "cohort.csv").write_text("person_id,x\n1,2\n2,3\n")
    (app.parent / "policy.toml").write_text("[filters.clipping]\nnorm = 1.0\n")
    ended = flip_fl("run", str(app), "--data", "cohort.csv", "--out", "run", *words, cwd=app.parent)
    assert ended.exit_code == 2
    assert problem in ended.stderr
    assert not (app.parent / "run").exists()
