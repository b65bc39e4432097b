"""The hub's OpenAPI document: who may ask, what is answered otherwise, and an example of each body.

What FastAPI derives from the code is completed here: the refusals of an operation follow from what guards it, so that
they cannot be forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from flip_fl.hub import access

EXAMPLES = "openapi_examples.json"
_JSON = "application/json"
_DESCRIPTION = (
    "Reading and administration take a login token (`Authorization: Bearer …`), or the cookie of a browser that logged "
    "in, whose changes carry `X-CSRF-Token` beside it. The FL server's routes take the service key. Times are ISO 8601 "
    "in UTC. A model outside a token's projects is answered as one that is not there."
)
_REFUSALS = {
    "400": "Refused: the model is deleted, or a value does not fit.",
    "401": "No credential, a wrong one, or one that is over.",
    "403": "The credential does not reach so far, or a change lacks the CSRF token.",
    "404": "There is none of this name, or it is out of reach.",
    "413": "The body is too large.",
    "429": "Too many wrong keys came from this address; `Retry-After` says when to come again.",
    "503": "The database is busy or cannot be reached; `Retry-After` says when to come again.",
}


def describe(app: FastAPI) -> None:
    """Let ``app.openapi()`` answer the completed document; it is made once, when first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {})["Refusal"] = {
        "type": "object",
        "required": ["detail"],
        "properties": {"detail": {"type": "string"}},
        "title": "Refusal",
    }
    components["securitySchemes"]["ServiceKey"]["name"] = app.state.settings.service_key_header
    examples = json.loads((files("flip_fl.hub") / EXAMPLES).read_text(encoding="utf-8"))
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            _complete(operation)
            _illustrate(operation, examples.get(f"{method.upper()} {path}", {}))
    return schema


def _complete(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    schemes = {name for way in operation.get("security", []) for name in way}
    wanted = ["503"]
    if schemes:
        wanted += ["401", "429"]
    if schemes and (operation.get("parameters") or "requestBody" in operation):
        wanted += ["400", "404"]
    if access.TOKEN in schemes:
        wanted.append("403")
    if "requestBody" in operation:
        wanted.append("413")
    for status in [*wanted, *(known for known in responses if known == "409")]:
        answer = responses.setdefault(status, {"description": _REFUSALS.get(status, "")})
        answer["content"] = {_JSON: {"schema": {"$ref": "#/components/schemas/Refusal"}}}
        if status in ("429", "503"):
            answer["headers"] = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds."}}
    operation["responses"] = dict(sorted(responses.items()))


def _illustrate(operation: dict[str, Any], example: Mapping[str, Any]) -> None:
    if "request" in example:
        operation["requestBody"]["content"][_JSON]["example"] = example["request"]
    for parameter in operation.get("parameters", []):
        if parameter["name"] in example.get("parameters", {}):
            parameter["example"] = example["parameters"][parameter["name"]]
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get(_JSON)
        if content is None:
            continue
        if status.startswith("2") and "response" in example:
            content["example"] = example["response"]
        elif status in _REFUSED:
            content["example"] = {"detail": _REFUSED[status]}


_REFUSED = {
    "400": "Model ID: 7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b is deleted",
    "401": access.DETAIL_NOBODY,
    "403": access.DETAIL_ROLE.format(role="viewer", needed="an admin"),
    "404": "Model ID: 7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b does not exist",
    "409": "no kit slot is free: all 2 are held",
    "413": "A body may hold at most 1114112 bytes.",
    "429": access.DETAIL_TOO_MANY,
    "503": "The database is busy or cannot be reached.",
}
