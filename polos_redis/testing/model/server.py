"""The scripted model: an HTTP server that speaks OpenAI's API."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from polos_redis.testing.model.api import ModelApi, check, error_body
from polos_redis.testing.model.chat import ChatApi
from polos_redis.testing.model.listener import LoopbackListener
from polos_redis.testing.model.refusals import RefusedRequest
from polos_redis.testing.model.replies import Fail, Hang, Json, Reply, Say, with_ids
from polos_redis.testing.model.requests import CHAT, RESPONSES, ModelRequest, RequestOutcome
from polos_redis.testing.model.responses import ResponsesApi
from polos_redis.testing.model.script import ScriptedReplies, When

API_KEY = "sk-scripted-0123456789"
MOST_REPLIES = 3  # in a message
LONGEST_REPLY = 100  # characters of one in it

_APIS: dict[str, ModelApi] = {CHAT: ChatApi(), RESPONSES: ResponsesApi()}


def _api(path: str) -> ModelApi:
    if path not in _APIS:
        raise RefusedRequest(f"there is nothing at {path}", status=404)
    return _APIS[path]


Answering = Callable[[ModelRequest], Reply | Awaitable[Reply]]


class ScriptedModel:
    """A model that says what the test scripts: `async with ScriptedModel([Say("Hello")]) as model: ...`.

    It is a real HTTP server on the loopback interface, in the test's own loop, that speaks OpenAI's chat
    completions and responses, streamed or not, and refuses what OpenAI would refuse. Inside the block,
    OPENAI_BASE_URL and OPENAI_API_KEY lead every agent of this process to it that has no
    `provider_base_url`.

    `replies` are used in order, once each; a `When` is for a certain prompt or round. Or it is a function,
    plain or async, that returns the reply to a request (it may be called concurrently). If it raises, or no
    reply is left, the answer is a 400, which no client retries, and the end of the block raises that error.
    Replies of a list that no request has got are an `AssertionError` there, unless `allow_unused`.

    `log` has every request: `model.log[0].prompt`. `log=` names a file that gets it too, as JSON lines.
    """

    def __init__(
        self,
        replies: Answering | Iterable[Reply | When],
        *,
        log: Path | None = None,
        port: int = 0,
        allow_unused: bool = False,
    ) -> None:
        self._answering: Answering = replies if callable(replies) else ScriptedReplies(replies)
        self._allow_unused = allow_unused
        self._log_path = log
        self._listener = LoopbackListener(self._serve, port)
        self._stored: dict[str, list[Json]] = {}  # a conversation up to a response, by its id
        self._errors: list[BaseException] = []
        self._environment: dict[str, str | None] = {}  # what the block has replaced
        self.log: list[ModelRequest] = []

    async def __aenter__(self) -> Self:
        await self._listener.__aenter__()
        self.port = self._listener.port
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        for name, value in (("OPENAI_BASE_URL", self.base_url), ("OPENAI_API_KEY", API_KEY)):
            self._environment[name] = os.environ.get(name)
            os.environ[name] = value
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        await self._listener.__aexit__(kind, error, trace)
        if self._errors and not isinstance(error, AssertionError):
            raise self._errors[0]
        if error is None and not self._allow_unused and isinstance(self._answering, ScriptedReplies):
            _check_used(self._answering.left)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        early = b""
        try:
            while read := await _read(reader, early):
                request = self._begin(*read)
                answer = asyncio.create_task(self._answer(request, writer))
                gone = asyncio.create_task(reader.read(1))  # no client sends more before its answer
                try:
                    await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    left = gone.done()
                    answer.cancel()
                    gone.cancel()
                    keep, more = await asyncio.gather(answer, gone, return_exceptions=True)
                    self._end(request, "left" if left or isinstance(keep, ConnectionError) else "cut")
                if isinstance(keep, BaseException) and not isinstance(
                    keep, ConnectionError | asyncio.CancelledError
                ):
                    self._errors.append(keep)
                if keep is not True or more == b"":
                    return
                early = more if isinstance(more, bytes) else b""
        finally:
            writer.close()

    def _begin(self, path: str, headers: dict[str, str], content: bytes) -> ModelRequest:
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        request = ModelRequest(
            number=len(self.log),
            id=uuid.uuid4().hex,
            path=path,
            headers=headers,
            body=body if isinstance(body, dict) else {},
            began=time.time(),
        )
        self.log.append(request)
        self._note(request)
        return request

    def _end(self, request: ModelRequest, outcome: RequestOutcome) -> None:
        """Record a request's outcome, once."""
        if request.outcome == "open":
            request.outcome = outcome
            self._note(request)

    def _note(self, request: ModelRequest) -> None:
        if self._log_path:
            with self._log_path.open("a") as file:
                file.write(json.dumps(asdict(request)) + "\n")

    async def _answer(self, request: ModelRequest, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; returns False if the connection is to be dropped."""
        reply: Any
        try:
            api = self._admit(request)
            reply = self._answering(request)
            if inspect.isawaitable(reply):
                reply = await reply
        except RefusedRequest as no:
            return await self._fail(request, writer, no.status, str(no), param=no.param, code=no.code)
        except Exception as error:
            self._errors.append(error)
            return await self._fail(request, writer, 400, f"the test has no reply: {error}", code="no_reply")
        match reply:
            case Hang():
                return await self._hang(request)
            case Fail():
                return await self._fail(
                    request, writer, reply.status, reply.message, reply.retry_after, code=reply.code
                )
            case Say():
                answer = self._stream if request.streamed else self._whole
                return await answer(request, api, with_ids(reply), writer)
        raise TypeError(f"not a reply: {reply!r}")

    def _admit(self, request: ModelRequest) -> ModelApi:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise RefusedRequest("there is no API key: send the header Authorization: Bearer KEY", status=401)
        api = _api(request.path)
        if not request.body:
            raise RefusedRequest("the body must be a JSON object")
        if previous := request.body.get("previous_response_id"):
            if previous not in self._stored:
                raise RefusedRequest(
                    f"there is no response {previous}", "previous_response_id", "previous_response_not_found"
                )
            request.history = self._stored[previous]
        try:
            check(api, request)
        except (AttributeError, KeyError, TypeError) as error:
            raise RefusedRequest(
                f"the request has the wrong shape: {error!r}", code="invalid_type"
            ) from error
        return api

    async def _hang(self, request: ModelRequest) -> bool:
        request.hanging = True
        self._note(request)
        await asyncio.Event().wait()
        return False

    async def _fail(
        self,
        request: ModelRequest,
        writer: asyncio.StreamWriter,
        status: int,
        message: str,
        retry_after: float | None = None,
        **detail: str | None,
    ) -> bool:
        content = json.dumps({"error": error_body(status, message, **detail)}).encode()
        extra = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        head = self._head(request, status, {"content-length": str(len(content)), **extra})
        self._end(request, "failed")
        return await _send(writer, head + content)

    async def _whole(
        self, request: ModelRequest, api: ModelApi, say: Say, writer: asyncio.StreamWriter
    ) -> bool:
        await asyncio.sleep(say.pause_seconds)
        if say.hang_after is not None:
            return await self._hang(request)
        if say.fail_after is not None:
            return await self._fail(request, writer, 500, "the model failed")
        answer = api.whole(request, say)
        content = json.dumps(answer).encode()
        head = self._head(request, 200, {"content-length": str(len(content))})
        if say.cut_after is not None:
            self._end(request, "cut")
            await _send(writer, head + content[: len(content) // 2])
            return False
        self._finish(request, answer)
        return await _send(writer, head + content)

    async def _stream(
        self, request: ModelRequest, api: ModelApi, say: Say, writer: asyncio.StreamWriter
    ) -> bool:
        stream = api.stream(request, say)
        headers = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
        await _send(
            writer,
            self._head(request, 200, headers) + _chunk(api.frames(stream.opening, 0, last=False)),
        )
        sent = len(stream.opening)
        for number in range(len(stream.chunks) + 1):
            last = number == len(stream.chunks)
            if say.cut_after is not None and (number == say.cut_after or last):
                self._end(request, "cut")
                return False
            if say.hang_after is not None and (number == say.hang_after or last):
                return await self._hang(request)
            if say.fail_after is not None and (number == say.fail_after or last):
                self._end(request, "failed")
                failure = api.frames(stream.failure, sent, last=False)
                return await _send(writer, _chunk(failure) + _chunk(b""))
            if not last:
                if number:
                    await asyncio.sleep(say.pause_seconds)
                events = stream.chunks[number]
                request.chunks += 1
                await _send(writer, _chunk(api.frames(events, sent, last=False)))
                sent += len(events)
        self._finish(request, stream.closing[-1].get("response", {}))
        return await _send(writer, _chunk(api.frames(stream.closing, sent, last=True)) + _chunk(b""))

    def _finish(self, request: ModelRequest, answer: Json) -> None:
        """Log the request before the last bytes are sent: a client with a full answer finds it `finished`."""
        if answer.get("store"):
            self._stored[answer["id"]] = [*request.items, *answer["output"]]
        self._end(request, "finished")

    def _head(self, request: ModelRequest, status: int, headers: dict[str, str]) -> bytes:
        request.status = status
        fields = {"content-type": "application/json", "x-request-id": f"req_{request.id}", **headers}
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode()


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_REPLY else text[:LONGEST_REPLY] + " ..."


def _check_used(left: Sequence[When]) -> None:
    if left:
        shown = ", ".join(_short(repr(one.reply)) for one in left[:MOST_REPLIES])
        more = f" and {len(left) - MOST_REPLIES} more" if len(left) > MOST_REPLIES else ""
        raise AssertionError(
            f"the script has replies that no request has got: {shown}{more}; remove them, or pass "
            "allow_unused=True"
        )


async def _read(reader: asyncio.StreamReader, early: bytes) -> tuple[str, dict[str, str], bytes] | None:
    """Read the next request on a connection: path, headers and body; None at its end."""
    try:
        head = early + await reader.readuntil(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
        return first.split(" ")[1], headers, await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def _send(writer: asyncio.StreamWriter, data: bytes) -> bool:
    writer.write(data)
    await writer.drain()
    return True


def _chunk(data: bytes) -> bytes:
    """A chunk of chunked transfer encoding; the empty one is the last."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
