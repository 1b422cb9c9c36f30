"""`replay_at_every_step`: a worker that crashes behind each write changes nothing."""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import Any

import pytest

from polos_redis import (
    ExecutionFailedError,
    SuspendTimeoutError,
    WorkflowContext,
    WorkflowState,
    workflow,
)
from polos_redis.testing import OpenSuspension, replay_at_every_step

effects: list[str] = []
counts: list[int] = []
tidied: list[str] = []


def happen(name: str) -> str:
    effects.append(name)
    return name


def slowly(name: str) -> str:
    """Ends some time after other steps that started with it."""
    time.sleep(0.01 * "abc".index(name[0]))  # what is slow is the step, not the test
    return happen(name)


def happen_at_last(name: str) -> str:
    """Fails at first."""
    counts.append(1)
    if len(counts) % 3:
        raise ConnectionError("not yet")
    return happen(name)


@workflow
async def crash_steps(ctx: WorkflowContext, names: list[str]) -> dict[str, Any]:
    numbers = [await ctx.step.uuid("uuid"), await ctx.step.random("random"), await ctx.step.now("now")]
    return {"numbers": numbers, "done": [await ctx.step.run(name, happen, name) for name in names]}


@workflow
async def crash_asks(ctx: WorkflowContext, limit: float) -> str:
    await ctx.step.run("before", happen, "before")
    try:
        answer = await ctx.step.suspend("ask", data="sure?", timeout=limit)
    except SuspendTimeoutError:
        return await ctx.step.run("silence", happen, "silence")
    await ctx.step.wait_for("cooling", days=1)
    return await ctx.step.run("after", happen, f"after {answer['data']}")


@workflow
async def crash_parent(ctx: WorkflowContext) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        both = [
            group.create_task(ctx.step.invoke_and_wait("steps", crash_steps, ["x", "y"])),
            group.create_task(ctx.step.invoke_and_wait("asks", crash_asks, 60)),
        ]
    return [one.result() for one in both]


@workflow
async def crash_beside(ctx: WorkflowContext) -> list[str]:
    async def two(name: str) -> list[str]:
        return [await ctx.step.run(f"{name} {n}", slowly, f"{name} {n}") for n in (1, 2)]

    found = await asyncio.gather(two("a"), two("b"), two("c"))
    return [name for names in found for name in names]


@workflow
async def crash_tidies_up(ctx: WorkflowContext) -> None:
    happen("code")
    try:
        await ctx.step.run("first", happen, "first")
        await ctx.step.run("second", happen, "second")
    finally:
        tidied.append("tidied")


@workflow
async def crash_retries(ctx: WorkflowContext) -> str:
    return await ctx.step.run("try", happen_at_last, "sent", base_delay=3600, max_delay=3600)


@workflow
async def crash_races(ctx: WorkflowContext) -> Any:
    branches = {"answer": ctx.step.suspend("ask"), "time": ctx.step.wait_for("hour", hours=1)}
    winner = await ctx.step.first_of("race", branches)
    await ctx.step.run("after", happen, winner.name)
    return winner.name


@workflow
async def crash_fails(ctx: WorkflowContext) -> None:
    await ctx.step.run("only", happen, "only")
    raise ValueError("no such customer")


@workflow
async def crash_outside_of_steps(ctx: WorkflowContext) -> None:
    await ctx.step.run("first", happen, "first")
    happen("mail")


@workflow
async def crash_forgets(ctx: WorkflowContext) -> float:
    await ctx.step.run("first", happen, "first")
    return random.random()


@workflow
async def crash_changes_its_keys(ctx: WorkflowContext) -> None:
    await ctx.step.run(f"key {len(effects)}", happen, "once")
    await ctx.step.run("last", happen, "last")


class Polled(WorkflowState):
    pages: tuple[int, ...] = ()


@workflow(state_schema=Polled)
async def crash_polls(ctx: WorkflowContext, page: int) -> list[Any]:
    await ctx.step.run("poll", happen, f"page {page}")
    value = await ctx.step.uuid("value")
    answer = await ctx.step.suspend("ask", data=page)
    await ctx.step.invoke_and_wait("child", crash_without_steps, page)
    ctx.state.pages += (page,)
    if page < 2:
        await ctx.continue_as_new(page + 1)
    return [value, answer["data"], ctx.state.pages]


@workflow
async def crash_without_steps(ctx: WorkflowContext, number: int) -> int:
    return number + 1


async def test_every_step_happens_once_and_values_are_kept(redis_url: str) -> None:
    names = ["a", "b"]
    result = await replay_at_every_step(crash_steps, names, effects=effects, url=redis_url)
    assert result["done"] == names == effects


async def test_a_question_is_answered_and_days_pass(redis_url: str) -> None:
    answers = {"ask": "yes"}
    found = await replay_at_every_step(crash_asks, 60, answers=answers, effects=effects, url=redis_url)
    assert found == "after yes"
    assert effects == ["before", "after yes"]


async def test_a_function_answers_or_lets_time_pass(redis_url: str) -> None:
    asked: list[Any] = []

    async def ignore(suspension: OpenSuspension) -> None:
        asked.append(suspension.data)

    answers = {"ask": ignore}
    found = await replay_at_every_step(crash_asks, 60, answers=answers, effects=effects, url=redis_url)
    assert found == "silence"
    assert asked == ["sure?"] * 5  # undisturbed, and behind "before", "ask" and "silence" and before the end


async def test_children_crash_too(redis_url: str) -> None:
    answers = {"ask": 1}
    steps, asks = await replay_at_every_step(crash_parent, answers=answers, effects=effects, url=redis_url)
    assert (steps["done"], asks) == (["x", "y"], "after 1")
    assert sorted(effects) == ["after 1", "before", "x", "y"]


