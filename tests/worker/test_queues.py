"""Queues with a limit: how many executions run at a time, which comes next, and which hold no slot."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from polos_redis import (
    BatchWorkflowInput,
    ConfigurationError,
    ExecutionFailedError,
    ExecutionHandle,
    InvalidInputError,
    PolosClient,
    Queue,
    WorkflowContext,
    queue,
    workflow,
)
from polos_redis.state import keys
from polos_redis.workflow import Workflow
from tests.harness.command import Command
from tests.harness.fleet import Fleet, WorkerProcess
from tests.harness.running import DEADLINE, in_partition, until, working
from tests.harness.servers import ChaosServer

ONE = queue("queues-one", concurrency_limit=1)
TWO = queue("queues-two", concurrency_limit=2)


@dataclass
class Stage:
    """Records what the workflows below do: which have started work, in order, and how many at once."""

    entered: list[str] = field(default_factory=list)
    inside: set[str] = field(default_factory=set)
    most: int = 0
    closed: dict[str, asyncio.Event] = field(default_factory=dict)

    def close(self, *names: str) -> None:
        """Keep these inside until they are let out."""
        for name in names:
            self.closed[name] = asyncio.Event()

    def let_out(self, *names: str) -> None:
        for name in names:
            self.closed[name].set()

    async def one_leaves(self) -> None:
        """Let one of those inside out, and wait until it has left."""
        name = min(self.inside)
        self.let_out(name)
        await until(lambda: name not in self.inside)

    async def work(self, name: str) -> None:
        self.entered.append(name)
        self.inside.add(name)
        self.most = max(self.most, len(self.inside))
        if name in self.closed:
            await self.closed[name].wait()
        self.inside.discard(name)

    async def count(self, number: int) -> None:
        """Wait until `number` have entered."""
        await until(lambda: len(self.entered) == number, f"{number} to enter")

    async def saw(self, *names: str) -> None:
        """Wait until exactly these are inside."""
        await until(lambda: self.inside == set(names), f"{names} inside, not {self.inside}")


_stage = Stage()


@pytest.fixture(autouse=True)
def stage() -> Iterator[Stage]:
    global _stage
    _stage = Stage()
    yield _stage
    for name in _stage.closed:
        _stage.let_out(name)


async def _work(ctx: WorkflowContext, name: str) -> str:
    await ctx.step.run("work", _stage.work, name)
    return name


@workflow(id="queues-single", queue=ONE)
async def single(ctx: WorkflowContext, name: str) -> str:
    return await _work(ctx, name)


@workflow(id="queues-double", queue=TWO)
async def double(ctx: WorkflowContext, name: str) -> str:
    return await _work(ctx, name)


@workflow(id="queues-named", queue="queues-one")
async def named(ctx: WorkflowContext, name: str) -> str:
    return await _work(ctx, name)


@workflow(id="queues-own", queue={"concurrency_limit": 1})
async def own(ctx: WorkflowContext, name: str) -> str:
    return await _work(ctx, name)


@workflow(id="queues-free")
async def free(ctx: WorkflowContext, name: str) -> str:
    return await _work(ctx, name)


@workflow(id="queues-asks", queue=ONE)
async def asks(ctx: WorkflowContext, name: str) -> Any:
    await ctx.step.run("before", _stage.work, name)
    answer = await ctx.step.suspend("ask")
    await ctx.step.run("after", _stage.work, f"{name} again")
    return answer["data"]


@workflow(id="queues-fails-once", queue=ONE, retries=1, retry_delay=3600)
async def fails_once(ctx: WorkflowContext, name: str) -> str:
    await _stage.work(name)
    if _stage.entered.count(name) == 1:
        raise ValueError("the first time")
    return name


@workflow(id="queues-parent")
async def parent(ctx: WorkflowContext, names: list[str]) -> list[Any]:
    children = [BatchWorkflowInput(id="queues-single", payload=name) for name in names]
    return [child.result for child in await ctx.step.batch_invoke_and_wait("children", children)]


@workflow(id="queues-limited-parent", queue=ONE)
async def limited_parent(ctx: WorkflowContext, name: str) -> str:
    return await ctx.step.invoke_and_wait("child", single, name)


@pytest.fixture(params=[1, 4])
def partitions(request: pytest.FixtureRequest) -> int:
    """A semaphore lives in one partition, its executions in any: with 4, most of them reach it by errands."""
    number: int = request.param
    return number


@pytest.fixture
async def spread(redis_url: str, namespace: str, partitions: int) -> AsyncIterator[PolosClient]:
    """A client in the test's namespace with that many partitions."""
    async with PolosClient(redis_url, namespace, partitions=partitions) as client:
        yield client


