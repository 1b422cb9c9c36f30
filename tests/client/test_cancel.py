"""Cancelling ends an execution and its whole tree, whatever they are doing and whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polos_redis import (
    BatchWorkflowInput,
    ExecutionHandle,
    PolosClient,
    StepExecutionError,
    Workflow,
    WorkflowContext,
    events,
)
from tests.harness.fleet import Fleet
from tests.harness.running import Running, running, until, working

CHILDREN = 250  # more than one script call ends


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


@flow
async def leaf(ctx: WorkflowContext, input: Any) -> None:
    await asyncio.gather(
        ctx.step.suspend("ok", timeout=3600),
        ctx.step.wait_for("while", hours=1),
        ctx.step.wait_for_event("news", "weather", timeout=3600),
    )
    await ctx.step.run("never", lambda: None)


@flow
async def branch(ctx: WorkflowContext, input: Any) -> None:
    await ctx.step.invoke("alone", leaf)
    await ctx.step.invoke_and_wait("leaf", leaf)


@flow
async def tree(ctx: WorkflowContext) -> None:
    await ctx.step.batch_invoke_and_wait("branches", [BatchWorkflowInput(branch) for _ in range(2)])


async def statuses(client: PolosClient) -> list[str]:
    return [row["status"] for row in await client.list_executions(limit=1000)]


async def all_are(client: PolosClient, status: str, count: int) -> None:
    async def there() -> bool:
        return await statuses(client) == [status] * count

    await until(there, f"{count} executions to be {status}")


async def left(client: PolosClient, handle: ExecutionHandle[Any]) -> list[Any]:
    """State that must be gone: timers, inbox rows, subscriptions, and the set of children."""
    store = await client.store()
    prefix = store.partitions.prefix(handle.id)
    found = [await store.wire.call("ZRANGE", prefix + name, 0, -1) for name in (b"timers", b"suspensions")]
    found.append(await store.wire.call("KEYS", prefix.replace(b"{", b"\\{") + b"children:*"))
    return [row for rows in found for row in rows]


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.promise("cancel")
async def test_a_waiting_tree_ends_with_its_root(partitions: int, redis_url: str, namespace: str) -> None:
    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, tree, branch, leaf) as worker,
    ):
        at = Running(client, worker)
        handle = await tree.invoke(client)
        await all_are(client, "waiting", 7)
        await handle.cancel(cancelled_by="alice")
        assert await handle.status() == "cancelled"
        await all_are(client, "cancelled", 7)
        assert await left(client, handle) == []

        for row in await client.list_executions():
            seen = await client.get_execution(row["id"])
            assert seen["cancelled_by"] == "alice"
            assert seen["open_suspensions"] == [] and seen["steps"] == []
            assert {wait["status"] for wait in seen["waits"]} <= {"closed"}
        finishes = [event async for event in _stream(client, handle, 7)]
        assert {event.data["status"] for event in finishes} == {"cancelled"}
        assert {event.data["cancelled_by"] for event in finishes} == {"alice"}
        assert len({event.metadata["execution_id"] for event in finishes}) == 7
        assert not at.worker.active


async def _stream(client: PolosClient, handle: ExecutionHandle[Any], finishes: int) -> Any:
    """Yields the finish events of a tree."""
    async with asyncio.timeout(20):
        async for event in events.stream_topic(client, handle.id):
            if event.event_type == "workflow_finish":
                yield event
                finishes -= 1
            if not finishes:
                return


@pytest.mark.promise("cancel")
async def test_running_code_gets_a_cancelled_error_and_no_step_starts(redis_url: str, namespace: str) -> None:
    started: set[str] = set()
    cancelled: set[str] = set()
    after: list[str] = []

    async def held(name: str) -> None:
        started.add(name)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.add(name)
            raise

    async def too_late() -> None:
        after.append("ran")

    @flow
    async def in_step(ctx: WorkflowContext, input: str) -> None:
        try:
            await ctx.step.run("held", held, input)
        finally:
            await ctx.step.run("after", too_late)

    @flow
    async def in_code(ctx: WorkflowContext, input: str) -> None:
        if input == "woken":  # it was woken with its journal and has written nothing
            await ctx.step.suspend("ok")
        try:
            await held(input)
        except asyncio.CancelledError:
            await ctx.step.run("after", too_late)

    @flow
    async def parent(ctx: WorkflowContext) -> None:
        await ctx.step.invoke("in code", in_code, "in code")
        await ctx.step.invoke("woken", in_code, "woken")
        await ctx.step.invoke("below", in_step, "below")
        await ctx.step.run("held", held, "parent")

    async with running(redis_url, namespace, parent, in_step, in_code) as at:
        handle = await parent.invoke(at.client)
        await until(lambda: started == {"in code", "below", "parent"})
        (woken,) = await at.client.list_suspensions()
        await at.answer(at.client.get_handle(woken["execution_id"]), "ok")
        await until(lambda: "woken" in started)
        await at.client.cancel(handle.id)
        await until(lambda: cancelled == {"in code", "woken", "below", "parent"})
        await until(lambda: not at.worker.active)
        await all_are(at.client, "cancelled", 4)
        assert after == []
        for row in await at.client.list_executions():
            seen = await at.client.get_execution(row["id"])
            assert "after" not in {step["step_key"] for step in seen["steps"]}


async def test_the_children_of_a_finished_child_are_descendants_too(redis_url: str, namespace: str) -> None:
    @flow
    async def starts_one(ctx: WorkflowContext, input: int) -> str:
        if input:
            return str(await ctx.step.invoke_and_wait("deeper", starts_one, input - 1))
        return (await ctx.step.invoke("leaf", leaf)).id

    @flow
    async def parent(ctx: WorkflowContext, input: int) -> None:
        await ctx.step.invoke_and_wait("begins one", starts_one, input)
        await ctx.step.suspend("ok")

    async def orphaned(client: PolosClient) -> str:
        async def there() -> Any:
            return await client.list_executions(workflow=leaf, status="waiting")

        (row,) = await until(there)
        return str(row["id"])

    async with running(redis_url, namespace, parent, starts_one, leaf) as at:
        handle = await parent.invoke(at.client, 2)
        await at.parked(handle)
        await at.opened(handle, "ok")
        orphan = await orphaned(at.client)
        await handle.cancel(cancelled_by="ana")
        await at.reached(at.client.get_handle(orphan), "cancelled")
        assert (await at.client.get_execution(orphan))["cancelled_by"] == "ana"

        other = await parent.invoke(at.client, 2)
        await at.opened(other, "ok")
        await at.client.cancel(await orphaned(at.client))
        await at.answer(other, "ok")
        await at.result(other)
        assert await left(at.client, other) == [], "each is released when nothing below it is running"


@pytest.mark.parametrize("when", ["before it starts", "between its runs"])
async def test_an_execution_that_has_not_started_its_run_is_cancelled(
    when: str, redis_url: str, namespace: str
) -> None:
    ran = []

    async def body(ctx: WorkflowContext) -> None:
        ran.append(ctx.run)
        raise LookupError("once more")

    retrying: Workflow[None, None] = Workflow(body, "again", retries=3, retry_delay=3600)
    async with running(redis_url, namespace, retrying) as at:
        if when == "before it starts":
            handle = await retrying.invoke(at.client, start_delay=3600)
        else:
            handle = await retrying.invoke(at.client)

            async def second() -> bool:
                return bool((await at.client.get_execution(handle.id))["run"] == 2)

            await until(second, "its second run to be set")
        before = list(ran)
        await at.client.cancel(handle.id)
        assert (await at.client.get_execution(handle.id))["status"] == "cancelled"
        assert await left(at.client, handle) == []
        assert ran == before


# --- workers and clients that die meanwhile ---------------------------------------------


@pytest.mark.failure(1)
async def test_an_interrupted_cascade_is_finished_by_the_next_worker(
    fleet: Fleet, client: PolosClient
) -> None:
    """All workers die and the cancelling client leaves; the first hundred have ended with the root."""
    worker = await fleet.start()
    handle = await client.invoke("fan", {"count": CHILDREN, "each": "approval", "first": 3600})
    await until(lambda: _count(client, "waiting", CHILDREN + 1), "all of them to wait")
    worker.kill()
    async with PolosClient(client.url, client.namespace) as canceller:
        await canceller.cancel(handle.id, cancelled_by="ana")
    assert await _count(client, "waiting", CHILDREN - 100)
    assert await _count(client, "cancelled", 101)

    await fleet.start()
    await until(lambda: _count(client, "cancelled", CHILDREN + 1), "all of them to be cancelled")
    assert await left(client, handle) == []
    rows = await client.list_executions(status="cancelled", limit=1000)
    seen = await asyncio.gather(*(client.get_execution(row["id"]) for row in rows))
    assert {one["cancelled_by"] for one in seen} == {"ana"}
    assert all("after" not in counts for counts in fleet.counts().values())


async def _count(client: PolosClient, status: str, count: int) -> bool:
    return len(await client.list_executions(status=status, limit=1000)) == count


async def _is_past(client: PolosClient, handle: ExecutionHandle[Any]) -> bool:
    store = await client.store()
    ended = f"index:ended:{handle.workflow_id}".encode()
    due = await store.wire.call("ZSCORE", store.partitions.prefix(handle.id) + ended, handle.id)
    return bool(int((await store.wire.call("TIME"))[0]) > float(due) / 1000)


async def test_short_retention_keeps_a_parent_until_its_children_have_ended(
    redis_url: str, namespace: str
) -> None:
    @flow
    async def parent(ctx: WorkflowContext) -> None:
        await ctx.step.batch_invoke_and_wait("all", [BatchWorkflowInput(leaf) for _ in range(CHILDREN)])

    async with PolosClient(redis_url, namespace, retention_seconds=0.05) as client:
        async with working(client, parent, leaf):
            handle = await parent.invoke(client)
            await until(lambda: _count(client, "waiting", CHILDREN + 1), "all of them to wait")
        await client.cancel(handle.id)
        await until(lambda: _is_past(client, handle), "its retention to pass while no worker is there")
        async with working(client, leaf):

            async def nothing_left() -> bool:
                return not await client.list_executions() and not await left(client, handle)

            await until(nothing_left, "everything to be forgotten")


async def test_cancelling_below_a_child_raises_in_the_parent(redis_url: str, namespace: str) -> None:
    """Cancelling one branch leaves the rest of the tree alone."""

    @flow
    async def parent(ctx: WorkflowContext) -> str:
        try:
            await ctx.step.invoke_and_wait("branch", branch)
        except StepExecutionError as error:
            return error.error_type
        return "no error"

    async with running(redis_url, namespace, parent, branch, leaf) as at:
        handle = await parent.invoke(at.client)
        await all_are(at.client, "waiting", 4)
        (child,) = (await at.client.get_execution(handle.id))["children"]
        await at.client.cancel(child["id"], cancelled_by="bob")
        assert await at.result(handle) == "ExecutionCancelledError"
        await until(lambda: _count(at.client, "cancelled", 3), "the branch and what is below it")
