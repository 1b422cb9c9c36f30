"""Problems: the API's error responses, as problem details (RFC 9457).

`type` identifies the kind of problem, `title` is the same for every problem of a kind, `detail` describes the
case. Some kinds have further members (who decided, and when; which fields are invalid).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from polos_redis import errors
from polos_redis.errors import PolosError
from polos_redis.redaction import redact_text
from polos_redis.server.shapes import ProblemShape
from polos_redis.values.bounded_type import MAX_ERRORS, MAX_FIELD, MAX_MESSAGE, shortened

log = logging.getLogger("polos.server")

MEDIA_TYPE = "application/problem+json"
KIND = "urn:polos:problem:"
DOCUMENTED: dict[str, Any] = {
    "description": "A problem (RFC 9457).",
    "content": {MEDIA_TYPE: {"schema": ProblemShape.model_json_schema()}},
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
RETRY_SECONDS = 2  # Retry-After while Redis is unavailable


class Problem(HTTPException):
    """An error response: HTTP status, detail and further members. Can be raised anywhere in a route."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str = "",
        title: str = "",
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers) if headers else None)
        self.kind = kind
        self.title = title or HTTPStatus(status).phrase
        self.members = members

    def body(self) -> dict[str, Any]:
        """The problem as JSON values."""
        kind = KIND + self.kind if self.kind else "about:blank"
        return {
            "type": kind,
            "title": self.title,
            "status": self.status_code,
            "detail": self.detail,
            **self.members,
        }

    def response(self) -> Response:
        """The problem as a response."""
        body = json.dumps(self.body())  # ASCII: a text may contain code points that UTF-8 can't encode
        return Response(redact_text(body), self.status_code, self.headers, media_type=MEDIA_TYPE)


_Row = tuple[int, str, tuple[str, ...]]  # status, title, attributes of the error that become members

REFUSALS: dict[type[PolosError], _Row] = {
    errors.ExecutionNotFoundError: (404, "No such execution", ()),
    errors.SuspensionNotFoundError: (404, "No such suspension", ("open_steps",)),
    errors.AlreadyResumedError: (409, "Already decided", ("resumed_by", "resumed_at")),
    errors.ExecutionFinishedError: (409, "The execution has finished", ("status",)),
    errors.AmbiguousSuspensionError: (409, "Several suspensions match", ("candidates",)),
    errors.ShownChangedError: (409, "The data shown has changed", ()),
    errors.NotFailedError: (409, "The execution is not failed, stuck or paused", ("status",)),
    errors.NotSkippableError: (409, "Nothing to skip", ("step_key",)),
    errors.StepNotForkableError: (409, "Can't be forked like this", ("step_key",)),
    errors.NotFinishedError: (409, "The execution has not finished", ("status",)),
    errors.IdempotencyConflictError: (
        409,
        "The idempotency key was used for another request",
        ("execution_id", "differing"),
    ),
    errors.InternalWorkflowError: (403, "The workflow is internal", ("workflow_id",)),
    errors.SuspensionExpiredError: (410, "The suspension has expired", ("expired_at",)),
    errors.EventsTrimmedError: (410, "The event was trimmed", ()),
    errors.NotApproverError: (403, "Not an approver", ("reason",)),
    errors.InvalidAnswerError: (422, "Invalid answer", ("errors",)),
    errors.InvalidInputError: (422, "Invalid input", ()),
    errors.NotStorableError: (422, "The value can't be stored", ()),
    errors.ValueTooLargeError: (413, "The value is too large", ()),
}
UNAVAILABLE = (errors.RedisUnavailableError, errors.ConnectionLostError)
RENAMED = {"status": "execution_status"}  # `status` is the HTTP status in a problem


def of(error: PolosError) -> Problem:
    """The problem to return for an error. Errors of the server itself are logged, without details for the
    caller."""
    if isinstance(error, UNAVAILABLE):
        log.warning("Redis is unavailable: %s", error)
        detail = "Redis is unavailable; the request may or may not have taken effect: repeat it"
        return Problem(
            503,
            detail,
            kind="redis-unavailable",
            title="Redis is unavailable",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
    if isinstance(error, errors.ReleaseTooOldError):
        log.error("a newer release is needed: %s", error)
        return Problem(
            503,
            "this server needs a newer release to read what is stored: repeat the request once it has one",
            kind="release-too-old",
            title="The server's release is too old",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
    for kind in type(error).__mro__:
        if kind in REFUSALS:
            status, title, names = REFUSALS[kind]
            members = {RENAMED.get(name, name): _plain(getattr(error, name)) for name in names}
            return Problem(status, str(error), kind=kind_of(kind), title=title, **members)
    log.error("a request failed: %s: %s", type(error).__name__, error)
    return unexpected()


def kind_of(error: type[PolosError]) -> str:
    """The kind of problem for an error class: its name in kebab case, without Error."""
    return re.sub(r"(?<=.)(?=[A-Z])", "-", error.__name__.removesuffix("Error")).lower()


def unexpected() -> Problem:
    """The problem for an unexpected error."""
    return Problem(500, "internal error: see the server's log")


def too_many(seconds: float, why: str = "") -> Problem:
    """The problem for a caller over a limit, who may retry after this many seconds."""
    wait = max(1, round(seconds + 0.5))
    return Problem(
        429,
        f"too many requests: {why and f'{why}; '}try again in {wait} s",
        kind="too-many-requests",
        headers={"Retry-After": str(wait)},
    )


def invalid(details: Sequence[Mapping[str, Any]]) -> Problem:
    """The problem for an invalid request. `errors` names each field, but never contains its value."""
    listed = [
        {
            "field": shortened(_field(one["loc"]), MAX_FIELD),
            "message": shortened(str(one["msg"]), MAX_MESSAGE),
        }
        for one in details[:MAX_ERRORS]
    ]
    detail = "; ".join(
        f"{one['field'] or 'the body'}: {one['message']}" for one in listed[: errors.MAX_LISTED]
    )
    return Problem(422, detail, kind="invalid-request", title="Invalid request", errors=listed)


def install(app: FastAPI, count: Callable[[Request], Awaitable[None]]) -> None:
    """Make an app return problems for all errors. `count` counts a request that no route takes; it may raise
    another problem."""

    async def respond(request: Request, error: Exception) -> Response:
        if isinstance(error, PolosError):
            return of(error).response()
        if isinstance(error, RequestValidationError):
            return invalid(error.errors()).response()
        assert isinstance(error, HTTPException)
        if not isinstance(error, Problem):
            try:
                if error.status_code in (404, 405):
                    await count(request)
                error = _unrouted(request, error)
            except Problem as problem:
                error = problem
        return error.response()

    for kind in (PolosError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, respond)


def _unrouted(request: Request, error: HTTPException) -> Problem:
    """The problem for an HTTPException of the router."""
    path = request.scope["path"]
    if error.status_code == 404:
        return Problem(404, f"there is no {path}")
    if error.status_code != 405:
        return Problem(error.status_code, str(error.detail), headers=error.headers)
    routes = request.app.routes
    allowed = [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    detail = f"{path} supports {' and '.join(allowed)}, not {request.method}"
    return Problem(405, detail, headers={"Allow": ", ".join(allowed)})


def _field(location: Sequence[Any]) -> str:
    """The path of a field as in `InvalidAnswerError`, without the part of the request that contains it."""
    return ".".join(str(part) for part in location[1:])


def _plain(value: Any) -> Any:
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value
