"""Redis dies, stalls, forgets, fills up or loses replies: executions carry on, and nothing happens twice."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from polos_redis import (
    Event,
    EventData,
    ExecutionHandle,
    ExecutionNotFoundError,
    PolosClient,
    WorkflowContext,
    events,
    workflow,
)
from polos_redis.errors import RedisRefusedError
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.state import keys
from polos_redis.worker.reaper import Reaper
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import approval, chain, gated
from tests.harness.proxy import Proxy
from tests.harness.running import host_of, soon, until, working
from tests.harness.servers import ChaosServer


@pytest.fixture
async def client(chaos_server: ChaosServer, namespace: str) -> AsyncIterator[PolosClient]:
    async with PolosClient(chaos_server.url, namespace) as client:
        yield client


@pytest.fixture
def fleet(chaos_server: ChaosServer, namespace: str, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(chaos_server.url, namespace, tmp_path) as fleet:
        yield fleet


async def reached(handle: ExecutionHandle[Any], status: str) -> None:
    async def there() -> bool:
        return await handle.status() == status

    await until(there, f"status {status} of {handle.id}")


async def finishes(client: PolosClient, handle: ExecutionHandle[Any]) -> Counter[str]:
    """How often each step finished according to the execution's events, which is how often it was
    journaled."""
    store = await client.store()
    entries = await store.wire.call(
        "XRANGE", store.partitions.prefix(handle.id) + f"topic:{handle.id}".encode(), "-", "+"
    )
    found = [
        (name, client_event)
        for _, flat in entries
        for name, client_event in zip(flat[::2], flat[1::2], strict=True)
    ]
    assert [name for name, _ in found].count(b"workflow_finish") == 1
    return Counter(str(data) for name, data in found if name == b"step_finish")


async def effects(fleet: Fleet, count: int) -> None:
    await until(lambda: len(fleet.effects_file.read_text().splitlines()) >= count, f"{count} effects")


# --- restarts ---------------------------------------------------------------------------


@pytest.mark.failure(13, 16, 31)
async def test_executions_survive_restarts_of_redis(
    chaos_server: ChaosServer, client: PolosClient, fleet: Fleet
) -> None:
    await fleet.start(lease_seconds=6, concurrency=20)
    await fleet.start(lease_seconds=6, concurrency=20)
    read: dict[str, list[Event]] = {}

    async def one(number: int) -> Any:
        handle = await chain.invoke(client, {"steps": 6, "suspend_after": 2, "pause": 0.05})
        stream = asyncio.create_task(follow(handle))
        while await handle.status() != "waiting":  # noqa: ASYNC110 - polls Redis
            await asyncio.sleep(0.05)
        await client.resume(suspend_execution_id=handle.id, suspend_step_key="middle", data=number)
        result = await handle.result(timeout=60)
        await asyncio.wait_for(stream, 30)
        return handle, result

    async def follow(handle: ExecutionHandle[Any]) -> None:
        seen = read.setdefault(handle.id, [])
        async for event in events.stream_workflow(client, "chain", handle.id):
            seen.append(event)

    everybody = asyncio.gather(*(one(number) for number in range(40)))
    for done in (20, 60, 120):
        await effects(fleet, done)
        await asyncio.to_thread(chaos_server.restart)
    outcomes = await everybody

    store = await client.store()
    for number, (handle, result) in enumerate(outcomes):
        assert result == [0, 1, 2, number, 3, 4, 5]
        assert set((await finishes(client, handle)).values()) == {1}, "no step is journaled twice"
        entries = await store.wire.call(
            "XRANGE", store.partitions.prefix(handle.id) + f"topic:{handle.id}".encode(), "-", "+"
        )
        written = [f"{i.decode()}.{number}" for i, flat in entries for number in range(len(flat) // 2)]
        assert [event.id for event in read[handle.id]] == written, "no gap, no duplicate, in order"
    for execution_id, counts in fleet.counts().items():
        assert set(counts.values()) == {1}, f"no worker was lost, so no step ran twice: {execution_id}"


@pytest.mark.failure(15, 32)
async def test_a_worker_carries_on_after_flushall(client: PolosClient, fleet: Fleet) -> None:
    worker = await fleet.start(knows="gated,approval")
    waits = await approval.invoke(client, None)
    await reached(waits, "waiting")
    works = await gated.invoke(client, {"gate": "go"})
    await fleet.seen(works.id, "two")
    store = await client.store()
    await store.wire.call("FLUSHALL")
    fleet.open("go")
    await worker.said("dropped")
    for lost in (waits, works):
        with pytest.raises(ExecutionNotFoundError):
            await lost.result(timeout=20)
    handle = await gated.invoke(client, {"gate": "go"})
    assert await handle.result(timeout=20) == [worker.pid] * 3

    async def announced() -> bool:
        return await client.served_workflows() == {"gated", "approval"}

    await until(announced, "the worker to announce its workflows again")


@pytest.mark.failure(39)
async def test_an_outage_longer_than_the_lease_kills_no_worker(
    chaos_server: ChaosServer, client: PolosClient, fleet: Fleet
) -> None:
    workers = [await fleet.start(concurrency=4) for _ in range(3)]
    handles = [await gated.invoke(client, {"gate": "go"}) for _ in range(8)]
    for handle in handles:
        await fleet.seen(handle.id, "two")
    for _ in range(3):
        chaos_server.pause()
        await asyncio.sleep(2.2)  # the outage itself: twice the lease
        chaos_server.resume()
        for handle in handles:
            assert (await client.get_execution(handle.id))["lost_deliveries"] == 0
    fleet.open("go")
    for handle in handles:
        await handle.result(timeout=20)
        assert Counter(name for name, _ in fleet.effects(handle.id)) == Counter(
            ["one", "two", "two-through", "three"]
        )
    assert all("recovered from a lost worker" not in worker.log for worker in workers)


@pytest.mark.failure(39)
async def test_a_reaper_does_not_count_the_time_of_an_outage(
    chaos_server: ChaosServer, client: PolosClient
) -> None:
    store = await client.store()
    handle = await approval.invoke(client, None)
    prefix, queue = store.partitions.prefix(handle.id), store.partitions.prefix(handle.id) + b"queue:default"
    await store.queues.make_group(prefix, "default")
    await store.wire.call("XREADGROUP", "GROUP", keys.GROUP, "other", "COUNT", 1, "STREAMS", queue, ">")
    await store.wire.call("HSET", prefix + b"workers", "other", 5)
    reaper = Reaper(
        store,
        prefix,
        "me",
        lease_seconds=1.0,
        block_seconds=0.5,
        max_deliveries=5,
        in_charge=lambda: True,
        overdue=lambda: 0.0,
        stats=WorkerStats(),
    )
    await reaper.sweep()
    chaos_server.pause()
    sweep = asyncio.create_task(reaper.sweep())
    await asyncio.sleep(1.5)  # the outage itself: longer than the lease
    chaos_server.resume()
    await sweep
    assert (await client.get_execution(handle.id))["lost_deliveries"] == 0, "the owner may still renew"
    await client.cancel(handle.id)


# --- the network ------------------------------------------------------------------------


@pytest.mark.failure(44)
async def test_a_dead_worker_is_recovered_from_while_connections_are_cut_again_and_again(
    chaos_server: ChaosServer, client: PolosClient, fleet: Fleet
) -> None:
    async with Proxy(chaos_server.url) as proxy:
        victim = await fleet.start(url=proxy.url)
        handle = await gated.invoke(client, {"gate": "go"})
        await fleet.seen(handle.id, "two")
        heir = await fleet.start(url=proxy.url)
        victim.kill()

        async def cut() -> None:
            while True:
                await asyncio.sleep(0.6)  # the fault itself: less than the lease
                proxy.reset()

        cutting = asyncio.create_task(cut())
        assert await fleet.seen(handle.id, "two", times=2) == [victim.pid, heir.pid]
        cutting.cancel()
        fleet.open("go")
        assert await handle.result(timeout=20) == [victim.pid, heir.pid, heir.pid]


@pytest.mark.failure(39, 44)
async def test_workers_whose_connections_are_cut_again_and_again_are_not_presumed_dead(
    chaos_server: ChaosServer, client: PolosClient, fleet: Fleet
) -> None:
    async with Proxy(chaos_server.url) as proxy:
        workers = [await fleet.start(url=proxy.url) for _ in range(2)]
        handles = [await gated.invoke(client, {"gate": "go"}) for _ in range(4)]
        for handle in handles:
            await fleet.seen(handle.id, "two")
        for _ in range(12):
            proxy.reset()
            await asyncio.sleep(0.4)  # the fault itself: for several leases, less than one apart
        fleet.open("go")
        for handle in handles:
            await handle.result(timeout=20)
            assert Counter(name for name, _ in fleet.effects(handle.id))["two"] == 1
        assert all("recovered from a lost worker" not in worker.log for worker in workers)


@pytest.mark.failure(14)
@pytest.mark.parametrize("end", ["flow", "reset"])
async def test_a_stalled_connection_is_noticed_and_work_continues(
    chaos_server: ChaosServer, client: PolosClient, fleet: Fleet, end: str
) -> None:
    async with Proxy(chaos_server.url) as proxy:
        stalled = await fleet.start(url=proxy.url, knows="gated")
        handle = await gated.invoke(client, {"gate": "go"})
        await fleet.seen(handle.id, "two")
        proxy.stall()
        heir = await fleet.start(knows="gated")
        await fleet.seen(handle.id, "two", times=2)
        fleet.open("go")
        assert await handle.result(timeout=20) == [stalled.pid, heir.pid, heir.pid]
        await fleet.seen(handle.id, "two-through", times=2)
        if end == "reset":
            proxy.reset()
        proxy.flow()
        await stalled.said("dropped")
        heir.terminate()
        assert await heir.ended() == 0
        later = await gated.invoke(client, {"gate": "go"})
        assert await later.result(timeout=20) == [stalled.pid] * 3, "it still works"
        assert [name for name, _ in fleet.effects(handle.id)].count("three") == 1


@pytest.mark.failure(14)
async def test_every_connection_abandons_a_half_open_peer(
    chaos_server: ChaosServer, namespace: str, fleet: Fleet
) -> None:
    """No reset, no end of file: the old connections stay stalled forever, new ones work."""
    async with Proxy(chaos_server.url) as broken, PolosClient(broken.url, namespace) as client:
        await fleet.start(lease_seconds=20)
        handle = await gated.invoke(client, {"gate": "go"})
        result = asyncio.create_task(handle.result(timeout=60))
        followed = asyncio.create_task(everything(client, handle))
        await fleet.seen(handle.id, "two")
        await until(lambda: broken.lines == 3, "calls, notices and the blocked read")
        broken.freeze()
        fleet.open("go")
        assert len(await asyncio.wait_for(result, 60)) == 3
        received = await asyncio.wait_for(followed, 60)
        assert received[-1].event_type == "workflow_finish"
        assert len({event.id for event in received}) == len(received)


async def everything(client: PolosClient, handle: ExecutionHandle[Any]) -> list[Event]:
    return [event async for event in events.stream_workflow(client, handle.workflow_id, handle.id)]


@pytest.mark.failure(16)
async def test_an_invoke_whose_reply_is_lost_starts_one_execution(
    chaos_server: ChaosServer, namespace: str
) -> None:
    async with Proxy(chaos_server.url) as proxy, PolosClient(proxy.url, namespace) as client:
        await client.list_executions()
        lost = proxy.lose_reply(b"the-input")
        handle = await soon(chain.invoke(client, {"steps": 0, "note": "the-input"}))
        assert lost.is_set()
        found = await client.list_executions()
        assert [one["id"] for one in found] == [handle.id]
        store = await client.store()
        assert await store.wire.call("XLEN", store.partitions.prefix(handle.id) + b"queue:default") == 1
        await client.cancel(handle.id)


@pytest.mark.failure(16, 23)
async def test_a_resume_whose_reply_is_lost_counts_once(
    chaos_server: ChaosServer, namespace: str, fleet: Fleet
) -> None:
    await fleet.start()
    async with Proxy(chaos_server.url) as proxy, PolosClient(proxy.url, namespace) as client:
        handle = await approval.invoke(client, None)
        await reached(handle, "waiting")
        lost = proxy.lose_reply(b"the-answer")
        resumed = await client.resume(
            suspend_execution_id=handle.id, suspend_step_key="ok", data="the-answer"
        )
        assert lost.is_set() and resumed.outcome in ("accepted", "same")
        assert await handle.result(timeout=20) == "the-answer"
        assert [name for name, _ in fleet.effects(handle.id)] == ["before", "after"]


@pytest.mark.failure(16)
async def test_an_event_whose_reply_is_lost_is_published_once(
    client: PolosClient, chaos_server: ChaosServer, namespace: str
) -> None:
    async with Proxy(chaos_server.url) as proxy, PolosClient(proxy.url, namespace) as behind:
        await behind.list_executions()
        lost = proxy.lose_reply(b"orders")
        first = await events.publish(behind, "orders", EventData("paid", {"amount": 5}))
        assert lost.is_set()
        second = await events.publish(behind, "orders", EventData("paid", {"amount": 5}))
    found = []
    async for event in events.stream_topic(client, "orders"):
        found.append(event.id)
        if event.id == second:
            break
    assert found == [first, second]


@pytest.mark.failure(16)
@pytest.mark.parametrize("marker", [b"step-1", b"middle", b"workflow_finish", b"step-4"])
async def test_a_write_whose_reply_is_lost_is_journaled_once(
    chaos_server: ChaosServer, client: PolosClient, fleet: Fleet, marker: bytes
) -> None:
    async with Proxy(chaos_server.url) as proxy:
        await fleet.start(url=proxy.url, lease_seconds=5)
        marker = b"completed" if marker == b"workflow_finish" else marker
        lost = proxy.lose_reply(marker)
        handle = await chain.invoke(client, {"steps": 5, "suspend_after": 2})
        await reached(handle, "waiting")
        await client.resume(suspend_execution_id=handle.id, suspend_step_key="middle", data="yes")
        assert await handle.result(timeout=20) == [0, 1, 2, "yes", 3, 4]
        assert lost.is_set()
        assert set((await finishes(client, handle)).values()) == {1}
        counts = fleet.counts()[handle.id]
        assert counts == {f"step-{number}": 1 for number in range(5)}


@pytest.mark.failure(5)
async def test_a_worker_hands_back_entries_whose_delivery_was_lost(
    chaos_server: ChaosServer, client: PolosClient, fleet: Fleet
) -> None:
    async with Proxy(chaos_server.url) as proxy:
        lost = proxy.lose_reply(b"XREADGROUP\r\n$5\r\nGROUP")
        worker = await fleet.start(url=proxy.url, lease_seconds=30)
        await proxy.armed.wait()
        handles = [await chain.invoke(client, {"steps": 1}) for _ in range(3)]
        for handle in handles:
            assert await handle.result(timeout=20) == [0]
            assert fleet.counts()[handle.id] == {"step-0": 1}
            assert (await client.get_execution(handle.id))["lost_deliveries"] == 0
        assert lost.is_set()
        await worker.said("handed back what never arrived")


# --- a store that goes back in time -----------------------------------------------------


@pytest.mark.failure(37)
async def test_an_entry_delivered_again_to_its_worker_is_not_run_beside_itself(
    client: PolosClient, fleet: Fleet
) -> None:
    """As by a store that has lost the delivery. Two activations of one entry would end each other."""
    worker = await fleet.start()
    handle = await gated.invoke(client, {"gate": "go"})
    await fleet.seen(handle.id, "two")
    store = await client.store()
    queue = store.partitions.prefix(handle.id) + b"queue:default"
    await store.wire.call("XGROUP", "SETID", queue, keys.GROUP, 0)
    await worker.said("delivered again")
    fleet.open("go")
    assert await handle.result(timeout=20) == [worker.pid] * 3
    assert fleet.effects(handle.id) == [(name, worker.pid) for name in ("one", "two", "two-through", "three")]


@pytest.mark.failure(18, 37)
async def test_a_store_that_goes_back_in_time_is_a_consistent_prefix(
    chaos_server: ChaosServer, client: PolosClient, fleet: Fleet, tmp_path: Path
) -> None:
    await fleet.start(lease_seconds=3)
    survives = await gated.invoke(client, {"gate": "go"})  # loses its record of step two
    waits = await approval.invoke(client, None)  # loses its answer
    await reached(waits, "waiting")
    ahead = await chain.invoke(client, {"steps": 3, "suspend_after": 0})  # loses the wait that it parks on
    await fleet.seen(survives.id, "two")
    await reached(ahead, "waiting")
    data = chaos_server.data_dir
    snapshot = tmp_path / "snapshot"
    shutil.copytree(data / "appendonlydir", snapshot)

    fleet.open("go")
    await survives.result(timeout=20)
    await client.resume(suspend_execution_id=waits.id, suspend_step_key="ok", data="lost")
    await waits.result(timeout=20)
    gone = await chain.invoke(client, {"steps": 1})  # forgotten altogether
    await gone.result(timeout=20)
    forgotten = await approval.invoke(client, None)
    await reached(forgotten, "waiting")
    pending = asyncio.create_task(forgotten.result())

    def go_back() -> None:
        chaos_server.kill()
        shutil.rmtree(data / "appendonlydir")
        shutil.copytree(snapshot, data / "appendonlydir")
        chaos_server.start()

    await asyncio.to_thread(go_back)
    assert len(await survives.result(timeout=30)) == 3
    assert await waits.status() == "waiting"
    await client.resume(suspend_execution_id=waits.id, suspend_step_key="ok", data="again")
    assert await waits.result(timeout=20) == "again"
    await client.resume(suspend_execution_id=ahead.id, suspend_step_key="middle", data="yes")
    assert await ahead.result(timeout=20) == [0, "yes", 1, 2]
    with pytest.raises(ExecutionNotFoundError):
        await asyncio.wait_for(pending, 30)
    with pytest.raises(ExecutionNotFoundError):
        await gone.status()


@pytest.mark.failure(18, 37)
async def test_an_activation_whose_records_were_lost_is_dropped_and_runs_again(
    chaos_server: ChaosServer, client: PolosClient, fleet: Fleet, tmp_path: Path
) -> None:
    worker = await fleet.start(lease_seconds=3)
    handle = await gated.invoke(client, {"gate": "never"})
    store = await client.store()
    await client.cancel(handle.id)  # so that the log is not empty
    data, snapshot = chaos_server.data_dir, tmp_path / "snapshot"

    early = await approval.invoke(client, None)
    await reached(early, "waiting")
    shutil.copytree(data / "appendonlydir", snapshot)
    await client.resume(suspend_execution_id=early.id, suspend_step_key="ok", data="lost")
    await early.result(timeout=20)

    two = await gated.invoke(client, {"gate": "go"})  # in its second step when all of it is forgotten
    await fleet.seen(two.id, "two")

    def go_back() -> None:
        chaos_server.kill()
        shutil.rmtree(data / "appendonlydir")
        shutil.copytree(snapshot, data / "appendonlydir")
        chaos_server.start()

    await asyncio.to_thread(go_back)
    fleet.open("go")
    await worker.said("dropped")
    assert (
        await store.wire.call("EXISTS", store.partitions.prefix(two.id) + f"journal:{two.id}".encode()) == 0
    )
    assert await early.status() == "waiting"
    handle = await gated.invoke(client, {"gate": "go"})
    await handle.result(timeout=20)
    await client.cancel(early.id)


# --- refusals ---------------------------------------------------------------------------

_began: list[str] = []
_gate = asyncio.Event()


@workflow
async def charges(ctx: WorkflowContext) -> str:
    async def charge() -> str:
        _began.append("charge")
        await _gate.wait()
        return "charged"

    try:
        return await ctx.step.run("charge", charge)
    except Exception:
        _began.append("refund")
        raise


@workflow
async def answered_meanwhile(ctx: WorkflowContext) -> Any:
    async def work() -> str:
        _began.append("work")
        await _gate.wait()
        return "worked"

    resume, worked = await asyncio.gather(ctx.step.suspend("ask"), ctx.step.run("work", work))
    return [resume["data"], worked]


@workflow
async def pauses(ctx: WorkflowContext) -> None:
    await ctx.step.run("first", lambda: None)
    _began.append("paused")
    await _gate.wait()
    await ctx.step.run("second", _began.append, "second")


@pytest.fixture
def gate() -> asyncio.Event:
    global _gate
    _gate = asyncio.Event()
    _began.clear()
    return _gate


async def test_a_refused_reconnect_does_not_fail_the_running_step(
    chaos_server: ChaosServer, namespace: str, client: PolosClient, gate: asyncio.Event
) -> None:
    async with PolosClient(chaos_server.url, namespace) as admin, working(client, charges) as worker:
        handle = await charges.invoke(admin)
        await until(lambda: _began)
        store, theirs = await admin.store(), await client.store()
        await store.wire.call("CONFIG", "SET", "requirepass", "another")
        await store.wire.call("CLIENT", "KILL", "SKIPME", "yes", "USER", "default")
        await until(lambda: not theirs.wire.connected)
        gate.set()
        await until(
            lambda: (
                not any(a.events.running for a in worker.active)
                or not host_of(worker).lease.is_fresh(store.partitions.prefix(handle.id))
            )
        )
        await store.wire.call("CONFIG", "SET", "requirepass", "")
        assert await handle.result(timeout=20) == "charged"
        assert _began == ["charge"]
        channel = f"{store.partitions.prefix(handle.id).decode()}reply:{worker.worker_id}"
        await until(lambda: store.wire.call("PUBSUB", "SHARDCHANNELS", channel), "the worker's reply channel")


async def test_a_failed_hand_back_is_repeated(
    chaos_server: ChaosServer, namespace: str, client: PolosClient, gate: asyncio.Event
) -> None:
    async with PolosClient(chaos_server.url, namespace) as admin, working(client, charges) as worker:
        handle = await charges.invoke(admin)
        await until(lambda: _began)
        store = await admin.store()
        await store.wire.call("ACL", "SETUSER", "default", "-evalsha")
        gate.set()
        await until(lambda: not worker.active, "the refused write to end the activation")
        await store.wire.call("ACL", "SETUSER", "default", "+evalsha")
        assert await handle.result(timeout=20) == "charged"


async def test_an_answer_during_verification_does_not_end_the_activation(
    client: PolosClient, gate: asyncio.Event
) -> None:
    async with working(client, answered_meanwhile) as worker:
        handle = await answered_meanwhile.invoke(client)
        await until(lambda: _began and any("ask" in a.parking.waits for a in worker.active))
        (activation,) = worker.active
        load = host_of(worker).store.executions.load

        async def load_slowly(by: Any, version: str | None = None) -> Any:
            loaded = await load(by, version)
            await client.resume(suspend_execution_id=handle.id, suspend_step_key="ask", data="yes")
            await until(lambda: not activation.parking.waits, "the answer's notice")
            return loaded

        host_of(worker).store.executions.load = load_slowly  # type: ignore[method-assign]
        await activation.journal.verify()
        gate.set()
        assert await handle.result(timeout=20) == ["yes", "worked"]
        assert _began == ["work"]


async def test_a_cancel_whose_notice_is_lost_is_found_after_the_reconnect(
    chaos_server: ChaosServer, namespace: str, client: PolosClient, gate: asyncio.Event
) -> None:
    async with PolosClient(chaos_server.url, namespace) as admin, working(client, pauses) as worker:
        handle = await pauses.invoke(admin)
        await until(lambda: _began)
        store = await admin.store()
        run, created = await store.executions.read_fields(handle.id, "run", "created")
        assert run is not None and created is not None
        killed = store.wire.send("CLIENT", "KILL", "TYPE", "pubsub")
        await store.executions.cancel(handle.id, int(run), "", created)  # in the same write
        assert await killed
        await until(lambda: not worker.active, "the cancelled activation to end")
        gate.set()
        assert _began == ["paused"]


async def test_a_malformed_entry_is_removed(client: PolosClient, gate: asyncio.Event) -> None:
    gate.set()
    async with working(client, charges):
        store = await client.store()
        queue = store.prefixes[0] + b"queue:default"
        await store.wire.call("XADD", queue, "*", "somebody", "else's")
        handle = await charges.invoke(client)
        assert await handle.result(timeout=20) == "charged"

        async def empty() -> bool:
            return bool(await store.wire.call("XLEN", queue) == 0)

        await until(empty, "the entry to be removed")


# --- memory -----------------------------------------------------------------------------


@pytest.mark.failure(17)
async def test_at_maxmemory_producers_get_a_clear_error_and_workers_finish(
    chaos_server: ChaosServer, client: PolosClient, fleet: Fleet
) -> None:
    first = await fleet.start()
    handle = await gated.invoke(client, {"gate": "go"})
    await fleet.seen(handle.id, "two")
    store = await client.store()
    await store.wire.call("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(RedisRefusedError, match="maxmemory"):
        await gated.invoke(client, {"gate": "go"})
    with pytest.raises(RedisRefusedError, match="maxmemory"):
        await events.publish(client, "news", EventData("hello"))
    row = store.prefixes[0] + b"workers"
    before = await store.wire.call("HVALS", row)

    async def renewed() -> bool:
        return bool(await store.wire.call("HVALS", row) != before)

    await until(renewed, "the lease to be renewed at maxmemory")
    second = await fleet.start()
    assert second.running
    fleet.open("go")
    assert await handle.result(timeout=20) == [first.pid] * 3
    await store.wire.call("CONFIG", "SET", "maxmemory", "0")
    later = await gated.invoke(client, {"gate": "go"})
    await later.result(timeout=20)


# --- event readers ----------------------------------------------------------------------


@workflow
async def talkative(ctx: WorkflowContext, input: int) -> int:
    for number in range(input):
        await ctx.step.run(f"step-{number}", lambda number=number: number)
    return input


@pytest.mark.failure(31)
async def test_slow_and_fast_readers_see_the_same_events(chaos_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(chaos_server.url, namespace) as client, working(client, talkative):
        handle = await talkative.invoke(client, 300)

        async def read(every: int) -> list[Event]:
            seen = []
            async for event in events.stream_workflow(client, "talkative", handle.id):
                seen.append(event)
                if every and len(seen) % every == 0:
                    await asyncio.sleep(0.005)  # a slow reader
            return seen

        fast, slow, slower = await soon(asyncio.gather(read(0), read(20), read(5)))
        assert [event.id for event in fast] == [event.id for event in slow] == [event.id for event in slower]
        assert fast[-1].event_type == "workflow_finish"
        assert sum(event.event_type == "step_finish" for event in fast) == 300


@pytest.mark.failure(31)
async def test_a_new_reader_of_a_topic_misses_nothing(client: PolosClient) -> None:
    for number in range(5):
        await events.publish(client, "news", EventData("old", number))
    session = await client.session()
    key = session.store.partitions.topic_prefix("news") + b"topic:news"
    end = (await session.wire.call("XREVRANGE", key, "+", "-", "COUNT", 1))[0][0]
    reader = asyncio.create_task(session.tail.next(key, end, 20))
    await until(lambda: session.tail.of(key)._blocked, "the reader to be blocked")
    # an event that arrives just before the new reader unblocks the read is not the start of the topic
    session.wire.send("XADD", key, "*", "new", b"\x05")
    entries = await session.tail.next(key, b"0-0", 20)
    assert entries[0][1][0] == b"old"
    assert [flat[0] for _, flat in await reader] == [b"new"]


@pytest.mark.failure(31)
async def test_a_reader_behind_does_not_hide_events_from_a_reader_ahead(client: PolosClient) -> None:
    session = await client.session()
    key = session.store.partitions.topic_prefix("news") + b"topic:news"
    for number in range(400):
        await events.publish(client, "news", EventData("n", number))
    ids = [entry for entry, _ in await session.wire.call("XRANGE", key, "-", "+")]
    ahead = asyncio.create_task(session.tail.next(key, ids[300], 20))
    behind = asyncio.create_task(session.tail.next(key, b"0-0", 20))
    assert (await ahead)[0][0] == ids[301]
    assert (await behind)[0][0] == ids[0]
