"""Providers: one protocol for calling a model, and an implementation for each API."""

from __future__ import annotations

from collections.abc import Callable

from polos_redis.agents.providers.chat import ChatCompletions
from polos_redis.agents.providers.provider import ModelCallError, Provider, Request
from polos_redis.agents.providers.responses import Responses
from polos_redis.errors import ConfigurationError

__all__ = ["ModelCallError", "Provider", "Request", "provider_of"]

_PROVIDERS: dict[str, Callable[[str | None], Provider]] = {
    "openai": ChatCompletions,
    "openai-responses": Responses,
}


def provider_of(name: str, base_url: str | None, what: str) -> Provider:
    """Create the provider with this name. Raises `ConfigurationError`."""
    create = _PROVIDERS.get(name)
    if create is None:
        raise ConfigurationError(f"{what}: provider must be one of {', '.join(_PROVIDERS)}, not {name!r}")
    return create(base_url)
