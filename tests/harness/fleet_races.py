"""Workflows with races, for tests/harness/fleet.py's workers: `defined_in="tests.harness.fleet_races"`."""

from __future__ import annotations

from typing import Any

from polos_redis import WorkflowContext, workflow
from tests.harness.fleet_workflows import effects_of, number


@workflow
async def interrupted(ctx: WorkflowContext) -> str:
    """Two branches of code, one returning at once, the other when the gate opens; then a step with a gate."""
    happen = effects_of(ctx)

    async def branch(name: str, until: str = "") -> Any:
        return await ctx.step.run(name, happen, name, until)

    winner = await ctx.step.first_of("race", {"loser": branch("loser", "loser"), "winner": branch("winner")})
    await ctx.step.run("then", happen, "then", "then")
    return winner.name


@workflow
async def overtaken(ctx: WorkflowContext) -> str:
    """A step that ends when the gate opens, racing an answer."""
    happen = effects_of(ctx)
    winner = await ctx.step.first_of(
        "race", {"work": ctx.step.run("work", happen, "work", "work"), "ask": ctx.step.suspend("ask")}
    )
    return winner.name


@workflow
async def left_behind(ctx: WorkflowContext) -> str:
    """A branch that journals one record of every kind and then waits for the gate, racing an answer."""
    happen = effects_of(ctx)

    async def quick() -> None:
        await ctx.step.run("quick", happen, "quick")

    async def slow() -> None:
        await ctx.step.run("slow", happen, "slow", "slow")

    async def work() -> None:
        await ctx.step.run("first", happen, "first")
        await ctx.step.first_of("inner", {"quick": quick(), "slow": slow()})
        await ctx.step.invoke("child", number, 1)
        await ctx.step.run("second", happen, "second")
        await ctx.step.run("third", happen, "third", "third")

    winner = await ctx.step.first_of("race", {"work": work(), "ask": ctx.step.suspend("ask")})
    return winner.name
