"""One run of an agent: turn after turn of the model, and the tools it calls in between."""

from __future__ import annotations

import asyncio
import itertools
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from polos_redis import codec, schemas
from polos_redis.agents.approvals import Ruling, rule
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
from polos_redis.agents.telling import TextTeller, tell
from polos_redis.agents.tools import Tool
from polos_redis.errors import AgentStoppedError, InvalidOutputError, ModelRefusalError, StepExecutionError

if TYPE_CHECKING:
    from polos_redis.agents.agent import Agent
    from polos_redis.context import WorkflowContext

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
                self.messages += [ToolAnswer(one.call_id, _as_text(one.result)) for one in results]
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
            stopped_by = self._stopped_by(number, turn)
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

    def _stopped_by(self, number: int, turn: Turn) -> str | None:
        agent = self.agent
        if number >= agent.max_steps:
            return f"max_steps={agent.max_steps}"
        if agent.max_tokens is not None and self.usage.total_tokens >= agent.max_tokens:
            return f"max_tokens={agent.max_tokens}"
        so_far = RunSoFar(number, self.usage, turn, list(self.results))
        for condition in agent.stop_conditions:
            if condition(so_far):
                return getattr(condition, "__name__", "a stop condition")
        return None

    # --- the model ----------------------------------------------------------------------

    async def _ask(self, number: int) -> Turn:
        agent, ctx = self.agent, self.ctx
        teller = TextTeller(ctx, number)
        request = Request(
            agent.model,
            self.messages,
            [tool.schema() for tool in agent.tools.values()],
            agent.output,
            agent.temperature,
            agent.max_output_tokens,
            agent.provider_options,
        )
        turn = await agent.provider.ask(request, ctx._activation.host.shared, teller.tell)
        await teller.flush()
        for call in turn.tool_calls:
            told = {"agent_id": agent.id, "turn": number, "call_id": call.id, "tool": call.name}
            await tell(ctx, "tool_call", {**told, "arguments": call.arguments})
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
        """Call a tool as the model wants it, if it may."""
        tool = self.agent.tools.get(call.name)
        if tool is None:
            known = ", ".join(self.agent.tools) or "none"
            text = f"there is no tool {call.name!r}; there are: {known}"
            return ToolResult(call.name, call.id, call.arguments, "invalid", text)
        try:
            wanted = tool.parse(call.arguments)
        except Exception as error:  # pydantic's, or a validator's own
            text = f"these arguments do not fit: {complaints(error)}"
            return ToolResult(tool.name, call.id, call.arguments, "invalid", text)
        result = await self._carry_out(place, tool, call.id, wanted)
        told = {"agent_id": self.agent.id, "call_id": call.id, "tool": tool.name, "status": result.status}
        await self.ctx.step.publish_workflow_event(f"told_{place}_{tool.name}", told, "tool_result")
        return result

    async def _carry_out(self, place: str, tool: Tool, call_id: str, wanted: Any) -> ToolResult:
        step = self.ctx.step
        if tool.answer is not None:
            status, found = await tool.answer(self.ctx, place, wanted)
            return ToolResult(tool.name, call_id, codec.plain(wanted), status, found)
        ruling: Ruling = await rule(self.ctx, tool, place, wanted)
        if not ruling.approved:
            return ToolResult(tool.name, call_id, codec.plain(wanted), "rejected", ruling.told)
        given, key = ruling.input, f"tool_{place}_{tool.name}"
        try:
            if tool.workflow is not None:
                value = await step.invoke_and_wait(key, tool.workflow, given)
            else:
                arguments = () if tool.input_type is None else (given,)
                value = await step.run(key, tool.function, *arguments, max_retries=tool.max_retries)
        except StepExecutionError as error:
            text = f"it failed: {error.error_type}: {error.error_message}"
            return ToolResult(tool.name, call_id, codec.plain(given), "failed", text)
        if isinstance(value, AgentResult):
            self.usage += value.usage
            value = value.result
        found = codec.plain(value)
        told = {"note": ruling.told, "result": found} if ruling.told else found
        return ToolResult(tool.name, call_id, codec.plain(given), "ok", told)


def _as_text(value: Any) -> str:
    """What a tool has returned, as the model is told it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
