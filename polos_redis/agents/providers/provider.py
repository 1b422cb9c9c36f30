"""The provider protocol: how an agent calls a model, whatever API serves it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from polos_redis.agents.conversation import Message, Turn
from polos_redis.agents.output import Schema
from polos_redis.errors import PolosError
from polos_redis.runtime.resources import Resources


@dataclass(frozen=True, slots=True)
class Request:
    """A model call: the conversation so far, the tools the model may call, and the schema of its answer."""

    model: str
    messages: Sequence[Message]
    tools: Sequence[Schema] = ()
    output: Schema | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None
    timeout: float | None = None  # seconds of silence before the call fails; None: the package's default
    extra: dict[str, Any] = field(default_factory=dict)  # further API parameters, passed through


class Provider(Protocol):
    """An API that serves models."""

    def resolve(self) -> None:
        """Import the provider's package, if installed: when a worker starts, not while executions run."""

    async def complete(
        self, request: Request, resources: Resources, on_text: Callable[[str], Awaitable[None]]
    ) -> Turn:
        """Call a model; `on_text` receives its text as it arrives.

        Raises `ModelCallError` if a retry may succeed, `NoRetryError` if not.
        """


class ModelCallError(PolosError):
    """A model call failed temporarily: no connection, a rate limit, a server error.

    `retry_after` is the delay in seconds the provider asks for, None if it doesn't.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)
