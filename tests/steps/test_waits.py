"""`ctx.step.wait_for` and `wait_until`: waiting for a time, and waits that the code abandons."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from polos_redis import ExecutionFailedError, PolosClient, Workflow, WorkflowContext, events
from tests.harness.running import Running, running, soon, until, working
from tests.invariants.rows import rows

CALLS: defaultdict[str, Counter[str]] = defaultdict(Counter)


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


@flow
async def waits_for(ctx: WorkflowContext, parts: dict[str, Any]) -> str:
    await ctx.step.wait_for("wait", **parts)
    return "went on"


@flow
async def waits_until(ctx: WorkflowContext, when: Any) -> str:
    await ctx.step.wait_until("wait", when)
    return "went on"


async def length(at: Running, execution_id: str) -> timedelta:
    """Time from the opening of its wait to its deadline."""
    (wait,) = (await at.client.get_execution(execution_id))["waits"]
    return datetime.fromisoformat(wait["until"]) - datetime.fromisoformat(wait["opened_at"])


async def test_a_short_wait_is_recorded_only_in_the_journal(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits_for) as at:
        handle = await waits_for.invoke(at.client, {"seconds": 0.05})
        assert await at.result(handle) == "went on"
        (wait,) = (await at.client.get_execution(handle.id))["waits"]
        assert (wait["status"], wait["topic"]) == ("over", None)
        assert wait["opened_at"] < wait["until"] <= wait["decided_at"]
        types = [event.event_type for event in await at.events(handle)]
        assert types == ["workflow_start", "workflow_finish"], "only its journal records the wait"


async def test_the_units_of_a_wait_add_up(redis_url: str, namespace: str) -> None:
    parts = {"seconds": 1.5, "minutes": 2, "hours": 3, "days": 4, "weeks": 5}
    async with running(redis_url, namespace, waits_for) as at:
        handle = await waits_for.invoke(at.client, parts)
        await at.parked(handle)
        assert await length(at, handle.id) == timedelta(**parts)
        assert rows(redis_url, namespace) == {"timer wait"}
        await at.make_due(handle, "wait", "w")
        assert await at.result(handle) == "went on"
        assert rows(redis_url, namespace) == set()


@pytest.mark.parametrize(
    "parts", [{}, {"seconds": 0}, {"seconds": -5}, {"days": 1, "hours": -24}, {"seconds": None}]
)
async def test_a_zero_wait_is_over_at_once(parts: Any, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits_for) as at:
        handle = await waits_for.invoke(at.client, parts)
        assert await at.result(handle) == "went on"
        assert await length(at, handle.id) == timedelta()


@pytest.mark.parametrize(
    "parts",
    [
        {"seconds": float("inf")},
        {"seconds": float("nan")},
        {"days": 10**12},
        {"weeks": -(10**400)},
        {"hours": 10**7},
        {"minutes": "5"},
    ],
)
async def test_invalid_durations_are_refused(parts: Any, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits_for) as at:
        with pytest.raises(
            ExecutionFailedError, match="wait 'wait': expected numbers that add up to at most 300 years"
        ):
            await at.result(await waits_for.invoke(at.client, parts))


@pytest.mark.failure(20)
@pytest.mark.parametrize(
    "zone", [UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-11, minutes=-30))]
)
async def test_wait_until_accepts_any_time_zone(zone: Any, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits_until) as at:
        when = datetime.now(zone) + timedelta(days=2)
        handle = await waits_until.invoke(at.client, when)
        await at.parked(handle)
        (wait,) = (await at.client.get_execution(handle.id))["waits"]
        assert abs(datetime.fromisoformat(wait["until"]) - when) < timedelta(milliseconds=2)
        await handle.cancel()
        soon_over = await waits_until.invoke(at.client, datetime.now(zone) + timedelta(milliseconds=50))
        assert await at.result(soon_over) == "went on"


@pytest.mark.parametrize(
    "when",
    [
        datetime(2020, 1, 1, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 7, 20, tzinfo=UTC),
    ],
)
async def test_a_past_time_is_over_at_once(when: datetime, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits_until) as at:
        assert await at.result(await waits_until.invoke(at.client, when)) == "went on"


async def test_the_latest_possible_time_is_accepted(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits_until) as at:
        handle = await waits_until.invoke(
            at.client, datetime.max.replace(tzinfo=timezone(timedelta(hours=-10)))
        )
        await at.parked(handle)
        (wait,) = (await at.client.get_execution(handle.id))["waits"]
        assert wait["until"].startswith("9999-12-31T23:59:59")
        await handle.cancel()


@pytest.mark.parametrize("when", [datetime(2030, 1, 1), 1_900_000_000, "tomorrow", None])
async def test_a_time_without_a_zone_is_refused(when: Any, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits_until) as at:
        with pytest.raises(ExecutionFailedError, match="expected a datetime with a time zone"):
            await at.result(await waits_until.invoke(at.client, when))


# --- several at once, and beside other work ---------------------------------------------


@flow
async def several(ctx: WorkflowContext) -> list[str]:
    passed: list[str] = []

    async def one(number: int) -> None:
        await ctx.step.wait_for(f"wait {number}", hours=number)
        passed.append(await ctx.step.run(f"step {number}", str, number))

    await asyncio.gather(*(one(number) for number in (3, 2, 1)))
    return sorted(passed)


async def test_several_waits_run_at_once(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, several) as at:
        handle = await several.invoke(at.client)
        for number in (2, 1, 3):
            await at.parked(handle)
            await at.make_due(handle, f"wait {number}", "w")
            await until(lambda: f"timer wait {number}" not in rows(redis_url, namespace))  # noqa: B023
        assert await at.result(handle) == ["1", "2", "3"]
        steps = (await at.client.get_execution(handle.id))["steps"]
        assert [step["step_key"] for step in steps] == ["step 2", "step 1", "step 3"]


async def test_a_wait_does_not_delay_an_answer(redis_url: str, namespace: str) -> None:
    @flow
    async def both(ctx: WorkflowContext) -> None:
        async def ask() -> None:
            await ctx.step.suspend("ask")
            await ctx.step.run("answered", lambda: CALLS[ctx.execution_id].update(["answered"]))

        await asyncio.gather(ctx.step.wait_for("long", days=1), ask())

    async with running(redis_url, namespace, both) as at:
        handle = await both.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        await until(lambda: CALLS[handle.id]["answered"])
        await at.parked(handle)
        assert rows(redis_url, namespace) == {"timer long"}
        await handle.cancel()
        assert rows(redis_url, namespace) == set()


@pytest.mark.failure(26)
@pytest.mark.promise("timer")
async def test_a_wait_expires_while_no_worker_is_running(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits_for) as at:
        handle = await waits_for.invoke(at.client, {"hours": 1})
        await at.parked(handle)
    async with PolosClient(redis_url, namespace) as client:
        store = await client.store()
        timers = store.partitions.prefix(handle.id) + b"timers"
        await store.wire.call("ZADD", timers, "XX", 1, f"w{handle.id} wait")
        async with working(client, waits_for) as worker:
            at = Running(client, worker)
            assert await at.result(client.get_handle(handle.id)) == "went on"


@flow
async def asks_in_a_step(ctx: WorkflowContext, call: str) -> None:
    calls: dict[str, Any] = {
        "wait_for": lambda: ctx.step.wait_for("wait", seconds=1),
        "wait_until": lambda: ctx.step.wait_until("wait", datetime.now(UTC)),
        "wait_for_event": lambda: ctx.step.wait_for_event("wait", "topic"),
        "first_of": lambda: ctx.step.first_of("wait", {}),
    }
    await ctx.step.run("step", calls[call], max_retries=0)


@pytest.mark.parametrize("call", ["wait_for", "wait_until", "wait_for_event", "first_of"])
async def test_a_step_cannot_wait(call: str, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks_in_a_step) as at:
        with pytest.raises(ExecutionFailedError, match=rf"step\.{call}\('wait'\) was called inside a step"):
            await at.result(await asks_in_a_step.invoke(at.client, call))


# --- odd keys ---------------------------------------------------------------------------

KEYS = ["two words", "a\nb", "nul\0nul", "é✓", "{brace}", " ", "x" * 500, "b0 a"]


@flow
async def odd(ctx: WorkflowContext, key: str) -> None:
    async def fail() -> None:
        raise LookupError("not yet")

    await asyncio.gather(
        ctx.step.wait_for(f"{key} for", hours=1),
        ctx.step.wait_until(f"{key} until", datetime.now(UTC) + timedelta(days=1)),
        ctx.step.suspend(f"{key} suspend", timeout=3600),
        ctx.step.run(f"{key} retry", fail, base_delay=3600, max_delay=3600),
        ctx.step.first_of(f"{key} race", {key: ctx.step.wait_for(f"{key} branch", hours=1)}),
        ctx.step.uuid(f"{key} uuid"),
    )


@pytest.mark.failure(21)
@pytest.mark.parametrize("key", KEYS)
async def test_step_keys_may_be_any_text(key: str, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, odd) as at:
        handle = await odd.invoke(at.client, key)
        await at.parked(handle)
        timers = {f"timer {key} {kind}" for kind in ("for", "until", "suspend", "retry", "branch")}
        assert rows(redis_url, namespace) == timers | {f"suspension {key} suspend"}
        await at.answer(handle, f"{key} suspend")
        for kind in ("for", "until", "branch"):
            await at.make_due(handle, f"{key} {kind}", "w")
        await until(lambda: rows(redis_url, namespace) == {f"timer {key} retry"})
        await handle.cancel()
        assert rows(redis_url, namespace) == set()


# --- abandoned by the code --------------------------------------------------------------


async def test_an_abandoned_steps_retry_is_dropped(redis_url: str, namespace: str) -> None:
    """The running sibling keeps it from parking before asyncio's timeout."""

    @flow
    async def gives_up(ctx: WorkflowContext) -> str:
        async def fail() -> None:
            CALLS[ctx.execution_id].update(["fail"])
            raise LookupError("not yet")

        async def tries() -> None:
            await ctx.step.run("fail", fail, base_delay=3600, max_delay=3600)

        async def stays() -> None:
            await asyncio.Event().wait()

        try:
            async with asyncio.timeout(0.2):
                await asyncio.gather(tries(), ctx.step.run("stays", stays))
        except TimeoutError:
            await ctx.step.suspend("after")
            return "given up"
        raise AssertionError("it never returns")

    async with running(redis_url, namespace, gives_up) as at:
        handle = await gives_up.invoke(at.client)
        await at.opened(handle, "after")
        await at.parked(handle)
        assert rows(redis_url, namespace) == {"suspension after"}
        await at.answer(handle, "after")
        assert await at.result(handle) == "given up"
        assert CALLS[handle.id] == {"fail": 1}, "the replay does not retry it"


