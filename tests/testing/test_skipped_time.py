"""Skipped time: `world.skip`, on real servers."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from polos_redis import (
    Event,
    EventData,
    ExecutionFailedError,
    ExecutionNotFoundError,
    InvalidInputError,
    PolosClient,
    SchedulePayload,
    SuspendTimeoutError,
    WaitTimeoutError,
    Workflow,
    WorkflowContext,
    apikeys,
    events,
    workflow,
)
from polos_redis.errors import LinkError
from polos_redis.links import Links
from polos_redis.notifications import Notification
from polos_redis.state import keys, scripts
from polos_redis.testing import World, world
from polos_redis.wire.transport import Script
from tests.harness.running import DEADLINE
from tests.invariants.state_invariants import check

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
SLACK = 60_000  # ms: how long a busy machine may take for what follows at once

effects: Counter[str] = Counter()


async def fails_times(name: str, times: int) -> str:
    effects[name] += 1
    if effects[name] <= times:
        raise OSError(f"attempt {effects[name]}")
    return f"attempt {effects[name]}"


@workflow(schedule="30 9 * * *")
async def skips_daily(ctx: WorkflowContext, tick: SchedulePayload) -> list[int]:
    return [int(tick.timestamp.timestamp() * 1000), await ctx.step.now("now")]


@workflow
async def skips_waits(ctx: WorkflowContext, days: list[float]) -> list[int]:
    """The time at the start, and after each wait."""
    times = [await ctx.step.now("start")]
    for number, one in enumerate(days):
        await ctx.step.wait_for(f"wait-{number}", days=one)
        times.append(await ctx.step.now(f"now-{number}"))
    return times


@workflow
async def skips_until(ctx: WorkflowContext, days: float) -> int:
    when = datetime.fromtimestamp(await ctx.step.now("start") / 1000, UTC) + timedelta(days=days)
    await ctx.step.wait_until("until", when)
    return await ctx.step.now("end") - int(when.timestamp() * 1000)


@workflow
async def skips_asks(ctx: WorkflowContext, timeout: float) -> str:
    try:
        answer = await ctx.step.suspend("ask", data={"for": "you"}, timeout=timeout)
    except SuspendTimeoutError:
        return "nobody answered"
    return str(answer["data"])


@workflow
async def skips_event(ctx: WorkflowContext, topic: str) -> str:
    try:
        return str((await ctx.step.wait_for_event("event", topic, timeout=3600)).data)
    except WaitTimeoutError:
        return "nothing happened"


@workflow
async def skips_retries(ctx: WorkflowContext, delays: list[float]) -> list[Any]:
    start = await ctx.step.now("start")
    name, (base, longest) = ctx.execution_id, delays
    result = await ctx.step.run(
        "work", fails_times, name, 3, max_retries=3, base_delay=base, max_delay=longest
    )
    return [result, await ctx.step.now("end") - start]


@workflow(retries=2, retry_delay=1800)
async def skips_runs(ctx: WorkflowContext) -> str:
    return await ctx.step.run("work", fails_times, ctx.execution_id, 1, max_retries=0)


@workflow(run_timeout_seconds=7200)
async def skips_deadline(ctx: WorkflowContext) -> None:
    await ctx.step.wait_for("long", days=1)


@workflow
async def skips_publishes(ctx: WorkflowContext, topic: str) -> None:
    await ctx.step.publish_event("tell", topic, EventData("told", 1))


@workflow
async def skips_hangs(ctx: WorkflowContext) -> None:
    await ctx.step.run("hang", asyncio.Event().wait)


WORKFLOWS: list[Workflow[Any, Any]] = [
    *(skips_waits, skips_until, skips_asks, skips_event, skips_retries, skips_runs),
    *(skips_deadline, skips_publishes, skips_hangs),
]


@pytest.fixture
async def own(every_server: Any, redis_url: str) -> AsyncIterator[World]:
    """A world on each kind of server in turn, with `--servers=all`."""
    async with world(WORKFLOWS, url=redis_url) as made:
        yield made
        check(made.url, made.namespace)


@pytest.fixture
async def anywhere(redis_url: str) -> AsyncIterator[World]:
    """A world on a server or a cluster."""
    async with world(WORKFLOWS, url=redis_url) as made:
        yield made
        check(made.url, made.namespace)


# --- due times ----------------------------------------------------------------------------


async def test_each_of_seven_daily_ticks_fires(every_server: Any, redis_url: str) -> None:
    async with world([skips_daily], url=redis_url) as own:
        await own.skip(days=7)
        page = await own.client.list_executions(workflow=skips_daily)
        rows = [await own.client.get_execution(row["id"]) for row in reversed(list(page))]
        assert [row["status"] for row in rows] == ["completed"] * 7
        ticks = [row["result"][0] for row in rows]
        assert [later - tick for tick, later in pairwise(ticks)] == [DAY] * 6
        for row in rows:
            tick, at = row["result"]
            assert 0 <= at - tick < SLACK
            created = datetime.fromisoformat(row["created_at"]).timestamp() * 1000
            assert 0 <= created - tick < SLACK
        check(own.url, own.namespace)


@pytest.mark.also_on_cluster
async def test_waits_in_a_row_are_over_each_at_its_time(anywhere: World) -> None:
    own = anywhere
    handle = await skips_waits.invoke(own.client, [1, 2.5, 0, 3])
    await own.skip(days=6.4)
    assert await handle.status() == "waiting"
    await own.skip(days=0.2)
    start, *times = await handle.result(timeout=DEADLINE)
    for at, days in zip(times, [1, 3.5, 3.5, 6.5], strict=True):
        assert 0 <= at - start - days * DAY < SLACK


@pytest.mark.parametrize("pieces", [[6.5], [3.25] * 2, [0.5] * 13, [1.1, 2.2, 3.2]])
async def test_the_same_happens_in_however_many_pieces(own: World, pieces: list[float]) -> None:
    waits: list[list[float]] = [[1, 2], [3, 3, 0.4], [7], [0.1] * 10]
    handles = [await skips_waits.invoke(own.client, days) for days in waits]
    asked = await skips_asks.invoke(own.client, 6 * DAY / 1000)
    for piece in pieces:
        await own.skip(days=piece)
    assert [await one.status() for one in handles] == ["completed", "completed", "waiting", "completed"]
    assert await asked.result(timeout=DEADLINE) == "nobody answered"
    for handle, days in list(zip(handles, waits, strict=True))[:2]:
        start, *times = await handle.result(timeout=DEADLINE)
        for number, at in enumerate(times, 1):
            assert 0 <= at - start - sum(days[:number]) * DAY < SLACK


async def test_wait_until_ends_at_its_time(own: World) -> None:
    handle = await skips_until.invoke(own.client, 30)
    await own.skip(days=29.9)
    assert await handle.status() == "waiting"
    await own.skip(hours=3)
    assert 0 <= await handle.result(timeout=DEADLINE) < SLACK


async def test_a_deadline_passes_unless_somebody_answers_before(own: World) -> None:
    answered = await skips_asks.invoke(own.client, 3 * DAY / 1000)
    late = await skips_asks.invoke(own.client, 3 * DAY / 1000)
    await own.skip(days=2.9)
    await (await own.suspension(answered)).answer("in time", by="ann")
    await own.skip(days=0.2)
    assert await answered.result(timeout=DEADLINE) == "in time"
    assert await late.result(timeout=DEADLINE) == "nobody answered"
    (decision,) = await own.client.audit(late.id)
    opened, at = map(datetime.fromisoformat, (decision["opened_at"], decision["at"]))
    assert decision["status"] == "expired" and 0 <= (at - opened).total_seconds() - 3 * 86400 < 60


async def test_a_wait_for_an_event_times_out(own: World) -> None:
    some, none = [await skips_event.invoke(own.client, topic) for topic in ("some", "none")]
    await own.skip(minutes=59)
    await events.publish(own.client, "some", EventData("happened", "something"))
    await own.skip(minutes=2)
    assert await some.result(timeout=DEADLINE) == "something"
    assert await none.result(timeout=DEADLINE) == "nothing happened"


@pytest.mark.parametrize(
    ("base", "longest", "waited"), [(2.0, 10.0, 14.0), (0.25, 10, 1.75), (3600.0, 7200.0, 18000.0)]
)
async def test_retries_back_off_in_skipped_time(
    own: World, base: float, longest: float, waited: float
) -> None:
    """Short delays, too, that would not park otherwise."""
    handle = await skips_retries.invoke(own.client, [base, longest])
    await own.skip(hours=10)
    result, took = await handle.result(timeout=DEADLINE)
    assert result == "attempt 4" and 0 <= took - waited * 1000 < SLACK


async def test_a_retried_run_starts_after_its_delay(own: World) -> None:
    handle = await skips_runs.invoke(own.client)
    await own.skip(minutes=29)
    assert await handle.status() == "queued"
    await own.skip(minutes=2)
    assert await handle.result(timeout=DEADLINE) == "attempt 2"


async def test_a_run_ends_at_its_timeout(own: World) -> None:
    handle = await skips_deadline.invoke(own.client)
    await own.skip(hours=3)
    with pytest.raises(ExecutionFailedError, match="7200"):
        await handle.result(timeout=DEADLINE)


async def test_a_delayed_start_comes_at_its_time(own: World) -> None:
    by_delay = await skips_waits.invoke(own.client, [], start_delay=DAY / 1000)
    by_time = await skips_waits.invoke(own.client, [], start_at=await own.now() + timedelta(days=2))
    await own.skip(hours=25)
    assert [await one.status() for one in (by_delay, by_time)] == ["completed", "queued"]
    await own.skip(days=1)
    assert await by_time.status() == "completed"


async def test_a_notification_is_tried_again(redis_url: str) -> None:
    class Phone:
        name = "phone"

        def __init__(self) -> None:
            self.calls: list[str] = []

        async def send(self, notification: Notification) -> None:
            self.calls.append(notification.id)
            if len(self.calls) < 4:
                raise OSError("nobody answers")

    phone = Phone()
    async with world([skips_asks], url=redis_url, channels=[phone]) as own:
        await own.suspension(await skips_asks.invoke(own.client, 10 * DAY / 1000))
        await own.skip(days=1)
    assert len(phone.calls) == 4 and len(set(phone.calls)) == 1


# --- retention and TTLs -------------------------------------------------------------------


async def _stored(own: World) -> set[str]:
    """The keys of the world, without those that every namespace has, and those of its clock."""
    found: set[str] = set()
    for node in await (await own.client.store()).wire.nodes():
        names = await node.call("KEYS", f"polos:{{{own.namespace}:*")
        found |= {name.decode().partition("}:")[2] for name in names}
    always = {keys.META, keys.WORKERS, keys.SERVES, keys.QUEUES, keys.TIMER_LEADER, keys.DEFINITIONS}
    return {key for key in found - always if not key.startswith((keys.QUEUE, keys.SKIPPED, keys.EXPIRING))}


@pytest.mark.also_on_cluster
async def test_what_is_retained_goes_when_its_time_is_over(anywhere: World) -> None:
    own = anywhere
    topic = "news"
    done = await skips_publishes.invoke(own.client, topic)
    asked = await skips_asks.invoke(own.client, 60)
    async for event in events.stream_workflow(own.client, "", asked.id):
        if event.event_type == "suspend_ask":
            await own.skip(minutes=2)
    await own.skip(days=6.9)
    assert (await own.client.get_execution(done.id))["status"] == "completed"
    assert keys.TOPIC + topic in await _stored(own)
    await own.skip(days=0.2)
    for handle in (done, asked):
        with pytest.raises(ExecutionNotFoundError):
            await own.client.get_execution(handle.id)
    assert {key.partition(":")[0] for key in await _stored(own)} == {"audit"}
    assert len(await own.client.audit(asked.id)) == 1
    await own.skip(days=366)
    assert await _stored(own) == set()


async def test_a_key_that_is_kept_longer_goes_at_its_later_time(own: World) -> None:
    """A later event renews a free topic's retention."""
    await events.publish(own.client, "news", EventData("one"))
    await own.skip(days=5)
    await events.publish(own.client, "news", EventData("two"))
    await own.skip(days=5)
    assert keys.TOPIC + "news" in await _stored(own)
    await own.skip(days=3)
    assert keys.TOPIC + "news" not in await _stored(own)


