"""How an execution is begun: its workflow, its input, and where and when it runs."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypedDict

from polos_redis.connection.connection import Connection
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.definitions.published import PublishedDefinition, definition_of
from polos_redis.definitions.queue import Queue, as_queue
from polos_redis.errors import ConfigurationError, IdempotencyConflictError, InvalidInputError
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.state import keys
from polos_redis.state.origin import Origin
from polos_redis.state.start import Start
from polos_redis.values import codec, digests
from polos_redis.values.times import checked_ms, milliseconds


class InvokeOptions(TypedDict, total=False):
    """The options of `PolosClient.invoke`."""

    queue: Queue | str | None
    concurrency_key: str | None
    idempotency_key: str | None
    run_timeout_seconds: float | None
    start_delay: float | timedelta | None
    start_at: datetime | None
    session_id: str | None
    user_id: str | None
    started_by: str | None
    initial_state: Any


async def invoke(
    connection: Connection, workflow: WorkflowDefinition[Any, Any] | str, input: Any, options: InvokeOptions
) -> ExecutionHandle[Any]:
    """Start an execution; see `PolosClient.invoke`."""
    if not options and isinstance(workflow, WorkflowDefinition) and workflow.plain:
        packed = codec.encode(workflow.check_input(input), limit=connection.max_value_bytes)
        execution_id = os.urandom(16).hex()
        store = await connection.store()
        await store.executions.invoke(execution_id, workflow.id, packed, connection.retention_ms)
        return ExecutionHandle(connection, execution_id, workflow.id)
    for name in options.keys() - InvokeOptions.__annotations__.keys():
        known = ", ".join(sorted(InvokeOptions.__annotations__))
        raise TypeError(f"invoke has no option {name!r}; it has {known}")
    key = options.pop("idempotency_key", None)
    workflow_id, packed, start = await prepare(connection, workflow, input, **options)
    if key is None:
        execution_id = os.urandom(16).hex()
    else:
        if not isinstance(key, str) or not key:
            raise InvalidInputError(f"idempotency_key is a text that is not empty, not {key!r}")
        execution_id = keys.derived_id(workflow_id, key)
        start = replace(start, digest=digests.stored_digest(packed))
    store = await connection.store()
    if await store.executions.invoke(execution_id, workflow_id, packed, connection.retention_ms, start) < 0:
        raise IdempotencyConflictError(workflow_id, str(key), execution_id)
    return ExecutionHandle(connection, execution_id, workflow_id)


async def prepare(
    connection: Connection,
    workflow: WorkflowDefinition[Any, Any] | str,
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
    """Validate and encode a new execution: its workflow's id, its input as stored, and its start options.

    `parent` is the parent's origin and id. Nothing is written.
    """
    if isinstance(workflow, WorkflowDefinition):
        workflow_id, checked = workflow.id, workflow.check_input(input)
        initial_state = workflow.check_state(initial_state)
    else:
        workflow_id, checked = workflow, input
        if not isinstance(workflow_id, str) or not workflow_id:
            raise ConfigurationError(f"expected a workflow or a workflow's id, not {workflow!r}")
    packed = codec.encode(checked, limit=connection.max_value_bytes)
    store = await connection.store()
    definition = await definition_of(store, workflow)
    chosen = queue_of(definition, workflow_id, queue)
    if options.get("concurrency_key") is not None and chosen.concurrency_limit is None:
        chosen = Queue(chosen.name, await store.definitions.limit(chosen.name))
    state = None if initial_state is None else codec.encode(initial_state, limit=connection.max_value_bytes)
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


def queue_of(
    definition: PublishedDefinition, workflow_id: str, wanted: Queue | str | dict[str, Any] | None
) -> Queue:
    """The queue an execution is begun in: its workflow's, unless the caller wants another one."""
    own = Queue(definition.queue or keys.DEFAULT_QUEUE, definition.limit)
    if wanted is None:
        return own
    chosen = as_queue(wanted, workflow_id)
    return own if chosen == Queue(own.name) else chosen


def start_options(
    definition: PublishedDefinition,
    workflow_id: str,
    origin: Origin | None,
    *,
    queue: Queue,
    concurrency_key: str | None = None,
    run_timeout_seconds: float | timedelta | None = None,
    start_delay: float | timedelta | None = None,
    start_at: datetime | None = None,
    digest: bytes | None = None,
) -> Start:
    """How an execution is begun, from its workflow's definition and what the caller wants otherwise."""
    what = f"workflow {workflow_id!r}"
    semaphore = None if queue.name == keys.DEFAULT_QUEUE else queue.name
    if concurrency_key is not None:
        if not isinstance(concurrency_key, str):
            raise InvalidInputError(f"{what}: concurrency_key is a text, not {concurrency_key!r}")
        if queue.concurrency_limit is None:
            raise ConfigurationError(
                f"{what}: concurrency_key needs a queue with a concurrency_limit, and {queue.name!r} has "
                "none that is known: give the limit with queue(), here or to a workflow of a worker"
            )
        semaphore = f"{queue.name}\0{concurrency_key}"
    if start_delay is not None and start_at is not None:
        raise InvalidInputError(f"{what}: give start_delay or start_at, not both")
    timeout = run_timeout_seconds if run_timeout_seconds is not None else definition.run_timeout
    return Start(
        queue=queue.name,
        semaphore=semaphore,
        limit=queue.concurrency_limit,
        timeout=milliseconds(what, timeout, "run_timeout_seconds"),
        delay=milliseconds(what, start_delay, "start_delay", zero=True),
        at=None if start_at is None else checked_ms(what, start_at),
        origin=None if origin is None else origin.pack(),
        digest=digest,
    )