async def waiters(client: PolosClient, semaphore: str) -> list[str]:
    """The waiters for a semaphore, in order."""
    store = await client.store()
    found = await store.wire.call(
        "ZRANGE", store.partitions.semaphore_prefix(semaphore) + b"waiters:" + semaphore.encode(), 0, -1
    )
    return [one.decode() for one in found]


async def expect_waiters(client: PolosClient, semaphore: str, count: int) -> list[str]:
    """Wait until `count` executions wait; returns them in order."""

    async def there() -> list[str] | None:
        found = await waiters(client, semaphore)
        return [*found, ""] if len(found) == count else None

    return (await until(there, f"{count} among the waiters for {semaphore}"))[:-1]  # type: ignore[no-any-return]


async def nothing_is_left(client: PolosClient) -> None:
    """Wait until no key of a semaphore, no errand and no timer is left: an idle queue costs nothing."""
    store = await client.store()

    async def left() -> list[bytes]:
        found = []
        for prefix in store.prefixes:
            for kind in (b"slots:*", b"waiters:*", b"errands", b"timers"):
                pattern = re.sub(rb"([\[\]*?])", rb"\\\1", prefix) + kind
                found += await store.wire.call("KEYS", pattern)
        return found

    async def none() -> bool:
        return not await left()

    await until(none, f"no key to be left, but {await left()}")


async def results(handles: list[ExecutionHandle[Any]]) -> list[Any]:
    return [await handle.result(timeout=DEADLINE) for handle in handles]


# --- worker processes -----------------------------------------------------------------------


def spans(fleet: Fleet, killed: dict[int, int]) -> list[tuple[int, int]]:
    """The time span of each step, in ns; an interrupted one ends with its process."""
    running: dict[tuple[str, int], int] = {}
    found = []
    for text in fleet.effects_file.read_text().splitlines():
        execution_id, effect, pid = text.split()
        name, _, at = effect.partition("@")
        if name == "enter":
            assert running.setdefault((execution_id, int(pid)), int(at)) == int(at), "twice in one process"
        elif name == "leave":
            found.append((running.pop((execution_id, int(pid))), int(at)))
    assert {pid for _, pid in running} <= killed.keys(), "a step was interrupted in a live process"
    return found + [(at, killed[pid]) for (_, pid), at in running.items()]


def most_at_once(found: list[tuple[int, int]]) -> int:
    marks = sorted([(begin, 1) for begin, _ in found] + [(end, -1) for _, end in found])
    most = now = 0
    for _, change in marks:
        now += change
        most = max(most, now)
    return most


def entered(fleet: Fleet, execution_id: str) -> list[int]:
    """The processes in which an execution has entered."""
    return [pid for name, pid in fleet.effects(execution_id) if name.startswith("enter")]


def kill(worker: WorkerProcess, killed: dict[int, int]) -> None:
    worker.kill()
    killed[worker.pid] = time.monotonic_ns()


def test_overlapping_spans_are_counted() -> None:
    assert most_at_once([(1, 4), (2, 5), (4, 6), (7, 8)]) == 2
    assert most_at_once([(1, 5), (2, 6), (4, 7)]) == 3


