"""`on_exhausted="pause"`: an execution that has failed waits for somebody to retry or cancel it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from polos_redis import (
    ConfigurationError,
    ExecutionCancelledError,
    ExecutionFailedError,
    ExecutionHandle,
    InternalWorkflowError,
    NotFailedError,
    PolosClient,
    PolosError,
    Workflow,
    WorkflowContext,
    events,
)
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import deadly_pausing
from tests.harness.running import Running, running, soon, until, working
from tests.worker.test_poison import keep_one_running


def flow(body: Any, **options: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__, **{"on_exhausted": "pause", **options})


class World:
    """The world outside the workflows: counts calls, and fails until it is fixed."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.broken = True

    def works(self, name: str) -> str:
        self.calls[name] += 1
        return name

    def breaks(self, name: str) -> str:
        self.calls[name] += 1
        if self.broken:
            raise LookupError(f"no {name}")
        return name


@pytest.fixture
def world() -> World:
    return World()


async def paused(at: Running, handle: ExecutionHandle[Any]) -> dict[str, Any]:
    """What is told of an execution once it is paused."""
    await at.reached(handle, "paused")
    await until(lambda: handle.id not in {activation.id for activation in at.worker.active})
    return await at.client.get_execution(handle.id)


@pytest.mark.parametrize("partitions", [1, 4])
async def test_a_paused_execution_goes_on_from_its_journal(
    partitions: int, world: World, redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(ctx: WorkflowContext) -> list[Any]:
        number = await ctx.step.uuid("number")
        await ctx.step.run("good", world.works, "good")
        await ctx.step.run("bad", world.breaks, "bad", max_retries=1, base_delay=0)
        return [str(number), ctx.run]

    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, flow(work)) as worker,
    ):
        at = Running(client, worker)
        handle = await at.client.invoke(flow(work))
        result = asyncio.create_task(handle.result())
        found = await paused(at, handle)
        message = "StepExecutionError: step 'bad' failed (tried 2 times): LookupError: no bad"
        assert (found["reason"], found["stuck"]["kind"]) == (message, "exhausted")
        assert found["error"]["type"] == "StepExecutionError" and "Traceback" in found["error"]["traceback"]
        (record,) = [vars(one) for one in caplog.records if one.getMessage() == "paused"]
        assert (record["execution"], record["workflow"]) == (handle.id, handle.workflow_id)
        assert (record["step"], record["attempt"], record["error"]) == ("bad", 2, message)
        assert "in breaks" in record["exc_text"] and "in _run\n" not in record["exc_text"]
        assert (found["finished_at"], found["worker"]) == (None, None) and found["started_at"]
        assert not result.done()
        world.broken = False
        assert await at.client.retry(handle.id) == 2
        (number,) = [one["value"] for one in found["steps"] if one["step_key"] == "number"]
        assert await soon(result) == [number, 2]
        assert world.calls == {"good": 1, "bad": 3}
        kinds = [one.event_type for one in await at.events(handle)]
        assert kinds[-5:-3] == ["workflow_paused", "workflow_retry"] and kinds[-1] == "workflow_finish"
        assert kinds.count("workflow_start") == 1
        found = await at.client.get_execution(handle.id)
        assert found["last_error"]["message"] in message and found["stuck"] is None
        with pytest.raises(NotFailedError, match="it is completed, not failed, stuck or paused"):
            await at.client.retry(handle.id)


async def test_code_that_fails_before_its_first_step(redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext) -> int:
        if ctx.run < 3:
            raise ValueError(f"not in run {ctx.run}")
        return ctx.run

    async with running(redis_url, namespace, flow(work)) as at:
        handle = await at.client.invoke(flow(work))
        assert (await paused(at, handle))["reason"] == "ValueError: not in run 1"
        await at.client.retry(handle.id)
        await until(lambda: _reason(at, handle, "ValueError: not in run 2"))
        await at.client.retry(handle.id)
        assert await at.result(handle) == 3
        assert [one.event_type for one in await at.events(handle)] == [
            *("workflow_start", "workflow_paused", "workflow_retry"),
            *("workflow_paused", "workflow_retry", "workflow_finish"),
        ]


