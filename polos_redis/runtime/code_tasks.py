"""Code tasks: the asyncio tasks that run a workflow's code, and how they end.

Decisions about an execution (park, finish, lose it) are made outside these tasks, in callbacks and tasks of
the runtime, so nothing that user code does with a cancellation can change them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from polos_redis import tasks

if TYPE_CHECKING:
    from polos_redis.tracing.spans import Span

logger = logging.getLogger("polos.execution")

CLEAN_UP_SECONDS = 0.05  # after the first cancel: code still at a wait of ours is in a shielded scope
RECANCEL_SECONDS = 5.0
LEAVES, LEAVE_SECONDS = 16, 0.05  # throttle ctx calls made after the end: from this many on, this long
ENDED = "the activation has ended"


class Repeats(Protocol):
    """The replay of an activation, see `Replay`."""

    def goes_on(self) -> None: ...
    def started(self, task: asyncio.Task[Any]) -> None: ...
    def ended(self, task: asyncio.Task[Any]) -> None: ...
    def passed(self, decided_ms: int) -> None: ...
    def repeats(self) -> bool: ...


class CodeTasks:
    """`main`, which runs the workflow function, and `spawned`, the tasks that function has started.

    All of them end with the activation, and what they return or raise afterwards is discarded. `end` cancels
    the main task once; it cancels what it awaits and may await its own clean-up. The tasks it leaves behind
    are cancelled when it is done. Whatever survives that is cancelled again after a grace period.
    `replay` knows which code only repeats what was done before; None in an execution's first activation.
    """

    __slots__ = (
        "_leaves",
        "ended",
        "execution_id",
        "loop",
        "main",
        "replay",
        "span",
        "spawned",
        "workflow_id",
    )

    is_step = False

    def __init__(
        self,
        execution_id: str,
        workflow_id: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.execution_id = execution_id
        self.workflow_id = workflow_id
        self.loop = loop
        self.replay: Repeats | None = None
        self.span: Span | None = None
        self.main: asyncio.Task[Any] | None = None
        self.spawned: set[asyncio.Task[Any]] = set()
        self.ended = False
        self._leaves = 0

    def start(
        self, call: Callable[[], Coroutine[Any, Any, Any]], done: Callable[[asyncio.Task[Any]], None]
    ) -> None:
        """Start the workflow function as the main task; `done` is called when it returns or raises."""
        context = copy_context()
        context.run(tasks.OWNER.set, self)
        if self.span is not None:
            context.run(self.span.enter)
        code = call()
        self.main = asyncio.Task(tasks.guard(code), loop=self.loop, context=context)
        tasks.close_unstarted(self.main, code)
        self.main.add_done_callback(done, context=tasks.OUTSIDE)

    @property
    def is_done(self) -> bool:
        """Whether the code was started and nothing of it is left."""
        return self.main is not None and self.main.done() and not self.spawned

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Take over a task that the code has started; the task factory calls this."""
        if self.ended and (self.main is None or self.main.done()):
            task.get_loop().call_soon(task.cancel, context=tasks.OUTSIDE)
            return
        self.spawned.add(task)
        if self.replay is not None:
            self.replay.started(task)
        task.add_done_callback(self._spawned_done, context=tasks.OUTSIDE)

    def _spawned_done(self, task: asyncio.Task[Any]) -> None:
        self.spawned.discard(task)
        if self.replay is not None:
            self.replay.ended(task)
        if self.ended:
            tasks.mark_retrieved(task)

    @property
    def facts(self) -> dict[str, Any]:
        """The execution, as log records name it, and the span if it is traced."""
        facts = {"execution": self.execution_id, "workflow": self.workflow_id}
        return facts if self.span is None else facts | self.span.ids

    def log_facts(self) -> dict[str, Any] | None:
        """Returns what a log record of the code has to say; None during a replay and after the end, when the
        code will log the same again."""
        if self.ended or (self.replay is not None and self.replay.repeats()):
            return None
        return self.facts if self.span is None else self.facts | self.span.active_ids

    async def leave(self) -> NoReturn:
        """End a ctx call made after the end: yield, then raise `CancelledError`. A loop that swallows the
        cancellation and calls again is slowed down."""
        self._leaves += 1
        await asyncio.sleep(0 if self._leaves < LEAVES else LEAVE_SECONDS)
        raise asyncio.CancelledError("this activation has ended")

    def end(self, cancel_waits: Callable[[], None]) -> None:
        """Cancel the code. If any of it is still there a moment later, `cancel_waits` has to cancel the waits
        it awaits: in a shielded scope they would never end."""
        self.ended = True
        self.replay = None  # without this reference cycle the activation is freed at once
        if self._left():
            self._cancel()
            self.loop.call_later(CLEAN_UP_SECONDS, self._cancel_waits, cancel_waits, context=tasks.OUTSIDE)
        else:
            self.main = None  # its context refers back to this object: without the cycle both are freed now

    def main_ended(self) -> None:
        """Forget the main task, which has ended after the activation, and cancel what it has left behind."""
        self.main = None  # as in `end`
        self.cancel_spawned()

    def cancel_spawned(self) -> None:
        """Cancel what the main task has left behind."""
        for task in list(self.spawned):
            task.cancel(ENDED)

    def _cancel(self) -> None:
        if self.main is not None and not self.main.done():
            self.main.cancel(ENDED)
        else:
            self.cancel_spawned()

    def _cancel_waits(self, cancel_waits: Callable[[], None]) -> None:
        if self._left():  # rarely
            cancel_waits()
            self.loop.call_later(RECANCEL_SECONDS, self._recancel, context=tasks.OUTSIDE)

    def _recancel(self) -> None:
        left = self._left()
        if left:
            logger.warning(
                "code still runs after its activation's end",
                extra={**self.facts, "tasks": len(left)},
            )
            self._cancel()
            self.cancel_spawned()

    def _left(self) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended."""
        return [task for task in (self.main, *self.spawned) if task is not None and not task.done()]
