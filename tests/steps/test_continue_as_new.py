"""`ctx.continue_as_new`: a run ends, and the next one has the same id, another input and an empty journal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from polos_redis import (
    ExecutionFailedError,
    HookContext,
    HookResult,
    IdempotencyConflictError,
    InvalidInputError,
    NotContinuableError,
    NotStorableError,
    PolosClient,
    PolosError,
    Workflow,
    WorkflowContext,
    WorkflowState,
    events,
)
from tests.harness.running import Running, journal_of, running, soon, until

Flow = Workflow[Any, Any]


class Page(BaseModel):
    number: int = Field(ge=0)


class Tally(WorkflowState):
    total: int = 0


def flow(body: Callable[..., Any], **options: Any) -> Flow:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__.strip("_"), **options)


async def _leaf(ctx: WorkflowContext, number: int) -> int:
    return number


leaf = flow(_leaf)


async def failure(at: Running, workflow: Flow, input: Any = None) -> ExecutionFailedError:
    with pytest.raises(ExecutionFailedError) as raised:
        await at.result(await workflow.invoke(at.client, input))
    return raised.value


@pytest.mark.failure(55)
async def test_a_poller_goes_through_its_runs(redis_url: str, namespace: str) -> None:
    ran: list[tuple[int, int]] = []
    seen: list[Any] = []

    async def _polls(ctx: WorkflowContext, page: Page) -> int:
        seen.append((ctx.run, type(page), page.number))
        for number in range(3):
            await ctx.step.run(f"poll {number}", ran.append, (page.number, number))
        await ctx.step.wait_for("pause", seconds=0.01)
        ctx.state.total += 1
        if page.number < 4:
            await ctx.continue_as_new({"number": page.number + 1})
            raise AssertionError("code after it does not run")
        return int(ctx.state.total)

    polls = flow(_polls, state_schema=Tally)
    async with running(redis_url, namespace, polls) as at:
        handle = await polls.invoke(at.client, Page(number=0))
        assert await at.result(handle) == 5, "its state is carried on"
        found = await at.client.get_execution(handle.id)
        kinds = [one.event_type for one in await at.events(handle)]
    assert ran == [(page, number) for page in range(5) for number in range(3)]
    assert list(dict.fromkeys(seen)) == [(page + 1, Page, page) for page in range(5)]
    assert (found.run, found.continued_in, found.records) == (5, 5, 4)
    assert (found.input, found.state) == ({"number": 4}, {"total": 5})
    assert [one.step_key for one in found.steps] == ["poll 0", "poll 1", "poll 2"]
    assert found.started_at is not None and found.created_at is not None
    assert found.started_at > found.created_at
    assert kinds.count("workflow_continue") == 4 and kinds[-1] == "workflow_finish"
    assert kinds.count("workflow_start") == 5


async def test_the_log_of_its_runs_is_in_order(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker is given the next run before it has heard that this one has ended."""
    caplog.set_level(logging.INFO)

    async def _turns(ctx: WorkflowContext, left: int) -> None:
        await ctx.step.uuid("number")
        if left:
            await ctx.continue_as_new(left - 1)

    async def _breaks(ctx: WorkflowContext) -> int:
        if ctx.run < 20:
            raise LookupError(ctx.run)
        return ctx.run

    turns, breaks = flow(_turns), flow(_breaks, retries=19, retry_delay=0)
    async with running(redis_url, namespace, turns, breaks) as at:
        continued, failed = await turns.invoke(at.client, 19), await breaks.invoke(at.client)
        await at.result(continued)
        assert await at.result(failed) == 20

        def lines(of: Any) -> list[tuple[str, int | None]]:
            found = [vars(one) for one in caplog.records if vars(one).get("execution") == of.id]
            return [(one["message"], one.get("run")) for one in found]

        await until(lambda: "finish" in dict(lines(continued)) and "finish" in dict(lines(failed)))
        for handle, then in ((continued, "continued as new"), (failed, "failed, continues as a new run")):
            expected = [("start", 1)]
            for run in range(2, 21):
                expected += [(then, run), ("start", run)]
            assert lines(handle) == [*expected, ("finish", None)]


