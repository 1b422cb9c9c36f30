"""Retrying a failed execution: what is kept, what runs again, and who sees which of its runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from polos_redis import (
    AlreadyResumedError,
    BatchWorkflowInput,
    Event,
    ExecutionFailedError,
    ExecutionHandle,
    ExecutionNotFoundError,
    NotFailedError,
    PolosClient,
    SuspendTimeoutError,
    Workflow,
    WorkflowContext,
    events,
)
from tests.harness.fleet import Fleet
from tests.harness.running import Running, running, soon, until, working


def flow(body: Any, **options: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__, **options)


class World:
    """The world outside the workflows: counts calls, and fails until it is fixed."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.broken = True

    def works(self, name: str) -> str:
        self.calls[name] += 1
        return name

    def breaks(self, name: str) -> str:
        self.calls[name] += 1
        if self.broken:
            raise LookupError(f"no {name}")
        return name


@pytest.fixture
def world() -> World:
    return World()


async def failed(at: Running, handle: ExecutionHandle[Any]) -> ExecutionFailedError:
    with pytest.raises(ExecutionFailedError) as raised:
        await at.result(handle)
    return raised.value


# --- by hand ----------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 4])
async def test_successful_steps_are_kept(
    partitions: int, world: World, redis_url: str, namespace: str
) -> None:
    runs = []

    @flow
    async def work(ctx: WorkflowContext, input: int) -> list[Any]:
        runs.append(ctx.run)
        value = await ctx.step.uuid("id")
        await ctx.step.run("good", world.works, "good")
        await ctx.step.run("bad", world.breaks, "bad", max_retries=1, base_delay=0)
        await ctx.step.run("last", world.works, "last")
        return [value, input, ctx.run]

    async with PolosClient(redis_url, namespace, partitions=partitions) as client, working(client, work) as w:
        at = Running(client, w)
        handle = await work.invoke(client, 7)
        assert (await failed(at, handle)).error_type == "StepExecutionError"
        before = await client.get_execution(handle.id)
        world.broken = False

        assert await client.retry(handle.id) == 2
        value, argument, run = await at.result(handle)
        after = await client.get_execution(handle.id)
        assert (argument, run, runs) == (7, 2, [1, 2])
        assert world.calls == {"good": 1, "bad": 3, "last": 1}
        assert before["steps"][0]["value"] == value
        assert (after["status"], after["run"], after["error"]) == ("completed", 2, None)
        assert after["last_error"]["type"] == "StepExecutionError"
        assert [step["attempts"] for step in after["steps"] if step["step_key"] == "bad"] == [1]


async def test_answers_stay_and_timed_out_suspensions_open_again(redis_url: str, namespace: str) -> None:
    asked = []

    @flow
    async def ask(ctx: WorkflowContext) -> list[Any]:
        first = await ctx.step.suspend("first")
        asked.append(ctx.run)
        second = await ctx.step.suspend("second", timeout=3600)
        return [first["data"], second["data"]]

    async with running(redis_url, namespace, ask) as at:
        handle = await ask.invoke(at.client)
        await at.opened(handle, "first")
        await at.answer(handle, "first", "yes")
        await at.opened(handle, "second")
        await at.make_due(handle, "second", "s")
        assert (await failed(at, handle)).error_type == "SuspendTimeoutError"

        await at.client.retry(handle.id)
        await at.opened(handle, "second")
        assert (await at.answer(handle, "first", "yes")).outcome == "same"
        with pytest.raises(AlreadyResumedError):
            await at.answer(handle, "first", "no")
        (one,) = (await at.client.get_execution(handle.id))["open_suspensions"]
        assert one["expires_at"] > one["opened_at"]
        await at.answer(handle, "second", "now")
        assert await at.result(handle) == ["yes", "now"]
        kinds = [event.event_type for event in await at.events(handle)]
        assert kinds.count("suspend_first") == 1
        assert kinds.count("suspend_second") == 2


