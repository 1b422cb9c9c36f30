"""`ctx.step.invoke` and its kin: executions begun by an execution, waited for or not.

A child lives in its root's partition; its id comes from its parent's id and the step key, so a repeated call
finds the same child. Its result is put into the parent's journal by the script that ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar, Unpack, overload

from polos_redis.definitions.queue import Queue
from polos_redis.errors import ConfigurationError, StepExecutionError, StepKeyError, StoredValueError
from polos_redis.executions.batch import BatchStepResult, BatchWorkflowInput
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.runtime.activation import CallSite, described
from polos_redis.runtime.steps.calls import Calls, caller, one_wait, race_membership
from polos_redis.state import journal, keys
from polos_redis.state.journal import ChildRecord, ResultRecord
from polos_redis.state.store import Child, RaceMembership, raw
from polos_redis.values import codec
from polos_redis.workflow import Workflow

Out = TypeVar("Out")

CHUNK = 100  # children begun in one call, and
CHUNK_BYTES = 262_144  # bytes of their inputs, about


class ChildOptions(TypedDict, total=False):
    """How a child is begun; see `PolosClient.invoke`."""

    queue: Queue | str | None
    concurrency_key: str | None
    run_timeout_seconds: float | None
    initial_state: Any


@dataclass(frozen=True, slots=True)
class ChildCall:
    """A child as it is asked for."""

    workflow: Workflow[Any, Any] | str
    payload: Any
    options: dict[str, Any]

    @property
    def workflow_id(self) -> str:
        return self.workflow.id if isinstance(self.workflow, Workflow) else self.workflow


class Children(Calls):
    """Executions begun by this one."""

    __slots__ = ()

    @overload
    def invoke(
        self, key: str, workflow: Workflow[Any, Out], payload: Any = None, **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, ExecutionHandle[Out]]: ...
    @overload
    def invoke(
        self, key: str, workflow: str, payload: Any = None, **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, ExecutionHandle[Any]]: ...
    def invoke(
        self,
        key: str,
        workflow: Workflow[Any, Any] | str,
        payload: Any = None,
        **options: Unpack[ChildOptions],
    ) -> Coroutine[Any, Any, ExecutionHandle[Any]]:
        """Begin a child and go on; returns its handle.

        The child goes on when this execution ends by itself; a cancel of this one, or its run timeout, ends
        it too. `options` are `queue=`, `concurrency_key=`, `run_timeout_seconds=`, `initial_state=`.
        """
        self._refuse_inside_step(key, "invoke")
        return self._invoke(key, want(key, workflow, payload, options), caller())

    async def _invoke(self, key: str, wanted: ChildCall, call_site: CallSite) -> ExecutionHandle[Any]:
        return (await self._handles(key, [wanted], call_site))[0]

    def batch_invoke(
        self, key: str, workflows: Sequence[BatchWorkflowInput]
    ) -> Coroutine[Any, Any, list[ExecutionHandle[Any]]]:
        """Begin any number of children and go on; returns their handles in order."""
        self._refuse_inside_step(key, "batch_invoke")
        return self._handles(key, _batch(key, workflows), caller())

    @overload
    def invoke_and_wait(
        self, key: str, workflow: Workflow[Any, Out], payload: Any = None, **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, Out]: ...
    @overload
    def invoke_and_wait(
        self, key: str, workflow: str, payload: Any = None, **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, Any]: ...
    def invoke_and_wait(
        self,
        key: str,
        workflow: Workflow[Any, Any] | str,
        payload: Any = None,
        **options: Unpack[ChildOptions],
    ) -> Coroutine[Any, Any, Any]:
        """Begin a child and wait for its result, parked; a child that fails or is cancelled raises
        `StepExecutionError` that names it. Options as for `invoke`."""
        self._refuse_inside_step(key, "invoke_and_wait")
        return self._invoke_and_wait(key, want(key, workflow, payload, options), caller())

    @one_wait
    async def _invoke_and_wait(self, key: str, wanted: ChildCall, call_site: CallSite) -> Any:
        ((child_id, result),) = await self._results(key, [wanted], call_site)
        if result.status == "completed":
            return codec.decode(result.value)
        name = f"child {child_id} of workflow {wanted.workflow_id!r}"
        if result.status == "cancelled":
            by = result.value.decode("utf-8", "replace")
            raise StepExecutionError(
                key, "ExecutionCancelledError", f"{name} was cancelled" + (f" by {by}" if by else "")
            )
        error = journal.parse_error(result.value)
        raise StepExecutionError(key, error.type, f"{name} failed: {error.message}")

    def batch_invoke_and_wait(
        self, key: str, workflows: Sequence[BatchWorkflowInput]
    ) -> Coroutine[Any, Any, list[BatchStepResult]]:
        """Begin any number of children and wait for all of them, parked, woken once.

        Returns how each has ended, in order; a child that failed or was cancelled raises nothing.
        """
        self._refuse_inside_step(key, "batch_invoke_and_wait")
        return self._batch_invoke_and_wait(key, _batch(key, workflows), caller())

    @one_wait
    async def _batch_invoke_and_wait(
        self, key: str, wanted: list[ChildCall], call_site: CallSite
    ) -> list[BatchStepResult]:
        found = await self._results(key, wanted, call_site)
        return [_told(one.workflow_id, result) for one, (_, result) in zip(wanted, found, strict=True)]

    # --- how ----------------------------------------------------------------------------

    async def _handles(
        self, key: str, wanted: list[ChildCall], call_site: CallSite
    ) -> list[ExecutionHandle[Any]]:
        activation = self._activation
        await self._start(key, wanted, "started", call_site)
        return [
            ExecutionHandle(
                activation.host.client,
                keys.child_id(activation.id, key, index),
                one.workflow_id,
                root_workflow_id=activation.origin.root_workflow_id,
            )
            for index, one in enumerate(wanted)
        ]

    async def _results(
        self, key: str, wanted: list[ChildCall], call_site: CallSite
    ) -> list[tuple[str, ResultRecord]]:
        activation = self._activation
        ids = [keys.child_id(activation.id, key, index) for index in range(len(wanted))]
        stored = await self._start(key, wanted, "open", call_site)
        if wanted:
            await self._decision(key, stored, ChildRecord, call_site)
        names = [journal.result_name(child_id) for child_id in ids]
        missing = [name for name in names if name not in activation.journal]
        if missing:  # they came while this activation lived
            found = await activation.host.store.read_records(activation.id, missing)
            activation.journal.update((n, v) for n, v in zip(missing, found, strict=True) if v is not None)
        return [
            (child_id, journal.parse_result(activation.journal.get(name, b"")))
            for child_id, name in zip(ids, names, strict=True)
        ]

    async def _start(self, key: str, wanted: list[ChildCall], status: str, call_site: CallSite) -> bytes:
        """Begin those children that have not been begun; the step's record."""
        activation = self._activation
        stored = await self._start_call(key, call_site)
        record = None if stored is None else self._read(key, stored, ChildRecord, call_site)
        if record is not None and record.status != "closed" and record.children != len(wanted):
            raise activation.stop_with(
                StepKeyError(
                    f"step key {key!r} at {described(call_site)} has {len(wanted)} children now, but began "
                    f"{record.children} before: what it is given must be the same at every replay"
                )
            )
        started = 0 if record is None else record.started
        if stored is not None and (
            started == len(wanted) or (record is not None and record.status == "closed")
        ):
            return stored
        activation.in_flight += 1  # until all of them have been begun, nothing parks
        try:
            # all are prepared before the first is begun: one that can't be is refused with nothing written
            children = await asyncio.gather(
                *(self._child(key, index, one) for index, one in enumerate(wanted) if index >= started)
            )
            while stored is None or children:
                chunk = _chunk(children)
                children = children[len(chunk) :]
                stored = await self._spawn(key, status, len(wanted), started, chunk)
                started += len(chunk)
        finally:
            activation.landed()
        return stored

    async def _spawn(self, key: str, status: str, total: int, first: int, chunk: list[Child]) -> bytes:
        activation = self._activation
        events, races = activation.first_events(), race_membership() if status == "open" else RaceMembership()
        store, name = activation.host.store, raw(key)
        retention = activation.host.client.retention_ms
        return await self._commit_wait(
            key,
            lambda known: store.spawn(
                activation.fence, known, name, status, total, first, retention, chunk, races, events
            ),
        )

    async def _child(self, key: str, index: int, wanted: ChildCall) -> Child:
        activation = self._activation
        try:
            workflow_id, packed, start = await activation.host.client.prepare(
                wanted.workflow, wanted.payload, parent=(activation.origin, activation.id), **wanted.options
            )
        except (StoredValueError, ConfigurationError) as error:
            raise type(error)(f"child {index} of step {key!r}: {error}") from error.__cause__
        return Child(keys.child_id(activation.id, key, index), workflow_id, packed, start)


