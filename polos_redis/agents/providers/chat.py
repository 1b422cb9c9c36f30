"""The chat completions API, of OpenAI and compatible services."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from polos_redis.agents.conversation import Message, ToolAnswer, ToolCall, Turn, Usage
from polos_redis.agents.output import Schema
from polos_redis.agents.providers.openai import client_for, import_package, translate_errors
from polos_redis.agents.providers.provider import ModelCallError, Request
from polos_redis.runtime.resources import Resources


class ChatCompletions:
    """Calls models with a streamed `POST /chat/completions`."""

    def __init__(self, base_url: str | None) -> None:
        self.base_url = base_url

    def resolve(self) -> None:
        import_package()

    async def complete(
        self, request: Request, resources: Resources, on_text: Callable[[str], Awaitable[None]]
    ) -> Turn:
        client = await client_for(resources, self.base_url)
        text, refusal, finish_reason, usage = [], [], "", Usage(requests=1)
        calls: dict[int, list[str]] = {}  # id, name, arguments so far
        async with translate_errors():
            stream: Any = await client.chat.completions.create(**_parameters(request))
            async with stream:
                async for chunk in stream:
                    if chunk.usage is not None:
                        usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens, 1)
                    for choice in chunk.choices[:1]:
                        delta = choice.delta
                        finish_reason = choice.finish_reason or finish_reason
                        if delta.content:
                            text.append(delta.content)
                            await on_text(delta.content)
                        if delta.refusal:
                            refusal.append(delta.refusal)
                        for part in delta.tool_calls or ():
                            call = calls.setdefault(part.index, ["", "", ""])
                            call[0] = part.id or call[0]
                            if part.function is not None:
                                call[1] += part.function.name or ""
                                call[2] += part.function.arguments or ""
        if not finish_reason:
            raise ModelCallError("the connection closed before the model's answer was complete")
        tool_calls = [
            ToolCall(call_id or f"call_{os.urandom(8).hex()}", name, arguments)
            for _, (call_id, name, arguments) in sorted(calls.items())
        ]
        return Turn("".join(text), "".join(refusal), tool_calls, usage, finish_reason)


def _parameters(request: Request) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(one) for one in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        parameters["tools"] = [{"type": "function", "function": _function(one)} for one in request.tools]
    if request.output is not None:
        output = request.output
        parameters["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": output.name, "schema": output.schema, "strict": output.strict},
        }
    if request.temperature is not None:
        parameters["temperature"] = request.temperature
    if request.max_output_tokens is not None:
        parameters["max_completion_tokens"] = request.max_output_tokens
    if request.timeout is not None:
        parameters["timeout"] = request.timeout
    return parameters | request.extra


def _function(tool: Schema) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.schema, "strict": tool.strict}
    return {**function, "description": tool.description} if tool.description else function


def _message(message: Message) -> dict[str, Any]:
    if isinstance(message, ToolAnswer):
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.content}
    if not isinstance(message, Turn):
        return message
    turn: dict[str, Any] = {"role": "assistant", "content": message.text}
    if message.tool_calls:
        turn["content"] = message.text or None
        turn["tool_calls"] = [
            {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
            for one in message.tool_calls
        ]
    return turn
