"""Worker processes that are killed, frozen or blocked while they work: others take over."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from polos_redis import ExecutionHandle, PolosClient, Workflow
from polos_redis.state import keys
from polos_redis.worker.reaper import BATCH
from tests.harness.fleet import Fleet, WorkerProcess
from tests.harness.fleet_workflows import (
    approval,
    blocking,
    chain,
    gated,
    gated_in_thread,
    in_thread,
    polls,
)
from tests.harness.running import journal_of, until

pytestmark = pytest.mark.also_on_cluster


async def in_step_two(
    fleet: Fleet, client: PolosClient, which: Workflow[Any, list[int]] = gated
) -> tuple[ExecutionHandle[list[int]], WorkerProcess]:
    """An execution in its second step, and the worker that runs it."""
    handle = await which.invoke(client, {"gate": "go"})
    (pid,) = await fleet.seen(handle.id, "two")
    return handle, fleet.of(pid)


def names(fleet: Fleet, handle: ExecutionHandle[Any]) -> list[str]:
    return [name for name, _ in fleet.effects(handle.id)]


async def group(client: PolosClient) -> dict[str, int]:
    """The consumers of the queues' groups, and the number of entries pending for each."""
    store, pending = await client.store(), Counter[str]()
    for prefix in store.prefixes:
        key = prefix + b"queue:default"
        if await store.wire.call("EXISTS", key):
            for row in await store.wire.call("XINFO", "CONSUMERS", key, keys.GROUP, patience=None):
                facts = dict(zip(row[::2], row[1::2], strict=True))
                pending[facts[b"name"].decode()] += facts[b"pending"]
    return dict(pending)


async def workers(client: PolosClient) -> list[str]:
    """The workers that have a lease."""
    store = await client.store()
    found = await store.wire.call("HKEYS", store.prefixes[0] + keys.WORKERS.encode())
    return [name.decode() for name in found]


async def renewals(client: PolosClient, worker: str) -> int:
    """How often a worker has renewed its lease."""
    store = await client.store()
    return int(await store.wire.call("HGET", store.prefixes[0] + keys.WORKERS.encode(), worker))


@pytest.mark.failure(1)
@pytest.mark.promise("step", "effect", "lost worker")
async def test_another_worker_takes_over_from_one_killed_in_a_step(fleet: Fleet, client: PolosClient) -> None:
    await fleet.start()
    await fleet.start()
    handle, victim = await in_step_two(fleet, client)
    victim.kill()
    fleet.open("go")
    result = await handle.result(timeout=20)
    heir = next(worker for worker in fleet.workers if worker is not victim)
    assert result == [victim.pid, heir.pid, heir.pid]
    assert names(fleet, handle) == ["one", "two", "two", "two-through", "three"]
    assert (await client.get_execution(handle.id))["lost_deliveries"] == 0, "the loss no longer counts"


@pytest.mark.failure(1, 55)
@pytest.mark.promise("continue as new")
async def test_runs_that_continue_as_new_survive_killed_workers(fleet: Fleet, client: PolosClient) -> None:
    """Wherever a worker is killed, an execution is in its old run as a whole, or in its new one."""
    await fleet.start()
    victim = await fleet.start()
    runs, steps, kills = 40, 5, 4
    handles = [await polls.invoke(client, {"runs": runs, "steps": steps}) for _ in range(3)]
    for kill in range(1, kills + 1):
        share = len(handles) * runs * steps * kill // (kills + 1)

        def have_happened(share: int = share) -> bool:
            return sum(len(fleet.effects(handle.id)) for handle in handles) >= share

        await until(have_happened, f"{share} steps")
        victim.kill()
        victim = await fleet.start()
    for handle in handles:
        assert await handle.result(timeout=60) == [runs * sum(range(steps)), runs]
        done = names(fleet, handle)
        assert list(dict.fromkeys(done)) == [f"{run}.{step}" for run in range(runs) for step in range(steps)]
        assert len(done) - runs * steps <= kills, "only a step that was running runs again"
        assert (await client.get_execution(handle.id)).continued_in == runs


