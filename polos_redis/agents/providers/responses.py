"""OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from polos_redis.agents.conversation import Message, ToolAnswer, ToolCall, Turn, Usage
from polos_redis.agents.output import Schema
from polos_redis.agents.providers import ModelCallError, Request
from polos_redis.agents.providers.openai import client_for, import_package, plain_errors
from polos_redis.errors import NoRetryError
from polos_redis.runtime.resources import Resources


class Responses:
    """Asks by `POST /responses`, streamed. Nothing is kept at the provider: the conversation is sent anew."""

    def __init__(self, base_url: str | None) -> None:
        self.base_url = base_url

    def resolve(self) -> None:
        import_package()

    async def ask(
        self, request: Request, resources: Resources, on_text: Callable[[str], Awaitable[None]]
    ) -> Turn:
        client = await client_for(resources, self.base_url)
        response: Any = None
        async with plain_errors():
            stream: Any = await client.responses.create(**_parameters(request))
            async with stream:
                async for event in stream:
                    if event.type == "response.output_text.delta":
                        await on_text(event.delta)
                    elif event.type in ("response.completed", "response.incomplete", "response.failed"):
                        response = event.response
                    elif event.type == "error":
                        raise ModelCallError(f"the model's provider broke off: {event.message}")
        if response is None:
            raise ModelCallError("the model's answer was cut off on its way")
        if response.status == "failed":
            _failed(response.error)
        return _turn(response)


def _failed(error: Any) -> None:
    text = f"the model's provider failed: {error.message if error is not None else 'it does not say why'}"
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
    used = response.usage
    usage = Usage(requests=1) if used is None else Usage(used.input_tokens, used.output_tokens, 1)
    details = response.incomplete_details
    cut = details.reason if response.status == "incomplete" and details is not None else None
    reasons = {"max_output_tokens": "length", "content_filter": "content_filter"}
    finish_reason = reasons.get(cut or "", "tool_calls" if calls else "stop")
    items = [_kept(item.model_dump(mode="json", exclude_none=True)) for item in response.output]
    seen = [item for item in items if item["type"] != "reasoning" or "encrypted_content" in item]
    return Turn("".join(text), "".join(refusal), calls, usage, finish_reason, seen)


def _kept(item: dict[str, Any]) -> dict[str, Any]:
    """An item as it is sent again. Its id would be looked up at the provider, where nothing is kept."""
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
        given = {"type": "json_schema", "name": output.name, "schema": output.schema, "strict": output.strict}
        parameters["text"] = {"format": given}
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
