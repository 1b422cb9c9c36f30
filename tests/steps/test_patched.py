"""`ctx.patched`: an execution takes a changed part of the code, or goes on as it did before the change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polos_redis import ExecutionFailedError, ExecutionHandle, WorkflowContext
from polos_redis.errors import ResumeError
from tests.harness.deployments import Code, Deployed, crash, journaled
from tests.harness.running import Running, running, soon

pytestmark = [pytest.mark.failure(27), pytest.mark.promise("changed code")]


@asynccontextmanager
async def deployed(
    url: str, namespace: str, code: Code, **options: Any
) -> AsyncIterator[tuple[Running, Deployed, ExecutionHandle[Any]]]:
    """A worker, and an execution of `code`."""
    flow = Deployed(code, **options)
    async with running(url, namespace, flow.workflow) as at:
        at.host.stuck_seconds = 0.4
        yield at, flow, await flow.workflow.invoke(at.client)


async def before(flow: Deployed, ctx: WorkflowContext) -> str:
    await flow.step(ctx, "charge")
    answer = await ctx.step.suspend("review")
    await flow.step(ctx, "after")
    return f"old, {answer['data']}"


async def checked_first(flow: Deployed, ctx: WorkflowContext) -> str:
    """The change: a check before all else."""
    taken = await ctx.patched("check")
    if taken:
        await flow.step(ctx, "check")
    await flow.step(ctx, "charge")
    answer = await ctx.step.suspend("review")
    assert await ctx.patched("check") == taken
    await flow.step(ctx, "after")
    return f"{'new' if taken else 'old'}, {answer['data']}"


async def checked_last(flow: Deployed, ctx: WorkflowContext) -> str:
    """The change: a check behind the review."""
    await flow.step(ctx, "charge")
    answer = await ctx.step.suspend("review")
    if await ctx.patched("check"):
        await flow.step(ctx, "check")
        return f"new, {answer['data']}"
    await flow.step(ctx, "after")
    return f"old, {answer['data']}"


async def test_what_starts_after_the_change_takes_it(redis_url: str, namespace: str) -> None:
    async with deployed(redis_url, namespace, checked_first) as (at, flow, handle):
        await at.parked(handle)
        await at.answer(handle, "review", "fine")
        assert await at.result(handle) == "new, fine"
        assert flow.effects == ["check", "charge", "after"]
        steps = {one["step_key"]: one for one in (await at.client.get_execution(handle.id))["steps"]}
        assert steps["patched:check"]["value"] is True and len(steps) == 4


@pytest.mark.parametrize("answered_before", [True, False])
async def test_what_waits_at_the_change_goes_on_as_before(
    redis_url: str, namespace: str, answered_before: bool
) -> None:
    """Also where its answer is accepted by the time the new code meets it: that holds back what is new."""
    async with deployed(redis_url, namespace, before) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(checked_first)
        await at.answer(handle, "review", "fine")
        assert await at.result(handle) == "old, fine"
        assert flow.effects == ["after"]
        execution = await at.client.get_execution(handle.id)
        (one,) = [one for one in execution["steps"] if one["step_key"] == "patched:check"]
        assert one["value"] is False and execution["unreached_steps"] == []


async def test_a_change_behind_what_has_happened_is_taken(redis_url: str, namespace: str) -> None:
    async with deployed(redis_url, namespace, before) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(checked_last)
        await at.answer(handle, "review", "fine")
        assert await at.result(handle) == "new, fine"
        assert flow.effects == ["check"]


@pytest.mark.parametrize("first", [before, checked_first])
async def test_it_says_the_same_after_every_crash(redis_url: str, namespace: str, first: Code) -> None:
    said: list[bool] = []

    async def waits_again(flow: Deployed, ctx: WorkflowContext) -> int:
        said.append(await ctx.patched("check"))
        await flow.step(ctx, "charge")
        await ctx.step.suspend("review")
        for number in range(3):
            await flow.step(ctx, f"more {number}")
            await ctx.step.suspend(f"wait {number}")
        return len(said)

    async with deployed(redis_url, namespace, first) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(waits_again)
        for key in ("review", "wait 0", "wait 1", "wait 2"):
            await at.parked(handle)
            await at.answer(handle, key)
            crash(at, handle)
        await at.result(handle)
        assert set(said) == {first is checked_first} and len(said) >= 4


async def test_a_patch_that_the_code_has_dropped_is_not_missed(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once nothing from before the change is left, its patch goes; those that have asked for it go on."""

    async def always(flow: Deployed, ctx: WorkflowContext) -> str:
        await flow.step(ctx, "check")
        await flow.step(ctx, "charge")
        await ctx.step.suspend("review")
        return "done"

    async with deployed(redis_url, namespace, checked_first, unreached="stop") as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(always)
        await at.answer(handle, "review", "fine")
        assert await at.result(handle) == "done"
        assert (await at.client.get_execution(handle.id))["unreached_steps"] == []
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_calls_at_the_same_time_agree(redis_url: str, namespace: str) -> None:
    async def both(flow: Deployed, ctx: WorkflowContext) -> list[bool]:
        return list(await asyncio.gather(*(ctx.patched("check") for _ in range(5)), ctx.patched("other")))

    async with deployed(redis_url, namespace, both) as (at, _, handle):
        assert await at.result(handle) == [True] * 6
        assert await journaled(at, handle) == {"patched:check", "patched:other"}


