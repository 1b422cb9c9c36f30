"""Calls of sync functions in threads: what has to be done when one returns, or when its caller leaves."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from polos_redis import tasks
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.lifecycle_events import StepAttempt

NOT_STARTED = object()  # returned by a thread that may no longer start


async def awaited(activation: Activation, step: StepAttempt, result: Any) -> Any:
    """Returns what a thread's function has returned. If it is awaitable, as that of a lambda around an async
    call, the work starts only now."""
    if not inspect.isawaitable(result):
        return result
    if not activation.journal.held:
        try:
            await activation.gate.passed(in_flight=True)
        except BaseException:
            if inspect.iscoroutine(result):
                result.close()
            raise
    return await tasks.in_context(tasks.step_context(step), lambda: result)


def leave(activation: Activation, thread: asyncio.Future[Any]) -> None:
    """Leave a thread whose caller is cancelled. It can't be cancelled itself: the step stays in flight until
    the thread ends, and its result is dropped."""
    if activation.over:
        thread.add_done_callback(drop_result, context=tasks.OUTSIDE)
    elif not thread.done():
        activation.in_flight += 1

        def ended(thread: asyncio.Future[Any]) -> None:
            activation.landed()
            drop_result(thread)

        thread.add_done_callback(ended, context=tasks.OUTSIDE)
    else:
        drop_result(thread)


def drop_result(thread: asyncio.Future[Any]) -> None:
    """Drop what a thread has returned; nothing is left to await a coroutine."""
    if not thread.cancelled() and thread.exception() is None and inspect.iscoroutine(thread.result()):
        thread.result().close()
