"""Handles: results, errors and status, from any process, for any number of waiters."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    ExecutionCancelledError,
    ExecutionFailedError,
    ExecutionFinishedError,
    ExecutionHandle,
    ExecutionNotFoundError,
    InvalidInputError,
    PolosClient,
    Workflow,
    WorkflowContext,
    events,
)
from polos_redis.connection import session
from polos_redis.values.times import utc
from tests.harness.running import DEADLINE, connections, running, soon, until

pytestmark = pytest.mark.also_on_cluster


class Receipt(BaseModel):
    number: int
    total: float


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


@flow
async def buys(ctx: WorkflowContext, input: int) -> Receipt:
    await ctx.step.suspend("ask")
    return Receipt(number=input, total=9.5)


@flow
async def returns_large(ctx: WorkflowContext) -> str:
    return "x" * 300_000


@flow
async def fails(ctx: WorkflowContext) -> None:
    raise LookupError("no such customer: Ünal")


async def test_a_result_has_its_own_type(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, buys, returns_large) as at:
        handle = await buys.invoke(at.client, 7)
        assert isinstance(handle, ExecutionHandle)
        assert await handle.status() in ("queued", "running", "waiting")
        for timeout in (0.01, timedelta(milliseconds=10)):
            with pytest.raises(TimeoutError, match=f"{handle.id} did not finish within 0.01 s"):
                await handle.result(timeout=timeout)
        waiting = asyncio.create_task(handle.result())
        await at.parked(handle)
        assert await handle.status() == "waiting"
        (asked,) = (await at.client.get_execution(handle.id)).open_suspensions
        assert asked.opened_at is not None
        with pytest.raises(TimeoutError) as caught:
            await handle.result(timeout=0.01)
        assert str(caught.value) == (
            f"execution {handle.id} did not finish within 0.01 s: it is waiting for a person (ask) "
            f"since {utc(asked.opened_at)}"
        )
        await at.answer(handle, "ask")
        assert await soon(waiting) == Receipt(number=7, total=9.5)
        assert await handle.result(timeout=5) == Receipt(number=7, total=9.5)
        assert await handle.status() == "completed"
        assert await at.result(await returns_large.invoke(at.client)) == "x" * 300_000


async def test_a_timeout_says_that_nobody_serves_the_workflow(client: PolosClient) -> None:
    handle = await client.invoke("handles-unheard-of")
    with pytest.raises(
        TimeoutError,
        match=r"it is queued since .* UTC, and no worker serves its workflow 'handles-unheard-of'$",
    ):
        await handle.result(timeout=0.01)
    await handle.cancel()


async def test_a_handle_from_another_client_works(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, buys) as at, PolosClient(redis_url, namespace) as other:
        handle = await buys.invoke(at.client, 1)
        known = other.get_handle(handle.id)
        assert (known.id, known.workflow_id) == (handle.id, "")
        asked = await other.get_handle(handle.id)
        assert (asked.workflow_id, asked.root_workflow_id) == ("buys", "buys")
        assert asked.root_execution_id == handle.id
        assert handle.id in repr(asked)
        waiting = asyncio.gather(known.result(), asked.result())
        await at.opened(handle, "ask")
        await at.answer(handle, "ask")
        assert await soon(waiting) == [Receipt(number=1, total=9.5)] * 2


async def test_a_failed_execution_raises(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, fails) as at:
        handle = await fails.invoke(at.client)
        for _ in range(2):
            with pytest.raises(ExecutionFailedError) as caught:
                await at.result(handle)
            error = caught.value
            assert error.execution_id == handle.id
            assert (error.error_type, error.error_message) == ("LookupError", "no such customer: Ünal")
            assert "test_handles.py" in error.traceback
            assert 'raise LookupError("no such customer' in error.traceback
            assert str(error) == f"execution {handle.id} failed: LookupError: no such customer: Ünal"
            assert "polos_redis" not in error.traceback.partition("test_handles.py")[2]


@pytest.mark.parametrize("by", [None, "alice"])
async def test_a_cancelled_execution_raises(by: str | None, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, buys) as at:
        handle = await buys.invoke(at.client, 1)
        waiting = asyncio.create_task(handle.result())
        await at.parked(handle)
        await at.client.cancel(handle.id, cancelled_by=by)
        for awaitable in (waiting, handle.result(), at.client.get_handle(handle.id).result()):
            with pytest.raises(
                ExecutionCancelledError, match=f"by {by}" if by else "was cancelled$"
            ) as caught:
                await soon(awaitable)
            assert caught.value.by == by


async def test_an_unknown_id_raises(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = client.get_handle("0" * 32)
        for awaitable in (handle, handle.status(), handle.result(), handle.result(timeout=5)):
            with pytest.raises(ExecutionNotFoundError, match="0000"):
                await soon(awaitable)
        with pytest.raises(ExecutionNotFoundError):
            await client.get_execution("0" * 32)
        with pytest.raises(ExecutionNotFoundError):
            await client.cancel("0" * 32)


@pytest.mark.failure(19)
async def test_a_thousand_waiters_share_one_connection(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, buys) as at:
        handles = [await buys.invoke(at.client, n) for n in range(10)]
        async with PolosClient(redis_url, namespace) as client:
            store = await client.store()
            before = len(await connections(store, "polos-notices"))
            waiting = [
                asyncio.create_task(client.get_handle(handles[n % 10].id).result()) for n in range(1000)
            ]
            for handle in handles:
                await at.parked(handle)
            channels = {store.partitions.prefix(handle.id) for handle in handles}
            opened = len(await connections(store, "polos-notices")) - before
            assert opened == min(len(channels), len(store.wire.groups(store.prefixes)))
            for task in waiting[::3]:
                task.cancel()
            for handle in handles:
                await at.answer(handle, "ask")
            for number, task in enumerate(waiting):
                if number % 3:
                    assert (await soon(task)).number == number % 10
            assert all(task.cancelled() for task in waiting[::3])


@pytest.mark.failure(13)
async def test_a_lost_notice_connection_is_recovered(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, buys) as at, PolosClient(redis_url, namespace) as client:
        handle = await buys.invoke(at.client, 1)
        waiting = asyncio.create_task(client.get_handle(handle.id).result())
        await at.parked(handle)
        store = await client.store()
        await until(lambda: _registered(client, handle.id))
        assert await store.wire.call("CLIENT", "KILL", "TYPE", "pubsub") >= 1
        await at.answer(handle, "ask")
        assert await soon(waiting) == Receipt(number=1, total=9.5)


async def _registered(client: PolosClient, execution_id: str) -> bool:
    (notify,) = await (await client.store()).executions.read_fields(execution_id, "notify")
    return notify is not None


@pytest.mark.failure(13)
async def test_a_lost_notice_is_recovered(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RECHECK_SECONDS", 0.05)
    async with running(redis_url, namespace, buys) as at, PolosClient(redis_url, namespace) as client:
        handle = await buys.invoke(at.client, 1)
        await at.parked(handle)
        waiting = asyncio.create_task(client.get_handle(handle.id).result())
        await until(lambda: _registered(client, handle.id))
        # registering evicts the earliest watcher; here strangers fill every slot
        strangers = " ".join(f"stranger-{n}" for n in range(16))
        key = at.host.store.partitions.prefix(handle.id) + b"exec:" + handle.id.encode()
        answered = asyncio.gather(
            at.host.store.wire.call("HSET", key, "notify", strangers), at.answer(handle, "ask")
        )
        await soon(answered)
        assert await soon(waiting) == Receipt(number=1, total=9.5)


async def test_waiting_for_a_forgotten_execution_raises(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RECHECK_SECONDS", 0.05)
    async with PolosClient(redis_url, namespace) as client:
        handle = await client.invoke("nobody-runs-it")
        waiting = asyncio.create_task(handle.result())
        await until(lambda: _registered(client, handle.id))
        store = await client.store()
        prefix = store.partitions.prefix(handle.id)
        for key in await store.wire.call("KEYS", prefix + b"*"):
            await store.wire.call("DEL", key)
        with pytest.raises(ExecutionNotFoundError):
            await soon(waiting)


# --- cancelling -------------------------------------------------------------------------


async def test_a_queued_execution_is_cancelled(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await buys.invoke(client, 1)
        await client.cancel(handle.id)
        assert await handle.status() == "cancelled"
        store = await client.store()
        assert await store.wire.call("XLEN", store.partitions.prefix(handle.id) + b"queue:default") == 0
    async with running(redis_url, namespace, buys) as at:
        other = await buys.invoke(at.client, 2)
        await at.parked(other)
        assert await at.client.get_handle(handle.id).status() == "cancelled"
        await at.client.cancel(handle.id)  # repeats it
        with pytest.raises(ExecutionFinishedError, match="cancelled"):
            await at.client.cancel(handle.id, cancelled_by="bob")


_ran: list[str] = []


@flow
async def runs_for_long(ctx: WorkflowContext) -> str:
    async def first() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            _ran.append("cancelled")

    async def then() -> None:
        _ran.append("then")

    await ctx.step.run("first", first)
    await ctx.step.run("then", then)
    return "done"


async def test_a_running_execution_is_cancelled(redis_url: str, namespace: str) -> None:
    _ran.clear()
    async with running(redis_url, namespace, runs_for_long) as at:
        handle = await runs_for_long.invoke(at.client)
        waiting = asyncio.create_task(handle.result())
        await until(lambda: at.worker.active)
        await at.client.cancel(handle.id, cancelled_by="alice")
        with pytest.raises(ExecutionCancelledError, match="alice"):
            await soon(waiting)
        await until(lambda: not at.worker.active)
        await until(lambda: _ran)
        assert _ran == ["cancelled"]
        execution = await at.client.get_execution(handle.id)
        assert (execution["status"], execution["cancelled_by"]) == ("cancelled", "alice")
        assert [e.event_type for e in await at.events(handle)][-1] == "workflow_finish"


async def test_cancelling_a_finished_execution_does_nothing(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, returns_large) as at:
        handle = await returns_large.invoke(at.client)
        await handle.result(timeout=DEADLINE)
        with pytest.raises(ExecutionFinishedError, match="completed"):
            await at.client.cancel(handle.id)


async def test_a_handle_in_place_of_its_id_is_refused(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        wrong: Any = client.get_handle("0" * 32)
        for call in (
            lambda: client.resume(suspend_execution_id=wrong, suspend_step_key="ask", data=1),
            lambda: client.cancel(wrong),
            lambda: client.get_execution(wrong),
            lambda: anext(events.stream_workflow(client, "buys", wrong)),
            lambda: client.get_handle(wrong).result(),
        ):
            with pytest.raises(InvalidInputError, match="id must be a string, not <ExecutionHandle 0"):
                await call()
