"""A route that takes a JSON body: in which order it is read, who may send it, what must be in it; then the work.

No framework does it here: it is asked for each study of each round, and the work itself is a look at a folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flip_fl.services.refusals import public_errors
from flip_fl.trust.security import refusal_of

_Body = TypeVar("_Body", bound=BaseModel)
_Query = TypeVar("_Query", bound=BaseModel)


def endpoint(
    body: type[_Body], query: type[_Query], work: Callable[[Request, _Body, _Query], Response]
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """``work`` as a route: called in a thread with the body and the parameters of a request that may be answered.

    422 for a body that is no JSON, whoever sends it; 401 without the trust's key; 422 for a body or parameters of
    another form. No answer repeats what was sent.
    """

    async def answer(request: Request) -> Response:
        try:
            sent = json.loads(await request.body())
        except (ValueError, RecursionError):
            return _unreadable([{"type": "json_invalid", "loc": ["body"], "msg": "no JSON"}])
        reason = refusal_of(request)
        if reason is not None:
            return JSONResponse({"detail": reason}, status_code=401)
        read: list[Any] = []
        errors: list[dict[str, Any]] = []
        for place, model, values in (("body", body, sent), ("query", query, dict(request.query_params))):
            try:
                read.append(model.model_validate(values))
            except ValidationError as error:
                errors += public_errors(error.errors(include_url=False, include_input=False), of=place)
        if errors:
            return _unreadable(errors)
        return await run_in_threadpool(work, request, read[0], read[1])

    return answer


def _unreadable(errors: list[dict[str, Any]]) -> Response:
    return JSONResponse({"detail": errors}, status_code=422)
