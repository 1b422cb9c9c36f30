"""Bodies: a size limit, and strict JSON in both directions."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polos_redis.errors import ValueTooLargeError
from polos_redis.redaction import redact_text
from polos_redis.server import problems
from polos_redis.server.allowances import Allowance
from polos_redis.server.callers import Caller
from polos_redis.server.problems import Problem
from polos_redis.server.rates import network_of
from polos_redis.server.security import caller_of
from polos_redis.values.json_text import InvalidJsonError, read_json

log = logging.getLogger("polos.server")

MAX_MEMBERS = 100  # of the object in a body


STALL_SECONDS = 10.0  # without more of a body; a whole one may take this, and longer at the least rate
MOST_REQUESTS = 4000  # in progress at a time, streams included
LEAST_RATE = 32_768  # bytes per second
MOST_BODIES = 6  # of the largest size that are held for one caller at a time; four times as many for all


class Bounds:
    """ASGI middleware that limits request bodies, and turns unexpected errors into a problem 500.

    A body over `max_bytes` is a problem 413, before it is held in memory; one that stalls is a problem 408.
    What is held of bodies at a time is limited for each caller (429) and for all (503). Tracebacks go to the
    log.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self._running = 0
        self._held = Allowance("bytes of bodies", MOST_BODIES * max_bytes, 4 * MOST_BODIES * max_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received, complete, responding = 0, False, False
        deadline: float | None = None
        holder = ""

        async def receiving() -> Message:
            nonlocal received, complete, deadline, holder
            if complete:  # what is awaited now is the end of the connection
                return await receive()
            now = asyncio.get_running_loop().time()
            if deadline is None:
                deadline, holder = now + STALL_SECONDS, _holder(scope)
            try:
                async with asyncio.timeout_at(min(deadline + received / LEAST_RATE, now + STALL_SECONDS)):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            size = len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received + size > self.max_bytes:
                raise self._too_large()
            self._held.take(holder, size)
            received += size
            return message

        async def sending(message: Message) -> None:
            nonlocal responding
            responding = True
            await send(message)

        self._running += 1
        try:
            if self._running > MOST_REQUESTS and scope["path"] != "/healthz":
                raise Problem(
                    503,
                    f"the server is busy with {MOST_REQUESTS} requests: try again in 1 s",
                    kind="busy",
                    headers={"Retry-After": "1"},
                )
            length = Headers(scope=scope).get("content-length", "")
            if length.isdecimal() and int(length[:19]) > self.max_bytes:
                raise self._too_large()
            await self.app(scope, receiving, sending)
        except ClientDisconnect:  # nobody is left to respond to
            pass
        except Exception as error:
            if responding:
                raise
            if not isinstance(error, Problem):
                log.exception("a request failed: %s %s", scope["method"], scope["path"])
                error = problems.unexpected()
            await error.response()(scope, receive, send)
        finally:
            self._running -= 1
            if received:
                self._held.give_back(holder, received)

    def _too_slow(self) -> Problem:
        return Problem(
            408,
            f"the body arrived too slowly: send at least {LEAST_RATE} bytes per second",
            kind="too-slow",
            headers={"Connection": "close"},
        )

    def _too_large(self) -> Problem:
        return Problem(413, f"the body is larger than {self.max_bytes} bytes", kind="too-large")


def _holder(scope: Scope) -> str:
    """Who sends a body: the caller, if they have been identified, else the network it comes from."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    if caller is not None and caller.key_id is not None:
        return caller.key_id
    return network_of((scope.get("client") or ("",))[0])


class Json(Response):
    """A JSON response, without tokens and secrets; in ASCII, because a step key or a topic may contain code
    points that UTF-8 can't encode."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        rendered = json.dumps(content, allow_nan=False, separators=(",", ":"))
        return redact_text(rendered).encode("ascii")


class JsonRequest(Request):
    """A request whose body must be valid JSON."""

    async def json(self) -> Any:
        try:
            value = read_json(await self.body())
        except ValueTooLargeError as error:
            raise Problem(413, str(error), kind="too-large") from None
        except InvalidJsonError as error:
            raise Problem(400, f"the body can't be read as JSON: {error}", kind="not-json") from None
        if isinstance(value, dict) and len(value) > MAX_MEMBERS:  # each would become an error
            raise Problem(422, f"the body has more than {MAX_MEMBERS} members", kind="invalid-request")
        return value


class JsonRoute(APIRoute):
    """A route whose body must be declared as JSON; anything else is a problem 415.

    Forms are refused because a page of any site can make a browser send one.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        takes_body = self.body_field is not None

        async def require_json(request: Request) -> Response:
            if takes_body:
                await caller_of(request)  # before the body is read
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind != "application/json" and (kind or not _is_empty(request)):
                    problem = f"not {kind}" if kind else "and is missing"
                    raise Problem(
                        415, f"the Content-Type must be application/json, {problem}", kind="not-json"
                    )
            return await handle(JsonRequest(request.scope, request.receive))

        return require_json


def _is_empty(request: Request) -> bool:
    headers = request.headers
    return headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
