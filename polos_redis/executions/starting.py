"""Starting executions: validate the input, encode it, and resolve the start options.

`invoke` starts a root execution. `prepare` does the same work without writing, for children that their
parent's script starts. `start_options` turns a workflow's published definition and a caller's options into
the `Start` that the scripts read.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, TypedDict

from polos_redis import tracing
from polos_redis.connection.connection import Connection
from polos_redis.decisions.people import check_name
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.definitions.published import PublishedDefinition, definition_of
from polos_redis.definitions.queue import Queue, as_queue
from polos_redis.errors import (
    ConfigurationError,
    IdempotencyConflictError,
    InternalWorkflowError,
    InvalidInputError,
    NotConfirmedError,
)
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.state import keys
from polos_redis.state.origin import Origin
from polos_redis.state.start import Start
from polos_redis.state.store import Store
from polos_redis.values import codec, digests
from polos_redis.values.bounded_type import UNCHECKED
from polos_redis.values.bounds import SMALL_BYTES, parts_of
from polos_redis.values.times import checked_ms, milliseconds
from polos_redis.wire.durable import Durability


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
    durability: Durability | None


async def invoke(
    connection: Connection, workflow: WorkflowDefinition[Any, Any] | str, input: Any, options: InvokeOptions
) -> ExecutionHandle[Any]:
    """Start an execution; see `PolosClient.invoke`."""
    if (
        not options
        and isinstance(workflow, WorkflowDefinition)
        and workflow.plain
        and not tracing.is_traced()
    ):
        # There are no start options to resolve.
        checked = workflow.check_quickly(input)
        if checked is UNCHECKED:
            checked = await workflow.check_input_in_turns(input)
        packed = _encode(checked, connection.max_value_bytes)
        execution_id = os.urandom(16).hex()
        store = await connection.acknowledging_store()
        try:
            await store.executions.invoke(execution_id, workflow.id, packed, connection.retention_ms)
        except NotConfirmedError as error:
            error.execution_id = execution_id
            raise
        return ExecutionHandle(connection, execution_id, workflow.id)
    for name in options.keys() - InvokeOptions.__annotations__.keys():
        known = ", ".join(sorted(InvokeOptions.__annotations__))
        raise TypeError(f"unexpected option {name!r}; expected one of {known}")
    key = options.pop("idempotency_key", None)
    durability = options.pop("durability", None)
    workflow_id, packed, start = await prepare(connection, workflow, input, **options)
    if key is None:
        execution_id = os.urandom(16).hex()
    else:
        keys.check_text("idempotency_key", key)
        execution_id = keys.derived_id(workflow_id, key)
        start = replace(start, digest=_request_digest(workflow_id, packed, start, options))
    store = await connection.acknowledging_store(durability)
    try:
        created = await store.executions.invoke(
            execution_id, workflow_id, packed, connection.retention_ms, start
        )
    except NotConfirmedError as error:
        error.execution_id = execution_id
        raise
    if created < 0:
        differing = await _differing(store, execution_id, workflow_id, packed, start)
        raise IdempotencyConflictError(workflow_id, str(key), execution_id, differing)
    return ExecutionHandle(connection, execution_id, workflow_id)


def _request_digest(workflow_id: str, packed: bytes, start: Start, options: InvokeOptions) -> bytes:
    """Digest of a request with an idempotency key: of all that it determines but times.

    That are the input, the people, the session, the state, and the queue and concurrency key as the caller
    gives them: what the workflow's definition says may change between two calls.
    """
    origin = Origin.unpack(workflow_id, start.origin)
    queue = options.get("queue")
    digest = blake2b(digests.stored_digest(packed), digest_size=16)
    chosen = options.get("initial_state") is not None
    digest.update(_state_digest(origin) if chosen else _NO_STATE)
    names = (
        *(origin.user_id, origin.session_id, origin.started_by),
        None if queue is None else as_queue(queue, workflow_id).name,
        options.get("concurrency_key"),
    )
    digest.update(codec.encode(names, limit=codec.UNLIMITED))
    return digest.digest()


_NO_STATE = bytes(16)


def _state_digest(origin: Origin) -> bytes:
    return _NO_STATE if origin.initial_state is None else digests.stored_digest(origin.initial_state)


async def _differing(
    store: Store, execution_id: str, workflow_id: str, packed: bytes, start: Start
) -> list[str]:
    """What of a request differs from the one that started an execution; empty if that is gone, or has
    continued as new with another input."""
    fields = await store.executions.read_fields(execution_id, "input", "origin", "since")
    first, packed_origin, since = fields
    if first is None or since is not None:
        return []
    ours, theirs = (Origin.unpack(workflow_id, one) for one in (start.origin, packed_origin))
    differing = ["input"] if digests.stored_digest(first) != digests.stored_digest(packed) else []
    names = ("user_id", "session_id", "started_by")
    differing += [name for name in names if getattr(ours, name) != getattr(theirs, name)]
    differing += ["initial_state"] if _state_digest(ours) != _state_digest(theirs) else []
    return differing or ["queue or concurrency_key"]


async def prepare(
    connection: Connection,
    workflow: WorkflowDefinition[Any, Any] | str,
    input: Any,
    *,
    parent: tuple[Origin, str] | None = None,
    initial_state: Any = None,
    queue: Queue | str | None = None,
    session_id: str | None = None,
    user_id: str | None = None,
    started_by: str | None = None,
    **options: Any,
) -> tuple[str, bytes, Start]:
    """Validate and encode an execution to start; return its workflow's id, its input and its start options.

    `parent` is the parent's origin and id. Nothing is written.
    """
    if isinstance(workflow, WorkflowDefinition):
        workflow_id, checked = workflow.id, await workflow.check_input_in_turns(input)
        initial_state = await workflow.check_state_in_turns(initial_state)
    elif isinstance(workflow, str) and workflow:
        workflow_id, checked = keys.check_text("a workflow's id", workflow), input  # its worker validates it
    else:
        raise ConfigurationError(f"expected a workflow or a workflow's id, not {workflow!r}")
    limit = connection.max_value_bytes
    packed = _encode(checked, limit)
    state = None if initial_state is None else _encode(initial_state, limit)
    store = await connection.store()
    definition = await definition_of(store, workflow)
    if definition.internal and parent is None:
        raise InternalWorkflowError(workflow_id)
    chosen = _queue(definition, workflow_id, queue)
    if options.get("concurrency_key") is not None and chosen.concurrency_limit is None:
        chosen = Queue(chosen.name, await store.definitions.limit(chosen.name))
    people = {"session_id": session_id, "user_id": user_id, "started_by": started_by}
    origin = _origin(workflow_id, parent, state, people)
    return workflow_id, packed, start_options(definition, workflow_id, origin, queue=chosen, **options)


def _encode(value: Any, limit: int) -> bytes:
    """The encoded input or state. Raises `ValueTooLargeError` beyond the bounds of a value from outside."""
    packed = codec.encode(value, limit=limit)
    if len(packed) > SMALL_BYTES:
        parts_of(value)
    return packed


def _queue(
    definition: PublishedDefinition, workflow_id: str, override: Queue | str | dict[str, Any] | None = None
) -> Queue:
    """The queue to start in: the workflow's own, unless the caller overrides it."""
    own = Queue(definition.queue or keys.DEFAULT_QUEUE, definition.limit)
    if override is None:
        return own
    if isinstance(override, str):
        keys.check_text(f"workflow {workflow_id!r}: queue", override)
    chosen = as_queue(override, workflow_id)
    return own if chosen == Queue(own.name) else chosen  # a bare name keeps the limit that is defined


