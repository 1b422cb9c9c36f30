"""The spans of agents, with the attributes of OpenTelemetry's conventions for generative AI. They contain no
prompts, answers or arguments of tools."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from polos_redis import tasks
from polos_redis.agents.conversation import ToolCall, Turn, Usage
from polos_redis.agents.options import AgentOptions
from polos_redis.definitions.parameters import is_async

if TYPE_CHECKING:
    from polos_redis.tracing.spans import Span

PROVIDER = {"gen_ai.provider.name": "openai"}  # or a service that is compatible with it


def describe_run(span: Span, options: AgentOptions, session_id: str | None) -> None:
    """Let the span of an activation say that it runs an agent."""
    session = {} if session_id is None else {"gen_ai.conversation.id": session_id}
    span.note(
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": options.agent_id,
            "gen_ai.request.model": options.model,
            **PROVIDER,
            **session,
        }
    )


def model_call(span: Span | None, options: AgentOptions) -> AbstractContextManager[Span | None]:
    """The span of a call of the model, inside that of its step; without `span`, of the activation, none."""
    if span is None:
        return nullcontext()
    attributes: dict[str, str | int | float] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": options.model,
        "gen_ai.agent.name": options.agent_id,
        **PROVIDER,
    }
    if options.temperature is not None:
        attributes["gen_ai.request.temperature"] = options.temperature
    if options.max_output_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = options.max_output_tokens
    attributes |= _address(getattr(options.provider, "base_url", None))
    return span.calling(f"chat {options.model}", attributes)


def note_turn(span: Span, turn: Turn) -> None:
    """Add how the model answered to the span of its call."""
    span.note({"gen_ai.response.finish_reasons": [turn.finish_reason], **_tokens(turn.usage)})


def note_usage(span: Span, usage: Usage) -> None:
    """Add the tokens of a whole run to the span of the activation that ends it."""
    span.note(_tokens(usage))


def traced_tool(function: Callable[..., Any], name: str, call: ToolCall) -> Callable[..., Any]:
    """Returns a tool's function that says in the span of its step which tool and call it is."""
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": call.id,
    }

    def note() -> None:
        owner = tasks.OWNER.get()
        if owner is not None and owner.span is not None:
            owner.span.note(attributes)

    if is_async(function):

        @functools.wraps(function)
        async def noted(*args: Any) -> Any:
            note()
            return await function(*args)

    else:

        @functools.wraps(function)
        def noted(*args: Any) -> Any:
            note()
            return function(*args)

    return noted


def _tokens(usage: Usage) -> dict[str, int]:
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
    }


def _address(base_url: str | None) -> dict[str, str | int]:
    try:
        parts = urlsplit(base_url or "")
        port = {} if parts.port is None else {"server.port": parts.port}
        return {"server.address": parts.hostname, **port} if parts.hostname else {}
    except ValueError:  # the call will say so
        return {}
