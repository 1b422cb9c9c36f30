"""After a lapse of the lease, an activation compares its journal before it starts anything more, whatever
comes next."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import (
    BatchWorkflowInput,
    ExecutionHandle,
    PolosClient,
    Workflow,
    WorkflowContext,
    workflow,
)
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.gate import State
from polos_redis.state import journal, keys
from polos_redis.state.executions import Executions, Loaded
from polos_redis.state.fencing import Fence
from polos_redis.state.store import Store
from polos_redis.wire.routing import wire_to
from polos_redis.worker.lease import Lease
from polos_redis.worker.loop_guard import LoopGuard
from tests.harness.running import Running, running, soon, until

pytestmark = [pytest.mark.failure(41), pytest.mark.promise("frozen worker")]

Path = Callable[[WorkflowContext], Awaitable[Any]]

_go = asyncio.Event()  # the path's code continues
_here = asyncio.Event()  # and waits for that now
_end = asyncio.Event()
_effects: list[str] = []


@pytest.fixture(autouse=True)
def fresh_events() -> None:
    global _go, _here, _end
    _go, _here, _end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    _effects.clear()


async def _place() -> None:
    _here.set()
    await _go.wait()


def _effect(name: str) -> Callable[[], None]:
    return lambda: _effects.append(name)


async def _async_effect() -> None:
    _effects.append("async")


def _after_place(call: Callable[[WorkflowContext], Awaitable[Any]]) -> Path:
    """A path whose code waits for something outside ctx and then makes this call."""

    async def path(ctx: WorkflowContext) -> None:
        await _place()
        await call(ctx)

    return path


async def _beside_a_step(ctx: WorkflowContext, call: Callable[[], Awaitable[Any]]) -> None:
    """The call as a task, with a step in flight, so that nothing parks."""

    async def holds() -> None:
        await _place()
        await _end.wait()

    await asyncio.gather(ctx.step.run("holds", holds), call())


async def _in_gather(ctx: WorkflowContext) -> None:
    async def beside() -> None:
        await _go.wait()
        await ctx.step.run("beside", _async_effect)

    await _beside_a_step(ctx, beside)


async def _retries(ctx: WorkflowContext) -> None:
    async def fails_once() -> None:
        if not _here.is_set():
            _here.set()
            raise OSError("the first time")
        _effects.append("retried")

    await ctx.step.run("fails", fails_once, base_delay=0.3)


async def _needs_a_thread(ctx: WorkflowContext) -> None:
    """With one thread, the second step has passed the gate and waits for the first one's end."""
    loop, go = asyncio.get_running_loop(), _go

    def holds() -> None:
        loop.call_soon_threadsafe(_here.set)
        asyncio.run_coroutine_threadsafe(_wait(go), loop).result()

    await asyncio.gather(ctx.step.run("holds", holds), ctx.step.run("queued", _effect("queued")))


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _makes_an_awaitable(ctx: WorkflowContext) -> None:
    """A function that is sync, runs in a thread, and returns a coroutine for the loop."""
    loop, go = asyncio.get_running_loop(), _go

    def make() -> Awaitable[None]:
        loop.call_soon_threadsafe(_here.set)
        asyncio.run_coroutine_threadsafe(_wait(go), loop).result()
        return _async_effect()

    await ctx.step.run("makes", make)


async def _child(ctx: WorkflowContext) -> None:
    _effects.append("child")


child: Workflow[Any, Any] = Workflow(_child, "lapses-child")


async def _races(ctx: WorkflowContext) -> None:
    await _place()
    await ctx.step.first_of(
        "race", {"step": ctx.step.run("raced", _async_effect), "never": ctx.step.wait_for("never", days=1)}
    )


PATHS: dict[str, Path] = {
    "a step": _after_place(lambda ctx: ctx.step.run("step", _async_effect)),
    "a step in a thread": _after_place(lambda ctx: ctx.step.run("step", _effect("thread"))),
    "a sibling of a running step": _in_gather,
    "a retry": _retries,
    "a step that waits for a thread": _needs_a_thread,
    "the coroutine of a sync step": _makes_an_awaitable,
    "a journaled value": _after_place(lambda ctx: ctx.step.uuid("id")),
    "an event": _after_place(lambda ctx: ctx.step.publish_workflow_event("event", 1)),
    "an event of another topic": _after_place(lambda ctx: ctx.step.publish_event("event", "topic", 1)),
    "a suspension": _after_place(lambda ctx: ctx.step.suspend("ask")),
    "a wait for a time": _after_place(lambda ctx: ctx.step.wait_for("wait", days=1)),
    "a wait for an event": _after_place(lambda ctx: ctx.step.wait_for_event("wait", "topic")),
    "a child": _after_place(lambda ctx: ctx.step.invoke("child", child)),
    "a child that is waited for": _after_place(lambda ctx: ctx.step.invoke_and_wait("child", child)),
    "children": _after_place(lambda ctx: ctx.step.batch_invoke("all", [BatchWorkflowInput(child.id)])),
    "a race": _races,
    "the end": _after_place(lambda ctx: asyncio.sleep(0)),
}

