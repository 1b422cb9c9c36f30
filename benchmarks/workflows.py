"""Measured workflows. They do nothing, so that all cost is the engine's."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from polos_redis import BatchWorkflowInput, WorkflowContext, workflow

STEPS = 10
SUSPENSION = "approval"
SHOWN: dict[str, Any] = {  # about 150 bytes stored
    "order_id": "ord_8f14e45fceea167a",
    "customer": "ACME Industrial Supplies Ltd.",
    "amount": 1249.95,
    "currency": "EUR",
    "reason": "above the limit of this account",
}
ANSWER = {"approved": True}


async def nothing() -> None:
    """The step of `ten_steps`."""


@workflow(id="benchmark_noop")
async def noop(ctx: WorkflowContext) -> None:
    """No steps."""


@workflow(id="benchmark_ten_steps")
async def ten_steps(ctx: WorkflowContext) -> None:
    """Ten sequential steps."""
    for number in range(STEPS):
        await ctx.step.run(f"step-{number}", nothing)


@workflow(id="benchmark_approval")
async def approval(ctx: WorkflowContext) -> bool:
    """One suspension, whose answer is the result."""
    resume = await ctx.step.suspend(SUSPENSION, data=SHOWN, timeout=3600)
    return bool(resume["data"]["approved"])


@workflow(id="benchmark_journal")
async def journal(ctx: WorkflowContext, steps: int) -> None:
    """Some steps, then a suspension."""
    for number in range(steps):
        await ctx.step.run(f"step-{number}", nothing)
    await ctx.step.suspend(SUSPENSION, data=SHOWN, timeout=3600)


@workflow(id="benchmark_fan_out")
async def fan_out(ctx: WorkflowContext, children: int) -> int:
    """Children, all awaited; returns how many have succeeded."""
    ended = await ctx.step.batch_invoke_and_wait("children", [BatchWorkflowInput(noop)] * children)
    return sum(one.success for one in ended)


@workflow(id="benchmark_alarm")
async def alarm(ctx: WorkflowContext, due: datetime) -> float:
    """Waits until a time; returns how many seconds later it continues."""
    await ctx.step.wait_until("due", due)
    return time.time() - due.timestamp()


ALL = (noop, ten_steps, approval, journal, fan_out, alarm)
