"""Workflow code that behaves oddly when it is parked, which must not change its outcome.

Each row is a workflow that suspends. It parks and releases its slot, gets its answers and returns the
expected result; each of its steps takes effect once.
`python -m tests.steps.parking_table URL` runs the table on another interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio

from polos_redis import Workflow, WorkflowContext
from tests.harness.running import Running, running, soon, until

EFFECTS: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by execution: the effects of its steps
RELEASED = asyncio.Event()  # releases code that ignores cancellation, once its row is done

Function = Callable[[WorkflowContext], Awaitable[Any]]


@dataclass(frozen=True)
class Row:
    """A workflow, its stages of concurrent suspensions, its expected result and effects."""

    workflow: Workflow[Any, Any]
    stages: tuple[tuple[str, ...], ...]
    result: Any
    effects: set[str]

    def __str__(self) -> str:
        return self.workflow.id


ROWS: list[Row] = []


def row(*stages: tuple[str, ...], result: Any = "yes", effects: str = "") -> Callable[[Function], Function]:
    """Adds a row: its stages of step keys (default: one stage, "ask"), its result, its steps' effects."""

    def add(function: Function) -> Function:
        workflow: Workflow[Any, Any] = Workflow(function, function.__name__)
        ROWS.append(Row(workflow, stages or (("ask",),), result, set(effects.split())))
        return function

    return add


async def step(ctx: WorkflowContext, name: str) -> str:
    """A journaled step with a countable effect."""

    async def effect() -> str:
        EFFECTS[ctx.execution_id][name] += 1
        return name

    return await ctx.step.run(name, effect)


async def ask(ctx: WorkflowContext, key: str = "ask") -> Any:
    return (await ctx.step.suspend(key, {"question": key}))["data"]


class Signal(BaseException):
    """A user-defined BaseException."""


# --- the main task's code ---------------------------------------------------------------


@row(effects="before after")
async def plain(ctx: WorkflowContext) -> Any:
    await step(ctx, "before")
    answer = await ask(ctx)
    await step(ctx, "after")
    return answer


@row(effects="after")
async def swallows_the_cancellation(ctx: WorkflowContext) -> Any:
    answer = "nobody asked"
    with contextlib.suppress(asyncio.CancelledError):
        answer = await ask(ctx)
    await step(ctx, "after")
    return answer


@row(effects="after")
async def returns_whatever_happens(ctx: WorkflowContext) -> Any:
    answer = "nobody asked"
    with contextlib.suppress(BaseException):
        answer = await ask(ctx)
        await step(ctx, "after")
    return answer


@row(effects="step-0")
async def swallows_in_a_loop_around_steps(ctx: WorkflowContext) -> Any:
    answer, number = None, 0
    while not RELEASED.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            answer = answer or await ask(ctx)
            await step(ctx, f"step-{number}")
            return answer
        number += 1
        answer = "nobody asked"
    return "released"


@row()
async def raises_something_else(ctx: WorkflowContext) -> Any:
    try:
        return await ask(ctx)
    except BaseException as error:
        raise ValueError("cleaning up went wrong") from error


@row()
async def raises_its_own_base_exception(ctx: WorkflowContext) -> Any:
    try:
        return await ask(ctx)
    except asyncio.CancelledError:
        raise Signal from None


@row()
async def exits_when_cancelled(ctx: WorkflowContext) -> Any:
    try:
        return await ask(ctx)
    except asyncio.CancelledError:
        sys.exit("cancelled")


@row(effects="cleanup")
async def steps_in_finally(ctx: WorkflowContext) -> Any:
    try:
        return await ask(ctx)
    finally:
        await step(ctx, "cleanup")


@row(effects="cleanup")
async def steps_in_finally_and_swallows_that_too(ctx: WorkflowContext) -> Any:
    answer = "nobody asked"
    try:
        answer = await ask(ctx)
    except asyncio.CancelledError:
        with contextlib.suppress(asyncio.CancelledError):
            await step(ctx, "undo")
    with contextlib.suppress(asyncio.CancelledError):
        await step(ctx, "cleanup")
    return answer


@row()
async def continues_after_the_cancellation(ctx: WorkflowContext) -> Any:
    try:
        return await ask(ctx)
    except asyncio.CancelledError:
        while not RELEASED.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await RELEASED.wait()
        return "released"


@row(("first",), ("second",), ("third",), result=["yes", "yes", "yes"])
async def asks_in_a_loop(ctx: WorkflowContext) -> Any:
    answers = []
    for key in ("first", "second", "third"):
        with contextlib.suppress(asyncio.CancelledError):
            answers.append(await ask(ctx, key))
    return answers


