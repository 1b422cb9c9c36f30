"""What both of OpenAI's APIs have in common: how a request is checked, and how an answer is streamed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from polos_redis.testing.model.refusals import RefusedRequest, check_name, check_schema
from polos_redis.testing.model.replies import Json, Say
from polos_redis.testing.model.requests import ModelRequest


@dataclass(frozen=True)
class StreamedAnswer:
    """The events of a streamed answer: opening, one list per piece, closing, and the error that ends it."""

    opening: list[Json]
    chunks: list[list[Json]]
    closing: list[Json]
    failure: list[Json]


class ModelApi(Protocol):
    """One of OpenAI's two APIs."""

    tool_param: str
    format_param: str

    def check(self, request: ModelRequest) -> None: ...
    def whole(self, request: ModelRequest, say: Say) -> Json: ...
    def stream(self, request: ModelRequest, say: Say) -> StreamedAnswer: ...
    def frames(self, events: list[Json], sent: int, last: bool) -> bytes:
        """Encode events for the wire, after `sent` others."""
        ...


def check(api: ModelApi, request: ModelRequest) -> None:
    """Raises `RefusedRequest` for what the real API would refuse."""
    body = request.body
    if not body.get("model"):
        raise RefusedRequest("the parameter model is missing", "model", "missing_required_parameter")
    for index, tool in enumerate(request.tools):
        param = api.tool_param.format(index)
        check_name(tool["name"], f"{param}.name")
        if tool.get("strict"):
            what = f"function {tool['name']!r}"
            check_schema(tool["parameters"], what, f"{param}.parameters", "invalid_function_parameters")
    if wanted := request.response_format:
        check_name(wanted["name"], f"{api.format_param}.name")
        if wanted.get("strict"):
            what = f"response_format {wanted['name']!r}"
            check_schema(wanted["schema"], what, f"{api.format_param}.schema", "invalid_json_schema")
    api.check(request)


def pieces(text: str, count: int) -> list[str]:
    """Split a text into up to `count` parts of similar length; an empty text is one part."""
    count = max(1, min(count, len(text)))
    ends = [len(text) * number // count for number in range(count + 1)]
    return [text[begin:end] for begin, end in pairwise(ends)]


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> Json:
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = "server_error" if status >= 500 else kinds.get(status, "invalid_request_error")
    return {"message": message, "type": kind, "param": param, "code": code}
