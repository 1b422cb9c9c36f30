"""What workers make known of their workflows: what executions of them are begun with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from polos_redis import keys
from polos_redis.starting import PLAIN, Definition
from polos_redis.store import Store, raw
from polos_redis.workflow import Workflow


async def define(store: Store, workflows: Iterable[Workflow[Any, Any]]) -> None:
    """Make definitions known, so that an invoke by id alone has the workflow's queue, limit and timeout."""
    key = store.prefixes[0] + keys.DEFINITIONS.encode()
    for workflow in workflows:
        definition = Definition.of(workflow)
        if definition == PLAIN:
            await store.wire.call("HDEL", key, raw(workflow.id), patience=None)
        else:
            await store.wire.call("HSET", key, raw(workflow.id), definition.pack(), patience=None)


async def definition_of(store: Store, workflow: Workflow[Any, Any] | str) -> Definition:
    """The definition of a workflow, or of a workflow id as workers have made it known."""
    if isinstance(workflow, Workflow):
        return Definition.of(workflow)
    key = store.prefixes[0] + keys.DEFINITIONS.encode()
    packed = await store.wire.call("HGET", key, raw(workflow), patience=store.patience)
    return PLAIN if packed is None else Definition.unpack(packed)
