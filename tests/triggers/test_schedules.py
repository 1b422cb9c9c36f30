"""Schedules: executions started by the clock, one for each tick."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
import pytest

from polos_redis import (
    ConfigurationError,
    PolosClient,
    ScheduleNotFoundError,
    SchedulePayload,
    Workflow,
    WorkflowContext,
    schedules,
    workflow,
)
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.triggers import ticks
from tests.harness.fleet import Fleet, WorkerProcess
from tests.harness.running import until, working
from tests.harness.servers import ChaosServer

DAILY = "0 8 * * *"
SECOND = "* * * * * *"


@workflow(id="schedules-typed")
async def typed(ctx: WorkflowContext, tick: SchedulePayload) -> SchedulePayload:
    return tick


@workflow(id="schedules-bare")
async def bare(ctx: WorkflowContext) -> str:
    return "ran"


@workflow(id="schedules-never", schedule=False)
async def never(ctx: WorkflowContext) -> None: ...


def declaring(schedule: str | dict[str, Any] | bool | None) -> Workflow[Any, Any]:
    """The same workflow as declared by different releases."""

    @workflow(id="schedules-declared", schedule=schedule)
    async def declared(ctx: WorkflowContext, tick: SchedulePayload) -> None: ...

    return declared


async def server_ms(store: Store) -> int:
    seconds, micros = await store.wire.call("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def make_due(client: PolosClient, schedule_id: str, ago: timedelta) -> datetime:
    """Move a schedule's next tick to the last whole minute more than `ago` ago; returns that time."""
    store = await client.store()
    now, seen = await store.schedules.read(schedule_id)
    tick = (now - int(ago.total_seconds() * 1000)) // 60_000 * 60_000
    changed = msgpack.packb({**msgpack.unpackb(seen), "next": tick})
    assert await store.schedules.change(schedule_id, seen, changed, tick)
    return datetime.fromtimestamp(tick / 1000, UTC)


async def executions_of(client: PolosClient, workflow_id: str) -> list[dict[str, Any]]:
    """A workflow's executions, oldest first, as returned by `get_execution`."""
    page = await client.list_executions(workflow=workflow_id, limit=1000)
    found = await asyncio.gather(*(client.get_execution(row["id"]) for row in page))
    return list(reversed(found))


async def ticks_of(client: PolosClient, workflow_id: str) -> list[datetime]:
    found = await executions_of(client, workflow_id)
    return [datetime.fromisoformat(one["input"]["timestamp"]) for one in found]


# --- managing schedules -----------------------------------------------------------------


async def test_a_schedule_is_created_shown_paused_resumed_and_deleted(client: PolosClient) -> None:
    schedule_id = await schedules.create(client, typed, DAILY, "Europe/Berlin", key="alice")
    schedule = await schedules.get(client, schedule_id)
    assert (schedule.workflow_id, schedule.cron, schedule.timezone) == (typed.id, DAILY, "Europe/Berlin")
    assert (schedule.key, schedule.declared, schedule.paused, schedule.last_at) == (
        "alice",
        False,
        False,
        None,
    )
    assert schedule.next_at is not None and schedule.next_at > schedule.created_at
    assert await schedules.list(client) == [schedule]

    await schedules.pause(client, schedule_id)
    await schedules.pause(client, schedule_id)
    paused = await schedules.get(client, schedule_id)
    assert paused.paused and paused.next_at is None
    await schedules.resume(client, schedule_id)
    await schedules.resume(client, schedule_id)
    assert await schedules.get(client, schedule_id) == schedule

    await schedules.delete(client, schedule_id)
    assert await schedules.list(client) == []
    for gone in (schedules.get, schedules.pause, schedules.resume, schedules.delete):
        with pytest.raises(ScheduleNotFoundError, match=schedule_id):
            await gone(client, schedule_id)