FLOWS: dict[str, Workflow[Any, Any]] = {
    name: Workflow(path, f"lapses-{number}") for number, (name, path) in enumerate(PATHS.items())
}
WAITS = {"a suspension", "a wait for a time", "a wait for an event", "a race"}


async def lapse(at: Running, activation: Activation) -> None:
    """Count a lapse of the lease, which is renewed already."""
    at.host.lease.lapses[activation.fence.prefix] += 1


async def take_over(at: Running, activation: Activation) -> None:
    """Another worker recovers the execution. All slots of the first worker are taken, so it reads nothing."""
    store, fence = at.host.store, activation.fence
    await store.queues.requeue(
        fence.prefix, activation.queue, at.worker.worker_id, [fence.entry], max_deliveries=5
    )
    stream = fence.prefix + keys.QUEUE.encode() + activation.queue.encode()
    ((_, entries),) = await store.wire.call(
        "XREADGROUP", "GROUP", keys.GROUP, "another", "STREAMS", stream, ">"
    )
    (entry,) = [entry for entry, flat in entries if flat[1] == fence.id]
    loaded = await store.executions.load(Fence(fence.prefix, fence.id, entry, b"another:1"))
    assert loaded is not None


async def stored(at: Running, activation: Activation) -> dict[bytes, Any]:
    """All that is stored, except what workers and timers do on their own."""
    store, found = at.host.store, {}
    for prefix in store.prefixes:
        cursor = b"0"
        while True:
            cursor, names = await store.wire.call("SCAN", cursor, "MATCH", prefix + b"*", "COUNT", 1000)
            for name in names:
                if name.startswith(prefix + keys.QUEUE.encode()):  # a read changes it
                    found[name] = await store.wire.call("XRANGE", name, "-", "+")
                elif name.removeprefix(prefix) not in (b"workers", b"serves", b"timer_leader", b"workflows"):
                    found[name] = await store.wire.call("DUMP", name)
            if cursor == b"0":
                break
    return found


@contextlib.asynccontextmanager
async def at_place(
    redis_url: str, namespace: str, flow: Workflow[Any, Any]
) -> AsyncIterator[tuple[Running, Activation, ExecutionHandle[Any]]]:
    """An execution whose code is where the next thing it does is a call of ctx."""
    async with running(redis_url, namespace, flow, child, concurrency=1, lease_seconds=60) as at:
        handle = await flow.invoke(at.client)
        await soon(_here.wait())
        (activation,) = at.host.active
        if flow is FLOWS["a retry"]:
            await until(lambda: b"fails" in activation.journal.records)
        await until(functools.partial(_is_quiet, activation))
        yield at, activation, handle


def _is_quiet(activation: Activation) -> bool:
    """Whether all starts are emitted: the write of one would notice a lost execution as well."""
    return activation.events.start_emitted and all(
        step.emitted for step in activation.events.running.values()
    )


@pytest.mark.parametrize("what", FLOWS)
async def test_nothing_starts_that_another_worker_has_taken_over(
    redis_url: str, namespace: str, what: str
) -> None:
    async with at_place(redis_url, namespace, FLOWS[what]) as (at, activation, _):
        await take_over(at, activation)
        before = await stored(at, activation)
        await lapse(at, activation)
        _go.set()
        await until(lambda: activation.state is State.ENDED)
        assert activation.ended_as == "lost"
        await until(lambda: not at.host.active)
        assert _effects == []
        assert await stored(at, activation) == before


