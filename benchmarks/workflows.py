"""Measured workflows. They do nothing, so that all cost is the engine's."""

from __future__ import annotations

from typing import Any

from polos_redis import WorkflowContext, workflow

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


ALL = (noop, ten_steps, approval)
