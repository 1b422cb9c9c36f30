"""OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from polos_redis.agents.conversation import Message, ToolAnswer, ToolCall, Turn, Usage
from polos_redis.agents.output import Schema
from polos_redis.agents.providers.openai import client_for, import_package, translate_errors
from polos_redis.agents.providers.provider import ModelCallError, Request
from polos_redis.errors import NoRetryError
from polos_redis.runtime.resources import Resources


class Responses:
    """Calls models with a streamed `POST /responses`. Nothing is stored at the provider: each call sends the
    whole conversation."""

    def __init__(self, base_url: str | None) -> None:
        self.base_url = base_url

    def resolve(self) -> None:
        import_package()

    async def complete(
        self, request: Request, resources: Resources, on_text: Callable[[str], Awaitable[None]]
    ) -> Turn:
        client = await client_for(resources, self.base_url)
        response: Any = None
        async with translate_errors():
            stream: Any = await client.responses.create(**_parameters(request))
            async with stream:
                async for event in stream:
                    if event.type == "response.output_text.delta":
                        await on_text(event.delta)
                    elif event.type in ("response.completed", "response.incomplete", "response.failed"):
                        response = event.response
                    elif event.type == "error":
                        raise ModelCallError(f"the model's provider failed mid-answer: {event.message}")
        if response is None:
            raise ModelCallError("the connection closed before the model's answer was complete")
        if response.status == "failed":
            _raise_failure(response.error)
        return _turn(response)


def _raise_failure(error: Any) -> NoReturn:
    text = f"the model's provider failed: {error.message if error is not None else 'no reason given'}"
    if error is not None and error.code in ("server_error", "rate_limit_exceeded", "vector_store_timeout"):
        raise ModelCallError(text)
    raise NoRetryError(text)


def _turn(response: Any) -> Turn:
    text, refusal, calls = [], [], []
    for item in response.output:
        if item.type == "function_call":
            calls.append(ToolCall(item.call_id, item.name, item.arguments))
        elif item.type == "message":
            for part in item.content:
                if part.type == "refusal":
                    refusal.append(part.refusal)
                elif part.type == "output_text":
                    text.append(part.text)
    tokens = response.usage
    usage = Usage(requests=1) if tokens is None else Usage(tokens.input_tokens, tokens.output_tokens, 1)
    details = response.incomplete_details
    cut = details.reason if response.status == "incomplete" and details is not None else None
    reasons = {"max_output_tokens": "length", "content_filter": "content_filter"}
    finish_reason = reasons.get(cut or "", "tool_calls" if calls else "stop")
    items = [_without_id(item.model_dump(mode="json", exclude_none=True)) for item in response.output]
    items = [item for item in items if item["type"] != "reasoning" or "encrypted_content" in item]
    return Turn("".join(text), "".join(refusal), calls, usage, finish_reason, items)


def _without_id(item: dict[str, Any]) -> dict[str, Any]:
    """An item for the next call. The provider would look up its id, but has stored nothing."""
    return {name: value for name, value in item.items() if name != "id" or item["type"] == "reasoning"}


def _parameters(request: Request) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "model": request.model,
        "input": [item for one in request.messages for item in _items(one)],
        "stream": True,
        "store": False,
    }
    if request.tools:
        parameters["tools"] = [_function(one) for one in request.tools]
    if request.output is not None:
        output = request.output
        parameters["text"] = {
            "format": {
                "type": "json_schema",
                "name": output.name,
                "schema": output.schema,
                "strict": output.strict,
            }
        }
    if request.temperature is not None:
        parameters["temperature"] = request.temperature
    if request.max_output_tokens is not None:
        parameters["max_output_tokens"] = request.max_output_tokens
    if request.timeout is not None:
        parameters["timeout"] = request.timeout
    return parameters | request.extra


def _function(tool: Schema) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "parameters": tool.schema,
        "strict": tool.strict,
        "description": tool.description,
    }


def _items(message: Message) -> list[dict[str, Any]]:
    if isinstance(message, ToolAnswer):
        return [{"type": "function_call_output", "call_id": message.call_id, "output": message.content}]
    return message.items if isinstance(message, Turn) else [message]
