"""The time limit of a step's attempts, `ctx.step.run(..., timeout=)`.

An async function is cancelled. A thread can't be: it is abandoned, another takes its place in the worker, and
what it returns is dropped. Unless the step says `retry_abandoned`, its next attempt starts when the thread of
the last one has ended, so no two of them run at once; until then the step stays in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from polos_redis import tasks
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.lifecycle_events import StepAttempt
from polos_redis.runtime.steps.thread_calls import NOT_STARTED, awaited, drop_result, leave
from polos_redis.values.times import milliseconds

logger = logging.getLogger("polos.execution")


class TimeLimit(NamedTuple):
    """The seconds that each attempt may take, and whether an attempt may start beside an abandoned thread."""

    seconds: float
    retry_abandoned: bool

    def exceeded(self) -> TimeoutError:
        """Returns the failure of an attempt that took longer."""
        return TimeoutError(f"it did not finish within {self.seconds:g} s")


def time_limit(key: str, timeout: float | timedelta | None, retry_abandoned: bool) -> TimeLimit | None:
    """Returns the limit that a call of step `key` asks for. Raises `ValueError` for an invalid one."""
    limit_ms = milliseconds(f"step {key!r}", timeout)
    if type(retry_abandoned) is not bool:
        raise ValueError(f"step {key!r}: retry_abandoned must be True or False, not {retry_abandoned!r}")
    if limit_ms is not None:
        return TimeLimit(limit_ms / 1000, retry_abandoned)
    if retry_abandoned:
        raise ValueError(
            f"step {key!r}: retry_abandoned=True needs a timeout=: no thread is abandoned without"
        )
    return None


async def in_loop_within(limit: TimeLimit, step: StepAttempt, call: Callable[[], Any]) -> Any:
    """Call an async function, and cancel it at the limit."""
    within = asyncio.timeout(limit.seconds)
    try:
        async with within:
            return await tasks.in_context(tasks.step_context(step), call)
    except TimeoutError:
        if within.expired():
            raise limit.exceeded() from None
        raise


async def in_thread_within(
    limit: TimeLimit, activation: Activation, step: StepAttempt, call: Callable[[], Any], *, is_last: bool
) -> Any:
    """Call a sync function in a thread, and abandon the thread at the limit. Waiting for a free thread does
    not count. Returns `NOT_STARTED` if it may no longer start."""
    loop, within = activation.loop, asyncio.timeout(None)

    def begin() -> None:
        with contextlib.suppress(RuntimeError):  # the caller has left
            within.reschedule(loop.time() + limit.seconds)

    def start() -> Any:
        if not activation.gate.is_open():
            return NOT_STARTED
        loop.call_soon_threadsafe(begin)
        return call()

    thread = activation.host.in_thread(step, start)
    thread.add_done_callback(tasks.mark_retrieved)
    try:
        async with within:
            return await awaited(activation, step, await asyncio.shield(thread))
    except asyncio.CancelledError:
        leave(activation, thread)
        raise
    except TimeoutError:
        if not within.expired():
            raise  # of the function's own
        if thread.done():
            drop_result(thread)
        else:
            await _abandon(limit, activation, step, thread, is_last)
        raise limit.exceeded() from None


async def _abandon(
    limit: TimeLimit, activation: Activation, step: StepAttempt, thread: asyncio.Future[Any], is_last: bool
) -> None:
    """Abandon a thread; returns when the step may be tried again."""
    thread.add_done_callback(drop_result, context=tasks.OUTSIDE)
    activation.host.abandon(thread, step.facts)
    facts = {**step.facts, "seconds": limit.seconds}
    if is_last or limit.retry_abandoned:
        logger.warning("step timed out, its thread is abandoned", extra=facts)
        return
    logger.warning("step timed out, its thread is abandoned, is retried when that has ended", extra=facts)
    activation.events.timed_out(step, activation.loop.time())
    await asyncio.wait((thread,))
