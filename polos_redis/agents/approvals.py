"""Approval of tool calls: a suspension, as of `ctx.step.suspend`, for exactly the arguments shown.

Only an explicit approval counts as a yes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polos_redis.agents.output import error_text
from polos_redis.agents.tools import Tool
from polos_redis.errors import StepExecutionError, SuspendTimeoutError
from polos_redis.values import codec, digests

if TYPE_CHECKING:
    from polos_redis.runtime.context import WorkflowContext

MOST_REQUESTS = 10  # per tool call


@dataclass(frozen=True, slots=True)
class Approval:
    """Whether a tool may be called, with which input, and a note for the model."""

    approved: bool
    input: Any = None
    note: str = ""


async def approve(ctx: WorkflowContext, tool: Tool, position: str, arguments: Any) -> Approval:
    """Request approval of a tool call if the tool's policy requires it.

    A person may edit the arguments. The policy then judges the edited ones, and may require another approval.
    """
    if tool.approval == "never":
        return Approval(True, arguments)
    note, problem = "", ""
    for number in itertools.count(1):
        name = f"{position}_{tool.name}" + ("" if number == 1 else f"_{number}")
        if not problem and not await _is_required(ctx, tool, f"policy_{name}", arguments):
            return Approval(True, arguments, note)
        if number > MOST_REQUESTS:
            return Approval(
                False, arguments, "this call was edited too often to be approved; do not repeat it"
            )
        try:
            decision = await _request(ctx, tool, f"approve_{name}", arguments, problem)
        except SuspendTimeoutError:
            return Approval(False, arguments, "nobody approved this call in time, so it was not made")
        except StepExecutionError as error:  # only the input's own validators found this: request again
            problem = error_text(error.__cause__ or error)
            continue
        reason = f", saying: {decision.reason}" if decision.reason else ""
        if decision.approved is not True:
            return Approval(False, arguments, f"a person rejected this call{reason}")
        edited = getattr(decision, "arguments", None)
        if edited is None or codec.plain(edited) == codec.plain(arguments):
            return Approval(True, arguments, f"a person approved this call{reason}" if reason else note)
        arguments, problem = edited, ""
        note = f"a person changed the arguments{reason}"
        if tool.approval == "always":  # the person who edited them has approved them
            return Approval(True, arguments, note)
    raise AssertionError("itertools.count never ends")


async def _is_required(ctx: WorkflowContext, tool: Tool, key: str, input: Any) -> bool:
    """Whether the policy requires approval; journaled for the replay. Only False means no: a policy that
    fails requires it."""
    if not callable(tool.approval):
        return True
    try:
        return (await ctx.step.run(key, tool.approval, input, max_retries=0)) is not False
    except StepExecutionError:
        return True


async def _request(ctx: WorkflowContext, tool: Tool, key: str, input: Any, problem: str) -> Any:
    """Wait for a person's decision. The step key contains a digest of the arguments, so nobody can answer
    before they are known."""
    arguments = codec.plain(input)
    shown = {"tool": tool.name, "description": tool.description, "arguments": arguments}
    if problem:
        shown["problem"] = f"The last decision could not be used: {problem}"
    return await ctx.step.suspend(
        f"{key}_{digests.canonical_digest(arguments).hex()[:8]}",
        data={**shown, "agent_id": ctx.workflow_id},
        timeout=tool.approval_timeout,
        schema=_decision_type(tool.input_type if tool.required == 1 else None, arguments),
        approvers=tool.approvers or None,
        required=tool.required,
    )


def _decision_type(input_type: Any, arguments: Any) -> Any:
    """The type of a decision: `approved`, `reason` and, with an `input_type`, edited `arguments`, which a
    form prefills with those of the call.

    Several approvers must agree on the same arguments, so none of them may edit these. Extra fields are
    forbidden: an edit under a wrong name would be lost, and the original call approved.
    """
    from pydantic import ConfigDict, Field, create_model

    fields: dict[str, Any] = {
        "approved": (bool, Field(description="Allow this call?")),
        "reason": (str | None, Field(default=None, description="Shown to the model")),
    }
    if input_type is not None:
        edited = Field(default=None, description="Call the tool with these instead", examples=[arguments])
        fields["arguments"] = (input_type | None, edited)
    return create_model("ToolDecision", __config__=ConfigDict(extra="forbid"), **fields)
