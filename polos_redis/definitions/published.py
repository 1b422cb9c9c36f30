"""What workers make known of their workflows: what executions of them are begun with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from polos_redis.errors import ConfigurationError
from polos_redis.executions.starting import PLAIN, Definition
from polos_redis.state import keys
from polos_redis.state.store import Store, raw
from polos_redis.workflow import Workflow


async def define(store: Store, workflows: Iterable[Workflow[Any, Any]]) -> None:
    """Make definitions known, so that an invoke by id alone has the workflow's queue, limit and timeout; and
    the limits of their queues, which count for what has been begun before, too. Raises `ConfigurationError`
    when they contradict each other."""
    limits = _limits(workflows)
    for workflow in workflows:
        definition = Definition.of(workflow)
        packed = b"" if definition == PLAIN else definition.pack()
        await store.define(store.prefixes[0], "workflow", workflow.id, packed)
    for name, limit in limits.items():
        for prefix in store.prefixes:
            await store.define(prefix, "limit", name, b"" if limit is None else str(limit).encode())
        if limit is not None:
            await store.release_slot(name, limit, "", 0)  # nobody's: a line moves up when there is room now


def _limits(workflows: Iterable[Workflow[Any, Any]]) -> dict[str, int | None]:
    """The limit of each queue that these workflows define; None for one without."""
    by: dict[str, Workflow[Any, Any]] = {}
    for workflow in workflows:
        if workflow.defines_queue:
            queue, other = workflow.queue, by.setdefault(workflow.queue.name, workflow)
            if queue != other.queue:
                raise ConfigurationError(
                    f"queue {queue.name!r} has concurrency_limit={queue.concurrency_limit} for workflow "
                    f"{workflow.id!r}, but {other.queue.concurrency_limit} for {other.id!r}: define it once"
                )
    return {name: workflow.queue.concurrency_limit for name, workflow in by.items()}


async def limit_of(store: Store, queue: str) -> int | None:
    """The limit of a queue as workers have made it known, None for none."""
    found = await store.wire.call(
        "HGET", store.prefixes[0] + keys.LIMITS.encode(), raw(queue), patience=store.patience
    )
    return None if found is None else int(found)


async def definition_of(store: Store, workflow: Workflow[Any, Any] | str) -> Definition:
    """The definition of a workflow, or of a workflow id as workers have made it known."""
    if isinstance(workflow, Workflow):
        return Definition.of(workflow)
    key = store.prefixes[0] + keys.DEFINITIONS.encode()
    packed = await store.wire.call("HGET", key, raw(workflow), patience=store.patience)
    return PLAIN if packed is None else Definition.unpack(packed)
