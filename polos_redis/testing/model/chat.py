"""OpenAI's chat completions, as a scripted model speaks them."""

from __future__ import annotations

import json
from typing import Any

from polos_redis.testing.model.api import StreamedAnswer, error_body, pieces
from polos_redis.testing.model.refusals import RefusedRequest, check_name, check_string
from polos_redis.testing.model.replies import FinishReason, Json, Say
from polos_redis.testing.model.requests import ModelRequest


class ChatApi:
    tool_param = "tools[{}].function"
    format_param = "response_format.json_schema"

    def check(self, request: ModelRequest) -> None:
        for name in ("messages", "tools"):
            if request.body.get(name) == []:
                raise RefusedRequest(f"{name} is an empty list", name, "empty_array")
        owed: set[str] = set()
        for index, message in enumerate(request.messages):
            param = f"messages.[{index}]"
            role = message["role"]
            if role not in {"system", "developer", "user", "assistant", "tool"}:
                raise RefusedRequest(f"{role!r} is not a role", f"{param}.role", "invalid_value")
            if role == "tool":
                if not isinstance(message["content"], list):
                    check_string(message["content"], f"{param}.content")
                if message["tool_call_id"] not in owed:
                    raise RefusedRequest(
                        f"a tool message must answer a call of the assistant's message before it; "
                        f"{message['tool_call_id']!r} is not one, or already answered",
                        f"{param}.tool_call_id",
                    )
                owed.remove(message["tool_call_id"])
                continue
            self._check_answered(owed, f"{param}.role")
            for number, call in enumerate(message.get("tool_calls") or ()):
                of_call = f"{param}.tool_calls[{number}].function"
                check_name(call["function"]["name"], f"{of_call}.name")
                check_string(call["function"]["arguments"], f"{of_call}.arguments")
                owed.add(call["id"])
        self._check_answered(owed, "messages")

    def _check_answered(self, owed: set[str], param: str) -> None:
        if owed:
            raise RefusedRequest(
                f"after an assistant's message with tool_calls there must be a tool message for each; "
                f"these have none: {', '.join(sorted(owed))}",
                param,
            )

    def whole(self, request: ModelRequest, say: Say) -> Json:
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

    def stream(self, request: ModelRequest, say: Say) -> StreamedAnswer:
        with_usage = (request.body.get("stream_options") or {}).get("include_usage")
        head = {**self._head(request, ".chunk"), **({"usage": None} if with_usage else {})}

        def event(delta: Json, finish: FinishReason | None = None) -> Json:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return {**head, "choices": [choice]}

        def calling(index: int, **call: Any) -> Json:
            return event({"tool_calls": [{"index": index, **call}]})

        chunks = []
        if say.refusal is not None:
            chunks += [[event({"refusal": piece})] for piece in pieces(say.refusal, say.chunks)]
        elif say.content:
            chunks += [[event({"content": piece})] for piece in pieces(say.content, say.chunks)]
        for index, call in enumerate(say.tool_calls):
            named = {"name": call.name, "arguments": ""}
            fragments = [
                [calling(index, function={"arguments": piece})] for piece in pieces(call.json, say.chunks)
            ]
            fragments[0].insert(0, calling(index, id=call.id, type="function", function=named))
            chunks += fragments
        initial = "" if say.content and say.refusal is None else None
        opening = [event({"role": "assistant", "content": initial, "refusal": None})]
        closing = [event({}, say.finish)]
        if with_usage:
            closing.append({**head, "choices": [], "usage": self._usage(say)})
        failure = [{"error": error_body(500, "the model failed in the middle of its answer")}]
        return StreamedAnswer(opening, chunks, closing, failure)

    def frames(self, events: list[Json], sent: int, last: bool) -> bytes:
        frames = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return (frames + ("data: [DONE]\n\n" if last else "")).encode()

    def _head(self, request: ModelRequest, kind: str) -> Json:
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
