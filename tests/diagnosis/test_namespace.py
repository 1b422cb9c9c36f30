"""The checks of a namespace's workers and work, on problems that were really caused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from polos_redis import PolosClient, WorkflowContext, workflow
from polos_redis.diagnosis import Finding, diagnose, work
from polos_redis.state import keys
from polos_redis.state.errands import Errand
from tests.harness import stuck_flow
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import approval, gated
from tests.harness.running import until, working


@workflow(id="doctor-idle")
async def idle(ctx: WorkflowContext) -> None:
    pass


@workflow(id="doctor-asks")
async def asks(ctx: WorkflowContext) -> None:
    await ctx.step.suspend("ok")


async def findings(client: PolosClient, check: str) -> list[Finding]:
    """The findings of a check that are not "ok"."""
    diagnosis = await diagnose(client)
    for one in diagnosis.findings:
        assert bool(one.remedy) == (one.level != "ok"), one
    return [one for one in diagnosis.findings if one.check == check and one.level != "ok"]


async def problems(client: PolosClient) -> list[Finding]:
    return [one for one in (await diagnose(client)).findings if one.level == "problem"]


async def test_a_namespace_at_work_has_no_problems(client: PolosClient) -> None:
    async with working(client, idle, asks):
        await (await client.invoke(idle)).result()
        handle = await client.invoke(asks)
        await until(lambda: _is(client, handle.id, "waiting"))
        assert not await problems(client)
        await client.cancel(handle.id)


async def test_without_a_worker_unfinished_executions_are_a_problem(client: PolosClient) -> None:
    (one,) = await findings(client, "workers")
    assert (one.level, one.found) == ("warning", "no worker is running")
    handle = await client.invoke(idle)
    (one,) = await findings(client, "workers")
    assert one.level == "problem"
    assert one.found == "no worker is running, and 1 execution has not ended"
    assert "polos worker" in one.remedy
    await client.cancel(handle.id)


async def test_a_dead_worker_and_what_it_holds_are_found(client: PolosClient, fleet: Fleet) -> None:
    worker = await fleet.start(lease_seconds=1.0)
    handle = await client.invoke(gated, {"gate": "never"})
    await fleet.seen(handle.id, "two")
    assert not await findings(client, "leases")
    worker.kill()
    (one,) = await until(lambda: findings(client, "leases"), "its last read to be a lease ago")
    assert one.level == "problem" and str(worker.pid) in one.where
    assert one.found.endswith("it holds 1 execution")
    assert one.remedy.endswith("it takes over what this one holds after 1 s")
    await client.cancel(handle.id)


async def test_a_frozen_worker_is_found_and_a_busy_one_is_not(client: PolosClient, fleet: Fleet) -> None:
    worker = await fleet.start(lease_seconds=1.0, concurrency=1)
    handle = await client.invoke(gated, {"gate": "go"})
    await fleet.seen(handle.id, "two")  # no slot is free, so it reads nothing
    assert not await findings(client, "leases")
    worker.pause()
    (one,) = await until(lambda: findings(client, "leases"), "its last read to be a lease ago")
    assert str(worker.pid) in one.where and "dead, frozen or cut off" in one.found
    worker.resume()
    fleet.open("go")
    await handle.result(timeout=30)


async def test_a_consumer_without_a_lease_is_found(client: PolosClient) -> None:
    async with working(client, idle):
        await (await client.invoke(idle)).result()
    store = await client.store()
    key = store.prefixes[0] + b"queue:default"
    await store.wire.call("XGROUP", "CREATECONSUMER", key, keys.GROUP, "host-1-left")
    (one,) = await findings(client, "consumers")
    assert (one.level, one.where) == ("warning", "host-1-left")
    assert "a consumer of queue 'default' has no lease" in one.found and "holds nothing" in one.found
    handle = await client.invoke(idle)
    if store.partitions.prefix(handle.id) == store.prefixes[0]:
        await store.wire.call("XREADGROUP", "GROUP", keys.GROUP, "host-1-left", "STREAMS", key, ">")
        (one,) = await findings(client, "consumers")
        assert one.level == "problem" and "holds 1 execution" in one.found
    async with working(client, idle, lease_seconds=1.0):
        await handle.result(timeout=30)


async def test_an_unserved_workflow_and_an_unread_queue_are_found(client: PolosClient) -> None:
    async with working(client, idle):
        nobody = await client.invoke("doctor-nobody", {"x": 1})
        unread = await client.invoke(idle, queue="doctor-forgotten")
        (one,) = await findings(client, "workflows")
        assert (one.level, one.where) == ("problem", "doctor-nobody")
        assert one.found == "no worker serves this workflow, so its 1 queued execution can't go on"
        (one,) = await findings(client, "queues")
        assert (one.level, one.where) == ("problem", "doctor-forgotten")
        assert "in which 1 execution is runnable" in one.found and "--queues doctor-forgotten" in one.remedy
        for handle in (nobody, unread):
            await client.cancel(handle.id)
        assert not await problems(client)


async def test_a_waiting_execution_of_a_workflow_that_is_gone_is_a_warning(client: PolosClient) -> None:
    async with working(client, asks):
        handle = await client.invoke(asks)
        await until(lambda: _is(client, handle.id, "waiting"))
    async with working(client, idle):
        (one,) = await findings(client, "workflows")
        assert (one.level, one.where) == ("warning", asks.id)
        assert "1 waiting execution can't go on" in one.found
    await client.cancel(handle.id)


async def _is(client: PolosClient, execution_id: str, status: str) -> bool:
    return str((await client.get_execution(execution_id))["status"]) == status


async def test_an_overdue_timer_is_found(client: PolosClient) -> None:
    handle = await client.invoke(idle, start_delay=3600)
    assert not await findings(client, "timers")
    store = await client.store()
    timers = store.partitions.prefix(handle.id) + keys.TIMERS.encode()
    due = float(await store.wire.call("ZSCORE", timers, f"p{handle.id}"))
    await store.wire.call("ZADD", timers, "XX", int(due) - 2 * 3600 * 1000, f"p{handle.id}")
    (one,) = await findings(client, "timers")
    assert one.level == "problem"
    assert one.found == f"1 timer is overdue, the oldest for 60 min: the start of {handle.id}"
    assert one.remedy.startswith("start workers")
    async with working(client, idle):
        await handle.result(timeout=30)
        assert not await findings(client, "timers")


async def test_an_errand_that_was_set_aside_is_found(client: PolosClient) -> None:
    store = await client.store()
    prefix = store.prefixes[0]
    await store.wire.call("ZADD", prefix + keys.ERRANDS.encode(), 1, "kdaily report")
    errand = Errand("kdaily report", b"1")
    _, due = await store.errands.start(prefix, errand, "a", most=1, alone=True, longest_ms=60_000)
    errand = Errand("kdaily report", due)
    await store.errands.failed(prefix, errand, "a", "no paper", most=1, first_ms=1, longest_ms=1)
    (one,) = await findings(client, "errands")
    assert (one.level, one.where) == ("problem", "kdaily report")
    assert one.found == "this errand was set aside after 1 attempt: no paper"
    assert one.remedy.endswith("polos errands retry 'kdaily report'")
    await store.wire.call("DEL", prefix + keys.ERRANDS.encode(), prefix + keys.ERRAND_FAILURES.encode())


async def test_a_stuck_execution_is_found(redis_url: str, namespace: str) -> None:
    async with stuck_flow.deployed(redis_url, namespace) as (at, flow, handle):
        await stuck_flow.become_stuck(at, flow, handle)
        (one,) = await findings(at.client, "stuck")
        assert (one.level, one.where) == ("problem", handle.id)
        assert (
            one.found == f"this execution of workflow {handle.workflow_id!r} is stuck: {stuck_flow.MESSAGE}"
        )
        assert f"polos retry {handle.id}" in one.remedy
        await at.client.cancel(handle.id)


@dataclass
class OnlyHere:
    """A class that no worker of the fleet has."""

    number: int


async def test_an_execution_that_no_worker_can_read_is_found(client: PolosClient, fleet: Fleet) -> None:
    await fleet.start(knows=approval.id)
    handle = await client.invoke(approval, OnlyHere(1))
    (one,) = await until(lambda: findings(client, "unreadable"))
    assert (one.level, one.where) == ("problem", handle.id)
    assert "have put it back" in one.found and "OnlyHere" in one.found
    assert "deploy code that reads the value" in one.remedy
    await client.cancel(handle.id)


async def test_partitions_without_a_timer_leader_are_found(client: PolosClient, fleet: Fleet) -> None:
    await fleet.start()
    assert not await findings(client, "leaders")


async def test_workers_with_different_leases_are_found(client: PolosClient, fleet: Fleet) -> None:
    await fleet.start(lease_seconds=1.0)
    await fleet.start(lease_seconds=2.0)
    (one,) = await findings(client, "workers")
    assert one.level == "warning" and "leases of 1 s and 2 s" in one.found


async def test_a_backlog_is_found(client: PolosClient, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    await fleet.start(concurrency=1)
    handles = [await client.invoke(gated, {"gate": "go"}) for _ in range(3)]
    await until(lambda: fleet.effects_file.read_text(), "one of them to run")
    assert not await findings(client, "queues")
    monkeypatch.setattr(work, "BACKLOG_SECONDS", 0.0)
    (one,) = await findings(client, "queues")
    assert (one.level, one.where) == ("warning", "default")
    assert one.found.startswith(
        "no worker has a free slot for 2 executions of this queue, the oldest of which has"
    )
    fleet.open("go")
    for handle in handles:
        await handle.result(timeout=30)
