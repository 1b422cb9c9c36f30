"""An execution whose code was changed while people decided, for the commands, the API and the pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from polos_redis import ExecutionHandle, WorkflowContext
from polos_redis.decisions.answers import Resumed
from tests.harness.deployments import Deployed, stuck
from tests.harness.running import Running, running


async def asks(flow: Deployed, ctx: WorkflowContext) -> str:
    """Two questions at a time, and then a third."""
    await flow.step(ctx, "charge")
    await asyncio.gather(ctx.step.suspend("review"), ctx.step.suspend("other"))
    return "reviewed"


async def renamed(flow: Deployed, ctx: WorkflowContext) -> str:
    """`review` is not asked any more."""
    await flow.step(ctx, "charge")
    answer = (await ctx.step.suspend("other"))["data"]
    await ctx.step.suspend("approval")
    return f"not reviewed, {answer}"


WHERE = f"stuck_flow.py:{renamed.__code__.co_firstlineno + 3}"
MESSAGE = f"the code passes over the decision on 'review' at {WHERE}"


@asynccontextmanager
async def deployed(
    url: str, namespace: str, **options: Any
) -> AsyncIterator[tuple[Running, Deployed, ExecutionHandle[Any]]]:
    """A worker, and an execution that waits for two answers."""
    flow = Deployed(asks, **options)
    async with running(url, namespace, flow.workflow) as at:
        at.host.stuck_seconds = 0.2
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        yield at, flow, handle


async def answer(at: Running, handle: ExecutionHandle[Any], key: str, **data: Any) -> Resumed:
    return await at.client.resume(
        suspend_execution_id=handle.id, suspend_step_key=key, data=data, resumed_by="ann"
    )


async def become_stuck(at: Running, flow: Deployed, handle: ExecutionHandle[Any]) -> None:
    """Answer `review`, then `other`: the new code gets past `review`."""
    flow.deploy(renamed)
    await answer(at, handle, "review", approved=False)
    await stuck(at, handle)


async def pass_over_an_open_question(at: Running, flow: Deployed, handle: ExecutionHandle[Any]) -> None:
    """Answer `other`: the new code waits for `approval`, and `review` is still open."""
    flow.deploy(renamed)
    await answer(at, handle, "other", approved=True)
    await at.opened(handle, "approval")
    await at.parked(handle)
