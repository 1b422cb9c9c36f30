"""Requests to a scripted model, read alike for both of OpenAI's APIs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polos_redis.testing.model.replies import Json

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"  # the paths of the two APIs

RequestOutcome = Literal[
    "open",  # not answered yet
    "finished",  # the model's answer was sent in full
    "failed",  # an error was sent
    "cut",  # the server dropped the connection
    "left",  # the client dropped it
]


@dataclass
class ModelRequest:
    """A request and its outcome. It is `finished` before the client has the full answer."""

    number: int  # from 0, in order of arrival
    id: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: Json  # {} if it was not a JSON object
    began: float  # Unix time, seconds
    history: list[Json] = field(default_factory=list)  # the items behind previous_response_id
    outcome: RequestOutcome = "open"
    status: int = 0  # of the HTTP answer; 0 until there is one
    chunks: int = 0  # pieces sent, if it is streamed
    hanging: bool = False

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def items(self) -> list[Json]:
        """The input of the responses API, after the items of the responses before it."""
        given = self.body["input"]
        asked = [{"role": "user", "content": given}] if isinstance(given, str) else given
        return [*self.history, *asked]

    @property
    def messages(self) -> list[Json]:
        """The conversation, in the shape of chat completions for either API."""
        return _messages_of(self) if self.path == RESPONSES else list(self.body["messages"])

    @property
    def tools(self) -> list[Json]:
        """The functions offered: name, description, parameters, strict."""
        tools = self.body.get("tools") or ()
        return [tool.get("function", tool) for tool in tools if tool["type"] == "function"]

    @property
    def response_format(self) -> Json | None:
        """The JSON schema asked for: name, schema, strict."""
        wanted: Json
        if self.path == RESPONSES:
            wanted = (self.body.get("text") or {}).get("format") or {}
            return wanted if wanted.get("type") == "json_schema" else None
        wanted = self.body.get("response_format") or {}
        return wanted["json_schema"] if wanted.get("type") == "json_schema" else None

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


def repeated(log: Iterable[ModelRequest]) -> list[ModelRequest]:
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


def read_log(path: Path) -> list[ModelRequest]:
    """The log so far of a model in its own process."""
    requests: dict[str, ModelRequest] = {}
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            entry = json.loads(line)
            requests[entry["id"]] = ModelRequest(**entry)
    return list(requests.values())


def _messages_of(request: ModelRequest) -> list[Json]:
    """The messages of a request to the responses API."""
    messages: list[Json] = []
    if instructions := request.body.get("instructions"):
        messages.append({"role": "system", "content": instructions})
    for item in request.items:
        match item.get("type", "message"):
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                _spoken(messages).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                answer = {"tool_call_id": item["call_id"], "content": item["output"]}
                messages.append({"role": "tool", **answer})
            case "message" if item["role"] == "assistant":
                _spoken(messages)["content"] = _text(item["content"])
            case "message":
                messages.append({"role": item["role"], "content": item["content"]})
    return messages


def _spoken(messages: list[Json]) -> Json:
    """The assistant message that the next item belongs to."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _text(content: Any) -> str:
    """The text of a message: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("refusal") or "" for part in content or ())
