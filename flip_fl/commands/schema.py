"""The JSON schemas of what commands answer: ``python -m flip_fl.commands.schema`` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from flip_fl.commands.answers import ANSWERS, ErrorEnvelope

FOLDER = Path(__file__).parent / "schemas"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, str]:
    """File name → text of every schema."""
    documents = {answer.SCHEMA: _success(answer) for answer in ANSWERS}
    documents[ErrorEnvelope.SCHEMA] = _error()
    return {
        f"{name.replace('/', '-')}.json": json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        for name, document in documents.items()
    }


def _success(answer: Any) -> dict[str, Any]:
    data = TypeAdapter(answer).json_schema()
    definitions = data.pop("$defs", {})
    return {
        "$schema": _DIALECT,
        "title": answer.SCHEMA,
        "type": "object",
        "properties": {
            "schema": {"const": answer.SCHEMA},
            "status": {"const": "ok"},
            "exit_code": {"type": "integer"},
            "data": data,
        },
        "required": ["schema", "status", "exit_code", "data"],
        "$defs": definitions,
    }


def _error() -> dict[str, Any]:
    document = TypeAdapter(ErrorEnvelope).json_schema()
    document["properties"]["schema"] = {"const": ErrorEnvelope.SCHEMA}
    document["properties"]["data"] = {"description": "what the command found out before it failed"}
    return {"$schema": _DIALECT, **document, "title": ErrorEnvelope.SCHEMA}


def write(folder: Path = FOLDER) -> None:
    """Replace the schemas kept in ``folder``."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for name, text in schemas().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