@row(effects="inside")
async def asks_inside_an_async_generator(ctx: WorkflowContext) -> Any:
    async def answers() -> AsyncGenerator[Any]:
        try:
            yield await ask(ctx)
        finally:
            await step(ctx, "inside")

    async with contextlib.aclosing(answers()) as found:
        return [answer async for answer in found].pop()


@row(effects="early")
async def cancels_itself_before(ctx: WorkflowContext) -> Any:
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(asyncio.CancelledError):
        task.cancel()
        await asyncio.sleep(0)
    task.uncancel()
    await step(ctx, "early")
    return await ask(ctx)


# --- timeouts, shields, scopes ----------------------------------------------------------


@row()
async def shields_the_wait(ctx: WorkflowContext) -> Any:
    return await asyncio.shield(ask(ctx))


@row()
async def shields_and_swallows(ctx: WorkflowContext) -> Any:
    waiting, released = asyncio.ensure_future(ask(ctx)), asyncio.ensure_future(RELEASED.wait())
    while not released.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiting, released], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
    return "released"


@row(effects="after")
async def asyncio_timeout(ctx: WorkflowContext) -> Any:
    async with asyncio.timeout(60):
        answer = await ask(ctx)
        await step(ctx, "after")
        return answer


@row()
async def asyncio_wait_for(ctx: WorkflowContext) -> Any:
    return await asyncio.wait_for(ask(ctx), 60)


@row()
async def asyncio_wait_first_completed(ctx: WorkflowContext) -> Any:
    asked, forever = asyncio.ensure_future(ask(ctx)), asyncio.ensure_future(asyncio.sleep(3600))
    done, _ = await asyncio.wait([asked, forever], return_when=asyncio.FIRST_COMPLETED)
    assert done == {asked}
    return asked.result()


@row(effects="after")
async def anyio_shielded_scope(ctx: WorkflowContext) -> Any:
    with anyio.CancelScope(shield=True):
        answer = await ask(ctx)
        await step(ctx, "after")
    return answer


@row(effects="cleanup")
async def anyio_shielded_cleanup(ctx: WorkflowContext) -> Any:
    try:
        return await ask(ctx)
    finally:
        with anyio.CancelScope(shield=True):
            await step(ctx, "cleanup")


@row()
async def anyio_move_on_after(ctx: WorkflowContext) -> Any:
    with anyio.move_on_after(60):
        return await ask(ctx)
    return "too late"


# --- several tasks ----------------------------------------------------------------------


@row(effects="one two after")
async def task_group(ctx: WorkflowContext) -> Any:
    async with asyncio.TaskGroup() as group:
        group.create_task(step(ctx, "one"))
        asked = group.create_task(ask(ctx))
        group.create_task(step(ctx, "two"))
    await step(ctx, "after")
    return asked.result()


@row(("inner", "outer"), result=["yes", "yes"], effects="deep deeper after")
async def task_groups_three_deep(ctx: WorkflowContext) -> Any:
    async def third() -> Any:
        async with asyncio.TaskGroup() as group:
            group.create_task(step(ctx, "deeper"))
            return await group.create_task(ask(ctx, "inner"))

    async def second() -> Any:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(third())
            await step(ctx, "deep")
        return asked.result()

    async with asyncio.TaskGroup() as group:
        inner, outer = group.create_task(second()), group.create_task(ask(ctx, "outer"))
    await step(ctx, "after")
    return [inner.result(), outer.result()]


@row(("a",), ("b",), result=["yes", "yes"], effects="c after-a")
async def one_answer_at_a_time(ctx: WorkflowContext) -> Any:
    async def first() -> Any:
        answer = await ask(ctx, "a")
        await step(ctx, "after-a")
        return answer

    *answers, _ = await asyncio.gather(first(), ask(ctx, "b"), step(ctx, "c"))
    return answers


@row(effects="sibling after")
async def anyio_task_group(ctx: WorkflowContext) -> Any:
    found: list[Any] = []

    async def asks() -> None:
        found.append(await ask(ctx))

    async with anyio.create_task_group() as group:
        group.start_soon(asks)
        group.start_soon(step, ctx, "sibling")
    await step(ctx, "after")
    return found[0]


@row(("shielded", "open"), result={"shielded": "yes", "open": "yes"})
async def anyio_shield_inside_a_group(ctx: WorkflowContext) -> Any:
    found: dict[str, Any] = {}

    async def asks(key: str, *, shield: bool) -> None:
        with anyio.CancelScope(shield=shield):
            found[key] = await ask(ctx, key)

    async with asyncio.TaskGroup() as outer:
        outer.create_task(asks("open", shield=False))
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: asks("shielded", shield=True))
    return dict(sorted(found.items(), reverse=True))