async def test_suspensions_open_at_the_failure_open_again(
    redis_url: str, namespace: str, world: World
) -> None:
    @flow
    async def ask(ctx: WorkflowContext) -> Any:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(ctx.step.suspend("ok"))
            await ctx.step.suspend("go")
            group.create_task(ctx.step.run("bad", world.breaks, "bad", max_retries=0))
        return asked.result()["data"]

    async with running(redis_url, namespace, ask) as at:
        handle = await ask.invoke(at.client)
        await at.opened(handle, "ok")
        await at.opened(handle, "go")
        await at.answer(handle, "go")
        await failed(at, handle)
        assert list(await at.client.list_suspensions()) == []
        world.broken = False
        await at.client.retry(handle.id)
        await at.opened(handle, "ok")
        await at.answer(handle, "ok", "at last")
        assert await at.result(handle) == "at last"


# --- children ---------------------------------------------------------------------------


async def test_only_failed_children_run_again(redis_url: str, namespace: str, world: World) -> None:
    @flow
    async def child(ctx: WorkflowContext, input: int) -> int:
        await ctx.step.run("kept", world.works, f"kept {input}")
        if input % 2:
            await ctx.step.run("bad", world.breaks, f"bad {input}", max_retries=0)
        return input * 10 + ctx.run

    @flow
    async def parent(ctx: WorkflowContext) -> list[int]:
        found = await ctx.step.batch_invoke_and_wait("all", [BatchWorkflowInput(child, n) for n in range(4)])
        one = await ctx.step.invoke_and_wait("one", child, 4)
        if not all(result.success for result in found):
            raise LookupError("not all of them")
        return [one, *(result.result for result in found)]

    async with running(redis_url, namespace, parent, child) as at:
        handle = await parent.invoke(at.client)
        assert (await failed(at, handle)).error_message == "not all of them"
        world.broken = False
        await at.client.retry(handle.id)
        assert await at.result(handle) == [41, 1, 12, 21, 32]
        assert world.calls == {**{f"kept {n}": 1 for n in range(5)}, "bad 1": 2, "bad 3": 2}
        statuses = [one["status"] for one in (await at.client.get_execution(handle.id))["children"]]
        assert statuses == ["completed"] * 5


@pytest.mark.parametrize("when", ["before the retry", "after the retry"])
async def test_children_that_kept_running_are_not_started_again(
    when: str, redis_url: str, namespace: str, world: World
) -> None:
    """The parent fails while its child waits; the child is not started again, whenever it ends."""

    @flow
    async def child(ctx: WorkflowContext) -> Any:
        await ctx.step.run("once", world.works, "once")
        return (await ctx.step.suspend("ok"))["data"]

    @flow
    async def parent(ctx: WorkflowContext) -> Any:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(ctx.step.invoke_and_wait("child", child))
            await ctx.step.suspend("go")
            group.create_task(ctx.step.run("bad", world.breaks, "bad", max_retries=0))
        return asked.result()

    async with running(redis_url, namespace, parent, child) as at:
        handle = await parent.invoke(at.client)
        await at.opened(handle, "go")
        (row,) = (await at.client.get_execution(handle.id))["children"]
        below = at.client.get_handle(row["id"])
        await at.opened(below, "ok")
        await at.answer(handle, "go")
        await failed(at, handle)
        assert await below.status() == "waiting"
        world.broken = False
        if when == "before the retry":
            await at.answer(below, "ok", "fine")
            assert await at.result(below) == "fine"
        await at.client.retry(handle.id)
        if when == "after the retry":
            await at.parked(handle)
            await at.answer(below, "ok", "fine")
        assert await at.result(handle) == "fine"
        assert world.calls["once"] == 1


