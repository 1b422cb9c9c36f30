"""Which asyncio tasks belong to an activation: a task factory that records what workflow code starts.

Code between steps may start tasks (gather, TaskGroup, anyio). They are the activation's: it may not park
while one of them is about to call a step, and when it parks they end with it. Tasks that a step's own
function starts are not: a connection pool opened inside a step outlives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context, ContextVar
from typing import Any, Protocol


class Owner(Protocol):
    """What adopts a task: an activation, or the mark of a running step."""

    def adopt(self, task: asyncio.Task[Any]) -> None: ...


class _InsideStep:
    """Tasks started by a step's function are guarded but not adopted."""

    def adopt(self, task: asyncio.Task[Any]) -> None:
        pass


INSIDE_STEP = _InsideStep()
OWNER: ContextVar[Owner | None] = ContextVar("polos_owner", default=None)
OUTSIDE = Context()  # for tasks of ours that are created while user code runs


class WorkflowExit(Exception):
    """User code raised SystemExit, KeyboardInterrupt or another BaseException: an error of its execution."""


async def guard(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run user code so that leaving the process becomes an error of the execution."""
    try:
        return await coro
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as leaving:
        if isinstance(leaving, BaseExceptionGroup) and not leaving.subgroup((SystemExit, KeyboardInterrupt)):
            raise
        raise WorkflowExit(f"{type(leaving).__name__}: {leaving}") from leaving


def in_workflow() -> bool:
    """Whether a workflow's own code runs just now, not that of a step."""
    return OWNER.get() not in (None, INSIDE_STEP)


def look_away(future: asyncio.Future[Any]) -> None:
    """A failure that asyncio need not report when nobody awaits it; whoever does is told all the same."""
    if not future.cancelled():
        future.exception()


def close_unstarted(task: asyncio.Future[Any], code: Coroutine[Any, Any, Any]) -> None:
    """A guarded task that is cancelled before it begins would leave a coroutine that was never awaited."""
    task.add_done_callback(lambda _: code.close(), context=OUTSIDE)


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Make the loop record the tasks of activations; the factory that was there goes on making them."""
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
    """Start a task of ours, in a context of its own, that no activation adopts."""
    return asyncio.get_running_loop().create_task(coro, name=name, context=OUTSIDE.copy())
