"""Workflows whose worker is frozen past its lease at one of several places, and then wakes: another one has
run and journaled their steps meanwhile.

Each place waits for a gate of its own process, `go-<pid>`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from polos_redis import WorkflowContext, workflow
from tests.harness.fleet import EFFECTS
from tests.harness.fleet_workflows import effect, effects_of, gate

BACKOFF_SECONDS = 4.0  # shorter than what parks

Place = Callable[[WorkflowContext], Awaitable[Any]]


async def _go() -> None:
    await gate(f"go-{os.getpid()}")


async def _sleep(ctx: WorkflowContext) -> None:
    effect(ctx.execution_id, "here")
    await _go()
    await ctx.step.run("two", effects_of(ctx), "two")


async def _backoff(ctx: WorkflowContext) -> None:
    async def fails_once() -> None:
        failed = Path(os.environ[EFFECTS]).with_name("failed")
        effect(ctx.execution_id, "two" if failed.exists() else "here")
        if not failed.exists():
            failed.touch()
            raise OSError("the first time")

    await ctx.step.run("two", fails_once, base_delay=BACKOFF_SECONDS)


async def _sync_step(ctx: WorkflowContext) -> None:
    def wait() -> None:
        effect(ctx.execution_id, "here")
        asyncio.run(_go())

    await ctx.step.run("sync", wait)
    await ctx.step.run("two", effects_of(ctx), "two")


async def _queued_thread(ctx: WorkflowContext) -> None:
    """With one thread, the second step waits for the first one."""

    def wait() -> None:
        effect(ctx.execution_id, "here")
        asyncio.run(_go())

    await asyncio.gather(
        ctx.step.run("sync", wait), ctx.step.run("two", lambda: effect(ctx.execution_id, "two"))
    )


async def _gather(ctx: WorkflowContext) -> None:
    async def long() -> None:
        effect(ctx.execution_id, "here")
        await _go()

    async def beside() -> None:
        await _go()
        await ctx.step.run("two", effects_of(ctx), "two")
        await ctx.step.run("three", effects_of(ctx), "three")

    await asyncio.gather(ctx.step.run("long", long), beside())


PLACES: dict[str, Place] = {
    "sleep": _sleep,
    "backoff": _backoff,
    "sync step": _sync_step,
    "queued thread": _queued_thread,
    "gather": _gather,
}


@workflow
async def lapsing(ctx: WorkflowContext, input: Any) -> int:
    """Steps before, at and after a place; the last one waits for the gate `end`. Returns the process."""
    happen = effects_of(ctx)
    await ctx.step.run("one", happen, "one")
    await PLACES[input](ctx)
    await ctx.step.run("last", happen, "last", "end")
    await ctx.step.run("after", happen, "after")
    return os.getpid()