@row(("a", "b"), result=["yes", "yes", "c"], effects="c")
async def gather_returning_exceptions(ctx: WorkflowContext) -> Any:
    return await asyncio.gather(ask(ctx, "a"), ask(ctx, "b"), step(ctx, "c"), return_exceptions=True)


@row()
async def exits_in_a_child(ctx: WorkflowContext) -> Any:
    async def child() -> Any:
        try:
            return await ask(ctx)
        except asyncio.CancelledError:
            sys.exit(3)

    return await asyncio.create_task(child())


@row()
async def raises_a_base_exception_in_a_child(ctx: WorkflowContext) -> Any:
    async def child() -> Any:
        try:
            return await ask(ctx)
        except asyncio.CancelledError:
            raise Signal from None

    async with asyncio.TaskGroup() as group:
        asked = group.create_task(child())
    return asked.result()


@row()
async def leaves_a_task_behind(ctx: WorkflowContext) -> Any:
    forever = asyncio.create_task(asyncio.sleep(3600))
    try:
        return await ask(ctx)
    finally:
        del forever


@row()
async def leaves_a_task_that_ignores_cancellation(ctx: WorkflowContext) -> Any:
    async def stubborn() -> None:
        while not RELEASED.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await RELEASED.wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    assert not task.done()
    return await ask(ctx)


@row()
async def starts_tasks_after_the_end(ctx: WorkflowContext) -> Any:
    try:
        return await ask(ctx)
    except asyncio.CancelledError:
        return await asyncio.gather(*(step(ctx, f"late-{n}") for n in range(3)))


@row()
async def cancels_a_task_before_it_starts(ctx: WorkflowContext) -> Any:
    asyncio.create_task(step(ctx, "never")).cancel()
    return await ask(ctx)


@row()
async def asks_in_a_child_while_main_sleeps(ctx: WorkflowContext) -> Any:
    asked = asyncio.create_task(ask(ctx))
    while not asked.done():
        await asyncio.wait([asyncio.create_task(asyncio.sleep(3600)), asked], return_when="FIRST_COMPLETED")
    return asked.result()


@row()
async def main_waits_for_an_event_of_its_child(ctx: WorkflowContext) -> Any:
    answered, answers = asyncio.Event(), []

    async def child() -> None:
        answers.append(await ask(ctx))
        answered.set()

    task = asyncio.create_task(child())
    await answered.wait()
    await task
    return answers[0]


@row(("job-1",), result={"job-0": None, "job-1": "yes", "job-2": None}, effects="job-0 job-2")
async def workers_of_a_queue(ctx: WorkflowContext) -> Any:
    queue: asyncio.Queue[str] = asyncio.Queue()
    found: dict[str, Any] = {}

    async def work() -> None:
        while True:
            job = await queue.get()
            try:
                found[job] = await ask(ctx, job) if job == "job-1" else None
                if job != "job-1":
                    await step(ctx, job)
            finally:
                queue.task_done()

    for number in range(3):
        queue.put_nowait(f"job-{number}")
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work()) for _ in range(2)]
        await queue.join()
        for worker in workers:
            worker.cancel()
    return dict(sorted(found.items()))


# --- running the table ------------------------------------------------------------------


async def play(row: Row, at: Running) -> None:
    """Parks and answers one stage at a time, then finishes."""
    global RELEASED
    RELEASED = asyncio.Event()
    tasks = asyncio.all_tasks()
    handle = await at.client.invoke(row.workflow)
    try:
        for stage in row.stages:
            await at.parked(handle)
            assert not at.worker.active, "the slot is still held"
            for key in stage:
                await at.answer(handle, key)
                await until(lambda: not at.worker.active)
        result = await at.result(handle)
    finally:
        RELEASED.set()
    assert result == row.result, result
    assert EFFECTS[handle.id] == Counter(row.effects), EFFECTS[handle.id]
    ours = asyncio.current_task()
    await until(lambda: not _left(tasks) - {ours}, f"the end of the tasks {_left(tasks)}")


def _left(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() - before if task.get_name()[:5] != "polos"}


async def main(url: str) -> None:
    """Runs the whole table, prints the failing rows and exits with 1 if there are any."""
    failed = 0
    async with running(url, f"parking-{uuid.uuid4().hex[:12]}", *(row.workflow for row in ROWS)) as at:
        for row in ROWS:
            try:
                await soon(play(row, at))
            except Exception as error:
                failed += 1
                print(f"{row}: {type(error).__name__}: {error}")
    print(f"{len(ROWS)} rows on {sys.version.split()[0]}, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