async def _reason(at: Running, handle: ExecutionHandle[Any], words: str) -> bool:
    return bool((await at.client.get_execution(handle.id))["reason"] == words)


async def test_its_own_retries_come_first_and_are_counted_anew(
    world: World, redis_url: str, namespace: str
) -> None:
    async def work(ctx: WorkflowContext) -> int:
        await ctx.step.run("bad", world.breaks, "bad", max_retries=0)
        return ctx.run

    work_flow = flow(work, retries=2, retry_delay=0)
    async with running(redis_url, namespace, work_flow) as at:
        handle = await at.client.invoke(work_flow)
        assert (await paused(at, handle))["run"] == 3
        await at.client.retry(handle.id)
        await until(lambda: _run(at, handle, "paused", 6))
        world.broken = False
        await at.client.retry(handle.id)
        assert await at.result(handle) == 7
        assert world.calls == {"bad": 7}


async def _run(at: Running, handle: ExecutionHandle[Any], status: str, run: int) -> bool:
    found = await at.client.get_execution(handle.id)
    return (found["status"], found["run"]) == (status, run)


async def test_its_open_waits_stay_and_are_answered_meanwhile(
    world: World, redis_url: str, namespace: str
) -> None:
    asked: list[str] = []

    async def work(ctx: WorkflowContext) -> list[Any]:
        asked.append("code")
        review, _, _ = await asyncio.gather(
            ctx.step.suspend("review", timeout=3600),
            ctx.step.wait_for("pause", hours=1),
            ctx.step.run("bad", world.breaks, "bad", max_retries=0),
        )
        return [review["data"], (await ctx.step.suspend("approval"))["data"]]

    async with running(redis_url, namespace, flow(work)) as at:
        handle = await at.client.invoke(flow(work))
        before = await paused(at, handle)
        assert sorted((one["kind"], one["step_key"]) for one in before["waits_for"]) == [
            ("person", "review"),
            ("time", "pause"),
        ]
        await at.answer(handle, "review", "fine")
        assert await handle.status() == "paused" and len(asked) == 1
        world.broken = False
        await at.client.retry(handle.id)
        await at.parked(handle)
        after = await at.client.get_execution(handle.id)
        assert after["waits_for"] == [one for one in before["waits_for"] if one["kind"] == "time"]
        await at.make_due(handle, "pause", "w")
        await at.opened(handle, "approval")
        await at.answer(handle, "approval", "ok")
        assert await at.result(handle) == ["fine", "ok"]


async def test_a_parent_waits_for_a_paused_child(world: World, redis_url: str, namespace: str) -> None:
    async def kid(ctx: WorkflowContext) -> str:
        return await ctx.step.run("bad", world.breaks, "bad", max_retries=0)

    child = flow(kid, internal=True)

    async def work(ctx: WorkflowContext) -> str:
        return await ctx.step.invoke_and_wait("kid", child)

    parent = flow(work, on_exhausted="fail")
    async with running(redis_url, namespace, parent, child) as at:
        handle = await at.client.invoke(parent)
        await at.parked(handle)
        (row,) = (await at.client.get_execution(handle.id))["children"]
        one: ExecutionHandle[Any] = at.client.get_handle(row["id"])
        await paused(at, one)
        assert await handle.status() == "waiting"
        world.broken = False
        await at.client.retry(one.id)
        assert await at.result(handle) == "bad"
        with pytest.raises(InternalWorkflowError):
            await at.client.retry(one.id)


async def test_a_paused_parent_starts_a_failed_child_again(
    world: World, redis_url: str, namespace: str
) -> None:
    async def kid(ctx: WorkflowContext) -> str:
        await ctx.step.run("good", world.works, "good")
        return await ctx.step.run("bad", world.breaks, "bad", max_retries=0)

    child = flow(kid, on_exhausted="fail")

    async def work(ctx: WorkflowContext) -> str:
        return await ctx.step.invoke_and_wait("kid", child)

    async with running(redis_url, namespace, flow(work), child) as at:
        handle = await at.client.invoke(flow(work))
        await paused(at, handle)
        world.broken = False
        await at.client.retry(handle.id)
        assert await at.result(handle) == "bad"
        assert world.calls == {"good": 1, "bad": 2}


