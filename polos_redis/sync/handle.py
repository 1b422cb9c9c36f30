"""Handles: the client side of one execution, for code without asyncio."""

from __future__ import annotations

from datetime import timedelta
from typing import Generic, Self, TypeVar

from polos_redis.executions.handle import ExecutionHandle as AsyncHandle
from polos_redis.sync import event_loop
from polos_redis.wire.durable import Durability

Out = TypeVar("Out", covariant=True)


class ExecutionHandle(Generic[Out]):
    """A handle to one execution.

    `root_workflow_id` and `root_execution_id` belong to the execution at the top of its tree: the execution
    itself, unless it has a parent. The workflow ids are "" in a handle of `get_handle` until `load`.
    """

    def __init__(self, handle: AsyncHandle[Out]) -> None:
        self._handle = handle

    @property
    def id(self) -> str:
        """The execution's id."""
        return self._handle.id

    @property
    def workflow_id(self) -> str:
        """The id of its workflow."""
        return self._handle.workflow_id

    @property
    def root_workflow_id(self) -> str:
        """The id of the root's workflow."""
        return self._handle.root_workflow_id

    @property
    def root_execution_id(self) -> str:
        """The id of the root."""
        return self._handle.root_execution_id

    def load(self) -> Self:
        """Check that the execution exists and set the workflow ids; return this handle.

        Raises `ExecutionNotFoundError`.
        """

        async def load() -> None:
            await self._handle

        event_loop.run(load)
        return self

    def result(self, timeout: float | timedelta | None = None) -> Out:
        """Wait until the execution ends and return its result, in the workflow's own type.

        Raises `ExecutionFailedError` with the workflow's own error, `ExecutionCancelledError`,
        `ExecutionNotFoundError` (also when the retention ends during the wait), or `TimeoutError` after
        `timeout` seconds (a number or a timedelta), which says what the execution is doing; it continues
        then.
        """
        return event_loop.run(lambda: self._handle.result(timeout))

    def status(self) -> str:
        """Return the status: queued, running, waiting, stuck, paused, completed, failed or cancelled.

        Raises `ExecutionNotFoundError`.
        """
        return event_loop.run(self._handle.status)

    def cancel(self, *, cancelled_by: str | None = None, durability: Durability | None = None) -> None:
        """Cancel the execution and its descendants; see `PolosClient.cancel`."""
        event_loop.run(lambda: self._handle.cancel(cancelled_by=cancelled_by, durability=durability))

    def __repr__(self) -> str:
        return repr(self._handle)
