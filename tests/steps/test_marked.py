"""Answers that code need not reach on replay: left by it, optional after a retry, or skipped by somebody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from polos_redis import (
    ExecutionFailedError,
    ExecutionFinishedError,
    ExecutionHandle,
    InvalidInputError,
    NotSkippableError,
    StepExecutionError,
    WorkflowContext,
)
from polos_redis.runtime.parking import Parking
from tests.harness.deployments import Code, Deployed, crash, stuck
from tests.harness.running import Running, running, until

pytestmark = pytest.mark.failure(45)


@asynccontextmanager
async def deployed(
    url: str, namespace: str, code: Code, *, stuck_seconds: float = 3600.0, **options: Any
) -> AsyncIterator[tuple[Running, Deployed, ExecutionHandle[Any]]]:
    flow = Deployed(code, **options)
    async with running(url, namespace, flow.workflow) as at:
        at.host.stuck_seconds = stuck_seconds
        yield at, flow, await flow.workflow.invoke(at.client)


async def mark_of(at: Running, handle: ExecutionHandle[Any], key: str) -> str | None:
    execution = await at.client.get_execution(handle.id)
    (mark,) = [one["mark"] for one in execution["suspensions"] if one["step_key"] == key]
    return None if mark is None else str(mark["kind"])


class Bad(Exception):
    """Raised by workflows."""


async def group(flow: Deployed, ctx: WorkflowContext, *, slow: bool) -> None:
    """A group that fails, and so cancels a task that asks somebody and acts on the answer. That task waits
    first, unjournaled: on replay it is cancelled before it gets to the question."""

    async def check() -> None:
        await ctx.step.run("check", flow.new.wait)
        raise Bad

    async def ask() -> None:
        await asyncio.sleep(0.02)
        await ctx.step.suspend("review")
        if slow:
            await ctx.step.run("act", asyncio.Event().wait)

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(check())
            tasks.create_task(ask())
    except* Bad:
        pass


# --- left -------------------------------------------------------------------------------


async def test_a_task_cancelled_after_it_has_its_answer(redis_url: str, namespace: str) -> None:
    async def code(flow: Deployed, ctx: WorkflowContext) -> str:
        await group(flow, ctx, slow=True)
        await ctx.step.suspend("later")
        return "done"

    async with deployed(redis_url, namespace, code) as (at, flow, handle):
        await at.opened(handle, "review")
        await at.answer(handle, "review")
        await until(lambda: "act" in {key for one in at.worker.active for key in one.call_sites})
        flow.new.set()
        await at.parked(handle)
        assert await mark_of(at, handle, "review") == "left"
        await at.answer(handle, "later")
        assert await at.result(handle) == "done"


async def test_a_task_cancelled_before_it_sees_its_answer(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, namespace: str
) -> None:
    """The answer and the cancellation come in one turn of the loop."""

    async def code(flow: Deployed, ctx: WorkflowContext) -> str:
        flow.kept = asyncio.ensure_future(ctx.step.suspend("review"))
        await asyncio.wait([flow.kept])
        assert flow.kept.cancelled()
        return await flow.step(ctx, "after")

    async with deployed(redis_url, namespace, code) as (at, flow, handle):
        notify = Parking.notify

        def and_cancel(parking: Parking, key: str, record: bytes) -> None:
            notify(parking, key, record)
            flow.kept.cancel()

        monkeypatch.setattr(Parking, "notify", and_cancel)
        await at.opened(handle, "review")
        await until(lambda: any(one.parking.waits for one in at.worker.active))
        await at.answer(handle, "review")
        assert await at.result(handle) == "after"
        assert await mark_of(at, handle, "review") == "left"


@pytest.mark.parametrize("answered", [True, False])
async def test_what_was_given_up_is_journaled_before_anything_new(
    answered: bool, redis_url: str, namespace: str
) -> None:
    """So a crash right after it changes nothing."""
    held = asyncio.Event()

    async def code(flow: Deployed, ctx: WorkflowContext) -> str:
        await group(flow, ctx, slow=answered)
        await flow.step(ctx, "new")
        await ctx.step.run("held", held.wait)
        return "done"

    async with deployed(redis_url, namespace, code) as (at, flow, handle):
        await at.opened(handle, "review")
        if answered:
            await at.answer(handle, "review")
            await until(lambda: "act" in {key for one in at.worker.active for key in one.call_sites})
        flow.new.set()
        await until(lambda: flow.effects)
        if not answered:
            with pytest.raises(ExecutionFinishedError):
                await at.answer(handle, "review")
        await until(lambda: crash(at, handle))
        held.set()
        assert await at.result(handle) == "done"
        assert flow.effects == ["new"]
        assert await mark_of(at, handle, "review") == ("left" if answered else None)


@pytest.mark.parametrize("retries", [0, 1])
async def test_what_was_given_up_before_a_failure(retries: int, redis_url: str, namespace: str) -> None:
    """The next run may cancel it before it gets there."""

    async def code(flow: Deployed, ctx: WorkflowContext) -> str:
        await group(flow, ctx, slow=True)
        if not flow.kept:
            flow.kept = True
            raise Bad
        return await flow.step(ctx, "after")

    options = {"retries": retries, "retry_delay": 0.0}
    async with deployed(redis_url, namespace, code, **options) as (at, flow, handle):
        await at.opened(handle, "review")
        await at.answer(handle, "review")
        await until(lambda: "act" in {key for one in at.worker.active for key in one.call_sites})
        flow.new.set()
        if not retries:
            with pytest.raises(ExecutionFailedError, match="Bad"):
                await at.result(handle)
            assert await mark_of(at, handle, "review") == "left"
            await at.client.retry(handle.id)
        assert await at.result(handle) == "after"
        assert await mark_of(at, handle, "review") == "left"


async def test_what_was_given_up_before_it_became_stuck(redis_url: str, namespace: str) -> None:
    async def asks(flow: Deployed, ctx: WorkflowContext) -> None:
        await asyncio.gather(ctx.step.suspend("old"), ctx.step.suspend("review"))

    async def changed(flow: Deployed, ctx: WorkflowContext) -> None:
        asking = asyncio.ensure_future(ctx.step.suspend("review"))
        await asyncio.wait([asking], timeout=0.02)
        asking.cancel()
        await asyncio.wait([asking])

    async with deployed(redis_url, namespace, asks) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(changed)
        await at.answer(handle, "old")
        assert (await stuck(at, handle)).keys == ("old",)
        with pytest.raises(ExecutionFinishedError):
            await at.answer(handle, "review")


async def test_a_task_that_ends_is_not_cancelled(redis_url: str, namespace: str) -> None:
    """Its answer has to be reached."""

    async def code(flow: Deployed, ctx: WorkflowContext) -> str:
        await asyncio.gather(ctx.step.suspend("review"), ctx.step.suspend("other"))
        await ctx.step.suspend("later")
        return "done"

    async with deployed(redis_url, namespace, code) as (at, _, handle):
        await at.parked(handle)
        for key in ("review", "other"):
            await at.answer(handle, key)
        await at.opened(handle, "later")
        await at.parked(handle)
        assert await mark_of(at, handle, "review") is None
        await at.answer(handle, "later")
        assert await at.result(handle) == "done"


@pytest.mark.parametrize("nested", [True, False])
async def test_a_race_costs_no_further_write(
    nested: bool, monkeypatch: pytest.MonkeyPatch, redis_url: str, namespace: str
) -> None:
    """Its record says what its losing branches have given up."""

    async def code(flow: Deployed, ctx: WorkflowContext) -> str:
        async def asks() -> Any:
            return await ctx.step.suspend("review")

        async def quick() -> str:
            return await ctx.step.run("quick", str)

        branches = {"review": asks() if nested else ctx.step.suspend("review"), "quick": quick()}
        await ctx.step.first_of("race", branches)
        await flow.step(ctx, "after")
        branches = {"other": ctx.step.suspend("other"), "limit": ctx.step.wait_for("limit", seconds=0.05)}
        await ctx.step.first_of("race 2", branches)
        return await flow.step(ctx, "last")

    async with deployed(redis_url, namespace, code) as (at, _, handle):
        monkeypatch.setattr(at.host.store.fenced, "give_up", None)
        assert await at.result(handle) == "last"


# --- optional ---------------------------------------------------------------------------


async def test_a_question_about_a_failure_that_does_not_happen_again(redis_url: str, namespace: str) -> None:
    """A step fails, its `except` asks a person, a later step fails, and after a retry the first succeeds."""

    async def code(flow: Deployed, ctx: WorkflowContext) -> str:
        await ctx.step.suspend("before")

        def charge() -> str:
            if not flow.new.is_set():
                raise Bad
            return "charged"

        try:
            how = await ctx.step.run("charge", charge, max_retries=0)
        except StepExecutionError:
            how = (await ctx.step.suspend("go on?"))["data"]
        if not flow.new.is_set():
            raise Bad
        return how

    async with deployed(redis_url, namespace, code) as (at, flow, handle):
        await at.parked(handle)
        await at.answer(handle, "before")
        await at.opened(handle, "go on?")
        await at.answer(handle, "go on?", "without")
        with pytest.raises(ExecutionFailedError):
            await at.result(handle)
        flow.new.set()
        await at.client.retry(handle.id)
        assert await at.result(handle) == "charged"
        assert await mark_of(at, handle, "go on?") == "optional"
        assert await mark_of(at, handle, "before") is None


# --- skipped ----------------------------------------------------------------------------


async def reviewed(flow: Deployed, ctx: WorkflowContext) -> str:
    await flow.step(ctx, "charge")
    answer = await ctx.step.suspend("review")
    return f"reviewed: {answer['data']}"


async def dropped(flow: Deployed, ctx: WorkflowContext) -> str:
    await flow.step(ctx, "charge")
    await flow.step(ctx, "after")
    return "not reviewed"


async def failing(flow: Deployed, ctx: WorkflowContext) -> str:
    await flow.step(ctx, "charge")
    if not flow.new.is_set():
        raise Bad
    return "not reviewed"


@pytest.mark.parametrize("how", ["stuck", "failed"])
async def test_a_retry_that_skips_an_answer(how: str, redis_url: str, namespace: str) -> None:
    async with deployed(redis_url, namespace, reviewed, stuck_seconds=0.2) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(dropped if how == "stuck" else failing)
        await at.answer(handle, "review", "no")
        if how == "stuck":
            await stuck(at, handle)
        else:
            with pytest.raises(ExecutionFailedError, match=r"\(the decision on 'review' not reached\)"):
                await at.result(handle)
            flow.new.set()
        run = await at.client.retry(handle.id, skip="review", reason="the step is gone", by="ann")
        assert run == 2 and await at.result(handle) == "not reviewed"
        assert flow.effects == (["after"] if how == "stuck" else [])
        *_, last = await at.client.audit(handle.id)
        about = {name: last[name] for name in ("step_key", "status", "by", "reason", "data")}
        assert about == {
            "step_key": "review",
            "status": "skipped",
            "by": "ann",
            "reason": "the step is gone",
            "data": "no",
        }
        (one,) = (await at.client.get_execution(handle.id))["suspensions"]
        assert one["answer"] == "no" and one["mark"]["at"] is not None
        assert {name: value for name, value in one["mark"].items() if name != "at"} == {
            "kind": "skipped",
            "by": "ann",
            "reason": "the step is gone",
        }


async def test_a_retry_that_skips_nothing(redis_url: str, namespace: str) -> None:
    async with deployed(redis_url, namespace, reviewed, stuck_seconds=0.2) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(dropped)
        await at.answer(handle, "review", "no")
        await stuck(at, handle)
        with pytest.raises(NotSkippableError) as none:
            await at.client.retry(handle.id, skip=["review", "charge"], reason="r")
        assert str(none.value) == (
            f"execution {handle.id} has nothing to skip under 'charge': only an accepted answer that its "
            f"code must reach can be skipped, see 'polos show {handle.id}'"
        )
        for skip, reason, message in (
            ("review", None, "skip needs a reason: say why an accepted answer is passed over"),
            ("review", " ", "skip needs a reason: say why an accepted answer is passed over"),
            ((), "r", "a reason is given, but nothing to skip: name the step key in skip"),
            ("", "r", "a step key to skip must be a non-empty string, not ''"),
            ("x" * 4001, "r", None),
            ("review", "x" * 1001, "the reason has 1,001 characters, and 1,000 are allowed: shorten it"),
            ([f"k{n}" for n in range(101)], "r", "skip names 101 step keys, and 100 are allowed"),
        ):
            with pytest.raises(InvalidInputError) as refused:
                await at.client.retry(handle.id, skip=skip, reason=reason)
            assert message is None or str(refused.value) == message
        with pytest.raises(InvalidInputError, match="by can't be"):
            await at.client.retry(handle.id, skip="review", reason="r", by="a\nb")
        assert (await at.client.get_execution(handle.id))["status"] == "stuck"
