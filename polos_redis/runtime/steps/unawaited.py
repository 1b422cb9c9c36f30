"""Calls of ctx that nobody awaits: they fail their execution.

Python warns about a coroutine that is freed before it has started, and calls a function of the module
`warnings` for it. That function is replaced, so a call that is awaited, which is any other, costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

from polos_redis import tasks
from polos_redis.errors import NotAwaitedError
from polos_redis.runtime.call_sites import described
from polos_redis.runtime.gate import State
from polos_redis.runtime.steps.calls import Calls
from polos_redis.runtime.steps.continuing import Continuing
from polos_redis.runtime.steps.patches import Patches

Warn = Callable[[Coroutine[Any, Any, Any]], None]


def install() -> None:
    """Fail the execution of every call of ctx that is not awaited, in this process."""
    previous: Warn = getattr(warnings, "_warn_unawaited_coroutine")  # noqa: B009 # typeshed hides it
    if getattr(previous, "fails_executions", False):
        return

    def warn(call: Coroutine[Any, Any, Any]) -> None:
        frame = getattr(call, "cr_frame", None)
        arguments = {} if frame is None else frame.f_locals
        calls = arguments.get("self")
        if not isinstance(calls, Calls) or not _fails(calls, arguments):
            previous(call)

    warn.fails_executions = True  # type: ignore[attr-defined]
    setattr(warnings, "_warn_unawaited_coroutine", warn)  # noqa: B010


def _fails(calls: Calls, arguments: dict[str, Any]) -> bool:
    """Fail the execution of a call with these arguments; returns whether that has an effect. Code that an
    activation cancels at its end drops calls that it would have awaited later: no mistake."""
    activation = calls._activation
    if activation.state is State.ENDED:
        return activation.ended_as != "finished"
    if activation.state is State.FINISHING:
        return False
    key, call_site = arguments.get("key", arguments.get("id")), arguments.get("call_site")
    if isinstance(calls, Continuing):
        call = "ctx.continue_as_new(...)"
    else:
        call = f"ctx.patched({key!r})" if isinstance(calls, Patches) else f"the call of step {key!r}"
    at = f" at {described(call_site)}" if call_site is not None else ""
    error = NotAwaitedError(f"{call}{at} was not awaited, so it did not run: write `await` before it")
    if asyncio._get_running_loop() is activation.loop:
        activation.stop_with(error)
    else:  # freed by a garbage collection in a thread
        with contextlib.suppress(RuntimeError):  # the loop is closed
            activation.loop.call_soon_threadsafe(activation.stop_with, error, context=tasks.OUTSIDE)
    return True
