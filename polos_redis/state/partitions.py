"""The partitions of a namespace: which one holds what, and the wire that reaches them.

A partition is one hash slot's worth of state. An execution lives in the partition of its root's id, with all
its descendants; a suspension's or a workflow's topic lives with its execution, a free topic in the partition
of its name. A schedule lives in the partition of its id, the concurrency limit of a queue or a key in the
partition of its name.
"""

from __future__ import annotations

from polos_redis.errors import ConfigurationError
from polos_redis.state import keys
from polos_redis.wire.routing import AnyWire


class Partitions:
    """The partitions of one namespace. `patience` is how long a call is repeated while Redis is away, in
    seconds; None: for ever."""

    def __init__(self, wire: AnyWire, namespace: str, number: int, patience: float | None = 30.0) -> None:
        self.wire = wire
        self.namespace = namespace
        self.number = number
        self.patience = patience
        self.prefixes = [keys.prefix(namespace, p).encode() for p in range(number)]

    def prefix(self, execution_id: str) -> bytes:
        """The prefix of the partition an execution lives in."""
        if self.number == 1 and isinstance(execution_id, str):
            return self.prefixes[0]
        return self.prefixes[keys.partition_of(keys.root_of(execution_id), self.number)]

    def topic_prefix(self, topic: str) -> bytes:
        """The prefix of the partition a topic lives in."""
        execution_id = keys.parse_topic(topic)[1]
        if execution_id is not None:
            return self.prefix(execution_id)
        return self.prefixes[keys.partition_of(topic, self.number)]

    def semaphore_prefix(self, semaphore: str) -> bytes:
        """The prefix of the partition a limited queue, or a concurrency key of one, lives in."""
        return self.prefixes[keys.partition_of(semaphore, self.number)]

    async def check(self) -> None:
        """Fix the namespace's number of partitions on first use. Raises `ConfigurationError` if another
        number is already fixed."""
        key = self.prefixes[0] + keys.META.encode()
        fixed = await self.wire.call("HGET", key, "partitions", patience=self.patience)
        if fixed is None:
            await self.wire.call("HSETNX", key, "partitions", self.number, patience=self.patience)
            fixed = await self.wire.call("HGET", key, "partitions", patience=self.patience)
        if int(fixed) != self.number:
            raise ConfigurationError(
                f"namespace {self.namespace!r} has {int(fixed)} partitions, not {self.number}: "
                "set POLOS_PARTITIONS to that (it can't be changed later)"
            )
