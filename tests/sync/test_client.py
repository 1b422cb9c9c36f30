"""The client without asyncio, against a real worker: every call, its errors, threads and streams."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

import polos_redis
from polos_redis import (
    EventData,
    ExecutionCancelledError,
    ExecutionFailedError,
    ExecutionNotFoundError,
    InsideEventLoopError,
    InsideWorkflowError,
    InvalidInputError,
    NoRetryError,
    RedisUnavailableError,
    Workflow,
    WorkflowContext,
)
from polos_redis.sync import PolosClient, Stream, apikeys, event_loop, events, schedules
from tests.harness.running import DEADLINE
from tests.sync.conftest import Work


async def _charge(ctx: WorkflowContext, amount: int) -> str:
    if amount < 0:
        raise NoRetryError("less than nothing")
    answer = await ctx.step.suspend("approval", data={"amount": amount})
    return f"{amount} {answer['data']}"


async def _echo(ctx: WorkflowContext, input: Any) -> Any:
    return input


charge: Workflow[int, str] = Workflow(_charge, "charge")
echo: Workflow[Any, Any] = Workflow(_echo, "echo")


def _wait_until(condition: Any, what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"timed out waiting for {what}"
        time.sleep(0.002)


def test_a_workflow_is_started_answered_and_awaited(sync_client: PolosClient, work: Work) -> None:
    with work(charge):
        handle = sync_client.invoke(charge, 5, idempotency_key="once")
        assert sync_client.invoke(charge, 5, idempotency_key="once").id == handle.id
        assert handle.workflow_id == handle.root_workflow_id == "charge"
        with pytest.raises(TimeoutError, match=r"did not finish within 0\.01 s: it is "):
            handle.result(timeout=timedelta(milliseconds=10))
        _wait_until(lambda: handle.status() == "waiting", "the suspension")
        (row,) = sync_client.list_suspensions()
        assert row["data"] == {"amount": 5}
        resumed = sync_client.resume(
            suspend_execution_id=handle.id, suspend_step_key="approval", data="yes", resumed_by="ann"
        )
        assert resumed.outcome == "accepted"
        assert handle.result(timeout=DEADLINE) == "5 yes"
        assert sync_client.get_execution(handle.id)["result"] == "5 yes"
        assert [entry["by"] for entry in sync_client.audit(handle.id)] == ["ann"]
        assert len(sync_client.list_executions(workflow=charge)) == 1
        assert sync_client.served_workflows() == {"charge"}
        assert sync_client.delete(handle.id) == 1
        with pytest.raises(ExecutionNotFoundError):
            sync_client.get_handle(handle.id).load()


def test_errors_are_those_of_the_asynchronous_client(sync_client: PolosClient, work: Work) -> None:
    with pytest.raises(InvalidInputError):
        sync_client.invoke(charge, "much")
    assert len(sync_client.list_executions()) == 0
    with work(charge):
        with pytest.raises(ExecutionFailedError, match="less than nothing"):
            sync_client.invoke(charge, -1).result(timeout=DEADLINE)
        handle = sync_client.invoke(charge, 1)
        handle.cancel(cancelled_by="bob")
        with pytest.raises(ExecutionCancelledError, match="bob"):
            handle.result(timeout=DEADLINE)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        sync_client.cancel(handle.id, by="bob")  # type: ignore[call-arg]


def test_a_handle_loads_its_workflow(sync_client: PolosClient) -> None:
    started = sync_client.invoke("nobody-serves-this")
    handle = sync_client.get_handle(started.id)
    assert handle.workflow_id == ""
    assert handle.load() is handle
    assert handle.workflow_id == handle.root_workflow_id == "nobody-serves-this"
    assert handle.root_execution_id == handle.id
    assert repr(handle) == f"<ExecutionHandle {handle.id} of nobody-serves-this>"


def test_schedules_and_keys(sync_client: PolosClient) -> None:
    schedule = schedules.create(sync_client, "nobody-serves-this", "0 8 * * *", key="mine")
    schedules.pause(sync_client, schedule)
    assert [one.paused for one in schedules.list(sync_client)] == [True]
    schedules.delete(sync_client, schedule)
    key, secret = apikeys.create(sync_client, "ann", ["read"])
    assert apikeys.find(sync_client, secret) == key
    apikeys.revoke(sync_client, key.id)
    assert apikeys.find(sync_client, secret) is None


def test_anything_that_takes_a_client_can_be_called(sync_client: PolosClient, work: Work) -> None:
    async def double(client: polos_redis.PolosClient, number: int, *, more: int) -> int:
        return 2 * int(await echo.run(client, number)) + more

    with work(echo):
        assert sync_client.call(double, 4, more=1) == 9
        assert sync_client.call(echo.run, "hi", timeout=DEADLINE) == "hi"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ZeroDivisionError()])
def test_whatever_a_call_raises_reaches_the_caller_and_ends_nothing(
    error: BaseException, sync_client: PolosClient
) -> None:
    async def fail(client: polos_redis.PolosClient) -> None:
        raise error

    for _ in range(3):
        with pytest.raises(type(error)) as raised:
            sync_client.call(fail)
        assert raised.value is error
        assert len(sync_client.list_executions()) == 0


def test_a_call_sees_the_callers_context_variables(sync_client: PolosClient) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")

    async def read(client: polos_redis.PolosClient) -> str:
        return tenant.get()

    tenant.set("acme")
    assert sync_client.call(read) == "acme"


# --- threads ----------------------------------------------------------------------------


def test_threads_share_a_client(sync_client: PolosClient, work: Work) -> None:
    threads, runs = 16, 30
    start = threading.Barrier(threads)

    def run(number: int) -> list[Any]:
        start.wait(DEADLINE)
        mine = [(number, again) for again in range(runs)]
        handles = [sync_client.invoke(echo, one) for one in mine]
        assert [sync_client.get_execution(one.id)["input"] for one in handles] == [list(one) for one in mine]
        assert [one.result(timeout=DEADLINE) for one in handles] == mine
        return mine

    with work(echo), ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(run, range(threads)))
    assert sum(map(len, done)) == threads * runs
    assert sum(thread.name == event_loop.NAME for thread in threading.enumerate()) == 1


def test_first_calls_of_many_threads_start_one_loop(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a new process, that is: one without a loop, and with a client that has no connection yet."""
    fresh = event_loop._Current()
    threads = 16
    start = threading.Barrier(threads)
    monkeypatch.setattr(event_loop, "_serve", lambda loop: None)

    def begin(_: int) -> asyncio.AbstractEventLoop:
        start.wait(DEADLINE)
        return fresh.start()

    with ThreadPoolExecutor(threads) as pool:
        (loop,) = set(pool.map(begin, range(threads)))
    loop.close()