async def test_steps_that_run_beside_the_crash_are_not_repeated(redis_url: str) -> None:
    found = await replay_at_every_step(crash_beside, effects=effects, url=redis_url)
    assert found == sorted(effects) == ["a 1", "a 2", "b 1", "b 2", "c 1", "c 2"]


async def test_a_crash_runs_no_code_of_the_workflow(redis_url: str) -> None:
    """Neither what comes next nor a `finally` block, before everything was compared."""
    tidied.clear()
    with pytest.raises(AssertionError) as raised:
        await replay_at_every_step(crash_tidies_up, effects=tidied, url=redis_url)
    crash, _, differences = str(raised.value).partition(", ")
    assert crash == "after a crash right before the end (crash 3 of 3)"
    assert differences == "these effects happened besides, or again: 'tidied'"
    with pytest.raises(AssertionError) as raised:
        await replay_at_every_step(crash_tidies_up, effects=effects, url=redis_url)
    crash, _, differences = str(raised.value).partition(", ")
    assert crash == "after a crash right after step 'first' was journaled (crash 1 of 3)"
    assert differences == "these effects happened besides, or again: 'code'"


async def test_the_attempts_of_a_step_go_on(redis_url: str) -> None:
    assert await replay_at_every_step(crash_retries, effects=effects, url=redis_url) == "sent"
    assert effects == ["sent"]


@pytest.mark.parametrize("answered", [True, False])
async def test_a_race_has_one_winner(redis_url: str, answered: bool) -> None:
    async def perhaps(suspension: OpenSuspension) -> None:
        if answered:
            await suspension.answer("yes")

    answers = {"ask": perhaps}
    winner = await replay_at_every_step(crash_races, answers=answers, effects=effects, url=redis_url)
    assert [winner] == effects == ["answer" if answered else "time"]


async def test_runs_that_continue_as_new_are_not_lost_or_repeated(redis_url: str) -> None:
    async def answer(suspension: OpenSuspension) -> None:
        await suspension.answer(f"yes to {suspension.data}")

    found = await replay_at_every_step(
        crash_polls, 0, answers={"ask": answer}, effects=effects, url=redis_url
    )
    assert found[1:] == ["yes to 2", (0, 1, 2)]
    assert effects == ["page 0", "page 1", "page 2"]


async def test_a_failure_is_raised(redis_url: str) -> None:
    with pytest.raises(ExecutionFailedError, match="no such customer"):
        await replay_at_every_step(crash_fails, effects=effects, url=redis_url)
    assert effects == ["only"]


async def test_a_workflow_without_steps_on_a_private_server() -> None:
    assert await replay_at_every_step(crash_without_steps, 1) == 2


async def test_an_effect_outside_of_steps_is_found(redis_url: str) -> None:
    with pytest.raises(AssertionError) as raised:
        await replay_at_every_step(crash_outside_of_steps, effects=effects, url=redis_url)
    assert str(raised.value) == (
        "after a crash right before the end (crash 2 of 2), these effects happened besides, or again: 'mail'"
    )


async def test_another_result_is_found(redis_url: str) -> None:
    with pytest.raises(AssertionError) as raised:
        await replay_at_every_step(crash_forgets, url=redis_url)
    crash, _, differences = str(raised.value).partition(", ")
    assert crash == "after a crash right after step 'first' was journaled (crash 1 of 2)"
    assert re.fullmatch(r"it returned 0\.\d+; without the crash it returned 0\.\d+", differences)


async def test_a_step_that_is_not_reached_again_is_found(redis_url: str) -> None:
    with pytest.raises(AssertionError) as raised:
        await replay_at_every_step(crash_changes_its_keys, effects=effects, url=redis_url)
    assert "right after step 'key 0' was journaled (crash 1 of 3)" in str(raised.value)
    assert "its code did not reach the journaled 'key 0'" in str(raised.value)
    assert "these effects happened besides, or again: 'once'" in str(raised.value)


async def test_a_question_without_an_answer_is_an_error(redis_url: str) -> None:
    with pytest.raises(AssertionError) as raised:
        await replay_at_every_step(crash_asks, 60, url=redis_url)
    assert str(raised.value) == (
        "suspension 'ask' has no answer: give it one, such as answers={'ask': ...}, or an async function "
        "that lets it time out"
    )


# --- answers that are left ----------------------------------------------------------------


@workflow
async def crash_asks_perhaps(ctx: WorkflowContext, amount: int) -> str:
    if amount < 0:
        raise ValueError("negative")
    if amount < 10:
        return "small"
    return str((await ctx.step.suspend("approval"))["data"])


@pytest.mark.parametrize(
    ("amount", "how"), [(5, "returned 'small'"), (-1, "failed with ValueError: negative")]
)
async def test_an_answer_that_nothing_asks_for_fails_the_test(amount: int, how: str) -> None:
    with pytest.raises(AssertionError) as raised:
        await replay_at_every_step(crash_asks_perhaps, amount, answers={"approval": "yes", "review": "no"})
    assert str(raised.value) == (
        "the answers have entries that no suspension has needed: 'approval', 'review'; the execution "
        f"{how}. Remove them, or pass allow_unused=True"
    )


async def test_answers_may_be_left_if_that_is_meant() -> None:
    answers = {"approval": "yes", "review": "no"}
    found = [
        await replay_at_every_step(crash_asks_perhaps, amount, answers=answers, allow_unused=True)
        for amount in (5, 50)
    ]
    assert found == ["small", "yes"]
