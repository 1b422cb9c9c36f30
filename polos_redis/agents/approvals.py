"""Approval of tool calls: the same suspension as `ctx.step.suspend`, for exactly the arguments that are
shown.

Anything but an explicit approval is a no.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polos_redis import codec
from polos_redis.agents.tools import Tool
from polos_redis.errors import StepExecutionError, SuspendTimeoutError

if TYPE_CHECKING:
    from polos_redis.context import WorkflowContext

MOST_QUESTIONS = 10  # about one tool call


@dataclass(frozen=True, slots=True)
class Ruling:
    """Whether a tool may be called, with which input; and what the model is told of it."""

    approved: bool
    input: Any = None
    told: str = ""


async def rule(ctx: WorkflowContext, tool: Tool, place: str, input: Any) -> Ruling:
    """Ask for approval, where the tool's policy wants it."""
    if tool.approval == "never":
        return Ruling(True, input)
    wanted, told = input, ""
    for number in itertools.count(1):
        again = "" if number == 1 else f"_{number}"
        if not await _is_needed(ctx, tool, f"policy_{place}_{tool.name}{again}", wanted):
            return Ruling(True, wanted, told)
        if number > MOST_QUESTIONS:
            return Ruling(False, told="the person went on changing the arguments; do not call it again")
        try:
            decision = await _ask(ctx, tool, f"approve_{place}_{tool.name}{again}", wanted)
        except SuspendTimeoutError:
            return Ruling(False, told="nobody approved this call in time, so it was not made")
        except StepExecutionError as error:  # the answer does not fit the tool's input as it is now
            return Ruling(False, told=f"the decision on this call can't be used: {error.error_message}")
        feedback = decision.get("feedback") or ""
        if decision.get("approved") is not True:
            return Ruling(False, told=f"a person rejected this call{_said(feedback)}")
        edited = decision.get("arguments")
        if edited is None or codec.plain(edited) == codec.plain(wanted):
            return Ruling(True, wanted, f"approved{_said(feedback)}" if feedback else told)
        wanted = edited
        told = f"a person changed the arguments to {codec.plain(edited)!r}{_said(feedback)}"
        if tool.approval == "always":  # who has changed them has approved them
            return Ruling(True, wanted, told)
    raise AssertionError("the loop has no end of its own")


def _said(feedback: str) -> str:
    return f", saying: {feedback}" if feedback else ""


async def _is_needed(ctx: WorkflowContext, tool: Tool, key: str, input: Any) -> bool:
    """What the policy says: journaled, as a replay must hear the same. Only False means that none is
    needed, and a policy that fails needs one."""
    if not callable(tool.approval):
        return True
    try:
        return (await ctx.step.run(key, tool.approval, input, max_retries=0)) is not False
    except StepExecutionError:
        return True


async def _ask(ctx: WorkflowContext, tool: Tool, key: str, input: Any) -> dict[str, Any]:
    shown = {"tool": tool.name, "description": tool.description, "arguments": codec.plain(input)}
    answer: Any = await ctx.step.suspend(
        key,
        data={**shown, "agent_id": ctx.workflow_id},
        timeout=tool.approval_timeout,
        schema=decision_type(tool),
        approvers=tool.approvers,
        required=tool.required,
    )
    found: dict[str, Any] = {name: getattr(answer, name) for name in ("approved", "feedback")}
    return {**found, "arguments": getattr(answer, "arguments", None)}


def decision_type(tool: Tool) -> Any:
    """The type of a decision on a call of a tool: approved, feedback, and other arguments; but what several
    people have to agree on, none of them may change."""
    from pydantic import Field, create_model

    fields: dict[str, Any] = {
        "approved": (bool, Field(description="May it be called?")),
        "feedback": (str | None, Field(default=None, description="What the model is told")),
    }
    if tool.input_type is not None and tool.required == 1:
        other = Field(default=None, description="Call it with these instead")
        fields["arguments"] = (tool.input_type | None, other)
    return create_model("ToolDecision", **fields)
