"""How an execution is begun: its workflow, its input, and where and when it runs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from polos_redis.definitions.definition import Definition
from polos_redis.definitions.queue import Queue, as_queue
from polos_redis.errors import ConfigurationError, InvalidInputError
from polos_redis.state import keys
from polos_redis.state.origin import Origin
from polos_redis.state.start import Start
from polos_redis.values.times import checked_ms, milliseconds


def queue_of(definition: Definition, workflow_id: str, wanted: Queue | str | dict[str, Any] | None) -> Queue:
    """The queue an execution is begun in: its workflow's, unless the caller wants another one."""
    own = Queue(definition.queue or keys.DEFAULT_QUEUE, definition.limit)
    if wanted is None:
        return own
    chosen = as_queue(wanted, workflow_id)
    return own if chosen == Queue(own.name) else chosen


def start_options(
    definition: Definition,
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