async def test_an_idempotency_key_is_free_again_after_the_retention(own: World) -> None:
    first = await skips_waits.invoke(own.client, [], idempotency_key="same")
    await first.result(timeout=DEADLINE)
    await own.skip(days=6)
    again = await skips_waits.invoke(own.client, [], idempotency_key="same")
    assert (await own.client.get_execution(again.id))["status"] == "completed"
    await own.skip(days=2)
    anew = await skips_waits.invoke(own.client, [], idempotency_key="same")
    (start,) = await anew.result(timeout=DEADLINE)
    assert start > (await own.now()).timestamp() * 1000 - SLACK


async def test_events_of_skipped_time_carry_it_in_order(own: World) -> None:
    handle = await skips_waits.invoke(own.client, [1, 1])
    before = await own.now()
    seen: list[Event] = []

    async def follow() -> None:
        seen.extend([event async for event in events.stream_workflow(own.client, "", handle.id)])

    following = asyncio.create_task(follow())
    await own.skip(days=2.1)
    async with asyncio.timeout(DEADLINE):
        await following
    order = [(event.created_at, event.sequence_id) for event in seen]
    assert order == sorted(order)
    assert seen[-1].event_type == "workflow_finish"
    assert 0 <= (seen[-1].created_at - before).total_seconds() - 2 * 86400 < 60


