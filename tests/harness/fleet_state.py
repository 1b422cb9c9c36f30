"""Workflows with a state, for tests/harness/fleet.py's workers: `defined_in="tests.harness.fleet_state"`."""

from __future__ import annotations

import functools
import uuid

from pydantic import BaseModel, Field

from polos_redis import HookContext, HookResult, WorkflowContext, workflow
from tests.harness.fleet_workflows import effect, gate


class Account(BaseModel):
    """A state whose defaults differ each time."""

    number: str = Field(default_factory=lambda: uuid.uuid4().hex)
    log: list[str] = []


async def deposit(ctx: WorkflowContext, name: str, until: str = "") -> None:
    """A step that changes the state."""
    ctx.state.log.append(name)
    effect(ctx.execution_id, name)
    if until:
        await gate(until)


async def keep(ctx: WorkflowContext) -> str:
    effect(ctx.execution_id, "keep")
    return str(ctx.state.number)


async def greet(ctx: WorkflowContext, hook: HookContext) -> None:
    effect(ctx.execution_id, "greet")
    ctx.state.log.append("greeted")


async def bow(ctx: WorkflowContext, hook: HookContext) -> HookResult:
    effect(ctx.execution_id, "bow")
    await gate("bow")
    return HookResult.continue_with(modified_output=[*hook.current_output, "bowed"])


@workflow(state_schema=Account)
async def account(ctx: WorkflowContext) -> tuple[str, str, list[str]]:
    """Changes its state in steps and between them; the second step waits for a gate. Never parks."""
    kept = await ctx.step.run("keep", keep, ctx)
    ctx.state.log.append("kept")
    await ctx.step.run("one", deposit, ctx, "one")
    ctx.state.log.append("between")
    await ctx.step.run("two", functools.partial(deposit, ctx), "two", "gate")
    return kept, ctx.state.number, ctx.state.log


@workflow(state_schema=Account, on_start=greet, on_end=bow)
async def polite(ctx: WorkflowContext) -> list[str]:
    """The second hook waits for a gate."""
    ctx.state.log.append("code")
    return list(ctx.state.log)
