"""An activation that ends or parks has seen every answer that was accepted by then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from polos_redis import WorkflowContext, workflow
from polos_redis.state.fencing import Fence
from polos_redis.state.journal import parse
from polos_redis.state.stuck import StuckReason
from tests.harness.running import Running, journal_of, running, soon, until


@contextlib.contextmanager
def answering_before(at: Running, script: str, step_key: str, replies: list[Any]) -> Iterator[None]:
    """Answers a suspension once an activation has sent `script` but before that runs, and once only. Notes
    the replies to it."""
    fenced = at.host.store.fenced
    send = getattr(fenced, script)

    def interposed(by: Fence, *args: Any) -> asyncio.Future[Any]:
        async def run() -> Any:
            if not replies:
                replies.append(None)
                await at.client.resume(
                    suspend_execution_id=by.id.decode(), suspend_step_key=step_key, data="yes"
                )
                replies.pop()
            replies.append(await send(by, *args))
            return replies[-1]

        return asyncio.ensure_future(run())

    setattr(fenced, script, interposed)
    yield
    setattr(fenced, script, send)


@contextlib.contextmanager
def counting_loads(at: Running) -> Iterator[list[str]]:
    executions, loaded = at.host.store.executions, []
    load = executions.load

    async def counted(by: Fence, version: str | None = None) -> Any:
        loaded.append(by.id.decode())
        return await load(by, version)

    executions.load = counted  # type: ignore[method-assign]
    yield loaded
    executions.load = load  # type: ignore[method-assign]


async def nothing() -> None: ...


@workflow
async def leaves_a_question(ctx: WorkflowContext, fails: bool) -> str:
    asks = asyncio.create_task(ctx.step.suspend("ask"))
    await ctx.step.run("step", nothing)
    if fails:
        raise ValueError("no")
    del asks
    return "done"


@pytest.mark.parametrize("fails", [False, True])
async def test_an_answer_just_before_the_end_is_seen(fails: bool, redis_url: str, namespace: str) -> None:
    replies: list[Any] = []
    async with running(redis_url, namespace, leaves_a_question) as at:
        with answering_before(at, "finish", "ask", replies), counting_loads(at) as loaded:
            handle = await leaves_a_question.invoke(at.client, fails)
            await at.reached(handle, "failed" if fails else "completed")
        assert len(replies) == 2 and replies[0] > 0 and replies[1] == 0
        assert loaded == [handle.id]
        journal = await journal_of(at.host.store, handle.id)
        assert parse(journal[b"ask"]).status == "answered"


_changed = asyncio.Event()


@workflow
async def is_renamed(ctx: WorkflowContext) -> Any:
    """Parks at "old"; once changed, at "new"."""
    asks = ctx.step.suspend("new" if _changed.is_set() else "old")
    return await asyncio.gather(asks, ctx.step.wait_for("nap", seconds=60))


async def test_an_answer_just_before_a_park_is_seen(redis_url: str, namespace: str) -> None:
    """Otherwise the execution would wait for others as if it had not been given."""
    replies: list[Any] = []
    _changed.clear()
    async with running(redis_url, namespace, is_renamed) as at:
        handle = await is_renamed.invoke(at.client)
        await at.parked(handle)
        _changed.set()
        with answering_before(at, "park", "old", replies), counting_loads(at) as loaded:
            await at.make_due(handle, "nap", "w")
            await until(lambda: loaded)
        assert replies[0] > 0 and not at.host.stats.dropped, "it goes on in place"


@workflow
async def hears_in_place(ctx: WorkflowContext) -> list[Any]:
    """Its activation lives on while it is answered."""
    held = asyncio.create_task(ctx.step.run("held", _held.wait))
    asked = [asyncio.create_task(ctx.step.suspend(key)) for key in ("a", "b")]
    return [(await one)["data"] for one in asked] + [await held]


_held = asyncio.Event()


@contextlib.asynccontextmanager
async def held(at: Running) -> AsyncIterator[Any]:
    """An execution of `hears_in_place` whose step goes on until the end of the block."""
    _held.clear()
    handle = await hears_in_place.invoke(at.client)
    for key in ("a", "b"):
        await at.opened(handle, key)
    yield handle
    _held.set()


@pytest.mark.parametrize("lost", [[], [1], [2]], ids=["none", "first", "second"])
async def test_only_after_a_lost_notice_is_the_journal_read_again(
    lost: Sequence[int], redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, hears_in_place, lease_seconds=60) as at:
        at.host.notify, notify = _losing(at, lost), at.host.notify  # type: ignore[method-assign]
        with counting_loads(at) as loaded:
            async with held(at) as handle:
                await at.answer(handle, "a", "A")
                await at.answer(handle, "b", "B")
            assert await at.result(handle) == ["A", "B", True]
        at.host.notify = notify  # type: ignore[method-assign]
        assert loaded == ([handle.id] if lost else [])


async def test_an_activation_knows_the_answers_that_it_has_loaded(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, hears_in_place, lease_seconds=60) as at, held(at) as handle:
        await at.answer(handle, "a", "A")
        (before,) = at.worker.active
        await until(lambda: before.journal.answers)
        with counting_loads(at) as loaded:
            at.host.return_all()
            await until(lambda: loaded)
            (later,) = await until(lambda: at.worker.active)
            await until(lambda: later.journal.answers)
            await at.answer(handle, "b", "B")
            await until(lambda: later.journal.answers == 2)
            _held.set()
            assert await at.result(handle) == ["A", "B", True]
        assert loaded == [handle.id]


def _losing(at: Running, lost: Sequence[int]) -> Any:
    """`host.notify`, with some notices left out."""
    notify, came = at.host.notify, []

    def some(notice: Any) -> None:
        came.append(notice)
        if len(came) not in lost:
            notify(notice)

    return some


async def test_result_waits_until_a_stuck_execution_has_ended(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, hears_in_place) as at:
        async with held(at) as handle:
            (activation,) = at.worker.active
            reason = StuckReason("unreached", ("a",), "", "a test has it stuck")
            write, fence = at.host.store.fenced.stick, activation.fence
            assert await write(fence, activation.journal.known, 0, b"", reason.pack()) == 0
            activation.end("stuck")
            ended = asyncio.create_task(handle.result())
            assert await handle.status() == "stuck"
            await at.answer(handle, "a", "A")
            await at.answer(handle, "b", "B")
            assert await handle.status() == "stuck" and not ended.done()
            (row,) = await at.client.list_executions(status="stuck")
            assert row["id"] == handle.id
            assert await at.client.retry(handle.id) == 2
        assert await soon(ended) == ["A", "B", True]
