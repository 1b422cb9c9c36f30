"""The client: start, watch, resume and list executions. Everything a service embeds.

A client connects on first use and need not be closed. It belongs to no event loop: under a second
`asyncio.run`, or in a forked child, it makes its connections anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, Unpack, overload

from polos_redis import tasks
from polos_redis.connection.connection import Connection
from polos_redis.decisions import answers
from polos_redis.decisions.answers import Resumed
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.errors import InsideWorkflowError
from polos_redis.executions import ending, queries, starting
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.executions.page import Page
from polos_redis.executions.starting import InvokeOptions

Out = TypeVar("Out")


class PolosClient(Connection):
    """Starts, watches, resumes and lists the executions of one namespace on one Redis.

    Every option left out comes from its environment variable, else its default (see the options reference).
    Safe to share between tasks; calls repeat by themselves while Redis is away, for `patience_seconds`.
    """

    # --- starting -----------------------------------------------------------------------

    @overload
    async def invoke(
        self, workflow: WorkflowDefinition[Any, Out], input: Any = None, **options: Unpack[InvokeOptions]
    ) -> ExecutionHandle[Out]: ...
    @overload
    async def invoke(
        self, workflow: str, input: Any = None, **options: Unpack[InvokeOptions]
    ) -> ExecutionHandle[Any]: ...
    async def invoke(
        self,
        workflow: WorkflowDefinition[Any, Any] | str,
        input: Any = None,
        **options: Unpack[InvokeOptions],
    ) -> ExecutionHandle[Any]:
        """Start an execution of a workflow, or of a workflow id this process need not have imported.

        The input is validated where the workflow is known, and in any case by the worker. Options:
        `idempotency_key` starts one execution for it and the workflow, however often it is called while that
        one is kept, failed or not (another input raises `IdempotencyConflictError`); `start_delay` (seconds)
        or `start_at` (an aware datetime) start it later; `run_timeout_seconds` fails it when it has not
        finished by then, counted from its start, waiting included; `queue` and `concurrency_key` (a limit for
        each key) say where it waits for a worker; `session_id` and `user_id` are there for its code to see,
        `started_by` is who has started it, where that is not the user it is for; `initial_state` is for
        workflows with a `state_schema`.

        Not inside a workflow: use `ctx.step.invoke` there.
        """
        if tasks.in_workflow():
            raise InsideWorkflowError(
                "invoke was called in a workflow's own code, where every replay would start another "
                "execution: use ctx.step.invoke or ctx.step.invoke_and_wait"
            )
        return await starting.invoke(self, workflow, input, options)

    def get_handle(self, execution_id: str) -> ExecutionHandle[Any]:
        """A handle to an execution started anywhere. No call is made: `await` it to have it checked."""
        return ExecutionHandle(self, execution_id)

    # --- deciding -----------------------------------------------------------------------

    async def resume(
        self,
        *,
        suspend_execution_id: str,
        suspend_step_key: str,
        data: Any,
        suspend_workflow_id: str | None = None,
        resumed_by: str | None = None,
        groups: Sequence[str] = (),
        shown_digest: str | None = None,
        early: bool = False,
        channel: str = "client",
    ) -> Resumed:
        """Answer a suspension. Exactly one answer decides it; whoever sees the suspend event can answer.

        `suspend_workflow_id` (the root workflow's id) is taken for symmetry; the execution's id is enough.
        The same answer again has no effect and gets the first outcome. A workflow that does not know the type
        of a model given as `data` gets it as plain data. With `early=True` an answer that comes before its
        suspension is kept and used when it opens (and dropped then, with a warning, if it does not fit).

        Where the suspension says who may answer, and what: `resumed_by` and `groups` are who this is, as this
        program knows them; that is checked first. `shown_digest` is the digest of what was shown to that
        person: what shows something else by now is not decided, and nothing is answered early.

        Raises `ExecutionNotFoundError`, or a `ResumeError`: `AlreadyResumedError`, `SuspensionExpiredError`,
        `ExecutionFinishedError`, `SuspensionNotFoundError`, `AmbiguousSuspensionError`, `InvalidAnswerError`,
        `NotApproverError`, `ShownChangedError`; nothing is changed then.
        """
        return await answers.decide(
            self,
            suspend_execution_id,
            suspend_step_key,
            data,
            by=resumed_by,
            groups=groups,
            digest=shown_digest,
            early=early,
            channel=channel,
        )

    async def cancel(self, execution_id: str, *, cancelled_by: str | None = None) -> None:
        """End an execution and its descendants as cancelled. None of them starts another step.

        A running one gets CancelledError at its next await, and what its code still does is discarded, a step
        in flight included. Raises `ExecutionNotFoundError`, or `ExecutionFinishedError` when it had ended
        before.
        """
        await ending.cancel(self, execution_id, cancelled_by=cancelled_by)

    async def retry(self, execution_id: str) -> int:
        """Let a failed execution go on from its journal as a new run; returns the run's number.

        What failed, timed out or was closed is tried again, failed children too; what has succeeded is kept.
        Raises `ExecutionNotFoundError`, or `NotFailedError` when it has not failed.
        """
        return await ending.retry(self, execution_id)

    # --- reading ------------------------------------------------------------------------

    async def get_execution(self, execution_id: str) -> dict[str, Any]:
        """Everything known of an execution, as plain JSON values: id, workflow_id, status, input, result,
        error (type, message, traceback), created_at / started_at / finished_at (ISO 8601), steps,
        suspensions (what was shown, who answered, when, how), open_suspensions, usage (of models), waits,
        children (a thousand of each step), and of a root execution what is open below it
        (open_suspensions_below)."""
        return await queries.get_execution(self, execution_id)

    async def list_executions(
        self,
        *,
        status: str | None = None,
        workflow: str | WorkflowDefinition[Any, Any] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[dict[str, Any]]:
        """Executions, newest first: id, workflow_id, status and times. `cursor` is a page's `next_cursor`."""
        return await queries.list_executions(
            self, status=status, workflow=workflow, limit=limit, cursor=cursor
        )

    async def list_suspensions(
        self,
        *,
        workflow: str | WorkflowDefinition[Any, Any] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[dict[str, Any]]:
        """Open suspensions, oldest first: what waits, since when, until when, and what is shown."""
        return await queries.list_suspensions(self, workflow=workflow, limit=limit, cursor=cursor)

    async def get_suspension(self, execution_id: str, step_key: str) -> dict[str, Any]:
        """One suspension, open or not, as `list_suspensions` has it, and of its execution
        `root_workflow_id`, `root_execution_id`, `user_id`, `started_by` and `execution_status`.

        By a root's id one of a descendant is found too. Raises `ExecutionNotFoundError`,
        `SuspensionNotFoundError` or `AmbiguousSuspensionError`.
        """
        return await queries.get_suspension(self, execution_id, step_key)

    async def audit(self, execution_id: str) -> list[dict[str, Any]]:
        """What became of an execution's suspensions, and of its descendants', oldest first; kept for longer
        than the execution itself (`audit_seconds` of the worker, a year by default).

        Each with execution_id, workflow_id, step_key, status ("recorded", "answered", "expired", "closed"),
        by, at, channel, digest (of what was shown), opened_at and data (the answer; None once it was
        deleted). Raises `ExecutionNotFoundError` where there is neither an execution nor an audit.
        """
        return await queries.audit(self, execution_id)

    # --- deleting -----------------------------------------------------------------------

    async def delete(self, execution_id: str) -> int:
        """Delete a root execution that has ended, and its descendants: input, results, journal, events. Of
        its audit who, when and what it was about stay, the answers go. Returns how many executions were
        deleted. What other systems were told, and topics that user code publishes to, are not touched.

        Can be repeated when it was cut short. Raises `ExecutionNotFoundError`, `NotFinishedError`, or
        `InvalidInputError` for a child's id.
        """
        return await ending.delete(self, execution_id)

    # --- workers ------------------------------------------------------------------------

    async def served_workflows(self) -> set[str]:
        """The workflow ids that workers announce now."""
        return await (await self.store()).workers.served()