async def test_code_sees_a_cancellation_and_no_exception(redis_url: str, namespace: str) -> None:
    seen: list[str] = []

    @flow
    async def continues(ctx: WorkflowContext, number: int) -> str:
        if number:
            return "done"
        try:
            try:
                await ctx.continue_as_new(1)
            except Exception:
                seen.append("caught")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("finally")
        seen.append("went on")
        return "not continued"

    async with running(redis_url, namespace, continues) as at:
        assert await at.result(await continues.invoke(at.client, 0)) == "done"
    assert seen == ["cancelled", "finally"]


async def test_code_that_swallows_the_cancellation_changes_nothing(redis_url: str, namespace: str) -> None:
    ran: list[str] = []

    @flow
    async def stubborn(ctx: WorkflowContext, number: int) -> str:
        if number:
            return "done"
        try:
            await ctx.continue_as_new(1)
        except asyncio.CancelledError:
            await ctx.step.run("more", ran.append, "more")
        return "not continued"

    async with running(redis_url, namespace, stubborn) as at:
        assert await at.result(await stubborn.invoke(at.client, 0)) == "done"
    assert ran == []


async def test_in_a_task_of_the_code_and_in_a_shield(redis_url: str, namespace: str) -> None:
    @flow
    async def in_a_task(ctx: WorkflowContext, number: int) -> str:
        if number == 0:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.continue_as_new(1))
        if number == 1:
            await asyncio.shield(ctx.continue_as_new(2))
        return f"done {number}"

    async with running(redis_url, namespace, in_a_task) as at:
        assert await at.result(await in_a_task.invoke(at.client, 0)) == "done 2"


@pytest.mark.promise("continue as new")
async def test_whoever_waits_gets_the_last_runs_result(redis_url: str, namespace: str) -> None:
    """A parent, a handle that awaited it before, and one that comes later. The deadline stays."""

    @flow
    async def counts(ctx: WorkflowContext, number: int) -> int:
        await ctx.step.suspend(f"go {number}", data={})
        if number < 2:
            await ctx.continue_as_new(number + 1)
        return number

    @flow
    async def waits(ctx: WorkflowContext) -> Any:
        return await ctx.step.invoke_and_wait("kid", counts, 0, run_timeout_seconds=3600)

    async with running(redis_url, namespace, counts, waits) as at:
        handle = await waits.invoke(at.client)
        early = asyncio.create_task(handle.result(timeout=60))
        await at.parked(handle)
        (child,) = (await at.client.get_execution(handle.id)).children
        kid = at.client.get_handle(child.id)
        timers = (await at.client.store()).partitions.prefix(handle.id) + b"timers"
        due = await (await at.client.store()).wire.call("ZSCORE", timers, f"t{child.id}")
        for number in range(3):
            await at.opened(kid, f"go {number}")
            assert await (await at.client.store()).wire.call("ZSCORE", timers, f"t{child.id}") == due
            await at.answer(kid, f"go {number}")
        assert await early == await at.result(handle) == await at.result(kid) == 2


async def test_a_step_key_may_be_used_again(redis_url: str, namespace: str) -> None:
    """So may a child's, a publication's and an idempotency key's; each run has its own."""
    keys: list[str] = []

    @flow
    async def repeats(ctx: WorkflowContext, number: int) -> Any:
        keys.append(ctx.step.idempotency_key("charge"))
        child = await ctx.step.invoke("stray", leaf, number)
        value = await ctx.step.invoke_and_wait("kid", leaf, number)
        event = await ctx.step.publish_event("tell", topic="news", data=number)
        asked = await ctx.step.suspend("ask", data=number)
        assert await ctx.patched("it")
        if number == 0:
            await ctx.continue_as_new(1)
        return [child.id, value, event, asked["data"]]

    async with running(redis_url, namespace, repeats, leaf) as at:
        handle = await repeats.invoke(at.client, 0)
        firsts = []
        for number in range(2):

            async def asks(number: int = number) -> bool:
                shown = (await at.client.get_execution(handle.id)).open_suspensions
                return [one.data for one in shown] == [number]

            await until(asks)
            firsts.append({one.id for one in (await at.client.get_execution(handle.id)).children})
            await at.answer(handle, "ask", f"yes {number}")
        _, value, _, asked = await at.result(handle)
        assert (value, asked) == (1, "yes 1")
        assert not firsts[0] & firsts[1]

        async def published() -> list[Any]:
            found = []
            async for event in events.stream_topic(at.client, "news", last_event_id="0"):
                found.append(event.data)
                if len(found) == 2:
                    break
            return found

        assert await soon(published()) == [0, 1]
        trail = await at.client.audit(handle.id)
        assert [one.data for one in trail] == ["yes 0", "yes 1"], "the audit has both"
    assert len(set(keys)) == 2, "the same at each replay, and another in the next run"