async def test_a_workflow_and_a_key_have_one_schedule(client: PolosClient) -> None:
    first = await schedules.create(client, typed, DAILY)
    before = await schedules.get(client, first)
    assert await schedules.create(client, typed.id, DAILY) == first
    assert await schedules.get(client, first) == before, "creating it again changes nothing"
    assert await schedules.create(client, typed, "0 9 * * *", "Asia/Tokyo") == first
    after = await schedules.get(client, first)
    assert (after.cron, after.timezone, after.created_at) == ("0 9 * * *", "Asia/Tokyo", before.created_at)
    assert after.next_at is not None and after.next_at.hour == 0
    others = {
        await schedules.create(client, typed, DAILY, key="alice"),
        await schedules.create(client, bare, DAILY),
    }
    assert len(others | {first}) == 3
    assert [one.key for one in await schedules.list(client, typed)] == ["alice", "global"]
    assert [one.workflow_id for one in await schedules.list(client)] == [bare.id, typed.id, typed.id]


async def test_a_change_leaves_a_paused_schedule_paused(client: PolosClient) -> None:
    schedule_id = await schedules.create(client, typed, DAILY)
    await schedules.pause(client, schedule_id)
    await schedules.create(client, typed, "0 9 * * *")
    schedule = await schedules.get(client, schedule_id)
    assert schedule.paused and schedule.next_at is None and schedule.cron == "0 9 * * *"
    await schedules.resume(client, schedule_id)
    resumed = await schedules.get(client, schedule_id)
    assert resumed.next_at is not None and resumed.next_at.hour == 9


