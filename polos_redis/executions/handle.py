"""A handle to an execution: its result, its status."""

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
from polos_redis.state import keys, stored_errors
from polos_redis.state.executions import Ended
from polos_redis.state.origin import Origin
from polos_redis.values import codec
from polos_redis.values.text import text

Out = TypeVar("Out", covariant=True)


class ExecutionHandle(Generic[Out]):
    """One execution, seen from outside. `root_*` name the execution at the top of its tree (itself, if it has
    no parent). Awaiting a handle checks that the execution exists and fills in its workflow id."""

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
        return self._checked().__await__()

    async def _checked(self) -> ExecutionHandle[Out]:
        store = await self._connection.store()
        workflow, origin = await store.executions.read_fields(self.id, "workflow", "origin")
        if workflow is None:
            raise ExecutionNotFoundError(self.id)
        self.workflow_id = text(workflow)
        self.root_workflow_id = Origin.unpack(self.workflow_id, origin).root_workflow_id
        return self

    async def result(self, timeout: float | timedelta | None = None) -> Out:
        """Wait for the end and return what the workflow returned, in the workflow's own type.

        `timeout` in seconds (or a timedelta) raises `TimeoutError`; the execution goes on. Raises
        `ExecutionFailedError` with the workflow's own error, `ExecutionCancelledError`, or
        `ExecutionNotFoundError` (also when its retention passes meanwhile). Not in a workflow's own code.
        """
        if tasks.in_workflow():
            raise InsideWorkflowError(
                f"the result of {self.id} was awaited in a workflow's own code, where it would hold its "
                "worker's slot and not be journaled: use ctx.step.invoke_and_wait"
            )
        if timeout is None:
            ended = await self._connection.wait_for_end(self.id)
        else:
            seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
            try:
                async with asyncio.timeout(seconds):
                    ended = await self._connection.wait_for_end(self.id)
            except TimeoutError:
                raise TimeoutError(f"execution {self.id} has not finished within {seconds:g} s") from None
        return cast("Out", outcome(self.id, ended))

    async def status(self) -> str:
        """The status word: queued, waiting, completed, failed or cancelled."""
        store = await self._connection.store()
        (status,) = await store.executions.read_fields(self.id, "status")
        if status is None:
            raise ExecutionNotFoundError(self.id)
        return text(status)

    async def cancel(self, *, cancelled_by: str | None = None) -> None:
        """End the execution and its descendants; see `client.cancel`."""
        await ending.cancel(self._connection, self.id, cancelled_by=cancelled_by)

    def __repr__(self) -> str:
        return f"<ExecutionHandle {self.id}" + (f" of {self.workflow_id}>" if self.workflow_id else ">")


def outcome(execution_id: str, ended: Ended) -> Any:
    """The value an ended execution returned, or its error raised."""
    if ended.status == "completed":
        return codec.decode(ended.output or b"\xc0")
    if ended.status == "cancelled":
        raise ExecutionCancelledError(execution_id, ended.cancelled_by)
    error = stored_errors.parse_error(ended.error or b"")
    raise ExecutionFailedError(execution_id, error.type, error.message, error.traceback)
