"""Task factory that records which asyncio tasks belong to an activation.

Workflow code may start tasks between steps (gather, TaskGroup, anyio). They belong to the activation: it
does not park while one of them can still reach a step, and parking cancels them. Tasks started by a step's
function do not belong to it: a connection pool opened in a step outlives that step.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Protocol

from polos_redis import failures

if TYPE_CHECKING:
    from polos_redis.tracing.spans import Span

SLICE_SECONDS = 0.002


class Owner(Protocol):
    """Owner of the tasks that its code starts: an activation's code, or an attempt at a step.

    `is_step`: the code is a step's function; its tasks are guarded, but belong to no activation. `log_facts`
    returns what a log record of this code has to say, None if the record must be dropped because the code
    runs again. `span` is the code's span, if it is traced.
    """

    span: Span | None

    @property
    def is_step(self) -> bool: ...
    def adopt(self, task: asyncio.Task[Any]) -> None: ...
    def log_facts(self) -> dict[str, Any] | None: ...


OWNER: ContextVar[Owner | None] = ContextVar("polos_owner", default=None)
OUTSIDE = Context()  # without an owner: for the runtime's own tasks and callbacks


class WorkflowExit(Exception):
    """User code raised SystemExit, KeyboardInterrupt or another BaseException. Fails the execution only."""


async def guard(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run user code and turn an attempt to exit the process into a `WorkflowExit`."""
    try:
        return await coro
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        inside = failures.members(error)
        if len(inside) > 1 and not any(failures.is_a(one, SystemExit, KeyboardInterrupt) for one in inside):
            raise
        raise WorkflowExit(failures.line_of(error)) from error


def step_context(step: Owner) -> Context:
    """Returns the context of one call of a step's function: a copy of the caller's. The function sees the
    caller's variables; what it sets ends with it, as a replay does not call it."""
    context = copy_context()
    context.run(OWNER.set, step)
    if step.span is not None:
        context.run(step.span.enter)
    return context


@types.coroutine
def in_context(context: Context, call: Callable[[], Any]) -> Generator[Any, Any, Any]:
    """Call an async function in a context, by the calling task itself: a task for it would cost more, and
    `asyncio.timeout` and cancellation would reach another task than the caller's."""
    run = context.run
    code = run(call)
    if type(code) is not types.CoroutineType:
        code = _awaiting(code)
    resume, value = code.send, None
    try:
        while True:
            try:
                awaited = run(resume, value)
            except StopIteration as returned:
                return returned.value
            except GeneratorExit as error:  # of the function's own: nobody closes it while it runs
                raise WorkflowExit(failures.line_of(error)) from error
            try:
                value, resume = (yield awaited), code.send
            except GeneratorExit:
                run(code.close)
                raise
            except BaseException as error:
                value, resume = error, code.throw
    finally:
        del value, resume  # or an exception would refer to itself, by way of this frame


async def _awaiting(awaitable: Any) -> Any:
    return await awaitable


def in_workflow() -> bool:
    """Whether the calling code belongs to a workflow and not to one of its steps."""
    owner = OWNER.get()
    return owner is not None and not owner.is_step


def in_step() -> bool:
    """Whether the calling code belongs to a step's function."""
    owner = OWNER.get()
    return owner is not None and owner.is_step


def is_cancelled() -> bool:
    """Whether the current task was cancelled, so that a `CancelledError` in it is not its own code's."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def mark_retrieved(future: asyncio.Future[Any]) -> None:
    """Mark a failure as retrieved, so that asyncio doesn't log it when nobody awaits it. The error of a
    cancelled task is dropped: its traceback refers to the task, a cycle with all that the code had."""
    with contextlib.suppress(asyncio.CancelledError):
        future.exception()


def close_unstarted(task: asyncio.Future[Any], code: Coroutine[Any, Any, Any]) -> None:
    """Close the guarded coroutine if its task is cancelled before it starts; asyncio would warn otherwise."""
    task.add_done_callback(lambda _: code.close(), context=OUTSIDE)


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Install the task factory in a loop. An existing factory still creates the tasks."""
    previous = loop.get_task_factory()
    if getattr(previous, "records_owners", False):
        return

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
    ) -> asyncio.Future[Any]:
        context = kwargs.get("context")
        owner = OWNER.get() if context is None else context.get(OWNER)
        code = coro
        if owner is not None and asyncio.iscoroutine(coro):
            coro = guard(coro)
        task: asyncio.Future[Any]
        if previous is None:
            task = asyncio.Task(coro, loop=loop, **kwargs)
        else:
            task = previous(loop, coro, **kwargs)
        if coro is not code:
            close_unstarted(task, code)
        if owner is not None and isinstance(task, asyncio.Task):
            owner.adopt(task)
        return task

    factory.records_owners = True  # type: ignore[attr-defined]
    loop.set_task_factory(factory)  # type: ignore[arg-type] # typeshed lags behind what loops pass


def spawn(coro: Coroutine[Any, Any, Any], name: str | None = None) -> asyncio.Task[Any]:
    """Start a task that belongs to no activation, in a fresh context."""
    return asyncio.get_running_loop().create_task(coro, name=name, context=OUTSIDE.copy())


class Slices:
    """Work in slices: a task that does much at once gives others their turn every 2 ms."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._end = self._now() + SLICE_SECONDS

    async def pause(self) -> None:
        """Gives others their turn if this slice is over."""
        if self._now() >= self._end:
            await asyncio.sleep(0)
            self._end = self._now() + SLICE_SECONDS
