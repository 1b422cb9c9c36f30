"""Task factory that records which asyncio tasks belong to an activation.

Workflow code may start tasks between steps (gather, TaskGroup, anyio). They belong to the activation: it
does not park while one of them can still reach a step, and parking cancels them. Tasks started by a step's
function do not belong to it: a connection pool opened in a step outlives that step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context, ContextVar
from typing import Any, Protocol


class Owner(Protocol):
    """Owner of the tasks that its code starts: an activation, or `INSIDE_STEP`."""

    def adopt(self, task: asyncio.Task[Any]) -> None: ...


class _InsideStep:
    """Owner of the tasks that a step's function starts: they are guarded, but belong to no activation."""

    def adopt(self, task: asyncio.Task[Any]) -> None:
        pass


INSIDE_STEP = _InsideStep()
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
        if isinstance(error, BaseExceptionGroup) and not error.subgroup((SystemExit, KeyboardInterrupt)):
            raise
        raise WorkflowExit(f"{type(error).__name__}: {error}") from error


def in_workflow() -> bool:
    """Whether the calling code belongs to a workflow and not to one of its steps."""
    return OWNER.get() not in (None, INSIDE_STEP)


def mark_retrieved(future: asyncio.Future[Any]) -> None:
    """Mark a failure as retrieved, so that asyncio doesn't log it when nobody awaits it."""
    if not future.cancelled():
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
