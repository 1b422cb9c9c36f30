"""Queues: where executions wait for a worker, and how many of them may be at work at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polos_redis.errors import ConfigurationError
from polos_redis.state import keys


@dataclass(frozen=True, slots=True)
class Queue:
    """A named queue. With a `concurrency_limit` no more than so many of its executions are at work at a time,
    across all workers; one that is parked (for a person, a child, a time) holds no place. Waiters are served
    in order.
    """

    name: str
    concurrency_limit: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= 200 or "\0" in self.name:
            raise ConfigurationError(f"a queue's name is a text of 1 to 200 characters, not {self.name!r}")
        limit = self.concurrency_limit
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ConfigurationError(
                f"queue {self.name!r}: concurrency_limit is a whole number from 1, or None for no limit, "
                f"not {limit!r}"
            )
        if limit is not None and self.name == keys.DEFAULT_QUEUE:
            raise ConfigurationError(
                f"the queue {self.name!r} is that of every workflow without one and has no "
                "concurrency_limit: give the queue another name"
            )


def queue(name: str, concurrency_limit: int | None = None) -> Queue:
    """A queue for `@workflow(queue=...)`. Its name alone, given elsewhere, means this very queue."""
    return Queue(name, concurrency_limit)


DEFAULT = Queue(keys.DEFAULT_QUEUE)


def as_queue(given: Queue | str | dict[str, Any] | None, workflow_id: str) -> Queue:
    """A queue as users may write it: an object, a name, or {"concurrency_limit": n} for one of the
    workflow's own."""
    if given is None:
        return DEFAULT
    if isinstance(given, Queue):
        return given
    if isinstance(given, str):
        return Queue(given)
    if isinstance(given, dict) and given.keys() <= {"name", "concurrency_limit"}:
        return Queue(given.get("name", workflow_id), given.get("concurrency_limit"))
    raise ConfigurationError(
        f'workflow {workflow_id!r}: queue is a queue, a name or {{"concurrency_limit": n}}, not {given!r}'
    )
