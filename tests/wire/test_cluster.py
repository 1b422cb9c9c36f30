"""A Redis Cluster whose slots move and whose nodes fail while executions run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polos_redis import (
    ConfigurationError,
    Event,
    ExecutionCancelledError,
    ExecutionHandle,
    PolosClient,
    RedisUnavailableError,
    Workflow,
    events,
    queue,
)
from polos_redis.embedded import EmbeddedServer
from polos_redis.errors import ConnectionLostError, RedisRefusedError
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.state import keys, scripts
from polos_redis.wire.routing import wire_to
from polos_redis.worker.errands import CONCURRENCY
from polos_redis.worker.reaper import Reaper
from tests.harness.cluster import Cluster, Node
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import approval, chain, gated
from tests.harness.hostile_workflows import asks, trivial
from tests.harness.running import in_partition, soon, until
from tests.invariants.state import RawConnection
from tests.invariants.state_invariants import check

pytestmark = pytest.mark.only_on_cluster

STEPS = 6

Outcome = tuple[ExecutionHandle[Any], Any, list[Event]]


async def one(client: PolosClient, number: int) -> Outcome:
    """Run an execution of six steps with an answer; returns it with its result and its events."""
    handle = await chain.invoke(client, {"steps": STEPS, "suspend_after": 2, "pause": 0.02})
    seen: list[Event] = []
    async for event in events.stream_workflow(client, "chain", handle.id):
        seen.append(event)
        if event.event_type == "suspend_middle":
            await client.resume(suspend_execution_id=handle.id, suspend_step_key="middle", data=number)
    return handle, await handle.result(timeout=20), seen


@pytest.mark.parametrize("way", ["key by key", "at once"])
async def test_moving_slots_under_load_loses_nothing(
    way: str, redis_cluster: Cluster, client: PolosClient, fleet: Fleet
) -> None:
    if way == "at once" and not redis_cluster.moves_at_once:
        pytest.skip("this server migrates slots key by key only")
    workers = [await fleet.start(lease_seconds=2), await fleet.start(lease_seconds=2)]
    store = await client.store()
    moves = dict.fromkeys(store.prefixes, 0)
    outcomes: list[tuple[int, Outcome]] = []

    async def keep_busy() -> None:
        number = 0
        while min(moves.values()) < 3:
            some = range(number, number := number + 30)
            outcomes.extend(zip(some, await asyncio.gather(*(one(client, n) for n in some)), strict=True))

    load = asyncio.create_task(keep_busy())
    while not load.done():
        for prefix in store.prefixes:
            to = redis_cluster.next_after(redis_cluster.owner(prefix))
            move = redis_cluster.move_at_once if way == "at once" else redis_cluster.move
            await move(prefix, to)
            moves[prefix] += 1
    await load

    for number, (handle, result, seen) in outcomes:
        assert result == [0, 1, 2, number, 3, 4, 5]
        counts = Counter(event.event_type for event in seen)
        assert counts["step_finish"] == STEPS, "no gap, and no step was journaled twice"
        assert counts["workflow_finish"] == 1
        assert len({event.id for event in seen}) == len(seen)
        assert fleet.counts()[handle.id] == {f"step-{step}": 1 for step in range(STEPS)}
    assert all("lost worker" not in worker.log for worker in workers)


@pytest.mark.failure(44)
async def test_the_reaper_of_a_partition_does_not_mind_reconnects_to_other_nodes(client: PolosClient) -> None:
    store = await client.store()
    handle = await in_partition(client, 0, approval, None)
    prefix = store.prefixes[0]
    queue = prefix + b"queue:default"
    await store.queues.make_group(prefix, "default")
    await store.wire.call("XREADGROUP", "GROUP", keys.GROUP, "dead", "COUNT", 1, "STREAMS", queue, ">")
    stats = WorkerStats()
    reaper = Reaper(
        store,
        prefix,
        "me",
        lease_seconds=1.0,
        block_seconds=0.5,
        max_deliveries=5,
        in_charge=lambda: True,
        overdue=lambda: 0.0,
        stats=stats,
    )
    own = store.wire.node(prefix)
    others = [node for node in await store.wire.nodes() if node is not own]
    reaping = asyncio.create_task(reaper.run())
    cuts = 0

    async def recovered() -> bool:
        nonlocal cuts
        for node in others:
            if node.connected:
                cuts += 1
                node.drop("the test cuts it")
            await node.call("PING")
        return stats.recovered["requeued"] == 1

    await until(recovered, "the entry to be requeued")
    assert cuts > 2 * len(others)
    reaping.cancel()
    await client.cancel(handle.id)


@pytest.mark.failure(39)
async def test_only_the_partition_of_a_migrating_slot_pauses(
    redis_cluster: Cluster, client: PolosClient, fleet: Fleet
) -> None:
    """For much longer than the lease: no worker may presume the other dead."""
    workers = [await fleet.start(lease_seconds=0.6), await fleet.start(lease_seconds=0.6)]
    store = await client.store()
    moving, other = store.prefixes[:2]
    running = await in_partition(client, 0, gated, {"gate": "go"})
    waiting = await in_partition(client, 0, approval, None)
    elsewhere = await in_partition(client, 1, gated, {"gate": "go elsewhere"})
    await fleet.seen(running.id, "two")
    await fleet.seen(elsewhere.id, "two")
    await until(lambda: _waits(waiting))
    to = redis_cluster.next_after(redis_cluster.owner(moving))

    async with redis_cluster.migrating(moving, to):
        with RawConnection(to.url) as connection:
            arrived = [name for name in connection.names(client.namespace) if name.startswith(moving)]
            assert arrived
            fleet.open("go")
            answer = asyncio.create_task(
                client.resume(suspend_execution_id=waiting.id, suspend_step_key="ok", data="yes")
            )
            leases = await store.wire.call("HVALS", other + b"workers")

            async def renewed() -> bool:
                now = await store.wire.call("HVALS", other + b"workers")
                return min(map(int, now)) > max(map(int, leases)) + 15

            await until(renewed, "five leases to pass elsewhere")
            fleet.open("go elsewhere")
            await elsewhere.result(timeout=20)
            assert not answer.done()
            assert fleet.effects(running.id)[-1][0] == "two-through"
            now = [name for name in connection.names(client.namespace) if name.startswith(moving)]
            assert set(now) <= set(arrived), "nothing is written on a node that has half of the keys"

    await answer
    assert await waiting.result(timeout=20) == "yes"
    await running.result(timeout=20)
    assert fleet.counts()[running.id] == {"one": 1, "two": 1, "two-through": 1, "three": 1}
    assert all("lost worker" not in worker.log for worker in workers)


async def _waits(handle: ExecutionHandle[Any]) -> bool:
    return await handle.status() == "waiting"


# --- the wire ---------------------------------------------------------------------------


async def test_a_call_finds_the_slot_and_a_write_learns_that_it_has_moved(
    redis_cluster: Cluster, namespace: str
) -> None:
    prefix = keys.prefix(namespace, 0).encode()
    wire = wire_to(redis_cluster.url, name="test", scripts=scripts.ALL)
    assert await wire.call_script(scripts.WATCH_EXECUTION, prefix, b"nobody", b"") is None
    source, epoch = redis_cluster.owner(prefix), wire.epoch
    to = redis_cluster.next_after(source)
    for node in redis_cluster.nodes:
        node.do("SCRIPT", "FLUSH")
    async with redis_cluster.migrating(prefix, to):
        with pytest.raises(ConnectionLostError, match="ASK"):
            await wire.run(scripts.WATCH_EXECUTION, prefix, b"nobody", b"")
        ready = asyncio.create_task(wire.ready(prefix))
        with pytest.raises(RedisUnavailableError, match=r"within 0\.2 s: .*ASK"):
            await wire.call_script(scripts.WATCH_EXECUTION, prefix, b"nobody", b"", patience=0.2)
        assert not ready.done()
        assert wire.epoch == epoch, "nothing was lost, and nothing can have gone back"
    await soon(ready)
    assert wire.epoch > epoch
    await redis_cluster.move(prefix, source)
    epoch = wire.epoch
    together = [wire.run(scripts.WATCH_EXECUTION, prefix, b"nobody", b"") for _ in range(3)]
    for call in together:
        with pytest.raises(ConnectionLostError, match="MOVED"):
            await call
        assert wire.epoch > epoch
    assert await wire.call_script(scripts.WATCH_EXECUTION, prefix, b"nobody", b"") is None
    there = wire.node(prefix)
    assert there is not None and there.address == f"127.0.0.1:{source.port}"
    await wire.close()
    with pytest.raises(RedisUnavailableError, match="closed"):
        await wire.call("PING")


async def test_a_subscriber_survives_a_slots_move(redis_cluster: Cluster, client: PolosClient) -> None:
    """The channel follows the slot, and waiting clients poll in between."""
    handle = await client.invoke("nobody-runs-it")
    store = await client.store()
    prefix = store.partitions.prefix(handle.id)
    waiting = asyncio.create_task(handle.result())
    session = await client.session()
    channel = prefix + f"reply:{session.name}".encode()

    async def subscribed_at(node: Node) -> bool:
        return bool(await asyncio.to_thread(node.do, "PUBSUB", "SHARDCHANNELS", channel))

    await until(lambda: subscribed_at(redis_cluster.owner(prefix)))
    to = redis_cluster.next_after(redis_cluster.owner(prefix))
    await redis_cluster.move(prefix, to)
    await until(lambda: subscribed_at(to))
    await client.cancel(handle.id)
    with pytest.raises(ExecutionCancelledError):
        await soon(waiting)


async def test_a_url_of_the_wrong_kind_is_reported(
    binary: Path, redis_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    alone = redis_cluster.nodes[0].url
    async with PolosClient(alone, namespace, partitions=64) as client:
        with pytest.raises(RedisRefusedError, match=r"write redis\+cluster:// in its URL"):
            await client.list_executions()
    with EmbeddedServer(tmp_path / "alone", port=0, binary=binary) as server:
        async with PolosClient(server.url.replace("redis://", "redis+cluster://"), namespace) as client:
            with pytest.raises(ConfigurationError, match="is not a cluster: write redis://"):
                await client.list_executions()


async def test_one_responsive_seed_is_enough(redis_cluster: Cluster, namespace: str) -> None:
    alive = redis_cluster.nodes[0].port
    async with PolosClient(f"redis+cluster://127.0.0.1:1,127.0.0.1:{alive}", namespace) as client:
        assert not await client.list_executions()
    async with PolosClient("redis+cluster://127.0.0.1:1", namespace, patience_seconds=0.2) as client:
        with pytest.raises(RedisUnavailableError, match=r"no node of the cluster at 127\.0\.0\.1:1"):
            await client.list_executions()


# --- failing nodes ----------------------------------------------------------------------


@pytest.fixture
def own_cluster(binary: Path, tmp_path: Path, namespace: str) -> Iterator[Cluster]:
    """The test's own cluster, whose nodes it may kill."""
    with Cluster(tmp_path / "cluster", binary) as cluster:
        yield cluster
        check(cluster.url, namespace)


