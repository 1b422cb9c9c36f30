"""Executions that kill their worker, that it does not know, or whose code misbehaves."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from polos_redis import ExecutionFailedError, PolosClient, WorkflowContext, workflow
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import chain, deadly, gated
from tests.harness.running import until, working


async def keep_one_running(fleet: Fleet, **options: Any) -> None:
    """Act as a supervisor: restart the worker whenever it dies."""
    while True:
        worker = await fleet.start(**options)
        await worker.ended()


@pytest.mark.failure(9)
@pytest.mark.promise("poison")
async def test_an_execution_that_kills_every_worker_is_failed(fleet: Fleet, client: PolosClient) -> None:
    handle = await deadly.invoke(client, {"always": True})
    supervisor = asyncio.create_task(keep_one_running(fleet, lease_seconds=0.3, max_deliveries=2))
    with pytest.raises(ExecutionFailedError, match="lost 2 times in a row") as raised:
        await handle.result(timeout=20)
    supervisor.cancel()
    assert raised.value.error_type == "WorkerLostError"
    assert [name for name, _ in fleet.effects(handle.id)] == ["start", "death", "death"]
    failed = await client.get_execution(handle.id)
    assert failed["input"] == {"always": True}
    assert [step["step_key"] for step in failed["steps"]] == ["start"]


@pytest.mark.failure(9)
async def test_progress_resets_the_count_of_lost_workers(fleet: Fleet, client: PolosClient) -> None:
    handle = await deadly.invoke(client, {"steps": 3})
    supervisor = asyncio.create_task(keep_one_running(fleet, lease_seconds=0.3, max_deliveries=2))
    assert await handle.result(timeout=30) == "lived"
    supervisor.cancel()
    assert sum(name.startswith("death") for name, _ in fleet.effects(handle.id)) == 3


@pytest.mark.failure(10)
async def test_an_unknown_workflow_is_left_to_workers_that_know_it(fleet: Fleet, client: PolosClient) -> None:
    old = await fleet.start(knows="chain")
    handle = await gated.invoke(client, {"gate": "go"})
    await old.said("unknown workflows, left to other workers")
    assert await handle.status() == "queued"
    fleet.open("go")
    new = await fleet.start()
    assert await handle.result(timeout=20) == [new.pid] * 3
    assert (await client.get_execution(handle.id))["lost_deliveries"] == 0
    other = await chain.invoke(client, {"steps": 1})
    assert await other.result(timeout=20) == [0]


# --- misbehaving code -------------------------------------------------------------------


class Signal(BaseException):
    pass


def leave() -> None:
    raise SystemExit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


def signal() -> None:
    raise Signal("mine")


def deep() -> int:
    return deep() + 1


def unstorable() -> object:
    return object()


def give_up() -> None:
    raise asyncio.CancelledError


def stop_iteration() -> None:
    raise StopIteration(1)


def block() -> None:
    time.sleep(0.3)


BAD = {f.__name__: f for f in (leave, interrupt, signal, deep, unstorable, give_up, stop_iteration)}


@workflow
async def bad_between_steps(ctx: WorkflowContext, input: str) -> Any:
    return BAD[input]()


@workflow
async def bad_step(ctx: WorkflowContext, input: str) -> Any:
    return await ctx.step.run("bad", BAD[input], max_retries=0)


@workflow
async def bad_async_step(ctx: WorkflowContext, input: str) -> Any:
    async def bad() -> Any:
        return BAD[input]()

    return await ctx.step.run("bad", bad, max_retries=0)


@workflow
async def bad_task(ctx: WorkflowContext, input: str) -> Any:
    async def bad() -> Any:
        return BAD[input]()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(bad())
    return task.result()


@workflow
async def leaves_a_task(ctx: WorkflowContext, input: str) -> str:
    async def swallow() -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(swallow())
    await ctx.step.run("one", lambda: 1)
    return str(task.done())


@workflow
async def blocks_the_loop(ctx: WorkflowContext, input: str) -> str:
    block()
    return "done"


@pytest.mark.failure(12)
@pytest.mark.parametrize("flow", [bad_between_steps, bad_step, bad_async_step, bad_task])
async def test_misbehaving_code_fails_its_execution_not_the_worker(client: PolosClient, flow: Any) -> None:
    others = (leaves_a_task, blocks_the_loop)
    async with working(client, flow, *others) as worker:
        for name in BAD:
            handle = await flow.invoke(client, name)
            try:
                with pytest.raises(ExecutionFailedError) as raised:
                    await handle.result(timeout=20)
            except pytest.fail.Exception:
                # a TaskGroup takes a child's cancellation for its end: then reading the result fails it
                raise AssertionError(f"{flow.id} {name} did not fail") from None
            assert raised.value.error_message, name
        for other in others:
            assert await (await other.invoke(client, "")).result(timeout=20) in ("False", "done")
        await until(lambda: not worker.active)
