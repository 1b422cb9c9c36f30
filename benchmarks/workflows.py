"""The workflows that are measured. They do nothing: what is left is the cost of the engine."""

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


@workflow
async def noop(ctx: WorkflowContext) -> None:
    """An execution without a step."""


@workflow
async def ten_steps(ctx: WorkflowContext) -> None:
    """Ten steps, one after the other."""
    for number in range(STEPS):
        await ctx.step.run(f"step-{number}", nothing)


@workflow
async def approval(ctx: WorkflowContext) -> bool:
    """One suspension, and the answer is the result."""
    resume = await ctx.step.suspend(SUSPENSION, data=SHOWN, timeout=3600)
    return bool(resume["data"]["approved"])


ALL = (noop, ten_steps, approval)
