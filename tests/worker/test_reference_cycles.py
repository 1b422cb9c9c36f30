"""An activation that has ended is freed at once, without a garbage collection: it leaves no cycles."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from polos_redis import ExecutionHandle, WorkflowContext, workflow
from polos_redis.runtime.activation import Activation
from polos_redis.worker import collector
from tests.harness.running import Running, running, until

Use = Callable[[WorkflowContext], Awaitable[Any]]


@pytest.fixture(autouse=True)
def no_collections(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL, "polos")  # pytest keeps records, and with them tracebacks
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@workflow(id="cycles-child")
async def child(ctx: WorkflowContext) -> int:
    return 1


async def nothing(ctx: WorkflowContext) -> None: ...


async def steps(ctx: WorkflowContext) -> None:
    await ctx.step.run("async", asyncio.sleep, 0)
    await ctx.step.run("thread", int)
    await ctx.step.now("now")


async def failing_step(ctx: WorkflowContext) -> None:
    await ctx.step.run("fails", int, "x", max_retries=1, base_delay=0.001, max_delay=0.001)


async def failure(ctx: WorkflowContext) -> None:
    raise ValueError("on purpose")


async def suspension(ctx: WorkflowContext) -> None:
    await ctx.step.suspend("ask")


async def race(ctx: WorkflowContext) -> None:
    await ctx.step.first_of("race", {"ask": ctx.step.suspend("ask"), "late": ctx.step.wait_for("w", hours=1)})


async def gather(ctx: WorkflowContext) -> None:
    await asyncio.gather(ctx.step.suspend("ask"), ctx.step.run("step", int))


async def children(ctx: WorkflowContext) -> None:
    await ctx.step.invoke_and_wait("child", child, None)


USES: tuple[Use, ...] = (nothing, steps, failing_step, failure, suspension, race, gather, children)


def live() -> list[Activation]:
    return [one for one in gc.get_objects() if isinstance(one, Activation)]


async def ended(at: Running, handle: ExecutionHandle[Any]) -> None:
    async def has_ended() -> bool:
        return await handle.status() in ("completed", "failed")

    await until(has_ended, f"the end of {handle.id}")


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
async def test_an_activation_is_freed_when_it_ends(use: Use, redis_url: str, namespace: str) -> None:
    @workflow(id="cycles")
    async def flow(ctx: WorkflowContext) -> None:
        await use(ctx)

    async with running(redis_url, namespace, flow, child) as at:
        for _ in range(3):
            handle = await flow.invoke(at.client)
            if use in (suspension, race, gather):
                await at.parked(handle)
                await until(lambda: not live(), "the parked activation to be freed")
                await at.answer(handle, "ask")
            await ended(at, handle)
        await until(lambda: not live(), "the last activation to be freed")


def test_the_collector_is_left_alone_when_it_is_disabled() -> None:
    try:
        collector.settle()
        assert not gc.get_freeze_count()
        gc.enable()
        collector.settle()
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