def _origin(
    workflow_id: str, parent: tuple[Origin, str] | None, state: bytes | None, people: dict[str, Any]
) -> Origin | None:
    """The origin to store; None for a root that needs none. A child inherits what it isn't given."""
    for name, value in people.items():
        if value is not None and name == "session_id":
            keys.check_text(f"workflow {workflow_id!r}: session_id", value, empty=True)
        elif value is not None:
            check_name(f"workflow {workflow_id!r}: {name}", value, InvalidInputError)
    traceparent, tracestate = tracing.current() or (None, None)
    if parent is not None:
        inherited, parent_id = parent
        return Origin(
            inherited.root_workflow_id,
            parent_id,
            session_id=people["session_id"] or inherited.session_id,
            user_id=people["user_id"] or inherited.user_id,
            started_by=inherited.started_by,
            forked_by=inherited.forked_by,
            initial_state=state,
            traceparent=traceparent,
            tracestate=tracestate or None,
        )
    if state is None and traceparent is None and not any(value is not None for value in people.values()):
        return None
    return Origin(
        workflow_id,
        None,
        **people,
        initial_state=state,
        traceparent=traceparent,
        tracestate=tracestate or None,
    )


def start_options(
    definition: PublishedDefinition,
    workflow_id: str,
    origin: Origin | None = None,
    *,
    queue: Queue | None = None,
    concurrency_key: str | None = None,
    run_timeout_seconds: float | timedelta | None = None,
    start_delay: float | timedelta | None = None,
    start_at: datetime | None = None,
) -> Start:
    """The start options of an execution: its workflow's definition, overridden by the caller's options."""
    what = f"workflow {workflow_id!r}"
    queue = _queue(definition, workflow_id) if queue is None else queue
    if start_delay is not None and start_at is not None:
        raise InvalidInputError(f"{what}: give start_delay or start_at, not both")
    timeout = run_timeout_seconds if run_timeout_seconds is not None else definition.run_timeout
    return Start(
        queue=queue.name,
        semaphore=_semaphore(what, queue, concurrency_key),
        limit=queue.concurrency_limit,
        timeout=milliseconds(what, timeout, "run_timeout_seconds"),
        delay=milliseconds(what, start_delay, "start_delay", zero=True),
        at=None if start_at is None else checked_ms(what, start_at),
        origin=None if origin is None else origin.pack(),
    )


def _semaphore(what: str, queue: Queue, concurrency_key: str | None) -> str | None:
    """The semaphore to acquire a slot from: the queue's, or that of a concurrency key in it."""
    if concurrency_key is None:
        return None if queue.name == keys.DEFAULT_QUEUE else queue.name
    keys.check_text(f"{what}: concurrency_key", concurrency_key, empty=True)
    if queue.concurrency_limit is None:
        raise ConfigurationError(
            f"{what}: concurrency_key needs a queue with a concurrency_limit, and {queue.name!r} has no "
            "known limit: define it with queue(), here or on a workflow that a worker serves"
        )
    return f"{queue.name}\0{concurrency_key}"