@pytest.mark.failure(2, 19)
@pytest.mark.promise("two workers")
async def test_a_frozen_worker_that_wakes_after_its_recovery_changes_nothing(
    fleet: Fleet, client: PolosClient
) -> None:
    await fleet.start()
    await fleet.start()
    handle, frozen = await in_step_two(fleet, client, gated_in_thread)
    heir = next(worker for worker in fleet.workers if worker is not frozen)
    frozen.pause()
    await fleet.seen(handle.id, "two", times=2)
    fleet.open("go")
    result = await handle.result(timeout=20)
    assert result == [frozen.pid, heir.pid, heir.pid]
    store = await client.store()
    before = await store.executions.read(handle.id), await journal_of(store, handle.id)

    frozen.resume()  # its step ends now, too late to be journaled
    await fleet.seen(handle.id, "two-through", times=2)
    await frozen.said("dropped")
    assert (await store.executions.read(handle.id), await journal_of(store, handle.id)) == before
    assert names(fleet, handle).count("three") == 1
    heir.terminate()
    assert await heir.ended() == 0
    later = await gated.invoke(client, {"gate": "go"})
    assert await later.result(timeout=20) == [frozen.pid] * 3, "it still works"


@pytest.mark.failure(46)
async def test_a_worker_whose_loop_is_blocked_past_its_lease_is_not_presumed_dead(
    fleet: Fleet, client: PolosClient
) -> None:
    await fleet.start()
    await fleet.start()
    handle = await blocking.invoke(client, 6.0)
    (first,) = await fleet.seen(handle.id, "block")
    assert await handle.result(timeout=60) == first
    assert fleet.effects(handle.id) == [("block", first), ("after", first)]
    log = fleet.of(first).log
    assert "the event loop is blocked" in log
    assert "recovered from a lost worker" not in "".join(worker.log for worker in fleet.workers)


@pytest.mark.promise("lost worker")
async def test_a_worker_with_a_longer_lease_is_judged_by_its_own(fleet: Fleet, client: PolosClient) -> None:
    """As while the setting is changed. Only the other worker may lead, as it started first."""
    other = await fleet.start(knows="approval")
    await fleet.start(lease_seconds=9.0, knows="gated")
    handle, worker = await in_step_two(fleet, client)
    leases = {name: await renewals(client, name) for name in await workers(client)}
    patient = min(leases, key=lambda name: leases[name])

    async def renewed(times: int) -> bool:
        return await renewals(client, patient) >= leases[patient] + times

    await until(lambda: renewed(2))
    fleet.open("go")
    assert await handle.result(timeout=20) == [worker.pid] * 3
    assert names(fleet, handle) == ["one", "two", "two-through", "three"]
    assert "recovered from a lost worker" not in other.log


@pytest.mark.failure(4)
async def test_a_step_much_longer_than_the_lease_is_not_lost(fleet: Fleet, client: PolosClient) -> None:
    await fleet.start(lease_seconds=0.5)
    await fleet.start(lease_seconds=0.5)
    sync = await in_thread.invoke(client, 3.0)
    handle, worker = await in_step_two(fleet, client)
    (pid,) = await fleet.seen(sync.id, "hold")
    assert await sync.result(timeout=20) == pid
    fleet.open("go")
    assert await handle.result(timeout=20) == [worker.pid] * 3
    assert names(fleet, sync) == ["hold"]
    assert names(fleet, handle) == ["one", "two", "two-through", "three"]


@pytest.mark.failure(26)
@pytest.mark.promise("timer")
async def test_timers_that_came_due_without_a_worker_fire_once_afterwards(
    fleet: Fleet, client: PolosClient
) -> None:
    worker = await fleet.start()
    handles = [await approval.invoke(client, 1.5) for _ in range(20)]
    for handle in handles:
        await until_status(handle, "waiting")
    worker.kill()
    store = await client.store()

    async def all_due() -> bool:
        seconds, _ = await store.wire.call("TIME")
        due = 0
        for prefix in store.prefixes:
            due += await store.wire.call("ZCOUNT", prefix + b"timers", "-inf", int(seconds) * 1000)
        return due == len(handles)

    await until(all_due, "timers to be due")
    assert {await handle.status() for handle in handles} == {"waiting"}
    await fleet.start()
    for handle in handles:
        with pytest.raises(Exception, match="SuspendTimeoutError"):
            await handle.result(timeout=20)
        entries = await store.wire.call(
            "XRANGE", store.partitions.prefix(handle.id) + f"topic:{handle.id}".encode(), "-", "+"
        )
        found = [name for _, flat in entries for name in flat[::2]]
        assert found.count(b"timeout_ok") == 1


