"""Worlds: a server, a worker and a client of the test's own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from polos_redis import (
    ConfigurationError,
    ExecutionNotFoundError,
    PolosClient,
    Workflow,
    WorkflowContext,
    workflow,
)
from polos_redis.testing import World, world
from tests.harness.running import DEADLINE, soon, until
from tests.invariants.state_invariants import check

effects: Counter[str] = Counter()


def happen(name: str) -> str:
    effects[name] += 1
    return name


@workflow
async def world_asks(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    await ctx.step.run("before", happen, f"{ctx.execution_id} before")
    answer = await ctx.step.suspend("ask", data=input)
    await ctx.step.run("after", happen, f"{ctx.execution_id} after")
    return answer["data"]


@workflow
async def world_asks_twice(ctx: WorkflowContext) -> list[Any]:
    first, second = await asyncio.gather(ctx.step.suspend("first"), ctx.step.suspend("second"))
    return [first["data"], second["data"]]


@workflow
async def world_parent(ctx: WorkflowContext) -> Any:
    return await ctx.step.invoke_and_wait("child", world_asks, {"amount": 1})


@workflow
async def world_ends(ctx: WorkflowContext, fails: bool) -> int:
    if fails:
        raise ValueError("no such customer")
    return 42


@workflow
async def world_waits(ctx: WorkflowContext) -> None:
    await ctx.step.wait_for("a_week", days=7)


@workflow
async def world_long_step(ctx: WorkflowContext) -> str:
    return await ctx.step.run("long", _long, ctx.execution_id)


gates: dict[str, asyncio.Event] = {}


async def _long(execution_id: str) -> str:
    await gates.setdefault(execution_id, asyncio.Event()).wait()
    return happen(f"{execution_id} long")


@pytest.fixture
async def own(redis_url: str) -> AsyncIterator[World]:
    workflows: list[Workflow[Any, Any]] = [world_asks, world_asks_twice, world_parent]
    workflows += [world_ends, world_waits, world_long_step]
    async with world(workflows, url=redis_url) as made:
        yield made
        check(made.url, made.namespace)


# --- answering ----------------------------------------------------------------------------


async def test_a_suspension_is_awaited_and_answered(own: World) -> None:
    handle = await world_asks.invoke(own.client, {"amount": 5})
    asked = await own.suspension(handle)
    assert (asked.execution_id, asked.step_key, asked.data) == (handle.id, "ask", {"amount": 5})
    await asked.answer({"ok": True}, by="ann", groups=["clerks"])
    assert await handle.result(timeout=DEADLINE) == {"ok": True}
    (decision,) = await own.client.audit(handle.id)
    assert (decision["by"], decision["digest"]) == ("ann", asked.view["digest"])


async def test_of_several_the_first_or_the_named_one_is_returned(own: World) -> None:
    handle = await world_asks_twice.invoke(own.client)
    assert (await own.suspension(handle)).step_key == "first"
    second = await own.suspension(handle, "second")
    await second.answer(2)
    await (await own.suspension(handle)).answer(1)
    assert await handle.result(timeout=DEADLINE) == [1, 2]


async def test_a_descendants_suspension_is_found_from_the_root(own: World) -> None:
    handle = await world_parent.invoke(own.client)
    asked = await own.suspension(handle)
    assert asked.execution_id.startswith(f"{handle.id}.")
    await asked.answer("yes")
    assert await handle.result(timeout=DEADLINE) == "yes"


async def test_the_next_question_is_awaited_after_an_answer(own: World) -> None:
    """One that is answered already is not returned again."""
    handle = await world_asks_twice.invoke(own.client)
    await (await own.suspension(handle, "first")).answer(1)
    assert (await own.suspension(handle)).step_key == "second"


@pytest.mark.parametrize(
    ("fails", "why"), [(True, "it failed with ValueError: no such customer"), (False, "it completed with 42")]
)
async def test_an_execution_that_ends_without_asking_says_how(own: World, fails: bool, why: str) -> None:
    handle = await world_ends.invoke(own.client, fails)
    with pytest.raises(AssertionError) as raised:
        await own.suspension(handle, "ask")
    assert str(raised.value) == f"execution {handle.id} opened no suspension 'ask': {why}"


async def test_a_suspension_that_does_not_come_says_where_the_execution_is(own: World) -> None:
    waits = await world_waits.invoke(own.client)
    with pytest.raises(TimeoutError) as raised:
        await own.suspension(waits, timeout=0.5)
    said = "did not open a suspension within 0.5 s: it is waiting for a time (a_week) until 20"
    assert str(raised.value).startswith(f"execution {waits.id} {said}")
    unserved = await own.client.invoke("nobody-serves-this")
    with pytest.raises(TimeoutError, match="no worker serves its workflow 'nobody-serves-this'"):
        await own.suspension(unserved, timeout=0.5)


# --- workers ------------------------------------------------------------------------------


async def test_an_execution_continues_on_the_next_worker(own: World) -> None:
    handle = await world_asks.invoke(own.client, {})
    asked = await own.suspension(handle)
    await own.restart_worker()
    await asked.answer("go on")
    assert await handle.result(timeout=DEADLINE) == "go on"
    assert (effects[f"{handle.id} before"], effects[f"{handle.id} after"]) == (1, 1)


async def test_a_step_that_outlasts_the_grace_period_runs_again(redis_url: str) -> None:
    async with world([world_long_step], url=redis_url, grace_seconds=0.05) as own:
        handle = await world_long_step.invoke(own.client)
        await until(lambda: handle.id in gates)
        await soon(own.restart_worker())
        gates[handle.id].set()
        assert await handle.result(timeout=DEADLINE) == f"{handle.id} long"
    assert effects[f"{handle.id} long"] == 1


async def test_the_end_of_a_world_waits_for_nothing(redis_url: str) -> None:
    async with asyncio.timeout(DEADLINE):
        async with world([world_long_step], url=redis_url, grace_seconds=3600) as own:
            handle = await world_long_step.invoke(own.client)
            await until(lambda: handle.id in gates)
    assert effects[f"{handle.id} long"] == 0


async def test_a_world_sends_no_notification_by_default(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_WEBHOOK_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("POLOS_WEBHOOK_SECRET", "a secret of more than 32 characters, for tests")
    async with world([world_asks], url=redis_url) as own:
        handle = await world_asks.invoke(own.client, {})
        await own.suspension(handle)
        store = await own.client.store()
        for node in await store.wire.nodes():
            assert await node.call("KEYS", f"polos:{{{own.namespace}:*outbox*") == []


# --- its server ---------------------------------------------------------------------------


async def test_a_world_leaves_nothing_on_a_shared_server(client: PolosClient) -> None:
    async with world([world_asks], url=client.url) as own:
        await own.suspension(await world_asks.invoke(own.client, {}))
    for node in await (await client.store()).wire.nodes():
        assert await node.call("KEYS", f"polos:{{{own.namespace}:*") == []


async def test_a_world_has_a_server_of_its_own(temp_dir: Path) -> None:
    """`nothing_left_behind` checks that it ends with the block."""
    async with world([world_asks]) as one, world([world_asks]) as other:
        assert one.url != other.url
        handle = await world_asks.invoke(one.client, {})
        asked = await one.suspension(handle)
        async with PolosClient(other.url, one.namespace) as elsewhere:
            with pytest.raises(ExecutionNotFoundError):
                await elsewhere.get_execution(handle.id)
        await asked.answer("yes")
        assert await handle.result(timeout=DEADLINE) == "yes"


async def test_an_unusable_worker_option_fails_the_world(redis_url: str) -> None:
    with pytest.raises(ConfigurationError, match="concurrency"):
        async with world([world_asks], url=redis_url, concurrency=0):
            raise AssertionError("not reached")
