"""`ctx.step.heartbeat` and `last_progress`: who sees the progress of a step, and how often it is written."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import (
    ExecutionHandle,
    PolosClient,
    StepExecutionError,
    Workflow,
    WorkflowContext,
    apikeys,
    events,
)
from polos_redis.results import RunningStep
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.lifecycle_events import StepAttempt
from polos_redis.runtime.progress import MOST_BYTES, MOST_STEPS, WRITE_SECONDS, Progress
from polos_redis.runtime.steps import run
from polos_redis.values import codec
from tests.harness.command import Command
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import reporting
from tests.harness.running import Running, running, until
from tests.harness.serving import serving
from tests.harness.visiting import visiting


def flow(body: Callable[..., Any]) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


async def reported(client: PolosClient, handle: ExecutionHandle[Any], progress: Any) -> RunningStep:
    """The only running step, once people see that it has reported this."""
    found: list[RunningStep] = []

    async def there() -> bool:
        found[:] = (await client.get_execution(handle.id)).running_steps
        return [one.progress for one in found] == [progress]

    await until(there, f"the progress {progress!r}")
    return found[0]


# --- who sees it ------------------------------------------------------------------------


@pytest.mark.parametrize("in_thread", [True, False])
async def test_people_and_followers_see_the_progress_of_a_running_step(
    redis_url: str, namespace: str, in_thread: bool
) -> None:
    gates = [threading.Event(), threading.Event()]

    def sync(ctx: WorkflowContext) -> str:
        for done, gate in enumerate(gates):
            ctx.step.heartbeat({"done": done})
            gate.wait()
        return "all"

    async def in_loop(ctx: WorkflowContext) -> str:
        return await asyncio.to_thread(sync, ctx)

    @flow
    async def imports(ctx: WorkflowContext) -> str:
        return await ctx.step.run("import", sync if in_thread else in_loop, ctx)

    async with running(redis_url, namespace, imports) as at:
        handle = await imports.invoke(at.client)
        seen: list[Any] = []

        async def follow() -> None:
            async for event in events.stream_workflow(at.client, imports.id, handle.id):
                seen.append((event.event_type, event.data))  # noqa: PERF401 - it is read meanwhile

        following = asyncio.create_task(follow())
        await until(lambda: any(kind == "step_start" for kind, _ in seen), "the step's start")
        for done, gate in enumerate(gates):
            step = await reported(at.client, handle, {"done": done})
            assert (step.step_key, step.attempt) == ("import", 1)
            assert step.progress_at is not None and step.progress_at >= step.started_at
            (listed,) = await at.client.list_executions(status="running")
            assert listed.running_steps[0].progress == {"done": done}
            gate.set()
        assert await at.result(handle) == "all"
        await following
        assert [data for kind, data in seen if kind == "step_progress"][-1] == {
            "step_key": "import",
            "attempt": 1,
            "progress": {"done": 1},
        }
        assert (await at.client.get_execution(handle.id)).running_steps == []


async def test_the_page_the_api_and_show_have_it(redis_url: str, namespace: str, tmp_path: Path) -> None:
    seen = asyncio.Event()

    @flow
    async def loads(ctx: WorkflowContext) -> None:
        async def load() -> None:
            ctx.step.heartbeat(
                {"rows": 12, "file": "<b>one</b>", "key": "polos_" + "0" * 16 + "_" + "a" * 43}
            )
            await seen.wait()

        await ctx.step.run("load", load)

    async with running(redis_url, namespace, loads) as at:
        handle = await loads.invoke(at.client)
        await until(lambda: progress_of(at.client, handle), "the progress")
        _, secret = await apikeys.create(at.client, "ann", ["read"])
        async with serving(at.client) as base, visiting(base) as visitor:
            await visitor.log_in(secret)
            page = (await visitor.get(f"/executions/{handle.id}")).text
            assert "Progress of load" in page and "Rows 12" in page and "<b>one</b>" in page
            shown = (await visitor.http.get(f"/api/v1/executions/{handle.id}")).json()
            (step,) = shown["running_steps"]
            assert step["progress"]["rows"] == 12 and step["progress_at"] >= step["started_at"]
            assert "aaaaaaaa" not in page + str(shown), "no secrets"
        said = (await Command(redis_url, namespace, tmp_path)("show", handle.id)).out
        assert "progress    load: {" in said and '"rows": 12' in said
        seen.set()
        await at.result(handle)


async def progress_of(client: PolosClient, handle: ExecutionHandle[Any]) -> Any:
    """What its only running step has reported; None for nothing."""
    found = (await client.get_execution(handle.id)).running_steps
    return found[0].progress if found else None


class Stop(Exception):
    pass


@pytest.mark.parametrize("how", ["in memory", "in an entry", "loaded"])
async def test_the_next_attempt_gets_the_last_progress(
    redis_url: str, namespace: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "in memory":
        monkeypatch.setattr(run, "PARK_FROM_SECONDS", 0.0)
    found: list[Any] = []

    def step(ctx: WorkflowContext) -> int:
        found.append(ctx.step.last_progress())
        ctx.step.heartbeat(("row", len(found)))
        ctx.step.heartbeat(("row", 10 * len(found)))
        if len(found) < 3:
            raise Stop
        return len(found)

    @flow
    async def retried(ctx: WorkflowContext, padding: str) -> list[int]:
        first = await ctx.step.run("step", step, ctx, base_delay=0.02)
        return [first, await ctx.step.run("other", lambda: ctx.step.last_progress() is None)]

    async with running(redis_url, namespace, retried) as at:
        padding = "x" * (5000 if how == "loaded" else 1)  # too large for an entry
        assert await at.result(await retried.invoke(at.client, padding)) == [3, True]
    assert found == [None, ("row", 10), ("row", 20)]


async def test_another_worker_goes_on_from_the_progress_that_was_written(
    fleet: Fleet, client: PolosClient
) -> None:
    await fleet.start()
    await fleet.start()
    handle = await reporting.invoke(client, {"gate": "go"})
    (pid,) = await fleet.seen(handle.id, "report")
    await reported(client, handle, [pid])
    fleet.of(pid).kill()
    (heir,) = [worker.pid for worker in fleet.workers if worker.pid != pid]
    await reported(client, handle, [pid, heir])
    fleet.open("go")
    assert await handle.result(timeout=20) == [pid, heir]


async def test_a_new_run_starts_without(redis_url: str, namespace: str) -> None:
    found: list[Any] = []

    async def step(ctx: WorkflowContext) -> None:
        found.append(ctx.step.last_progress())
        ctx.step.heartbeat("far")
        if len(found) == 1:
            raise Stop

    @flow
    async def fails(ctx: WorkflowContext) -> None:
        await ctx.step.run("step", step, ctx, max_retries=0)

    async with running(redis_url, namespace, fails) as at:
        handle = await fails.invoke(at.client)
        await at.reached(handle, "failed")
        await at.client.retry(handle.id)
        await at.result(handle)
    assert found == [None, None]


# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize("call", ["heartbeat", "last_progress"])
async def test_only_a_step_reports(redis_url: str, namespace: str, call: str) -> None:
    @flow
    async def outside(ctx: WorkflowContext) -> str:
        try:
            ctx.step.heartbeat(1) if call == "heartbeat" else ctx.step.last_progress()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    async with running(redis_url, namespace, outside) as at:
        assert await at.result(await outside.invoke(at.client)) == (
            f"StepKeyError: ctx.step.{call} was called outside a step's function: call it in a function that "
            "this workflow's ctx.step.run calls, or in a thread that runs in a copy of its context"
        )


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (object(), "NotStorableError"),
        ("x" * MOST_BYTES, "the progress of step 'step' takes 16,387 bytes, and the limit is 16,384: report"),
    ],
)
async def test_progress_that_cannot_be_stored_fails_the_step(
    redis_url: str, namespace: str, progress: Any, expected: str
) -> None:
    @flow
    async def refused(ctx: WorkflowContext) -> str:
        try:
            await ctx.step.run("step", lambda: ctx.step.heartbeat(progress))
        except StepExecutionError as error:
            return f"{error.error_type} {error.attempts}: {error.error_message}"
        return ""

    async with running(redis_url, namespace, refused) as at:
        said = await at.result(await refused.invoke(at.client))
        assert expected in said and " 1: " in said, "no retry"


async def test_an_attempt_that_is_over_reports_no_more(redis_url: str, namespace: str) -> None:
    release, ended = threading.Event(), threading.Event()
    attempts: list[int] = []

    def slow(ctx: WorkflowContext) -> Any:
        attempts.append(len(attempts) + 1)
        if len(attempts) == 1:
            release.wait()
            ctx.step.heartbeat("late")
            ended.set()
            return None
        ctx.step.heartbeat("second")
        release.set()
        ended.wait()
        return ctx.step.last_progress()

    @flow
    async def side_by_side(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("slow", slow, ctx, base_delay=0, timeout=1, retry_abandoned=True)

    async with running(redis_url, namespace, side_by_side, concurrency=2) as at:
        assert await at.result(await side_by_side.invoke(at.client)) == "second"


# --- how often it is written ------------------------------------------------------------


def calls_of(at: Running, name: str, found: list[Any]) -> None:
    """Count the calls of a fenced write."""
    fenced = at.host.store.fenced
    call = getattr(fenced, name)

    def counted(*args: Any) -> Any:
        found.append(args)
        return call(*args)

    setattr(fenced, name, counted)


async def test_many_threads_report_at_once_and_little_is_written(redis_url: str, namespace: str) -> None:
    def report(ctx: WorkflowContext, name: int) -> None:
        for number in range(500):
            ctx.step.heartbeat([name, number])

    async def step(ctx: WorkflowContext) -> Any:
        await asyncio.gather(*(asyncio.to_thread(report, ctx, name) for name in range(8)))
        return ctx.step.last_progress()

    @flow
    async def crowded(ctx: WorkflowContext) -> Any:
        return await ctx.step.run("step", step, ctx)

    async with running(redis_url, namespace, crowded) as at:
        writes: list[Any] = []
        calls_of(at, "note_progress", writes)
        started = asyncio.get_running_loop().time()
        name, number = await at.result(await crowded.invoke(at.client))
        took = asyncio.get_running_loop().time() - started
        assert name in range(8) and number == 499
        assert len(writes) <= 1 + took / WRITE_SECONDS


async def test_a_step_that_reports_nothing_writes_nothing(redis_url: str, namespace: str) -> None:
    seen = asyncio.Event()

    @flow
    async def silent(ctx: WorkflowContext) -> None:
        await ctx.step.run("step", seen.wait)

    async with running(redis_url, namespace, silent) as at:
        writes, starts = list[Any](), list[Any]()
        calls_of(at, "note_progress", writes)
        calls_of(at, "note_starts", starts)
        handle = await silent.invoke(at.client)
        await until(lambda: bool(starts), "a tick while the step runs")
        (activation,) = at.worker.active
        assert activation.progress is None
        seen.set()
        await at.result(handle)
        assert writes == []


KEYS = st.sampled_from("abc")


@given(st.lists(st.tuples(KEYS, st.floats(0, 3)), max_size=40), st.booleans())
def test_the_last_report_of_each_step_is_written_at_most_once_a_second(
    reports: list[tuple[str, float]], lost: bool
) -> None:
    code = cast("CodeTasks", None)
    steps = {key: StepAttempt(code, key, 1, 0.0) for key in "abc"}
    progress, now = Progress(), 0.0
    written: dict[str, int] = {}
    times: list[float] = []

    def write() -> None:
        found = progress.due(now, steps)
        if found:
            times.append(now)
            if lost and len(times) == 1:
                progress.write_again(found)
            else:
                written.update((one.step.key, codec.decode(one.value)) for one in found)

    for number, (key, pause) in enumerate(reports):
        progress.report(steps[key], codec.encode(number))
        steps[key].emitted = True
        now += pause
        write()
    for _ in range(3):
        now += WRITE_SECONDS
        write()
    assert written == {key: number for number, (key, _) in enumerate(reports)}
    assert all(after - before >= WRITE_SECONDS for before, after in itertools.pairwise(times))
    assert progress.due(now + WRITE_SECONDS, steps) == []


def test_a_step_that_has_ended_or_whose_start_is_not_emitted_is_not_written() -> None:
    code, progress = cast("CodeTasks", None), Progress()
    steps = {str(number): StepAttempt(code, str(number), 1, 0.0) for number in range(MOST_STEPS + 2)}
    for step in steps.values():
        progress.report(step, b"\x01")
    assert progress.due(0.0, steps) == []
    for step in steps.values():
        step.emitted = True
    assert len(progress.due(0.0, steps)) == MOST_STEPS
    assert progress.due(WRITE_SECONDS / 2, steps) == []
    del steps[str(MOST_STEPS)]
    (last,) = progress.due(WRITE_SECONDS, steps)
    assert last.step.key == str(MOST_STEPS + 1)
    progress.restore("0", 0, b"\x02")
    assert progress.latest("0") == b"\x01", "that of a later attempt"
    progress.restore("0", 1, b"\x02")
    assert progress.latest("0") == b"\x02"
