"""What comes in and what goes out: a limit on bodies, strict JSON both ways."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polos_redis.server import problems
from polos_redis.server.problems import Problem

log = logging.getLogger("polos.server")


class Bounds:
    """ASGI middleware: a body over the limit is a problem 413 before it is held in memory, and what fails
    unforeseen is a problem 500, its traceback in the log."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self.app = app
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        came, begun = 0, False

        async def receiving() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.most_bytes:
                raise self._too_large()
            return message

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            told = Headers(scope=scope).get("content-length", "")
            if told.isdecimal() and int(told[:19]) > self.most_bytes:
                raise self._too_large()
            await self.app(scope, receiving, sending)
        except Exception as error:
            if begun:
                raise
            if not isinstance(error, Problem):
                log.exception("%s %s failed", scope["method"], scope["path"])
                error = problems.unexpected()
            await error.response()(scope, receive, send)

    def _too_large(self) -> Problem:
        return Problem(413, f"the body is larger than {self.most_bytes} bytes", kind="too-large")


class Json(Response):
    """A JSON answer, in ASCII: a step key or a topic may hold what UTF-8 can't."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class JsonRequest(Request):
    """A request whose body, if the route takes one, has to be JSON and be called so."""

    async def json(self) -> Any:
        try:
            return json.loads(await self.body(), parse_constant=_no_constant)
        except RecursionError:
            raise Problem(400, "the body is nested too deeply", kind="not-json") from None
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}: {error.msg}"
            raise Problem(400, f"the body is not JSON: {where}", kind="not-json") from None
        except ValueError as error:
            raise Problem(400, f"the body is not usable JSON: {error}", kind="not-json") from None


class JsonRoute(APIRoute):
    """A route whose body is JSON. Anything else is a problem 415: a form's type, which a page of any site
    can send, must not pass for it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        takes_body = self.body_field is not None

        async def strict(request: Request) -> Response:
            if takes_body:
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind != "application/json" and (kind or not _is_empty(request)):
                    what = f"not {kind}" if kind else "and nothing is said of it"
                    raise Problem(415, f"the body has to be application/json, {what}", kind="not-json")
            return await handle(JsonRequest(request.scope, request.receive))

        return strict


def _is_empty(request: Request) -> bool:
    headers = request.headers
    return headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a value that JSON has")
