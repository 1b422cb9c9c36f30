"""Agent options: the configuration of an agent, validated when the agent is defined."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polos_redis.agents.conversation import RunSoFar
from polos_redis.agents.output import Schema, check_fields, schema_of
from polos_redis.agents.providers import Provider
from polos_redis.agents.tools import Tool, as_tool
from polos_redis.errors import ConfigurationError
from polos_redis.state import keys
from polos_redis.values.times import milliseconds

StopCondition = Callable[[RunSoFar], bool | Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """The options of an agent, in the form its runs use; `Agent` describes them.

    `tools` maps names to tools; `output` is the JSON schema of `output_schema`. Raises `ConfigurationError`
    for invalid options.
    """

    agent_id: str
    model: str
    provider: Provider
    system_prompt: str | None
    tools: Mapping[str, Tool]
    output_schema: type[Any] | None
    output: Schema | None
    temperature: float | None
    max_output_tokens: int | None
    provider_timeout: float | None
    provider_options: dict[str, Any]
    max_steps: int
    max_tokens: int | None
    stop_conditions: Sequence[StopCondition]
    max_output_retries: int
    max_retries: int

    def __post_init__(self) -> None:
        agent_id, model = self.agent_id, self.model
        keys.check_text("an agent's id", agent_id, error=ConfigurationError)
        what = f"agent {agent_id!r}"
        if not isinstance(model, str) or not model:
            raise ConfigurationError(f"{what}: model must be the name of a model, not {model!r}")
        _check_integer(what, "max_steps", self.max_steps, 1)
        _check_integer(what, "max_tokens", self.max_tokens, 1, optional=True)
        _check_integer(what, "max_output_tokens", self.max_output_tokens, 1, optional=True)
        _check_integer(what, "max_output_retries", self.max_output_retries, 0)
        _check_integer(what, "max_retries", self.max_retries, 0)
        milliseconds(what, self.provider_timeout, "provider_timeout", error=ConfigurationError)


def _check_integer(what: str, name: str, value: Any, minimum: int, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigurationError(f"{what}: {name} must be an integer of at least {minimum}, not {value!r}")


def tools_by_name(what: str, tools: Iterable[Any]) -> dict[str, Tool]:
    """The tools of an agent by name. Raises `ConfigurationError` for a non-tool or a duplicate name."""
    found: dict[str, Tool] = {}
    for tool in map(as_tool, tools):
        if tool.name in found:
            raise ConfigurationError(f"{what} has two tools named {tool.name!r}: give one of them another id")
        found[tool.name] = tool
    return found


def output_of(what: str, output_schema: type[Any] | None) -> Schema | None:
    """The JSON schema of an output_schema; None without one. Raises `ConfigurationError`."""
    if output_schema is None:
        return None
    check_fields(f"{what}: output_schema", output_schema)
    return schema_of(output_schema, output_schema.__name__, what)
