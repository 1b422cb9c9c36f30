"""Published definitions: the start options of workflows, for processes that have not imported them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import msgpack

from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.definitions.exhausted import PAUSE
from polos_redis.errors import ConfigurationError
from polos_redis.state import keys
from polos_redis.state.store import Store


@dataclass(frozen=True, slots=True)
class PublishedDefinition:
    """The options that executions of a workflow start with. `schedule` is the key of the schedule it
    declares, `topic` the topic that triggers it."""

    queue: str | None = None
    limit: int | None = None
    run_timeout: float | None = None
    schedule: str | None = None
    schedulable: bool = True
    topic: str | None = None
    batch_size: int = 1
    batch_timeout: float | None = None
    internal: bool = False
    pauses: bool = False  # instead of failing

    @classmethod
    def of(cls, workflow: WorkflowDefinition[Any, Any]) -> PublishedDefinition:
        """Returns the definition of a workflow that this process has imported."""
        queue = workflow.queue
        name = None if queue.name == keys.DEFAULT_QUEUE and queue.concurrency_limit is None else queue.name
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
            internal=workflow.internal,
            pauses=workflow.on_exhausted == PAUSE,
        )

    def pack(self) -> bytes:
        """Returns the stored form."""
        packed: bytes = msgpack.packb(asdict(self))
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> PublishedDefinition:
        """Read the stored form, without the fields of newer releases."""
        found = msgpack.unpackb(packed)
        return cls(**{name: found[name] for name in cls.__slots__ if name in found})


PLAIN = PublishedDefinition()


async def define(store: Store, workflows: Iterable[WorkflowDefinition[Any, Any]]) -> None:
    """Publish definitions, so that an invoke by id alone uses the workflow's queue, limit and timeout, and
    the limits of queues, which also apply to executions started earlier.

    Raises `ConfigurationError` if two workflows give one queue different limits.
    """
    limits = limits_of(workflows)
    for workflow in workflows:
        definition = PublishedDefinition.of(workflow)
        packed = b"" if definition == PLAIN else definition.pack()
        await store.definitions.put_workflow(workflow.id, packed)
    for name, limit in limits.items():
        await store.definitions.put_limit(name, limit)
        if limit is not None:
            # no execution's slot: it grants slots to waiters if the limit was raised
            await store.semaphores.release_slot(name, limit, "", 0)


def limits_of(workflows: Iterable[WorkflowDefinition[Any, Any]]) -> dict[str, int | None]:
    """Returns the limit of each queue that these workflows define; None for no limit."""
    by: dict[str, WorkflowDefinition[Any, Any]] = {}
    for workflow in workflows:
        if workflow.defines_queue:
            queue, other = workflow.queue, by.setdefault(workflow.queue.name, workflow)
            if queue != other.queue:
                raise ConfigurationError(
                    f"queue {queue.name!r} has concurrency_limit={queue.concurrency_limit} for workflow "
                    f"{workflow.id!r}, but {other.queue.concurrency_limit} for {other.id!r}: define it once"
                )
    return {name: workflow.queue.concurrency_limit for name, workflow in by.items()}


async def definition_of(store: Store, workflow: WorkflowDefinition[Any, Any] | str) -> PublishedDefinition:
    """Returns the definition of a workflow, or the one that workers have published for a workflow id."""
    if isinstance(workflow, WorkflowDefinition):
        return PublishedDefinition.of(workflow)
    packed = await store.definitions.workflow(workflow)
    return PLAIN if packed is None else PublishedDefinition.unpack(packed)
