"""Executions and steps per second, and what each costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks.figures import Cpu, Figure
from benchmarks.scenarios.sizes import Size
from benchmarks.stage import BenchmarkError, Stage
from benchmarks.workflows import STEPS, noop, ten_steps
from polos_redis import events


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
    return [Figure("noop", "executions, end to end", rate, "/s", 14_000, cpu=measured.cpu)]


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
    """The client starts executions with ten steps while the worker runs them; before, some without steps."""
    await stage.warm_up(noop)
    await stage.invoke(ten_steps, 200)
    await stage.until_queued()
    async with stage.measured(size.ten_steps) as bare:
        await stage.invoke(noop, size.ten_steps)
        await stage.until_queued()
    async with stage.measured(size.ten_steps) as measured:
        await stage.invoke(ten_steps, size.ten_steps)
        await stage.until_queued()
    (last,) = await stage.client.list_executions(workflow=ten_steps, limit=1)
    if len((await stage.client.get_execution(last["id"]))["steps"]) != STEPS:
        raise BenchmarkError(f"the execution {last['id']} has not journaled its {STEPS} steps")
    rate = STEPS * size.ten_steps / measured.seconds
    cost = _step_cost(measured.cpu, bare.cpu)
    total = (cost.worker or 0.0) + cost.client + cost.redis
    return [
        Figure("steps", "steps, end to end", rate, "/s", 40_000, cpu=measured.cpu),
        Figure("steps", "CPU of a step alone", total, "us", more=False, cpu=cost),
    ]


def _step_cost(stepped: Cpu, bare: Cpu) -> Cpu:
    """CPU of one step: what an execution with steps costs more than one without."""

    def share(with_steps: float | None, without: float | None) -> float:
        return max((with_steps or 0.0) - (without or 0.0), 0.0) / STEPS

    return Cpu(
        share(stepped.worker, bare.worker),
        share(stepped.client, bare.client),
        share(stepped.redis, bare.redis),
    )


async def followed(stage: Stage, size: Size) -> list[Figure]:
    """Executions with ten steps: the client awaits their results; then it reads their events to the end."""
    await stage.warm_up(ten_steps)

    async def awaited() -> None:
        await (await ten_steps.invoke(stage.client)).result()

    async def read() -> None:
        handle = await ten_steps.invoke(stage.client)
        async for _ in events.stream_workflow(stage.client, handle.root_workflow_id, handle.id):
            pass

    async def measured(name: str, call: Callable[[], Awaitable[None]]) -> Figure:
        async with stage.measured(STEPS * size.followed) as measured:
            await stage.spread(call, size.followed)
        return Figure("followed", name, STEPS * size.followed / measured.seconds, "/s", cpu=measured.cpu)

    return [
        await measured("steps of executions that nobody follows", awaited),
        await measured("steps of executions that somebody follows", read),
    ]
