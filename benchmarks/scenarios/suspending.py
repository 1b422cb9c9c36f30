"""Suspended executions, as several scenarios need them."""

from __future__ import annotations

from benchmarks.stage import Stage
from benchmarks.workflows import ANSWER, SUSPENSION, approval
from polos_redis import ExecutionHandle


async def suspend(stage: Stage, count: int) -> list[ExecutionHandle[bool]]:
    """Starts executions and waits until all are parked at their suspension."""
    handles: list[ExecutionHandle[bool]] = []

    async def start() -> None:
        handles.append(await approval.invoke(stage.client))

    await stage.spread(start, count)
    await stage.until_queued()
    return handles


async def resume(stage: Stage, execution_id: str) -> None:
    """Answers the suspension of an execution."""
    await stage.client.resume(suspend_execution_id=execution_id, suspend_step_key=SUSPENSION, data=ANSWER)
