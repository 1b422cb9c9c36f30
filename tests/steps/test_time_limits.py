"""`ctx.step.run(..., timeout=)`: cancelled functions, abandoned threads, a worker with too many."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from polos_redis import StepExecutionError, Workflow, WorkflowContext
from polos_redis.executions.statuses import in_text, sentence
from polos_redis.values.times import utc
from tests.harness.running import running, until


def flow(body: Callable[..., Any]) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


def messages(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno >= logging.WARNING]


LATE = "it did not finish within 0.05 s"


@pytest.mark.parametrize("timeout", [0.05, timedelta(seconds=0.05)])
async def test_an_async_step_is_cancelled_and_retried(
    redis_url: str, namespace: str, timeout: float | timedelta
) -> None:
    ended: list[str] = []

    async def slow() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return "never"

    @flow
    async def waits(ctx: WorkflowContext) -> tuple[str, str, int]:
        try:
            await ctx.step.run("slow", slow, max_retries=1, base_delay=0, timeout=timeout)
        except StepExecutionError as error:
            return error.error_type, error.error_message, error.attempts
        raise AssertionError("it can't succeed")

    async with running(redis_url, namespace, waits) as at:
        assert await at.result(await waits.invoke(at.client)) == ("TimeoutError", LATE, 2)
    assert ended == ["cancelled", "cancelled"]


@pytest.mark.parametrize("in_thread", [True, False])
async def test_a_step_within_its_limit_is_like_any_other(
    redis_url: str, namespace: str, in_thread: bool
) -> None:
    def sync(word: str) -> str:
        return word

    async def in_loop(word: str) -> str:
        return word

    def fails() -> None:
        raise TimeoutError("of its own")

    @flow
    async def quick(ctx: WorkflowContext) -> list[str]:
        function: Any = sync if in_thread else in_loop
        word = await ctx.step.run("word", function, "word", timeout=30)
        made = await ctx.step.run("coroutine", lambda: in_loop("made in a thread"), timeout=30)
        try:
            await ctx.step.run("fails", fails, timeout=30, max_retries=0)
        except StepExecutionError as error:
            return [word, made, error.error_message]
        return []

    async with running(redis_url, namespace, quick) as at:
        assert await at.result(await quick.invoke(at.client)) == ["word", "made in a thread", "of its own"]


async def test_a_cancelled_call_is_no_timeout(redis_url: str, namespace: str) -> None:
    release = threading.Event()

    @flow
    async def gives_up(ctx: WorkflowContext) -> str:
        try:
            async with asyncio.timeout(0.05):
                await ctx.step.run("slow", release.wait, timeout=3600)
        except TimeoutError:
            release.set()
        return "gave up"

    async with running(redis_url, namespace, gives_up) as at:
        assert await at.result(await gives_up.invoke(at.client)) == "gave up"
        assert at.host.abandoned == 0


async def test_a_sync_step_is_retried_when_its_thread_has_ended(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    release, attempts = threading.Event(), list[int]()
    running_now, most = 0, 0

    def slow() -> str:
        nonlocal running_now, most
        attempts.append(len(attempts) + 1)
        running_now += 1
        most = max(most, running_now)
        try:
            if len(attempts) == 1:
                release.wait()
        finally:
            running_now -= 1
        return f"attempt {len(attempts)}"

    @flow
    async def retried(ctx: WorkflowContext) -> str:
        return await ctx.step.run("slow", slow, base_delay=0, timeout=0.05)

    async with running(redis_url, namespace, retried) as at:
        handle = await retried.invoke(at.client)
        await until(lambda: at.host.abandoned == 1)
        assert attempts == [1]
        said = "step timed out, its thread is abandoned, is retried when that has ended"
        (record,) = [one for one in caplog.records if one.getMessage() == said]
        assert (record.step, record.attempt, record.seconds) == ("slow", 1, 0.05)  # type: ignore[attr-defined]

        async def told() -> bool:
            (view,) = await at.client.list_executions()
            return "timed out" in in_text(sentence(view))

        await until(told)
        view = await at.client.get_execution(handle.id)
        (step,) = view.running_steps
        assert (step.step_key, step.attempt) == ("slow", 1)
        assert step.timed_out_at is not None and step.timed_out_at > step.started_at
        assert in_text(sentence(view)) == (
            "running slow, attempt 1 timed out, waiting for its thread to end "
            f"since {utc(step.timed_out_at)}, on worker {at.worker.worker_id}"
        )
        release.set()
        assert await at.result(handle) == "attempt 2"
        await until(lambda: at.host.abandoned == 0)
    assert (attempts, most) == ([1, 2], 1)


async def test_retry_abandoned_does_not_wait_for_the_thread(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    release, attempts = threading.Event(), list[int]()

    def slow() -> str:
        attempts.append(len(attempts) + 1)
        if len(attempts) == 1:
            release.wait()
            return "late"
        return "in time"

    @flow
    async def side_by_side(ctx: WorkflowContext) -> str:
        return await ctx.step.run("slow", slow, base_delay=0, timeout=0.5, retry_abandoned=True)

    async with running(redis_url, namespace, side_by_side, concurrency=2) as at:
        assert await at.result(await side_by_side.invoke(at.client)) == "in time"
        assert at.host.abandoned == 1
        release.set()
        await until(lambda: at.host.abandoned == 0)
    assert "step timed out, its thread is abandoned" in messages(caplog)


async def test_the_last_attempt_fails_at_once_and_does_not_keep_the_execution_from_parking(
    redis_url: str, namespace: str
) -> None:
    release = threading.Event()

    @flow
    async def asks_after(ctx: WorkflowContext) -> str:
        try:
            await ctx.step.run("slow", release.wait, max_retries=0, timeout=0.05)
        except StepExecutionError as error:
            await ctx.step.suspend("ask", data={"error": error.error_message})
            return error.error_message
        return "never"

    async with running(redis_url, namespace, asks_after) as at:
        handle = await asks_after.invoke(at.client)
        await at.parked(handle)
        assert at.host.abandoned == 1
        await at.answer(handle, "ask")
        assert await at.result(handle) == LATE
        release.set()


async def test_a_step_that_waits_for_a_thread_gets_that_of_an_abandoned_one(
    redis_url: str, namespace: str
) -> None:
    release = threading.Event()

    @flow
    async def in_line(ctx: WorkflowContext) -> list[str]:
        hangs = ctx.step.run("hangs", release.wait, max_retries=0, timeout=0.05)
        waits = ctx.step.run("waits", str, "its turn")
        failed, turn = await asyncio.gather(hangs, waits, return_exceptions=True)
        return [type(failed).__name__, str(turn)]

    async with running(redis_url, namespace, in_line, concurrency=1) as at:
        assert await at.result(await in_line.invoke(at.client)) == ["StepExecutionError", "its turn"]
        release.set()


async def test_a_worker_with_too_many_abandoned_threads_reads_no_more(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, once; what it runs goes on, in other threads."""
    release, go_on = [threading.Event(), threading.Event()], asyncio.Event()

    @flow
    async def hangs(ctx: WorkflowContext, number: int) -> str:
        try:
            await ctx.step.run("hang", release[number].wait, max_retries=0, timeout=0.05)
        except StepExecutionError:
            await ctx.step.run("wait", go_on.wait)
            return await ctx.step.run("next", str, number)
        return "never"

    @flow
    async def abandoned_then(ctx: WorkflowContext) -> int:
        return await ctx.step.run("sync", lambda: at.host.abandoned)

    async with running(redis_url, namespace, hangs, abandoned_then, concurrency=2) as at:
        handles = [await hangs.invoke(at.client, number) for number in range(2)]
        await until(lambda: at.host.abandoned == 2)
        assert sum(message.startswith("reading stops: as many") for message in messages(caplog)) == 1
        go_on.set()
        assert [await at.result(handle) for handle in handles] == ["0", "1"]
        last = await abandoned_then.invoke(at.client)
        for _ in range(50):  # round trips in which a worker with free slots would have run it
            assert await last.status() == "queued"
        release[0].set()
        assert await at.result(last) == 1
        assert any(message.startswith("reading goes on") for message in messages(caplog))
        release[1].set()
        await until(lambda: at.host.abandoned == 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"timeout": 0},
            "step 'it': timeout must be a positive number of seconds, a timedelta or None, not 0",
        ),
        ({"timeout": -1.0}, "step 'it': timeout must be a positive number of seconds"),
        ({"timeout": True}, "step 'it': timeout must be a positive number of seconds"),
        ({"timeout": "5"}, "step 'it': timeout must be a positive number of seconds"),
        ({"timeout": float("nan")}, "step 'it': timeout must be a positive number of seconds"),
        ({"timeout": 1, "retry_abandoned": 1}, "step 'it': retry_abandoned must be True or False, not 1"),
        ({"retry_abandoned": True}, "step 'it': retry_abandoned=True needs a timeout="),
    ],
)
async def test_a_limit_that_is_none_is_refused(
    redis_url: str, namespace: str, options: dict[str, Any], message: str
) -> None:
    @flow
    async def refused(ctx: WorkflowContext) -> str:
        with pytest.raises(ValueError) as raised:  # noqa: PT011 # its message is compared
            await ctx.step.run("it", str, **options)
        return str(raised.value)

    async with running(redis_url, namespace, refused) as at:
        assert (await at.result(await refused.invoke(at.client))).startswith(message)
