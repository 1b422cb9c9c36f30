"""Queues: where executions wait for a worker, and how many of them may run at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polos_redis.errors import ConfigurationError
from polos_redis.state import keys


@dataclass(frozen=True, slots=True)
class Queue:
    """A named queue. `concurrency_limit` is the most executions of it that run at once, across all workers.

    An execution that is parked (for a person, a child or a time) holds no slot. Waiters get slots in order.
    """

    name: str
    concurrency_limit: int | None = None

    def __post_init__(self) -> None:
        keys.check_text("a queue's name", self.name, error=ConfigurationError)
        if "\0" in self.name:
            raise ConfigurationError(f"a queue's name must not contain NUL, as {self.name!r} does")
        limit = self.concurrency_limit
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ConfigurationError(
                f"queue {self.name!r}: concurrency_limit must be a whole number of at least 1, or None for "
                f"no limit, not {limit!r}"
            )
        if limit is not None and self.name == keys.DEFAULT_QUEUE:
            raise ConfigurationError(
                f"the queue {self.name!r} serves every workflow without a queue and takes no "
                "concurrency_limit: give the queue another name"
            )


def queue(name: str, concurrency_limit: int | None = None) -> Queue:
    """Returns a queue for `@workflow(queue=...)`. Elsewhere its name alone refers to the same queue."""
    return Queue(name, concurrency_limit)


DEFAULT = Queue(keys.DEFAULT_QUEUE)


def as_queue(option: Queue | str | dict[str, Any] | None, workflow_id: str) -> Queue:
    """Returns the queue of a `queue=` option: a queue, its name, or {"concurrency_limit": n} for a queue that
    is named after the workflow."""
    if option is None:
        return DEFAULT
    if isinstance(option, Queue):
        return option
    if isinstance(option, str):
        return Queue(option)
    if isinstance(option, dict) and option.keys() <= {"name", "concurrency_limit"}:
        return Queue(option.get("name", workflow_id), option.get("concurrency_limit"))
    raise ConfigurationError(
        f"workflow {workflow_id!r}: queue must be a queue, a name or "
        f'{{"concurrency_limit": n}}, not {option!r}'
    )
