"""The client: start, watch, resume and list executions. Everything a service embeds.

A client connects on first use and need not be closed. It belongs to no event loop: under a second
`asyncio.run`, or in a forked child, it makes its connections anew.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from polos_redis import settings, tasks
from polos_redis.connection.notices import Notices
from polos_redis.connection.tails import Tails
from polos_redis.decisions import answers, audit
from polos_redis.decisions.answers import Resumed, find_below, read_suspensions
from polos_redis.definitions.published import definition_of, limit_of
from polos_redis.definitions.queue import Queue
from polos_redis.errors import (
    ConfigurationError,
    ExecutionFinishedError,
    ExecutionNotFoundError,
    IdempotencyConflictError,
    InsideWorkflowError,
    InvalidInputError,
    NotFailedError,
    NotFinishedError,
    SuspensionNotFoundError,
    UnreadableValueError,
)
from polos_redis.executions import views
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.executions.page import Page
from polos_redis.executions.starting import Origin, queue_of, start_options
from polos_redis.state import journal, keys
from polos_redis.state.journal import SuspensionRecord
from polos_redis.state.store import FINISHED, STATUSES, Ended, Start, Store, text
from polos_redis.values import codec
from polos_redis.wire.routing import wire_to
from polos_redis.wire.urls import parse
from polos_redis.workflow import InvokeOptions, Workflow

Out = TypeVar("Out")

RECHECK_SECONDS = 10.0  # a notice may be lost: ask the execution itself this often
LIST_LIMIT = 1000


class _Session:
    """A client's connections in one event loop of one process."""

    def __init__(self, client: PolosClient) -> None:
        from polos_redis.state import scripts

        self.pid = os.getpid()
        self.wire = wire_to(client.url, name="polos-client", scripts=scripts.ALL)
        self.store = Store(self.wire, client.namespace, client.partitions, client.patience)
        self.name = os.urandom(6).hex()
        self.notices = Notices(self.wire, self.store.prefixes, self.name, self._received, self._recheck)
        self.tail = Tails(self.wire, self.store.prefixes, client.patience)
        self.ends: dict[bytes, list[asyncio.Future[Ended | None]]] = {}
        self.checked = False

    def _received(self, notice: list[Any]) -> None:
        if notice[0] != b"done":
            return
        _, execution_id, status, field, value = notice
        ended: Ended | None = (
            None  # unknown: look again, as at a failed one, which may have been retried since
        )
        if value is not None and value is not False:
            if field == b"output":
                ended = Ended(text(status), output=value)
            elif field == b"cancelled_by":
                ended = Ended(text(status), cancelled_by=text(value) or None)
        for future in self.ends.get(execution_id, ()):
            if not future.done():
                future.set_result(ended)

    def _recheck(self) -> None:
        for futures in self.ends.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    async def wait_for_end(self, execution_id: str) -> Ended:
        await self.notices.start(self.store.prefix(execution_id))
        name = execution_id.encode("utf-8", "surrogatepass")
        loop = asyncio.get_running_loop()
        while True:
            future: asyncio.Future[Ended | None] = loop.create_future()
            waiting = self.ends.setdefault(name, [])
            waiting.append(future)
            try:
                ended = await self.store.watch(execution_id, self.name)
                if ended is None:
                    raise ExecutionNotFoundError(execution_id)
                if ended.status in FINISHED:
                    return ended
                again = loop.call_later(RECHECK_SECONDS, _resolve, future)
                try:
                    ended = await future
                finally:
                    again.cancel()
                if ended is not None:
                    return ended
            finally:
                waiting.remove(future)
                if not waiting:
                    self.ends.pop(name, None)

    async def close(self) -> None:
        await self.tail.close()
        await self.notices.close()
        await self.wire.close()
        self._recheck()  # who still waits is told that it is closed

    def abort(self) -> None:
        for connection in (self.tail, self.notices, self.wire):
            connection.abort()


def _resolve(future: asyncio.Future[Ended | None]) -> None:
    if not future.done():
        future.set_result(None)