async def test_the_result_of_a_child_forgotten_before_the_retry_is_kept(
    redis_url: str, namespace: str, client: PolosClient, world: World
) -> None:
    """The child ends after its parent has failed, and is forgotten before the parent is retried."""

    @flow
    async def child(ctx: WorkflowContext) -> Any:
        await ctx.step.run("once", world.works, "once")
        return (await ctx.step.suspend("ok"))["data"]

    @flow
    async def parent(ctx: WorkflowContext) -> Any:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(ctx.step.invoke_and_wait("child", child))
            await ctx.step.suspend("go")
            group.create_task(ctx.step.run("bad", world.breaks, "bad", max_retries=0))
        return asked.result()

    async with (
        PolosClient(redis_url, namespace, retention_seconds=0.1) as short,  # starts the child
        working(short, parent, child) as worker,
    ):
        at = Running(client, worker)
        handle = await parent.invoke(client)
        await at.opened(handle, "go")
        (row,) = (await at.client.get_execution(handle.id))["children"]
        below = at.client.get_handle(row["id"])
        await at.opened(below, "ok")
        await at.answer(handle, "go")
        await failed(at, handle)
        await at.answer(below, "ok", "fine")

        async def forgotten() -> bool:
            return [one["id"] for one in await at.client.list_executions()] == [handle.id]

        await until(forgotten, "the child to be forgotten")
        world.broken = False
        await at.client.retry(handle.id)
        assert await at.result(handle) == "fine"
        assert world.calls["once"] == 1


async def test_a_retry_stops_the_ending_of_its_children(redis_url: str, namespace: str) -> None:
    """The run times out with more children than end at once; those alive at the retry continue."""
    count = 300

    @flow
    async def child(ctx: WorkflowContext, input: int) -> int:
        await ctx.step.suspend("ok")
        return input

    @flow
    async def parent(ctx: WorkflowContext) -> list[Any]:
        found = await ctx.step.batch_invoke_and_wait(
            "all", [BatchWorkflowInput(child, n) for n in range(count)]
        )
        return [one.result for one in found]

    async with PolosClient(redis_url, namespace) as client:
        store = await client.store()

        async def all_wait() -> bool:
            return len(await client.list_suspensions(limit=1000)) == count

        async with working(client, parent, child):
            handle = await parent.invoke(client, run_timeout_seconds=3600)
            await until(all_wait)
            await until(lambda: _is(handle, "waiting"))

        # no worker is running: timers are fired by hand, a batch at a time
        home = store.partitions.prefix(handle.id)

        async def fire() -> int:
            await until(lambda: _unheld(store, home))
            await store.timers.fire(home, "by-hand", 1, 100, 0)
            return len(await client.list_executions(status="cancelled", limit=1000))

        await store.wire.call("DEL", home + b"timer_leader")
        await store.wire.call("ZADD", home + b"timers", "XX", 1, b"t" + handle.id.encode())
        await fire()
        assert await fire() == 100, "the end of the parent, and then of a hundred of its children"
        await client.retry(handle.id)
        assert await fire() == 100
        async with working(client, parent, child):
            await until(all_wait)
            await until(lambda: _is(handle, "waiting"))
            for row in await client.list_suspensions(limit=1000):
                await client.resume(
                    suspend_execution_id=row["execution_id"], suspend_step_key="ok", data=None
                )
            assert await handle.result(timeout=20) == list(range(count))


async def _is(handle: ExecutionHandle[Any], status: str) -> bool:
    return await handle.status() == status


async def _unheld(store: Any, prefix: bytes) -> bool:
    return bool(await store.wire.call("EXISTS", prefix + b"timer_leader") == 0)


# --- automatic --------------------------------------------------------------------------