async def test_an_early_answer_waits_for_the_run_that_asks(redis_url: str, namespace: str) -> None:
    @flow
    async def asks_later(ctx: WorkflowContext, number: int) -> Any:
        await ctx.step.suspend(f"go {number}", data={})
        if number == 0:
            await ctx.continue_as_new(1)
        return (await ctx.step.suspend("ok", data={}))["data"]

    async with running(redis_url, namespace, asks_later) as at:
        handle = await asks_later.invoke(at.client, 0)
        await at.opened(handle, "go 0")
        await at.client.resume(
            suspend_execution_id=handle.id, suspend_step_key="ok", data="early", early=True
        )
        for number in range(2):
            await at.opened(handle, f"go {number}")
            await at.answer(handle, f"go {number}")
        assert await at.result(handle) == "early"


async def test_its_idempotency_key_still_finds_it(redis_url: str, namespace: str) -> None:
    @flow
    async def keyed(ctx: WorkflowContext, number: int) -> int:
        if number < 9:
            await ctx.continue_as_new(9)
        return number

    async with running(redis_url, namespace, keyed) as at:
        handle = await keyed.invoke(at.client, 1, idempotency_key="the-loop")
        assert await at.result(handle) == 9
        assert (await keyed.invoke(at.client, 1, idempotency_key="the-loop")).id == handle.id
        with pytest.raises(IdempotencyConflictError, match="with a different request"):
            await keyed.invoke(at.client, 2, idempotency_key="the-loop")


async def test_hooks_start_each_run_and_end_the_last(redis_url: str, namespace: str) -> None:
    called: list[str] = []

    def first(ctx: WorkflowContext, hook: HookContext) -> HookResult:
        called.append(f"start {hook.current_payload}")
        return HookResult.continue_with()

    def last(ctx: WorkflowContext, hook: HookContext) -> HookResult:
        called.append(f"end {hook.current_output}")
        return HookResult.continue_with()

    async def _hooked(ctx: WorkflowContext, number: int) -> int:
        if number < 2:
            await ctx.continue_as_new(number + 1)
        return number

    hooked = flow(_hooked, on_start=first, on_end=last)
    async with running(redis_url, namespace, hooked) as at:
        assert await at.result(await hooked.invoke(at.client, 0)) == 2
    assert called == ["start 0", "start 1", "start 2", "end 2"]


async def test_its_own_retries_are_counted_from_zero(redis_url: str, namespace: str) -> None:
    runs: list[int] = []

    async def _shaky(ctx: WorkflowContext, number: int) -> int:
        runs.append(ctx.run)
        if len(runs) % 2:
            raise OSError("once in each")
        if number < 2:
            await ctx.continue_as_new(number + 1)
        return number

    shaky = flow(_shaky, retries=1, retry_delay=0.0)
    async with running(redis_url, namespace, shaky) as at:
        assert await at.result(await shaky.invoke(at.client, 0)) == 2
    assert runs == [1, 2, 3, 4, 5, 6]


async def test_a_retry_goes_on_in_the_run_that_failed(redis_url: str, namespace: str) -> None:
    ran: list[int] = []
    broken = [True]

    @flow
    async def fails_later(ctx: WorkflowContext, number: int) -> int:
        await ctx.step.run("it", ran.append, number)
        if number == 0:
            await ctx.continue_as_new(1)
        if broken:
            raise ValueError("not yet")
        return number

    async with running(redis_url, namespace, fails_later) as at:
        handle = await fails_later.invoke(at.client, 0)
        with pytest.raises(ExecutionFailedError):
            await at.result(handle)
        broken.clear()
        await at.client.retry(handle.id)
        assert await at.result(handle) == 1
        found = await at.client.get_execution(handle.id)
    assert ran == [0, 1]
    assert (found.run, found.continued_in) == (3, 2)