@pytest.mark.parametrize("what", FLOWS)
async def test_a_lapse_that_nobody_noticed_costs_one_look(
    redis_url: str, namespace: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[bytes] = []

    async def counted(self: Executions, by: Fence) -> Loaded | None:
        loads.append(by.id)
        return await load(self, by)

    load = Executions.load
    monkeypatch.setattr(Executions, "load", counted)
    async with at_place(redis_url, namespace, FLOWS[what]) as (at, activation, handle):
        assert loads == [], "a new execution is not loaded"
        await lapse(at, activation)
        _go.set()
        _end.set()
        if what in WAITS - {"a race"}:
            await at.parked(handle)
        else:
            await at.result(handle)
        assert loads.count(activation.fence.id) == (what != "the end"), "a fenced write needs none"
        assert len(_effects) == len(set(_effects))


async def test_a_lapse_concerns_its_partition_only(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace, partitions=4) as client:
        store = await client.store()
        lease = Lease(store, redis_url, "w", 60, {}, [], WorkerStats(), LoopGuard(300))
        await lease.renew()
        before = lease.lapses.copy()
        one, *others = store.prefixes
        lease._renewed[one] -= 61
        assert not lease.is_held(one, before[one])
        await lease.renew()
        assert lease.is_fresh(one) and not lease.is_held(one, before[one])
        assert lease.is_held(one, lease.lapses[one])
        assert all(lease.is_held(prefix, before[prefix]) for prefix in others)


async def test_an_unanswered_renewal_is_a_lapse(one_partition: str, namespace: str) -> None:
    """The server may raise the counter only after others have seen it stand still for a lease."""
    async with (
        PolosClient(one_partition, namespace) as client,
        PolosClient(one_partition, namespace) as another,
    ):
        store = await client.store()
        (prefix,) = store.prefixes
        lease = Lease(store, one_partition, "w", 0.3, {}, [], WorkerStats(), LoopGuard(300))
        await lease.renew()
        (lapses,) = lease.lapses.values()
        await (await another.store()).wire.call("CLIENT", "PAUSE", 400, "WRITE")
        await lease.renew()
        assert not lease.is_held(prefix, lapses) and lease.lapses[prefix] == lapses + 1


SECONDS = st.floats(0, 1.5, allow_subnormal=False)


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=2, max_size=12))
def test_a_lease_that_is_held_was_never_seen_to_stand_still(
    renewals: list[tuple[float, float, float]],
) -> None:
    """However long a worker is frozen before a renewal, before the server gets it, and before its reply."""
    clock, raised = 1000.0, []
    lease_seconds = 1.0
    wire = wire_to("redis://nowhere", name="never connected", scripts=())
    store = Store(wire, "lapses", 1, patience=None)
    (prefix,) = store.prefixes
    lease = Lease(store, "", "w", lease_seconds, {}, [], WorkerStats(), LoopGuard(300))
    until_raised = until_replied = 0.0

    async def renew(*_: Any) -> int:
        nonlocal clock
        clock += until_raised
        raised.append(clock)
        clock += until_replied
        return len(raised)

    async def can_read() -> None:
        pass

    held: list[tuple[int, int]] = []  # the counter, and the lapses that were read then
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polos_redis.worker.lease.now", lambda: clock)
        patch.setattr(store.workers, "renew", renew)
        patch.setattr(store.partitions, "check_reader", can_read)
        for pause, until_raised, until_replied in renewals:  # noqa: B007 - `renew` uses them
            clock += pause
            asyncio.run(lease.renew())
            held.append((len(raised), lease.lapses[prefix]))
            for counter, lapses in held:
                if lease.is_held(prefix, lapses):
                    seen = [*raised[counter - 1 :], clock]
                    assert max(b - a for a, b in itertools.pairwise(seen)) < lease_seconds