@pytest.mark.failure(13, 15, 18)
@pytest.mark.parametrize("heir", ["the node itself", "a replica"])
async def test_a_killed_node_is_replaced_or_restarted_and_executions_continue(
    heir: str, own_cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_PARTITIONS", "6")
    with Fleet(own_cluster.url, namespace, tmp_path) as fleet:
        async with PolosClient(own_cluster.url, namespace) as client:
            await fleet.start(lease_seconds=6)
            await fleet.start(lease_seconds=6)
            store = await client.store()
            victim = own_cluster.owner(store.prefixes[0])
            if heir == "a replica":
                await asyncio.to_thread(own_cluster.add_replica, victim)
            load = asyncio.gather(*(one(client, number) for number in range(60)))
            await until(lambda: len(fleet.effects_file.read_text().splitlines()) > 100)
            await asyncio.to_thread(victim.kill)
            if heir == "the node itself":
                await asyncio.to_thread(victim.start)
            for number, (_, result, seen) in enumerate(await load):
                assert result == [0, 1, 2, number, 3, 4, 5]
                assert Counter(event.event_type for event in seen)["step_finish"] == STEPS
            await asyncio.to_thread(victim.start)


async def test_errands_for_a_node_that_is_away_hold_up_no_others(
    own_cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of executions request slots of a semaphore on the node that is away. Meanwhile an early answer
    is checked, by an errand of the partition that those executions live in."""
    monkeypatch.setenv("POLOS_PARTITIONS", "6")
    for node in own_cluster.nodes:
        node.do("CONFIG", "SET", "cluster-require-full-coverage", "no")
    with Fleet(own_cluster.url, namespace, tmp_path) as fleet:
        async with PolosClient(own_cluster.url, namespace) as client:
            await fleet.start(lease_seconds=6, defined_in="tests.harness.hostile_workflows")
            store = await client.store()
            home = store.partitions.prefixes[0]
            victim = next(
                owner
                for one in store.prefixes
                if (owner := own_cluster.owner(one)) != own_cluster.owner(home)
            )
            far = next(
                name
                for name in map("narrow-{}".format, range(100))
                if own_cluster.owner(store.partitions.semaphore_prefix(name)) == victim
            )
            waits: Workflow[Any, Any] = Workflow(trivial.function, "trivial", queue=queue(far, 1))
            early = await in_partition(client, 0, asks, 1.0)
            await client.resume(
                suspend_execution_id=early.id,
                suspend_step_key="ask",
                data={"approved": True, "note": "early"},
                early=True,
            )
            await asyncio.to_thread(victim.pause)
            try:
                stuck = [await in_partition(client, 0, waits, None) for _ in range(CONCURRENCY + 50)]
                assert await early.result(timeout=60) == "early"
                assert await stuck[0].status() in ("queued", "running")
            finally:
                await asyncio.to_thread(victim.resume)
            for handle in stuck:
                await client.cancel(handle.id)
