"""Thousands of executions that wait for a person: a few small keys each, and no cost to the worker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from polos_redis import PolosClient
from polos_redis.state import keys
from polos_redis.state.store import Store
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import approval
from tests.harness.running import until
from tests.harness.servers import ChaosServer

COUNT = 2000  # 10,000 in `python -m tests.soak suspended`
WARM = 400  # executions that come and go before the measurement
BATCH = 200
RESIDENT_MARGIN = 16 << 20
REDIS_MARGIN = 1 << 20
PERMANENT = {
    *(keys.QUEUE + "default", keys.QUEUES, keys.WORKFLOWS),
    *(keys.WORKERS, keys.SERVES, keys.META, keys.TIMER_LEADER),
}


async def start(client: PolosClient, store: Store, count: int) -> list[str]:
    """Start executions and wait until all of them are waiting."""
    ids: list[str] = []
    while len(ids) < count:
        handles = await asyncio.gather(*(approval.invoke(client, None) for _ in range(BATCH)))
        ids += [handle.id for handle in handles]
    await all_of(store, "waiting", len(ids))
    return ids


async def finish(client: PolosClient, store: Store, ids: list[str]) -> None:
    """Answer all of them and wait until they have finished."""
    for begin in range(0, len(ids), BATCH):
        await asyncio.gather(
            *(
                client.resume(suspend_execution_id=one, suspend_step_key="ok", data=begin)
                for one in ids[begin : begin + BATCH]
            )
        )
    await all_of(store, "waiting", 0)
    await none_live(store)


async def all_of(store: Store, status: str, count: int) -> None:
    name = f"index:{status}:approval".encode()

    async def there() -> bool:
        counts = [await store.wire.call("ZCARD", prefix + name) for prefix in store.prefixes]
        return bool(sum(counts) == count)

    await until(there, f"{count} executions to be {status}")


async def none_live(store: Store) -> None:
    async def there() -> bool:
        for prefix in store.prefixes:
            every = await store.wire.call("ZCARD", prefix + b"index:all:approval")
            if every != await store.wire.call("ZCARD", prefix + b"index:ended:approval"):
                return False
        return True

    await until(there, "all executions to end")


async def forgotten(store: Store) -> None:
    """Wait until only permanent keys are left."""

    async def there() -> bool:
        names = await store.wire.call("KEYS", "*")
        return {name.partition(b"}:")[2].decode() for name in names} <= PERMANENT

    await until(there, "retention to pass")


async def memory(store: Store) -> int:
    await store.wire.call("MEMORY", "PURGE")
    info = await store.wire.call("INFO", "memory")
    facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return int(facts["used_memory"])


async def connections(store: Store) -> int:
    return len((await store.wire.call("CLIENT", "LIST")).splitlines())


async def suspend_many(server: ChaosServer, namespace: str, folder: Path, count: int) -> dict[str, Any]:
    """Suspend and finish `count` executions on one worker; returns the measurements."""
    with Fleet(server.url, namespace, folder) as fleet:
        async with PolosClient(server.url, namespace, retention_seconds=2) as client:
            worker = await fleet.start(lease_seconds=5, audit_seconds=2, knows="approval")
            store = await client.store()
            await finish(client, store, await start(client, store, WARM))
            await forgotten(store)
            figures: dict[str, Any] = {"executions": count}
            figures["resident before"] = resident = worker.resident
            figures["redis before"] = before = await memory(store)
            lines = await connections(store)

            ids = await start(client, store, count)

            async def holds_nothing() -> bool:
                return await worker.holds() == (0, 0, 0)

            await until(holds_nothing, "no slot taken, no entry held, no activation in memory")
            for queue in (prefix + b"queue:default" for prefix in store.prefixes):
                assert (await store.wire.call("XPENDING", queue, keys.GROUP))[0] == 0
                assert await store.wire.call("XLEN", queue) == 0
            assert await connections(store) == lines
            figures["resident while suspended"] = worker.resident
            figures["redis per suspended execution"] = (await memory(store) - before) // count
            assert worker.resident - resident < RESIDENT_MARGIN

            await asyncio.to_thread(server.restart)
            await finish(client, store, ids)
            counts = fleet.counts()
            assert len(counts) == count + WARM
            assert all(one == {"before": 1, "after": 1} for one in counts.values()), "every step ran once"
            await forgotten(store)
            figures["resident after"] = worker.resident
            figures["redis after"] = await memory(store)
            assert figures["redis after"] - before < REDIS_MARGIN
            assert worker.resident - resident < RESIDENT_MARGIN
    return figures


@pytest.mark.failure(25, 32)
async def test_suspended_executions_cost_the_worker_nothing(
    chaos_server: ChaosServer, namespace: str, tmp_path: Path
) -> None:
    await suspend_many(chaos_server, namespace, tmp_path, COUNT)
