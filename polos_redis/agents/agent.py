"""`Agent`: a model with instructions and tools, as a workflow."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Unpack, cast

from polos_redis.agents.conversation import AgentInput, AgentResult, RunSoFar
from polos_redis.agents.output import Schema, check_fields, schema_of
from polos_redis.agents.providers import Provider, provider_of
from polos_redis.agents.run import AgentRun
from polos_redis.agents.tools import Tool, as_tool
from polos_redis.definitions.definition import register
from polos_redis.definitions.queue import Queue
from polos_redis.errors import ConfigurationError, InvalidInputError
from polos_redis.runtime.workflow_call import WorkflowCall
from polos_redis.values.times import milliseconds
from polos_redis.workflow import InvokeOptions, Workflow

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from polos_redis.agents.stream import AgentStream
    from polos_redis.client import PolosClient
    from polos_redis.runtime.context import WorkflowContext

    Out = TypeVar("Out", default=str)  # an agent without output_schema answers with text
else:
    from typing import TypeVar

    Out = TypeVar("Out")
Answer = TypeVar("Answer", covariant=True)

StopCondition = Callable[[RunSoFar], bool | Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Question:
    """What an agent is asked when it is the tool of another one."""

    input: str


@dataclass(frozen=True, slots=True)
class AgentCall(WorkflowCall[AgentResult[Answer]], Generic[Answer]):
    """An agent and its input, for `ctx.step.agent_invoke_and_wait` and its kin."""

    input: AgentInput


class Agent(Workflow[Any, AgentResult[Out]], Generic[Out]):
    """A model with instructions and tools: a workflow, of which every call of the model and every call of a
    tool is a journaled step. A crash in between never pays for a finished call twice.

    `model`, `temperature`, `max_output_tokens` (of one answer) and `provider_options` (further parameters, as
    they are) go to the provider: "openai" (chat completions, which many others serve too:
    `provider_base_url`) or "openai-responses". `OPENAI_API_KEY` is needed in the workers, `OPENAI_BASE_URL`
    is honoured. A call fails when nothing comes for `provider_timeout` seconds (the openai package's 600).

    `output_schema`, a pydantic model or dataclass, is what the answer has to be: one that is not is sent
    back with what is wrong, up to `max_output_retries` times. `tools` are `@tool` functions, workflows, or
    other agents.

    The run ends when the model calls no tool, after `max_steps` turns, when `max_tokens` (in and out, all
    turns) have been used, or when one of `stop_conditions` (functions of a `RunSoFar`) says so; then with
    what there is (`stopped_by`), or, if it has an output_schema that is not met, failed with
    `AgentStoppedError`. A call of the model that fails in a way that may pass is repeated `max_retries`
    times, durably, after as long as the provider asks for.
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
    ) -> None:
        what = f"agent {id!r}"
        if not isinstance(id, str) or not 0 < len(id) <= 1024:
            raise ConfigurationError(f"an agent's id is a string of 1 to 1024 characters, not {id!r}")
        if not isinstance(model, str) or not model:
            raise ConfigurationError(f"{what}: model is the name of a model, not {model!r}")
        for name, number, least in (
            ("max_steps", max_steps, 1),
            ("max_tokens", max_tokens, 1),
            ("max_output_tokens", max_output_tokens, 1),
            ("max_output_retries", max_output_retries, 0),
            ("max_retries", max_retries, 0),
        ):
            fits = isinstance(number, int) and not isinstance(number, bool) and number >= least
            if not fits and not (number is None and name in ("max_tokens", "max_output_tokens")):
                raise ConfigurationError(f"{what}: {name} is a whole number from {least}, not {number!r}")
        milliseconds(what, provider_timeout, "provider_timeout")

        async def run_agent(ctx: WorkflowContext, input: AgentInput) -> AgentResult[Out]:
            return await AgentRun(self, ctx).run(input)

        super().__init__(run_agent, id, queue=queue, run_timeout_seconds=run_timeout_seconds)
        self._input_type = AgentInput
        self.__doc__ = description or f"Ask the agent {id}."
        self.model = model
        self.system_prompt = system_prompt
        self.temperature = temperature
        self.max_output_tokens = max_output_tokens
        self.provider_timeout = provider_timeout
        self.provider_options = dict(provider_options or {})
        self.max_steps = max_steps
        self.max_tokens = max_tokens
        self.stop_conditions = tuple(stop_conditions)
        self.max_output_retries = max_output_retries
        self.max_retries = max_retries
        self.output_schema = output_schema
        self.output: Schema | None = None
        if output_schema is not None:
            check_fields(f"{what}: output_schema", output_schema)
            self.output = schema_of(output_schema, output_schema.__name__, what)
        self.tools: dict[str, Tool] = {}
        for one in map(as_tool, tools):
            if one.name in self.tools:
                raise ConfigurationError(f"{what} has two tools {one.name!r}: give one of them another id")
            self.tools[one.name] = one
        self.provider: Provider = provider_of(provider, provider_base_url, what)
        frame = sys._getframe(1)
        register(self, id, frame.f_code, frame.f_lineno)

    def with_input(self, input: str | Sequence[dict[str, Any]]) -> AgentCall[Out]:
        """A call of this agent: a text, or messages as {"role": "user" | "assistant" | "system", "content":
        ..}."""
        return AgentCall(self, self.check_input(input))

    def check_input(self, input: Any) -> Any:
        """An `AgentInput` of what may be given as one. Raises `InvalidInputError`."""
        if isinstance(input, AgentInput):
            return input
        given = input.input if isinstance(input, Question) else input
        if isinstance(given, dict):
            given = given.get("messages", given.get("input"))
        if isinstance(given, str):
            return AgentInput([{"role": "user", "content": given}])
        messages = list(given) if isinstance(given, Sequence) else []
        if not messages or not all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages):
            raise InvalidInputError(
                f"agent {self.id!r} is asked with a text, or with messages as "
                f'{{"role": "user", "content": ...}}, not {input!r}'
            )
        return AgentInput(messages)

    def resolve(self) -> None:
        """As any workflow's, and its provider's."""
        super().resolve()
        self.provider.resolve()

    @property
    def needed(self) -> Sequence[Workflow[Any, Any]]:
        """The workflows among its tools."""
        return [one.workflow for one in self.tools.values() if one.workflow is not None]

    async def stream(
        self, client: PolosClient, input: Any, **options: Unpack[InvokeOptions]
    ) -> AgentStream[Out]:
        """Start the agent, to follow it: `stream.text_chunks`, `stream.events`, `await stream.result()`. It
        holds nothing: the agent goes on when nobody follows any more. Options and errors as for
        `invoke`."""
        from polos_redis.agents.stream import AgentStream

        handle = await self.invoke(client, input, **options)
        return AgentStream(client, cast("Any", handle))

    def __repr__(self) -> str:
        return f"<Agent {self.id}>"
