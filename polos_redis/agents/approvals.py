"""Approval of tool calls: the same suspension as `ctx.step.suspend`, for exactly the arguments that are
shown.

Anything but an explicit approval is a no.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polos_redis.agents.output import complaints
from polos_redis.agents.tools import Tool
from polos_redis.errors import StepExecutionError, SuspendTimeoutError
from polos_redis.values import codec, digests

if TYPE_CHECKING:
    from polos_redis.runtime.context import WorkflowContext

MOST_QUESTIONS = 10  # about one tool call


@dataclass(frozen=True, slots=True)
class Ruling:
    """Whether a tool may be called, with which input; and what the model is told of it."""

    approved: bool
    input: Any = None
    note: str = ""


async def rule(ctx: WorkflowContext, tool: Tool, place: str, input: Any) -> Ruling:
    """Ask for approval, where the tool's policy wants it. What a person has changed is checked against the
    policy again, and a policy that wants that approved, too, is another question."""
    if tool.approval == "never":
        return Ruling(True, input)
    wanted, note, problem = input, "", ""
    for number in itertools.count(1):
        name = f"{place}_{tool.name}" + ("" if number == 1 else f"_{number}")
        if not problem and not await _is_needed(ctx, tool, f"policy_{name}", wanted):
            return Ruling(True, wanted, note)
        if number > MOST_QUESTIONS:
            return Ruling(False, wanted, "the decision on this call went on changing; do not call it again")
        try:
            decision = await _ask(ctx, tool, f"approve_{name}", wanted, problem)
        except SuspendTimeoutError:
            return Ruling(False, wanted, "nobody approved this call in time, so it was not made")
        except StepExecutionError as error:  # what only the input's own validators could find: ask again
            problem = complaints(error.__cause__ or error)
            continue
        said = f", saying: {decision.reason}" if decision.reason else ""
        if decision.approved is not True:
            return Ruling(False, wanted, f"a person rejected this call{said}")
        edited = getattr(decision, "arguments", None)
        if edited is None or codec.plain(edited) == codec.plain(wanted):
            return Ruling(True, wanted, f"a person approved this call{said}" if said else note)
        wanted, problem = edited, ""
        note = f"a person changed the arguments{said}"
        if tool.approval == "always":  # who has changed them has approved them
            return Ruling(True, wanted, note)
    raise AssertionError("the loop has no end of its own")


async def _is_needed(ctx: WorkflowContext, tool: Tool, key: str, input: Any) -> bool:
    """What the policy says: journaled, as a replay must hear the same. Only False means that none is
    needed, and a policy that fails needs one."""
    if not callable(tool.approval):
        return True
    try:
        return (await ctx.step.run(key, tool.approval, input, max_retries=0)) is not False
    except StepExecutionError:
        return True


async def _ask(ctx: WorkflowContext, tool: Tool, key: str, input: Any, problem: str) -> Any:
    """Ask a person. The key has a digest of the arguments in it: nobody can answer before they are known."""
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
    """The type of a decision on a call of a tool: approved, reason, and other arguments (a form begins with
    those of the call) where there is a type for them: what several people have to agree on, none of them may
    change. Nothing else may be in it: an edit under another name would be lost, and the call approved as it
    was."""
    from pydantic import ConfigDict, Field, create_model

    fields: dict[str, Any] = {
        "approved": (bool, Field(description="May it be called?")),
        "reason": (str | None, Field(default=None, description="What the model is note")),
    }
    if input_type is not None:
        other = Field(default=None, description="Call it with these instead", examples=[arguments])
        fields["arguments"] = (input_type | None, other)
    return create_model("ToolDecision", __config__=ConfigDict(extra="forbid"), **fields)
