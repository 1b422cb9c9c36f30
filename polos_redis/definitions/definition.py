"""The definition of a workflow: what every process needs to know to start its executions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from polos_redis.state import keys

if TYPE_CHECKING:
    from polos_redis.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Definition:
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

    @classmethod
    def of(cls, workflow: Workflow[Any, Any]) -> Definition:
        """The definition of a workflow this process knows."""
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
        )

    def pack(self) -> bytes:
        """The stored form."""
        packed: bytes = msgpack.packb(asdict(self))
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Definition:
        """Read the stored form; fields of newer releases are left out."""
        found = msgpack.unpackb(packed)
        return cls(**{name: found[name] for name in cls.__slots__ if name in found})


PLAIN = Definition()
