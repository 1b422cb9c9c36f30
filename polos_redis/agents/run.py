"""One run of an agent: turn after turn of the model, and the tools it calls in between."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from polos_redis.agents.approvals import rule
from polos_redis.agents.conversation import (
    AgentInput,
    AgentResult,
    Message,
    RunSoFar,
    ToolAnswer,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
)
from polos_redis.agents.output import complaints
from polos_redis.agents.providers import Request
from polos_redis.agents.tools import Tool
from polos_redis.agents.turn_events import TurnEvents
from polos_redis.errors import (
    AgentStoppedError,
    InvalidOutputError,
    ModelRefusalError,
    NoRetryError,
    PolosError,
    StepExecutionError,
)
from polos_redis.state import journal
from polos_redis.state.journal import StepRecord
from polos_redis.values import codec, schemas
from polos_redis.values.text import raw, text

if TYPE_CHECKING:
    from polos_redis.agents.agent import Agent
    from polos_redis.runtime.context import WorkflowContext

FIRST_DELAY, LONGEST_DELAY = 2.0, 120.0  # seconds between calls of a model that fail


class AgentRun:
    """The run. All that it decides follows from what is journaled, so a replay comes to the same."""

    def __init__(self, agent: Agent[Any], ctx: WorkflowContext) -> None:
        self.agent = agent
        self.ctx = ctx
        self.messages: list[Message] = []
        self.usage = Usage()
        self.results: list[ToolResult] = []

    async def run(self, input: AgentInput) -> AgentResult[Any]:
        """The whole run."""
        agent = self.agent
        if agent.system_prompt:
            self.messages.append({"role": "system", "content": agent.system_prompt})
        self.messages += input.messages
        wrong = 0
        for number in itertools.count(1):
            turn: Turn = await self.ctx.step.run(
                f"model_{number}",
                partial(self._ask, number),
                max_retries=agent.max_retries,
                base_delay=FIRST_DELAY,
                max_delay=LONGEST_DELAY,
            )
            self.messages.append(turn)
            self.usage += turn.usage
            self._refuse(turn)
            if turn.tool_calls:
                results = await asyncio.gather(
                    *(self._call(f"{number}.{index}", call) for index, call in enumerate(turn.tool_calls, 1))
                )
                self.results += results
                self.usage = sum((one.spent for one in results), self.usage)
                self.messages += [ToolAnswer(one.call_id, _as_text(one)) for one in results]
            else:
                found, complaint = self._read(turn)
                if not complaint:
                    cut = turn.finish_reason == "length" and agent.output_schema is None
                    return self._result(found, number, "max_output_tokens" if cut else None)
                wrong += 1
                if wrong > agent.max_output_retries:
                    raise InvalidOutputError(
                        f"the answer of agent {agent.id!r} does not fit its output_schema, after {wrong} "
                        f"attempts: {complaint}"
                    )
                self.messages.append(
                    {"role": "user", "content": f"That does not fit the schema: {complaint}. Answer again."}
                )
            stopped_by = await self._stopped_by(number, turn)
            if stopped_by:
                if agent.output_schema is not None:
                    raise AgentStoppedError(
                        f"agent {agent.id!r} was stopped by {stopped_by} before it gave an answer of its "
                        f"output_schema, after {number} turns and {self.usage.total_tokens} tokens"
                    )
                return self._result(turn.text, number, stopped_by)
        raise AssertionError("the loop has no end of its own")

    def _result(self, found: Any, steps: int, stopped_by: str | None = None) -> AgentResult[Any]:
        return AgentResult(self.agent.id, found, self.usage, self.results, steps, stopped_by)

    async def _stopped_by(self, number: int, turn: Turn) -> str | None:
        agent = self.agent
        if number >= agent.max_steps:
            return f"max_steps={agent.max_steps}"
        if agent.max_tokens is not None and self.usage.total_tokens >= agent.max_tokens:
            return f"max_tokens={agent.max_tokens}"
        if not agent.stop_conditions:
            return None
        so_far = RunSoFar(number, self.usage, turn, list(self.results))
        found: str | None = await self.ctx.step.run(f"stop_{number}", self._first_met, so_far, max_retries=0)
        return found

    async def _first_met(self, so_far: RunSoFar) -> str | None:
        """The name of the first stop condition that is met."""
        for condition in self.agent.stop_conditions:
            met = condition(so_far)
            if await met if inspect.isawaitable(met) else met:
                return str(getattr(condition, "__name__", "a stop condition"))
        return None

    # --- the model ----------------------------------------------------------------------

    async def _ask(self, number: int) -> Turn:
        agent, ctx = self.agent, self.ctx
        request = Request(
            agent.model,
            self.messages,
            [tool.schema() for tool in agent.tools.values()],
            agent.output,
            agent.temperature,
            agent.max_output_tokens,
            agent.provider_timeout,
            agent.provider_options,
        )
        turn_events = TurnEvents(ctx, number)
        await turn_events.start()
        try:
            turn = await agent.provider.ask(request, ctx._activation.host.resources, turn_events.text)
        except PolosError:  # a `ModelCallError` is worth another try
            raise
        except Exception as error:  # no doing of the provider's: it would fail again, once it is paid for
            raise NoRetryError(f"the model can't be asked: {type(error).__name__}: {error}") from error
        await turn_events.end(turn)
        return turn

    def _refuse(self, turn: Turn) -> None:
        """Raise what a turn says that is no answer."""
        name = f"the model of agent {self.agent.id!r}"
        if turn.refusal:
            raise ModelRefusalError(f"{name} refuses: {turn.refusal}")
        if turn.finish_reason == "content_filter":
            raise ModelRefusalError(f"the answer of {name} was held back by its provider's content filter")

    def _read(self, turn: Turn) -> tuple[Any, str]:
        """The answer, and what is wrong with it ("" for nothing)."""
        if self.agent.output_schema is None:
            return turn.text, ""
        try:
            return schemas.parse_json(self.agent.output_schema, turn.text), ""
        except Exception as error:  # pydantic's, or a validator's own
            cut = " (it was cut off by max_output_tokens)" if turn.finish_reason == "length" else ""
            return None, complaints(error) + cut

    # --- tools --------------------------------------------------------------------------

    async def _call(self, place: str, call: ToolCall) -> ToolResult:
        """The result of a call. Once it is journaled it stands: a retry that drops what has failed or timed
        out must not call a tool behind the back of a model that has been told otherwise."""
        key = f"call_{place}"
        result = None if self._is_recorded(key, place) else await self._checked(place, call)
        settled: ToolResult = await self.ctx.step.run(key, self._recorded, result)
        return settled

    def _is_recorded(self, key: str, place: str) -> bool:
        """Whether the result of a call is journaled; the steps that have led to it are passed over then."""
        activation = self.ctx._activation
        stored = activation.journal.records.get(raw(key))
        record = None if stored is None else journal.parse(stored)
        if not isinstance(record, StepRecord) or record.status != "ok":
            return False
        names = [text(name) for name in activation.journal.records if name and not journal.is_result(name)]
        activation.passed_over.update(name for name in names if f"_{place}_" in f"{name}_")
        return True

    async def _recorded(self, result: ToolResult) -> ToolResult:
        told = {"agent_id": self.agent.id, "call_id": result.call_id, "tool": result.tool}
        await self.ctx._activation.emit("tool_result", {**told, "status": result.status})
        return result

    async def _checked(self, place: str, call: ToolCall) -> ToolResult:
        tool = self.agent.tools.get(call.name)
        if tool is None:
            known = ", ".join(self.agent.tools) or "none"
            why = f"there is no tool {call.name!r}; there are: {known}"
            return ToolResult(call.name, call.id, call.arguments, "invalid", why)
        try:
            wanted = tool.parse(call.arguments)
        except Exception as error:  # pydantic's, or a validator's own
            why = f"these arguments do not fit: {complaints(error)}"
            return ToolResult(tool.name, call.id, call.arguments, "invalid", why)
        if tool.answer is not None:
            status, found = await tool.answer(self.ctx, place, wanted)
            return ToolResult(tool.name, call.id, codec.plain(wanted), status, found)
        ruling = await rule(self.ctx, tool, place, wanted)
        given = codec.plain(ruling.input)
        if not ruling.approved:
            return ToolResult(tool.name, call.id, given, "rejected", ruling.note)
        try:
            value = await self._value(f"tool_{place}_{tool.name}", tool, ruling.input)
        except StepExecutionError as error:
            why = f"it failed: {error.error_type}: {error.error_message}"
            return ToolResult(tool.name, call.id, given, "failed", why, ruling.note)
        spent = Usage()
        if isinstance(value, AgentResult):
            value, spent = value.result, value.usage
        return ToolResult(tool.name, call.id, given, "ok", codec.plain(value), ruling.note, spent)

    async def _value(self, key: str, tool: Tool, given: Any) -> Any:
        if tool.workflow is not None:
            return await self.ctx.step.invoke_and_wait(key, tool.workflow, given)
        arguments = () if tool.input_type is None else (given,)
        return await self.ctx.step.run(key, tool.function, *arguments, max_retries=tool.max_retries)


def _as_text(result: ToolResult) -> str:
    """How a tool call went, as the model is told it."""
    told = {"note": result.note, "result": result.result} if result.note else result.result
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