def test_a_thread_that_waits_does_not_hold_up_the_others(sync_client: PolosClient) -> None:
    handle = sync_client.invoke("nobody-serves-this")
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            handle.result()
        except ExecutionCancelledError as error:
            ended.append(error)

    waiting = [threading.Thread(target=wait) for _ in range(20)]
    for thread in waiting:
        thread.start()
    for _ in range(20):
        assert handle.status() == "queued"
    sync_client.cancel(handle.id)
    for thread in waiting:
        thread.join(DEADLINE)
    assert len(ended) == 20


# --- event loops ------------------------------------------------------------------------


async def test_a_call_in_an_event_loop_is_refused(redis_url: str, namespace: str) -> None:
    client = PolosClient(redis_url, namespace)
    stream = events.stream_topic(client, "topic")
    calls: list[Callable[[], Any]] = [
        lambda: client.invoke("nobody-serves-this"),
        client.list_executions,
        client.get_handle("abc").result,
        lambda: events.publish(client, "topic", EventData("said")),
        lambda: next(stream),
        lambda: client.call(echo.run, 1),
    ]
    for call in calls:
        with pytest.raises(InsideEventLoopError, match=r"whose event loop it would block: await the method"):
            call()
    assert len(await asyncio.to_thread(client.list_executions)) == 0
    await asyncio.to_thread(client.close)


def test_a_call_by_a_call_is_refused(sync_client: PolosClient) -> None:
    async def again(client: polos_redis.PolosClient) -> None:
        sync_client.list_executions()

    with pytest.raises(InsideEventLoopError):
        sync_client.call(again)
    assert len(sync_client.list_executions()) == 0


def test_steps_use_it_but_workflow_code_may_not_start_executions(
    sync_client: PolosClient, work: Work
) -> None:
    def in_step() -> str:
        return sync_client.invoke("nobody-serves-this", idempotency_key="from a step").id

    async def starts(ctx: WorkflowContext) -> list[str]:
        started = await ctx.step.run("start", in_step)
        errors = []
        for call in (sync_client.list_executions, in_step):
            try:
                call()
            except InsideEventLoopError as error:
                errors.append(type(error).__name__)
        try:
            await asyncio.to_thread(in_step)
        except InsideWorkflowError as error:
            errors.append(type(error).__name__)
        return [started, *errors]

    with work(Workflow(starts, "starts")):
        found = sync_client.call(Workflow(starts, "starts").run, timeout=DEADLINE)
    started = sync_client.get_handle(found[0]).load()
    assert started.workflow_id == "nobody-serves-this"
    assert found[1:] == ["InsideEventLoopError", "InsideEventLoopError", "InsideWorkflowError"]


