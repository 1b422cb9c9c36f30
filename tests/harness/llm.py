"""A real HTTP server that speaks OpenAI's API, for tests: chat completions and responses, streamed or not.

In the test's own loop: `async with llm([Say("Hello")]) as server: ... server.base_url, server.log`.
As a process of its own: `with llm_process(script, log) as base_url: ... read_log(log)`, or
`python -m tests.harness.llm --script FILE --log FILE --port 0`.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Protocol, Self

from tests import ROOT
from tests.harness.endpoint import Handle, Listener

Json = dict[str, Any]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

# ---- Replies ----


@dataclass(frozen=True)
class Call:
    """A tool call. Arguments given as a string are sent unchanged, JSON or not. `id=None` makes a new one."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None

    @property
    def json(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Say:
    """An answer of the model; a `text` that is not a string is sent as JSON.

    Streamed: the text (or refusal) and each call's arguments come in up to `chunks` pieces, `pause_seconds`
    apart. After `cut_after` pieces the connection is dropped, after `hang_after` nothing more is sent, after
    `fail_after` the stream ends with the provider's error. 0 means right after the answer has started.

    Not streamed: `pause_seconds` delays the answer, `cut_after` drops the connection in the middle of it,
    `hang_after` acts like `Hang`, and `fail_after` like `Fail(500)`.
    """

    text: Any = ""
    refusal: str | None = None
    tool_calls: Sequence[Call] = ()
    usage: tuple[int, int] = (10, 5)  # tokens: in, out
    chunks: int = 3
    pause_seconds: float = 0.0
    cut_after: int | None = None
    hang_after: int | None = None
    fail_after: int | None = None
    finish_reason: FinishReason | None = None

    @property
    def content(self) -> str:
        return self.text if isinstance(self.text, str) else json.dumps(self.text)

    @property
    def finish(self) -> FinishReason:
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")


@dataclass(frozen=True)
class Fail:
    """An HTTP error with OpenAI's body; `retry_after`, in seconds, is sent as the header of that name."""

    status: int
    message: str = "the model is not to be had"
    retry_after: float | None = None
    code: str | None = None


@dataclass(frozen=True)
class Hang:
    """Send nothing until the client leaves or the server stops."""


Reply = Say | Fail | Hang


@dataclass(frozen=True)
class When:
    """A reply for requests of this round, or with a prompt that contains this text."""

    reply: Reply
    prompt: str | None = None
    round: int | None = None

    def fits(self, request: Request) -> bool:
        return self.round in {None, request.round} and (self.prompt is None or self.prompt in request.prompt)


class Script:
    """Replies that are used once each: a request gets the first unused one that fits it."""

    def __init__(self, replies: Iterable[Reply | When]) -> None:
        self._left = [reply if isinstance(reply, When) else When(reply) for reply in replies]

    def __call__(self, request: Request) -> Reply:
        for when in self._left:
            if when.fits(request):
                self._left.remove(when)
                return when.reply
        raise AssertionError(
            f"no reply is left in the script for request {request.number}: round {request.round}, "
            f"prompt {request.prompt!r}"
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a JSON file: a list of `{"say": text}`, `{"fail": {"status": 429}}` and `{"hang": true}`, with
        `Say`'s other fields beside `say`, and `"when": {"prompt": ..., "round": ...}` beside any."""
        return cls(_when(**entry) for entry in json.loads(path.read_text()))


def _when(*, when: Json | None = None, **entry: Any) -> When:
    match entry:
        case {"say": text, **more}:
            calls = tuple(Call(**call) for call in more.pop("tool_calls", ()))
            read, written = more.pop("usage", Say.usage)
            reply: Reply = Say(text, tool_calls=calls, usage=(read, written), **more)
        case {"fail": fail} if len(entry) == 1:
            reply = Fail(**fail)
        case {"hang": True} if len(entry) == 1:
            reply = Hang()
        case _:
            raise ValueError(f"not a reply: {entry}")
    return When(reply, **(when or {}))


# ---- Requests ----

Outcome = Literal[
    "open",  # not answered yet
    "finished",  # the model's answer was sent in full
    "failed",  # an error was sent
    "cut",  # the server dropped the connection
    "left",  # the client dropped it
]


@dataclass
class Request:
    """A request and its outcome. It is `finished` before the client has the full answer."""

    number: int  # from 0, in order of arrival
    id: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: Json  # {} if it was not a JSON object
    began: float  # Unix time, seconds
    history: list[Json] = field(default_factory=list)  # the items behind previous_response_id
    outcome: Outcome = "open"
    status: int = 0  # of the HTTP answer; 0 until there is one
    chunks: int = 0  # pieces sent, if it is streamed
    hanging: bool = False

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def messages(self) -> list[Json]:
        """The conversation, in the shape of chat completions for either API."""
        return _api(self.path).messages(self)

    @property
    def tools(self) -> list[Json]:
        """The functions offered: name, description, parameters, strict."""
        tools = self.body.get("tools") or ()
        return [tool.get("function", tool) for tool in tools if tool["type"] == "function"]

    @property
    def response_format(self) -> Json | None:
        """The JSON schema asked for: name, schema, strict."""
        return _api(self.path).response_format(self.body)

    @property
    def round(self) -> int:
        """The number of assistant messages so far."""
        return sum(message["role"] == "assistant" for message in self.messages)

    @property
    def prompt(self) -> str:
        """The last user message."""
        said = [message for message in self.messages if message["role"] == "user"]
        return _text(said[-1]["content"]) if said else ""

    @property
    def results(self) -> dict[str, str]:
        """Tool results since the last assistant message, by call id."""
        found: dict[str, str] = {}
        for message in self.messages:
            if message["role"] == "assistant":
                found.clear()
            elif message["role"] == "tool":
                found[message["tool_call_id"]] = _text(message["content"])
        return found


def repeated(log: Iterable[Request]) -> list[Request]:
    """Requests with the path and body of an earlier finished one."""
    paid: set[tuple[str, str]] = set()
    again = []
    for request in log:
        key = request.path, json.dumps(request.body, sort_keys=True)
        if key in paid:
            again.append(request)
        if request.outcome == "finished":
            paid.add(key)
    return again


def read_log(path: Path) -> list[Request]:
    """The current log of a server in its own process."""
    requests: dict[str, Request] = {}
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            entry = json.loads(line)
            requests[entry["id"]] = Request(**entry)
    return list(requests.values())


def _text(content: Any) -> str:
    """The text of a message: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("refusal") or "" for part in content or ())


# ---- What the real API would refuse ----


class Refused(Exception):
    """Answers a request with an error, whatever the reply would have been."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NOT_STRICT = (
    *("allOf", "default", "dependentRequired", "dependentSchemas", "else", "if", "not", "oneOf"),
    *("patternProperties", "prefixItems", "propertyNames", "then", "unevaluatedItems"),
    *("unevaluatedProperties", "uniqueItems"),
)


def _check(api: Api, request: Request) -> None:
    body = request.body
    if not body.get("model"):
        raise Refused("the parameter model is missing", "model", "missing_required_parameter")
    for index, tool in enumerate(request.tools):
        param = api.tool_param.format(index)
        _check_name(tool["name"], f"{param}.name")
        if tool.get("strict"):
            what = f"function {tool['name']!r}"
            _check_schema(tool["parameters"], what, f"{param}.parameters", "invalid_function_parameters")
    if wanted := request.response_format:
        _check_name(wanted["name"], f"{api.format_param}.name")
        if wanted.get("strict"):
            what = f"response_format {wanted['name']!r}"
            _check_schema(wanted["schema"], what, f"{api.format_param}.schema", "invalid_json_schema")
    api.check(request)


def _check_name(name: str, param: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused(f"{param} is {name!r}, which does not match {_NAME.pattern}", param, "invalid_value")


def _check_schema(schema: Json, what: str, param: str, code: str, at: tuple[str, ...] = ()) -> None:
    """Apply the rules of strict mode to a schema and all its subschemas."""

    def refuse(why: str) -> NoReturn:
        raise Refused(f"the schema of {what} is not strict: at {at}, {why}", param, code)

    if not at and schema.get("type") != "object":
        refuse("the root must be of type object")
    if found := [word for word in _NOT_STRICT if word in schema]:
        refuse(f"{found[0]} is not permitted")
    if "$ref" in schema and len(schema) > 1:
        refuse("nothing is permitted beside $ref")
    if not {"type", "$ref", "anyOf", "enum", "const"} & set(schema):
        refuse("a type is missing")
    properties = schema.get("properties", {})
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            refuse("additionalProperties must be given and false")
        if missing := [name for name in properties if name not in schema.get("required", ())]:
            refuse(f"required has to name every property; not there: {missing}")
    for word in ("properties", "$defs"):
        for name, below in schema.get(word, {}).items():
            _check_schema(below, what, param, code, (*at, word, name))
    for index, below in enumerate(schema.get("anyOf", ())):
        _check_schema(below, what, param, code, (*at, "anyOf", str(index)))
    if "items" in schema:
        _check_schema(schema["items"], what, param, code, (*at, "items"))


def _is_string(value: Any, param: str) -> None:
    if not isinstance(value, str):
        raise Refused(f"{param} must be a string, not {type(value).__name__}", param, "invalid_type")


# ---- The two APIs ----


@dataclass(frozen=True)
class Stream:
    """The events of a streamed answer: opening, one list per piece, closing, and the error that ends it."""

    opening: list[Json]
    chunks: list[list[Json]]
    closing: list[Json]
    failure: list[Json]


class Api(Protocol):
    """One of OpenAI's two APIs."""

    tool_param: str
    format_param: str

    def messages(self, request: Request) -> list[Json]: ...
    def response_format(self, body: Json) -> Json | None: ...
    def check(self, request: Request) -> None: ...
    def whole(self, request: Request, say: Say) -> Json: ...
    def stream(self, request: Request, say: Say) -> Stream: ...
    def frames(self, events: list[Json], sent: int, last: bool) -> bytes:
        """Encode events for the wire, after `sent` others."""


class ChatCompletions:
    tool_param = "tools[{}].function"
    format_param = "response_format.json_schema"

    def messages(self, request: Request) -> list[Json]:
        return list(request.body["messages"])

    def response_format(self, body: Json) -> Json | None:
        wanted: Json = body.get("response_format") or {}
        return wanted["json_schema"] if wanted.get("type") == "json_schema" else None

    def check(self, request: Request) -> None:
        for name in ("messages", "tools"):
            if request.body.get(name) == []:
                raise Refused(f"{name} is an empty list", name, "empty_array")
        owed: set[str] = set()
        for index, message in enumerate(request.messages):
            param = f"messages.[{index}]"
            role = message["role"]
            if role not in {"system", "developer", "user", "assistant", "tool"}:
                raise Refused(f"{role!r} is not a role", f"{param}.role", "invalid_value")
            if role == "tool":
                if not isinstance(message["content"], list):
                    _is_string(message["content"], f"{param}.content")
                if message["tool_call_id"] not in owed:
                    raise Refused(
                        f"a tool message must answer a call of the assistant's message before it; "
                        f"{message['tool_call_id']!r} is not one, or already answered",
                        f"{param}.tool_call_id",
                    )
                owed.remove(message["tool_call_id"])
                continue
            self._check_answered(owed, f"{param}.role")
            for number, call in enumerate(message.get("tool_calls") or ()):
                of_call = f"{param}.tool_calls[{number}].function"
                _check_name(call["function"]["name"], f"{of_call}.name")
                _is_string(call["function"]["arguments"], f"{of_call}.arguments")
                owed.add(call["id"])
        self._check_answered(owed, "messages")

    def _check_answered(self, owed: set[str], param: str) -> None:
        if owed:
            raise Refused(
                f"after an assistant's message with tool_calls there must be a tool message for each; "
                f"these have none: {', '.join(sorted(owed))}",
                param,
            )

    def whole(self, request: Request, say: Say) -> Json:
        message: Json = {"role": "assistant", "content": None, "refusal": say.refusal, "annotations": []}
        if say.refusal is None and (say.content or not say.tool_calls):
            message["content"] = say.content
        if say.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.json}}
                for call in say.tool_calls
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": say.finish}
        return {**self._head(request, ""), "choices": [choice], "usage": self._usage(say)}

    def stream(self, request: Request, say: Say) -> Stream:
        with_usage = (request.body.get("stream_options") or {}).get("include_usage")
        head = {**self._head(request, ".chunk"), **({"usage": None} if with_usage else {})}

        def event(delta: Json, finish: FinishReason | None = None) -> Json:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return {**head, "choices": [choice]}

        def calling(index: int, **call: Any) -> Json:
            return event({"tool_calls": [{"index": index, **call}]})

        chunks = []
        if say.refusal is not None:
            chunks += [[event({"refusal": piece})] for piece in _pieces(say.refusal, say.chunks)]
        elif say.content:
            chunks += [[event({"content": piece})] for piece in _pieces(say.content, say.chunks)]
        for index, call in enumerate(say.tool_calls):
            named = {"name": call.name, "arguments": ""}
            fragments = [
                [calling(index, function={"arguments": piece})] for piece in _pieces(call.json, say.chunks)
            ]
            fragments[0].insert(0, calling(index, id=call.id, type="function", function=named))
            chunks += fragments
        initial = "" if say.content and say.refusal is None else None
        opening = [event({"role": "assistant", "content": initial, "refusal": None})]
        closing = [event({}, say.finish)]
        if with_usage:
            closing.append({**head, "choices": [], "usage": self._usage(say)})
        failure = [{"error": _error_body(500, "the model failed in the middle of its answer")}]
        return Stream(opening, chunks, closing, failure)

    def frames(self, events: list[Json], sent: int, last: bool) -> bytes:
        frames = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return (frames + ("data: [DONE]\n\n" if last else "")).encode()

    def _head(self, request: Request, kind: str) -> Json:
        return {
            "id": f"chatcmpl-{request.id}",
            "object": f"chat.completion{kind}",
            "created": int(request.began),
            "model": request.body["model"],
            "service_tier": "default",
            "system_fingerprint": "fp_test",
        }

    def _usage(self, say: Say) -> Json:
        read, written = say.usage
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


