"""Tool calls: validation, approval and execution of the calls a model makes, with journaled results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from polos_redis.agents.approvals import UnshownArgumentsError, approve
from polos_redis.agents.conversation import AgentResult, ToolCall, ToolResult, Usage
from polos_redis.agents.output import error_text
from polos_redis.agents.spans import traced_tool
from polos_redis.agents.tools import Tool
from polos_redis.errors import StepExecutionError, UnreadableValueError
from polos_redis.state import journal
from polos_redis.state.journal import StepRecord
from polos_redis.values import codec
from polos_redis.values.text import raw, text

if TYPE_CHECKING:
    from polos_redis.runtime.context import WorkflowContext


class ToolCalls:
    """Executes the tool calls of one agent run.

    A journaled result is final. A retry of the run drops failed and timed-out steps, but must not repeat a
    call whose outcome the model already knows.
    """

    def __init__(self, ctx: WorkflowContext, tools: Mapping[str, Tool]) -> None:
        self._ctx = ctx
        self._tools = tools

    async def execute(self, position: str, call: ToolCall) -> ToolResult:
        """Execute a call and journal its result, or return the journaled one.

        `position` ("turn.number") identifies the call within the run and is part of its step keys.
        """
        key = f"call_{position}"
        result = None if self._is_recorded(key, position) else await self._execute(position, call)
        recorded: ToolResult = await self._ctx.step.run(key, self._record, result)
        return recorded

    def _is_recorded(self, key: str, position: str) -> bool:
        """Whether the result is journaled. If so, the replay passes over the steps that led to it."""
        activation = self._ctx._activation
        stored = activation.journal.records.get(raw(key))
        try:
            record = None if stored is None else journal.parse(stored)
        except UnreadableValueError:
            return True  # the step that reads it holds the execution back
        if not isinstance(record, StepRecord) or record.status != "ok":
            return False
        names = [text(name) for name in activation.journal.records if name and not journal.is_result(name)]
        activation.pass_over([name for name in names if f"_{position}_" in f"{name}_"])
        return True

    async def _record(self, result: ToolResult) -> ToolResult:
        """The body of the step that journals a result: emits it."""
        await self._ctx._activation.emit(
            "tool_result",
            {
                "agent_id": self._ctx.workflow_id,
                "call_id": result.call_id,
                "tool": result.tool,
                "status": result.status,
            },
        )
        return result

    async def _execute(self, position: str, call: ToolCall) -> ToolResult:
        tool = self._tools.get(call.name)
        if tool is None:
            names = ", ".join(self._tools) or "none"
            problem = f"there is no tool {call.name!r}; available tools: {names}"
            return ToolResult(call.name, call.id, call.arguments, "invalid", problem)
        try:
            parsed = await self._ctx._activation.check(call.arguments, tool.parse(call.arguments))
        except Exception as error:  # a mismatch, or a validator's own
            problem = f"invalid arguments: {error_text(error)}"
            return ToolResult(tool.name, call.id, call.arguments, "invalid", problem)
        if tool.answer is not None:
            status, result = await tool.answer(self._ctx, position, parsed)
            return ToolResult(tool.name, call.id, codec.plain(parsed), status, result)
        try:
            approval = await approve(self._ctx, tool, position, parsed)
        except UnshownArgumentsError as error:
            return ToolResult(tool.name, call.id, call.arguments, "invalid", str(error))
        arguments = codec.plain(approval.input)
        if not approval.approved:
            return ToolResult(tool.name, call.id, arguments, "rejected", approval.note)
        try:
            value = await self._run(f"tool_{position}_{tool.name}", tool, call, approval.input)
        except StepExecutionError as error:
            problem = f"the tool failed: {error.error_type}: {error.error_message}"
            return ToolResult(tool.name, call.id, arguments, "failed", problem, approval.note)
        spent = Usage()
        if isinstance(value, AgentResult):
            value, spent = value.result, value.usage
        return ToolResult(tool.name, call.id, arguments, "ok", codec.plain(value), approval.note, spent)

    async def _run(self, key: str, tool: Tool, call: ToolCall, input: Any) -> Any:
        if tool.workflow is not None:
            return await self._ctx.step.invoke_and_wait(key, tool.workflow, input)
        arguments = () if tool.input_type is None else (input,)
        function = tool.function
        if self._ctx._activation.code.span is not None:
            function = traced_tool(function, tool.name, call)
        return await self._ctx.step.run(key, function, *arguments, max_retries=tool.max_retries)