# --- streams ----------------------------------------------------------------------------


def test_events_are_streamed(sync_client: PolosClient, work: Work) -> None:
    with work(echo):
        handle = sync_client.invoke(echo, 1)
        with events.stream_workflow(sync_client, "echo", handle.id) as stream:
            kinds = [event.event_type for event in stream]
        assert kinds == ["workflow_start", "workflow_finish"]
        assert list(stream) == []
    with pytest.raises(ExecutionNotFoundError):
        next(events.stream_workflow(sync_client, "echo", "nothing"))


def test_a_timeout_loses_no_event(sync_client: PolosClient) -> None:
    with events.stream_topic(sync_client, "topic") as stream:
        for number in range(5):
            with pytest.raises(TimeoutError, match=r"^the stream had no item within 0\.01 s$"):
                stream.next(timeout=0.01)
            events.publish(sync_client, "topic", EventData("said", number))
            assert stream.next(timeout=DEADLINE).data == number


def test_closing_a_stream_ends_it_in_another_thread(sync_client: PolosClient) -> None:
    stream = events.stream_topic(sync_client, "topic")
    events.publish(sync_client, "topic", EventData("said"))
    first = threading.Event()
    seen = []

    def read() -> None:
        for event in stream:
            seen.append(event.event_type)
            first.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(DEADLINE)
    stream.close()
    reader.join(DEADLINE)
    assert not reader.is_alive()
    assert seen == ["said"]
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_threads_share_a_stream(sync_client: PolosClient) -> None:
    for number in range(50):
        events.publish(sync_client, "topic", EventData("said", number))
    with events.stream_topic(sync_client, "topic") as stream, ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: stream.next(timeout=DEADLINE).data, range(50)))
    assert sorted(found) == list(range(50))


def test_a_dropped_stream_closes_itself(sync_client: PolosClient) -> None:
    closed = threading.Event()

    async def count(client: polos_redis.PolosClient) -> Any:
        try:
            for number in range(3):
                yield number
            await asyncio.get_running_loop().create_future()
        finally:
            closed.set()

    stream: Stream[int] = sync_client.stream(count)
    assert [next(stream), next(stream), next(stream)] == [0, 1, 2]
    with pytest.raises(TimeoutError):
        stream.next(timeout=0.01)
    del stream
    gc.collect()
    assert closed.wait(DEADLINE)


def test_an_error_ends_a_stream(sync_client: PolosClient) -> None:
    async def fail(client: polos_redis.PolosClient) -> Any:
        yield 1
        raise TimeoutError("of its own")

    stream: Stream[int] = sync_client.stream(fail)
    assert next(stream) == 1
    with pytest.raises(TimeoutError, match="of its own"):
        stream.next(timeout=DEADLINE)
    assert list(stream) == []


# --- connections ------------------------------------------------------------------------


def test_a_closed_client_can_be_used_again(sync_client: PolosClient) -> None:
    handle = sync_client.invoke("nobody-serves-this")
    for _ in range(3):
        sync_client.close()
        sync_client.close()
        assert handle.status() == "queued"


def test_closing_ends_calls_that_wait(sync_client: PolosClient) -> None:
    handle = sync_client.invoke("nobody-serves-this")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(handle.result)
        _wait_until(lambda: _is_watched(sync_client, handle.id), "the wait")
        sync_client.close()
        with pytest.raises(RedisUnavailableError, match="closed"):
            waiting.result(DEADLINE)


def _is_watched(client: PolosClient, execution_id: str) -> bool:
    async def read(client: polos_redis.PolosClient) -> bool:
        store = await client.store()
        (notify,) = await store.executions.read_fields(execution_id, "notify")
        return notify is not None

    return client.call(read)


def test_the_connections_of_dropped_clients_are_closed(sync_client: PolosClient) -> None:
    async def clients(client: polos_redis.PolosClient) -> int:
        store = await client.store()
        return sum([(await node.call("CLIENT", "LIST")).count(b"\n") for node in await store.wire.nodes()])

    before = sync_client.call(clients)
    for _ in range(10):
        handle = PolosClient(sync_client.url, sync_client.namespace).invoke("nobody-serves-this")
        assert handle.status() == "queued"  # it has what it needs of its client
    dropped = weakref.ref(handle._handle._connection)
    del handle
    gc.collect()
    assert dropped() is None
    _wait_until(lambda: sync_client.call(clients) <= before, "the connections to be closed")


def test_without_redis_a_call_raises_after_its_patience() -> None:
    client = PolosClient("redis://127.0.0.1:1/0", patience_seconds=0.1)
    with pytest.raises(RedisUnavailableError, match="127"):
        client.invoke("nobody-serves-this")
    client.close()
