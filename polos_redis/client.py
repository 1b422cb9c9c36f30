"""The client: start executions, await them, answer their suspensions, and query them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar, Unpack, overload

from polos_redis import tasks
from polos_redis.connection.connection import Connection
from polos_redis.decisions import answers
from polos_redis.decisions.answers import Resumed
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.errors import InsideWorkflowError
from polos_redis.executions import ending, forking, queries, starting, versions
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.executions.history import History, read_history
from polos_redis.executions.page import Page
from polos_redis.executions.starting import InvokeOptions
from polos_redis.results import (
    AuditEntry,
    Execution,
    ExecutionSummary,
    Suspension,
    SuspensionDetails,
    WorkflowVersion,
)
from polos_redis.wire.durable import Durability

__all__ = ["PolosClient"]

Out = TypeVar("Out")


class PolosClient(Connection):
    """A client of one namespace on one Redis, for any program that starts executions or answers them.

    It connects on first use and need not be closed. Tasks may share a client, and it works in any event loop:
    in a second `asyncio.run`, in another thread or in a forked child it opens new connections. Code without
    asyncio uses `polos_redis.sync.PolosClient`. With a `credential_provider`, each connection asks it for
    user and password. Options not given come from their environment variables, then from their defaults (see
    the options reference).

    While Redis is unavailable, every call is repeated for up to `patience_seconds`, then raises
    `RedisUnavailableError`.

    With `durability="fsync"` or "replicated", calls that start, answer, cancel, retry or delete executions,
    and `events.publish`, return once Redis has confirmed that their writes are on its disk, or that
    `replicas` replicas have received them. They raise `NotConfirmedError` if Redis executes them but does not
    confirm, and `ConfigurationError` if it can't. `durability=` of a call overrides that of its client.
    Workers' own writes are never confirmed.
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
        """Start an execution of a workflow and return its handle, as soon as the execution is stored.

        Pass the workflow, or only its id if this process has not imported it; the input is then validated by
        the worker alone. Options:

        - `idempotency_key`: start at most one execution per workflow and key. Further calls return the first
          one as long as it is retained, whatever its outcome. A call with another input, user, session,
          `started_by`, state, queue or concurrency key raises `IdempotencyConflictError`.
        - `start_delay` (seconds) or `start_at` (an aware datetime): start later.
        - `run_timeout_seconds`: fail the execution if it has not finished this long after its start, waits
          included.
        - `queue`, `concurrency_key`: the queue to wait in, and the key within it that the queue's limit
          applies to.
        - `session_id`, `user_id`: the session and the user it runs for, as `ctx` shows them.
        - `started_by`: the person who starts it on behalf of that user.
        - `initial_state`: the first `ctx.state`, for a workflow with a `state_schema`.
        - `durability`: "server", "fsync" or "replicated", instead of the client's.

        Raises `InvalidInputError`, `NotStorableError` or `ValueTooLargeError`; nothing is written then.
        Inside a workflow, use `ctx.step.invoke`; this raises `InsideWorkflowError` there.
        """
        if tasks.in_workflow():
            raise InsideWorkflowError(
                "invoke was called inside a workflow, where every replay would start another execution: use "
                "ctx.step.invoke or ctx.step.invoke_and_wait"
            )
        return await starting.invoke(self, workflow, input, options)

    def get_handle(self, execution_id: str) -> ExecutionHandle[Any]:
        """Return a handle to any execution, without a call to Redis. Await it to check that it exists."""
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
        durability: Durability | None = None,
    ) -> Resumed:
        """Answer a suspension with `data`. One answer resolves it; repeating that answer has no effect.

        - `resumed_by`, `groups`: the person who answers and their groups, as this program knows them. They
          are checked against the suspension's approvers, then the answer against its schema.
        - `shown_digest`: the digest of the data that this person was shown. If the suspension shows different
          data by now, the answer is refused.
        - `early=True`: store an answer that comes before its suspension opens, and use it then. The id must
          be that of the execution that will suspend; under a root's id, the answer is the root's own, even if
          a descendant suspends with that key. If it does not fit, it is dropped with a warning. An answer
          with `shown_digest` is never early.
        - `suspend_workflow_id`: accepted for symmetry; the execution's id is enough.
        - `channel`: the way the answer came, for the audit.

        A workflow that does not know the type of a model in `data` receives plain data.

        Raises `ExecutionNotFoundError`, or a `ResumeError`: `AlreadyResumedError`, `SuspensionExpiredError`,
        `ExecutionFinishedError`, `SuspensionNotFoundError`, `AmbiguousSuspensionError`, `InvalidAnswerError`,
        `NotApproverError` or `ShownChangedError`. The answer is not recorded then.
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
            durability=durability,
        )

    async def cancel(
        self,
        execution_id: str,
        *,
        cancelled_by: str | None = None,
        durability: Durability | None = None,
    ) -> None:
        """Cancel an execution and its descendants. None of them starts another step.

        Running code gets `CancelledError` at its next await; whatever it still does, a step in flight
        included, is discarded. Repeating a cancel with the same `cancelled_by` has no effect. Raises
        `ExecutionNotFoundError`, or `ExecutionFinishedError` if the execution has already ended otherwise.
        """
        await ending.cancel(self, execution_id, cancelled_by=cancelled_by, durability=durability)

    async def retry(
        self,
        execution_id: str,
        *,
        skip: str | Collection[str] = (),
        reason: str | None = None,
        by: str | None = None,
        durability: Durability | None = None,
    ) -> int:
        """Continue a failed, stuck or paused execution from its journal, as a new run; return the number of
        that run.

        Steps, waits and children that succeeded keep their results. Those that failed, timed out or were
        closed run again if the execution has failed; a stuck one keeps its whole journal. One that is paused
        keeps its open waits, too.

        `skip` has the step keys of accepted answers that the new run need not reach: the audit then notes
        the `reason` and who skipped them (`by`). Without it, code that does not reach them is stuck again.

        Raises `ExecutionNotFoundError`; `NotFailedError` if the execution is not failed, stuck or paused;
        `NotSkippableError` if it has no such answer; `InvalidInputError` if `skip` comes without a reason, or
        the other way round; `InternalWorkflowError` for an internal workflow that has failed: only a retry
        of its parent runs it again.
        """
        return await ending.retry(self, execution_id, skip=skip, reason=reason, by=by, durability=durability)

    async def fork(
        self,
        execution_id: str,
        *,
        from_step: str,
        results: Mapping[str, Any] | None = None,
        keep_decisions: bool = False,
        by: str | None = None,
        durability: Durability | None = None,
    ) -> ExecutionHandle[Any]:
        """Start a new execution with the input and the journal of another one up to a step; return its
        handle.

        The fork runs `from_step` and what had not ended when that began; earlier results are copied, those of
        children as well. The other execution is left as it is, running or not.

        - `results`: other results for steps, by step key: for copied ones, or for `from_step` itself, which
          then does not run.
        - `keep_decisions`: copy the answers of people, too. The audit notes each as copied. Without it, the
          fork asks again; the result of a child has the decisions made in the child, and is copied anyway.
        - `by`: the person who forks it. They count among those who started the fork, as do those who started
          the other execution.

        A fork of a child is a root. Raises `ExecutionNotFoundError`; `StepNotForkableError` if the journal
        has no such step, is too large up to there (32 MiB), or a result can't be set; `InternalWorkflowError`
        for an internal workflow; `InvalidInputError`, `NotStorableError` or `ValueTooLargeError`.
        """
        return await forking.fork(
            self,
            execution_id,
            from_step=from_step,
            results=results,
            keep_decisions=keep_decisions,
            by=by,
            durability=durability,
        )

    # --- reading ------------------------------------------------------------------------

    async def get_execution(self, execution_id: str) -> Execution:
        """Return everything about one execution: status, times, input, result or error, its steps,
        suspensions, waits and children.

        It reads like a dict, too, and prints as JSON. A root execution also lists the open suspensions of its
        descendants. Raises `ExecutionNotFoundError`.
        """
        return await queries.get_execution(self, execution_id)

    async def list_executions(
        self,
        *,
        status: str | None = None,
        workflow: str | WorkflowDefinition[Any, Any] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[ExecutionSummary]:
        """Return a page of executions, newest first, and what each is doing.

        `status` is queued, running, waiting, stuck, paused, completed, failed or cancelled.

        `cursor` is the previous page's `next_cursor`; `limit` is at most 1000. A page may have fewer rows,
        and yet a `next_cursor`.
        """
        return await queries.list_executions(
            self, status=status, workflow=workflow, limit=limit, cursor=cursor
        )

    async def list_suspensions(
        self,
        *,
        workflow: str | WorkflowDefinition[Any, Any] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Suspension]:
        """Return a page of open suspensions, oldest first.

        `cursor` is the previous page's `next_cursor`; `limit` is at most 1000. A page may have fewer rows,
        even none, and yet a `next_cursor`: when rows are large, or when many belong to other workflows.
        """
        return await queries.list_suspensions(self, workflow=workflow, limit=limit, cursor=cursor)

    async def get_suspension(self, execution_id: str, step_key: str) -> SuspensionDetails:
        """Return one suspension, open or not, with facts about its execution.

        A root's id also finds a descendant's suspension. Raises `ExecutionNotFoundError`,
        `SuspensionNotFoundError` or `AmbiguousSuspensionError`.
        """
        return await queries.get_suspension(self, execution_id, step_key)

    async def audit(self, execution_id: str) -> list[AuditEntry]:
        """Return the decisions on the suspensions of an execution and its descendants, oldest first.

        The audit outlives the execution: workers keep it for `audit_seconds`, a year by default. Raises
        `ExecutionNotFoundError` if neither exists.
        """
        return await queries.audit(self, execution_id)

    async def get_history(self, execution_id: str) -> History:
        """Return what is recorded of an execution, to replay code against it (see the guide "Replaying
        recorded executions"). Raises `ExecutionNotFoundError`."""
        return await read_history(self, execution_id)

    async def versions(self) -> list[WorkflowVersion]:
        """Return which versions of workflows (`@workflow(version=...)`) still have open executions."""
        return await versions.open_versions(self)

    # --- deleting -----------------------------------------------------------------------

    async def delete(self, execution_id: str, *, durability: Durability | None = None) -> int:
        """Delete a root execution that has ended, and its descendants; return how many were deleted.

        Inputs, results, journals and events are deleted. The audit keeps who decided what and when, without
        the answers. Topics that user code publishes to are not touched. If a call is interrupted, repeat it.

        Raises `ExecutionNotFoundError`, `NotFinishedError`, or `InvalidInputError` for a child's id.
        """
        return await ending.delete(self, execution_id, durability=durability)

    # --- workers ------------------------------------------------------------------------

    async def served_workflows(self) -> set[str]:
        """Return the ids of the workflows that workers serve now."""
        return set(await (await self.store()).workers.served())

    async def served_queues(self, workflow: str | WorkflowDefinition[Any, Any]) -> set[str]:
        """Return the queues that are read now by workers that serve a workflow."""
        workflow_id = workflow.id if isinstance(workflow, WorkflowDefinition) else workflow
        return (await (await self.store()).workers.served()).get(workflow_id, set())
