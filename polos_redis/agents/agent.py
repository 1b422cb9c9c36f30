"""`Agent`: a model with instructions and tools, run as a workflow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Unpack, cast

from polos_redis.agents.conversation import AgentInput, AgentResult
from polos_redis.agents.options import AgentOptions, StopCondition, output_of, tools_by_name
from polos_redis.agents.providers import provider_of
from polos_redis.agents.run import AgentRun
from polos_redis.agents.stream import AgentStream
from polos_redis.agents.tools import Tool
from polos_redis.connection.clients import takes_client
from polos_redis.definitions.queue import Queue
from polos_redis.definitions.registry import DefinitionSite, register
from polos_redis.definitions.version import VersionPolicy
from polos_redis.errors import InvalidInputError
from polos_redis.runtime.steps.child_requests import WorkflowCall
from polos_redis.values import bounds
from polos_redis.values.bounded_type import MAX_MESSAGE, shortened
from polos_redis.values.json_value import JsonValue
from polos_redis.workflow import InvokeOptions, Workflow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import TypeVar

    from polos_redis.client import PolosClient
    from polos_redis.runtime.context import WorkflowContext

    Out = TypeVar("Out", default=str)  # an agent without output_schema answers with text
else:
    from typing import TypeVar

    Out = TypeVar("Out")
Answer = TypeVar("Answer", covariant=True)


@dataclass(frozen=True, slots=True)
class Question:
    """The input of an agent used as another agent's tool."""

    input: str


@dataclass(frozen=True, slots=True)
class AgentCall(WorkflowCall[AgentResult[Answer]], Generic[Answer]):
    """An agent and its input, for `ctx.step.agent_invoke_and_wait` and the other agent steps."""

    input: AgentInput


