"""The hub's OpenAPI document: complete, with examples that are right, and kept by the hub whatever it is asked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any
from uuid import UUID

import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure as CheckFailure
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

from flip_fl.hub import nets, tokens
from flip_fl.hub.roles import Role
from tests.support.hub import KEY_HEADER, RunningHub

_CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


def document(hub: RunningHub) -> dict[str, Any]:
    answer: dict[str, Any] = hub.call("GET", "/openapi.json").json()
    return answer


def operations(told: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in told["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_every_operation_is_documented_with_examples_that_fit_their_schemas(hub: RunningHub) -> None:
    """Somebody writes a client from the document alone: what to send, with what, and what may come back."""
    told = document(hub)
    for name, operation in operations(told):
        assert operation["description"], name
        assert operation["tags"], name
        answers = operation["responses"]
        assert any(status.startswith("2") for status in answers), name
        assert (("401" in answers) and ("429" in answers)) == ("security" in operation), name
        assert "/health" in name or "security" in operation, name
        contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
        contents += [answer["content"] for status, answer in answers.items() if "content" in answer and status != "422"]
        for content in contents:
            # Streams, tables and texts are shown by what they say in words.
            shown = content.get("application/json")
            if shown is None:
                continue
            assert "example" in shown, name
            schema = {**shown["schema"], "components": told["components"]}
            problems = [str(error) for error in jsonschema_rs.validator_for(schema).iter_errors(shown["example"])]
            assert problems == [], f"{name}: {problems}"
        for parameter in operation.get("parameters", []):
            assert parameter["in"] != "path" or "example" in parameter, f"{name}: {parameter['name']}"


def test_examples_are_of_operations_that_exist(hub: RunningHub) -> None:
    """An example of a route that is no more is nobody's."""
    kept = json.loads((files("flip_fl.hub") / "openapi_examples.json").read_text(encoding="utf-8"))
    assert set(kept) <= {name for name, _ in operations(document(hub))}


ROLES = ("nobody", "service", "viewer", "operator", "admin")
# How many requests of each kind an operation gets. Who is refused everywhere needs few.
_FEW = {"nobody": 1, "service": 1, "viewer": 1, "operator": 1, "admin": 2}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("role", "database_url", "factor"),
    [
        *((role, "sqlite", 1) for role in ROLES),
        *(
            pytest.param(role, database, 40, marks=pytest.mark.soak)
            for role in ROLES
            for database in ("sqlite", "postgresql")
        ),
    ],
    indirect=["database_url"],
)
def test_whatever_is_sent_is_answered_as_documented(role: str, factor: int, hub: RunningHub) -> None:
    """No role, with no input of any shape, gets a 5xx or an answer that the document does not know."""
    schema = schemathesis.openapi.from_dict(document(hub))
    schema.config.generation.update(with_security_parameters=False)
    headers = _headers(hub, role)
    real = _real_names(hub)
    asked = itertools.count()
    with requests.Session() as client:

        def send(case: Any) -> None:
            if next(asked) % 3:
                known = {name: value for name, value in real.items() if name in (case.path_parameters or {})}
                case.path_parameters = {**(case.path_parameters or {}), **known}
            base = hub.base.removesuffix("/api")
            if case.operation.path.endswith("/stream"):
                _require_documented(case, base, headers, client)
                return
            answer = case.call(base_url=base, headers=headers, session=client, timeout=30)
            case.validate_response(answer, checks=_CHECKS)

        wrong = [
            problem
            for result in schema.get_all_operations()
            for problem in _ask(result.ok(), _FEW[role] * factor, send)
        ]
    assert wrong == []
    assert next(asked) > 2 * _FEW[role] * factor * len(list(operations(document(hub)))) // 3


def _require_documented(case: Any, base: str, headers: dict[str, str], client: requests.Session) -> None:
    # A stream has no end: its head is all that is looked at.
    sent = case.as_transport_kwargs(base_url=base, headers=headers)
    with client.request(**sent, timeout=30, stream=True) as answer:
        known = case.operation.definition.raw["responses"].get(str(answer.status_code))
        media_type = answer.headers.get("content-type", "").partition(";")[0]
        if known is None or media_type not in known["content"]:
            raise AssertionError(f"{case.operation.label}: {answer.status_code} {media_type} is not documented")


def _ask(operation: Any, examples: int, send: Callable[[Any], None]) -> Iterator[str]:
    """Send valid requests, as they come and about what is there, and invalid ones; yields what was answered wrongly."""
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    for mode in modes:

        @seed(20260301)
        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=examples,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def run(case: Any) -> None:
            send(case)

        try:
            run()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # there is nothing to get wrong
        except (FailureGroup, CheckFailure) as failure:
            yield f"{operation.label}: {failure} {getattr(failure, 'exceptions', '')}"


def _headers(hub: RunningHub, role: str) -> dict[str, str]:
    if role == "nobody":
        return {}
    if role == "service":
        return {KEY_HEADER: hub.key}
    with hub.world.session() as session:
        return {"Authorization": f"Bearer {tokens.issue(session, role, Role(role)).secret}"}


def _real_names(hub: RunningHub) -> dict[str, str]:
    """Names of what the hub has, so that not every request ends at what is not there."""
    world = hub.world
    with world.session() as session:
        nets.add("net-1", session)
        nets.occupy("net-1", world.model_id, [world.guys], session)
        session.commit()
        token = tokens.issue(session, "rotated by chance", Role.VIEWER).info.id
    ids: dict[str, UUID] = {"model_id": world.model_id, "trust_id": world.outsider}
    return {**{name: str(value) for name, value in ids.items()}, "net": "net-1", "slot": "Trust_4", "token_id": token}
