"""Stopping a worker: SIGTERM lets steps finish, hands the rest back at once, and loses nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from polos_redis import PolosClient, Worker, WorkflowContext, workflow
from polos_redis.state import keys
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import chain, gated, in_thread
from tests.harness.running import until, working
from tests.harness.servers import ChaosServer

LONG = 600.0  # no test waits for this lease to expire: work that continues was handed back


async def pending(client: PolosClient) -> list[int]:
    """The number of entries each consumer holds."""
    store, held = await client.store(), Counter[bytes]()
    for prefix in store.prefixes:
        for row in await store.wire.call("XINFO", "CONSUMERS", prefix + b"queue:default", keys.GROUP):
            facts = dict(zip(row[::2], row[1::2], strict=True))
            held[facts[b"name"]] += facts[b"pending"]
    return list(held.values())


@pytest.mark.failure(8)
async def test_sigterm_under_load_loses_nothing_and_runs_nothing_twice(
    fleet: Fleet, client: PolosClient
) -> None:
    leaving = [await fleet.start(lease_seconds=LONG, concurrency=10) for _ in range(2)]
    handles = [await chain.invoke(client, {"steps": 4, "pause": 0.02}) for _ in range(150)]
    await until(lambda: len(fleet.counts()) >= 20)
    for worker in leaving:
        worker.terminate()
    await fleet.start(lease_seconds=LONG)
    for worker in leaving:
        assert await worker.ended() == 0
    for handle in handles:
        assert await handle.result(timeout=20) == [0, 1, 2, 3]
        assert fleet.counts()[handle.id] == {f"step-{number}": 1 for number in range(4)}
    assert len({pid for handle in handles for _, pid in fleet.effects(handle.id)}) == 3
    assert await pending(client) == [0], "workers that left removed their consumers"


@pytest.mark.failure(8)
async def test_a_step_longer_than_the_grace_period_is_handed_back(fleet: Fleet, client: PolosClient) -> None:
    leaving = await fleet.start(lease_seconds=LONG, grace_seconds=0.3)
    handle = await gated.invoke(client, {"gate": "go"})
    await fleet.seen(handle.id, "two")
    leaving.terminate()
    assert await leaving.ended() == 0
    assert (await client.get_execution(handle.id))["lost_deliveries"] == 0
    heir = await fleet.start(lease_seconds=LONG)
    await fleet.seen(handle.id, "two", times=2)
    fleet.open("go")
    assert await handle.result(timeout=20) == [leaving.pid, heir.pid, heir.pid]


@pytest.mark.failure(8)
async def test_a_second_sigterm_stops_at_once(fleet: Fleet, client: PolosClient) -> None:
    leaving = await fleet.start(lease_seconds=LONG, grace_seconds=LONG)
    handle = await gated.invoke(client, {"gate": "go"})
    await fleet.seen(handle.id, "two")
    leaving.terminate()
    await leaving.said("worker stops")
    assert leaving.running
    leaving.terminate()
    assert await leaving.ended() == 0
    heir = await fleet.start(lease_seconds=LONG)
    fleet.open("go")
    assert await handle.result(timeout=20) == [leaving.pid, heir.pid, heir.pid]


@pytest.mark.failure(8)
async def test_a_thread_that_outlasts_the_grace_period_does_not_delay_the_exit(
    fleet: Fleet, client: PolosClient
) -> None:
    leaving = await fleet.start(lease_seconds=LONG, grace_seconds=0.3)
    handle = await in_thread.invoke(client, LONG)
    await fleet.seen(handle.id, "hold")
    leaving.terminate()
    assert await leaving.ended() == 0
    await client.cancel(handle.id)


@pytest.mark.failure(8, 13)
async def test_a_worker_can_be_stopped_during_an_outage_of_redis(
    chaos_server: ChaosServer, namespace: str, tmp_path: Path
) -> None:
    with Fleet(chaos_server.url, namespace, tmp_path) as fleet:
        async with PolosClient(chaos_server.url, namespace) as client:
            worker = await fleet.start(lease_seconds=3, grace_seconds=0.3)
            handle = await gated.invoke(client, {"gate": "go"})
            await fleet.seen(handle.id, "two")
            await asyncio.to_thread(chaos_server.kill)
            worker.terminate()
            assert await worker.ended() == 0
            await asyncio.to_thread(chaos_server.start)
            heir = await fleet.start(lease_seconds=1)
            fleet.open("go")
            assert await handle.result(timeout=20) == [worker.pid, heir.pid, heir.pid]


@pytest.mark.failure(11)
async def test_a_busy_worker_leaves_the_rest_to_others(fleet: Fleet, client: PolosClient) -> None:
    first = await fleet.start(concurrency=2, lease_seconds=LONG)
    handles = [await gated.invoke(client, {"gate": "go"}) for _ in range(10)]

    def started(pid: int) -> int:
        lines = [line.split() for line in fleet.effects_file.read_text().splitlines()]
        return sum(line[1] == "two" and line[2] == str(pid) for line in lines)

    await until(lambda: started(first.pid) == 2)
    second = await fleet.start(concurrency=3, lease_seconds=LONG)
    await until(lambda: started(second.pid) == 3)
    assert sorted(await pending(client)) == [2, 3]
    assert started(first.pid) == 2
    fleet.open("go")
    for handle in handles:
        await handle.result(timeout=20)
    assert started(first.pid) + started(second.pid) == 10


@workflow(id="drain-at-work")
async def at_work(ctx: WorkflowContext, where: str) -> str:
    async def work() -> str:
        _begun.append(where)
        if len(_begun) == 1:
            await asyncio.sleep(3600)
        return "done"

    return await ctx.step.run("work", work) if where == "in a step" else await work()


_begun: list[str] = []


@pytest.mark.failure(8)
@pytest.mark.parametrize("where", ["in a step", "between steps"])
def test_a_loop_that_ends_with_its_worker_running_decides_nothing(
    redis_url: str, namespace: str, where: str
) -> None:
    """asyncio.run cancels all remaining tasks, but that fails neither the step nor the workflow."""
    _begun.clear()

    async def leave_it_at_work() -> str:
        client = PolosClient(redis_url, namespace)
        worker = Worker(client, [at_work], handle_signals=False, lease_seconds=1)
        run = asyncio.create_task(worker.run())
        await worker.ready.wait()
        handle = await at_work.invoke(client, where)
        await until(lambda: _begun and not run.done())
        return handle.id

    async def go_on(execution_id: str) -> str:
        async with PolosClient(redis_url, namespace) as client, working(client, at_work):
            result: str = await client.get_handle(execution_id).result(timeout=20)
            return result

    assert asyncio.run(go_on(asyncio.run(leave_it_at_work()))) == "done"
    assert _begun == [where, where]


async def test_a_worker_cancelled_while_it_drains_leaves_no_task(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    _begun.clear()
    caplog.set_level("INFO", "polos.worker")
    before = asyncio.all_tasks()
    async with PolosClient(redis_url, namespace) as client:
        worker = Worker(client, [at_work], handle_signals=False)
        run = asyncio.create_task(worker.run())
        await worker.ready.wait()
        handle = await at_work.invoke(client, "in a step")
        await until(lambda: bool(_begun))
        worker.stop()
        await until(lambda: "worker stops" in caplog.messages)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await client.cancel(handle.id)
    await until(lambda: asyncio.all_tasks() <= before, "the end of the worker's tasks")
