"""The JSON that commands answer: one envelope, schemas that are kept, errors included."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from flip_fl.commands.answers import ANSWERS, DoctorAnswer, ErrorEnvelope, Explained
from flip_fl.commands.schema import FOLDER, schemas
from flip_fl.errors import CATALOGUE, FlipError
from tests.support.cli import flip_fl


def checked(document: dict[str, Any], answer: Any) -> Any:
    """``document``'s data as ``answer``; fails when it is not the success envelope of that answer."""
    assert set(document) == {"schema", "status", "exit_code", "data"}
    assert (document["schema"], document["status"]) == (answer.SCHEMA, "ok")
    data = TypeAdapter(answer).validate_python(document["data"])
    assert set(document["data"]) == {field.name for field in dataclasses.fields(answer)}
    return data


def test_the_schemas_in_the_repository_are_those_of_the_answers() -> None:
    """Protects programs that read the JSON: a change of its form shows as a change of a kept file."""
    kept = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert kept == schemas(), "run `python -m flip_fl.commands.schema` and look at the difference"
    assert len(kept) == len(ANSWERS) + 1


def test_an_error_s_envelope_has_the_documented_fields() -> None:
    """Protects the envelope of errors, which the errors themselves build, from drifting off its schema."""
    envelope = FlipError("E0312", slot="x", place="", suggestion="y").envelope()
    assert set(envelope) == {field.name for field in dataclasses.fields(ErrorEnvelope)}
    TypeAdapter(ErrorEnvelope).validate_python(envelope)


def test_doctor_and_explain_answer_in_one_document(tmp_path: Path) -> None:
    """Protects scripts from anything on stdout beside the document."""
    doctor = flip_fl("doctor", "--config", "--json", cwd=tmp_path)
    answer = checked(doctor.document(), DoctorAnswer)
    assert (doctor.exit_code, doctor.stderr) == (0, "")
    assert {check.name for check in answer.checks} >= {"flip_fl", "engines", "settings", "outbox", "disk"}
    assert answer.settings
    explained = checked(flip_fl("explain", "--json", cwd=tmp_path).document(), Explained)
    assert [entry.code for entry in explained.errors] == list(CATALOGUE)


@pytest.mark.parametrize(
    "words", [("nonsense",), ("run",), ("explain", "E9999"), ("hub", "trust", "list"), ("doctor", "--state", "absent")]
)
def test_an_error_is_the_same_document_with_the_same_exit_code(words: tuple[str, ...], tmp_path: Path) -> None:
    """Protects programs from text where JSON was asked for, and from two truths about how a command ended."""
    text, document = flip_fl(*words, cwd=tmp_path), flip_fl(*words, "--json", cwd=tmp_path)
    envelope = document.document()
    assert document.stderr == ""
    assert text.exit_code == document.exit_code == envelope["exit_code"] != 0
    TypeAdapter(ErrorEnvelope).validate_python({k: v for k, v in envelope.items() if k != "data"})
    first = text.stderr.splitlines()[0]
    assert first == f"error[{envelope['code']}]: {envelope['message']}".replace(" --json", "")


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_error_can_be_explained(code: str, tmp_path: Path) -> None:
    """Protects the last line of every error, which promises this command."""
    from flip_fl.commands.explain import _entry, _text, _told

    told = _told(_entry(f"flip-{code.lower()}"))
    assert told.code == code
    assert f"exit code: {told.exit_code} (" in _text(told)
