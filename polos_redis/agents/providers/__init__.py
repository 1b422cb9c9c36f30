"""Providers: how a model is asked. One small protocol, and an implementation for each API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from polos_redis.agents.conversation import Message, Turn
from polos_redis.agents.output import Schema
from polos_redis.errors import ConfigurationError, PolosError
from polos_redis.runtime.resources import Resources


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked: the conversation so far, the tools it may call, the schema of its answer."""

    model: str
    messages: Sequence[Message]
    tools: Sequence[Schema] = ()
    output: Schema | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None
    timeout: float | None = None  # seconds that the provider may be silent; None: as its package has it
    extra: dict[str, Any] = field(default_factory=dict)  # further parameters of the API, as they are


class Provider(Protocol):
    """An API that serves models."""

    def resolve(self) -> None:
        """Import what it needs, if it is there: at a worker's start, not while executions run."""

    async def ask(
        self, request: Request, resources: Resources, on_text: Callable[[str], Awaitable[None]]
    ) -> Turn:
        """Ask a model; `told` is given its text as it comes. Raises `ModelCallError` when to ask again may
        help, and `NoRetryError` when it won't."""


class ModelCallError(PolosError):
    """A call of a model failed in a way that may pass: no connection, a rate limit, a server's error.

    `retry_after`: seconds the provider wants to be left alone, None when it does not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


_PROVIDERS = {
    "openai": "chat:ChatCompletions",
    "openai-responses": "responses:Responses",
}


def provider_of(name: str, base_url: str | None, what: str) -> Provider:
    """The provider of a name. Raises `ConfigurationError`."""
    known = _PROVIDERS.get(name)
    if known is None:
        raise ConfigurationError(f"{what}: provider is one of {', '.join(_PROVIDERS)}, not {name!r}")
    module, _, cls = known.partition(":")
    made: Provider = getattr(import_module(f"{__name__}.{module}"), cls)(base_url)
    return made
