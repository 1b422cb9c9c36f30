"""How an execution is begun: its workflow, its input, and where and when it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import msgpack

from polos_redis.definitions.queue import Queue, as_queue
from polos_redis.errors import ConfigurationError, InvalidInputError, UnreadableValueError
from polos_redis.runtime.steps.times import milliseconds, moment
from polos_redis.state.store import DEFAULTS, Start
from polos_redis.values import codec
from polos_redis.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an execution comes from, as its code sees it."""

    root_workflow_id: str
    parent_execution_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    initial_state: bytes | None = None  # codec: whoever only looks at an execution need not know its type
    started_by: str | None = None

    @property
    def starters(self) -> set[str]:
        """Who has started it: whom it is for, and who that was left to."""
        return {one for one in (self.user_id, self.started_by) if one}

    def pack(self) -> bytes:
        """As the store keeps it."""
        known = {name: value for name, value in self._fields().items() if value is not None}
        return codec.encode(known, limit=1 << 40)  # what can be large in it has been checked

    @classmethod
    def unpack(cls, workflow_id: str, packed: bytes | None) -> Origin:
        """As the store has it; nothing means a root execution that knows of nothing."""
        if packed is None:
            return cls(workflow_id)
        found = codec.decode(packed)
        if not isinstance(found, dict):
            raise UnreadableValueError("damaged: where the execution comes from can't be read")
        return cls(**{"root_workflow_id": workflow_id, **found})

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Definition:
    """What executions of a workflow are begun with, for processes that have not imported it; and by what:
    `schedule` is the key of the schedule it declares, `topic` that of its events."""

    queue: str | None = None
    limit: int | None = None
    run_timeout: float | None = None
    schedule: str | None = None
    schedulable: bool = True
    topic: str | None = None
    batch_size: int = 1
    batch_timeout: float | None = None

    @classmethod
    def of(cls, workflow: Workflow[Any, Any]) -> Definition:
        """The definition of a workflow this process knows."""
        queue = workflow.queue
        name = None if queue.name == DEFAULTS.queue and queue.concurrency_limit is None else queue.name
        schedule, trigger = workflow.schedule, workflow.trigger
        return cls(
            name,
            queue.concurrency_limit,
            workflow.run_timeout_seconds,
            schedule=schedule.key if schedule else None,
            schedulable=workflow.schedulable,
            topic=trigger.topic if trigger else None,
            batch_size=trigger.batch_size if trigger else 1,
            batch_timeout=trigger.batch_timeout_seconds if trigger else None,
        )

    def pack(self) -> bytes:
        """As the store keeps it."""
        packed: bytes = msgpack.packb(asdict(self))
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Definition:
        """As the store has it; fields of newer releases are left out."""
        found = msgpack.unpackb(packed)
        return cls(**{name: found[name] for name in cls.__slots__ if name in found})


PLAIN = Definition()


def queue_of(definition: Definition, workflow_id: str, wanted: Queue | str | dict[str, Any] | None) -> Queue:
    """The queue an execution is begun in: its workflow's, unless the caller wants another one."""
    own = Queue(definition.queue or DEFAULTS.queue, definition.limit)
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
    semaphore = None if queue.name == DEFAULTS.queue else queue.name
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
        at=None if start_at is None else moment(what, start_at),
        origin=None if origin is None else origin.pack(),
        digest=digest,
    )
