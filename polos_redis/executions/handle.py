"""Handles: the client side of one execution."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast

from polos_redis import tasks
from polos_redis.connection.connection import Connection
from polos_redis.errors import (
    ExecutionCancelledError,
    ExecutionFailedError,
    ExecutionNotFoundError,
    InsideWorkflowError,
)
from polos_redis.executions import ending
from polos_redis.executions.status_text import status_text
from polos_redis.state import keys, stored_errors
from polos_redis.state.executions import Ended
from polos_redis.state.origin import Origin
from polos_redis.values import codec
from polos_redis.values.text import text
from polos_redis.wire.durable import Durability

Out = TypeVar("Out", covariant=True)


class ExecutionHandle(Generic[Out]):
    """A handle to one execution.

    `root_workflow_id` and `root_execution_id` belong to the execution at the top of its tree: the execution
    itself, unless it has a parent. Awaiting a handle checks that the execution exists and sets its workflow
    ids; raises `ExecutionNotFoundError`.
    """

    def __init__(
        self,
        connection: Connection,
        execution_id: str,
        workflow_id: str = "",
        *,
        root_workflow_id: str | None = None,
    ) -> None:
        self._connection = connection
        self.id = execution_id
        self.workflow_id = workflow_id
        self.root_workflow_id = root_workflow_id or workflow_id
        self.root_execution_id = keys.root_of(execution_id)

    def __await__(self) -> Generator[Any, None, ExecutionHandle[Out]]:
        return self._load().__await__()

    async def _load(self) -> ExecutionHandle[Out]:
        store = await self._connection.store()
        workflow, origin = await store.executions.read_fields(self.id, "workflow", "origin")
        if workflow is None:
            raise ExecutionNotFoundError(self.id)
        self.workflow_id = text(workflow)
        self.root_workflow_id = Origin.unpack(self.workflow_id, origin).root_workflow_id
        return self

    async def result(self, timeout: float | timedelta | None = None) -> Out:
        """Wait until the execution ends and return its result, in the workflow's own type.

        Raises `ExecutionFailedError` with the workflow's own error, `ExecutionCancelledError`,
        `ExecutionNotFoundError` (also when the retention ends during the wait), or `TimeoutError` after
        `timeout` seconds (a number or a timedelta), which says what the execution is doing; it continues
        then.

        Inside a workflow, use `ctx.step.invoke_and_wait`; this raises `InsideWorkflowError` there.
        """
        if tasks.in_workflow():
            raise InsideWorkflowError(
                f"the result of {self.id} was awaited inside a workflow, which would occupy a slot of its "
                "worker and not be journaled: use ctx.step.invoke_and_wait"
            )
        if timeout is None:
            ended = await self._connection.wait_for_end(self.id)
        else:
            seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
            try:
                async with asyncio.timeout(seconds):
                    ended = await self._connection.wait_for_end(self.id)
            except TimeoutError:
                status = await status_text(self._connection, self.id)
                raise TimeoutError(
                    f"execution {self.id} did not finish within {seconds:g} s"
                    + (f": it is {status}" if status else "")
                ) from None
        return cast("Out", outcome(self.id, ended))

    async def status(self) -> str:
        """Return the status: queued, running, waiting, stuck, paused, completed, failed or cancelled.

        Raises `ExecutionNotFoundError`.
        """
        found = await (await self._connection.store()).statuses.read([self.id], 0)
        if self.id not in found:
            raise ExecutionNotFoundError(self.id)
        return found[self.id].word

    async def cancel(self, *, cancelled_by: str | None = None, durability: Durability | None = None) -> None:
        """Cancel the execution and its descendants; see `PolosClient.cancel`."""
        await ending.cancel(self._connection, self.id, cancelled_by=cancelled_by, durability=durability)

    def __repr__(self) -> str:
        return f"<ExecutionHandle {self.id}" + (f" of {self.workflow_id}>" if self.workflow_id else ">")


def outcome(execution_id: str, ended: Ended) -> Any:
    """Return the result of an execution that has ended, or raise its error."""
    if ended.status == "completed":
        return codec.decode(ended.output or b"\xc0")
    if ended.status == "cancelled":
        raise ExecutionCancelledError(execution_id, ended.cancelled_by)
    error = stored_errors.parse_error(ended.error or b"")
    raise ExecutionFailedError(execution_id, error.type, error.message, error.traceback)