async def test_a_worker_keeps_its_lease_and_the_leader_its_lock(own: World) -> None:
    store = await own.client.store()
    handle = await skips_waits.invoke(own.client, [300])
    await own.skip(days=299)
    assert await own.client.served_workflows() == {one.id for one in WORKFLOWS}
    listed = await store.wire.call("ZRANGE", store.prefixes[0] + keys.EXPIRING.encode(), 0, -1)
    assert not [key for key in listed if key.endswith((b"timer_leader", b"confirmed")) or b"rate:" in key]
    await own.skip(days=2)
    await handle.result(timeout=DEADLINE)
    (lost,) = await store.executions.read_fields(handle.id, "attempts")  # activations lost with their worker
    assert lost is None


# --- other clocks -------------------------------------------------------------------------


async def test_links_and_api_keys_expire(own: World) -> None:
    secrets = ["a secret of more than 32 characters, for tests"]
    links = Links(secrets, own.namespace, "https://polos.test", 3600)
    token = links.token("a" * 32, "ask", 1, at=(await own.now()).timestamp())
    _, secret = await apikeys.create(own.client, "ci", ["read"], expires_in=3600)
    store = await own.client.store()
    assert await apikeys.find(own.client, secret) is not None
    await own.skip(minutes=50)
    assert links.read(token, at=await store.clock.now()).step_key == "ask"
    assert await apikeys.find(own.client, secret) is not None
    await own.skip(minutes=20)
    with pytest.raises(LinkError, match="expired"):
        links.read(token, at=await store.clock.now())
    assert await apikeys.find(own.client, secret) is None
    key, later = await apikeys.create(own.client, "ci", ["read"], expires_in=3600)
    assert key.created_at > datetime.now(UTC) + timedelta(minutes=60)
    assert await apikeys.find(own.client, later) is not None


