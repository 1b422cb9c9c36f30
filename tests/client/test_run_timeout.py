"""`run_timeout_seconds`: a run that is late fails, waiting included, and its descendants end with it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from polos_redis import (
    BatchWorkflowInput,
    ConfigurationError,
    ExecutionFailedError,
    ExecutionHandle,
    PolosClient,
    StepExecutionError,
    Workflow,
    WorkflowContext,
)
from tests.harness.running import Running, running, until, working

HOUR = 3600.0
SHORT = 0.1  # seconds: for executions that need not get anywhere before it has passed


@pytest.fixture(params=[1, 4], ids=["one-partition", "four-partitions"])
async def many(request: pytest.FixtureRequest, redis_url: str, namespace: str) -> Any:
    """A client of a namespace with one partition, or several."""
    async with PolosClient(redis_url, namespace, partitions=request.param) as client:
        yield client


def flow(body: Any, **options: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__, **options)


@flow
async def asks(ctx: WorkflowContext, input: Any) -> Any:
    await ctx.step.run("before", lambda: None)
    await ctx.step.suspend("ok", timeout=3600)
    await ctx.step.run("after", lambda: None)


async def timed_out(at: Running, handle: ExecutionHandle[Any]) -> str:
    """Waits for the end, which must be a timeout; returns its message."""
    with pytest.raises(ExecutionFailedError) as failed:
        await at.result(handle)
    assert failed.value.error_type == "WorkflowTimeoutError"
    return failed.value.error_message


async def timers(client: PolosClient, handle: ExecutionHandle[Any]) -> list[bytes]:
    store = await client.store()
    found: list[bytes] = await store.wire.call(
        "ZRANGE", store.partitions.prefix(handle.id) + b"timers", 0, -1
    )
    return found


async def deadline(client: PolosClient, handle: ExecutionHandle[Any]) -> datetime:
    store = await client.store()
    score = await store.wire.call("ZSCORE", store.partitions.prefix(handle.id) + b"timers", "t" + handle.id)
    return datetime.fromtimestamp(float(score) / 1000, UTC)


async def expire(client: PolosClient, handle: ExecutionHandle[Any]) -> None:
    """Moves an execution's deadline into the past."""
    store = await client.store()
    timers = store.partitions.prefix(handle.id) + b"timers"
    assert await store.wire.call("ZADD", timers, "XX", "CH", 1, "t" + handle.id) == 1


@pytest.mark.parametrize("where", ["at invoke", "on the workflow", "on the workflow, by its id"])
async def test_waiting_counts(where: str, many: PolosClient) -> None:
    workflow = asks if where == "at invoke" else Workflow(asks.function, "asks", run_timeout_seconds=HOUR)
    options: Any = {"run_timeout_seconds": HOUR} if where == "at invoke" else {}
    async with working(many, workflow) as worker:
        at = Running(many, worker)
        chosen: Any = "asks" if where.endswith("id") else workflow
        handle = await many.invoke(chosen, **options)
        await at.parked(handle)
        created = datetime.fromisoformat((await many.get_execution(handle.id))["created_at"])
        assert abs((await deadline(many, handle) - created).total_seconds() - HOUR) < 1
        await expire(many, handle)
        assert await timed_out(at, handle) == "it did not finish within its 3600 seconds"
        seen = await many.get_execution(handle.id)
        assert seen["open_suspensions"] == []
        assert [step["step_key"] for step in seen["steps"]] == ["before"]
        assert await timers(many, handle) == []
        emitted = await at.events(await many.get_handle(handle.id))
        assert emitted[-1].data == {
            "status": "failed",
            "error": "WorkflowTimeoutError: it did not finish within its 3600 seconds",
        }


async def test_running_code_is_stopped(redis_url: str, namespace: str) -> None:
    seen = []

    async def hang() -> None:
        seen.append("began")
        await asyncio.get_running_loop().create_future()

    @flow
    async def hangs(ctx: WorkflowContext) -> None:
        try:
            await ctx.step.run("hang", hang)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await ctx.step.run("after", lambda: seen.append("too late"))

    async with running(redis_url, namespace, hangs) as at:
        handle = await hangs.invoke(at.client, run_timeout_seconds=HOUR)
        await until(lambda: seen)
        await expire(at.client, handle)
        await timed_out(at, handle)
        await until(lambda: len(seen) == 2 and not at.worker.active)
        assert seen == ["began", "cancelled"]