class Loads:
    """Loads of executions from here on; a reply is held until `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.replies = 0
        self.go = asyncio.Event()
        load = Executions.load

        async def held(executions: Executions, by: Fence, *version: str | None) -> Loaded | None:
            loaded = await load(executions, by, *version)
            if b":" in by.owner and not by.owner.startswith(b"another"):
                self.replies += 1
                await self.go.wait()
            return loaded

        monkeypatch.setattr(Executions, "load", held)


@pytest.mark.parametrize("began", ["at the gate", "before"])
async def test_a_lapse_while_the_journal_is_compared_means_to_compare_it_again(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, began: str
) -> None:
    async with at_place(redis_url, namespace, FLOWS["a step"]) as (at, activation, _):
        loads = Loads(monkeypatch)
        if began == "before":
            at.host.spawn(activation.journal.verify())
        else:
            await lapse(at, activation)
            _go.set()
        await until(lambda: loads.replies)  # it says that all is well
        await take_over(at, activation)
        await lapse(at, activation)
        _go.set()
        await until(lambda: activation.touches)  # the call is at the gate
        loads.go.set()
        await until(lambda: activation.state is State.ENDED)
        assert (activation.ended_as, _effects, loads.replies) == ("lost", [], 2)


async def test_an_execution_that_was_delivered_before_a_lapse_does_not_start(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(redis_url, namespace, large, concurrency=1, lease_seconds=60) as at:
        loads = Loads(monkeypatch)
        await large.invoke(at.client, "x" * 10_000)  # too large for its queue entry
        await until(lambda: loads.replies)
        (activation,) = at.host.active
        await take_over(at, activation)
        await lapse(at, activation)
        loads.go.set()
        await until(lambda: activation.state is State.ENDED)
        assert (activation.ended_as, _effects, loads.replies) == ("lost", [], 2)


@workflow(id="lapses-large")
async def large(ctx: WorkflowContext, text: str) -> None:
    _effects.append("code")


async def test_code_that_was_taken_over_is_cancelled_before_it_calls_ctx(
    redis_url: str, namespace: str
) -> None:
    async with at_place(redis_url, namespace, FLOWS["a step"]) as (at, activation, _):
        await take_over(at, activation)
        await lapse(at, activation)
        at.host.verify_doubtful()
        await until(lambda: activation.state is State.ENDED)
        assert activation.ended_as == "lost"
        await until(lambda: not activation.code._left())


async def test_a_notice_reaches_the_activation_that_owns_the_execution(
    one_partition: str, namespace: str
) -> None:
    """A worker may be given an execution again that it has lost and not noticed yet."""
    async with running(one_partition, namespace, asks, concurrency=2, lease_seconds=600) as at:
        for _ in range(8):  # in whatever order the two are found
            handle = await asks.invoke(at.client)
            await at.opened(handle, "ask")
            (old,) = at.host.active
            await at.host.store.queues.requeue(
                old.fence.prefix, old.queue, at.worker.worker_id, [old.fence.entry], max_deliveries=5
            )
            await until(lambda: len(at.host.active) == 2)
            (new,) = at.host.active - {old}
            await until(functools.partial(_waits_at, new, "ask"))
            await at.answer(handle, "ask")
            await until(functools.partial(_has_ended, new, "finished"))
            await until(lambda: not at.host.active)


def _waits_at(activation: Activation, step_key: str) -> bool:
    return step_key in activation.parking.waits


def _has_ended(activation: Activation, how: str) -> bool:
    return activation.ended_as == how


@workflow(id="lapses-asks")
async def asks(ctx: WorkflowContext) -> Any:
    answer: asyncio.Task[Any] = asyncio.create_task(ctx.step.suspend("ask"))

    async def holds() -> None:
        await asyncio.wait([answer])

    await asyncio.gather(ctx.step.run("holds", holds), answer)


@pytest.mark.parametrize("wait", ["step that fails", "suspension", "wait", "child"])
async def test_what_follows_a_notice_is_not_started_either(redis_url: str, namespace: str, wait: str) -> None:
    """The notice was sent before the execution was taken over, and read when the process woke."""
    flow = BESIDE[wait]
    async with at_place(redis_url, namespace, flow) as (at, activation, _):
        await until(lambda: "waits" in activation.parking.waits)
        record = journal.parse(activation.journal.records[b"waits"])
        assert record.status in ("open", "backoff")
        await take_over(at, activation)
        await lapse(at, activation)
        before = await stored(at, activation)
        decided = activation.journal.records[b"waits"]
        for was, becomes in ((b"\xa4open", _DECIDED[wait]), (b"\xa7backoff", b"\xa5retry")):
            decided = decided.replace(was, becomes, 1)
        activation.notify("waits", decided)
        await until(lambda: activation.state is State.ENDED)
        assert (activation.ended_as, _effects) == ("lost", [])
        assert await stored(at, activation) == before


_DECIDED = {
    "step that fails": b"",
    "suspension": b"\xa8answered",
    "wait": b"\xa4over",
    "child": b"\xa4done",
}


def _beside(call: Callable[[WorkflowContext], Awaitable[Any]], name: str) -> Workflow[Any, Any]:
    async def path(ctx: WorkflowContext) -> None:
        async def waits() -> None:
            with contextlib.suppress(Exception):
                await call(ctx)
            await ctx.step.run("next", _async_effect)

        await _beside_a_step(ctx, waits)

    return Workflow(path, f"lapses-beside-{name.replace(' ', '-')}")


async def _fails() -> None:
    if not _end.is_set():
        _end.set()
        raise OSError("no")
    _effects.append("attempt")


async def _backs_off(ctx: WorkflowContext) -> None:
    await ctx.step.run("waits", _fails, base_delay=9)


async def _asks(ctx: WorkflowContext) -> None:
    await ctx.step.suspend("waits")


async def _waits(ctx: WorkflowContext) -> None:
    await ctx.step.wait_for("waits", days=1)


async def _waits_for_a_child(ctx: WorkflowContext) -> None:
    await ctx.step.invoke_and_wait("waits", child)


_CALLS: dict[str, Path] = {
    "step that fails": _backs_off,
    "suspension": _asks,
    "wait": _waits,
    "child": _waits_for_a_child,
}
BESIDE = {name: _beside(call, name) for name, call in _CALLS.items()}