class Responses:
    tool_param = "tools[{}]"
    format_param = "text.format"

    def items(self, request: Request) -> list[Json]:
        given = request.body["input"]
        asked = [{"role": "user", "content": given}] if isinstance(given, str) else given
        return [*request.history, *asked]

    def messages(self, request: Request) -> list[Json]:
        messages: list[Json] = []
        if instructions := request.body.get("instructions"):
            messages.append({"role": "system", "content": instructions})
        for item in self.items(request):
            match item.get("type", "message"):
                case "function_call":
                    function = {"name": item["name"], "arguments": item["arguments"]}
                    call = {"id": item["call_id"], "type": "function", "function": function}
                    self._spoken(messages).setdefault("tool_calls", []).append(call)
                case "function_call_output":
                    answer = {"tool_call_id": item["call_id"], "content": item["output"]}
                    messages.append({"role": "tool", **answer})
                case "message" if item["role"] == "assistant":
                    self._spoken(messages)["content"] = _text(item["content"])
                case "message":
                    messages.append({"role": item["role"], "content": item["content"]})
        return messages

    def _spoken(self, messages: list[Json]) -> Json:
        """The assistant message that the next item belongs to."""
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        return messages[-1]

    def response_format(self, body: Json) -> Json | None:
        wanted: Json = (body.get("text") or {}).get("format") or {}
        return wanted if wanted.get("type") == "json_schema" else None

    def check(self, request: Request) -> None:
        calls: dict[str, bool] = {}  # answered?
        for index, item in enumerate(self.items(request)):
            param = f"input[{index}]"
            if item.get("type") == "function_call":
                _check_name(item["name"], f"{param}.name")
                _is_string(item["arguments"], f"{param}.arguments")
                calls[item["call_id"]] = False
            elif item.get("type") == "function_call_output":
                if calls.get(item["call_id"], True):
                    raise Refused(f"there is no open function call {item['call_id']}", "input")
                calls[item["call_id"]] = True
        if owed := [call for call, answered in calls.items() if not answered]:
            raise Refused(f"there is no output for the function calls {', '.join(owed)}", "input")

    def whole(self, request: Request, say: Say) -> Json:
        incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(say.finish)
        status = "incomplete" if incomplete else "completed"
        read, written = say.usage
        return {
            **self._created(request),
            "status": status,
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "output": self._output(request, say, status),
            "usage": {
                "input_tokens": read,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": read + written,
            },
        }

    def stream(self, request: Request, say: Say) -> Stream:
        created, whole = self._created(request), self.whole(request, say)
        chunks: list[list[Json]] = []
        for index, item in enumerate(whole["output"]):
            of_item = {"output_index": index, "item_id": item["id"]}
            if item["type"] == "message":
                events = self._message_events(item, say, of_item)
            else:
                events = self._call_events(item, say, of_item)
            opened = {**item, "status": "in_progress", **({"content": []} if "content" in item else {})}
            if "arguments" in item:
                opened["arguments"] = ""
            added = {"type": "response.output_item.added", "output_index": index, "item": opened}
            done = {"type": "response.output_item.done", "output_index": index, "item": item}
            events[0].insert(0, added)
            events[-1].append(done)
            chunks += events
        opening = [{"type": f"response.{kind}", "response": created} for kind in ("created", "in_progress")]
        message = "the model failed in the middle of its answer"
        failed = {**created, "status": "failed", "error": {"code": "server_error", "message": message}}
        return Stream(
            opening,
            chunks,
            closing=[{"type": f"response.{whole['status']}", "response": whole}],
            failure=[{"type": "response.failed", "response": failed}],
        )

    def frames(self, events: list[Json], sent: int, last: bool) -> bytes:
        return b"".join(
            f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n".encode()
            for number, event in enumerate(events, sent)
        )

    def _created(self, request: Request) -> Json:
        body = request.body
        return {
            "id": f"resp_{request.id}",
            "object": "response",
            "created_at": int(request.began),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": body["model"],
            "output": [],
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "previous_response_id": body.get("previous_response_id"),
            "store": body.get("store", True),
            "temperature": body.get("temperature", 1.0),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_p": body.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": None,
        }

    def _output(self, request: Request, say: Say, status: str) -> list[Json]:
        output: list[Json] = []
        if say.refusal is not None:
            part: Json = {"type": "refusal", "refusal": say.refusal}
        else:
            part = {"type": "output_text", "text": say.content, "annotations": [], "logprobs": []}
        if say.refusal is not None or say.content or not say.tool_calls:
            message = {"id": f"msg_{request.id}", "type": "message", "role": "assistant", "content": [part]}
            output.append({**message, "status": status})
        for number, call in enumerate(say.tool_calls):
            item = {"id": f"fc_{request.id}_{number}", "type": "function_call", "call_id": call.id}
            output.append({**item, "name": call.name, "arguments": call.json, "status": status})
        return output

    def _message_events(self, item: Json, say: Say, of_item: Json) -> list[list[Json]]:
        (part,) = item["content"]
        word = "refusal" if part["type"] == "refusal" else "text"
        kind = "refusal" if word == "refusal" else "output_text"
        of_part = {**of_item, "content_index": 0, **({"logprobs": []} if word == "text" else {})}
        where = {**of_item, "content_index": 0}
        chunks = [
            [{"type": f"response.{kind}.delta", **of_part, "delta": piece}]
            for piece in _pieces(part[word], say.chunks)
        ]
        chunks[0].insert(0, {"type": "response.content_part.added", **where, "part": {**part, word: ""}})
        chunks[-1].append({"type": f"response.{kind}.done", **of_part, word: part[word]})
        chunks[-1].append({"type": "response.content_part.done", **where, "part": part})
        return chunks

    def _call_events(self, item: Json, say: Say, of_item: Json) -> list[list[Json]]:
        kind = "response.function_call_arguments"
        chunks = [
            [{"type": f"{kind}.delta", **of_item, "delta": piece}]
            for piece in _pieces(item["arguments"], say.chunks)
        ]
        chunks[-1].append({"type": f"{kind}.done", **of_item, "arguments": item["arguments"]})
        return chunks