async def test_a_fork_begins_with_the_last_run(redis_url: str, namespace: str) -> None:
    """It has the children of that run from there, and starts others than it did."""

    @flow
    async def works(ctx: WorkflowContext, number: int) -> list[Any]:
        values = [await ctx.step.invoke_and_wait("kid", leaf, number)]
        if number == 0:
            await ctx.continue_as_new(1)
        await ctx.step.uuid("later")
        values.append(await ctx.step.invoke_and_wait("other", leaf, number))
        return values

    async with running(redis_url, namespace, works, leaf) as at:
        handle = await works.invoke(at.client, 0)
        assert await at.result(handle) == [1, 1]
        fork = await at.client.fork(handle.id, from_step="later")
        assert await at.result(fork) == [1, 1]
        first, again = [await at.client.get_execution(one.id) for one in (handle, fork)]
    ids, forked = ({one.step_key: one.id for one in found.children} for found in (first, again))
    assert ids["kid"] == forked["kid"] and ids["other"] != forked["other"]
    assert (first.continued_in, again.continued_in) == (2, None)


# --- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("input", "error"),
    [
        ({"number": -1}, InvalidInputError),
        ("no page", InvalidInputError),
        ({"number": "x"}, InvalidInputError),
    ],
)
async def test_an_invalid_input_is_refused_at_the_call(
    redis_url: str, namespace: str, input: Any, error: type[Exception]
) -> None:
    @flow
    async def validates(ctx: WorkflowContext, page: Page) -> str:
        await ctx.step.uuid("first")
        with pytest.raises(error, match=r"number|Page|dict"):
            await ctx.continue_as_new(input)
        return f"run {ctx.run}"

    async with running(redis_url, namespace, validates) as at:
        handle = await validates.invoke(at.client, Page(number=1))
        assert await at.result(handle) == "run 1"
        assert len(await journal_of(await at.client.store(), handle.id)) > 1


async def test_what_can_not_be_stored_is_refused(redis_url: str, namespace: str) -> None:
    @flow
    async def stores(ctx: WorkflowContext, input: Any) -> str:
        with pytest.raises(NotStorableError):
            await ctx.continue_as_new(asyncio.Lock())
        return "unchanged"

    async with running(redis_url, namespace, stores) as at:
        assert await at.result(await stores.invoke(at.client, 1)) == "unchanged"


async def _inside(ctx: WorkflowContext) -> None:
    await ctx.continue_as_new("next")


async def _slow() -> None:
    await asyncio.sleep(3600)


async def _beside(ctx: WorkflowContext, call: Any, opened: Callable[[], bool]) -> None:
    """Continue as new while another task is in a call."""
    task = asyncio.create_task(call)
    while not opened():  # noqa: ASYNC110 - until the call has begun
        await asyncio.sleep(0)
    try:
        await ctx.continue_as_new("next")
    finally:
        task.cancel()