async def test_the_first_call_may_be_cancelled(redis_url: str, namespace: str) -> None:
    async def code(flow: Deployed, ctx: WorkflowContext) -> bool:
        first = asyncio.create_task(ctx.patched("check"))
        await asyncio.sleep(0)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        return await ctx.patched("check")

    async with deployed(redis_url, namespace, code) as (at, _, handle):
        assert await at.result(handle) is True
        assert await journaled(at, handle) == {"patched:check"}


async def test_the_losing_branch_of_a_race_is_not_history(redis_url: str, namespace: str) -> None:
    async def race(flow: Deployed, ctx: WorkflowContext) -> None:
        async def slow() -> None:
            await flow.step(ctx, "in the losing branch")
            await ctx.step.suspend("lost")

        async def quick() -> None:
            await ctx.step.suspend("won")

        await ctx.step.first_of("race", {"slow": slow(), "quick": quick()})

    async def old(flow: Deployed, ctx: WorkflowContext) -> bool:
        await race(flow, ctx)
        await ctx.step.wait_for("nap", seconds=3600)
        return False

    async def new(flow: Deployed, ctx: WorkflowContext) -> bool:
        await race(flow, ctx)
        await ctx.step.suspend("again")
        return await ctx.patched("check")

    async with deployed(redis_url, namespace, old) as (at, flow, handle):
        await at.parked(handle)
        await at.answer(handle, "won")
        await at.parked(handle)
        other = await flow.workflow.invoke(at.client)
        await at.parked(other)
        flow.deploy(new)
        await at.answer(other, "won")
        await at.parked(other)
        await at.answer(other, "again")
        assert await at.result(other) is True
        await at.client.cancel(handle.id)


@pytest.mark.parametrize("wrong", ["", 7, None, "x" * 257])
async def test_an_id_that_is_none(redis_url: str, namespace: str, wrong: Any) -> None:
    async def code(flow: Deployed, ctx: WorkflowContext) -> bool:
        with contextlib.suppress(Exception):
            await ctx.patched(wrong)
        return True

    async with deployed(redis_url, namespace, code) as (at, _, handle):
        with pytest.raises(
            ExecutionFailedError, match=r"a patch's id (must be|has 257 bytes).*test_patched\.py:"
        ):
            await at.result(handle)


async def test_a_step_that_asks(redis_url: str, namespace: str) -> None:
    async def code(flow: Deployed, ctx: WorkflowContext) -> Any:
        return await ctx.step.run("step", ctx.patched, "check", max_retries=0)

    async with deployed(redis_url, namespace, code) as (at, _, handle):
        with pytest.raises(ExecutionFailedError, match="was called inside a step's function"):
            await at.result(handle)


