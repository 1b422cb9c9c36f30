"""A journal that grows: the worker warns from a fifth of its limit on, and the limit fails the execution."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polos_redis import (
    BatchWorkflowInput,
    ExecutionFailedError,
    Workflow,
    WorkflowContext,
)
from polos_redis.errors import PolosError
from polos_redis.settings import OPTIONS, long_journal
from tests.harness.running import Running, journal_of, running

LIMIT = 20
WARNING = "the journal is long: call ctx.continue_as_new, or let children do parts of the work"

Flow = Workflow[Any, Any]


def flow(body: Callable[..., Any], **options: Any) -> Flow:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__, **options)


async def _leaf(ctx: WorkflowContext, number: int) -> int:
    return number


leaf = flow(_leaf)


async def failure(at: Running, workflow: Flow, input: Any = None) -> tuple[str, ExecutionFailedError]:
    handle = await workflow.invoke(at.client, input)
    with pytest.raises(ExecutionFailedError) as raised:
        await at.result(handle)
    return handle.id, raised.value


async def records(at: Running, execution_id: str) -> int:
    """The number of records that are stored."""
    names = await journal_of(await at.client.store(), execution_id)
    return sum(name not in (b"", b"\xfe") for name in names)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [one for one in caplog.records if one.getMessage() == WARNING]


def test_the_default_limits() -> None:
    assert OPTIONS["max_journal_records"].default == 50_000
    assert long_journal(50_000) == 10_000


@pytest.mark.failure(55)
async def test_the_limit_fails_before_the_call_that_exceeds_it(redis_url: str, namespace: str) -> None:
    ran: list[int] = []

    @flow
    async def loops(ctx: WorkflowContext) -> None:
        for number in range(LIMIT + 5):
            try:
                await ctx.step.run(f"step {number}", ran.append, number)
            except PolosError:
                ran.append(-1)

    async with running(redis_url, namespace, loops, max_journal_records=LIMIT) as at:
        execution_id, error = await failure(at, loops)
        found = await at.client.get_execution(execution_id)
        assert await records(at, execution_id) == found.records == LIMIT
    assert ran == [*range(LIMIT), *[-1] * 5], "caught, but no later call has started"
    assert error.error_type == "JournalFullError"
    assert error.error_message.startswith("step 'step 20' at test_journal_limits.py:")
    assert error.error_message.endswith(
        " would bring the execution's journal to 21 records, and it may have 20: go on with an empty one "
        "in time (ctx.continue_as_new), or let children do parts of the work; to finish this execution, "
        "raise max_journal_records (POLOS_MAX_JOURNAL_RECORDS) and retry it"
    )


async def test_the_worker_warns_once_in_an_activation(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    @flow
    async def loops(ctx: WorkflowContext, count: int) -> None:
        for number in range(count):
            await ctx.step.uuid(f"step {number}")

    with caplog.at_level(logging.WARNING, "polos.execution"):
        async with running(redis_url, namespace, loops, max_journal_records=LIMIT) as at:
            await at.result(await loops.invoke(at.client, LIMIT // 5))
            assert not warnings_of(caplog)
            handle = await loops.invoke(at.client, LIMIT)
            await at.result(handle)
    (warned,) = warnings_of(caplog)
    assert (warned.execution, warned.workflow, warned.records, warned.limit) == (handle.id, "loops", 5, LIMIT)


async def test_a_replay_adds_nothing_and_a_new_call_fails(redis_url: str, namespace: str) -> None:
    """The records of an earlier activation count, and so does what is journaled for a wait."""

    @flow
    async def asks(ctx: WorkflowContext, more: int) -> str:
        for number in range(LIMIT - 1):
            await ctx.step.uuid(f"step {number}")
        await ctx.step.suspend("ok", data={})
        for number in range(more):
            await ctx.step.uuid(f"more {number}")
        return "done"

    async with running(redis_url, namespace, asks, max_journal_records=LIMIT) as at:
        for more in (0, 1):
            handle = await asks.invoke(at.client, more)
            await at.parked(handle)
            await at.answer(handle, "ok")
            if more:
                with pytest.raises(ExecutionFailedError, match="step 'more 0'"):
                    await at.result(handle)
            else:
                assert await at.result(handle) == "done"
            assert await records(at, handle.id) == LIMIT


async def test_steps_in_flight_count(redis_url: str, namespace: str) -> None:
    @flow
    async def at_once(ctx: WorkflowContext) -> None:
        await asyncio.gather(*(ctx.step.uuid(f"step {number}") for number in range(LIMIT + 1)))

    async with running(redis_url, namespace, at_once, max_journal_records=LIMIT) as at:
        execution_id, error = await failure(at, at_once)
        assert error.error_type == "JournalFullError"
        assert await records(at, execution_id) <= LIMIT


@pytest.mark.parametrize("children", [LIMIT - 1, LIMIT])
async def test_results_of_children_count(redis_url: str, namespace: str, children: int) -> None:
    """A fan-out that does not fit starts no child at all."""

    @flow
    async def fans_out(ctx: WorkflowContext) -> int:
        calls = [BatchWorkflowInput("_leaf", number) for number in range(children)]
        return len(await ctx.step.batch_invoke_and_wait("all", calls))

    async with running(redis_url, namespace, fans_out, leaf, max_journal_records=LIMIT) as at:
        if children < LIMIT:
            handle = await fans_out.invoke(at.client)
            assert await at.result(handle) == children
            assert (await at.client.get_execution(handle.id)).records == LIMIT
            assert await records(at, handle.id) == LIMIT
        else:
            execution_id, error = await failure(at, fans_out)
            assert error.error_type == "JournalFullError"
            assert (await at.client.get_execution(execution_id)).children == []


async def test_children_that_nobody_waits_for_add_no_results(redis_url: str, namespace: str) -> None:
    @flow
    async def starts(ctx: WorkflowContext) -> int:
        calls = [BatchWorkflowInput("_leaf", number) for number in range(LIMIT + 5)]
        return len(await ctx.step.batch_invoke("all", calls))

    async with running(redis_url, namespace, starts, leaf, max_journal_records=LIMIT) as at:
        handle = await starts.invoke(at.client)
        assert await at.result(handle) == LIMIT + 5
        assert await records(at, handle.id) == 1


async def test_results_on_their_way_count_after_a_park(redis_url: str, namespace: str) -> None:
    """Children that still run leave less room, also in an activation that has not started them."""

    async def _slow(ctx: WorkflowContext, number: int) -> None:
        await ctx.step.suspend("go", data={})

    async def _waits(ctx: WorkflowContext) -> None:
        calls = [BatchWorkflowInput("_slow", number) for number in range(LIMIT - 3)]

        async def other() -> None:
            await ctx.step.suspend("ok", data={})  # 2 records, and the results: one is left
            await ctx.step.uuid("last")
            await ctx.step.uuid("too many")

        await asyncio.gather(ctx.step.batch_invoke_and_wait("all", calls), other())

    waits, slow = flow(_waits), flow(_slow)
    async with running(redis_url, namespace, waits, slow, max_journal_records=LIMIT) as at:
        handle = await waits.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ok")
        with pytest.raises(ExecutionFailedError, match="step 'too many'"):
            await at.result(handle)


@pytest.mark.parametrize("options", [{"retries": 3, "retry_delay": 0.0}, {"on_exhausted": "pause"}])
async def test_it_is_not_retried_by_itself_and_goes_on_with_a_higher_limit(
    redis_url: str, namespace: str, options: dict[str, Any]
) -> None:
    ran: list[int] = []

    async def _loops(ctx: WorkflowContext) -> str:
        for number in range(LIMIT + 5):
            await ctx.step.run(f"step {number}", ran.append, number)
        return "done"

    loops = flow(_loops, **options)
    async with running(redis_url, namespace, loops, max_journal_records=LIMIT) as at:
        execution_id, _ = await failure(at, loops)
        assert (await at.client.get_execution(execution_id)).run == 1
    async with running(redis_url, namespace, loops) as at:
        await at.client.retry(execution_id)
        assert await at.result(at.client.get_handle(execution_id)) == "done"
    assert ran == list(range(LIMIT + 5)), "nothing has run twice"


@given(limit=st.integers(1, 1_000_000))
@settings(max_examples=50)
def test_a_journal_is_long_before_it_is_full(limit: int) -> None:
    assert 0 <= long_journal(limit) < limit