_APIS: dict[str, Api] = {"/v1/chat/completions": ChatCompletions(), "/v1/responses": Responses()}


def _api(path: str) -> Api:
    if path not in _APIS:
        raise Refused(f"there is nothing at {path}", status=404)
    return _APIS[path]


def _with_id(call: Call) -> Call:
    return call if call.id else replace(call, id=f"call_{uuid.uuid4().hex[:24]}")


def _pieces(text: str, count: int) -> list[str]:
    """Split a text into up to `count` parts of similar length; an empty text is one part."""
    count = max(1, min(count, len(text)))
    ends = [len(text) * number // count for number in range(count + 1)]
    return [text[begin:end] for begin, end in pairwise(ends)]


def _error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> Json:
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = "server_error" if status >= 500 else kinds.get(status, "invalid_request_error")
    return {"message": message, "type": kind, "param": param, "code": code}


# ---- The server ----

Answering = Callable[[Request], Reply | Awaitable[Reply]]


class FixedPortListener(Listener):
    """A listening socket on a given port."""

    def __init__(self, handle: Handle, port: int) -> None:
        super().__init__(handle)
        self.port = port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self


class Server:
    """The server that `llm` returns: listens on the loopback interface inside its block."""

    def __init__(
        self, replies: Answering | Iterable[Reply | When], *, log: Path | None = None, port: int = 0
    ) -> None:
        self._answering: Answering = replies if callable(replies) else Script(replies)
        self._log_path = log
        self._listener = FixedPortListener(self._serve, port)
        self._stored: dict[str, list[Json]] = {}  # a conversation up to a response, by its id
        self._errors: list[BaseException] = []
        self.log: list[Request] = []

    async def __aenter__(self) -> Self:
        await self._listener.__aenter__()
        self.port = self._listener.port
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._listener.__aexit__(kind, error, trace)
        if self._errors and not isinstance(error, AssertionError):
            raise self._errors[0]

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

    def _begin(self, path: str, headers: dict[str, str], content: bytes) -> Request:
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        request = Request(
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

    def _end(self, request: Request, outcome: Outcome) -> None:
        """Record a request's outcome, once."""
        if request.outcome == "open":
            request.outcome = outcome
            self._note(request)

    def _note(self, request: Request) -> None:
        if self._log_path:
            with self._log_path.open("a") as file:
                file.write(json.dumps(asdict(request)) + "\n")

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; returns False if the connection is to be dropped."""
        reply: Any
        try:
            api = self._admit(request)
            reply = self._answering(request)
            if inspect.isawaitable(reply):
                reply = await reply
        except Refused as no:
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
                say = replace(reply, tool_calls=[_with_id(call) for call in reply.tool_calls])
                answer = self._stream if request.streamed else self._whole
                return await answer(request, api, say, writer)
        raise TypeError(f"not a reply: {reply!r}")

    def _admit(self, request: Request) -> Api:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refused("there is no API key: send the header Authorization: Bearer KEY", status=401)
        api = _api(request.path)
        if not request.body:
            raise Refused("the body must be a JSON object")
        if previous := request.body.get("previous_response_id"):
            if previous not in self._stored:
                raise Refused(
                    f"there is no response {previous}", "previous_response_id", "previous_response_not_found"
                )
            request.history = self._stored[previous]
        try:
            _check(api, request)
        except (AttributeError, KeyError, TypeError) as error:
            raise Refused(f"the request has the wrong shape: {error!r}", code="invalid_type") from error
        return api

    async def _hang(self, request: Request) -> bool:
        request.hanging = True
        self._note(request)
        await asyncio.Event().wait()
        return False

    async def _fail(
        self,
        request: Request,
        writer: asyncio.StreamWriter,
        status: int,
        message: str,
        retry_after: float | None = None,
        **detail: str | None,
    ) -> bool:
        content = json.dumps({"error": _error_body(status, message, **detail)}).encode()
        extra = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        head = self._head(request, status, {"content-length": str(len(content)), **extra})
        self._end(request, "failed")
        return await _send(writer, head + content)

    async def _whole(self, request: Request, api: Api, say: Say, writer: asyncio.StreamWriter) -> bool:
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

    async def _stream(self, request: Request, api: Api, say: Say, writer: asyncio.StreamWriter) -> bool:
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

    def _finish(self, request: Request, answer: Json) -> None:
        """Log the request before the last bytes are sent: a client with a full answer finds it `finished`."""
        if answer.get("store"):
            self._stored[answer["id"]] = [*Responses().items(request), *answer["output"]]
        self._end(request, "finished")

    def _head(self, request: Request, status: int, headers: dict[str, str]) -> bytes:
        request.status = status
        fields = {"content-type": "application/json", "x-request-id": f"req_{request.id}", **headers}
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode()


def llm(replies: Answering | Iterable[Reply | When]) -> Server:
    """A server in the test's own loop: `async with llm(replies) as server`.

    `replies` are used in order, once each; or a function, plain or async, returns the reply to a request (it
    may be called concurrently). If it raises, or no reply is left, the answer is a 400, so that no client
    retries, and the end of the block raises that error.
    """
    return Server(replies)


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


# ---- The server as its own process ----


@contextmanager
def llm_process(script: Path, log: Path) -> Iterator[str]:
    """Run a server in its own process until the block ends; yields its base URL."""
    command = [sys.executable, "-m", "tests.harness.llm", "--script", str(script), "--log", str(log)]
    root = ROOT
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()
    assert process.returncode == 0


async def _run(server: Server) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        print(server.port, flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.llm", description="Speaks OpenAI's API.")
    parser.add_argument("--script", type=Path, required=True, help="replies: see Script.load")
    parser.add_argument("--log", type=Path, required=True, help="gets a line for each change of a request")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    args = parser.parse_args()
    args.log.touch()
    asyncio.run(_run(Server(Script.load(args.script), log=args.log, port=args.port)))


if __name__ == "__main__":
    main()