async def test_an_execution_in_time_leaves_no_timer(redis_url: str, namespace: str) -> None:
    @flow
    async def quick(ctx: WorkflowContext) -> str:
        return "done"

    async with running(redis_url, namespace, quick) as at:
        handle = await quick.invoke(at.client, run_timeout_seconds=HOUR)
        assert await at.result(handle) == "done"
        assert await timers(at.client, handle) == []


async def test_a_delay_before_the_start_does_not_count(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await asks.invoke(client, start_delay=60, run_timeout_seconds=30)
        store = await client.store()
        key = store.partitions.prefix(handle.id) + b"timers"
        starts, ends = [float(await store.wire.call("ZSCORE", key, kind + handle.id)) for kind in "pt"]
        assert ends - starts == 30_000
        await handle.cancel()


async def test_descendants_end_with_it(many: PolosClient) -> None:
    @flow
    async def middle(ctx: WorkflowContext, input: Any) -> None:
        await ctx.step.invoke_and_wait("asks", asks)

    @flow
    async def top(ctx: WorkflowContext) -> None:
        await ctx.step.batch_invoke_and_wait("all", [BatchWorkflowInput(middle) for _ in range(3)])

    async with working(many, top, middle, asks) as worker:
        at = Running(many, worker)
        handle = await top.invoke(many, run_timeout_seconds=HOUR)

        async def below(status: str) -> bool:
            rows = await many.list_executions(status=status)
            return len([row for row in rows if row["id"] != handle.id]) == 6

        await until(lambda: below("waiting"), "all below to wait")
        await expire(many, handle)
        await timed_out(at, handle)
        await until(lambda: below("cancelled"), "all below to end")
        for row in await many.list_executions(status="cancelled"):
            assert (await many.get_execution(row["id"]))["cancelled_by"].startswith("the end of " + handle.id)
        assert await timers(many, handle) == []


async def test_a_childs_own_timeout_is_its_failure(redis_url: str, namespace: str) -> None:
    @flow
    async def parent(ctx: WorkflowContext) -> list[str]:
        try:
            await ctx.step.invoke_and_wait("one", asks, run_timeout_seconds=SHORT)
        except StepExecutionError as error:
            types = [error.error_type]
        batch = [BatchWorkflowInput(asks, run_timeout_seconds=SHORT)]
        (one,) = await ctx.step.batch_invoke_and_wait("batch", batch)
        return [*types, one.error or ""]

    async with running(redis_url, namespace, parent, asks) as at:
        one, many = await at.result(await parent.invoke(at.client))
        assert one == "WorkflowTimeoutError"
        assert many == "WorkflowTimeoutError: it did not finish within its 0.1 seconds"


async def test_its_own_retries_are_part_of_the_run(redis_url: str, namespace: str) -> None:
    """A timeout is final, and the pauses between the runs count."""
    runs = []

    async def body(ctx: WorkflowContext) -> None:
        runs.append(ctx.run)
        raise LookupError("again")

    stubborn: Workflow[None, None] = Workflow(
        body, "stubborn", retries=1000, retry_delay=0.01, run_timeout_seconds=HOUR
    )
    async with running(redis_url, namespace, stubborn) as at:
        handle = await stubborn.invoke(at.client)
        await until(lambda: len(runs) > 2)
        await expire(at.client, handle)
        await timed_out(at, handle)
        seen = await at.client.get_execution(handle.id)
        assert (seen["status"], seen["last_error"]["type"]) == ("failed", "LookupError")
        assert await timers(at.client, handle) == []


async def test_a_retry_has_the_whole_time_again(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await asks.invoke(at.client, run_timeout_seconds=HOUR)
        before = await deadline(at.client, handle)
        await expire(at.client, handle)
        await timed_out(at, handle)
        assert await at.client.retry(handle.id) == 2
        assert await deadline(at.client, handle) > before
        await expire(at.client, handle)
        await timed_out(at, handle)
        seen = await at.client.get_execution(handle.id)
        assert (seen["run"], seen["last_error"]["type"]) == (2, "WorkflowTimeoutError")


@pytest.mark.parametrize("wrong", [0, -1, "soon", float("nan"), True])
async def test_an_invalid_timeout_is_refused(wrong: Any, client: PolosClient) -> None:
    with pytest.raises(ValueError, match="run_timeout_seconds must be a positive number"):
        await client.invoke("asks", run_timeout_seconds=wrong)
    with pytest.raises(ConfigurationError, match="run_timeout_seconds"):
        Workflow(asks.function, "wrong", run_timeout_seconds=wrong)
    assert list(await client.list_executions()) == []
