"""`ctx.step.heartbeat` and `last_progress`: what a running step says about itself."""

from __future__ import annotations

from typing import Any

from polos_redis import tasks
from polos_redis.errors import StepKeyError, ValueTooLargeError
from polos_redis.runtime.lifecycle_events import StepAttempt
from polos_redis.runtime.progress import MOST_BYTES
from polos_redis.runtime.steps.calls import Calls
from polos_redis.values import codec


class Heartbeats(Calls):
    """Calls for a step's function. Any thread that has its context may make them."""

    __slots__ = ()

    def heartbeat(self, progress: Any) -> None:
        """Report the progress of the step whose function calls this: any storable value, up to 16 KiB.

        Returns at once, in any thread. Once a second the worker writes the last report: `polos show`, the
        pages and `get_execution` (`running_steps`) have it while the step runs, followers of the execution
        get an event `step_progress`, and the step's next attempt gets it from `last_progress`. A crash may
        lose the reports of the last second. Reports of an attempt that is over are ignored.

        Raises `StepKeyError` outside a step's function; `NotStorableError` or `ValueTooLargeError` for a
        value that can't be stored.
        """
        step, activation = self._calling_step("heartbeat"), self._activation
        value = codec.encode(progress, limit=activation.host.value_limit)
        if len(value) > MOST_BYTES:
            raise ValueTooLargeError(
                f"the progress of step {step.key!r} takes {len(value):,} bytes, and the limit is "
                f"{MOST_BYTES:,}: report less, such as a count or a position"
            )
        if activation.events.running.get(step.key) is step and not activation.over:
            activation.progress_of_steps().report(step, value)

    def last_progress(self) -> Any:
        """Returns what the step whose function calls this has reported last with `heartbeat`, in this attempt
        or an earlier one of this run; None for nothing.

        Raises `StepKeyError` outside a step's function, `UnreadableValueError` if its type is gone.
        """
        step, progress = self._calling_step("last_progress"), self._activation.progress
        value = b"" if progress is None else progress.latest(step.key)
        return codec.decode(value) if value else None

    def _calling_step(self, call: str) -> StepAttempt:
        step = tasks.OWNER.get()
        if not isinstance(step, StepAttempt) or step.code is not self._activation.code:
            raise StepKeyError(
                f"ctx.step.{call} was called outside a step's function: call it in a function that this "
                "workflow's ctx.step.run calls, or in a thread that runs in a copy of its context"
            )
        return step
