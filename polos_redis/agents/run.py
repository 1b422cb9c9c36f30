"""`AgentRun`: one run of an agent, turn by turn, with the tool calls between turns."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from polos_redis import failures
from polos_redis.agents.conversation import (
    AgentInput,
    AgentResult,
    Message,
    RunSoFar,
    ToolAnswer,
    ToolResult,
    Turn,
    Usage,
)
from polos_redis.agents.options import AgentOptions
from polos_redis.agents.output import error_text
from polos_redis.agents.providers import Request
from polos_redis.agents.spans import describe_run, model_call, note_turn, note_usage
from polos_redis.agents.tool_calls import ToolCalls
from polos_redis.agents.turn_events import TurnEvents
from polos_redis.errors import (
    AgentStoppedError,
    InvalidOutputError,
    ModelRefusalError,
    NoRetryError,
    PolosError,
)
from polos_redis.values import schemas

if TYPE_CHECKING:
    from polos_redis.runtime.context import WorkflowContext
    from polos_redis.tracing.spans import Span

FIRST_DELAY, LONGEST_DELAY = 2.0, 120.0  # seconds between attempts at a model call


class AgentRun:
    """One run of an agent. All decisions follow from journaled values, so a replay repeats them."""

    def __init__(self, options: AgentOptions, ctx: WorkflowContext) -> None:
        self._options = options
        self._ctx = ctx
        self._tool_calls = ToolCalls(ctx, options.tools)
        self._messages: list[Message] = []
        self._usage = Usage()
        self._results: list[ToolResult] = []
        self._invalid_answers = 0

    @property
    def _span(self) -> Span | None:
        """The span of the activation, if it is traced."""
        return self._ctx._activation.code.span

    async def run(self, input: AgentInput) -> AgentResult[Any]:
        """Run until the model is done or a limit is reached.

        Raises `ModelRefusalError`, `InvalidOutputError` after too many invalid answers, or
        `AgentStoppedError` if a limit ends an agent that has an output_schema.
        """
        options = self._options
        if self._span is not None:
            describe_run(self._span, options, self._ctx.session_id)
        if options.system_prompt:
            self._messages.append({"role": "system", "content": options.system_prompt})
        self._messages += input.messages
        for number in itertools.count(1):
            turn = await self._take_turn(number)
            if turn.tool_calls:
                await self._execute_tools(number, turn)
            else:
                answer, problem = await self._parse(turn)
                if not problem:
                    cut = turn.finish_reason == "length" and options.output_schema is None
                    return self._result(answer, number, "max_output_tokens" if cut else None)
                self._send_back(problem)
            stopped_by = await self._stopped_by(number, turn)
            if stopped_by:
                if options.output_schema is not None:
                    raise AgentStoppedError(
                        f"agent {options.agent_id!r} was stopped by {stopped_by} before its answer matched "
                        f"its output_schema, after {number} turns and {self._usage.total_tokens} tokens"
                    )
                return self._result(turn.text, number, stopped_by)
        raise AssertionError("itertools.count never ends")

    def _result(self, answer: Any, turns: int, stopped_by: str | None) -> AgentResult[Any]:
        if self._span is not None:
            note_usage(self._span, self._usage)
        return AgentResult(self._options.agent_id, answer, self._usage, self._results, turns, stopped_by)

    async def _execute_tools(self, number: int, turn: Turn) -> None:
        """Execute the tool calls of a turn concurrently, and add their results to the conversation."""
        results = await asyncio.gather(
            *(
                self._tool_calls.execute(f"{number}.{index}", call)
                for index, call in enumerate(turn.tool_calls, 1)
            )
        )
        self._results += results
        self._usage = sum((result.spent for result in results), self._usage)
        self._messages += [ToolAnswer(result.call_id, _content(result)) for result in results]

    # --- the model ----------------------------------------------------------------------

    async def _take_turn(self, number: int) -> Turn:
        """Call the model in a step, and add its turn to the conversation. Raises `ModelRefusalError`."""
        turn: Turn = await self._ctx.step.run(
            f"model_{number}",
            partial(self._call_model, number),
            max_retries=self._options.max_retries,
            base_delay=FIRST_DELAY,
            max_delay=LONGEST_DELAY,
        )
        self._messages.append(turn)
        self._usage += turn.usage
        model = f"the model of agent {self._options.agent_id!r}"
        if turn.refusal:
            raise ModelRefusalError(f"{model} refused: {turn.refusal}")
        if turn.finish_reason == "content_filter":
            raise ModelRefusalError(f"the provider's content filter blocked the answer of {model}")
        return turn

    async def _call_model(self, number: int) -> Turn:
        options = self._options
        request = Request(
            options.model,
            self._messages,
            [tool.schema() for tool in options.tools.values()],
            options.output,
            options.temperature,
            options.max_output_tokens,
            options.provider_timeout,
            options.provider_options,
        )
        events = TurnEvents(self._ctx, number)
        await events.start()
        try:
            with model_call(self._span, options) as span:
                resources = self._ctx._activation.host.resources
                turn = await options.provider.complete(request, resources, events.text)
                if span is not None:
                    note_turn(span, turn)
        except PolosError:  # a `ModelCallError` is worth a retry
            raise
        except Exception as error:  # not the provider's fault: a retry would fail too, after it was paid for
            raise NoRetryError(f"the model can't be called: {failures.line_of(error)}") from error
        await events.end(turn)
        return turn

    # --- the answer ---------------------------------------------------------------------

    async def _parse(self, turn: Turn) -> tuple[Any, str]:
        """The answer in a turn, and what is wrong with it ("" if nothing)."""
        if self._options.output_schema is None:
            return turn.text, ""
        try:
            parsing = schemas.parse_json(self._options.output_schema, turn.text)
            return await self._ctx._activation.check(turn.text, parsing), ""
        except Exception as error:  # a mismatch, or a validator's own
            cut = " (cut off by max_output_tokens)" if turn.finish_reason == "length" else ""
            return None, error_text(error) + cut

    def _send_back(self, problem: str) -> None:
        """Ask the model to correct an invalid answer. Raises `InvalidOutputError` after too many."""
        self._invalid_answers += 1
        if self._invalid_answers > self._options.max_output_retries:
            raise InvalidOutputError(
                f"the answer of agent {self._options.agent_id!r} does not match its output_schema, after "
                f"{self._invalid_answers} attempts: {problem}"
            )
        self._messages.append(
            {"role": "user", "content": f"Your answer does not match the schema: {problem}. Answer again."}
        )

    # --- stopping -----------------------------------------------------------------------

    async def _stopped_by(self, number: int, turn: Turn) -> str | None:
        """The limit or stop condition that ends the run after this turn; None to continue."""
        options = self._options
        if number >= options.max_steps:
            return f"max_steps={options.max_steps}"
        if options.max_tokens is not None and self._usage.total_tokens >= options.max_tokens:
            return f"max_tokens={options.max_tokens}"
        if not options.stop_conditions:
            return None
        so_far = RunSoFar(number, self._usage, turn, list(self._results))
        name: str | None = await self._ctx.step.run(f"stop_{number}", self._first_met, so_far, max_retries=0)
        return name

    async def _first_met(self, so_far: RunSoFar) -> str | None:
        """The name of the first stop condition that is met."""
        for condition in self._options.stop_conditions:
            met = condition(so_far)
            if await met if inspect.isawaitable(met) else met:
                return str(getattr(condition, "__name__", "a stop condition"))
        return None


def _content(result: ToolResult) -> str:
    """A tool result as text for the model."""
    content = {"note": result.note, "result": result.result} if result.note else result.result
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
