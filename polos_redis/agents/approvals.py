"""Approval of tool calls: a suspension, as of `ctx.step.suspend`, for exactly the arguments shown.

Only an explicit approval counts as a yes. The arguments are shown in their complete form, from which they can
be read back; edited arguments are complete as well, so nothing keeps its value, or takes a default, unseen.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polos_redis.agents.output import error_text
from polos_redis.agents.tools import Tool
from polos_redis.decisions.answer_types import AnswerTypes, Rejection
from polos_redis.errors import PolosError, StepExecutionError, SuspendTimeoutError
from polos_redis.runtime.call_sites import caller
from polos_redis.runtime.steps.suspend import Ask
from polos_redis.values import digests, schemas
from polos_redis.values.complete_form import complete_form

if TYPE_CHECKING:
    from polos_redis.runtime.context import WorkflowContext

MOST_REQUESTS = 10  # per tool call

logger = logging.getLogger("polos.execution")


class UnshownArgumentsError(PolosError):
    """A call's arguments can't be shown in full, so nobody can approve them; the message names the field."""


@dataclass(frozen=True, slots=True)
class Approval:
    """Whether a tool may be called, with which input, and a note for the model."""

    approved: bool
    input: Any = None
    note: str = ""


async def approve(ctx: WorkflowContext, tool: Tool, position: str, arguments: Any) -> Approval:
    """Request approval of a tool call if the tool's policy requires it.

    A person may edit the arguments. The policy then judges the edited ones, and may require another approval.
    Raises `UnshownArgumentsError`.
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
        if edited is None or digests.canonical_digest(edited) == digests.canonical_digest(arguments):
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
    arguments = await _shown(ctx, tool, input)
    shown = {"tool": tool.name, "description": tool.description, "arguments": arguments}
    if problem:
        shown["problem"] = f"The last decision could not be used: {problem}"
    return await ctx.step._suspend(
        f"{key}_{digests.canonical_digest(input).hex()[:8]}",
        Ask(
            {**shown, "agent_id": ctx.workflow_id},
            tool.approval_timeout,
            _decision_types(tool.input_type if tool.required == 1 else None, arguments),
            tool.approvers or None,
            tool.required,
        ),
        caller(),
    )


async def _shown(ctx: WorkflowContext, tool: Tool, input: Any) -> Any:
    """The arguments as a person is shown them. Raises `UnshownArgumentsError`."""
    if tool.input_type is None:
        return None
    arguments = complete_form(input)
    try:
        read: Any = await ctx._activation.check(arguments, schemas.parse(tool.input_type, arguments))
        if digests.canonical_digest(read) == digests.canonical_digest(input):
            return arguments
    except Exception as error:  # a mismatch, or a validator's own
        why = error_text(error)
    else:
        why = f"{_difference(input, read)} changes when it is read back"
    logger.warning("tool %r: the arguments of a call can't be shown for approval: %s", tool.name, why)
    raise UnshownArgumentsError(f"these arguments can't be shown to the person who would approve them: {why}")


def _difference(one: Any, other: Any) -> str:
    """The first field in which two instances differ."""
    for name, form in complete_form(one).items():
        if digests.canonical_digest(form) != digests.canonical_digest(complete_form(other).get(name)):
            return f"field {name!r}"
    return "a type inside them, or a private attribute,"


def _decision_types(input_type: Any, arguments: Any) -> AnswerTypes:
    """The type of an approval: `approved`, `reason` and, with an `input_type`, edited `arguments`, which a
    form prefills with those of the call. A rejection has no arguments.

    Several approvers must agree on the same arguments, so none of them may edit these. Extra fields are
    forbidden: an edit under a wrong name would be lost, and the original call approved.
    """
    from pydantic import ConfigDict, Field, create_model

    fields: dict[str, Any] = {
        "approved": (bool, Field(description="Allow this call?")),
        "reason": (str | None, Field(default=None, description="Shown to the model")),
    }
    config = ConfigDict(extra="forbid")
    decision = create_model("ToolDecision", __config__=config, **fields)
    if input_type is None:
        return AnswerTypes(decision, Rejection)
    schema, _ = schemas.describe("the decision on a tool call", decision)
    complete = schemas.complete(input_type)
    edited = {
        "anyOf": [{key: part for key, part in complete.items() if key != "$defs"}, {"type": "null"}],
        "default": None,
        "description": "Call the tool with these instead",
        "examples": [arguments],
        "title": "Arguments",
    }
    schema = {**schema, "properties": {**schema["properties"], "arguments": edited}}
    schema |= {"$defs": complete["$defs"]} if "$defs" in complete else {}
    decision = create_model("ToolDecision", __base__=decision, arguments=(input_type | None, None))
    return AnswerTypes(decision, Rejection, schema)
