"""Reserved streams: executions that only some workers may run, and that wait while there is none."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from polos_redis import (
    ConfigurationError,
    ExecutionHandle,
    Polos,
    PolosClient,
    Queue,
    Workflow,
    WorkflowContext,
    workflow,
)
from polos_redis.definitions import registry
from polos_redis.state.queues import Queues
from tests.harness.running import DEADLINE, Running, running, until, working


async def asks(ctx: WorkflowContext, input: Any) -> Any:
    return (await ctx.step.suspend("review"))["data"]


async def returns(ctx: WorkflowContext, input: Any) -> Any:
    return input


def pinning(version: str, **options: Any) -> Workflow[Any, Any]:
    return Workflow(asks, "reserved-asks", version=version, version_policy="pin", **options)


other: Workflow[Any, Any] = Workflow(returns, "reserved-other")
unknown: Workflow[Any, Any] = Workflow(returns, "reserved-unknown")


async def unserved(client: PolosClient) -> int:
    """How many executions wait for a worker that reads their reserved stream."""
    store, found = await client.store(), 0
    for prefix in store.prefixes:
        for name in await store.wire.call("SMEMBERS", prefix + b"reserved"):
            found += await store.wire.call("ZCARD", prefix + b"index:unserved:" + name)
    return found


async def are_unserved(client: PolosClient, number: int) -> bool:
    return await unserved(client) == number


async def nothing_is_reserved(client: PolosClient) -> bool:
    store = await client.store()
    found = [await store.wire.call("EXISTS", prefix + b"reserved") for prefix in store.prefixes]
    return not any(found)


@pytest.mark.failure(10)
@pytest.mark.parametrize("partitions", [1, 3])
async def test_many_that_nobody_serves_are_read_once(
    redis_url: str, namespace: str, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is moved once, however long it waits, and others run meanwhile."""
    moves: list[str] = []
    reserve = Queues.reserve

    async def counting(self: Queues, by: Any, *args: Any) -> bool:
        moves.append(by.id)
        return await reserve(self, by, *args)

    monkeypatch.setattr(Queues, "reserve", counting)
    async with PolosClient(redis_url, namespace, partitions=partitions) as client:
        handles = [await unknown.invoke(client, number) for number in range(250)]
        async with working(client, other):
            await until(partial(are_unserved, client, 250))
            assert await other.run(client, 1, timeout=DEADLINE) == 1
            assert len(moves) == 250
            shown = await client.get_execution(handles[0].id)
            assert (shown["status"], shown["unserved"]) == ("queued", True)
            assert (shown["starts_at"], shown["queue"]) == (None, "default")
            listed = await client.list_executions(status="queued", limit=500)
            assert len(listed) == 250 and not any(row["starts_at"] for row in listed)
            await client.cancel(handles[0].id)
            async with working(client, unknown):
                for number, handle in enumerate(handles[1:], 1):
                    assert await handle.result(timeout=DEADLINE) == number
            await until(partial(nothing_is_reserved, client))
        assert await unserved(client) == 0


async def test_pinned_executions_without_a_worker_hold_no_slot(redis_url: str, namespace: str) -> None:
    narrow = Queue("reserved-narrow", concurrency_limit=1)
    old, new = pinning("1", queue=narrow), pinning("2", queue=narrow)
    async with PolosClient(redis_url, namespace) as client:
        async with working(client, old) as worker:
            waits = await old.invoke(client, 1)
            await Running(client, worker).parked(waits)
        async with working(client, new) as worker:
            at = Running(client, worker)
            await at.answer(waits, "review", "old")
            passes = await new.invoke(client, 2)
            await at.parked(passes)
            await at.answer(passes, "review", "new")
            assert await at.result(passes) == "new"
            assert await waits.status() == "queued"
            async with working(client, old):
                assert await at.result(waits) == "old"


async def test_a_pinned_execution_in_another_queue(redis_url: str, namespace: str) -> None:
    flow = pinning("1")
    async with running(redis_url, namespace, flow, queues=["default", "reserved-aside"]) as at:
        handle = await flow.invoke(at.client, 1, queue="reserved-aside")
        await at.parked(handle)
        await at.answer(handle, "review", "yes")
        assert await at.result(handle) == "yes"
        shown = await at.client.get_execution(handle.id)
        assert (shown["queue"], shown["version"], shown["pinned"]) == ("reserved-aside", "1", True)


async def test_what_started_before_it_was_pinned_is_not(redis_url: str, namespace: str) -> None:
    before: Workflow[Any, Any] = Workflow(asks, "reserved-asks", version="1")
    async with PolosClient(redis_url, namespace) as client:
        async with working(client, before) as worker:
            handle = await before.invoke(client, 1)
            await Running(client, worker).parked(handle)
        async with working(client, pinning("2")) as worker:
            at = Running(client, worker)
            await at.answer(handle, "review", "x" * 10_000)  # too large for its entry
            assert len(await at.result(handle)) == 10_000
            shown = await client.get_execution(handle.id)
            assert (shown["version"], shown["pinned"]) == ("1", False)


async def test_a_workflow_that_is_defined_again_with_another_version(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook: the worker stops reading the stream of the old version."""
    monkeypatch.setattr(registry, "_registry", {})

    def define(version: str) -> Workflow[Any, Any]:
        defined: Workflow[Any, Any] = workflow(id="reserved-asks", version=version, version_policy="pin")(
            asks
        )
        return defined

    async def waits(handle: ExecutionHandle[Any]) -> bool:
        return await handle.status() == "waiting"

    flow = define("1")
    async with Polos(url=redis_url, namespace=namespace, worker_options={"lease_seconds": 2.0}) as polos:
        old = await flow.invoke(polos, 1)
        await until(partial(waits, old))
        new = await define("2").invoke(polos, 2)
        await until(partial(waits, new))
        await polos.resume(suspend_execution_id=old.id, suspend_step_key="review", data="old")
        await until(partial(are_unserved, polos, 1))
        assert (await polos.get_execution(new.id))["version"] == "2"
        define("1")
        assert await old.result(timeout=DEADLINE) == "old"
        await polos.cancel(new.id)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version_policy": "pin"}, "version_policy='pin' needs a version: give it version=..."),
        ({"version": "1", "version_policy": "all"}, "version_policy must be 'any' or 'pin', not 'all'"),
    ],
)
def test_a_policy_that_is_none(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Workflow(asks, "reserved-asks", **options)
    assert str(raised.value) == f"workflow 'reserved-asks': {said}"