async def test_another_client_of_the_world_follows_its_clock(own: World) -> None:
    """It learns from the namespace that it is a test's."""
    async with PolosClient(own.url, own.namespace) as other:
        handle = await skips_waits.invoke(other, [1])
        await own.skip(days=2)
        assert await handle.result(timeout=DEADLINE)
        late = await skips_waits.invoke(other, [])
        assert (await other.get_execution(late.id))["created_at"][:10] == (await own.now()).date().isoformat()


# --- refusals -----------------------------------------------------------------------------


async def test_a_step_that_does_not_end_stops_the_clock(own: World) -> None:
    handle = await skips_hangs.invoke(own.client)
    with pytest.raises(TimeoutError) as raised:
        await own.skip(days=1, timeout=0.2)
    assert str(raised.value) == (
        "time can't be skipped: after 0.2 s, 1 execution still ran or waited for a worker; end their steps, "
        "or serve their workflows, or give skip() a longer timeout"
    )
    await handle.cancel()


@pytest.mark.parametrize("parts", [{}, {"days": -1}, {"hours": 1, "days": -1}, {"seconds": 0.0001}])
async def test_time_passes_forward_only(own: World, parts: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="skip: expected a time to come, such as days=7"):
        await own.skip(**parts)


# --- scripts ------------------------------------------------------------------------------


FUNCTIONS = {
    "skipped_time(KEYS[1])": "redis.call('TIME')",
    "skipped_add(KEYS[1], ": "redis.call('XADD', ",
    "skipped_expire(KEYS[1], ": "redis.call('PEXPIRE', ",
    "skipped_set(KEYS[1], once, event, ": "redis.call('SET', once, event, 'PX', ",
}


PRELUDE = re.compile(r"^local function skipped_\w+\(.*?^end\n", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_a_variant_differs_only_in_the_clock(script: Script) -> None:
    """Scripts of other namespaces know nothing of skipped time, and a variant adds nothing else."""
    plain, variant = script.source.decode(), scripts.skipping(script).source.decode()
    assert not re.search(r"skipped_|P \.\. '(skipped|expiring)'", plain)
    rest = PRELUDE.sub("", variant)
    for function, command in FUNCTIONS.items():
        rest = rest.replace(function, command)
    assert list(filter(None, rest.splitlines())) == list(filter(None, plain.splitlines()))


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_no_variant_asks_the_server_for_its_time(script: Script) -> None:
    """What is left keeps real time: locks, rates, and the mark of a confirmation."""
    source = PRELUDE.sub("", scripts.skipping(script).source.decode())
    assert not re.search(r"'TIME'|'XADD'|EXPIRE'", source)
    left = re.findall(r"redis\.call\('SET', (.*?)[,)]", source)
    assert set(left) <= {"P .. 'timer_leader'", "P .. 'rate:' .. caller", "P .. 'confirmed'"}


async def test_a_variant_costs_others_nothing(client: PolosClient) -> None:
    """A namespace that is no test's is served by the wire itself, and its clock asks nobody."""
    store = await client.store()
    assert not store.clock.skips
    assert type(store.wire).__name__ in ("Wire", "ClusterWire", "ServersWire")
    before = await store.wire.call("INFO", "commandstats")
    await store.clock.now()
    after = await store.wire.call("INFO", "commandstats")
    assert before.count(b"cmdstat_get:") == after.count(b"cmdstat_get:")
