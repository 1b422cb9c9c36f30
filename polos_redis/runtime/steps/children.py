"""`ctx.step.invoke` and its variants: children, with or without waiting for them.

A child lives in its root's partition, under an id made of the root's id and a hash of parent, step key and
index, so a repeated call finds the same child. Up to `CHUNK` children are started by one script call. The
script that ends a child puts its result into the parent's journal; the last one wakes the parent. So the
parent's replay needs its own journal only, however long ago the child was deleted.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar, Unpack, overload

from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.errors import (
    ConfigurationError,
    OlderChildError,
    StepExecutionError,
    StepKeyError,
    StoredValueError,
)
from polos_redis.executions.batch import BatchStepResult, BatchWorkflowInput
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.executions.starting import prepare
from polos_redis.runtime.branches import one_wait, race_membership
from polos_redis.runtime.call_sites import CallSite, caller, described
from polos_redis.runtime.steps.calls import Calls
from polos_redis.runtime.steps.child_requests import ChildCall, ChildOptions, batch_calls, child_call
from polos_redis.state import journal, keys, stored_errors
from polos_redis.state.journal import ChildRecord, ResultRecord
from polos_redis.state.start import Child
from polos_redis.values.text import raw

Out = TypeVar("Out")

CHUNK = 100  # children started by one call at most
CHUNK_BYTES = 262_144  # of their inputs, about


class Children(Calls):
    """Steps that start executions as children of this one."""

    __slots__ = ()

    @overload
    def invoke(
        self,
        key: str,
        workflow: WorkflowDefinition[Any, Out],
        payload: Any = None,
        **options: Unpack[ChildOptions],
    ) -> Coroutine[Any, Any, ExecutionHandle[Out]]: ...
    @overload
    def invoke(
        self, key: str, workflow: str, payload: Any = None, **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, ExecutionHandle[Any]]: ...
    def invoke(
        self,
        key: str,
        workflow: WorkflowDefinition[Any, Any] | str,
        payload: Any = None,
        **options: Unpack[ChildOptions],
    ) -> Coroutine[Any, Any, ExecutionHandle[Any]]:
        """Start a child without waiting for it; returns its handle.

        The child outlives this execution, unless that is cancelled or hits its run timeout, which ends the
        child too. `options` are `queue=`, `concurrency_key=`, `run_timeout_seconds=`, `initial_state=`.
        """
        self._refuse_inside_step(key, "invoke")
        return self._invoke(key, child_call(key, workflow, payload, options), caller())

    async def _invoke(self, key: str, call: ChildCall, call_site: CallSite) -> ExecutionHandle[Any]:
        return (await self._handles(key, [call], call_site))[0]

    def batch_invoke(
        self, key: str, workflows: Sequence[BatchWorkflowInput]
    ) -> Coroutine[Any, Any, list[ExecutionHandle[Any]]]:
        """Start any number of children without waiting for them; returns their handles in order."""
        self._refuse_inside_step(key, "batch_invoke")
        return self._handles(key, batch_calls(key, workflows), caller())

    @overload
    def invoke_and_wait(
        self,
        key: str,
        workflow: WorkflowDefinition[Any, Out],
        payload: Any = None,
        **options: Unpack[ChildOptions],
    ) -> Coroutine[Any, Any, Out]: ...
    @overload
    def invoke_and_wait(
        self, key: str, workflow: str, payload: Any = None, **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, Any]: ...
    def invoke_and_wait(
        self,
        key: str,
        workflow: WorkflowDefinition[Any, Any] | str,
        payload: Any = None,
        **options: Unpack[ChildOptions],
    ) -> Coroutine[Any, Any, Any]:
        """Start a child and wait for its result, parked. Raises `StepExecutionError`, which names the child,
        if it fails or is cancelled. Options as for `invoke`."""
        self._refuse_inside_step(key, "invoke_and_wait")
        return self._invoke_and_wait(key, child_call(key, workflow, payload, options), caller())

    @one_wait
    async def _invoke_and_wait(self, key: str, call: ChildCall, call_site: CallSite) -> Any:
        ((child_id, result),) = await self._results(key, [call], call_site)
        if result.status == "completed":
            return await self._decode(key, result.value)
        name = f"child {child_id} of workflow {call.workflow_id!r}"
        if result.status == "cancelled":
            by = result.value.decode("utf-8", "replace")
            raise StepExecutionError(
                key, "ExecutionCancelledError", f"{name} was cancelled" + (f" by {by}" if by else "")
            )
        error = stored_errors.parse_error(result.value)
        raise StepExecutionError(key, error.type, f"{name} failed: {error.message}")

    def batch_invoke_and_wait(
        self, key: str, workflows: Sequence[BatchWorkflowInput]
    ) -> Coroutine[Any, Any, list[BatchStepResult]]:
        """Start any number of children and wait for all of them, parked, woken once.

        Returns how each has ended, in order; a child that failed or was cancelled raises nothing.
        """
        self._refuse_inside_step(key, "batch_invoke_and_wait")
        return self._batch_invoke_and_wait(key, batch_calls(key, workflows), caller())

    @one_wait
    async def _batch_invoke_and_wait(
        self, key: str, calls: list[ChildCall], call_site: CallSite
    ) -> list[BatchStepResult]:
        found = await self._results(key, calls, call_site)
        return [
            await self._batch_result(key, one.workflow_id, result)
            for one, (_, result) in zip(calls, found, strict=True)
        ]

    async def _batch_result(self, key: str, workflow_id: str, result: ResultRecord) -> BatchStepResult:
        if result.status == "completed":
            value = await self._decode(key, result.value)
            return BatchStepResult(workflow_id=workflow_id, success=True, result=value)
        if result.status == "cancelled":
            by = result.value.decode("utf-8", "replace")
            text = "ExecutionCancelledError: cancelled" + (f" by {by}" if by else "")
        else:
            error = stored_errors.parse_error(result.value)
            text = f"{error.type}: {error.message}"
        return BatchStepResult(workflow_id=workflow_id, success=False, error=text)

    # --- starting them ----------------------------------------------------------------------------

    async def _handles(
        self, key: str, calls: list[ChildCall], call_site: CallSite
    ) -> list[ExecutionHandle[Any]]:
        activation = self._activation
        stored = await self._start(key, calls, "started", call_site)
        record = await self._read(key, stored, ChildRecord, call_site)
        return [
            ExecutionHandle(
                activation.host.connection,
                record.child_id(activation.id, key, index, activation.origin.since_run),
                one.workflow_id,
                root_workflow_id=activation.origin.root_workflow_id,
            )
            for index, one in enumerate(calls)
        ]

    async def _results(
        self, key: str, calls: list[ChildCall], call_site: CallSite
    ) -> list[tuple[str, ResultRecord]]:
        activation = self._activation
        stored = await self._start(key, calls, "open", call_site)
        if not calls:
            return []
        record = await self._decision(key, stored, ChildRecord, call_site)
        ids = [
            record.child_id(activation.id, key, index, activation.origin.since_run)
            for index in range(len(calls))
        ]
        names = [journal.result_name(child_id) for child_id in ids]
        missing = [name for name in names if name not in activation.journal.records]
        if missing:  # results that came during this activation
            await activation.journal.read_more(missing)
        records = activation.journal.records
        return [
            (child_id, journal.parse_result(records.get(name, b"")))
            for child_id, name in zip(ids, names, strict=True)
        ]

    async def _start(self, key: str, calls: list[ChildCall], status: str, call_site: CallSite) -> bytes:
        """Start the children that have not been started; returns the step's record."""
        activation = self._activation
        stored = await self._start_call(key, call_site)
        record = None if stored is None else await self._read(key, stored, ChildRecord, call_site)
        if record is not None and record.status != "closed" and record.children != len(calls):
            raise activation.stop_with(
                StepKeyError(
                    f"step key {key!r} at {described(call_site)} has {len(calls)} children now, but "
                    f"started {record.children} before: its arguments must be the same at every replay"
                )
            )
        if status == "open" and record is None:
            activation.expect(len(calls), key, call_site)  # their results
        elif record is not None and record.status == "open":
            activation.journal.expected += record.left
        started = 0 if record is None else record.started
        if stored is not None and (
            started == len(calls) or (record is not None and record.status == "closed")
        ):
            return stored
        if activation.unreached:
            await activation.reach_decisions(call_site)
        activation.in_flight += 1  # no park until all have started
        try:
            # all are prepared before the first is started: an invalid one is refused with nothing written
            children = await asyncio.gather(
                *(self._child(key, index, one) for index, one in enumerate(calls) if index >= started)
            )
            while stored is None or children:
                chunk = _chunk(children)
                children = children[len(chunk) :]
                stored = await self._spawn(key, status, len(calls), started, chunk)
                started += len(chunk)
                if children and (await self._read(key, stored, ChildRecord, call_site)).status == "closed":
                    break  # another branch has won meanwhile
        finally:
            activation.landed()
        return stored

    async def _spawn(self, key: str, status: str, total: int, first: int, chunk: list[Child]) -> bytes:
        activation = self._activation
        events, races = activation.events.first(), race_membership()
        store, name = activation.host.store, raw(key)
        retention_ms = activation.host.connection.retention_ms

        async def send(known: int) -> Any:
            reply = await store.fenced.spawn(
                activation.fence,
                known,
                name,
                status=status,
                total=total,
                first=first,
                retention_ms=retention_ms,
                children=chunk,
                race_membership=races,
                events=events,
            )
            if type(reply) is list and reply[0] == b"older":
                raise _Older(reply[1].decode())
            return reply

        try:
            return await self._commit_wait(key, send)
        except _Older as older:
            raise activation.stop_with(OlderChildError(key, older.child_id)) from None

    async def _child(self, key: str, index: int, call: ChildCall) -> Child:
        activation = self._activation
        prepared = functools.partial(
            prepare,
            activation.host.connection,
            call.workflow,
            call.payload,
            parent=(activation.origin, activation.id),
            **call.options,
        )
        try:
            workflow_id, packed, start = await activation.journal.ask(prepared)
        except (StoredValueError, ConfigurationError) as error:
            raise type(error)(f"child {index} of step {key!r}: {error}") from error.__cause__
        child_id = keys.child_id(activation.id, key, index, activation.origin.since_run)
        return Child(child_id, workflow_id, packed, start)


class _Older(Exception):
    """A child's id belongs to a child of an earlier execution, which has not ended."""

    def __init__(self, child_id: str) -> None:
        self.child_id = child_id


def _chunk(children: list[Child]) -> list[Child]:
    """Returns the first children, as many as one call may start."""
    size, count = 0, 0
    for child in children[:CHUNK]:
        size += len(child.input)
        if count and size > CHUNK_BYTES:
            break
        count += 1
    return children[:count]