# --- random programs ------------------------------------------------------------------------

LEAVES = st.sampled_from(["step", "ask"])
PARTS = st.one_of(
    LEAVES, st.tuples(st.just("gather"), LEAVES, LEAVES), st.tuples(st.just("race"), LEAVES, LEAVES)
)
PROGRAMS = st.lists(PARTS, min_size=1, max_size=5)


async def run_leaf(flow: Deployed, ctx: WorkflowContext, kind: str, key: str) -> None:
    if kind == "step":
        await flow.step(ctx, key)
    else:
        await ctx.step.suspend(key)


async def run_part(flow: Deployed, ctx: WorkflowContext, part: Any, key: str) -> None:
    if isinstance(part, str):
        await run_leaf(flow, ctx, part, key)
        return
    how, *leaves = part
    calls = {name: run_leaf(flow, ctx, kind, f"{key}{name}") for name, kind in zip("ab", leaves, strict=True)}
    if how == "gather":
        await asyncio.gather(*calls.values())
    else:
        await ctx.step.first_of(f"{key}race", calls)


def code_of(program: list[Any], at: int | None, said: list[bool]) -> Code:
    """The code of a program; with a patch before the part at this place."""

    async def code(flow: Deployed, ctx: WorkflowContext) -> str:
        for number, part in enumerate([*program, "ask"]):
            if number == at:
                said.append(await ctx.patched("change"))
                if said[-1]:
                    await flow.step(ctx, "added")
            await run_part(flow, ctx, part, f"{number} ")
        return "done"

    return code


async def open_keys(at: Running, handle: ExecutionHandle[Any]) -> list[str]:
    execution = await at.client.get_execution(handle.id)
    return sorted(one["step_key"] for one in execution["open_suspensions"])


async def answer_one(at: Running, handle: ExecutionHandle[Any], chance: random.Random) -> None:
    keys = await open_keys(at, handle)
    with contextlib.suppress(ResumeError):  # its race was decided meanwhile
        if keys:
            await at.answer(handle, chance.choice(keys))


async def change(at: Running, flow: Deployed, program: list[Any], seed: int) -> None:
    """Deploy a patch before some part of the program while an execution waits somewhere; crash it at random
    until its end."""
    chance = random.Random(seed)
    handle = await flow.workflow.invoke(at.client)
    for _ in range(chance.randrange(4)):
        await at.parked(handle)
        if len(await open_keys(at, handle)) == 1 and f"{len(program)} " in await open_keys(at, handle):
            break
        await answer_one(at, handle, chance)
    await at.parked(handle)
    place, said = chance.randrange(len(program) + 1), list[bool]()
    history = {int(key.split()[0]) for key in await journaled(at, handle)}
    flow.deploy(code_of(program, place, said))
    while await handle.status() in ("queued", "running", "waiting"):
        await answer_one(at, handle, chance)
        if chance.random() < 0.5:
            crash(at, handle)
    assert await at.result(handle) == "done"
    assert set(said) == {max(history) < place}, (program, place, history)
    assert ("added" in flow.effects) == said[0]


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(PROGRAMS, min_size=5, max_size=10), st.integers(0, 2**32))
def test_a_patch_is_taken_exactly_where_nothing_behind_it_has_happened(
    redis_url: str, namespace: str, programs: list[list[Any]], seed: int
) -> None:
    async def all_at_once() -> None:
        flows = [Deployed(code_of(one, None, []), f"patched-{n}") for n, one in enumerate(programs)]
        async with running(redis_url, namespace, *(flow.workflow for flow in flows)) as at:
            at.host.stuck_seconds = 3600.0
            async with asyncio.TaskGroup() as group:
                for number, (flow, program) in enumerate(zip(flows, programs, strict=True)):
                    group.create_task(change(at, flow, program, seed + number))

    asyncio.run(soon(all_at_once()))