async def test_a_cancel_or_the_run_timeout_ends_it(world: World, redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext) -> None:
        await ctx.step.run("bad", world.breaks, "bad", max_retries=0)

    work_flow = flow(work)
    async with running(redis_url, namespace, work_flow) as at:
        cancelled, late = [await at.client.invoke(work_flow, run_timeout_seconds=3600) for _ in range(2)]
        for one in (cancelled, late):
            await paused(at, one)
        await at.client.cancel(cancelled.id, cancelled_by="ann")
        with pytest.raises(ExecutionCancelledError):
            await at.result(cancelled)
        store = await at.client.store()
        timers = store.partitions.prefix(late.id) + b"timers"
        await store.wire.call("ZADD", timers, "XX", 1, f"t{late.id}")
        with pytest.raises(ExecutionFailedError, match="WorkflowTimeoutError"):
            await at.result(late)
        timeout = "WorkflowTimeoutError: it did not finish within its 3600 seconds"
        for one, reason in ((cancelled, None), (late, timeout)):
            found = await at.client.get_execution(one.id)
            assert (found["stuck"], found["reason"]) == (None, reason)


async def test_an_input_that_does_not_fit_fails_it(redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext, input: int) -> None: ...

    async with running(redis_url, namespace, flow(work)) as at:
        handle = await at.client.invoke("work", "seven")
        with pytest.raises(ExecutionFailedError, match="InvalidInputError"):
            await at.result(handle)


async def test_retries_cancels_and_answers_race(world: World, redis_url: str, namespace: str) -> None:
    """Of many at once, each has its effect once, in some order."""

    async def work(ctx: WorkflowContext) -> list[Any]:
        opened = asyncio.ensure_future(ctx.step.suspend("review"))
        await ctx.step.run("bad", world.breaks, "bad", max_retries=0)
        return [(await opened)["data"], ctx.run]

    work_flow = flow(work)
    async with running(redis_url, namespace, work_flow) as at:
        for number in range(12):
            world.broken = True
            handle = await at.client.invoke(work_flow)
            await paused(at, handle)
            world.broken = False
            calls = [
                *(at.client.retry(handle.id) for _ in range(3)),
                *(at.answer(handle, "review", "yes") for _ in range(2)),
                *((at.client.cancel(handle.id),) if number % 3 == 2 else ()),
            ]
            found = await soon(asyncio.gather(*calls, return_exceptions=True))
            assert all(isinstance(one, PolosError) for one in found if isinstance(one, BaseException)), found
            if number % 3 == 2:
                with pytest.raises(ExecutionCancelledError):
                    await at.result(handle)
            else:
                assert await at.result(handle) == ["yes", 2]
                assert {one for one in found[:3] if isinstance(one, int)} == {2}


@pytest.mark.failure(9)
async def test_an_execution_that_kills_every_worker_is_paused(fleet: Fleet, client: PolosClient) -> None:
    handle = await deadly_pausing.invoke(client, {"always": True})
    supervisor = asyncio.create_task(keep_one_running(fleet, lease_seconds=0.3, max_deliveries=2))

    async def is_paused() -> bool:
        return await handle.status() == "paused"

    await until(is_paused)
    found = await client.get_execution(handle.id)
    assert found["reason"].startswith("WorkerLostError: its worker was lost 2 times in a row while it ran")
    assert (found["error"]["type"], found["lost_deliveries"]) == ("WorkerLostError", 0)
    fleet.effects_file.with_name("mended").touch()
    await client.retry(handle.id)
    assert await handle.result(timeout=30) == "lived"
    supervisor.cancel()
    kinds = [
        event.event_type async for event in events.stream_workflow(client, handle.root_workflow_id, handle.id)
    ]
    assert kinds.count("workflow_paused") == 1


@pytest.mark.parametrize("value", ["stop", None, True, ["pause"]])
def test_another_value_is_refused(value: Any) -> None:
    async def work(ctx: WorkflowContext) -> None: ...

    with pytest.raises(ConfigurationError, match='workflow \'work\': on_exhausted must be "fail" or "pause"'):
        Workflow(work, "work", on_exhausted=value)
