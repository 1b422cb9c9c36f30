"""Workflows started by a schedule or an event, for the workers of tests/harness/fleet.py."""

from __future__ import annotations

from typing import Any

from polos_redis import WorkflowContext, workflow
from tests.harness.fleet_workflows import effects_of


@workflow
async def ticked(ctx: WorkflowContext, tick: Any) -> None:
    await ctx.step.run("tick", effects_of(ctx), f"tick-{tick.timestamp.timestamp():.0f}")


@workflow(trigger_on_event="orders")
async def ordered(ctx: WorkflowContext, event: Any) -> None:
    await ctx.step.run("order", effects_of(ctx), f"order-{event.data}")