@pytest.mark.promise("queue limit")
async def test_a_hundred_executions_respect_a_limit_of_three_while_two_workers_are_killed(
    fleet: Fleet, spread: PolosClient, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_PARTITIONS", str(partitions))
    killed: dict[int, int] = {}
    for _ in range(2):
        fleet.launch(lease_seconds=3.0)
    for worker in fleet.workers:
        await worker.ready()
    handles = []
    for number in range(100):
        held = f"gate-{number}" if number in (10, 50) else None
        handles.append(await spread.invoke("in_queue", {"seconds": 0.01, "gate": held}))
    for number in (10, 50):  # stop one in its step and kill its worker

        def holders(id: str = handles[number].id) -> list[int]:
            return [pid for pid in entered(fleet, id) if pid not in killed]

        (pid,) = await until(holders)
        kill(fleet.of(pid), killed)
        await fleet.start(lease_seconds=3.0)
        fleet.open(f"gate-{number}")
    for handle in handles:
        await handle.result(timeout=60)
    assert most_at_once(spans(fleet, killed)) == 3
    left = {one.id for one in handles for name, _ in fleet.effects(one.id) if name.startswith("leave")}
    assert len(left) == 100
    for number in (10, 50):  # interrupted, and run again elsewhere
        first, *others = entered(fleet, handles[number].id)
        assert first in killed and others
    await nothing_is_left(spread)


async def test_a_dead_workers_slot_is_released(
    fleet: Fleet, spread: PolosClient, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_PARTITIONS", str(partitions))
    other = await fleet.start(knows="gated")  # reads another queue, and recovers what the first one held
    monkeypatch.setenv("POLOS_QUEUES", ONE.name)
    first = await fleet.start()
    holder = await spread.invoke("in_queue", {"gate": "gate"}, queue=ONE)
    await until(lambda: entered(fleet, holder.id))
    waiter = await spread.invoke("in_queue", {}, queue=ONE)
    await expect_waiters(spread, ONE.name, 1)
    first.kill()
    second = await fleet.start()
    await until(lambda: entered(fleet, holder.id)[1:])
    assert entered(fleet, waiter.id) == []
    fleet.open("gate")
    await results([holder, waiter])
    assert set(entered(fleet, waiter.id)) == {second.pid}
    assert other.running
    await nothing_is_left(spread)


# --- slots ----------------------------------------------------------------------------------


async def test_a_limit_holds_across_workers(spread: PolosClient, stage: Stage) -> None:
    names = [str(number) for number in range(6)]
    stage.close(*names)
    async with working(spread, double), working(spread, double):
        handles = [await double.invoke(spread, name) for name in names]
        await expect_waiters(spread, TWO.name, 4)
        await until(lambda: len(stage.inside) == 2)
        for count in range(3, 7):  # one leaves, the next enters
            await stage.one_leaves()
            await stage.count(count)
        stage.let_out(*stage.inside)
        assert await results(handles) == names
        assert stage.most == 2
        await nothing_is_left(spread)


async def test_waiters_are_served_in_order(spread: PolosClient, stage: Stage) -> None:
    names = [str(number) for number in range(8)]
    stage.close("0")
    async with working(spread, single):
        handles = [await single.invoke(spread, "0")]
        await stage.saw("0")
        for number in range(1, 8):
            handles.append(await single.invoke(spread, names[number]))
            await expect_waiters(spread, ONE.name, number)
        assert await waiters(spread, ONE.name) == [handle.id for handle in handles[1:]]
        stage.let_out("0")
        assert await results(handles) == stage.entered == names
        await nothing_is_left(spread)


async def test_children_are_served_in_order(spread: PolosClient, stage: Stage) -> None:
    names = [str(number) for number in range(30)]
    async with working(spread, single, parent):
        for _ in range(3):  # more than one partition
            stage.entered.clear()
            assert await parent.run(spread, names, timeout=DEADLINE) == stage.entered == names
        assert stage.most == 1
        await nothing_is_left(spread)


async def test_a_parent_waiting_for_a_child_in_its_own_queue_gives_up_its_slot(
    spread: PolosClient,
) -> None:
    async with working(spread, single, limited_parent):
        handles = [await limited_parent.invoke(spread, str(number)) for number in range(5)]
        assert await results(handles) == [str(number) for number in range(5)]
        await nothing_is_left(spread)


async def test_a_suspended_execution_holds_no_slot_and_waits_for_one_when_answered(
    spread: PolosClient, stage: Stage
) -> None:
    stage.close("b")
    async with working(spread, single, asks):
        waits = await asks.invoke(spread, "a")

        async def parked() -> bool:
            return await waits.status() == "waiting"

        await until(parked)
        holds = await single.invoke(spread, "b")
        await stage.saw("b")  # while the other is suspended
        await spread.resume(suspend_execution_id=waits.id, suspend_step_key="ask", data="yes")
        assert await expect_waiters(spread, ONE.name, 1) == [waits.id]
        assert await waits.status() == "queued"
        stage.let_out("b")
        assert await results([holds, waits]) == ["b", "yes"]
        assert stage.entered == ["a", "b", "a again"]
        assert stage.most == 1
        await nothing_is_left(spread)


async def test_each_concurrency_key_has_its_own_limit(spread: PolosClient, stage: Stage) -> None:
    names = ["x1", "x2", "x3", "y1", "y2", "z1"]
    stage.close(*names)
    async with working(spread, single, concurrency=50):
        handles = []
        for name, waiting in zip(names, (0, 1, 2, 0, 1, 0), strict=True):
            handles.append(await single.invoke(spread, name, concurrency_key=f"customer {name[0]}"))
            await expect_waiters(spread, f"{ONE.name}\0customer {name[0]}", waiting)
            if not waiting:
                await stage.count(1 + ["x1", "y1", "z1"].index(name))
        assert stage.inside == {"x1", "y1", "z1"}
        stage.let_out("x1", "z1")
        await stage.saw("x2", "y1")
        stage.let_out("x2", "x3", "y1", "y2")
        assert await results(handles) == names
        await nothing_is_left(spread)


async def test_ending_while_waiting_or_holding_a_slot_makes_room(spread: PolosClient, stage: Stage) -> None:
    stage.close("a")
    async with working(spread, single):
        holder = await single.invoke(spread, "a")
        await stage.saw("a")
        cancelled = await single.invoke(spread, "b")
        await expect_waiters(spread, ONE.name, 1)
        late = await single.invoke(spread, "c", run_timeout_seconds=0.01)
        with pytest.raises(ExecutionFailedError, match="WorkflowTimeoutError"):
            await late.result(timeout=DEADLINE)
        next_one = await single.invoke(spread, "d")
        await expect_waiters(spread, ONE.name, 2)
        await spread.cancel(cancelled.id)
        assert await expect_waiters(spread, ONE.name, 1) == [next_one.id]
        await spread.cancel(holder.id)
        assert await next_one.result(timeout=DEADLINE) == "d"
        assert stage.entered == ["a", "d"]
        await nothing_is_left(spread)


async def test_the_delay_before_a_retry_holds_no_slot(spread: PolosClient) -> None:
    async with working(spread, single, fails_once):
        fails = await fails_once.invoke(spread, "a")
        store = await spread.store()
        timers = store.partitions.prefix(fails.id) + b"timers"
        await until(lambda: store.wire.call("ZSCORE", timers, f"p{fails.id}"))
        assert await single.run(spread, "b", timeout=DEADLINE) == "b"
        await store.wire.call("ZADD", timers, "XX", 1, f"p{fails.id}")
        assert await fails.result(timeout=DEADLINE) == "a"
        await nothing_is_left(spread)


async def test_an_execution_unknown_to_all_workers_does_not_block_the_others(spread: PolosClient) -> None:
    async with working(spread, single, put_back_seconds=3600.0):
        stranger = await spread.invoke("queues-unknown", None, queue="queues-one")
        store = await spread.store()
        await until(
            lambda: store.wire.call(
                "ZSCORE", store.partitions.prefix(stranger.id) + b"timers", f"p{stranger.id}"
            )
        )
        assert await single.run(spread, "a", timeout=DEADLINE) == "a"
        await spread.cancel(stranger.id)
        await nothing_is_left(spread)


async def test_an_execution_that_is_handed_back_keeps_its_slot(spread: PolosClient, stage: Stage) -> None:
    stage.close("a")
    async with working(spread, single, grace_seconds=0.01) as worker:
        first = await single.invoke(spread, "a")
        await stage.saw("a")
        second = await single.invoke(spread, "b")
        await expect_waiters(spread, ONE.name, 1)
        worker.stop()
        await until(lambda: not worker.active)
    assert await waiters(spread, ONE.name) == [second.id]
    stage.let_out("a")
    async with working(spread, single):
        assert await results([first, second]) == ["a", "b"]
    assert stage.entered == ["a", "a", "b"]


# --- which queue, which limit ---------------------------------------------------------------


async def test_an_id_or_a_name_alone_means_the_queue_as_workers_define_it(
    spread: PolosClient, stage: Stage
) -> None:
    stage.close("a")
    async with working(spread, single, named, free):
        handles = [await spread.invoke("queues-single", "a")]
        await stage.saw("a")
        handles.append(await named.invoke(spread, "b"))
        handles.append(await free.invoke(spread, "c", queue=ONE))
        handles.append(await free.invoke(spread, "d", queue="queues-one"))
        assert await free.run(spread, "e", timeout=DEADLINE) == "e"
        await expect_waiters(spread, ONE.name, 3)
        with pytest.raises(ConfigurationError, match="'queues-other' has no known limit"):
            await free.invoke(spread, "f", queue="queues-other", concurrency_key="x")
        handles.append(await free.invoke(spread, "g", queue="queues-one", concurrency_key="x"))
        assert await handles[-1].result(timeout=DEADLINE) == "g"
        stage.let_out("a")
        assert await results(handles) == ["a", "b", "c", "d", "g"]
        await nothing_is_left(spread)


async def test_a_workflow_can_have_its_own_queue(client: PolosClient, stage: Stage) -> None:
    assert own.queue == Queue("queues-own", 1)
    stage.close("a")
    async with working(client, own):
        handles = [await own.invoke(client, "a"), await own.invoke(client, "b")]
        await stage.saw("a")
        assert await expect_waiters(client, "queues-own", 1) == [handles[1].id]
        stage.let_out("a")
        assert await results(handles) == ["a", "b"]


def with_limit(limit: int | None) -> Workflow[str, str]:
    """The workflow as deployed with this limit."""
    return Workflow(_work, "queues-deployed", queue=queue("queues-deployed", limit))


async def test_a_deployment_that_raises_the_limit_admits_waiters(spread: PolosClient, stage: Stage) -> None:
    names = [str(number) for number in range(5)]
    stage.close(*names)
    async with working(spread, with_limit(1)):
        handles = [await with_limit(1).invoke(spread, name) for name in names]
        await expect_waiters(spread, "queues-deployed", 4)
        async with working(spread, with_limit(3)):
            await expect_waiters(spread, "queues-deployed", 2)
            await until(lambda: len(stage.inside) == 3)
            stage.let_out(*names)
            assert await results(handles) == names
    await nothing_is_left(spread)


async def test_a_deployment_that_lowers_the_limit_admits_nobody_until_there_is_room(
    spread: PolosClient, stage: Stage
) -> None:
    names = [str(number) for number in range(5)]
    stage.close(*names)
    async with working(spread, with_limit(3)):
        handles = [await with_limit(3).invoke(spread, name) for name in names]
        third, fourth = await expect_waiters(spread, "queues-deployed", 2)
        await until(lambda: len(stage.inside) == 3)
        store = await spread.store()
        slots = (
            store.partitions.semaphore_prefix("queues-deployed") + keys.SLOTS.encode() + b"queues-deployed"
        )

        async def counted(number: int) -> bool:
            return int(await store.wire.call("HLEN", slots)) == number

        async with working(spread, with_limit(1)):
            for number, waiting in ((4, [third, fourth]), (3, [third, fourth]), (2, [fourth]), (1, [])):
                await until(lambda: stage.inside)
                await stage.one_leaves()
                # one script releases a slot and admits the next waiter
                await until(lambda: counted(number), f"{number} to be counted")  # noqa: B023
                assert await waiters(spread, "queues-deployed") == waiting
            stage.let_out(*names)
            assert await results(handles) == names
    await nothing_is_left(spread)


async def test_a_deployment_without_the_limit_lifts_it(client: PolosClient, stage: Stage) -> None:
    stage.close("a", "b")
    async with working(client, with_limit(1)):
        pass
    async with working(client, with_limit(None)):
        handles = [await client.invoke("queues-deployed", name) for name in ("a", "b")]
        await stage.saw("a", "b")
        stage.let_out("a", "b")
        assert await results(handles) == ["a", "b"]


async def test_two_limits_for_one_queue_are_refused(client: PolosClient) -> None:
    other: Workflow[str, str] = Workflow(_work, "queues-contradicts", queue=queue("queues-deployed", 2))
    with pytest.raises(ConfigurationError, match=r"'queues-deployed' has concurrency_limit=2 .* but 1 for"):
        async with working(client, with_limit(1), other):
            pass


async def test_an_invalid_queue_is_refused(client: PolosClient) -> None:
    for bad in ("", 5, "x" * 257, "a\0b"):
        with pytest.raises(ConfigurationError, match="a queue's name"):
            queue(bad)  # type: ignore[arg-type]
    for limit in (0, -1, True, 1.5, "3"):
        with pytest.raises(
            ConfigurationError, match="concurrency_limit must be a whole number of at least 1"
        ):
            queue("x", limit)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="give the queue another name"):
        queue("default", 3)
    with pytest.raises(ConfigurationError, match="queue must be a queue, a name or"):
        workflow(id="queues-bad", queue=3)(_work)  # type: ignore[call-overload]
    with pytest.raises(InvalidInputError, match="concurrency_key must be a string, not 5"):
        await single.invoke(client, "a", concurrency_key=5)  # type: ignore[arg-type]


# --- workers for some queues ----------------------------------------------------------------


async def test_a_queue_is_read_from_its_beginning_when_its_first_worker_starts(
    spread: PolosClient, stage: Stage
) -> None:
    early = [await free.invoke(spread, str(number), queue="queues-later") for number in range(4)]
    async with working(spread, free):
        assert await free.run(spread, "now", timeout=DEADLINE) == "now"
    assert stage.entered == ["now"]
    async with working(spread, free, queues=["queues-later"]) as worker:
        assert worker.queues == ["queues-later"]
        assert await results(early) == ["0", "1", "2", "3"]
        elsewhere = await free.invoke(spread, "x")
        assert await free.run(spread, "y", timeout=DEADLINE, queue="queues-later") == "y"
        assert await elsewhere.status() == "queued"
        await spread.cancel(elsewhere.id)


async def test_entries_of_two_queues_may_have_one_id(client: PolosClient, stage: Stage) -> None:
    """Each stream has its own ids: the end of an entry in one queue says nothing about the other's."""
    stage.close("a")
    handles = [
        await in_partition(client, 0, free, "a"),
        await in_partition(client, 0, free, "b", queue="queues-other"),
    ]
    store = await client.store()
    call, prefix, same = store.wire.call, store.prefixes[0], b"%d-0" % (time.time_ns() // 1_000_000 + 60_000)
    for handle, name in zip(handles, (b"default", b"queues-other"), strict=True):
        ((entry, fields),) = await call("XRANGE", prefix + b"queue:" + name, "-", "+")
        await call("XDEL", prefix + b"queue:" + name, entry)
        await call("XADD", prefix + b"queue:" + name, same, *fields)
        await call("HSET", prefix + b"exec:" + handle.id.encode(), "entry", same)
    async with working(client, free, queues=["default", "queues-other"], lease_seconds=0.6) as worker:
        assert await handles[1].result(timeout=DEADLINE) == "b"

        async def renewed() -> int:
            return int(await call("HGET", prefix + b"workers", worker.worker_id))

        enough = await renewed() + 6  # two leases: it has compared its pending entries with its activations

        async def compared() -> bool:
            return await renewed() >= enough

        await until(compared)
        stage.let_out("a")
        assert await handles[0].result(timeout=DEADLINE) == "a"
    assert sorted(stage.entered) == ["a", "b"]


async def test_any_worker_looks_after_all_queues(
    fleet: Fleet, client: PolosClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that reads another queue still fires the timers and recovers what a dead worker held."""
    monkeypatch.setenv("POLOS_QUEUES", "limited")
    dies = await fleet.start()
    monkeypatch.setenv("POLOS_QUEUES", "another")
    await fleet.start(knows="gated")
    handle = await client.invoke("in_queue", {"gate": "gate"})
    await until(lambda: entered(fleet, handle.id))
    store = await client.store()
    stream = store.partitions.prefix(handle.id) + b"queue:limited"
    dies.kill()

    async def requeued() -> bool:
        groups = await store.wire.call("XPENDING", stream, keys.GROUP)
        return int(groups[0]) == 0

    await until(requeued)
    late = await client.invoke("in_queue", {}, run_timeout_seconds=0.01)
    with pytest.raises(ExecutionFailedError, match="WorkflowTimeoutError"):
        await late.result(timeout=DEADLINE)
    fleet.open("gate")
    monkeypatch.setenv("POLOS_QUEUES", "limited,another")
    await fleet.start()
    await handle.result(timeout=DEADLINE)


SOURCE = """
from polos_redis import workflow

@workflow(queue="letters")
async def letter(ctx):
    return "letter"

@workflow(queue="parcels")
async def parcel(ctx):
    return "parcel"
"""


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    (tmp_path / "post.py").write_text(SOURCE)
    return Command(redis_url, namespace, tmp_path)


@pytest.mark.parametrize("how", ["option", "environment"])
async def test_polos_worker_reads_the_given_queues(polos: Command, client: PolosClient, how: str) -> None:
    options = ["--queues", "letters, cards"] if how == "option" else []
    if how == "environment":
        polos.environment["POLOS_QUEUES"] = "letters,cards"
    parcel = await client.invoke("parcel", queue="parcels")
    with polos.worker("post.py", *options):
        assert await (await client.invoke("letter")).result(timeout=DEADLINE) == "letter"
        assert await (await client.invoke("parcel", queue="cards")).result(timeout=DEADLINE) == "parcel"
        store = await client.store()
        stream = store.prefixes[0] + keys.QUEUE.encode() + b"parcels"
        assert (await store.wire.call("XPENDING", stream, keys.GROUP))[0] == 0
    assert await parcel.status() == "queued"
    await client.cancel(parcel.id)


def test_polos_worker_needs_at_least_one_queue(polos: Command) -> None:
    done = polos.run("worker", "post.py", "--queues", "letters,,cards")
    assert done.code == 1
    assert "queues= must be a list of at least one queue name, not 'letters,,cards'" in done.sentence


# --- a store that is lost, or goes back in time ---------------------------------------------


@pytest.mark.promise("queue limit")
async def test_the_limit_holds_while_redis_is_killed_and_restarted(
    chaos_server: ChaosServer, namespace: str, partitions: int, stage: Stage
) -> None:
    chaos_server.start()
    names = [str(number) for number in range(40)]
    stage.close(*names)
    async with (
        PolosClient(chaos_server.url, namespace, partitions=partitions) as client,
        working(client, double),
        working(client, double),
    ):
        handles = [await double.invoke(client, name) for name in names]
        await stage.count(2)
        for number in range(40):
            if number in (5, 10, 15):
                chaos_server.restart()
            await stage.one_leaves()
            await stage.count(min(40, number + 3))
        assert await results(handles) == names
        assert stage.most == 2
        await nothing_is_left(client)


async def make_due(client: PolosClient, prefix: bytes, beginning: str) -> None:
    """Wait for an errand and make it due."""
    store = await client.store()

    async def found() -> bytes | None:
        for name in await store.wire.call("ZRANGE", prefix + b"errands", 0, -1):
            if name.startswith(beginning.encode()):
                return bytes(name)
        return None

    name = await until(found, f"errand {beginning}")
    await store.wire.call("ZADD", prefix + b"errands", "XX", 1, name)


async def test_the_slot_of_an_unknown_execution_is_released(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace, partitions=4) as client:
        store = await client.store()
        home = store.partitions.semaphore_prefix(ONE.name)
        await store.wire.call("HSET", home + b"slots:" + ONE.name.encode(), "f" * 32, 7)
        async with working(client, single):
            handles = [await single.invoke(client, str(number)) for number in range(12)]
            await expect_waiters(client, ONE.name, 12)
            await make_due(client, home, "h")
            assert sorted(await results(handles), key=int) == [str(number) for number in range(12)]
            await nothing_is_left(client)


async def test_a_forgotten_waiter_requests_a_slot_again(redis_url: str, namespace: str, stage: Stage) -> None:
    async with PolosClient(redis_url, namespace, partitions=4) as client:
        store = await client.store()
        home, semaphore = store.partitions.semaphore_prefix(ONE.name), ONE.name.encode()
        stage.close("a")
        async with working(client, single):
            handles = [await single.invoke(client, "a")]
            await stage.saw("a")
            handles += [await single.invoke(client, str(number)) for number in range(12)]
            await expect_waiters(client, ONE.name, 12)
            far = next(handle for handle in handles[1:] if store.partitions.prefix(handle.id) != home)
            await store.wire.call("ZREM", home + b"waiters:" + semaphore, far.id)
            await store.wire.call("HDEL", home + b"slots:" + semaphore, far.id)
            await make_due(client, store.partitions.prefix(far.id), f"l{far.id}")
            assert (await expect_waiters(client, ONE.name, 12))[-1] == far.id
            stage.let_out("a")
            await results(handles)
            assert stage.entered[-1] == await far.result()
            assert stage.most == 1
            await nothing_is_left(client)