async def test_a_workflow_retries_itself(redis_url: str, namespace: str, world: World) -> None:
    @flow
    async def plain(ctx: WorkflowContext) -> None:
        await ctx.step.run("good", world.works, "good")
        world.works(f"run {ctx.run}")
        raise LookupError(f"in run {ctx.run}")

    stubborn: Workflow[None, None] = Workflow(plain.function, "stubborn", retries=2, retry_delay=0.01)
    async with running(redis_url, namespace, stubborn) as at:
        handle = await stubborn.invoke(at.client)
        assert (await failed(at, handle)).error_message == "in run 3"
        assert world.calls == {"good": 1, "run 1": 1, "run 2": 1, "run 3": 1}
        emitted = await at.events(handle)
        assert _runs(emitted) == [(2, 10), (3, 10)]
        assert emitted[-1].data == {"status": "failed", "error": "LookupError: in run 3", "run": 3}
        assert [event.event_type for event in emitted].count("workflow_finish") == 1

        assert await at.client.retry(handle.id) == 4, "its own retries are counted from zero"
        assert (await failed(at, handle)).error_message == "in run 6"


def _runs(emitted: list[Event]) -> list[tuple[int, int]]:
    retries = [event.data for event in emitted if event.event_type == "workflow_retry"]
    return [(data["run"], data["delay_ms"]) for data in retries]


async def test_a_child_with_retries_wakes_its_parent_at_its_last_end(
    redis_url: str, namespace: str, world: World
) -> None:
    async def body(ctx: WorkflowContext) -> int:
        if ctx.run < 3:
            raise LookupError("not yet")
        return ctx.run

    child: Workflow[None, int] = Workflow(body, "child", retries=2, retry_delay=0)

    @flow
    async def parent(ctx: WorkflowContext) -> int:
        world.works("pass")
        return await ctx.step.invoke_and_wait("child", child)

    async with running(redis_url, namespace, parent, child) as at:
        handle = await parent.invoke(at.client)
        assert await at.result(handle) == 3
        assert world.calls["pass"] == 2
        (row,) = (await at.client.get_execution(handle.id))["children"]
        retries = [event for event in await at.events(handle) if event.event_type == "workflow_retry"]
        assert [event.metadata for event in retries] == [{"execution_id": row["id"]}] * 2


async def test_a_retried_child_has_all_its_own_retries(redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext) -> int:
        if ctx.run < 4:
            raise LookupError("not yet")
        return ctx.run

    child: Workflow[None, int] = Workflow(body, "child", retries=1, retry_delay=0)

    @flow
    async def parent(ctx: WorkflowContext) -> int:
        return await ctx.step.invoke_and_wait("child", child)

    async with running(redis_url, namespace, parent, child) as at:
        handle = await parent.invoke(at.client)
        await failed(at, handle)
        await at.client.retry(handle.id)
        assert await at.result(handle) == 4, "two runs, and then two more"


async def test_invalid_input_is_not_retried(redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext, input: int) -> None:
        raise AssertionError("not reached")

    async with running(redis_url, namespace, Workflow(body, "typed", retries=5, retry_delay=0)) as at:
        handle = await at.client.invoke("typed", "no number")
        assert (await failed(at, handle)).error_type == "InvalidInputError"
        assert (await at.client.get_execution(handle.id))["run"] == 1


# --- results and streams ----------------------------------------------------------------


async def test_concurrent_retries_start_one_run(redis_url: str, namespace: str, world: World) -> None:
    @flow
    async def work(ctx: WorkflowContext) -> int:
        await ctx.step.run("bad", world.breaks, "bad", max_retries=0)
        return ctx.run

    async with running(redis_url, namespace, work) as at:
        handle = await work.invoke(at.client)
        await failed(at, handle)
        world.broken = False
        runs = await asyncio.gather(*(at.client.retry(handle.id) for _ in range(5)), return_exceptions=True)
        assert 2 in runs
        assert all(run == 2 or isinstance(run, NotFailedError) for run in runs)
        assert await at.result(handle) == 2
        assert world.calls["bad"] == 2