async def test_list_returns_all_schedules(redis_url: str, namespace: str) -> None:
    """More of them than fit on a page."""
    async with PolosClient(redis_url, namespace, partitions=3) as client:
        creating = (schedules.create(client, typed, DAILY, key=f"user-{n}") for n in range(1500))
        created = await asyncio.gather(*creating)
        assert len({keys.partition_of(one, 3) for one in created}) == 3
        assert {one.id for one in await schedules.list(client)} == set(created)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("8 o'clock",), "five fields"),
        (("99 * * * *",), "bad minute"),
        ((DAILY, "Mars/Olympus"), "unknown time zone 'Mars/Olympus'"),
        ((DAILY, "UTC", ""), "key must be a non-empty string"),
        ((DAILY, "UTC", None), "key must be a non-empty string"),
    ],
)
async def test_an_invalid_schedule_is_refused(
    client: PolosClient, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await schedules.create(client, typed, *arguments)
    assert await schedules.list(client) == []


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("99 * * * *", "workflow 'schedules-declared': .*bad minute"),
        ({"cron": DAILY, "timezone": "Mars/Olympus"}, "workflow 'schedules-declared': unknown time zone"),
        ({"cron": DAILY, "key": ""}, "workflow 'schedules-declared': a schedule's key"),
        ({"timezone": "UTC"}, "workflow 'schedules-declared': schedule must be a cron expression"),
        ({"cron": DAILY, "tz": "UTC"}, "workflow 'schedules-declared': schedule must be a cron expression"),
        (5, "workflow 'schedules-declared': schedule must be a cron expression"),
    ],
)
def test_an_invalid_declaration_is_refused_at_once(schedule: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        declaring(schedule)


def test_a_workflow_cannot_have_a_schedule_and_a_trigger() -> None:
    with pytest.raises(ConfigurationError, match="define two workflows"):

        @workflow(schedule=DAILY, trigger_on_event="news")
        async def both(ctx: WorkflowContext, input: Any) -> None: ...


async def test_a_workflow_can_refuse_schedules(client: PolosClient) -> None:
    with pytest.raises(ConfigurationError, match="schedule=False"):
        await schedules.create(client, never, DAILY)
    async with working(client, never):
        with pytest.raises(ConfigurationError, match="schedule=False"):
            await schedules.create(client, never.id, DAILY)


# --- declared by workflows --------------------------------------------------------------


async def test_a_declared_schedule_lasts_as_long_as_its_declaration(client: PolosClient) -> None:
    async with working(client, declaring(DAILY)):
        (first,) = await schedules.list(client)
    assert (first.cron, first.timezone, first.key, first.declared) == (DAILY, "UTC", "global", True)
    async with working(client, declaring(DAILY)):
        assert await schedules.list(client) == [first], "restarting changes nothing"
    async with working(client, declaring({"cron": "0 9 * * *", "timezone": "Europe/Berlin"})):
        (changed,) = await schedules.list(client)
    assert (changed.id, changed.cron, changed.timezone) == (first.id, "0 9 * * *", "Europe/Berlin")
    async with working(client, typed):
        assert await schedules.list(client) == [changed], "that worker does not know the workflow"
    async with working(client, declaring({"cron": DAILY, "key": "morning"})):
        (renamed,) = await schedules.list(client)
    assert (renamed.key, renamed.declared) == ("morning", True)
    async with working(client, declaring(None)):
        assert await schedules.list(client) == []


async def test_a_deploy_leaves_a_paused_schedule_paused(client: PolosClient) -> None:
    async with working(client, declaring(DAILY)):
        (first,) = await schedules.list(client)
        await schedules.pause(client, first.id)
    async with working(client, declaring("0 9 * * *")):
        (after,) = await schedules.list(client)
    assert after.paused and after.next_at is None and after.cron == "0 9 * * *"


async def test_a_deploy_does_not_remove_schedules_that_clients_created(client: PolosClient) -> None:
    mine = await schedules.create(client, "schedules-declared", DAILY, key="mine")
    async with working(client, declaring(DAILY)):
        taken_over = await schedules.create(client, "schedules-declared", "0 9 * * *")
    async with working(client, declaring(None)):
        assert {one.id for one in await schedules.list(client)} == {mine, taken_over}


# --- ticks ------------------------------------------------------------------------------


async def test_a_tick_starts_an_execution_with_the_facts_of_the_tick(client: PolosClient) -> None:
    schedule_id = await schedules.create(client, typed, SECOND, "Europe/Berlin", key="k")
    async with working(client, typed):

        async def some() -> bool:
            return len(await client.list_executions(workflow=typed.id, status="completed")) >= 3

        await until(some)
        await schedules.pause(client, schedule_id)
        handles = [client.get_handle(one["id"]) for one in await executions_of(client, typed.id)]
        payloads: list[SchedulePayload] = [await handle.result(timeout=20) for handle in handles]
    one_second = timedelta(seconds=1)
    for before, after in zip([None, *payloads], payloads, strict=False):
        assert isinstance(after, SchedulePayload)
        assert (after.schedule_id, after.key, after.timezone) == (schedule_id, "k", "Europe/Berlin")
        assert after.timestamp.tzinfo is UTC and after.timestamp.microsecond == 0
        assert after.upcoming == after.timestamp + one_second
        assert after.last_timestamp == (before.timestamp if before else None)
        assert before is None or after.timestamp == before.upcoming
    paused = await schedules.get(client, schedule_id)
    assert paused.last_at == payloads[-1].timestamp


async def test_a_workflow_without_an_input_can_be_scheduled(client: PolosClient) -> None:
    schedule_id = await schedules.create(client, bare, "* * * * *")
    await make_due(client, schedule_id, timedelta(0))
    async with working(client, bare):

        async def ran() -> list[str]:
            return [one["result"] for one in await executions_of(client, bare.id) if one["result"]]

        assert await until(ran) == ["ran"]


@pytest.mark.parametrize("partitions", [1, 4])
async def test_a_tick_fired_by_several_workers_fires_once(
    redis_url: str, namespace: str, partitions: int
) -> None:
    async with PolosClient(redis_url, namespace, partitions=partitions) as client:
        store = await client.store()
        created = [await schedules.create(client, typed, "* * * * *", key=str(n)) for n in range(8)]
        expected = {(one, await make_due(client, one, timedelta(0))) for one in created}
        await asyncio.gather(
            *(ticks.fire(store, client.retention_ms, one) for one in created for _ in range(10))
        )
        found = await executions_of(client, typed.id)
        assert {
            (one["input"]["schedule_id"], datetime.fromisoformat(one["input"]["timestamp"])) for one in found
        } >= expected
        assert len(found) == len({(one["input"]["schedule_id"], one["input"]["timestamp"]) for one in found})
        for one in found:
            assert store.partitions.prefix(one["id"]) == store.partitions.prefix(one["input"]["schedule_id"])


@pytest.mark.promise("schedule")
async def test_late_ticks_fire_and_missed_ticks_are_skipped(
    client: PolosClient, caplog: pytest.LogCaptureFixture
) -> None:
    store = await client.store()
    schedule_id = await schedules.create(client, typed, "* * * * *")
    first = await make_due(client, schedule_id, timedelta(hours=1))
    with caplog.at_level(logging.WARNING, "polos.worker"):
        await ticks.fire(store, client.retention_ms, schedule_id)
    now = datetime.fromtimestamp(await server_ms(store) / 1000, UTC)
    (record,) = [r for r in caplog.records if "missed" in r.getMessage()]
    fields = vars(record)
    next_fired = datetime.fromisoformat(fields["next"])
    assert fields["schedule"] == schedule_id and fields["workflow"] == typed.id
    assert datetime.fromisoformat(fields["first"]) == first
    assert fields["missed"] == (next_fired - first) / timedelta(minutes=1) >= 59
    fired = await ticks_of(client, typed.id)
    assert fired == ([next_fired] if next_fired <= now else [])
    schedule = await schedules.get(client, schedule_id)
    assert schedule.next_at is not None and schedule.next_at > now - timedelta(minutes=1)


async def test_missed_ticks_are_counted_up_to_a_thousand(
    client: PolosClient, caplog: pytest.LogCaptureFixture
) -> None:
    store = await client.store()
    schedule_id = await schedules.create(client, typed, SECOND)
    await make_due(client, schedule_id, timedelta(days=2))
    with caplog.at_level(logging.WARNING, "polos.worker"):
        while await ticks.fire(store, client.retention_ms, schedule_id) == 0:
            pass
    missed = [vars(record)["missed"] for record in caplog.records if "missed" in record.getMessage()]
    assert missed[0] == "1000 or more"
    fired = await ticks_of(client, typed.id)
    assert len(fired) >= 50, "those of the last minute"
    assert fired == [fired[0] + timedelta(seconds=n) for n in range(len(fired))]


async def test_a_schedule_that_is_deleted_while_it_fires_fires_once_or_not_at_all(
    client: PolosClient,
) -> None:
    store = await client.store()
    for n in range(20):
        schedule_id = await schedules.create(client, typed, "* * * * *", key=str(n))
        await make_due(client, schedule_id, timedelta(0))
        await asyncio.gather(
            ticks.fire(store, client.retention_ms, schedule_id), schedules.delete(client, schedule_id)
        )
    assert await schedules.list(client) == []
    for prefix in store.prefixes:
        assert await store.wire.call("ZCARD", prefix + keys.ERRANDS.encode()) == 0
    found = await executions_of(client, typed.id)
    assert len({one["input"]["schedule_id"] for one in found}) == len(found)


async def test_a_schedule_unusable_in_this_release_does_not_stop_the_others(
    client: PolosClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a time zone or a notation that only a newer release knows."""
    store = await client.store()
    odd = await schedules.create(client, bare, "* * * * *", key="odd")
    good = await schedules.create(client, bare, "* * * * *", key="good")
    for one in (odd, good):
        await make_due(client, one, timedelta(0))
    now, seen = await store.schedules.read(odd)
    unknown = msgpack.packb({**msgpack.unpackb(seen), "timezone": "Mars/Olympus"})
    assert await store.schedules.change(odd, seen, unknown, now - 1000)
    async with working(client, bare):

        async def ran() -> bool:
            return any(one["result"] for one in await executions_of(client, bare.id))

        await until(ran)
        await until(lambda: any("Mars/Olympus" in str(vars(r).get("error")) for r in caplog.records))
    await schedules.delete(client, odd)


# --- a fleet ----------------------------------------------------------------------------


async def timer_leader(client: PolosClient, fleet: Fleet, name: str) -> WorkerProcess:
    """The worker that fires the timers and runs the errands in the partition of a schedule or a topic."""
    store = await client.store()
    key = store.partitions.topic_prefix(name) + keys.TIMER_LEADER.encode()

    async def holder() -> bytes | None:
        found: bytes | None = await store.wire.call("GET", key)
        return found

    worker_id: bytes = await until(holder, "a timer leader")
    return fleet.of(int(worker_id.split(b"-")[-2]))


async def count_of(client: PolosClient, workflow_id: str, status: str) -> int:
    store = await client.store()
    name = f"{keys.INDEX}{'ended' if status == 'completed' else status}:{workflow_id}".encode()
    return sum([int(await store.wire.call("ZCARD", prefix + name)) for prefix in store.prefixes])


async def ticked(client: PolosClient, times: int) -> None:
    async def there() -> bool:
        return await count_of(client, "ticked", "completed") >= times

    async with asyncio.timeout(60):
        while not await there():  # noqa: ASYNC110 - the others are other processes
            await asyncio.sleep(0.05)


@pytest.mark.timeout(90)
@pytest.mark.promise("schedule")
async def test_two_workers_fire_each_second_once_for_twenty_seconds(
    fleet: Fleet, client: PolosClient
) -> None:
    await asyncio.gather(*(fleet.start(defined_in="tests.harness.fleet_starts") for _ in range(2)))
    schedule_id = await schedules.create(client, "ticked", SECOND)
    await ticked(client, 20)
    await schedules.pause(client, schedule_id)
    ticks = await ticks_of(client, "ticked")
    await ticked(client, len(ticks))
    assert ticks == [ticks[0] + timedelta(seconds=n) for n in range(len(ticks))]
    effects = [name for counts in fleet.counts().values() for name in counts.elements()]
    assert sorted(effects) == [f"tick-{tick.timestamp():.0f}" for tick in ticks]


@pytest.mark.timeout(90)
@pytest.mark.promise("schedule")
async def test_each_tick_fires_once_when_the_timer_leader_is_killed(
    fleet: Fleet, client: PolosClient
) -> None:
    await asyncio.gather(*(fleet.start(defined_in="tests.harness.fleet_starts") for _ in range(2)))
    schedule_id = await schedules.create(client, "ticked", SECOND)
    for times in (3, 6):
        await ticked(client, times)
        (await timer_leader(client, fleet, schedule_id)).kill()
        await fleet.start(defined_in="tests.harness.fleet_starts")
    await ticked(client, 10)
    await schedules.pause(client, schedule_id)
    ticks = await ticks_of(client, "ticked")
    await ticked(client, len(ticks))
    assert ticks == [ticks[0] + timedelta(seconds=n) for n in range(len(ticks))]


@pytest.mark.timeout(90)
async def test_a_worker_that_froze_over_a_tick_fires_nothing_twice(fleet: Fleet, client: PolosClient) -> None:
    await asyncio.gather(*(fleet.start(defined_in="tests.harness.fleet_starts") for _ in range(2)))
    schedule_id = await schedules.create(client, "ticked", SECOND)
    await ticked(client, 2)
    frozen = await timer_leader(client, fleet, schedule_id)
    frozen.pause()
    await ticked(client, 6)
    frozen.resume()
    await ticked(client, 9)
    await schedules.pause(client, schedule_id)
    ticks = await ticks_of(client, "ticked")
    await ticked(client, len(ticks))
    assert ticks == [ticks[0] + timedelta(seconds=n) for n in range(len(ticks))]


@pytest.mark.timeout(90)
async def test_ticks_continue_after_an_outage(chaos_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(chaos_server.url, namespace) as client, working(client, typed):
        schedule_id = await schedules.create(client, typed, SECOND)

        async def fired(least: int) -> list[datetime]:
            found = await ticks_of(client, typed.id)
            return found if len(found) >= least else []

        await until(lambda: fired(2), "two ticks")
        chaos_server.kill()
        await asyncio.sleep(2)  # the outage itself
        chaos_server.start()
        await until(lambda: fired(6), "the ticks of the outage and later ones")
        await schedules.pause(client, schedule_id)
        ticks = await ticks_of(client, typed.id)
    assert ticks == [ticks[0] + timedelta(seconds=n) for n in range(len(ticks))]
