"""Several partitions: every queue is served, and a read takes no more entries than there are free slots."""

from __future__ import annotations

import asyncio

import pytest

from polos_redis import ConfigurationError, PolosClient, WorkflowContext, workflow
from polos_redis.state import keys
from polos_redis.worker.read_loop import Reading
from tests.harness.running import in_partition, soon, until, working

pytestmark = pytest.mark.also_on_cluster

PARTITIONS = 8


@workflow(id="partitions-held")
async def held(ctx: WorkflowContext, number: int) -> int:
    await _gate.wait()
    return number


@workflow(id="partitions-once")
async def runs_once(ctx: WorkflowContext, wait: bool) -> None:
    async def run() -> None:
        _runs.append(ctx.execution_id)
        if wait:
            await _gate.wait()

    await ctx.step.run("run", run)


@workflow(id="partitions-asks")
async def asks(ctx: WorkflowContext) -> str:
    answer: str = (await ctx.step.suspend("ask", timeout=60))["data"]
    return answer


_gate = asyncio.Event()
_runs: list[str] = []


@pytest.mark.failure(40)
async def test_a_worker_with_few_slots_takes_no_more_than_it_can_start(
    redis_url: str, namespace: str
) -> None:
    global _gate
    _gate = asyncio.Event()
    async with PolosClient(redis_url, namespace, partitions=PARTITIONS) as client:
        handles = [await held.invoke(client, number) for number in range(40)]
        assert len({keys.partition_of(handle.id, PARTITIONS) for handle in handles}) > 3
        async with working(client, held, concurrency=3) as worker:
            await until(lambda: len(worker.active) == 3)
            store = await client.store()
            pending = 0
            for prefix in store.prefixes:
                row = await store.wire.call("XPENDING", prefix + b"queue:default", keys.GROUP)
                pending += row[0]
            assert pending == 3
            _gate.set()
            assert [await soon(handle.result()) for handle in handles] == list(range(40))


@pytest.mark.parametrize("concurrency", [2, 12])
async def test_one_busy_partition_gets_all_slots_while_the_others_are_still_read(
    concurrency: int, redis_url: str, namespace: str
) -> None:
    global _gate
    _gate = asyncio.Event()
    async with (
        PolosClient(redis_url, namespace, partitions=PARTITIONS) as client,
        working(client, held, concurrency=concurrency) as worker,
    ):
        busy = [await in_partition(client, 0, held, number) for number in range(2 * concurrency)]
        await until(lambda: len(worker.active) == concurrency)
        other = await in_partition(client, 1, held, -1)
        _gate.set()
        assert await soon(other.result()) == -1
        assert [await soon(handle.result()) for handle in busy] == list(range(2 * concurrency))


async def test_entries_with_the_same_id_in_two_partitions_are_told_apart(
    redis_url: str, namespace: str
) -> None:
    """Redis derives stream ids from its clock, so two streams may produce the same one."""
    global _gate
    _gate = asyncio.Event()
    _runs.clear()
    async with PolosClient(redis_url, namespace, partitions=3) as client:
        store = await client.store()
        here = await in_partition(client, 0, runs_once, False)
        there = await in_partition(client, 1, runs_once, True)
        first, second = (store.partitions.prefix(handle.id) + b"queue:default" for handle in (here, there))
        ((entry, _),) = await store.wire.call("XRANGE", first, "-", "+")
        ((_, flat),) = await store.wire.call("XRANGE", second, "-", "+")
        await store.wire.call("DEL", second)
        await store.wire.call("XADD", second, entry, *flat)
        await store.wire.call("HSET", store.prefixes[1] + b"exec:" + there.id.encode(), "entry", entry)
        async with working(client, runs_once, lease_seconds=0.3) as worker:
            looks = 0

            def count(reading: Reading) -> None:
                reconcile = reading.reconcile

                async def counted() -> None:
                    nonlocal looks
                    await reconcile()
                    looks += 1

                reading.reconcile = counted  # type: ignore[method-assign]

            for reading in worker._readings:
                count(reading)
            await soon(here.result())
            seen = looks
            await until(lambda: looks >= seen + 3, "the worker to look for what never arrived")
            _gate.set()
            await soon(there.result())
        assert sorted(_runs) == sorted([here.id, there.id])


async def test_suspensions_and_listings_span_all_partitions(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace, partitions=PARTITIONS) as client, working(client, asks):
        handles = [await asks.invoke(client) for _ in range(20)]

        async def all_wait() -> bool:
            return len(await client.list_suspensions()) == 20

        await until(all_wait)
        assert {row["id"] for row in await client.list_executions(status="waiting")} == {
            h.id for h in handles
        }
        first = await client.list_suspensions(limit=12)
        rest = await client.list_suspensions(limit=12, cursor=first.next_cursor)
        seen = [row["execution_id"] for row in (*first, *rest)]
        assert sorted(seen) == sorted(handle.id for handle in handles)
        for handle in handles:
            await client.resume(suspend_execution_id=handle.id, suspend_step_key="ask", data=handle.id)
        assert [await soon(handle.result()) for handle in handles] == [handle.id for handle in handles]


async def test_another_number_of_partitions_is_refused(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace, partitions=3) as client:
        await client.list_executions()
    async with PolosClient(redis_url, namespace, partitions=4) as other:
        with pytest.raises(ConfigurationError, match="has 3 partitions, not 4"):
            await other.list_executions()