async def test_only_a_failed_execution_can_be_retried(redis_url: str, namespace: str) -> None:
    @flow
    async def ask(ctx: WorkflowContext) -> None:
        await ctx.step.suspend("ok")

    async with running(redis_url, namespace, ask) as at:
        done, waiting = await ask.invoke(at.client), await ask.invoke(at.client)
        await at.opened(done, "ok")
        await at.parked(waiting)
        await at.answer(done, "ok")
        await at.result(done)
        for handle, status in ((done, "completed"), (waiting, "waiting")):
            with pytest.raises(NotFailedError, match=f"it is {status}, not failed, stuck or paused"):
                await at.client.retry(handle.id)
        await waiting.cancel()
        with pytest.raises(NotFailedError, match="it is cancelled, not failed, stuck or paused"):
            await at.client.retry(waiting.id)
        with pytest.raises(ExecutionNotFoundError):
            await at.client.retry("0" * 32)


async def test_results_and_streams_continue_across_a_retry(
    redis_url: str, namespace: str, world: World
) -> None:
    @flow
    async def work(ctx: WorkflowContext) -> str:
        for run in range(1, ctx.run + 1):  # a new run has to reach the answers of those before it
            await ctx.step.suspend(f"run {run}")
        if ctx.run == 1:
            raise LookupError("in the first run")
        return "second"

    async with running(redis_url, namespace, work) as at:
        handle = await work.invoke(at.client)
        seen: list[Event] = []
        ends: list[int] = []

        async def follow() -> None:
            """A slow reader: it reaches the first run's end after the second run has started."""
            async for event in events.stream_workflow(at.client, "work", handle.id):
                seen.append(event)
                if event.event_type == "suspend_run 1":
                    await asked.wait()
            ends.append(len(seen))

        asked = asyncio.Event()
        follower = asyncio.create_task(follow())
        await at.opened(handle, "run 1")
        await at.answer(handle, "run 1")
        assert (await failed(at, handle)).error_message == "in the first run"
        await at.client.retry(handle.id)
        result = asyncio.create_task(handle.result(timeout=20))
        asked.set()
        await until(lambda: seen and seen[-1].event_type == "suspend_run 2")
        assert not ends, "the first run's end is not the execution's"
        await at.answer(handle, "run 2")
        assert await result == "second"
        await soon(follower)
        finishes = [event.data for event in seen if event.event_type == "workflow_finish"]
        assert [data["status"] for data in finishes] == ["failed", "completed"]
        assert [data.get("run", 1) for data in finishes] == [1, 2]
        assert _runs(seen) == [(2, 0)]


@pytest.mark.failure(9)
async def test_an_execution_that_lost_too_many_workers_can_be_retried(
    fleet: Fleet, client: PolosClient
) -> None:
    """It kills its worker's process each time until it is fixed; its journal is kept."""
    options: dict[str, Any] = {"max_deliveries": 2}
    workers = [await fleet.start(**options) for _ in range(2)]
    handle = await client.invoke("deadly", {"always": True})
    for worker in workers:
        await worker.ended()
    await fleet.start(**options)
    with pytest.raises(ExecutionFailedError) as lost:
        await handle.result(timeout=20)
    assert lost.value.error_type == "WorkerLostError"
    fleet.open("mended")
    assert await client.retry(handle.id) == 2
    assert await handle.result(timeout=20) == "lived"
    assert [name for name, _ in fleet.effects(handle.id)] == ["start", "death", "death"]


async def test_a_retry_opens_a_caught_timeout_again(redis_url: str, namespace: str, world: World) -> None:
    """A timed-out suspension opens again even if the code caught the timeout and continued."""

    @flow
    async def ask(ctx: WorkflowContext) -> str:
        try:
            answer = (await ctx.step.suspend("ok", timeout=3600))["data"]
        except SuspendTimeoutError:
            answer = "nobody"
        await ctx.step.run("bad", world.breaks, "bad", max_retries=0)
        return str(answer)

    async with running(redis_url, namespace, ask) as at:
        handle = await ask.invoke(at.client)
        await at.opened(handle, "ok")
        await at.make_due(handle, "ok", "s")
        await failed(at, handle)
        world.broken = False
        await at.client.retry(handle.id)
        await at.opened(handle, "ok")
        await at.answer(handle, "ok", "somebody")
        assert await at.result(handle) == "somebody"
