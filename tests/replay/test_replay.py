"""Code that takes another path than a history, and code that does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polos_redis import (
    BatchWorkflowInput,
    HookContext,
    HookResult,
    NoRetryError,
    StepExecutionError,
    WorkflowContext,
    WorkflowState,
    workflow,
)
from tests.harness.deployments import Code, Deployed, stuck
from tests.harness.running import running, until
from tests.replay.programs import diverged, history_of


@workflow(id="replay-child")
async def child(ctx: WorkflowContext, number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    return number * 2


class Tally(WorkflowState):
    count: int = 0


def _line(code: Code, offset: int) -> str:
    return f"tests/replay/test_replay.py:{code.__code__.co_firstlineno + offset}"


# --- code that has not changed ----------------------------------------------------------------------


async def _fails_once(flow: Deployed) -> str:
    flow.kept = (flow.kept or 0) + 1
    if flow.kept == 1:
        raise OSError("once")
    return "second"


async def _declined() -> None:
    raise NoRetryError("declined")


async def values(flow: Deployed, ctx: WorkflowContext) -> Any:
    at, number, name = await ctx.step.now("at"), await ctx.step.random("number"), await ctx.step.uuid("name")
    return {at, number, name}


async def retries(flow: Deployed, ctx: WorkflowContext) -> Any:
    result = await ctx.step.run("flaky", _fails_once, flow, base_delay=0.01)
    try:
        await ctx.step.run("card", _declined)
    except StepExecutionError as error:
        return result, error.error_message
    return None


async def children(flow: Deployed, ctx: WorkflowContext) -> Any:
    one = await ctx.step.invoke_and_wait("one", child, 21)
    several = await ctx.step.batch_invoke_and_wait(
        "several", [BatchWorkflowInput(id=child.id, payload=number) for number in (1, -1, 3)]
    )
    handle = await ctx.step.invoke("left", child, 4)
    try:
        await ctx.step.invoke_and_wait("fails", child, -1)
    except StepExecutionError as error:
        return one, [result.result for result in several], handle.id, str(error)


async def races(flow: Deployed, ctx: WorkflowContext) -> Any:
    async def steps() -> str:
        await ctx.step.suspend("never")
        return await flow.step(ctx, "unreachable")

    first = await ctx.step.first_of("limit", {"steps": steps(), "limit": ctx.step.wait_for("limit-1", 0.01)})
    second = await ctx.step.first_of("both", {"a": flow.step(ctx, "a"), "b": flow.step(ctx, "b")})
    return first.name, second.name in ("a", "b")


async def timeouts(flow: Deployed, ctx: WorkflowContext) -> Any:
    """A step that its own code gave up: the replay has to wait for the same timeout, an hour if need be."""
    try:
        async with asyncio.timeout(3600 if flow.new.is_set() else 0.05):
            await ctx.step.run("slow", asyncio.sleep, 3600)
    except TimeoutError:
        return await flow.step(ctx, "instead")


async def sleepy(flow: Deployed, ctx: WorkflowContext) -> Any:
    await asyncio.gather(flow.step(ctx, "one"), asyncio.sleep(0.01), asyncio.to_thread(sum, [1, 2]))
    return await flow.step(ctx, "two")


async def fails(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "first")
    raise ValueError(f"an object at {object()!r}")


async def left_behind(flow: Deployed, ctx: WorkflowContext) -> Any:
    flow.kept = asyncio.ensure_future(ctx.step.run("late", asyncio.sleep, 3600))
    return await flow.step(ctx, "first")


async def refused(flow: Deployed, ctx: WorkflowContext) -> Any:
    """A call that is refused each time journals nothing."""
    try:
        await ctx.step.suspend("odd", data=object())
    except ValueError:
        return await flow.step(ctx, "instead")


ENDING = (values, retries, children, races, timeouts, sleepy, fails, left_behind, refused)


@pytest.mark.parametrize("code", ENDING, ids=lambda code: code.__name__)
async def test_the_recorded_code(redis_url: str, namespace: str, code: Code) -> None:
    flow = Deployed(code)
    async with running(redis_url, namespace, flow.workflow, child) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.reached(handle, "failed" if code is fails else "completed")
        history = await history_of(at.client, handle)

    def replayed(flow: Deployed, ctx: WorkflowContext) -> Any:
        flow.new.set()
        return code(flow, ctx)

    assert diverged(history, replayed) is None


async def stateful(flow: Deployed, ctx: WorkflowContext) -> Any:
    async def count() -> None:
        ctx.state.count += 1

    await ctx.step.run("count", count)
    ctx.state.count += 10


def _hook(ctx: WorkflowContext, hook: HookContext) -> HookResult:
    return HookResult.continue_with(modified_output={"hooked": hook.current_output})


async def test_state_and_hooks(redis_url: str, namespace: str) -> None:
    options: dict[str, Any] = {"state_schema": Tally, "on_end": _hook}
    flow = Deployed(stateful, **options)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        assert await at.result(handle) == {"hooked": None}
        history = await history_of(at.client, handle)
    assert diverged(history, stateful, **options) is None

    async def counts_more(flow: Deployed, ctx: WorkflowContext) -> Any:
        await stateful(flow, ctx)
        ctx.state.count += 100

    found = diverged(history, counts_more, **options)
    assert found is not None and found.kind == "result"
    assert found.message == (
        'the code leaves ctx.state as {"count": 111}, but the execution left it as {"count": 11}'
    )


# --- changed code -----------------------------------------------------------------------------------


async def approves(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    answer = await ctx.step.suspend("approval")
    if answer["data"]["approved"]:
        await flow.step(ctx, "pay")
    return "done"


async def renamed_step(flow: Deployed, ctx: WorkflowContext) -> Any:
    await ctx.step.run("verify", flow._note, "verify")
    await ctx.step.suspend("approval")


async def new_step(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    await ctx.step.run("fraud", flow._note, "fraud")
    await ctx.step.suspend("approval")


async def new_wait(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    await ctx.step.wait_for("pause", 1)
    await ctx.step.suspend("approval")


async def new_child(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    await ctx.step.invoke_and_wait("child", child, 1)
    await ctx.step.suspend("approval")


async def new_race(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    await ctx.step.first_of("race", {"a": ctx.step.suspend("other")})
    await ctx.step.suspend("approval")


async def renamed_suspension(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    await ctx.step.suspend("review")


async def dropped_suspension(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    return "done"


async def another_kind(flow: Deployed, ctx: WorkflowContext) -> Any:
    await ctx.step.suspend("check")


async def raising(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    raise KeyError("gone")


async def hanging(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    await asyncio.get_running_loop().create_future()


async def polling(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    while True:  # noqa: ASYNC110 - it is about code that polls
        await asyncio.sleep(1)


async def other_result(flow: Deployed, ctx: WorkflowContext) -> Any:
    await approves(flow, ctx)
    return "paid"


async def later_step(flow: Deployed, ctx: WorkflowContext) -> Any:
    await approves(flow, ctx)
    await ctx.step.run("mail", flow._note, "mail")
    return "done"


async def skips_pay(flow: Deployed, ctx: WorkflowContext) -> Any:
    await flow.step(ctx, "check")
    await ctx.step.suspend("approval")
    return "done"


CHECK = "the history goes on with the step 'check'"
OPEN = "the history goes on with the open suspension 'approval'"
DECISION = "the decision on 'approval' by ann"
UNREACHED = "the decision on 'approval' not reached"
WAITING = {
    renamed_step: ("call", "verify", 1, f"the code calls 'verify' at LINE, but {CHECK}"),
    new_step: ("call", "fraud", 2, f"the code calls 'fraud' at LINE, but {OPEN}"),
    new_wait: ("call", "pause", 2, f"the code calls 'pause' at LINE, but {OPEN}"),
    new_child: ("call", "child", 2, f"the code calls 'child' at LINE, but {OPEN}"),
    new_race: ("call", "other", 2, f"the code calls 'other' at LINE, but {OPEN}"),
    renamed_suspension: ("call", "review", 2, f"the code calls 'review' at LINE, but {OPEN}"),
    raising: (
        *("outcome", None, 2),
        "the code fails at LINE with KeyError: 'gone', but the execution waits for 'approval'",
    ),
    hanging: (
        *("unreached", "approval", 2),
        "the code stops at LINE and does not reach the open suspension 'approval'",
    ),
    polling: (
        *("unreached", "approval", 3),
        "the code stops at LINE and does not reach the open suspension 'approval'",
    ),
}
COMPLETED = {
    new_step: (
        "call",
        "fraud",
        2,
        f"the code calls 'fraud' at LINE, but the history goes on with {DECISION}",
    ),
    new_race: (
        "call",
        "other",
        2,
        f"the code calls 'other' at LINE, but the history goes on with {DECISION}",
    ),
    later_step: ("call", "mail", 2, "the code calls 'mail' at LINE, but the execution completed without it"),
    other_result: ("result", None, 0, 'the code returns "paid", but the execution returned "done"'),
    raising: (
        *("outcome", None, 2),
        f"the code fails at LINE with KeyError: 'gone' ({UNREACHED}), but the execution completed",
    ),
    skips_pay: ("unreached", "pay", 2, "the code returns after LINE and does not reach the step 'pay'"),
}


@pytest.mark.parametrize("status", ["waiting", "completed"])
async def test_changed_code(redis_url: str, namespace: str, status: str) -> None:
    flow = Deployed(approves)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        if status == "completed":
            await at.client.resume(
                suspend_execution_id=handle.id,
                suspend_step_key="approval",
                data={"approved": True},
                resumed_by="ann",
            )
            await at.result(handle)
        history = await history_of(at.client, handle)
    assert diverged(history, approves) is None
    for code, (kind, step_key, offset, message) in (WAITING if status == "waiting" else COMPLETED).items():
        found = diverged(history, code)
        assert found is not None, code
        line = _line(code, offset)
        assert found.message == message.replace("LINE", line)
        assert (found.kind, found.step_key) == (kind, step_key)
        assert found.where == (line if offset else "")
        assert str(found) == f"deployed {handle.id}: {found.message}"


async def test_a_key_of_another_kind(redis_url: str, namespace: str) -> None:
    flow = Deployed(approves)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        history = await history_of(at.client, handle)
    found = diverged(history, another_kind)
    assert found is not None and found.kind == "outcome"
    assert "StepKeyError: step key 'check' at test_replay.py:" in found.message
    assert "is a suspension now, but was journaled as a step" in found.message


async def test_a_dropped_decision(redis_url: str, namespace: str) -> None:
    """The execution is stuck with the dropped decision, and code that reaches it does not diverge."""
    flow = Deployed(approves)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        flow.deploy(dropped_suspension)
        await at.answer(handle, "approval", {"approved": True})
        await stuck(at, handle)
        history = await history_of(at.client, handle)
    assert history.status == "stuck"
    assert diverged(history, approves) is None
    found = diverged(history, dropped_suspension)
    assert found is not None and found.kind == "unreached"
    assert found.message.endswith(" and does not reach the decision on 'approval'")
    assert found.message.startswith("the code returns after tests/harness/deployments.py:")


async def test_a_patch_is_no_divergence(redis_url: str, namespace: str) -> None:
    async def patched(flow: Deployed, ctx: WorkflowContext) -> Any:
        if await ctx.patched("fraud"):
            await flow.step(ctx, "fraud")
        return await approves(flow, ctx)

    flow = Deployed(approves)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        before = await history_of(at.client, handle)
        flow.deploy(patched)
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        assert flow.effects == ["fraud", "check"]
        after = await history_of(at.client, handle)
    assert diverged(before, patched) is None
    assert diverged(after, patched) is None
    found = diverged(after, approves)
    assert found is not None and found.step_key == "fraud"


async def test_another_failure(redis_url: str, namespace: str) -> None:
    flow = Deployed(fails)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.reached(handle, "failed")
        history = await history_of(at.client, handle)

    async def fails_otherwise(flow: Deployed, ctx: WorkflowContext) -> Any:
        await flow.step(ctx, "first")
        raise KeyError("no")

    async def completes(flow: Deployed, ctx: WorkflowContext) -> Any:
        await flow.step(ctx, "first")

    found = diverged(history, fails_otherwise)
    assert found is not None and found.kind == "outcome"
    assert found.message.startswith(
        f"the code fails at {_line(fails_otherwise, 2)} with KeyError: 'no', but the execution with "
        "ValueError: an object at <object object at 0x"
    )
    found = diverged(history, completes)
    assert found is not None and found.kind == "outcome"
    assert ", but the execution failed with ValueError: an object at " in found.message


# --- histories that end anywhere --------------------------------------------------------------------


async def test_a_cancelled_execution(redis_url: str, namespace: str) -> None:
    flow = Deployed(approves)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        await at.client.cancel(handle.id)
        history = await history_of(at.client, handle)
    assert history.status == "cancelled"
    assert diverged(history, approves) is None
    found = diverged(history, renamed_step)
    assert found is not None and found.step_key == "verify"


async def test_a_running_execution(redis_url: str, namespace: str) -> None:
    """Its last step has no record yet: that is where the history ends."""

    async def waits(flow: Deployed, ctx: WorkflowContext) -> Any:
        await flow.step(ctx, "first")
        await ctx.step.run("second", flow.new.wait)
        return "done"

    flow = Deployed(waits)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await until(lambda: flow.effects == ["first"])

        async def recorded() -> bool:
            return b"first" in (await at.client.get_history(handle.id)).records

        await until(recorded)
        history = await history_of(at.client, handle)
        flow.new.set()
        await at.result(handle)
    assert history.status == "running"
    assert diverged(history, waits) is None
    assert diverged(history, dropped_suspension) is not None


async def test_several_runs(redis_url: str, namespace: str) -> None:
    """A retry has dropped what failed; the rest is recorded once."""

    async def fails_first(flow: Deployed, ctx: WorkflowContext) -> Any:
        await flow.step(ctx, "first")
        if ctx.run == 1:
            raise ValueError("once")
        return await flow.step(ctx, f"run {ctx.run}")

    flow = Deployed(fails_first, retries=1, retry_delay=0.0)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        assert await at.result(handle) == "run 2"
        history = await history_of(at.client, handle)
    assert history.run == 2
    assert diverged(history, fails_first, retries=1, retry_delay=0.0) is None


async def polls(flow: Deployed, ctx: WorkflowContext) -> Any:
    for page in range(2):
        await flow.step(ctx, f"page {page}")
    ctx.state.count += 1
    if ctx.state.count < 3:
        await ctx.continue_as_new()
    await ctx.step.suspend("last", data={})
    return ctx.state.count


async def polls_once_more(flow: Deployed, ctx: WorkflowContext) -> Any:
    """Its runs are shorter."""
    await flow.step(ctx, "page 0")
    ctx.state.count += 1
    await ctx.continue_as_new()


async def never_ends(flow: Deployed, ctx: WorkflowContext) -> Any:
    for page in range(2):
        await flow.step(ctx, f"page {page}")
    await ctx.continue_as_new()


async def test_an_execution_that_continued_as_new(redis_url: str, namespace: str) -> None:
    """Its history is that of the run it is in."""
    options: dict[str, Any] = {"state_schema": Tally}
    flow = Deployed(polls, **options)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        waiting = await history_of(at.client, handle)
        await at.answer(handle, "last")
        assert await at.result(handle) == 3
        history = await history_of(at.client, handle)
    assert (history.run, history.view["continued_in"]) == (3, 3)
    assert sorted(history.records) == [b"", b"last", b"page 0", b"page 1"]
    for recorded in (waiting, history):
        assert diverged(recorded, polls, **options) is None
    for recorded, how in ((waiting, "continues as new"), (history, "stops")):  # a decision holds it back
        found = diverged(recorded, polls_once_more, **options)
        assert found is not None and (found.kind, found.step_key) == ("unreached", "page 1")
        assert found.message == (
            f"the code {how} at {_line(polls_once_more, 4)} and does not reach the step 'page 1'"
        )
        found = diverged(recorded, never_ends, **options)
        assert found is not None and (found.kind, found.step_key) == ("unreached", "last")


async def test_one_that_is_about_to_continue_as_new(redis_url: str, namespace: str) -> None:
    """A history that ends before that, and code that continues although the execution has completed."""

    async def waits(flow: Deployed, ctx: WorkflowContext) -> Any:
        await flow.step(ctx, "page 0")
        await flow.step(ctx, "page 1")
        await ctx.step.run("last", flow.new.wait)
        return "done"

    async def continues(flow: Deployed, ctx: WorkflowContext) -> Any:
        await flow.step(ctx, "page 0")
        await flow.step(ctx, "page 1")
        await ctx.continue_as_new()

    flow = Deployed(waits)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await until(lambda: flow.effects == ["page 0", "page 1"])

        async def recorded() -> bool:
            return b"page 1" in (await at.client.get_history(handle.id)).records

        await until(recorded)
        history = await history_of(at.client, handle)
        flow.new.set()
        await at.result(handle)
    assert diverged(history, continues) is None, "it may come to that"


async def test_a_paused_execution(redis_url: str, namespace: str) -> None:
    """What failed runs again when it is retried, so the history ends there."""
    flow = Deployed(fails, on_exhausted="pause")
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.reached(handle, "paused")
        history = await history_of(at.client, handle)
    assert history.status == "paused"
    assert diverged(history, fails, on_exhausted="pause") is None
    assert diverged(history, approves) is not None


async def test_a_run_timeout_is_not_the_codes(redis_url: str, namespace: str) -> None:
    flow = Deployed(approves, run_timeout_seconds=0.2)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)
        await at.reached(handle, "failed")
        history = await history_of(at.client, handle)
    assert diverged(history, approves) is None


async def test_a_crash_between_parallel_steps(redis_url: str, namespace: str) -> None:
    """One branch has a record, the other none: nothing is missing."""

    async def parallel(flow: Deployed, ctx: WorkflowContext) -> Any:
        async def behind() -> None:
            await ctx.step.run("slow", flow.new.wait)

        async def ahead() -> None:
            for number in range(3):
                await flow.step(ctx, f"fast{number}")

        await asyncio.gather(behind(), ahead())

    flow = Deployed(parallel)
    async with running(redis_url, namespace, flow.workflow) as at:
        handle = await flow.workflow.invoke(at.client)

        async def recorded() -> bool:
            return b"fast2" in (await at.client.get_history(handle.id)).records

        await until(recorded)
        history = await history_of(at.client, handle)
        flow.new.set()
        await at.result(handle)
    assert diverged(history, parallel) is None