@pytest.mark.failure(7, 34)
async def test_consumers_of_former_workers_are_removed(fleet: Fleet, client: PolosClient) -> None:
    store = await client.store()
    gone = [f"gone-{number}" for number in range(50)]
    handle = await gated.invoke(client, {"gate": "go"})
    prefix, queue = store.partitions.prefix(handle.id), store.partitions.prefix(handle.id) + b"queue:default"
    await store.queues.make_group(prefix, "default")
    for name in gone:
        await store.wire.call("XGROUP", "CREATECONSUMER", queue, keys.GROUP, name)
    await store.wire.call("HSET", prefix + b"workers", gone[0], 7)
    # delivered to a half-open read after its worker's lease row had been removed
    await store.wire.call("XREADGROUP", "GROUP", keys.GROUP, gone[1], "COUNT", 1, "STREAMS", queue, ">")
    fleet.open("go")
    living = await fleet.start(lease_seconds=0.5)
    assert await handle.result(timeout=20) == [living.pid] * 3

    async def pruned() -> bool:
        return len(await group(client)) == 1

    await until(pruned, "the consumers to be removed")
    rows = await store.wire.call("HGETALL", prefix + b"workers")
    assert gone[0].encode() not in rows
    assert living.running


@pytest.mark.failure(7)
async def test_a_consumer_with_pending_entries_is_never_removed(
    client: PolosClient,
) -> None:
    store = await client.store()
    handle = await gated.invoke(client, {"gate": "go"})
    prefix, queue = store.partitions.prefix(handle.id), store.partitions.prefix(handle.id) + b"queue:default"
    await store.queues.make_group(prefix, "default")
    await store.wire.call("XREADGROUP", "GROUP", keys.GROUP, "dead", "COUNT", 1, "STREAMS", queue, ">")
    assert not await store.workers.prune(prefix, "default", "dead", b"")
    assert await group(client) == {"dead": 1}
    await client.cancel(handle.id)
    assert not await store.workers.prune(prefix, "default", "dead", b"3"), "it has renewed since"
    assert await store.workers.prune(prefix, "default", "dead", b"")
    assert await group(client) == {}


@pytest.mark.failure(6)
async def test_recovering_thousands_of_entries_takes_a_few_small_calls(
    fleet: Fleet, client: PolosClient
) -> None:
    store = await client.store()
    count = 5000
    handles = await asyncio.gather(*(chain.invoke(client, {"steps": 0}) for _ in range(count)))
    for prefix in store.prefixes:
        queue = prefix + b"queue:default"
        await store.queues.make_group(prefix, "default")
        await store.wire.call(
            "XREADGROUP", "GROUP", keys.GROUP, "dead", "COUNT", count, "STREAMS", queue, ">"
        )
    assert (await group(client))["dead"] == count
    await asyncio.gather(*(fleet.start(lease_seconds=0.5) for _ in range(3)))
    assert len(handles) == count

    async def all_done() -> bool:
        done = [await store.wire.call("ZCARD", p + b"index:ended:chain") for p in store.prefixes]
        return bool(sum(done) == count)

    await until(all_done, "all of them to finish")
    recoveries = [log.count("recovered from a lost worker") for log in (w.log for w in fleet.workers)]
    batches = [
        -(-share // BATCH)
        for share in Counter(store.partitions.prefix(handle.id) for handle in handles).values()
    ]
    assert sum(recoveries) == sum(batches), "each batch is recovered by one worker, once"

    async def all_acknowledged() -> bool:
        return set((await group(client)).values()) == {0}

    await until(all_acknowledged)


async def until_status(handle: ExecutionHandle[Any], status: str) -> None:
    async def there() -> bool:
        return await handle.status() == status

    await until(there, f"status {status}")


def test_effects_are_appended_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests in this file rely on this."""
    with Fleet("redis://nowhere", "none", tmp_path) as fleet:
        from tests.harness import fleet_workflows

        monkeypatch.setenv("POLOS_TEST_EFFECTS", str(fleet.effects_file))
        fleet_workflows.effect("one", "a")
        fleet_workflows.effect("two", "b")
        assert fleet.effects("one") == [("a", os.getpid())]
        assert fleet.counts() == {"one": {"a": 1}, "two": {"b": 1}}
