"""Benchmark scenarios. Each runs on a fresh stage and returns its figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Cpu, Figure
from benchmarks.stage import BenchmarkError, Stage
from benchmarks.workflows import ANSWER, STEPS, SUSPENSION, approval, noop, ten_steps
from polos_redis import ExecutionHandle, Workflow


@dataclass(frozen=True, slots=True)
class Size:
    """Number of executions in each scenario."""

    executions: int = 20_000  # invoke, noop, drain
    ten_steps: int = 4_000
    samples: int = 2_000  # latency
    storm: int = 5_000
    suspended: int = 10_000  # memory
    counted: int = 1_000  # calls, for each workflow


FULL = Size()
QUICK = Size(executions=2_000, ten_steps=100, samples=50, storm=200, suspended=500, counted=100)


async def invoke(stage: Stage, size: Size) -> list[Figure]:
    """The client starts executions; no worker runs."""
    await stage.invoke(noop, 200)
    async with stage.measured(size.executions) as measured:
        await stage.invoke(noop, size.executions)
    return [Figure("invoke", "invokes", size.executions / measured.seconds, "/s", cpu=measured.cpu)]


async def end_to_end(stage: Stage, size: Size) -> list[Figure]:
    """The client starts executions while the worker runs them, until all have finished."""
    await stage.warm_up(noop)
    async with stage.measured(size.executions) as measured:
        await stage.invoke(noop, size.executions)
        await stage.until_queued()
    rate = size.executions / measured.seconds
    return [Figure("noop", "executions, end to end", rate, "/s", 10_000, cpu=measured.cpu)]


async def drain(stage: Stage, size: Size) -> list[Figure]:
    """The worker alone, on a queue filled beforehand. The first tenth is its warm-up."""
    await stage.invoke(noop, size.executions)
    await stage.worker.run()
    left = await stage.until_queued(at_most=size.executions * 9 // 10)
    if not left:
        raise BenchmarkError("the worker emptied the queue during its warm-up: run it with more executions")
    async with stage.measured(left) as measured:
        await stage.until_queued()
    rate = left / measured.seconds
    return [Figure("drain", "executions from a full queue", rate, "/s", cpu=measured.cpu)]


async def steps(stage: Stage, size: Size) -> list[Figure]:
    """The client starts executions with ten steps while the worker runs them."""
    await stage.warm_up(ten_steps)
    async with stage.measured(size.ten_steps) as measured:
        await stage.invoke(ten_steps, size.ten_steps)
        await stage.until_queued()
    (last,) = await stage.client.list_executions(workflow=ten_steps, limit=1)
    if len((await stage.client.get_execution(last["id"]))["steps"]) != STEPS:
        raise BenchmarkError(f"the execution {last['id']} has not journaled its {STEPS} steps")
    rate = STEPS * size.ten_steps / measured.seconds
    return [Figure("steps", "steps, end to end", rate, "/s", 40_000, cpu=measured.cpu)]


async def latency(stage: Stage, size: Size) -> list[Figure]:
    """One at a time: invoke and await the result; resume a parked execution and await its result."""
    await stage.warm_up(noop)
    seconds = []
    async with stage.measured(size.samples) as invoked:
        for _ in range(size.samples):
            since = time.perf_counter()
            await (await noop.invoke(stage.client)).result()
            seconds.append(time.perf_counter() - since)
    figures = _percentiles("latency", "invoke -> result", seconds, invoked.cpu)

    handles = await _suspended(stage, size.samples)
    seconds = []
    async with stage.measured(size.samples) as resumed:
        for handle in handles:
            since = time.perf_counter()
            await _resume(stage, handle.id)
            await handle.result()
            seconds.append(time.perf_counter() - since)
    return figures + _percentiles("latency", "resume -> finished", seconds, resumed.cpu)


async def storm(stage: Stage, size: Size) -> list[Figure]:
    """All parked executions are answered at once."""
    await stage.worker.run()
    handles = await _suspended(stage, size.storm)
    async with stage.measured(size.storm) as measured:
        await asyncio.gather(*(_resume(stage, handle.id) for handle in handles))
        await stage.until_queued()
    return [
        Figure("storm", f"{size.storm:,} resumes until all have finished", measured.seconds, "s", more=False),
        Figure("storm", "resumes", size.storm / measured.seconds, "/s", cpu=measured.cpu),
    ]


async def memory(stage: Stage, size: Size) -> list[Figure]:
    """Memory of a suspended execution in Redis."""
    await stage.warm_up(approval)
    before = await stage.memory()
    async with stage.measured(size.suspended) as measured:
        await stage.invoke(approval, size.suspended)
        await stage.until_queued()
    rate = size.suspended / measured.seconds
    growth = (await stage.memory() - before) / size.suspended
    return [
        Figure("memory", "per suspended execution", growth, "bytes", 2_500, more=False),
        Figure("memory", "executions until suspended", rate, "/s", cpu=measured.cpu),
    ]


async def calls(stage: Stage, size: Size) -> list[Figure]:
    """Calls to Redis, and the commands its scripts run. No results are awaited."""
    await stage.warm_up(noop)

    async def counted(workflow: Workflow[None, Any]) -> tuple[float, float]:
        before = await stage.calls()
        await stage.invoke(workflow, size.counted)
        await stage.until_queued()
        if workflow is approval:
            rows = await stage.client.list_suspensions(limit=size.counted)
            await asyncio.gather(*(_resume(stage, row["execution_id"]) for row in rows))
            await stage.until_queued()
        after = await stage.calls()
        return (after[0] - before[0]) / size.counted, (after[1] - before[1]) / size.counted

    bare, stepped, approved = await counted(noop), await counted(ten_steps), await counted(approval)
    figures = []
    for index, unit in enumerate(("calls", "commands")):
        figures += [
            Figure("calls", "per no-op execution", bare[index], unit, more=False),
            Figure("calls", "per step", (stepped[index] - bare[index]) / STEPS, unit, more=False),
            Figure("calls", "per suspend and resume", approved[index] - bare[index], unit, more=False),
        ]
    return figures


async def _suspended(stage: Stage, count: int) -> list[ExecutionHandle[bool]]:
    """Starts executions and waits until all are parked at their suspension."""
    handles: list[ExecutionHandle[bool]] = []

    async def start() -> None:
        handles.append(await approval.invoke(stage.client))

    await stage.spread(start, count)
    await stage.until_queued()
    return handles


async def _resume(stage: Stage, execution_id: str) -> None:
    await stage.client.resume(suspend_execution_id=execution_id, suspend_step_key=SUSPENSION, data=ANSWER)


def _percentiles(scenario: str, name: str, seconds: Sequence[float], cpu: Cpu) -> list[Figure]:
    ordered = sorted(seconds)
    p50, p99 = (ordered[int(len(ordered) * part)] * 1000 for part in (0.5, 0.99))
    return [
        Figure(scenario, f"{name}, p50", p50, "ms", 0.6, more=False, cpu=cpu),
        Figure(scenario, f"{name}, p99", p99, "ms", more=False),
    ]


Scenario = Callable[[Stage, Size], Awaitable[list[Figure]]]

ALL: dict[str, Scenario] = {
    "invoke": invoke,
    "noop": end_to_end,
    "drain": drain,
    "steps": steps,
    "latency": latency,
    "storm": storm,
    "memory": memory,
    "calls": calls,
}