async def test_a_wait_abandoned_while_it_opens_is_closed(redis_url: str, namespace: str) -> None:
    @flow
    async def at_once(ctx: WorkflowContext, spins: int) -> str:
        wait = asyncio.ensure_future(ctx.step.suspend("given up", timeout=3600))
        for _ in range(spins):
            await asyncio.sleep(0)
        wait.cancel()
        await asyncio.wait([wait])
        await ctx.step.suspend("after")
        return "done"

    async with running(redis_url, namespace, at_once) as at:
        for spins in range(8):
            handle = await at_once.invoke(at.client, spins)
            await at.opened(handle, "after")
            await at.parked(handle)
            assert rows(redis_url, namespace) == {"suspension after"}
            await at.answer(handle, "after")
            assert await at.result(handle) == "done"


async def test_open_waits_are_listed(redis_url: str, namespace: str) -> None:
    @flow
    async def mixed(ctx: WorkflowContext) -> None:
        await asyncio.gather(
            ctx.step.wait_for("delay", hours=1), ctx.step.wait_for_event("event", "topic", timeout=60)
        )

    async with running(redis_url, namespace, mixed) as at:
        handle = await mixed.invoke(at.client)
        await at.parked(handle)
        waits = {one["step_key"]: one for one in (await at.client.get_execution(handle.id))["waits"]}
        assert {key: one["topic"] for key, one in waits.items()} == {"delay": None, "event": "topic"}
        assert all(one["status"] == "open" and one["decided_at"] is None for one in waits.values())
        await at.make_due(handle, "event", "w")
        with pytest.raises(ExecutionFailedError, match="no event on topic 'topic' within 60 s"):
            await soon(at.result(handle))
        assert rows(redis_url, namespace) == set()
        finish = [event async for event in events.stream_workflow(at.client, "mixed", handle.id)][-1]
        assert finish.event_type == "workflow_finish"