def want(key: str, workflow: Workflow[Any, Any] | str, payload: Any, options: ChildOptions) -> ChildCall:
    known = ChildOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"step {key!r}: {name!r} is no option of a child: {', '.join(known)} are")
    return ChildCall(workflow, payload, dict(options))


def _batch(key: str, workflows: Sequence[BatchWorkflowInput]) -> list[ChildCall]:
    found = []
    for index, one in enumerate(workflows):
        if not isinstance(one, BatchWorkflowInput):
            raise ConfigurationError(f"child {index} of step {key!r} is a BatchWorkflowInput, not {one!r}")
        options = {
            "initial_state": one.initial_state,
            "run_timeout_seconds": one.run_timeout_seconds,
        }
        given = {name: value for name, value in options.items() if value is not None}
        found.append(ChildCall(one.id, one.payload, given))
    return found


def _chunk(children: list[Child]) -> list[Child]:
    """As many of them as one call may begin."""
    size, count = 0, 0
    for child in children[:CHUNK]:
        size += len(child.input)
        if count and size > CHUNK_BYTES:
            break
        count += 1
    return children[:count]


def _told(workflow_id: str, result: ResultRecord) -> BatchStepResult:
    if result.status == "completed":
        return BatchStepResult(workflow_id=workflow_id, success=True, result=codec.decode(result.value))
    if result.status == "cancelled":
        by = result.value.decode("utf-8", "replace")
        text = "ExecutionCancelledError: cancelled" + (f" by {by}" if by else "")
    else:
        error = journal.parse_error(result.value)
        text = f"{error.type}: {error.message}"
    return BatchStepResult(workflow_id=workflow_id, success=False, error=text)