REFUSED: dict[str, tuple[Callable[[WorkflowContext], Any], str]] = {
    "suspension": (
        lambda ctx: _beside(
            ctx, ctx.step.suspend("ok", data={}), lambda: bool(ctx._activation.parking.waits)
        ),
        "the wait 'ok' is still open: await it, or cancel it, before",
    ),
    "delay": (
        lambda ctx: _beside(
            ctx, ctx.step.wait_for("ok", hours=1), lambda: bool(ctx._activation.parking.waits)
        ),
        "the wait 'ok' is still open: await it, or cancel it, before",
    ),
    "child": (
        lambda ctx: _beside(
            ctx, ctx.step.invoke_and_wait("ok", "nobody"), lambda: bool(ctx._activation.parking.waits)
        ),
        "the wait 'ok' is still open: await it, or cancel it, before",
    ),
    "step": (
        lambda ctx: _beside(ctx, ctx.step.run("ok", _slow), lambda: bool(ctx._activation.events.running)),
        "the step 'ok' still runs: await it, or cancel it, before",
    ),
    "opening": (
        lambda ctx: _beside(ctx, ctx.step.suspend("ok", data={}), lambda: ctx._activation.in_flight > 0),
        "another call of ctx has not returned: await it, or cancel it, before",
    ),
    "race": (
        lambda ctx: ctx.step.first_of(
            "race", {"a": ctx.continue_as_new("next"), "b": ctx.step.wait_for("w", hours=1)}
        ),
        "it was called in a branch of the race 'race': call it after the race",
    ),
    "inside a step": (
        lambda ctx: ctx.step.run("ok", _inside, ctx, max_retries=0),
        "it was called inside a step's function: call it in the workflow's own code",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_has_not_ended_is_named(redis_url: str, namespace: str, what: str) -> None:
    call, why = REFUSED[what]

    @flow
    async def refused(ctx: WorkflowContext, input: Any) -> str:
        assert input == "first"
        try:
            await call(ctx)
        except PolosError as error:
            return str(error)
        return "not refused"

    async with running(redis_url, namespace, refused) as at:
        handle = await refused.invoke(at.client, "first")
        said = await at.result(handle)
        assert "ctx.continue_as_new at test_continue_as_new.py:" in said
        assert said.endswith(f" can't end this run: {why}")
        assert (await at.client.get_execution(handle.id)).run == 1


async def test_uncaught_it_fails_the_execution(redis_url: str, namespace: str) -> None:
    @flow
    async def forgets(ctx: WorkflowContext) -> None:
        task = asyncio.create_task(ctx.step.suspend("ok", data={}))
        await asyncio.sleep(0.05)
        await ctx.continue_as_new()
        await task

    async with running(redis_url, namespace, forgets) as at:
        error = await failure(at, forgets)
    assert error.error_type == "NotContinuableError"


async def test_after_a_refusal_it_may_be_called_again(redis_url: str, namespace: str) -> None:
    @flow
    async def tries_twice(ctx: WorkflowContext, number: int) -> int:
        if number == 0:
            task = asyncio.create_task(ctx.step.suspend("ok", data={}))
            await asyncio.sleep(0.05)
            with pytest.raises(NotContinuableError):
                await ctx.continue_as_new(1)
            await task
            await ctx.continue_as_new(1)
        return number

    async with running(redis_url, namespace, tries_twice) as at:
        handle = await tries_twice.invoke(at.client, 0)
        await at.opened(handle, "ok")
        await at.answer(handle, "ok")
        assert await at.result(handle) == 1
        kinds = [one.event_type for one in await at.events(handle)]
    assert kinds.count("workflow_start") == 2, "once in each run"


async def test_a_wait_that_the_code_has_cancelled_is_no_obstacle(redis_url: str, namespace: str) -> None:
    @flow
    async def gives_up(ctx: WorkflowContext, number: int) -> int:
        if number == 0:
            try:
                async with asyncio.timeout(0.05):
                    await asyncio.gather(ctx.step.suspend("ok", data={}), asyncio.sleep(3600))
            except TimeoutError:
                await ctx.continue_as_new(1)
        return number

    async with running(redis_url, namespace, gives_up) as at:
        handle = await gives_up.invoke(at.client, 0)
        assert await at.result(handle) == 1
        assert not list(await at.client.list_suspensions())


async def test_a_forgotten_await_is_named(redis_url: str, namespace: str) -> None:
    @flow
    async def forgets_await(ctx: WorkflowContext) -> str:
        ctx.continue_as_new()  # type: ignore[unused-coroutine]
        return "as if nothing were missing"

    async with running(redis_url, namespace, forgets_await) as at:
        error = await failure(at, forgets_await)
    assert error.error_type == "NotAwaitedError"
    assert error.error_message.startswith("ctx.continue_as_new(...) at test_continue_as_new.py:")


async def test_an_error_that_stops_the_execution_is_not_escaped(redis_url: str, namespace: str) -> None:
    @flow
    async def escapes(ctx: WorkflowContext, number: int) -> None:
        for index in range(9):
            try:
                await ctx.step.uuid(f"{index}")
            except PolosError:
                await ctx.continue_as_new(1)

    async with running(redis_url, namespace, escapes, max_journal_records=5) as at:
        error = await failure(at, escapes, 0)
    assert error.error_type == "JournalFullError"


async def test_a_decision_that_the_code_passes_over_holds_it_back(redis_url: str, namespace: str) -> None:
    """Changed code does not get past an accepted answer by starting over."""

    async def asks(ctx: WorkflowContext, number: int) -> Any:
        return await ctx.step.suspend("ok", data={})

    async def starts_over(ctx: WorkflowContext, number: int) -> Any:
        if number == 0:
            await ctx.continue_as_new(1)
        return number

    before: Flow = Workflow(asks, "changed-loop")
    after: Flow = Workflow(starts_over, "changed-loop")
    async with running(redis_url, namespace, before) as at:
        handle = await before.invoke(at.client, 0)
        await at.parked(handle)
    async with PolosClient(redis_url, namespace) as client:
        await client.resume(suspend_execution_id=handle.id, suspend_step_key="ok", data="yes")
    async with running(redis_url, namespace, after) as at:
        at.host.stuck_seconds = 0.2
        await at.reached(at.client.get_handle(handle.id), "stuck")
        found = await at.client.get_execution(handle.id)
        assert found.run == 1 and found.stuck is not None and "'ok'" in found.stuck.message
        await at.client.cancel(handle.id)


async def test_the_log_says_so(redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    @flow
    async def logs(ctx: WorkflowContext, number: int) -> int:
        ctx.logger.info("before the first step of run %d", ctx.run)
        await ctx.step.uuid("it")
        if number == 0:
            await ctx.continue_as_new(1)
        return number

    with caplog.at_level(logging.INFO):
        async with running(redis_url, namespace, logs) as at:
            handle = await logs.invoke(at.client, 0)
            await at.result(handle)
    (continued,) = [one for one in caplog.records if one.getMessage() == "continued as new"]
    assert (continued.execution, continued.workflow, continued.run) == (handle.id, "logs", 2)  # type: ignore[attr-defined]
    said = [one.getMessage() for one in caplog.records if one.name == "polos.workflow"]
    assert said == ["before the first step of run 1", "before the first step of run 2"]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    runs=st.lists(
        st.lists(st.sampled_from(["step", "child", "wait", "race", "event", "stray"]), max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_any_runs_lose_and_repeat_nothing(redis_url: str, namespace: str, runs: list[list[str]]) -> None:
    """Whatever the runs do, each does it once, and nothing of one is seen in the next."""
    ran: list[Any] = []

    async def _any(ctx: WorkflowContext, number: int) -> list[Any]:
        found: list[Any] = []
        for index, what in enumerate(runs[number]):
            key = f"{what} {index}"
            if what == "step":
                await ctx.step.run(key, ran.append, (number, index))
                found.append(number)
            elif what == "child":
                found.append(await ctx.step.invoke_and_wait(key, leaf, number))
            elif what == "stray":
                await ctx.step.invoke(key, leaf, number)
            elif what == "wait":
                await ctx.step.wait_for(key, seconds=0.001)
            elif what == "event":
                await ctx.step.publish_workflow_event(key, data=number)
            else:
                calls = {
                    "quick": ctx.step.uuid(f"{key} quick"),
                    "never": ctx.step.wait_for(f"{key} never", hours=1),
                }
                assert (await ctx.step.first_of(key, calls)).name == "quick"
        if number + 1 < len(runs):
            await ctx.continue_as_new(number + 1)
        return found

    workflow: Flow = Workflow(_any, "any-runs")

    async def once() -> None:
        ran.clear()
        async with running(redis_url, namespace, workflow, leaf) as at:
            handle = await workflow.invoke(at.client, 0)
            result = await at.result(handle)
            published = [one.data for one in await at.events(handle) if one.event_type == "event"]
        last = len(runs) - 1
        assert result == [last for what in runs[last] if what in ("step", "child")]
        assert ran == [(n, i) for n, run in enumerate(runs) for i, what in enumerate(run) if what == "step"]
        assert published == [n for n, run in enumerate(runs) for what in run if what == "event"]

    asyncio.run(once())