class Agent(Workflow[Any, AgentResult[Out]], Generic[Out]):
    """A model with instructions and tools. It is a workflow in which each model call and each tool call is a
    journaled step, so a crash never pays for a finished call twice.

    `provider` is "openai" (chat completions, also of compatible services: `provider_base_url`) or
    "openai-responses". It receives `model`, `temperature`, `max_output_tokens` (per answer) and
    `provider_options` (further API parameters, passed through). Workers need `OPENAI_API_KEY`;
    `OPENAI_BASE_URL` is honoured. A call fails after `provider_timeout` seconds of silence (default: the
    openai package's 600).

    `output_schema`, a pydantic model or dataclass, is the type of the answer. An answer that doesn't match
    goes back to the model with the errors, up to `max_output_retries` times. `tools` are `@tool` functions,
    workflows or other agents.

    A run ends when the model calls no tool, after `max_steps` turns, once it has used `max_tokens` (input and
    output of all turns), or when one of `stop_conditions` (functions of a `RunSoFar`) returns true. A run
    stopped early returns the last text and sets `stopped_by`; with an output_schema it fails with
    `AgentStoppedError` instead. A model call that fails temporarily is retried `max_retries` times, durably,
    after the delay the provider asks for.

    `queue`, `run_timeout_seconds`, `internal`, `version` and `version_policy` are as in `@workflow`. Model,
    prompt and tools are code in this sense.

    Raises `ConfigurationError` for invalid options.
    """

    tool_input = Question

    def __init__(
        self,
        *,
        id: str,
        model: str,
        provider: str = "openai",
        system_prompt: str | None = None,
        tools: Sequence[Any] = (),
        output_schema: type[Out] | None = None,
        temperature: float | None = None,
        max_output_tokens: int | None = None,
        provider_base_url: str | None = None,
        provider_timeout: float | None = None,
        provider_options: dict[str, Any] | None = None,
        max_steps: int = 20,
        max_tokens: int | None = None,
        stop_conditions: Sequence[StopCondition] = (),
        max_output_retries: int = 2,
        max_retries: int = 5,
        description: str | None = None,
        queue: Queue | str | dict[str, Any] | None = None,
        run_timeout_seconds: float | None = None,
        internal: bool | None = None,
        version: str | None = None,
        version_policy: VersionPolicy = "any",
    ) -> None:
        what = f"agent {id!r}"
        self.options = AgentOptions(
            agent_id=id,
            model=model,
            provider=provider_of(provider, provider_base_url, what),
            system_prompt=system_prompt,
            tools=tools_by_name(what, tools),
            output_schema=output_schema,
            output=output_of(what, output_schema),
            temperature=temperature,
            max_output_tokens=max_output_tokens,
            provider_timeout=provider_timeout,
            provider_options=dict(provider_options or {}),
            max_steps=max_steps,
            max_tokens=max_tokens,
            stop_conditions=tuple(stop_conditions),
            max_output_retries=max_output_retries,
            max_retries=max_retries,
        )

        async def run_agent(ctx: WorkflowContext, input: AgentInput) -> AgentResult[Out]:
            return await AgentRun(self.options, ctx).run(input)

        super().__init__(
            run_agent,
            id,
            queue=queue,
            run_timeout_seconds=run_timeout_seconds,
            internal=internal,
            version=version,
            version_policy=version_policy,
        )
        self._input_type = AgentInput
        self.__doc__ = description or f"Ask the agent {id}."
        register(self, DefinitionSite.of_call(sys._getframe(1)))

    def __setattr__(self, name: str, value: object) -> None:
        if name != "options" and name in AgentOptions.__slots__:
            raise AttributeError(
                f"agent {self.id!r}: {name} can't be changed after the agent's definition: pass it to Agent()"
            )
        super().__setattr__(name, value)

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.options.model

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools by name."""
        return self.options.tools

    def with_input(self, input: str | Sequence[dict[str, Any]]) -> AgentCall[Out]:
        """A call of this agent with a text, or with messages as {"role": "user" | "assistant" | "system",
        "content": ...}. Raises `InvalidInputError`."""
        return AgentCall(self, self.check_input(input))

    def check_input(self, input: Any) -> Any:
        """Convert an input to `AgentInput`, as `with_input`. Raises `InvalidInputError`."""
        return bounds.at_once(self.input_check(input))

    def input_check(self, input: Any) -> bounds.Work[Any]:
        """Convert an input to `AgentInput`: a text, messages, or {"messages": ...} or {"input": ...}."""
        yield
        if isinstance(input, AgentInput):
            return input
        content = input.value if isinstance(input, JsonValue) else input
        bounds.parts_of(content)
        content = content.input if isinstance(content, Question) else content
        if isinstance(content, dict):
            content = content.get("messages", content.get("input"))
        if isinstance(content, str):
            return AgentInput([{"role": "user", "content": content}])
        messages = list(content) if isinstance(content, Sequence) else []
        if not messages or not all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages):
            raise InvalidInputError(
                f"agent {self.id!r}: the input must be a text, or messages like "
                f'{{"role": "user", "content": ...}}, not {shortened(repr(input), MAX_MESSAGE)}'
            )
        return AgentInput(messages)

    def resolve(self) -> None:
        """Resolve the types of the workflow, and import the provider's package."""
        super().resolve()
        self.options.provider.resolve()

    @property
    def needed(self) -> Sequence[Workflow[Any, Any]]:
        """The workflows among its tools, which its workers serve too."""
        return [tool.workflow for tool in self.tools.values() if tool.workflow is not None]

    @takes_client
    async def stream(
        self, client: PolosClient, input: Any, **options: Unpack[InvokeOptions]
    ) -> AgentStream[Out]:
        """Start the agent and follow it: `stream.text_chunks`, `stream.events`, `await stream.result()`.

        The agent keeps running when nobody follows. Options and errors as for `invoke`.
        """
        handle = await self.invoke(client, input, **options)
        return AgentStream(client, cast("Any", handle))

    def __repr__(self) -> str:
        return f"<Agent {self.id}>"