class PolosClient:
    """Starts, watches, resumes and lists the executions of one namespace on one Redis.

    Every option left out comes from its environment variable, else its default (the README has the table).
    Safe to share between tasks; calls repeat by themselves while Redis is away, for `patience_seconds`.
    """

    def __init__(
        self,
        url: str | None = None,
        namespace: str | None = None,
        *,
        partitions: int | None = None,
        retention_seconds: float | None = None,
        max_value_bytes: int | None = None,
        patience_seconds: float | None = None,
    ) -> None:
        self.url: str = settings.resolve("url", url)
        parse(self.url)  # refuse a bad one here, not at the first call
        self.namespace = keys.check_namespace(settings.resolve("namespace", namespace))
        self.partitions: int = settings.resolve("partitions", partitions)
        self.retention_ms = int(settings.resolve("retention_seconds", retention_seconds) * 1000)
        self.max_value_bytes: int = settings.resolve("max_value_bytes", max_value_bytes)
        self.patience: float = settings.resolve("patience_seconds", patience_seconds)
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}

    # --- connections --------------------------------------------------------------------

    async def session(self) -> _Session:
        """The connections of the running loop, made on first use."""
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.pid != os.getpid():
            for other in [other for other in self._sessions if other.is_closed()]:
                self._sessions.pop(other).abort()
            session = self._sessions[loop] = _Session(self)
        if not session.checked:
            await session.store.check_partitions()
            session.checked = True
        return session

    async def store(self) -> Store:
        """The state, for the running loop."""
        return (await self.session()).store

    async def aclose(self) -> None:
        """Close the connections of this loop; the client may be used again afterwards."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- starting -----------------------------------------------------------------------

    @overload
    async def invoke(
        self, workflow: Workflow[Any, Out], input: Any = None, **options: Unpack[InvokeOptions]
    ) -> ExecutionHandle[Out]: ...
    @overload
    async def invoke(
        self, workflow: str, input: Any = None, **options: Unpack[InvokeOptions]
    ) -> ExecutionHandle[Any]: ...
    async def invoke(
        self, workflow: Workflow[Any, Any] | str, input: Any = None, **options: Unpack[InvokeOptions]
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
        self._refuse_in_workflow("invoke")
        if not options and isinstance(workflow, Workflow) and workflow.plain:
            packed = codec.encode(workflow.check_input(input), limit=self.max_value_bytes)
            execution_id = os.urandom(16).hex()
            await (await self.store()).invoke(execution_id, workflow.id, packed, self.retention_ms)
            return ExecutionHandle(self, execution_id, workflow.id)
        for name in options.keys() - InvokeOptions.__annotations__.keys():
            known = ", ".join(sorted(InvokeOptions.__annotations__))
            raise TypeError(f"invoke has no option {name!r}; it has {known}")
        key = options.pop("idempotency_key", None)
        workflow_id, packed, start = await self.prepare(workflow, input, **options)
        if key is None:
            execution_id = os.urandom(16).hex()
        else:
            if not isinstance(key, str) or not key:
                raise InvalidInputError(f"idempotency_key is a text that is not empty, not {key!r}")
            execution_id = keys.derived_id(workflow_id, key)
            start = replace(start, digest=codec.stored_digest(packed))
        store = await self.store()
        if await store.invoke(execution_id, workflow_id, packed, self.retention_ms, start) < 0:
            raise IdempotencyConflictError(workflow_id, str(key), execution_id)
        return ExecutionHandle(self, execution_id, workflow_id)

    async def prepare(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any,
        *,
        parent: tuple[Origin, str] | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        started_by: str | None = None,
        initial_state: Any = None,
        queue: Queue | str | None = None,
        **options: Any,
    ) -> tuple[str, bytes, Start]:
        """Validate and encode a new execution: its workflow's id, its input as stored, and how it starts.

        `parent` is the parent's origin and id. Nothing is written.
        """
        if isinstance(workflow, Workflow):
            workflow_id, checked = workflow.id, workflow.check_input(input)
            initial_state = workflow.check_state(initial_state)
        else:
            workflow_id, checked = workflow, input
            if not isinstance(workflow_id, str) or not workflow_id:
                raise ConfigurationError(f"expected a workflow or a workflow's id, not {workflow!r}")
        packed = codec.encode(checked, limit=self.max_value_bytes)
        store = await self.store()
        definition = await definition_of(store, workflow)
        chosen = queue_of(definition, workflow_id, queue)
        if options.get("concurrency_key") is not None and chosen.concurrency_limit is None:
            chosen = Queue(chosen.name, await limit_of(store, chosen.name))
        state = None if initial_state is None else codec.encode(initial_state, limit=self.max_value_bytes)
        known: dict[str, Any] = {"session_id": session_id, "user_id": user_id, "started_by": started_by}
        for name, given in known.items():
            if given is not None and not isinstance(given, str):
                raise InvalidInputError(f"workflow {workflow_id!r}: {name} is a text or None, not {given!r}")
        known["initial_state"] = state
        origin: Origin | None = None
        if parent is not None:
            root, parent_id = parent
            known["session_id"] = session_id or root.session_id
            known["user_id"] = user_id or root.user_id
            known["started_by"] = root.started_by
            origin = Origin(root.root_workflow_id, parent_id, **known)
        elif any(value is not None for value in known.values()):
            origin = Origin(workflow_id, None, **known)
        return workflow_id, packed, start_options(definition, workflow_id, origin, queue=chosen, **options)

    def _refuse_in_workflow(self, call: str) -> None:
        if tasks.in_workflow():
            raise InsideWorkflowError(
                f"{call} was called in a workflow's own code, where every replay would start another "
                "execution: use ctx.step.invoke or ctx.step.invoke_and_wait"
            )

    def get_handle(self, execution_id: str) -> ExecutionHandle[Any]:
        """A handle to an execution started anywhere. No call is made: `await` it to have it checked."""
        return ExecutionHandle(self, execution_id)

    async def wait_for_end(self, execution_id: str) -> Ended:
        """How an execution ended; waits for it. Raises `ExecutionNotFoundError`."""
        return await (await self.session()).wait_for_end(execution_id)

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
        store = await self.store()
        (run,) = await store.read_fields(execution_id, "run")
        if run is None:
            raise ExecutionNotFoundError(execution_id)
        tag, *rest = await store.cancel(execution_id, int(run), cancelled_by or "")
        if tag == b"missing":
            raise ExecutionNotFoundError(execution_id)
        if tag == b"finished":
            raise ExecutionFinishedError(execution_id, text(rest[0]))
        if tag == b"run":
            await self.cancel(execution_id, cancelled_by=cancelled_by)

    async def retry(self, execution_id: str) -> int:
        """Let a failed execution go on from its journal as a new run; returns the run's number.

        What failed, timed out or was closed is tried again, failed children too; what has succeeded is kept.
        Raises `ExecutionNotFoundError`, or `NotFailedError` when it has not failed.
        """
        store = await self.store()
        (run,) = await store.read_fields(execution_id, "run")
        if run is None:
            raise ExecutionNotFoundError(execution_id)
        tag, *rest = await store.retry(execution_id, int(run))
        if tag == b"retried":
            return int(rest[0])
        if tag == b"status":
            raise NotFailedError(execution_id, text(rest[0]))
        if tag == b"run":  # somebody else was quicker
            return int(rest[0])
        raise ExecutionNotFoundError(execution_id)

    # --- reading ------------------------------------------------------------------------

    async def get_execution(self, execution_id: str) -> dict[str, Any]:
        """Everything known of an execution, as plain JSON values: id, workflow_id, status, input, result,
        error (type, message, traceback), created_at / started_at / finished_at (ISO 8601), steps,
        suspensions (what was shown, who answered, when, how), open_suspensions, usage (of models), waits,
        children (a thousand of each step), and of a root execution what is open below it
        (open_suspensions_below)."""
        store = await self.store()
        fields, records = await asyncio.gather(
            store.read_execution(execution_id), store.read_journal(execution_id)
        )
        if "workflow" not in fields:
            raise ExecutionNotFoundError(execution_id)
        found = views.describe(execution_id, fields, records)
        below: list[tuple[str, str]] = []
        if keys.root_of(execution_id) == execution_id:
            below = (await store.open_suspensions_below(execution_id))[: views.MOST_CHILDREN]
        rows = await read_suspensions(store, below)
        found["open_suspensions_below"] = [views.suspension(*row) for row in rows if row[2].status == "open"]
        children = found["children"]
        told = await asyncio.gather(*(store.read_fields(one["id"], "workflow", "status") for one in children))
        for one, (workflow, status) in zip(children, told, strict=True):
            one["workflow_id"] = text(workflow) or None
            one["status"] = text(status) or one["status"]
        return found

    async def list_executions(
        self,
        *,
        status: str | None = None,
        workflow: str | Workflow[Any, Any] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[dict[str, Any]]:
        """Executions, newest first: id, workflow_id, status and times. `cursor` is a page's `next_cursor`."""
        if status is not None and status not in STATUSES:
            raise ConfigurationError(f"status is one of {', '.join(STATUSES)}, not {status!r}")
        before = "+inf" if cursor is None else str(_cursor(cursor))
        limit = _limit(limit)
        statuses = STATUSES if status is None else (status,)
        store = await self.store()
        rows = await store.list_executions(statuses, _workflow_id(workflow), before, limit)
        found = [
            {
                "id": text(row[0]),
                "workflow_id": text(row[1]),
                "status": text(row[2]),
                "created_at": views.iso(int(row[3]) / 1000),
                "started_at": views.iso(int(row[4] or 0)),
                "finished_at": views.iso(int(row[5] or 0)),
            }
            for row in rows
            if row[1] is not None
        ]
        return Page(found, text(rows[-1][3]) if len(rows) == limit else None)

    async def list_suspensions(
        self,
        *,
        workflow: str | Workflow[Any, Any] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[dict[str, Any]]:
        """Open suspensions, oldest first: what waits, since when, until when, and what is shown."""
        after = "-inf" if cursor is None else str(_cursor(cursor))
        limit, wanted = _limit(limit), _workflow_id(workflow)
        store = await self.store()
        found: list[dict[str, Any]] = []
        while True:
            rows = await store.list_suspensions(after, limit if not wanted else LIST_LIMIT)
            for index, row in enumerate(rows):
                execution_id, step_key, workflow_id = text(row[0]), text(row[1]), text(row[2])
                after, packed = text(row[3]), row[4]
                if packed is None or (wanted and workflow_id != wanted):
                    continue
                try:
                    record = journal.parse(packed)
                except UnreadableValueError:
                    continue  # `get_execution` tells of it; here it must not hide the others
                if isinstance(record, SuspensionRecord):
                    one = views.suspension(execution_id, step_key, record)
                    found.append({**one, "workflow_id": workflow_id})
                if len(found) == limit:
                    last = index == len(rows) - 1 and len(rows) < (LIST_LIMIT if wanted else limit)
                    return Page(found, None if last else after)
            if len(rows) < (LIST_LIMIT if wanted else limit):
                return Page(found, None)

    async def get_suspension(self, execution_id: str, step_key: str) -> dict[str, Any]:
        """One suspension, open or not, as `list_suspensions` has it, and of its execution
        `root_workflow_id`, `root_execution_id`, `user_id`, `started_by` and `execution_status`.

        By a root's id one of a descendant is found too. Raises `ExecutionNotFoundError`,
        `SuspensionNotFoundError` or `AmbiguousSuspensionError`.
        """
        store = await self.store()
        fields = await store.read_fields(execution_id, "workflow", "status", "origin")
        if fields[0] is None:
            raise ExecutionNotFoundError(execution_id)
        found = await read_suspensions(store, [(execution_id, step_key)])
        if not found:
            below = await find_below(store, execution_id, step_key)
            if below is not None:
                return await self.get_suspension(below, step_key)
            known = (await self.get_execution(execution_id))["open_suspensions"]
            raise SuspensionNotFoundError(execution_id, step_key, [one["step_key"] for one in known])
        return {**views.suspension(*found[0]), **views.around(execution_id, *fields)}

    async def audit(self, execution_id: str) -> list[dict[str, Any]]:
        """What became of an execution's suspensions, and of its descendants', oldest first; kept for longer
        than the execution itself (`audit_seconds` of the worker, a year by default).

        Each with execution_id, workflow_id, step_key, status ("recorded", "answered", "expired", "closed"),
        by, at, channel, digest (of what was shown), opened_at and data (the answer; None once it was
        deleted). Raises `ExecutionNotFoundError` where there is neither an execution nor an audit.
        """
        store = await self.store()
        stored = await store.audit(keys.root_of(execution_id))
        found = audit.entries(stored, execution_id)
        if not found and (await store.read_fields(execution_id, "status"))[0] is None:
            raise ExecutionNotFoundError(execution_id)
        return found

    # --- deleting -----------------------------------------------------------------------

    async def delete(self, execution_id: str) -> int:
        """Delete a root execution that has ended, and its descendants: input, results, journal, events. Of
        its audit who, when and what it was about stay, the answers go. Returns how many executions were
        deleted. What other systems were told, and topics that user code publishes to, are not touched.

        Can be repeated when it was cut short. Raises `ExecutionNotFoundError`, `NotFinishedError`, or
        `InvalidInputError` for a child's id.
        """
        if keys.root_of(execution_id) != execution_id:
            raise InvalidInputError(
                f"execution {execution_id} is a child, a part of its root's events and journal: delete "
                f"{keys.root_of(execution_id)}"
            )
        store = await self.store()
        tag, *rest = await store.delete(execution_id)  # the root first: it says whether all below have ended
        if tag == b"status":
            raise NotFinishedError(execution_id, text(rest[0]))
        deleted, entries = int(rest[0]), int(rest[1])
        async for some in store.ended_below(execution_id):
            for tag, *rest in await asyncio.gather(*(store.delete(one) for one in some)):
                deleted += int(rest[0]) if tag == b"deleted" else 0
        if not deleted and not entries:
            raise ExecutionNotFoundError(execution_id)
        return deleted

    # --- workers ------------------------------------------------------------------------

    async def served_workflows(self) -> set[str]:
        """The workflow ids that workers announce now."""
        return await (await self.store()).served()


def _workflow_id(workflow: str | Workflow[Any, Any] | None) -> str:
    return workflow.id if isinstance(workflow, Workflow) else workflow or ""


def _limit(limit: int) -> int:
    if not isinstance(limit, int) or not 1 <= limit <= LIST_LIMIT:
        raise ConfigurationError(f"limit is a whole number from 1 to {LIST_LIMIT}, not {limit!r}")
    return limit


def _cursor(cursor: str) -> int:
    try:
        return int(cursor)
    except (TypeError, ValueError):
        raise ConfigurationError(f"cursor is the next_cursor of a page, not {cursor!r}") from None
